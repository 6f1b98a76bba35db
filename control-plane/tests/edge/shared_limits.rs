//! The rate limit service with its counters in Redis, for two control planes; and asked by grpcio with Envoy's own protos.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use outrigger_xds_tests::binaries;
use serde_json::{Value as Json, json};

use crate::rate_limits::{bootstrap, limits};
use crate::scene::{Scene, get_host, process_at};
use crate::world::{Running, eventually, ports, proxy};

/// A Redis that forgets nothing when it is killed; None where there is none.
fn redis(folder: &Path, address: SocketAddr) -> Option<Running> {
    fs::create_dir_all(folder).unwrap();
    let started = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--requirepass", "secret"])
        .args(["--port", &address.port().to_string()])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(Running(child)),
        Err(error) => {
            eprintln!(
                "NO redis-server ({error}): THIS STORY PROVES NOTHING. apt-get install redis-server"
            );
            None
        }
    }
}

fn plane(folder: &Path, service: SocketAddr, redis: SocketAddr, text: &str) -> Scene {
    fs::create_dir_all(folder).unwrap();
    let password = folder.join("password");
    fs::write(&password, "secret\n").unwrap();
    let (service, url) = (service.to_string(), format!("redis://{redis}/2"));
    let flags = [
        "--rate-limit-listen",
        &service,
        "--rate-limit-store",
        "redis",
    ];
    let password = ["--rate-limit-redis-password", password.to_str().unwrap()];
    let flags = [&flags[..], &["--rate-limit-redis", &url], &password].concat();
    Scene::start(folder, text, &flags)
}

