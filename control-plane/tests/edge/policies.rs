//! What policies of a gateway ask of requests: keys, passwords, an authorizer, tokens of several issuers; and endpoints
//! that are asked how they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;

use crate::scene::{Scene, edge};
use crate::world::{eventually, ports};

#[test]
fn an_envoy_asks_who_calls_as_policies_say() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_asks_who_calls_as_policies_say() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

/// Status, head and body.
pub(crate) type Answer = (u16, String, String);

pub(crate) fn ask(address: SocketAddr, path: &str, headers: &[&str]) -> Answer {
    send(address, &format!("GET {path}"), headers, "")
}

/// `what` is a method and a path; without an answer the status is 0.
pub(crate) fn send(address: SocketAddr, what: &str, headers: &[&str], body: &str) -> Answer {
    let ask = || -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let more: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
        write!(
            stream,
            "{what} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{more}\r\n{body}"
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        Ok((
            status.unwrap_or(0),
            head.to_ascii_lowercase(),
            body.to_owned(),
        ))
    };
    ask().unwrap_or_default()
}

/// Serves with what `answer` says to a request's head, in lower case: status, headers, body.
pub(crate) fn process(
    answer: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        match reader.read_line(&mut head) {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                    let head = head.to_ascii_lowercase();
                    let length = head.split_once("content-length: ").map(|(_, it)| it);
                    let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
                    let mut received = vec![0; length.unwrap_or(0)];
                    if reader.read_exact(&mut received).is_err() {
                        return;
                    }
                    let (status, headers, body) = answer(&head);
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
                    );
                    if reader.get_mut().write_all(text.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The name that is in front of all that a process is told.
pub(crate) fn told(name: &'static str) -> SocketAddr {
    process(move |head| {
        let body = format!("{name}\n{head}{}", "x".repeat(2000));
        (200, "content-type: text/plain\r\n".to_owned(), body)
    })
}

/// Lets pass who has the right cookie, and says who it is.
fn authorizer() -> SocketAddr {
    process(|head| {
        assert!(head.starts_with("get /check/"), "{head}");
        match head.contains("cookie: session=good") {
            true => (200, "x-user: carla\r\n".to_owned(), String::new()),
            false => (
                403,
                "location: /login\r\n".to_owned(),
                "who are you?".to_owned(),
            ),
        }
    })
}

pub(crate) fn input(gateway: SocketAddr, shop: SocketAddr, authorizer: SocketAddr) -> String {
    format!(
        "
{}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: shop }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
  - {{ name: open, backendRefs: [{{ name: shop, port: 80 }}] }}
  - {{ name: keys, matches: [{{ path: {{ value: /keys }} }}], backendRefs: [{{ name: shop, port: 80 }}] }}
  - {{ name: passwords, matches: [{{ path: {{ value: /passwords }} }}], backendRefs: [{{ name: shop, port: 80 }}] }}
  - {{ name: asked, matches: [{{ path: {{ value: /asked }} }}], backendRefs: [{{ name: shop, port: 80 }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: shop }}
spec: {{ ports: [{{ port: 80, targetPort: main }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: authorizer }}
spec: {{ ports: [{{ port: 80, targetPort: {} }}] }}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: shop }}
spec: {{ services: [shop], address: 127.0.0.1, sidecar: false, ports: [{{ name: main, port: {} }}] }}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: authorizer }}
spec: {{ services: [authorizer], address: 127.0.0.1, sidecar: false, ports: [{{ port: {} }}] }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: clients }}
type: Opaque
stringData: {{ ann: key-of-ann, bob: key-of-bob }}
---
apiVersion: v1
kind: Secret
metadata: {{ name: users }}
type: Opaque
stringData: {{ .htpasswd: 'ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=' }}
",
        edge(gateway),
        authorizer.port(),
        shop.port(),
        authorizer.port(),
    )
}

const POLICIES: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: all }
spec:
  targetRefs: [{ kind: Gateway, name: edge }]
  compression: [gzip]
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: keys }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: keys }]
  apiKeys: { secrets: [clients], clientHeader: x-client }
  rateLimits:
  - { by: [{ header: x-client }], requests: 2, per: 1h }
  - { by: [{ header: x-tenant }, address], paths: [/keys/tenant*], requests: 1, per: 1h }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: passwords }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: passwords }]
  basicAuth: { secret: users }
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: { name: asked }
spec:
  targetRefs: [{ kind: HTTPRoute, name: shop, sectionName: asked }]
  extAuthz:
    http: { service: authorizer, port: 80, path: /check, acceptHeaders: [x-user], clientHeaders: [location] }
    sendHeaders: [cookie]
    timeout: 2s
