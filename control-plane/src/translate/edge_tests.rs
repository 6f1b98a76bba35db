//! What Ingresses and TLS of processes become, and what their objects are told.

use std::sync::Arc;

use super::tests::{NoSecrets, json, role};
use super::*;
use crate::dns::{Lookup, Names};
use crate::model::load_texts;
use crate::world::Found;

const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: outrigger}
spec: {controllerName: outrigger.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: outrigger
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
  - {name: https, port: 8443, protocol: HTTPS, tls: {}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
spec:
  controller: outrigger.dev/ingress-controller
  parameters: {apiGroup: gateway.networking.k8s.io, kind: Gateway, scope: Namespace, namespace: default, name: edge}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: foreign}
spec: {controller: example.com/other}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ports: [{name: http, port: 80}, {name: grpc-api, port: 81}, {name: tcp-raw, port: 82}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b, labels: {kubernetes.io/service-name: b}}
addressType: IPv4
ports: [{name: http, port: 9000}, {name: grpc-api, port: 9001}, {name: tcp-raw, port: 9002}]
endpoints: [{addresses: [127.0.0.1]}]
";

fn with(text: &str) -> (Translator, Vec<String>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let indent = |pem: String| pem.replace('\n', "\n    ");
    let secret = format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: shop}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: roots}}
data:
  ca.crt: |
    {}
",
        indent(cert.pem()),
        indent(signing_key.serialize_pem()),
        indent(cert.pem()),
    );
    let model = load_texts([("edge.yaml", format!("{EDGE}{secret}{text}").as_str())]).unwrap();
    let names = Names::new([
        (
            "db.example".to_owned(),
            Lookup {
                addresses: vec![[10, 0, 0, 2].into(), [10, 0, 0, 3].into()],
                error: None,
            },
        ),
        (
            "gone.example".to_owned(),
            Lookup {
                addresses: Vec::new(),
                error: Some("no server".to_owned()),
            },
        ),
    ]);
    let found = Found {
        registered: &[],
        names: &names,
    };
    let world = World::build_with(&model, "mesh.test", found, None);
    let mut told = Vec::new();
    for status in &world.statuses {
        for condition in &status.conditions {
            let (about, name) = (&condition.about, condition.name);
            let key = format!("{} {}", status.kind.name(), status.key.name);
            told.push(match condition.status {
                true => format!("{key}: {about}: {name}"),
                false => format!(
                    "{key}: {about}: {}: {}",
                    condition.reason, condition.message
                ),
            });
        }
    }
    (Translator::new(Arc::new(world), None), told)
}

fn about<'a>(told: &'a [String], start: &str) -> Vec<&'a str> {
    told.iter()
        .filter_map(|line| line.strip_prefix(start))
        .collect()
}

fn snapshot(translator: &Translator) -> Snapshot {
    let snapshot = translator.snapshot(&role("gateway/default/edge"), &NoSecrets);
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            let bytes = &resource.body.value;
            assert!(!bytes.is_empty(), "{name} cannot be encoded");
            let violations = outrigger_proto::validate::check(kind.message(), bytes);
            assert!(violations.is_empty(), "{name}: {violations:?}");
        }
    }
    snapshot
}

/// Host, match, constraint of the host name and cluster of each route.
fn table(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let table = json(&snapshot.of(ResourceType::Route)[name], ResourceType::Route);
    let mut seen = Vec::new();
    for host in table["virtual_hosts"].as_array().unwrap() {
        let routes = host["routes"].as_array().cloned().unwrap_or_default();
        for route in routes {
            let matcher = &route["match"];
            let (kind, path) = ["path", "path_separated_prefix", "prefix"]
                .iter()
                .find_map(|kind| Some((kind, matcher[kind].as_str()?)))
                .unwrap();
            let authority = matcher["headers"][0]["string_match"]["safe_regex"]["regex"].as_str();
            let cluster = route["route"]["weighted_clusters"]["clusters"][0]["name"].as_str();
            seen.push(format!(
                "{} {kind} {path} {}{}",
                host["name"].as_str().unwrap(),
                authority.map(|it| format!("{it} ")).unwrap_or_default(),
                cluster.unwrap_or_default(),
            ));
        }
    }
    seen
}

