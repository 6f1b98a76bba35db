//! The control plane's rate limit service, asked by proxies that know nothing else of it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;

use crate::scene::{Scene, get_host, process_at};
use crate::world::{Plane, eventually, ports, proxy};

#[test]
fn an_envoy_asks_how_often_a_user_may_call() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_asks_how_often_a_user_may_call() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

pub(crate) fn limits(requests: u32) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: RateLimit
metadata: {{ name: apis }}
spec:
  domain: apis
  limits:
  - {{ name: per-user, match: [{{ key: user }}], requests: {requests}, per: 1h }}
"
    )
}

/// A proxy that takes the host for the user, and lets everybody pass when the service is away.
pub(crate) fn bootstrap(front: SocketAddr, limits: SocketAddr, process: SocketAddr) -> String {
    let extensions = "type.googleapis.com/envoy.extensions";
    let cluster = |name: &str, address: SocketAddr, more: &str| {
        format!(
            "  - name: {name}\n    {more}\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}\n",
            address.port()
        )
    };
    let http2 = format!(
        "typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ '@type': {extensions}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}"
    );
    format!(
        "
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          '@type': {extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{ prefix: / }}
                route:
                  cluster: process
                  rate_limits: [{{ actions: [{{ request_headers: {{ header_name: ':authority', descriptor_key: user }} }}] }}]
          http_filters:
          - name: limits
            typed_config:
              '@type': {extensions}.filters.http.ratelimit.v3.RateLimit
              domain: apis
              timeout: 5s
              rate_limit_service: {{ transport_api_version: V3, grpc_service: {{ envoy_grpc: {{ cluster_name: limits }} }} }}
          - name: router
            typed_config: {{ '@type': {extensions}.filters.http.router.v3.Router }}
  clusters:
{}{}",
        front.port(),
        cluster("limits", limits, &http2),
        cluster("process", process, "type: STATIC"),
    )
}

/// A user has so many calls, each user has them, they are counted over a restart, and a file changes them.
fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-limits-{name}")).unwrap();
    let [service, front, process] = ports();
    process_at(process, "process");
    let service_flag = service.to_string();
    let flags = [
        "--rate-limit-listen",
        &service_flag,
        "--rate-limit-store",
        "disk",
    ];
    let mut scene = Scene::start(&folder, &limits(3), &flags);
    let proxy_folder = folder.join("proxy");
    fs::create_dir_all(&proxy_folder).unwrap();
    let yaml = bootstrap(front, service, process);
    fs::write(proxy_folder.join("bootstrap.yaml"), yaml).unwrap();
    let _proxy = proxy(program, &proxy_folder);
    let call = |user: &str| get_host(front, user, "/").0;
    eventually(|| (call("nobody") == 200).then_some(()));
    let calls = |user: &str| [(); 4].map(|()| call(user));
    assert_eq!(calls("ann"), [200, 200, 200, 429]);
    assert_eq!(calls("bob"), [200, 200, 200, 429]);
    // What was counted is on disk a second later.
    thread::sleep(Duration::from_millis(1500));
    let address = scene.plane.address;
    scene.plane.stop();
    eventually(|| (call("ann") == 200).then_some(()));
    scene.plane = Plane::start_with(&folder, address, &flags);
    eventually(|| (call("ann") == 429).then_some(()));
    scene.write("mesh.yaml", &limits(1_000));
    eventually(|| (call("ann") == 200).then_some(()));
}