#[test]
fn two_control_planes_with_one_redis_share_a_limit() {
    let folder = binaries::scratch("edge-limits-shared").unwrap();
    let _ = fs::remove_dir_all(&folder);
    let [store, first, second, front, other, strict, process] = ports();
    let Some(running) = redis(&folder.join("redis"), store) else {
        return;
    };
    process_at(process, "process");
    let planes = [first, second].map(|service| {
        plane(
            &folder.join(service.port().to_string()),
            service,
            store,
            &limits(4),
        )
    });
    let program = binaries::envoy().unwrap();
    let outrigger = binaries::outrigger().unwrap();
    let strictly = |yaml: String| {
        yaml.replace(
            "timeout: 5s",
            "timeout: 5s\n              failure_mode_deny: true",
        )
    };
    let proxies = [
        (&program, front, bootstrap(front, first, process)),
        (&outrigger, other, bootstrap(other, second, process)),
        (
            &program,
            strict,
            strictly(bootstrap(strict, second, process)),
        ),
    ];
    let _proxies = proxies.map(|(program, listen, yaml)| {
        let folder = folder.join(format!("proxy-{}", listen.port()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("bootstrap.yaml"), yaml).unwrap();
        proxy(program, &folder)
    });
    let call = |at: SocketAddr, user: &str| get_host(at, user, "/").0;
    for at in [front, other, strict] {
        eventually(|| (call(at, &format!("nobody-{}", at.port())) == 200).then_some(()));
    }
    // Four in all, of whichever control plane is asked.
    let told = [front, other, front, strict, other, front].map(|at| call(at, "ann"));
    assert_eq!(told, [200, 200, 200, 200, 429, 429]);
    assert_eq!(call(front, "bob"), 200);

    // Without Redis it is as the proxy wants it, and none waits for long.
    drop(running);
    eventually(|| (call(front, "ann") == 200).then_some(()));
    let begun = tokio::time::Instant::now();
    assert_eq!((call(other, "ann"), call(strict, "ann")), (200, 500));
    // Of the five seconds that each of them would wait.
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    for scene in &planes {
        assert!(scene.plane.metric("rate_limit_answers_total", "error") > 0);
        let lost = scene.log(&["The counters of rate limits are away."]);
        assert_eq!(lost.len(), 1, "{lost:?}");
    }

    // And when it is back, it has not forgotten.
    let _running = redis(&folder.join("redis"), store);
    for at in [front, other, strict] {
        eventually(|| (call(at, "ann") == 429).then_some(()));
    }
    assert_eq!(call(strict, "bob"), 200);
    for scene in &planes {
        assert!(scene.plane.metric("rate_limit_answers_total", "over_limit") > 0);
        eventually(|| (!scene.log(&["rate limits are there again."]).is_empty()).then_some(()));
    }
}

/// `rls.py`.
struct Asker {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Asker {
    fn start(python: &Path, address: SocketAddr) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge/rls.py");
        let mut process = Command::new(python)
            .arg(script)
            .args([&address.to_string(), "apis"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            input,
            output,
        }
    }

    fn ask(&mut self, request: &Json) -> Json {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn python() -> Option<PathBuf> {
    let script = binaries::workspace().join("xds-tests/peers.sh");
    let output = Command::new("bash").arg(script).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

const APIS: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: RateLimit
metadata: { name: apis }
spec:
  domain: apis
  headers: true
  limits:
  - { name: per-user, match: [{ key: user }], requests: 5, per: 1h }
  - { name: search, match: [{ key: user }, { key: path, value: /search }], requests: 2, per: 30d }
";

/// What grpcio sees, whatever the store.
fn tell(asker: &mut Asker) {
    let ann = json!([["user", "ann"]]);
    let search = json!([["user", "ann"], ["path", "/search"]]);
    let unlimited = json!([["color", "red"]]);
    // None said is one hit.
    let first = asker.ask(&json!({"descriptors": [ann, unlimited]}));
    assert_eq!(first["overall"], "OK", "{first}");
    assert_eq!(
        first["statuses"][0]["limit"],
        json!(["per-user", 5, "HOUR"])
    );
    assert_eq!(first["statuses"][0]["remaining"], 4);
    assert_eq!(
        first["statuses"][1],
        json!({"code": "OK", "limit": null, "remaining": 0, "reset": 0})
    );
    assert_eq!(first["headers"]["ratelimit-limit"], "5");
    assert_eq!(first["headers"]["ratelimit-remaining"], "4");
    assert_eq!(first["headers"]["ratelimit-reset"], "0");
    // Two for all descriptors, but one for the search.
    let more = asker.ask(&json!({"descriptors": [ann, search], "hits": 2, "own": [null, 1]}));
    assert_eq!(more["overall"], "OK", "{more}");
    assert_eq!(more["statuses"][0]["remaining"], 2);
    assert_eq!(more["statuses"][1]["remaining"], 1);
    assert_eq!(more["statuses"][1]["limit"], json!(["search", 2, "MONTH"]));
    assert_eq!(
        more["headers"]["ratelimit-limit"], "2",
        "the one with least left"
    );
    // One of two refuses: neither counts.
    let refused = asker.ask(&json!({"descriptors": [ann, search], "hits": 2}));
    assert_eq!(refused["overall"], "OVER_LIMIT", "{refused}");
    assert_eq!(refused["statuses"][0]["code"], "OK");
    assert_eq!(refused["statuses"][1]["code"], "OVER_LIMIT");
    assert_eq!(refused["headers"]["ratelimit-limit"], "2");
    assert!(refused["statuses"][1]["reset"].as_u64().unwrap() > 0);
    let too_many = asker.ask(&json!({"descriptors": [ann], "hits": 3}));
    assert_eq!(too_many["overall"], "OVER_LIMIT", "{too_many}");
    let rest = asker.ask(&json!({"descriptors": [ann], "hits": 2}));
    assert_eq!(rest["overall"], "OK", "{rest}");
    assert_eq!(rest["statuses"][0]["remaining"], 0);
    assert!(rest["statuses"][0]["reset"].as_u64().unwrap() <= 7200);
    let over = asker.ask(&json!({"descriptors": [ann]}));
    assert_eq!(over["statuses"][0]["code"], "OVER_LIMIT", "{over}");
    let many: Vec<_> = (0..101).map(|_| ann.clone()).collect();
    assert_eq!(
        asker.ask(&json!({"descriptors": many}))["error"],
        "INVALID_ARGUMENT"
    );
}

#[test]
fn grpcio_with_the_protos_of_envoy_is_told_what_is_left() {
    let Some(python) = python() else {
        eprintln!("NO PEERS OF PYPI: THIS STORY PROVES NOTHING");
        return;
    };
    let folder = binaries::scratch("edge-limits-grpcio").unwrap();
    let _ = fs::remove_dir_all(&folder);
    let [service, shared, store] = ports();
    let flags = ["--rate-limit-listen", &service.to_string()];
    let _scene = Scene::start(&folder.join("memory"), APIS, &flags);
    tell(&mut Asker::start(&python, service));
    let Some(running) = redis(&folder.join("redis"), store) else {
        return;
    };
    let _plane = plane(&folder.join("shared"), shared, store, APIS);
    let mut asker = Asker::start(&python, shared);
    // It may still start.
    let probe = json!({"descriptors": [[["user", "nobody"]]]});
    eventually(|| (asker.ask(&probe)["overall"] == "OK").then_some(()));
    tell(&mut asker);
    drop(running);
    let away = asker.ask(&probe);
    assert_eq!(away["error"], "UNAVAILABLE", "{away}");
}
