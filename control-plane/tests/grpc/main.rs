//! gRPC of other makers without a proxy: their clients call by `xds:///` targets a server without TLS, one behind a
//! sidecar, and one that speaks xDS itself; a stranger is refused by the last two; changes reach a client that runs.
//!
//! `peers.sh` sets them up. Where one cannot be, its story says so and proves nothing; in CI it fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a story stops at what it did not expect, and tells what it does not prove"
)]

#[path = "../mesh/world.rs"]
#[allow(dead_code, reason = "the story of the mesh needs more of it")]
mod world;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use outrigger_xds_tests::binaries;
use world::{Plane, Running, eventually, ports};

#[test]
fn grpcio_needs_no_proxy() {
    let Some(python) = python() else { return };
    tell("python", &Peer::python(&python), &Peer::python(&python));
}

#[test]
fn grpc_of_go_needs_no_proxy() {
    let Some(program) = script("control-plane/tests/grpc/peers.sh", &["go"]) else {
        return;
    };
    let words = |words: &[&str]| {
        let all = std::iter::once(program.to_str().unwrap()).chain(words.iter().copied());
        all.map(str::to_owned).collect()
    };
    let go = Peer {
        client: words(&[]),
        server: words(&["xds"]),
        has_socket: false,
    };
    let Some(python) = python() else { return };
    tell("go", &go, &Peer::python(&python));
}

#[test]
fn grpc_js_needs_no_proxy_but_the_socket_of_an_agent() {
    let Some(folder) = script("control-plane/tests/grpc/peers.sh", &["node"]) else {
        return;
    };
    let Some(python) = python() else { return };
    let node = Peer {
        client: vec![
            "node".to_owned(),
            source("client.mjs"),
            folder.to_str().unwrap().to_owned(),
        ],
        server: Peer::python(&python).server,
        has_socket: true,
    };
    tell("node", &node, &Peer::python(&python));
}

/// How a maker's gRPC is started.
struct Peer {
    client: Vec<String>,
    /// The port follows.
    server: Vec<String>,
    /// It reaches the control plane by the socket of its agent.
    has_socket: bool,
}

impl Peer {
    fn python(python: &Path) -> Self {
        let python = python.to_str().unwrap().to_owned();
        Self {
            client: vec![python.clone(), source("client.py")],
            server: vec![python, source("server.py"), "xds".to_owned()],
            has_socket: false,
        }
    }
}

fn tell(name: &str, peer: &Peer, python: &Peer) {
    let folder = binaries::scratch(&format!("control-plane-grpc-{name}")).unwrap();
    let mesh = Mesh::start(&folder, peer, python);
    let mut friend = mesh.client("friend", peer);
    assert_eq!(friend.until("xds:///plain", "hello"), "hello of plain");
    assert_eq!(
        friend.until("xds:///echo.default:80", "hello"),
        "hello of plain",
        "by mTLS through the sidecar, which alone knows the port"
    );
    assert_eq!(friend.until("xds:///direct", "hello"), "hello of xds");
    let mut stranger = mesh.client("stranger", peer);
    assert_eq!(stranger.until("xds:///plain", "hello"), "hello of plain");
    for target in ["xds:///echo.default:80", "xds:///direct"] {
        stranger.until(target, "PERMISSION_DENIED");
    }
    a_change_reaches_a_client_that_runs(&mesh, &mut friend);
    certificates_are_renewed_beside_the_processes(&mesh, peer, &mut friend);
}

/// An injected fault, and a service that moves to other endpoints.
fn a_change_reaches_a_client_that_runs(mesh: &Mesh, friend: &mut Client) {
    mesh.write(
        "fault.yaml",
        "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: plain}
spec: {service: {name: plain}, fault: {abort: {status: 503, percent: 100}}}
",
    );
    friend.until("xds:///plain", "UNAVAILABLE");
    mesh.write(
        "fault.yaml",
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moved}
spec:
  parentRefs: [{group: '', kind: Service, name: plain}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /peer.Echo}}]
    backendRefs: [{name: direct, port: 80}]
",
    );
    friend.until("xds:///plain", "hello of xds");
    std::fs::remove_file(mesh.folder.join("mesh/fault.yaml")).unwrap();
    friend.until("xds:///plain", "hello of plain");
    let (_, status) = mesh.plane.command(&["status"]);
    assert!(status.contains("(gRPC"), "{status}");
    assert!(!status.contains("refused:"), "{status}");
}

/// Certificates live ten seconds here: who had only the first one would reach nobody after that.
fn certificates_are_renewed_beside_the_processes(mesh: &Mesh, peer: &Peer, friend: &mut Client) {
    let file = mesh.folder.join("friend/certificate.pem");
    let mut seen = vec![std::fs::read(&file).unwrap()];
    eventually(|| {
        let now = std::fs::read(&file).unwrap();
        if !seen.contains(&now) {
            seen.push(now);
        }
        (seen.len() == 4).then_some(())
    });
    let mut fresh = mesh.client("friend", peer);
    for target in ["xds:///echo.default:80", "xds:///direct"] {
        fresh.until(target, "hello");
        friend.until(target, "hello");
    }
}

