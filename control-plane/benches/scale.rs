//! How long one changed endpoint takes to reach every proxy of a large mesh, and what the control plane needs for it.
//!
//! `cargo bench -p outrigger-control-plane --bench scale -- [--clients N,N…] [--services N] [--each N] [--all N] [--rounds N]`
//!
//! Each client is a proxy as the control plane sees one: a connection in mTLS with a certificate of its own, and a delta
//! stream that asks for clusters, endpoints, listeners, routes and secrets as Envoy does. It has some of the services,
//! a few of the clients have all, and one service everybody has. That one gets another endpoint in each round, by
//! the registration interface and by a file in turn; a round ends when the last client has it.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a program that prints figures, and stops when something is wrong"
)]

#[path = "scale/client.rs"]
mod client;
#[path = "scale/mesh.rs"]
mod mesh;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use outrigger_control_plane::admin::client::Client as Operator;
use outrigger_control_plane::ca::Authority;
use outrigger_control_plane::translate::Secrets;
use outrigger_xds_tests::binaries;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use mesh::Mesh;

/// The longest time until all clients have everything, or one change.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let mut clients = vec![250, 500, 1000];
    let mut mesh = Mesh {
        clients: 0,
        services: 10_000,
        each: 100,
        all: 10,
    };
    let mut rounds: u32 = 10;
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().expect("a value follows each flag");
        let number = || value.parse::<usize>().expect("a number");
        match word.as_str() {
            "--clients" => {
                clients = value
                    .split(',')
                    .map(|number| number.parse().expect("numbers"))
                    .collect();
            }
            "--services" => mesh.services = number(),
            "--each" => mesh.each = number(),
            "--all" => mesh.all = number(),
            "--rounds" => rounds = value.parse().expect("a number"),
            _ => panic!("there is no {word}"),
        }
    }
    println!(
        "{} services; {} for each client, all for {} clients; {rounds} changes of each kind",
        mesh.services, mesh.each, mesh.all
    );
    println!(
        "{:>8} {:>10} {:>10} {:>9} {:>9}  {:<12} {:>9} {:>9} {:>9} {:>9}",
        "clients",
        "all in, s",
        "CPU, s",
        "MB",
        "peak MB",
        "change by",
        "first, ms",
        "last, ms",
        "worst",
        "CPU, ms"
    );
    for clients in clients {
        mesh.clients = clients;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        print!("{}", runtime.block_on(measure(&mesh, rounds)));
    }
}

async fn measure(mesh: &Mesh, rounds: u32) -> String {
    let folder = binaries::scratch(&format!("bench-scale-{}", mesh.clients)).unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("mesh")).unwrap();
    mesh.write(&folder.join("mesh"));
    let state = folder.join("state");
    let day = Duration::from_secs(86_400);
    let authority = Authority::open(&state, "mesh.local", day).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let plane = Plane::start(&folder, server).await;
    let (send, mut seen) = mpsc::unbounded_channel();
    let began = Instant::now();
    for number in 0..mesh.total() {
        let identity = format!("spiffe://mesh.local/ns/default/sa/c{number}");
        let svid = authority.svid(&identity).expect("a certificate");
        let tls = Operator::tls(&authority.roots(), Some((&svid.certificate, &svid.key))).unwrap();
        let node = format!("sidecar/default/c{number}");
        let run = client::run(server, tls, node, mesh.expected(number), send.clone());
        drop(tokio::spawn(run));
    }
    for _ in 0..mesh.total() {
        timeout(PATIENCE, seen.recv())
            .await
            .expect("all have everything in time")
            .expect("a client is left");
    }
    let all_in = began.elapsed();
    let initial = plane.cpu();
    sleep(Duration::from_secs(3)).await;
    let resident = plane.memory("VmRSS");
    let mut out = String::new();
    for kind in ["registration", "file"] {
        let mut firsts = Vec::new();
        let mut lasts = Vec::new();
        let before = plane.cpu();
        for round in 1..=rounds {
            let began = Instant::now();
            if kind == "file" {
                mesh.change(&folder.join("mesh"), round);
            } else {
                plane.register(round).await;
            }
            let mut first = None;
            for _ in 0..mesh.total() {
                let at: Instant = timeout(PATIENCE, seen.recv())
                    .await
                    .expect("all have the change in time")
                    .expect("a client is left");
                first.get_or_insert(at.duration_since(began));
                if lasts.len() < usize::try_from(round).unwrap() {
                    lasts.push(Duration::ZERO);
                }
                let last = lasts.last_mut().unwrap();
                *last = (*last).max(at.duration_since(began));
            }
            firsts.push(first.unwrap());
            // What was pushed is accepted before the next change.
            sleep(Duration::from_millis(1000)).await;
        }
        let cpu = (plane.cpu() - before) / rounds;
        firsts.sort_unstable();
        lasts.sort_unstable();
        let middle = firsts.len() / 2;
        let ms = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1000.0);
        writeln!(
            out,
            "{:>8} {:>10.1} {:>10.1} {:>9} {:>9}  {kind:<12} {:>9} {:>9} {:>9} {:>9}",
            mesh.total(),
            all_in.as_secs_f64(),
            initial.as_secs_f64(),
            resident,
            plane.memory("VmHWM"),
            ms(firsts[middle]),
            ms(lasts[middle]),
            ms(*lasts.last().unwrap()),
            ms(cpu),
        )
        .unwrap();
    }
    out
}

/// The control plane that is measured.
struct Plane {
    process: Child,
    operator: Operator,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Plane {
    async fn start(folder: &Path, server: SocketAddr) -> Self {
        let log = std::fs::File::create(folder.join("control-plane.log")).unwrap();
        let state = folder.join("state");
        let process = Command::new(env!("CARGO_BIN_EXE_outrigger-control-plane"))
            .args(["--log", "warn", "run"])
            .arg(folder.join("mesh"))
            .arg("--state")
            .arg(&state)
            .args(["--listen", &server.to_string()])
            .args(["--certificate-ttl", "86400"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        let token = state.join("operator-token");
        while tokio::net::TcpStream::connect(server).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "it does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        let roots = Operator::file(&state.join("roots.pem")).unwrap();
        let operator = Operator {
            server: server.to_string(),
            tls: Some(Operator::tls(&roots, None).unwrap()),
            token: Some(Operator::file(&token).unwrap().trim().to_owned()),
        };
        Self { process, operator }
    }

    /// The instance of everybody's service moves to another port.
    async fn register(&self, round: u32) {
        let address = format!("127.0.0.1:{}", 20_000 + round);
        let body = json!({"port": 80, "address": address, "ttlSeconds": 3600});
        self.operator
            .call(Method::PUT, "/v1/registry/default/s0/bench", Some(&body))
            .await
            .unwrap();
    }

    /// Processor time of all its threads, from the kernel's ticks of 10 ms.
    fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = text.rsplit_once(')').unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks: u64 = [11, 12]
            .into_iter()
            .map(|at| fields[at].parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// A line of the kernel's status, in MB.
    fn memory(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024 / 1_000_000
    }
}