const SHOP: &str = "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, creationTimestamp: '2024-01-01T00:00:00Z'}
spec:
  tls: [{hosts: [shop.example], secretName: shop}]
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /a, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}
      - {path: /a, pathType: Exact, backend: {service: {name: b, port: {name: grpc-api}}}}
      - {pathType: ImplementationSpecific, backend: {service: {name: b, port: {number: 80}}}}
  - host: '*.example'
    http: {paths: [{path: /w, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: rest}
spec:
  ingressClassName: edge
  defaultBackend: {service: {name: b, port: {number: 80}}}
";

#[test]
fn an_ingress_has_hosts_then_paths_then_the_default() {
    let (translator, told) = with(SHOP);
    let snapshot = snapshot(&translator);
    let expected = [
        "* prefix / default/b/80",
        "*.example path_separated_prefix /w (?i)[^.:]+[.]example(:[0-9]+)? default/a/80",
        "*.example prefix / (?i)[^.:]+([.][^.:]+)+[.]example(:[0-9]+)? default/b/80",
        "*.example prefix / (?i)[^.:]+[.]example(:[0-9]+)? default/b/80",
        "shop.example path /a default/b/81",
        "shop.example path_separated_prefix /a default/a/80",
        "shop.example prefix / default/b/80",
        "shop.example prefix / default/b/80",
    ];
    assert_eq!(table(&snapshot, "gateway/default/edge/8080"), expected);
    let tls = table(&snapshot, "gateway/default/edge/8443/ingress/shop.example");
    assert_eq!(tls, expected[4..], "and over TLS");
    let listener = json(
        &snapshot.of(ResourceType::Listener)["gateway/default/edge/8443"],
        ResourceType::Listener,
    );
    let chains = listener["filter_chains"].as_array().unwrap();
    assert_eq!(chains.len(), 1);
    assert_eq!(
        chains[0]["filter_chain_match"]["server_names"],
        json!(["shop.example"])
    );
    assert!(
        snapshot
            .of(ResourceType::Secret)
            .contains_key("kubernetes://default/shop")
    );
    let lines = about(&told, "Ingress shop: ");
    let accepted = ["spec.tls[0]: Accepted", "Gateway default/edge: Accepted"];
    assert_eq!(lines, [&[": ResolvedRefs"], &accepted[..]].concat());
    assert_eq!(about(&told, "IngressClass edge: "), [": Accepted"]);
    assert_eq!(about(&told, "Gateway edge: : Programmed").len(), 1);
}

#[test]
fn an_ingress_says_what_it_lacks() {
    let (translator, told) = with(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bad}
spec:
  tls: [{hosts: [x.example], secretName: none}]
  rules:
  - http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}
      - {path: /p, pathType: Prefix, backend: {service: {name: a, port: {name: admin}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: lost}
spec: {ingressClassName: none, defaultBackend: {service: {name: a, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: theirs}
spec: {ingressClassName: foreign, defaultBackend: {service: {name: a, port: {number: 80}}}}
",
    );
    let expected = [
        ": BackendNotFound: there is no Service default/none; Service default/a has no port admin",
        "spec.tls[0]: InvalidCertificateRef: there is no usable TLS Secret default/none",
        "Gateway default/edge: Accepted",
    ];
    assert_eq!(about(&told, "Ingress bad: "), expected);
    let lost = [": InvalidParameters: there is no IngressClass none"];
    assert_eq!(about(&told, "Ingress lost: "), lost);
    assert!(
        about(&told, "Ingress theirs").is_empty(),
        "it is another controller's"
    );
    let routes = table(&snapshot(&translator), "gateway/default/edge/8080");
    assert_eq!(
        routes,
        [
            "* path_separated_prefix /p unresolved",
            "* prefix / unresolved"
        ]
    );
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{backendRefs: [{name: b, port: 80}, {name: b, port: 81}]}]
";

fn policy(name: &str, created: &str, section: &str, validation: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, creationTimestamp: '{created}'}}
spec:
  targetRefs: [{{group: '', kind: Service, name: b{section}}}]
  validation: {{{validation}}}
"
    )
}

const ROOTS: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]";

#[test]
fn a_policy_of_tls_is_followed_and_the_older_and_narrower_one_goes_first() {
    let (old, new) = ("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    let (translator, told) = with(&[
        ROUTE,
        &policy("a-new", new, "", &format!("hostname: new.example, {ROOTS}")),
        &policy("z-old", old, "", &format!("hostname: old.example, {ROOTS}")),
        &policy("port", new, ", sectionName: grpc-api", &format!(
            "hostname: api.example, {ROOTS}, subjectAltNames: [{{type: URI, uri: 'spiffe://x/y'}}]"
        )),
    ].concat());
    let snapshot = snapshot(&translator);
    let tls = |name: &str| {
        let cluster = json(
            &snapshot.of(ResourceType::Cluster)[name],
            ResourceType::Cluster,
        );
        let config = cluster["transport_socket"]["typed_config"].clone();
        let common = &config["common_tls_context"];
        let context = &common["combined_validation_context"];
        let name = &context["default_validation_context"]["match_typed_subject_alt_names"][0];
        let roots = &context["validation_context_sds_secret_config"]["name"];
        [
            config["sni"].as_str(),
            name["matcher"]["exact"].as_str(),
            common["alpn_protocols"][0].as_str(),
            roots.as_str(),
        ]
        .map(|text| text.unwrap_or_default().to_owned())
    };
    let roots = "backend-tls://default/z-old";
    assert_eq!(
        tls("default/b/80"),
        ["old.example", "old.example", "http/1.1", roots]
    );
    let roots = "backend-tls://default/port";
    assert_eq!(
        tls("default/b/81"),
        ["api.example", "spiffe://x/y", "h2", roots]
    );
    assert!(snapshot.of(ResourceType::Secret).contains_key(roots));
    let good = [
        "Gateway default/edge: Accepted",
        "Gateway default/edge: ResolvedRefs",
    ];
    assert_eq!(about(&told, "BackendTLSPolicy z-old: "), good);
    assert_eq!(about(&told, "BackendTLSPolicy port: "), good);
    assert_eq!(
        about(&told, "BackendTLSPolicy a-new: ")[0],
        "Gateway default/edge: Conflicted: BackendTLSPolicy default/z-old is for the same target and goes before"
    );
}

