//! Ingresses through a gateway, to processes with TLS of their own and without.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use outrigger_xds_tests::binaries;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::scene::{Scene, get_host, get_tls, process_at, tls_process};
use crate::world::{eventually, ports};

#[test]
fn an_ingress_leads_through_an_envoy() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_ingress_leads_through_an_outrigger() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

/// PEM of a root, and of a certificate and key under it for a name.
pub(crate) fn certificate(name: &str) -> (String, String, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Two certificates of one subject are one's own issuer.
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    (root_pem, leaf.pem(), key.serialize_pem())
}

fn indented(pem: &str) -> String {
    pem.replace('\n', "\n    ")
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec: {{address: 127.0.0.1, sidecar: false, services: [{name}], ports: [{{port: {port}}}]}}
"
    )
}

fn policy(hostname: &str, roots: &str, more: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: secure}}
spec:
  targetRefs: [{{group: '', kind: Service, name: secure}}]
  validation:
    hostname: {hostname}
    caCertificateRefs: [{{group: '', kind: ConfigMap, name: {roots}}}]
    {more}
"
    )
}

const GATEWAY: &str = "
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
  addresses: [{type: IPAddress, value: 127.0.0.1}]
  listeners:
  - {name: http, port: HTTP_PORT, protocol: HTTP}
  - {name: https, port: TLS_PORT, protocol: HTTPS, tls: {}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge}
spec:
  controller: outrigger.dev/ingress-controller
  parameters: {apiGroup: gateway.networking.k8s.io, kind: Gateway, scope: Namespace, namespace: default, name: edge}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: edge
  defaultBackend: {service: {name: rest, port: {name: http}}}
  tls: [{hosts: [shop.test], secretName: shop}]
  rules:
  - host: shop.test
    http:
      paths:
      - {path: /one, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}
      - {path: /one/two, pathType: Exact, backend: {service: {name: two, port: {number: 80}}}}
      - {path: /secure, pathType: ImplementationSpecific, backend: {service: {name: secure, port: {number: 80}}}}
  - host: '*.wild.test'
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: two, port: {number: 80}}}}]}
";

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-ingress-{name}")).unwrap();
    let [http, tls] = ports();
    let (shop_root, shop, shop_key) = certificate("shop.test");
    let (inside_root, inside, inside_key) = certificate("inside.test");
    let mut text = GATEWAY
        .replace("HTTP_PORT", &http.port().to_string())
        .replace("TLS_PORT", &tls.port().to_string());
    let loopback = ([127, 0, 0, 1], 0).into();
    for name in ["one", "two", "rest"] {
        text.push_str(&service(name, process_at(loopback, name).port()));
    }
    let secure = tls_process(&inside, &inside_key, "secure");
    text.push_str(&service("secure", secure.port()));
    write!(
        text,
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
        indented(&shop),
        indented(&shop_key),
        indented(&inside_root),
    )
    .unwrap();
    let mut scene = Scene::start(&folder, &text, &[]);
    scene.join(program, "gateway/default/edge", |_| {});
    hosts_and_paths(http);
    let over_tls = |path: &str| get_tls(tls, &shop_root, "shop.test", path);
    eventually(|| (over_tls("/one") == (200, "one".to_owned())).then_some(()));
    assert_eq!(over_tls("/elsewhere").1, "rest");
    processes_with_tls(&scene, http);
}

fn hosts_and_paths(http: SocketAddr) {
    let ask = |host: &str, path: &str| get_host(http, host, path).1;
    eventually(|| (ask("shop.test", "/one") == "one").then_some(()));
    for (host, path, expected) in [
        ("shop.test", "/one/more", "one"),
        ("shop.test", "/onemore", "rest"),
        ("shop.test", "/one/two", "two"),
        ("shop.test:8080", "/one/two", "two"),
        ("shop.test", "/one/two/three", "one"),
        ("a.wild.test", "/x", "two"),
        ("A.Wild.test:80", "/x", "two"),
        ("a.b.wild.test", "/x", "rest"),
        ("wild.test", "/x", "rest"),
        ("other.test", "/one", "rest"),
    ] {
        assert_eq!(ask(host, path), expected, "{host}{path}");
    }
}

