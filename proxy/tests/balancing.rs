//! What balancing makes of the requests of a connection manager, hosts of which some are busy or fail.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test")]

mod data_path;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger::LocalBoxFuture;
use outrigger::net::Address;
use outrigger::server::{LocalInfo, ServerContext};
use outrigger::upstream::pool::{ConnectError, Connected, Connector, SocketSettings};
use outrigger::upstream::{ClusterManager, Host};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use data_path::{DataPath, NoResolver, connected};

/// How many requests a test sends.
const REQUESTS: u32 = 200;

/// What the host at 10.0.0.1 does; the one at 10.0.0.2 answers well.
#[derive(Debug, Clone, Copy)]
enum First {
    SaysNothing,
    Fails,
}

#[test]
fn a_request_compares_different_hosts_by_their_load() {
    let policy = "lb_policy: LEAST_REQUEST\nleast_request_lb_config: { choice_count: 8 }";
    let (good, at_first) = run(First::SaysNothing, policy, "");
    // It is compared with itself one time in 256.
    assert!(at_first < 12, "{at_first} wait for the host that is busy");
    assert_eq!(good, REQUESTS - at_first);
}

#[test]
fn a_retry_draws_until_it_has_a_host_that_was_not_tried() {
    let retry = "retry_policy: { retry_on: 5xx, host_selection_retry_max_attempts: 20, retry_host_predicate: [{ name: p, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }] }";
    let (good, at_first) = run(First::Fails, "lb_policy: RANDOM", retry);
    assert_eq!(good, REQUESTS);
    assert!(at_first > REQUESTS / 4, "{at_first} were tried there");
}

/// How many requests were answered by 200, and how many came to the first host.
fn run(first: First, policy: &str, retry: &str) -> (u32, u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let hosts = Rc::new(Hosts {
            first,
            at_first: Cell::new(0),
        });
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let clusters = ClusterManager::new(server.clone(), 1, Rc::new(NoResolver));
        let texts = [&cluster(policy)[..], &manager(retry)];
        let path = DataPath::new(server, clusters, Rc::new(InMemory(hosts.clone())), 1, texts);
        let mut good = 0;
        let mut waiting = Vec::new();
        for _ in 0..REQUESTS {
            let (mut client, serving) = path.connect();
            spawn_local(serving);
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            let mut bytes = [0; 12];
            match timeout(Duration::from_secs(2), client.read_exact(&mut bytes)).await {
                Ok(read) => {
                    read.expect("an answer");
                    good += u32::from(bytes.ends_with(b" 200"));
                }
                Err(_) => waiting.push(client),
            }
        }
        (good, hosts.at_first.get())
    })
}

fn cluster(policy: &str) -> String {
    let endpoint = |n: u8| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: 10.0.0.{n}, port_value: 80 }} }} }} }}"
        )
    };
    format!(
        "name: c\n{policy}\nload_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}, {}] }}] }}",
        endpoint(1),
        endpoint(2)
    )
}

fn manager(retry: &str) -> String {
    format!(
        "stat_prefix: s
http_filters: [{{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
route_config:
  virtual_hosts:
  - name: v
    domains: [\"*\"]
    routes:
    - match: {{ prefix: / }}
      route:
        cluster: c
        timeout: 3600s
        {retry}
"
    )
}

#[derive(Debug)]
struct Hosts {
    first: First,
    at_first: Cell<u32>,
}

/// Connects to the hosts.
#[derive(Debug)]
struct InMemory(Rc<Hosts>);

impl Connector for InMemory {
    fn connect(
        &self,
        host: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let hosts = self.0.clone();
        let is_first = host.address == Address::Ip(([10, 0, 0, 1], 80).into());
        Box::pin(async move {
            let (near, mut far) = duplex(64 * 1024);
            spawn_local(async move {
                let mut bytes = Vec::new();
                while matches!(far.read_buf(&mut bytes).await, Ok(1..)) {
                    if !bytes.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    bytes.clear();
                    hosts
                        .at_first
                        .set(hosts.at_first.get() + u32::from(is_first));
                    let status = match (is_first, hosts.first) {
                        (true, First::SaysNothing) => continue,
                        (true, First::Fails) => 503,
                        (false, _) => 200,
                    };
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    if far.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
            Ok(connected(near))
        })
    }
}
