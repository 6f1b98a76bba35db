//! The example `authorizer`, as its page tells it: an authorizer in Python, on grpcio and the classes of Envoy's own protos, verifies
//! tokens, decrypts a claim and passes the user on.
//!
//! `peers.sh` brings the libraries of PyPI. Without them the story says so on stderr, and proves nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use tokio::task::spawn_blocking;

/// The service, killed on drop.
struct Authorizer {
    process: Child,
    port: u16,
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python() -> Option<PathBuf> {
    let script = binaries::workspace().join("xds-tests/peers.sh");
    let output = Command::new("bash").arg(script).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

fn script() -> PathBuf {
    binaries::workspace().join("examples/authorizer/authorizer.py")
}

impl Authorizer {
    fn start(python: &PathBuf) -> Self {
        let mut process = Command::new(python)
            .arg(script())
            .args(["serve", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        Self { process, port }
    }
}

fn token(python: &PathBuf, user: &str) -> String {
    let mut command = Command::new(python);
    let output = command.arg(script()).args(["token", user]).output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .into()
}

/// The whole response to a GET.
fn get(address: SocketAddr, path: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// The example on ports that nobody has.
fn bootstrap(authorizer: u16) -> String {
    let folder = binaries::workspace().join("examples/authorizer");
    let yaml = std::fs::read_to_string(folder.join("envoy.yaml")).unwrap();
    yaml.replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 10000", "port_value: 0")
        .replace("port_value: 9001", &format!("port_value: {authorizer}"))
}

async fn told_on(name: &str, binary: PathBuf, python: PathBuf) {
    let service = {
        let python = python.clone();
        spawn_blocking(move || Authorizer::start(&python))
    };
    let service = service.await.unwrap();
    let folder = binaries::workspace()
        .join("target/stories/authorizer")
        .join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let yaml = bootstrap(service.port);
    let mut proxy = Proxy::start(&binary, &yaml, &folder).await.unwrap();
    let address = proxy.listener("ingress").unwrap();
    let admin = proxy.admin_address();
    let story = spawn_blocking(move || {
        let good = format!(
            "authorization: Bearer {}\r\n",
            token(&python, "billing/ann")
        );
        let other = format!("authorization: Bearer {}\r\n", token(&python, "sales/bob"));
        let passed = get(address, "/", &format!("{good}x-user-id: root\r\n"));
        assert!(passed.starts_with("HTTP/1.1 200"), "{passed}");
        assert!(
            passed.contains("x-service-got-user: billing/ann\r\n"),
            "{passed}"
        );
        assert!(!passed.contains("x-service-got-token"), "{passed}");
        assert!(get(address, "/billing", &good).contains("invoices"));
        let foreign = get(address, "/billing", &other);
        assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
        assert!(
            foreign.contains("content-type: application/json"),
            "{foreign}"
        );
        let mut forged = good.trim().to_owned();
        forged.pop();
        let bad = [
            String::new(),
            "authorization: Basic dTpw\r\n".to_owned(),
            "authorization: Bearer a.b.c\r\n".to_owned(),
            format!("{forged}\r\n"),
        ];
        for fields in &bad {
            let refused = get(address, "/", fields);
            assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
            assert!(
                refused.contains("{\"message\": \"Unauthorized\"}"),
                "{refused}"
            );
        }
        assert!(get(address, "/health", "").contains("healthy"));
        drop(service);
        let alone = get(address, "/", &good);
        assert!(alone.starts_with("HTTP/1.1 503"), "{alone}");
        assert!(get(address, "/health", "").contains("healthy"));
    });
    story.await.unwrap();
    let (_, stats) = admin_get(admin, "/stats?filter=http.ingress.ext_authz")
        .await
        .unwrap();
    for expected in ["ok: 2", "denied: 5", "error: 1"] {
        assert!(
            stats.contains(&format!("http.ingress.ext_authz.{expected}\n")),
            "{stats}"
        );
    }
    assert_eq!(proxy.obituary(), None);
}

#[tokio::test]
async fn an_authorizer_in_python_verifies_decrypts_and_passes_the_user_on() {
    let Some(python) = spawn_blocking(python).await.unwrap() else {
        #[allow(clippy::print_stderr, reason = "it is to be seen what was not tested")]
        {
            eprintln!("no libraries of PyPI: nothing was proved");
        }
        return;
    };
    told_on("outrigger", binaries::outrigger().unwrap(), python.clone()).await;
    told_on("envoy", binaries::envoy().unwrap(), python).await;
}
