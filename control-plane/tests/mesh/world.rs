//! What the story is told with: the control plane, proxies, processes and a client. All of them end with the story.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_outrigger-control-plane");

/// A process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control plane.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    state: PathBuf,
    running: Option<Running>,
}

impl Plane {
    pub(crate) fn start(folder: &Path, address: SocketAddr) -> Self {
        Self::start_with(folder, address, &[])
    }

    pub(crate) fn start_with(folder: &Path, address: SocketAddr, flags: &[&str]) -> Self {
        Self::start_in(folder, address, flags, &[])
    }

    /// The same with settings of its environment.
    pub(crate) fn start_in(
        folder: &Path,
        address: SocketAddr,
        flags: &[&str],
        environment: &[(&str, &Path)],
    ) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("control-plane.log"))
            .unwrap();
        let state = folder.join("state");
        let child = Command::new(PROGRAM)
            .arg("run")
            .arg(folder.join("mesh"))
            .arg("--state")
            .arg(&state)
            .arg("--listen")
            .arg(address.to_string())
            .args(flags)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let plane = Self {
            address,
            state,
            running: Some(Running(child)),
        };
        eventually(|| plane.command(&["status"]).0.then_some(()));
        plane
    }

    /// Ends it without a warning.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Whether a command of the operator went well, and what it said.
    pub(crate) fn command(&self, words: &[&str]) -> (bool, String) {
        let output = Command::new(PROGRAM)
            .args(words)
            .arg("--state")
            .arg(&self.state)
            .args(["--against", &self.address.to_string()])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    pub(crate) fn token(&self, node: &str, seconds: u64) -> String {
        let (done, text) = self.command(&["token", node, "--ttl", &seconds.to_string()]);
        assert!(done, "{text}");
        text.trim().to_owned()
    }

    /// The sum of the metrics of this name, of one type or of all.
    pub(crate) fn metric(&self, name: &str, kind: &str) -> u64 {
        let (done, text) = self.command(&["metrics"]);
        assert!(done, "{text}");
        let start = format!("outrigger_control_plane_{name}");
        text.lines()
            .filter(|line| line.starts_with(&start) && line.contains(kind))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

/// A control plane, a gateway, and two services with a sidecar each.
pub(crate) struct Mesh {
    pub(crate) folder: PathBuf,
    pub(crate) plane: Plane,
    pub(crate) gateway: SocketAddr,
    /// Where A's sidecar listens for calls to B.
    pub(crate) outbound_b: SocketAddr,
    /// Where B's sidecar listens.
    pub(crate) inbound_b: SocketAddr,
    _proxies: Vec<Running>,
}

impl Mesh {
    pub(crate) fn start(proxy_program: &Path, folder: &Path) -> Self {
        let [plane, gateway, outbound_b, inbound_a, inbound_b] = ports();
        let (b1, b2) = (process("b1", None), process("b2", None));
        let a = process("a", Some(outbound_b));
        fs::create_dir_all(folder.join("mesh")).unwrap();
        let write =
            |name: &str, text: String| fs::write(folder.join("mesh").join(name), text).unwrap();
        write(
            "mesh.yaml",
            include_str!("mesh.yaml").replace("GATEWAY", &gateway.port().to_string()),
        );
        write(
            "a.yaml",
            format!(
                "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: a}}
spec:
  address: 127.0.0.1
  serviceAccount: a
  services: [a]
  ports: [{{name: http, port: {}, appPort: {}}}]
  calls: [{{service: b, port: 80, listen: \"{outbound_b}\"}}]
",
                inbound_a.port(),
                a.port()
            ),
        );
        write(
            "b.yaml",
            format!(
                "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: b}}
spec:
  address: 127.0.0.1
  serviceAccount: b
  services: [b]
  ports: [{{name: http, port: {}, appPort: {}}}]
  calls: []
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: b2}}
spec: {{address: 127.0.0.1, sidecar: false, services: [b-v2], ports: [{{name: http, port: {}}}]}}
",
                inbound_b.port(),
                b1.port(),
                b2.port()
            ),
        );
        let mut mesh = Self {
            folder: folder.to_owned(),
            plane: Plane::start(folder, plane),
            gateway,
            outbound_b,
            inbound_b,
            _proxies: Vec::new(),
        };
        for (node, name) in [
            ("sidecar/default/a", "a"),
            ("sidecar/default/b", "b"),
            ("gateway/default/edge", "edge"),
        ] {
            let token = mesh.plane.token(node, 600);
            assert!(mesh.enroll(node, &token, name));
            mesh._proxies.push(proxy(proxy_program, &folder.join(name)));
        }
        mesh
    }

    /// Gets a certificate and a bootstrap into a folder of this name.
    pub(crate) fn enroll(&self, node: &str, token: &str, name: &str) -> bool {
        let status = Command::new(PROGRAM)
            .args([
                "agent",
                node,
                "--once",
                "--token",
                token,
                "--admin",
                "127.0.0.1:0",
            ])
            .args(["--server", &self.plane.address.to_string()])
            .arg("--roots")
            .arg(self.folder.join("state/roots.pem"))
            .arg("--directory")
            .arg(self.folder.join(name))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        status.success()
    }

    /// Replaces a file of the input.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.folder.join(name);
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder.join("mesh").join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join("mesh").join(name)).unwrap();
    }
}

/// Whether a directory is right, and what is wrong with it.
pub(crate) fn validate(directory: &Path) -> (bool, String) {
    let output = Command::new(PROGRAM)
        .arg("validate")
        .arg(directory)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// A proxy on the bootstrap of a folder.
pub(crate) fn proxy(program: &Path, folder: &Path) -> Running {
    let log = File::create(folder.join("proxy.log")).unwrap();
    let child = Command::new(program)
        .args(["--concurrency", "1", "--use-dynamic-base-id", "-c"])
        .arg(folder.join("bootstrap.yaml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

/// Waits for something, a minute at most.
#[track_caller]
pub(crate) fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it did not happen"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Status and body; status 0 if there is no answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        Ok((status, body.to_owned()))
    };
    ask().unwrap_or((0, String::new()))
}

/// A service as a thread: it says its name, who calls, and what the service behind it says. `/flaky` fails every second
/// time, `/slow` takes a second.
pub(crate) fn process(name: &'static str, next: Option<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    static TURN: AtomicU32 = AtomicU32::new(0);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // An answer is written in pieces.
                stream.set_nodelay(true).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let mut reader = BufReader::new(stream);
                loop {
                    let (mut first, mut caller) = (String::new(), String::new());
                    if reader.read_line(&mut first).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                        if line.trim().is_empty() {
                            break;
                        }
                        if line.starts_with("x-forwarded-client-cert") {
                            caller = line.trim().to_owned();
                        }
                    }
                    if first.contains("/slow") {
                        thread::sleep(Duration::from_secs(1));
                    }
                    let fails = first.contains("/flaky")
                        && TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
                    let (mut status, mut body) =
                        (if fails { 503 } else { 200 }, format!("{name} {caller}"));
                    if let Some(next) = next {
                        let (there, rest) = get(next, "/");
                        status = if there == 200 { status } else { 502 };
                        body = format!("{body} > {rest}");
                    }
                    let length = body.len();
                    if write!(
                        writer,
                        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
                    )
                    .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Ports that nobody has, and that the kernel gives to no client.
pub(crate) fn ports<const N: usize>() -> [SocketAddr; N] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = 10_000 + std::process::id() % 400 * 20;
    [(); N].map(|()| {
        loop {
            let port = start + TAKEN.fetch_add(1, Ordering::Relaxed);
            let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    })
}