#[test]
fn a_policy_that_cannot_be_followed_lets_nothing_through() {
    let none = "caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]";
    let (translator, told) = with(
        &[
            ROUTE,
            &policy(
                "p",
                "2024-01-01T00:00:00Z",
                "",
                &format!("hostname: b.example, {none}"),
            ),
        ]
        .concat(),
    );
    let snapshot = snapshot(&translator);
    let endpoints = &snapshot.of(ResourceType::Endpoints)["default/b/80"];
    let endpoints = json(endpoints, ResourceType::Endpoints);
    assert_eq!(endpoints["endpoints"], Json::Null);
    let expected = [
        "Gateway default/edge: NoValidCACertificate: no reference leads to a CA certificate",
        "Gateway default/edge: InvalidCACertificateRef: ConfigMap default/none is not there",
    ];
    assert_eq!(about(&told, "BackendTLSPolicy p: "), expected);
}

#[test]
fn a_policy_without_a_gateway_is_of_its_service_and_one_without_a_service_says_so() {
    let created = "2024-01-01T00:00:00Z";
    let roots = format!("hostname: b.example, {ROOTS}");
    let (_, told) = with(
        &[
            policy("idle", created, ", sectionName: tcp-raw", &roots),
            policy("nowhere", created, ", sectionName: none", &roots),
            policy(
                "strange",
                created,
                "",
                "hostname: b.example, wellKnownCACertificates: Mine",
            ),
        ]
        .concat(),
    );
    assert_eq!(
        about(&told, "BackendTLSPolicy idle: ")[0],
        "Service default/b: Accepted"
    );
    assert_eq!(
        about(&told, "BackendTLSPolicy nowhere: ")[0],
        "Service default/b: TargetNotFound: Service default/b has no port of the name none"
    );
    assert_eq!(
        about(&told, "BackendTLSPolicy strange: ")[0],
        "Service default/b: Invalid: wellKnownCACertificates: \"Mine\" is not System"
    );
}

#[test]
fn names_are_endpoints_by_their_addresses() {
    let (translator, told) = with(
        "---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: db}
spec: {address: db.example, sidecar: false, services: [a], weight: 3, ports: [{port: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: meshed}
spec: {address: db.example, services: [a], ports: [{port: 8080, appPort: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: gone}
spec: {address: gone.example, sidecar: false, services: [a], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ext}
spec: {type: ExternalName, externalName: db.example, ports: [{port: 443, targetPort: 8443}]}
",
    );
    let world = translator.world();
    let endpoints = |name: &str| {
        let service = &world.services[&Key::new("default", name)];
        let all = service.ports[0].endpoints.iter();
        all.map(|it| (it.address.to_string(), it.weight, it.identity.is_some()))
            .collect::<Vec<_>>()
    };
    let expected = [
        ("10.0.0.2:80", 3, false),
        ("10.0.0.2:8080", 1, true),
        ("10.0.0.3:80", 3, false),
        ("10.0.0.3:8080", 1, true),
    ];
    let expected = expected.map(|(at, weight, mtls)| (at.to_owned(), weight, mtls));
    assert_eq!(endpoints("a"), expected);
    let external: Vec<_> = endpoints("ext").into_iter().map(|(at, ..)| at).collect();
    assert_eq!(external, ["10.0.0.2:8443", "10.0.0.3:8443"]);
    let inbound = &world.workloads[&Key::new("default", "meshed")].inbound[0];
    assert!(
        inbound.listen.ip().is_unspecified(),
        "nobody says which address it is"
    );
    assert_eq!(
        about(&told, "Workload gone: addresses: "),
        ["NameNotResolved: gone.example: no server"]
    );
}
