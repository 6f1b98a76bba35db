//! Active health checks by the clock, and of a Redis, and what a host gets that is well again: Envoy and Outrigger beside each other.
//!
//! Times have bounds that a busy machine keeps: what must not come too early is exact, what must come has seconds to spare.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect"
)]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

/// What a busy machine may add to a time.
const SLACK: Duration = Duration::from_secs(3);

/// Both programs, each with a folder.
fn sides(test: &str) -> [(PathBuf, PathBuf); 2] {
    let scratch = binaries::scratch(test).unwrap();
    [
        (binaries::envoy().unwrap(), scratch.join("envoy")),
        (binaries::outrigger().unwrap(), scratch.join("outrigger")),
    ]
}

fn cluster(name: &str, ports: &[u16], check: &str) -> String {
    let hosts: Vec<_> = ports
        .iter()
        .map(|port| format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"))
        .collect();
    format!(
        "  - name: {name}\n    connect_timeout: 5s\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{}] }}] }}\n    health_checks: [{{ {check} }}]\n",
        hosts.join(", ")
    )
}

async fn start((binary, folder): &(PathBuf, PathBuf), clusters: &str) -> Proxy {
    let bootstrap = format!(
        "node: {{ id: checks, cluster: stories }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\nstatic_resources:\n  clusters:\n{clusters}"
    );
    Proxy::start(Path::new(binary), &bootstrap, folder)
        .await
        .unwrap()
}

/// When a host was asked, again and again.
type Times = Rc<RefCell<Vec<Instant>>>;

/// A host that answers everything and notes when it was asked.
async fn host() -> (u16, Times) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let times = Times::default();
    let noted = times.clone();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let times = noted.clone();
            spawn_local(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    times.borrow_mut().push(Instant::now());
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, times)
}

async fn jittered(side: (PathBuf, PathBuf)) {
    let mut ports = Vec::new();
    let mut all = Vec::new();
    for _ in 0..40 {
        let (port, times) = host().await;
        ports.push(port);
        all.push(times);
    }
    let check = "timeout: 5s, interval: 1s, no_traffic_interval: 1s, initial_jitter: 2s, interval_jitter: 1s, interval_jitter_percent: 50, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /hc }";
    let _proxy = start(&side, &cluster("jittered", &ports, check)).await;
    let name = side.1.display();
    sleep(Duration::from_secs(6)).await;
    let all: Vec<Vec<Instant>> = all.iter().map(|times| times.borrow().clone()).collect();
    let firsts: Vec<Instant> = all.iter().map(|times| *times.first().unwrap()).collect();
    let spread = *firsts.iter().max().unwrap() - *firsts.iter().min().unwrap();
    assert!(
        spread > Duration::from_millis(500) && spread < Duration::from_secs(2) + SLACK,
        "{name}: first checks within {spread:?}"
    );
    let gaps = all
        .iter()
        .flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0]));
    let gaps: Vec<Duration> = gaps.collect();
    let (least, most) = (*gaps.iter().min().unwrap(), *gaps.iter().max().unwrap());
    println!(
        "{name}: first checks within {spread:?}, then every {least:?} to {most:?} ({} times)",
        gaps.len()
    );
    // A second, up to half of it more, and up to another one. The moment of asking is noted late where it was noted at all.
    assert!(least > Duration::from_millis(700), "{name}: {least:?}");
    assert!(
        most < Duration::from_millis(2_500) + SLACK,
        "{name}: {most:?}"
    );
    assert!(
        most - least > Duration::from_millis(500),
        "{name}: {least:?} to {most:?}"
    );
}

#[tokio::test]
async fn jitter_spreads_checks_within_its_bounds() {
    let work = async {
        let [envoy, outrigger] = sides("checked_hosts_jitter");
        tokio::join!(jittered(envoy), jittered(outrigger));
    };
    LocalSet::new().run_until(work).await;
}

