//! A mesh with all kinds, whose resources have to keep the rules of Envoy's API.

use std::sync::Arc;

use super::*;
use crate::cache::ResourceType;
use crate::model::load_texts;

const MESH: &str = include_str!("tests.yaml");

pub(super) struct NoSecrets;

impl Secrets for NoSecrets {
    fn svid(&self, identity: &str) -> Option<Arc<crate::world::TlsSecret>> {
        Some(Arc::new(crate::world::TlsSecret {
            certificate: format!("certificate of {identity}"),
            key: "key".to_owned(),
        }))
    }

    fn roots(&self) -> Arc<str> {
        "roots".into()
    }
}

fn translator(text: &str) -> Translator {
    let model = load_texts([("mesh.yaml", text)]).unwrap();
    let world = World::build(&model, "mesh.test", &[], None);
    for status in &world.statuses {
        assert!(!status.has_failed(), "{status:?}");
    }
    Translator::new(Arc::new(world), None)
}

pub(super) fn json(resource: &Resource, kind: ResourceType) -> Json {
    use outrigger_proto::json::{Style, encoded_to_json};
    let text = encoded_to_json(kind.message(), &resource.body.value, Style::default()).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(super) fn role(id: &str) -> Role {
    Role::from_node_id(id).unwrap()
}

#[test]
fn every_resource_keeps_the_rules_of_the_api() {
    let translator = translator(MESH);
    for id in [
        "sidecar/default/a",
        "sidecar/default/b",
        "gateway/default/edge",
    ] {
        let snapshot = translator.snapshot(&role(id), &NoSecrets);
        for kind in ResourceType::ALL {
            let is_none = kind == ResourceType::Extension && id.starts_with("gateway");
            let has_some = !snapshot.of(kind).is_empty();
            assert_eq!(has_some, !is_none, "{id}: {}", kind.word());
            for (name, resource) in snapshot.of(kind) {
                assert!(
                    !resource.body.value.is_empty(),
                    "{id}: {name} cannot be encoded"
                );
                let violations =
                    outrigger_proto::validate::check(kind.message(), &resource.body.value);
                assert!(
                    violations.is_empty(),
                    "{id}: {} {name}: {violations:?}",
                    kind.word()
                );
            }
        }
    }
}

#[test]
fn the_same_input_has_the_same_versions() {
    let (one, two) = (translator(MESH), translator(MESH));
    let role = role("gateway/default/edge");
    assert_eq!(
        one.snapshot(&role, &NoSecrets),
        two.snapshot(&role, &NoSecrets)
    );
}

#[test]
fn a_sidecar_has_what_it_calls_and_nothing_else() {
    let translator = translator(MESH);
    let snapshot = translator.snapshot(&role("sidecar/default/a"), &NoSecrets);
    let names: Vec<_> = snapshot
        .of(ResourceType::Cluster)
        .keys()
        .map(|name| &**name)
        .collect();
    assert_eq!(names, ["app/15001", "default/b-v2/80", "default/b/80"]);
    let names: Vec<_> = snapshot
        .of(ResourceType::Secret)
        .keys()
        .map(|name| &**name)
        .collect();
    assert_eq!(names, ["ROOTCA", "default"]);
}

#[test]
fn routes_of_a_host_name_are_in_the_order_of_the_gateway_api() {
    let translator = translator(MESH);
    let snapshot = translator.snapshot(&role("gateway/default/edge"), &NoSecrets);
    let table = json(
        &snapshot.of(ResourceType::Route)["gateway/default/edge/8443/https"],
        ResourceType::Route,
    );
    let hosts = table["virtual_hosts"].as_array().unwrap();
    assert_eq!(
        (&hosts[0]["name"], &hosts[1]["name"]),
        (&json!("*.example.com"), &json!("shop.example.com"))
    );
    let routes = hosts[1]["routes"].as_array().unwrap();
    let paths: Vec<_> = routes
        .iter()
        .map(|route| {
            let found = &route["match"];
            let path = ["path", "path_separated_prefix", "prefix"]
                .iter()
                .find_map(|kind| found[kind].as_str());
            let headers = found["headers"].as_array().map_or(0, Vec::len);
            (path.unwrap_or("regex").to_owned(), headers)
        })
        .collect();
    let expected = [
        ("/a/b", 0),
        ("regex", 0),
        ("/a/b", 0),
        ("/a", 2),
        ("/a", 1),
        ("/", 0),
    ];
    assert_eq!(
        paths,
        expected.map(|(path, headers)| (path.to_owned(), headers))
    );
}

#[test]
fn a_change_of_endpoints_leaves_the_rest_as_it_is() {
    let before = translator(MESH);
    let after = translator(&MESH.replace("port: 15002", "port: 15009"));
    let role = role("sidecar/default/a");
    let (before, after) = (
        before.snapshot(&role, &NoSecrets),
        after.snapshot(&role, &NoSecrets),
    );
    let changed = |kind| before.of(kind) != after.of(kind);
    assert!(changed(ResourceType::Endpoints));
    for kind in [
        ResourceType::Cluster,
        ResourceType::Listener,
        ResourceType::Route,
    ] {
        assert!(!changed(kind), "{}", kind.word());
    }
}
