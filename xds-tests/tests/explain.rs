//! What `outrigger explain` and `/explain` say of a request, the running proxy then does.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[allow(dead_code, reason = "other stories use more of it")]
mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Method, host, path and a header: each takes another way through the routes below.
const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET", "shop.example", "/cart/list", "x-a: b"),
    ("GET", "shop.example", "/cart/list?x=1", "x-beta: yes"),
    ("GET", "www.shop.example", "//cart/./x", "x-a: b"),
    (
        "POST",
        "shop.example",
        "/cart/x",
        "content-type: application/grpc",
    ),
    ("GET", "shop.example", "/items/42/price", "x-a: b"),
    ("GET", "shop.example", "/items/none/price", "x-a: b"),
    ("GET", "shop.example", "/x?debug=1", "x-a: b"),
    ("GET", "shop.example", "/x", "x-a: b"),
    ("GET", "shop.example:81", "/cart/list", "x-a: b"),
    ("GET", "other.example", "/", "x-a: b"),
    ("GET", "shop.example", "/old/page", "x-a: b"),
];

fn bootstrap(log: &Path) -> String {
    let log = log.display();
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: ingress
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          normalize_path: true
          merge_slashes: true
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "%REQ(X-NUMBER)% %ROUTE_NAME% %UPSTREAM_CLUSTER_RAW%\n"}}}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["shop.example", "*.shop.example"]
              routes:
              - {{name: beta, match: {{prefix: /cart, headers: [{{name: x-beta, string_match: {{exact: "yes"}}}}]}}, route: {{cluster: beta}}}}
              - {{name: list, match: {{path: /cart/list}}, route: {{cluster: cart}}}}
              - {{name: grpc, match: {{prefix: /cart, grpc: {{}}}}, route: {{cluster: cart}}}}
              - {{name: cart, match: {{path_separated_prefix: /cart}}, route: {{cluster: cart}}}}
              - {{name: item, match: {{safe_regex: {{regex: "/items/[0-9]+/.*"}}}}, route: {{cluster: items}}}}
              - {{name: old, match: {{prefix: /old}}, redirect: {{path_redirect: /new}}}}
              - {{name: debug, match: {{prefix: /, query_parameters: [{{name: debug, present_match: true}}]}}, route: {{cluster: beta}}}}
              - {{name: rest, match: {{prefix: /}}, route: {{cluster: rest}}}}
  clusters:
  - {{name: beta, type: STATIC, load_assignment: {{cluster_name: beta}}}}
  - {{name: cart, type: STATIC, load_assignment: {{cluster_name: cart}}}}
  - {{name: items, type: STATIC, load_assignment: {{cluster_name: items}}}}
  - {{name: rest, type: STATIC, load_assignment: {{cluster_name: rest}}}}
"#
    )
}

/// Sends a request on a connection of its own, and gives the whole answer.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Route and cluster that the admin interface explains, as the access log prints them.
async fn explained(
    admin: SocketAddr,
    (method, host, path, header): (&str, &str, &str, &str),
) -> String {
    let target = format!(
        "/explain?format=json&listener=ingress&request={}&header={}",
        escaped(&format!("{method} http://{host}{path}")),
        escaped(header)
    );
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let answer = exchange(admin, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    let route = &json["outcome"]["http"]["route"];
    let or_dash = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    format!(
        "{} {}",
        or_dash(&route["name"]),
        or_dash(&route["clusters"][0]["name"])
    )
}

/// The line of the access log for the request with this number.
async fn logged(log: &Path, number: usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let start = format!("{number} ");
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix(&start)) {
            return line.to_owned();
        }
        assert!(
            Instant::now() < deadline,
            "request {number} is not in {text}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn requests_take_the_route_that_was_explained() {
    common::tell(async {
        let binary = binaries::outrigger().unwrap();
        let folder = binaries::scratch("explain").unwrap();
        let log = folder.join("access.log");
        let _ = std::fs::remove_file(&log);
        let proxy = Proxy::start(&binary, &bootstrap(&log), &folder)
            .await
            .unwrap();
        let address = proxy.listener("ingress").unwrap();
        for (number, request) in REQUESTS.iter().enumerate() {
            let explained = explained(proxy.admin_address(), *request).await;
            let (method, host, path, header) = request;
            let sent = format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{header}\r\nx-number: {number}\r\nconnection: close\r\n\r\n"
            );
            exchange(address, &sent).await;
            assert_eq!(explained, logged(&log, number).await, "{request:?}");
        }
    });
}

#[test]
fn the_command_line_explains_without_a_process() {
    let folder = binaries::scratch("explain-cli").unwrap();
    let config = folder.join("envoy.yaml");
    let log = folder.join("access.log");
    std::fs::write(&config, bootstrap(&log)).unwrap();
    let explain = |request: &str| {
        Command::new(binaries::outrigger().unwrap())
            .args(["explain", "-c"])
            .arg(&config)
            .args(["--request", request])
            .output()
            .unwrap()
    };
    let output = explain("GET http://shop.example/items/42/price");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("route         #4 \"item\""), "{text}");
    assert!(
        text.contains("not         #1 \"list\": path is \"/cart/list\""),
        "{text}"
    );
    assert!(!log.exists(), "nothing is opened");
    let output = explain("shop.example");
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is no URL"), "{text}");
}