/// A process with TLS gets requests only as its policy says.
fn processes_with_tls(scene: &Scene, http: SocketAddr) {
    let ask = || get_host(http, "shop.test", "/secure").0;
    let becomes = |status: u16| eventually(|| (ask() == status).then_some(()));
    assert_ne!(ask(), 200, "plain text is not what it takes");
    scene.write("tls.yaml", &policy("inside.test", "roots", ""));
    becomes(200);
    scene.write("tls.yaml", &policy("outside.test", "roots", ""));
    becomes(503);
    let names = "subjectAltNames: [{type: Hostname, hostname: inside.test}]";
    scene.write("tls.yaml", &policy("outside.test", "roots", names));
    becomes(200);
    scene.write("tls.yaml", &policy("inside.test", "none", ""));
    becomes(503);
    let status = scene.plane.command(&["status"]).1;
    let told = "Gateway default/edge: ResolvedRefs=false InvalidCACertificateRef ConfigMap default/none is not there";
    assert!(status.contains(told), "{status}");
}

/// What the machine of the control plane trusts is what its proxies trust: no other certificate is good.
fn by_the_roots_of_the_system(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-system-roots-{name}")).unwrap();
    let [http, tls] = ports();
    let (root, certificate_in, key_in) = certificate("in.test");
    let (other_root, certificate_out, key_out) = certificate("out.test");
    let known = tls_process(&certificate_in, &key_in, "known");
    let unknown = tls_process(&certificate_out, &key_out, "unknown");
    let mut text = GATEWAY
        .replace("HTTP_PORT", &http.port().to_string())
        .replace("TLS_PORT", &tls.port().to_string());
    // Two services in the places of the others.
    for (service_name, port, hostname) in [
        ("one", known.port(), "in.test"),
        ("two", unknown.port(), "out.test"),
        ("rest", known.port(), "elsewhere.test"),
    ] {
        text.push_str(&service(service_name, port));
        write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service_name}}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service_name}}}]
  validation: {{hostname: {hostname}, wellKnownCACertificates: System}}
"
        )
        .unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    let roots = folder.join("system.pem");
    std::fs::write(&roots, &root).unwrap();
    let environment = [("SSL_CERT_FILE", roots.as_path())];
    let mut scene = Scene::start_in(&folder, &text, &[], &environment);
    scene.join(program, "gateway/default/edge", |_| {});
    let ask = |path: &str| get_host(http, "shop.test", path);
    eventually(|| (ask("/one") == (200, "known".to_owned())).then_some(()));
    assert_eq!(ask("/one/two").0, 503, "its root is not the system's");
    assert_eq!(ask("/x").0, 503, "its certificate is not for this name");
    let status = scene.plane.command(&["status"]).1;
    assert!(!status.contains("well-known"), "{status}");
    // Another system trusts the other.
    drop(scene);
    std::fs::write(&roots, &other_root).unwrap();
    let mut scene = Scene::start_in(&folder, &text, &[], &environment);
    scene.join(program, "gateway/default/edge", |_| {});
    eventually(|| (ask("/one/two") == (200, "unknown".to_owned())).then_some(()));
    assert_eq!(ask("/one").0, 503);
    // One that trusts nobody lets nothing through.
    drop(scene);
    let nowhere = folder.join("nowhere.pem");
    let environment = [("SSL_CERT_FILE", nowhere.as_path())];
    let mut scene = Scene::start_in(&folder, &text, &[], &environment);
    scene.join(program, "gateway/default/edge", |_| {});
    eventually(|| (ask("/one").0 == 503).then_some(()));
    let status = scene.plane.command(&["status"]).1;
    assert!(status.contains("no file of well-known roots"), "{status}");
}

#[test]
fn an_envoy_trusts_what_the_system_trusts() {
    by_the_roots_of_the_system(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_trusts_what_the_system_trusts() {
    by_the_roots_of_the_system(&binaries::outrigger().unwrap(), "outrigger");
}
