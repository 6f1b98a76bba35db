//! What gRPC gets of a mesh, beside what its sidecars get.

use super::super::{Role, Secrets, Translator};
use super::*;
use crate::cache::Snapshot;
use crate::model::load_texts;
use crate::world::{TlsSecret, World};

const MESH: &str = include_str!("tests.yaml");

struct NoSecrets;

impl Secrets for NoSecrets {
    fn svid(&self, _: &str) -> Option<Arc<TlsSecret>> {
        unreachable!("gRPC is given no certificate")
    }

    fn roots(&self) -> Arc<str> {
        unreachable!("gRPC is given no roots")
    }
}

fn snapshot(text: &str, id: &str) -> Snapshot {
    let model = load_texts([("mesh.yaml", text)]).unwrap();
    let world = World::build(&model, "mesh.test", &[], None);
    for status in &world.statuses {
        assert!(!status.has_failed(), "{status:?}");
    }
    let role = Role::of_node(id, "gRPC C-core linux").unwrap();
    Translator::new(Arc::new(world), None).snapshot(&role, &NoSecrets)
}

fn json(snapshot: &Snapshot, kind: ResourceType, name: &str) -> Json {
    json_of(kind, &snapshot.of(kind)[name])
}

#[test]
fn every_resource_keeps_the_rules_of_the_api() {
    for id in ["sidecar/default/caller", "sidecar/default/echo"] {
        let snapshot = snapshot(MESH, id);
        for kind in ResourceType::ALL {
            for (name, resource) in snapshot.of(kind) {
                let bytes = &resource.body.value;
                assert!(!bytes.is_empty(), "{id}: {name} cannot be encoded");
                let violations = outrigger_proto::validate::check(kind.message(), bytes);
                assert!(violations.is_empty(), "{id}: {name}: {violations:?}");
            }
        }
        assert!(snapshot.of(ResourceType::Secret).is_empty());
    }
}

#[test]
fn a_port_of_http_2_has_its_target_names() {
    let snapshot = snapshot(MESH, "grpc/default/caller");
    let names: Vec<_> = snapshot
        .of(ResourceType::Listener)
        .keys()
        .map(|name| &**name)
        .collect();
    assert_eq!(
        names,
        [
            "echo",
            "echo.default",
            "echo.default.svc.cluster.local",
            "echo.default.svc.cluster.local:80",
            "echo.default:80",
            "echo:80",
            "far.other",
            "far.other.svc.cluster.local",
            "far.other.svc.cluster.local:80",
            "far.other:80",
            "two.default.svc.cluster.local:80",
            "two.default.svc.cluster.local:81",
            "two.default:80",
            "two.default:81",
            "two:80",
            "two:81",
        ]
    );
    let listener = json(&snapshot, ResourceType::Listener, "echo:80");
    let manager = &listener["api_listener"]["api_listener"];
    assert_eq!(manager["rds"]["route_config_name"], "default/echo/80");
}

#[test]
fn routes_say_what_grpc_reads() {
    let snapshot = snapshot(MESH, "grpc/default/caller");
    let table = json(&snapshot, ResourceType::Route, "default/echo/80");
    let routes = table["virtual_hosts"][0]["routes"].as_array().unwrap();
    let matches: Vec<_> = routes.iter().map(|route| &route["match"]).collect();
    assert_eq!(
        matches,
        [
            &json!({"path": "/moved"}),
            &json!({"safe_regex": {"regex": r"/a\.B(/.*)?"}}),
        ],
        "what depends on a method or on parameters is not there"
    );
    assert_eq!(routes[0]["non_forwarding_action"], json!({}));
    assert_eq!(
        routes[1]["route"],
        json!({
            "weighted_clusters": {"clusters": [{"name": "default/echo/80", "weight": 1}]},
            "max_stream_duration": {"max_stream_duration": "2s"},
            "retry_policy": {"retry_on": "cancelled,unavailable", "num_retries": 2},
        })
    );
}

#[test]
fn a_strict_service_has_mtls_and_only_the_endpoints_that_take_it() {
    let snapshot = snapshot(MESH, "grpc/default/caller");
    let cluster = json(&snapshot, ResourceType::Cluster, "default/echo/80");
    let identity = "spiffe://mesh.test/ns/default/sa/echo";
    let context = &cluster["transport_socket"]["typed_config"]["common_tls_context"];
    assert_eq!(
        context["validation_context"]["match_subject_alt_names"][0],
        json!({"exact": identity})
    );
    assert_eq!(
        context["validation_context"]["ca_certificate_provider_instance"],
        context["tls_certificate_provider_instance"]
    );
    assert!(cluster["transport_socket_matches"].is_null());
    assert_eq!(ports(&snapshot), [15001]);
}

#[test]
fn a_permissive_service_is_in_clear_text_while_an_endpoint_takes_no_mtls() {
    let mesh = MESH.replace("STRICT", "PERMISSIVE");
    let mixed = snapshot(&mesh, "grpc/default/caller");
    let cluster = |snapshot| json(snapshot, ResourceType::Cluster, "default/echo/80");
    assert!(cluster(&mixed)["transport_socket"].is_null());
    assert_eq!(ports(&mixed), [15001, 15003]);
    let alike = snapshot(
        &mesh.replace("sidecar: false", "proxyless: true"),
        "grpc/default/caller",
    );
    assert!(!cluster(&alike)["transport_socket"].is_null());
}

fn ports(snapshot: &Snapshot) -> Vec<u64> {
    let endpoints = json(snapshot, ResourceType::Endpoints, "default/echo/80");
    let locality = &endpoints["endpoints"][0];
    assert_eq!(locality["load_balancing_weight"], 1);
    let list = locality["lb_endpoints"].as_array().unwrap().iter();
    list.map(|endpoint| {
        let address = &endpoint["endpoint"]["address"]["socket_address"];
        address["port_value"].as_u64().unwrap()
    })
    .collect()
}

#[test]
fn a_server_has_mtls_and_who_may_call() {
    let snapshot = snapshot(MESH, "sidecar/default/echo");
    let names: Vec<_> = snapshot.of(ResourceType::Listener).keys().collect();
    assert_eq!(names.len(), 3, "one port in HTTP/2: {names:?}");
    let name = "grpc/server?xds.resource.listening_address=0.0.0.0:15001";
    let listener = json(&snapshot, ResourceType::Listener, name);
    let chain = &listener["filter_chains"][0];
    let tls = &chain["transport_socket"]["typed_config"];
    assert_eq!(tls["require_client_certificate"], true);
    let validation = &tls["common_tls_context"]["validation_context"];
    assert!(validation["match_subject_alt_names"].is_null());
    let table = json(&snapshot, ResourceType::Route, "grpc/inbound/15001");
    let route = &table["virtual_hosts"][0]["routes"][0];
    let rules = &route["typed_per_filter_config"][ALLOW]["rbac"]["rules"];
    let policies = rules["policies"].as_object().unwrap();
    let names: Vec<_> = policies.keys().collect();
    assert_eq!(names, ["default/echo/0"], "a rule for GET matches no call");
    assert_eq!(
        policies["default/echo/0"]["permissions"],
        json!([{"any": true}])
    );
}