";

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-policies-{name}")).unwrap();
    let [gateway] = ports();
    let (shop, authorizer) = (told("shop"), authorizer());
    let mut scene = Scene::start(&folder, &input(gateway, shop, authorizer), &[]);
    scene.join(program, "gateway/default/edge", |_| {});
    eventually(|| (ask(gateway, "/keys", &[]).0 == 200).then_some(()));
    scene.write("policies.yaml", POLICIES);
    eventually(|| (ask(gateway, "/keys", &[]).0 == 401).then_some(()));

    // A key is whose it is, and does not go on; a client cannot say who he is by himself.
    let with = |key: &str| {
        ask(
            gateway,
            "/keys",
            &[&format!("x-api-key: {key}"), "x-client: bob"],
        )
    };
    let (status, _, body) = with("key-of-ann");
    assert_eq!(status, 200);
    assert!(body.contains("x-client: ann\r\n"), "{body}");
    assert!(
        !body.contains("key-of-ann") && !body.contains("x-client: bob"),
        "{body}"
    );
    assert_eq!(with("key-of-eve").0, 401);
    // Each client has two calls, and one from here without a tenant.
    assert_eq!([with("key-of-ann").0, with("key-of-ann").0], [200, 429]);
    assert_eq!(with("key-of-bob").0, 200);
    let tenant = |headers: &[&str]| {
        let mut all = vec!["x-api-key: key-of-bob"];
        all.extend(headers);
        ask(gateway, "/keys/tenant?a=b", &all).0
    };
    assert_eq!(tenant(&[]), 200);
    assert_eq!(tenant(&[]), 429);

    // ann:test
    assert_eq!(ask(gateway, "/passwords", &[]).0, 401);
    let password = |text: &str| {
        ask(
            gateway,
            "/passwords",
            &[&format!("authorization: Basic {text}")],
        )
        .0
    };
    assert_eq!(password("YW5uOnRlc3Q="), 200);
    assert_eq!(password("YW5uOm90aGVy"), 401);

    let (status, head, body) = ask(gateway, "/asked", &["x-user: mallory"]);
    assert_eq!((status, body.as_str()), (403, "who are you?"));
    assert!(head.contains("location: /login"), "{head}");
    let (status, _, body) = ask(
        gateway,
        "/asked",
        &["cookie: session=good", "x-user: mallory"],
    );
    assert_eq!(status, 200);
    assert!(
        body.contains("x-user: carla") && !body.contains("mallory"),
        "{body}"
    );

    // Nothing is asked of the rest; who takes it gets it compressed.
    let (status, head, _) = ask(gateway, "/", &["accept-encoding: gzip"]);
    assert_eq!(status, 200);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(!ask(gateway, "/", &[]).1.contains("content-encoding"));

    // What cannot be asked lets nobody pass, and the rest goes on.
    scene.write("policies.yaml", &POLICIES.replace("[clients]", "[nobodys]"));
    eventually(|| (with("key-of-bob").0 == 500).then_some(()));
    assert_eq!(ask(gateway, "/", &[]).0, 200);
    let (_, status) = scene.plane.command(&["status"]);
    assert!(
        status.contains("there is no Secret default/nobodys"),
        "{status}"
    );
    scene.remove("policies.yaml");
    eventually(|| (ask(gateway, "/keys", &[]).0 == 200).then_some(()));
}

#[test]
fn an_envoy_leaves_out_endpoints_that_are_not_well() {
    leave_out(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_leaves_out_endpoints_that_are_not_well() {
    leave_out(&binaries::outrigger().unwrap(), "outrigger");
}

/// A process that says of itself whether it is well, and answers in either case.
fn patient(name: &'static str, is_well: &Arc<AtomicBool>, fails: &Arc<AtomicBool>) -> SocketAddr {
    let (is_well, fails) = (Arc::clone(is_well), Arc::clone(fails));
    process(move |head| {
        let is_check = head.starts_with("get /healthz ");
        let status = match (is_check, is_well.load(Ordering::Relaxed)) {
            (true, true) => 202,
            (true, false) => 500,
            (false, _) if fails.load(Ordering::Relaxed) => 502,
            (false, _) => 200,
        };
        (status, String::new(), name.to_owned())
    })
}

fn leave_out(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-health-{name}")).unwrap();
    let [gateway] = ports();
    let flags = [(); 4].map(|()| Arc::new(AtomicBool::new(true)));
    let [well_1, well_2, fails_1, fails_2] = flags;
    fails_1.store(false, Ordering::Relaxed);
    fails_2.store(false, Ordering::Relaxed);
    let one = patient("one", &well_1, &fails_1);
    let two = patient("two", &well_2, &fails_2);
    let policy = |more: &str| {
        format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: shop }}
spec:
  service: {{ name: shop }}
{more}
"
        )
    };
    let mut scene = Scene::start(&folder, &input(gateway, one, two), &[]);
    scene.write(
        "second.yaml",
        &format!(
            "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: second }}
spec: {{ services: [shop], address: 127.0.0.1, sidecar: false, ports: [{{ name: main, port: {} }}] }}
",
            two.port(),
        ),
    );
    scene.join(program, "gateway/default/edge", |_| {});
    // Who answers twenty calls, by name, and with what.
    let answers = || {
        let mut all: Vec<_> = (0..20)
            .map(|_| {
                let (status, _, body) = ask(gateway, "/", &[]);
                format!("{status} {body}")
            })
            .collect();
        all.sort();
        all.dedup();
        all
    };
    eventually(|| (answers() == ["200 one", "200 two"]).then_some(()));

    scene.write(
        "policy.yaml",
        &policy("  healthCheck: { path: /healthz, statuses: [202], interval: 100ms, timeout: 2s, unhealthyThreshold: 1, healthyThreshold: 1 }"),
    );
    well_2.store(false, Ordering::Relaxed);
    eventually(|| (answers() == ["200 one"]).then_some(()));
    well_2.store(true, Ordering::Relaxed);
    eventually(|| (answers() == ["200 one", "200 two"]).then_some(()));

    // Nobody asks any more; who fails twice is left out.
    scene.write(
        "policy.yaml",
        &policy("  outlierDetection: { consecutiveGatewayErrors: 2, consecutiveErrors: 1000, interval: 100ms, baseEjectionTime: 1s, maxEjectionTime: 1s, maxEjectionPercent: 50 }"),
    );
    fails_2.store(true, Ordering::Relaxed);
    well_2.store(false, Ordering::Relaxed);
    eventually(|| (answers() == ["200 one"]).then_some(()));
    fails_2.store(false, Ordering::Relaxed);
    eventually(|| (answers() == ["200 one", "200 two"]).then_some(()));
}