/// A control plane, two servers and a sidecar, and the agents of all.
struct Mesh {
    folder: PathBuf,
    plane: Plane,
    _running: Vec<Running>,
}

impl Mesh {
    fn start(folder: &Path, peer: &Peer, python: &Peer) -> Self {
        let [plane, inbound, app, direct] = ports();
        std::fs::create_dir(folder.join("mesh")).unwrap();
        let text = include_str!("mesh.yaml")
            .replace("INBOUND", &inbound.port().to_string())
            .replace("APP", &app.port().to_string())
            .replace("DIRECT", &direct.port().to_string());
        std::fs::write(folder.join("mesh/mesh.yaml"), text).unwrap();
        let plane = Plane::start_with(folder, plane, &["--certificate-ttl", "10"]);
        let mut running = Vec::new();
        for name in ["echo", "direct", "friend", "stranger"] {
            let socket = peer.has_socket && matches!(name, "friend" | "stranger");
            running.push(agent(&plane, folder, name, socket));
        }
        running.push(world::proxy(
            &binaries::outrigger().unwrap(),
            &folder.join("echo"),
        ));
        let server = |words: &[String], port: u16, own: &str| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg(port.to_string());
            process(command, folder, own)
        };
        let mut plain = python.server.clone();
        plain[2] = "plain".to_owned();
        running.push(server(&plain, app.port(), "plain"));
        running.push(server(&peer.server, direct.port(), "direct"));
        Self {
            folder: folder.to_owned(),
            plane,
            _running: running,
        }
    }

    fn client(&self, name: &str, peer: &Peer) -> Client {
        let mut command = Command::new(&peer.client[0]);
        command.args(&peer.client[1..]);
        let log = std::fs::File::create(self.folder.join(format!("{name}-client.log"))).unwrap();
        let mut process = command
            .env("GRPC_XDS_BOOTSTRAP", bootstrap(&self.folder, name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        Client {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
        }
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.folder.join(name);
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.join("mesh").join(name)).unwrap();
    }
}

/// A client that runs, and calls what it is told to.
struct Client {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Calls until the answer begins so, and returns it.
    fn until(&mut self, target: &str, start: &str) -> String {
        let mut last = String::new();
        let start_of_wait = tokio::time::Instant::now();
        while start_of_wait.elapsed() < std::time::Duration::from_secs(60) {
            writeln!(self.input, "{target}").unwrap();
            last = self.output.next().unwrap().unwrap();
            if plain(&last).starts_with(&plain(start)) {
                return last;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{target} did not answer {start}, but {last}");
    }
}

/// Without what the makers of gRPC write otherwise: `PERMISSION_DENIED` is `PermissionDenied` in Go.
fn plain(text: &str) -> String {
    text.replace('_', "").to_ascii_lowercase()
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent of a workload, which runs on and renews its certificate.
fn agent(plane: &Plane, folder: &Path, name: &str, has_socket: bool) -> Running {
    let node = format!("sidecar/default/{name}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control-plane"));
    command
        .args(["agent", &node, "--token", &plane.token(&node, 600)])
        .args(["--admin", "127.0.0.1:0"])
        .args(["--server", &plane.address.to_string()])
        .arg("--roots")
        .arg(folder.join("state/roots.pem"))
        .arg("--directory")
        .arg(folder.join(name));
    if has_socket {
        command
            .arg("--socket")
            .arg(folder.join(name).join("xds.sock"));
    }
    let agent = process(command, folder, &format!("{name}-agent"));
    eventually(|| {
        let is_ready = folder.join(name).join("bootstrap.yaml").exists()
            && (!has_socket || folder.join(name).join("xds.sock").exists());
        is_ready.then_some(())
    });
    agent
}

fn bootstrap(folder: &Path, name: &str) -> PathBuf {
    folder.join(name).join("grpc-bootstrap.json")
}

/// A process with a log of its name; one that speaks xDS has the identity of that name.
fn process(mut command: Command, folder: &Path, name: &str) -> Running {
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    let child = command
        .env("GRPC_XDS_BOOTSTRAP", bootstrap(folder, name))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

fn source(name: &str) -> String {
    format!("{}/tests/grpc/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn python() -> Option<PathBuf> {
    script("xds-tests/peers.sh", &[])
}

/// What a set-up script prints.
fn script(path: &str, words: &[&str]) -> Option<PathBuf> {
    let output = Command::new("bash")
        .arg(binaries::workspace().join(path))
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    if !output.status.success() {
        println!("{path} {words:?} HAS FAILED: THIS STORY PROVES NOTHING.");
        assert!(
            std::env::var_os("CI").is_none(),
            "{path} {words:?} has to work in CI"
        );
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().into())
}