/// Redis, ended on drop.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// None: it is not installed.
    async fn start(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let child = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--port", &port.to_string(), "--dir"])
                .arg(folder)
                .stdout(Stdio::null())
                .spawn()
                .ok()?;
            let redis = Self { child, port };
            for _ in 0..100 {
                if redis.ask("PING").await == "+PONG\r\n" {
                    return Some(redis);
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        panic!("Redis does not listen");
    }

    async fn ask(&self, command: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else {
            return String::new();
        };
        let _ = stream.write_all(format!("{command}\r\n").as_bytes()).await;
        let mut buffer = [0; 256];
        let length = stream.read(&mut buffer).await.unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until each cluster has the flags that it is to have.
async fn wait_for(proxies: &[Proxy; 2], wanted: [&str; 2]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for proxy in proxies {
        loop {
            let (_, page) = admin_get(proxy.admin_address(), "/clusters").await.unwrap();
            let flags = |name: &str| {
                let line = page
                    .lines()
                    .find(|line| line.starts_with(name) && line.contains("::health_flags::"));
                let flags = line.and_then(|line| line.rsplit_once("::"));
                flags.map_or(String::new(), |(_, flags)| flags.to_owned())
            };
            let found = [flags("ping"), flags("key")];
            if found == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "{found:?}, not {wanted:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_key_takes_a_redis_out_of_use() {
    let [envoy, outrigger] = sides("checked_hosts_redis");
    let Some(redis) = Redis::start(&envoy.1.with_file_name("redis")).await else {
        println!("NO redis-server: this proves nothing about it");
        return;
    };
    let times = "timeout: 5s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 1, healthy_threshold: 1";
    let check = |fields: &str| {
        format!(
            "{times}, custom_health_check: {{ name: redis, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis, {fields} }} }}"
        )
    };
    let clusters = cluster("ping", &[redis.port], &check(""))
        + &cluster("key", &[redis.port], &check("key: out:of:use"));
    let proxies = [
        start(&envoy, &clusters).await,
        start(&outrigger, &clusters).await,
    ];
    wait_for(&proxies, ["healthy", "healthy"]).await;
    assert_eq!(redis.ask("SET out:of:use 1").await, "+OK\r\n");
    wait_for(&proxies, ["healthy", "/failed_active_hc"]).await;
    assert_eq!(redis.ask("DEL out:of:use").await, ":1\r\n");
    wait_for(&proxies, ["healthy", "healthy"]).await;
    drop(redis);
    wait_for(&proxies, ["/failed_active_hc", "/failed_active_hc"]).await;
}

/// A host that fails its first check, is well from then on, and counts what else it is asked.
async fn late_host(name: &'static str, fails: usize) -> (u16, Rc<RefCell<(usize, usize)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counts = Rc::new(RefCell::new((0, 0)));
    let counted = counts.clone();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counts = counted.clone();
            spawn_local(async move {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let answer = {
                        let mut counts = counts.borrow_mut();
                        let is_check = buffer[..length].starts_with(b"GET /hc ");
                        *if is_check {
                            &mut counts.0
                        } else {
                            &mut counts.1
                        } += 1;
                        match is_check && counts.0 <= fails {
                            true => "HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n".to_owned(),
                            false => format!(
                                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                                name.len()
                            ),
                        }
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, counts)
}

const LISTENER: &str = r#"  listeners:
  - name: hosts
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hosts
          route_config: { virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: hosts } }] }] }
          http_filters: [{ name: router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }]
  clusters:
"#;

/// A host that becomes well when another has been so for longer than the window has a quarter of its weight at first, and so a fifth
/// of the requests: of many, wherever the schedule begins. A machine so busy that they take more than a quarter of the window would
/// find more.
#[tokio::test(flavor = "current_thread")]
async fn slow_start_holds_a_new_host_back_to_its_share() {
    let test = async {
        for side in sides("checked-hosts-slow-start") {
            let (old_port, old) = late_host("old", 0).await;
            let (new_port, new) = late_host("new", FAILS).await;
            let check = "timeout: 2s, interval: 1s, no_traffic_interval: 1s, no_traffic_healthy_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /hc }";
            let policy = "    round_robin_lb_config: { slow_start_config: { slow_start_window: 6s, min_weight_percent: { value: 25 } } }\n    common_lb_config: { healthy_panic_threshold: { value: 0 } }\n";
            let clusters = cluster("hosts", &[old_port, new_port], check) + policy;
            let (program, folder) = &side;
            let bootstrap = format!(
                "node: {{ id: checks, cluster: stories }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\nstatic_resources:\n{LISTENER}{clusters}"
            );
            let proxy = Proxy::start(program, &bootstrap, folder).await.unwrap();
            let start = Instant::now();
            while new.borrow().0 <= FAILS {
                assert!(start.elapsed() < Duration::from_secs(30), "{side:?}");
                sleep(Duration::from_millis(50)).await;
            }
            // What the last check found has come to the workers.
            sleep(Duration::from_millis(200)).await;
            let mut stream = TcpStream::connect(proxy.listener("hosts").unwrap())
                .await
                .unwrap();
            let mut buffer = [0; 4096];
            for _ in 0..REQUESTS {
                stream
                    .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                    .await
                    .unwrap();
                let mut length = 0;
                while !buffer[..length].ends_with(b"old") && !buffer[..length].ends_with(b"new") {
                    let more = stream.read(&mut buffer[length..]).await.unwrap();
                    assert!(more > 0, "{side:?}");
                    length += more;
                }
            }
            let (old, new) = (old.borrow().1, new.borrow().1);
            println!("{side:?}: {old} and {new}");
            assert_eq!(old + new, REQUESTS);
            assert!((70..=150).contains(&new), "{side:?}: {new} of {REQUESTS}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A fifth of them is a hundred.
const REQUESTS: usize = 500;
/// Of checks, one in a second: in that time the other host gets its whole weight.
const FAILS: usize = 8;
