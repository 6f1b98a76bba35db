//! Proxies with a stream per type instead of one for all, in both variants; and what comes by ECDS.

use std::net::SocketAddr;
use std::path::Path;

use outrigger_control_plane::cache::ResourceType;
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

/// A gateway, and B with its sidecar.
struct Story {
    scene: Scene,
    gateway: SocketAddr,
    inbound: SocketAddr,
    process: SocketAddr,
}

fn tell(program: &Path, name: &str, api_type: &str) {
    let folder = binaries::scratch(&format!("edge-streams-{name}-{api_type}")).unwrap();
    let [gateway, inbound] = ports();
    let text = include_str!("streams.yaml").replace("GATEWAY", &gateway.port().to_string());
    let mut story = Story {
        scene: Scene::start(&folder, &text, &[]),
        gateway,
        inbound,
        process: process_at(([127, 0, 0, 1], 0).into(), "b"),
    };
    story.workload("Healthy");
    eventually(|| story.status().contains("Workload default/b").then_some(()));
    for node in ["gateway/default/edge", "sidecar/default/b"] {
        let edit = |bootstrap: &mut Json| edit(bootstrap, api_type);
        story.scene.join(program, node, edit);
    }
    story.becomes("/b", 200);
    story.routes_and_filters();
    story.endpoints();
    story.clusters();
    story.secrets();
    let told = story.status();
    assert_eq!(told.matches("gateway/default/edge (").count(), 1, "{told}");
    assert!(!told.contains("refused:"), "{told}");
    for kind in ResourceType::ALL.map(ResourceType::word) {
        assert!(told.contains(&format!("  {kind} ")), "{kind}: {told}");
    }
}

impl Story {
    fn workload(&self, health: &str) {
        let text = format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: b}}
spec:
  address: 127.0.0.1
  serviceAccount: b
  services: [b]
  health: {health}
  ports: [{{name: http, port: {}, appPort: {}}}]
  calls: []
",
            self.inbound.port(),
            self.process.port()
        );
        self.scene.write("b.yaml", &text);
    }

    fn status(&self) -> String {
        self.scene.plane.command(&["status"]).1
    }

    fn get(&self, path: &str) -> (u16, String) {
        get_host(self.gateway, "x", path)
    }

    #[track_caller]
    fn becomes(&self, path: &str, wanted: u16) {
        eventually(|| (self.get(path).0 == wanted).then_some(()));
    }

    /// What changes by RDS and ECDS, and without a change of a listener.
    fn routes_and_filters(&self) {
        let sent = |kind: &str| self.scene.plane.metric("resources_total", kind);
        let before = (sent("listeners"), sent("extensions"));
        let fault = policy("fault: {abort: {status: 418, percent: 100}}");
        self.scene.write("policy.yaml", &fault);
        self.becomes("/b", 418);
        let limit = policy("rateLimit: {requests: 2, per: 1h}");
        self.scene.write("policy.yaml", &limit);
        self.becomes("/b", 429);
        assert!(sent("extensions") > before.1);
        // Who may call is another filter: the count of the rate limit goes on.
        self.scene.write("access.yaml", DENY);
        self.becomes("/b/secret", 403);
        assert_eq!(self.get("/b").0, 429, "the count goes on");
        self.scene.remove("access.yaml");
        self.scene.remove("policy.yaml");
        self.becomes("/b", 200);
        assert_eq!(sent("listeners"), before.0, "no listener has changed");
    }

    fn endpoints(&self) {
        let second = process_at(([127, 0, 0, 1], 0).into(), "second").port();
        let text = format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: second}}
spec: {{address: 127.0.0.1, sidecar: false, services: [b], ports: [{{name: http, port: {second}}}]}}
"
        );
        self.scene.write("second.yaml", &text);
        let body = || self.get("/b").1;
        eventually(|| (body() == "second").then_some(()));
        eventually(|| (body() == "b").then_some(()));
        self.workload("Unhealthy");
        eventually(|| (0..10).all(|_| body() == "second").then_some(()));
        self.workload("Healthy");
        self.scene.remove("second.yaml");
        eventually(|| (0..10).all(|_| body() == "b").then_some(()));
    }

    /// A new one, and one less.
    fn clusters(&self) {
        let route = include_str!("streams.yaml").split("---").last().unwrap();
        let route = route.replace("/b", "/c").replace("name: b", "name: c");
        let port = self.process.port();
        let text = format!(
            "{route}---
apiVersion: v1
kind: Service
metadata: {{name: c}}
spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: c}}
spec: {{address: 127.0.0.1, sidecar: false, services: [c], ports: [{{port: {port}}}]}}
"
        );
        self.scene.write("c.yaml", &text);
        self.becomes("/c", 200);
        self.scene.remove("c.yaml");
        self.becomes("/c", 404);
    }

    fn secrets(&self) {
        for step in ["prepare", "switch", "finish"] {
            eventually(|| {
                let (is_done, text) = self.scene.plane.command(&["rotate"]);
                is_done.then(|| assert!(text.contains(step), "{text}"))
            });
            eventually(|| (!self.status().contains("waiting")).then_some(()));
            self.becomes("/b", 200);
        }
    }
}

const DENY: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: b}
spec: {service: {name: b}, action: DENY, rules: [{identities: [default/edge], paths: [/b/secret]}]}
";
