//! Proxies with a stream per type instead of one for all, in both variants; and what comes by ECDS.

use std::path::Path;

use outrigger_xds_tests::binaries;
use serde_json::{Value as Json, json};

use crate::scene::{Scene, get_host, process_at};
use crate::world::{eventually, ports};

#[test]
fn envoys_have_a_delta_stream_per_type() {
    tell(&binaries::envoy().unwrap(), "envoy", "DELTA_GRPC");
}

#[test]
fn envoys_have_a_sotw_stream_per_type() {
    tell(&binaries::envoy().unwrap(), "envoy", "GRPC");
}

#[test]
fn outriggers_have_a_delta_stream_per_type() {
    tell(&binaries::outrigger().unwrap(), "outrigger", "DELTA_GRPC");
}

#[test]
fn outriggers_have_a_sotw_stream_per_type() {
    tell(&binaries::outrigger().unwrap(), "outrigger", "GRPC");
}

#[test]
fn envoys_have_one_sotw_stream_for_all() {
    tell(&binaries::envoy().unwrap(), "envoy-ads", "");
}

#[test]
fn outriggers_have_one_sotw_stream_for_all() {
    tell(&binaries::outrigger().unwrap(), "outrigger-ads", "");
}

/// Takes the aggregated stream out of a bootstrap, or makes it one of SotW.
fn edit(bootstrap: &mut Json, api_type: &str) {
    let resources = &mut bootstrap["dynamic_resources"];
    if api_type.is_empty() {
        resources["ads_config"]["api_type"] = json!("GRPC");
        return;
    }
    resources.as_object_mut().unwrap().remove("ads_config");
    let source = json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        },
    });
    resources["lds_config"] = source.clone();
    resources["cds_config"] = source;
    // The name of the cluster is the proxy's.
    let cluster = &mut bootstrap["static_resources"]["clusters"][0];
    cluster["name"] = json!("xds");
    cluster["load_assignment"]["cluster_name"] = json!("xds");
    bootstrap["node"]["metadata"] = json!({"xds_cluster": "xds"});
}

fn policy(spec: &str) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: b}}
spec: {{service: {{name: b}}, {spec}}}
"
    )
}

fn tell(program: &Path, name: &str, api_type: &str) {
    let folder = binaries::scratch(&format!("edge-streams-{name}-{api_type}")).unwrap();
    let [gateway, inbound] = ports();
    let process = process_at(([127, 0, 0, 1], 0).into(), "b");
    let workload = |health: &str| {
        format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: b}}
spec: {{address: 127.0.0.1, serviceAccount: b, services: [b], health: {health}, ports: [{{name: http, port: {}, appPort: {}}}], calls: []}}
",
            inbound.port(),
            process.port()
        )
    };
    let text = include_str!("streams.yaml").replace("GATEWAY", &gateway.port().to_string());
    let mut scene = Scene::start(&folder, &text, &[]);
    scene.write("b.yaml", &workload("Healthy"));
    let words = "Workload default/b";
    eventually(|| {
        scene
            .plane
            .command(&["status"])
            .1
            .contains(words)
            .then_some(())
    });
    for node in ["gateway/default/edge", "sidecar/default/b"] {
        scene.join(program, node, |bootstrap| edit(bootstrap, api_type));
    }
    let status = |path: &str| get_host(gateway, "x", path).0;
    let becomes = |path: &str, wanted: u16| {
        eventually(|| (status(path) == wanted).then_some(()));
    };
    becomes("/b", 200);
    // Routes.
    scene.write(
        "policy.yaml",
        &policy("fault: {abort: {status: 418, percent: 100}}"),
    );
    becomes("/b", 418);
    // The rate limit, without a change of a listener.
    let listeners = || scene.plane.metric("resources_total", "listeners");
    let before = (
        listeners(),
        scene.plane.metric("resources_total", "extensions"),
    );
    scene.write("policy.yaml", &policy("rateLimit: {requests: 2, per: 1h}"));
    becomes("/b", 429);
    assert!(scene.plane.metric("resources_total", "extensions") > before.1);
    // Who may call, which leaves the count of the rate limit as it is.
    scene.write(
        "access.yaml",
        "
apiVersion: outrigger.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: b}
spec: {service: {name: b}, action: DENY, rules: [{identities: [default/edge], paths: [/b/secret]}]}
",
    );
    becomes("/b/secret", 403);
    assert_eq!(status("/b"), 429, "the count goes on");
    scene.remove("access.yaml");
    scene.remove("policy.yaml");
    becomes("/b", 200);
    assert_eq!(listeners(), before.0, "no listener has changed");
    // Endpoints.
    scene.write("b.yaml", &workload("Unhealthy"));
    becomes("/b", 503);
    scene.write("b.yaml", &workload("Healthy"));
    becomes("/b", 200);
    // Clusters: a new one, and one less.
    let route = include_str!("streams.yaml").split("---").last().unwrap();
    let route = route.replace("/b", "/c").replace("name: b", "name: c");
    let other = "---
apiVersion: v1
kind: Service
metadata: {name: c}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: c}
spec: {address: 127.0.0.1, sidecar: false, services: [c], ports: [{port: 80, name: c}]}
";
    let other = other.replace(
        "{port: 80, name: c}",
        &format!("{{port: {}}}", process.port()),
    );
    let other = other.replace(
        "port: 80}]",
        &format!("port: 80, targetPort: {}}}]", process.port()),
    );
    scene.write("c.yaml", &format!("{route}{other}"));
    becomes("/c", 200);
    scene.remove("c.yaml");
    becomes("/c", 404);
    // Secrets.
    for step in ["prepare", "switch", "finish"] {
        eventually(|| {
            let (is_done, text) = scene.plane.command(&["rotate"]);
            is_done.then(|| assert!(text.contains(step), "{text}"))
        });
        eventually(|| (!scene.plane.command(&["status"]).1.contains("waiting")).then_some(()));
        becomes("/b", 200);
    }
    let told = scene.plane.command(&["status"]).1;
    assert_eq!(told.matches("gateway/default/edge (").count(), 1, "{told}");
    assert!(!told.contains("refused:"), "{told}");
    for kind in [
        "secrets",
        "clusters",
        "endpoints",
        "listeners",
        "routes",
        "extensions",
    ] {
        assert!(told.contains(&format!("  {kind} ")), "{kind}: {told}");
    }
}
