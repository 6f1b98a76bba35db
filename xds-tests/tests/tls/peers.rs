//! What cases share: words of logs, parts of bootstraps, and servers that OpenSSL plays.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::ports;
use tokio::time::{Instant, sleep};

use crate::pki::Pki;

pub const EXPIRED: &str = "at_depth_0:_certificate_has_expired";
pub const NO_ISSUER: &str = "at_depth_0:_unable_to_get_local_issuer_certificate";
pub const MISSING: &str =
    "268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE";

pub fn file_log(path: &Path, format: &str) -> String {
    format!(
        "[ {{ name: file, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ text_format_source: {{ inline_string: \"{format}\\n\" }} }} }} }} ]",
        path.display()
    )
}

pub const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub const ROUTER: &str = "{ name: router, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }";

/// Waits for line `count` of a log, from 1.
pub async fn line(log: &Path, count: usize) -> String {
    let patience = Instant::now() + Duration::from_secs(15);
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = text.lines().nth(count - 1) {
            return line.to_owned();
        }
        if Instant::now() > patience {
            return format!("no line {count} in {}", log.display());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A server that OpenSSL plays. Ends on drop.
pub struct Server {
    pub port: u16,
    child: Child,
}

impl Server {
    /// Starts it, and waits until it listens. A port that somebody else takes before OpenSSL does costs a second try.
    pub fn start(pki: &Pki, certificate: &str, arguments: &[&str]) -> Self {
        (0..5)
            .find_map(|_| Self::try_start(pki, certificate, arguments))
            .expect("OpenSSL listens")
    }

    fn try_start(pki: &Pki, certificate: &str, arguments: &[&str]) -> Option<Self> {
        let address = ports::free();
        let port = address.port();
        let child = Command::new("openssl")
            .args(["s_server", "-www", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(pki.crt(certificate))
            .arg("-key")
            .arg(pki.key(certificate))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let mut server = Self { port, child };
        for _ in 0..1200 {
            thread::sleep(Duration::from_millis(25));
            if !matches!(server.child.try_wait(), Ok(None)) {
                return None;
            }
            if ports::is_listening(address) {
                // If it is somebody else's, OpenSSL ends now.
                thread::sleep(Duration::from_millis(50));
                return matches!(server.child.try_wait(), Ok(None)).then_some(server);
            }
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
