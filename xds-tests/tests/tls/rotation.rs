//! Two sidecars with mTLS between them, whose certificates, keys and roots are replaced while they work.
//!
//! Requests are due at an even pace, and every one that is due must be answered with 200. Each rotation lasts until clients of the
//! sidecars have come back with its certificate, over connections that were made after it.
//!
//! A rotation is what Kubernetes does: a folder with a new version, and a link that is moved onto it. A root is replaced in three
//! rotations: both roots are trusted, then the leaves are of the new one, then the old one is gone.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use crate::peers::{HCM, ROUTER};
use crate::pki::{Authority, params};

const ROTATIONS: usize = 102;
const IDLE: usize = 100;
const SOCKETS: usize = 1_000;
/// Requests per second, and the connections that carry them.
const RATE: u64 = 1_000;
const CLIENTS: u64 = 20;
/// The time between two requests of a client.
const PACE: Duration = Duration::from_micros(1_000_000 * CLIENTS / RATE);
/// The connections that sidecars make, and the requests that are answered, before the next rotation.
const HANDSHAKES: u64 = 2;
const REQUESTS: u64 = 25;

/// A folder whose link `data` is moved from version to version.
pub struct Secrets {
    pub folder: PathBuf,
    version: u8,
    /// The serial number of the certificates: the version with which they came.
    serial: u8,
    root: (Authority, String),
    /// What is trusted, in PEM.
    trusted: String,
}

fn authority(number: usize) -> (Authority, String) {
    let mut params = params(&format!("Root {number}"), 2035);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

impl Secrets {
    pub fn new(folder: PathBuf) -> Self {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let root = authority(0);
        let mut secrets = Self {
            trusted: root.1.clone(),
            root,
            version: 0,
            serial: 0,
            folder,
        };
        let shown = secrets.folder.display().to_string();
        let resource = |name: &str, content: &str| {
            let text = format!(
                "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: {name}\n  {content}\n"
            );
            fs::write(secrets.folder.join(format!("{name}.yaml")), text).unwrap();
        };
        let watched = format!("watched_directory: {{ path: {shown} }}");
        for name in ["server", "client"] {
            resource(
                name,
                &format!(
                    "tls_certificate: {{ certificate_chain: {{ filename: {shown}/data/{name}.crt }}, private_key: {{ filename: {shown}/data/{name}.key }}, {watched} }}"
                ),
            );
        }
        resource(
            "root",
            &format!(
                "validation_context: {{ trusted_ca: {{ filename: {shown}/data/root.crt }}, {watched} }}"
            ),
        );
        secrets.write(true);
        secrets
    }

    /// One rotation: the first, second or third of a change of the root.
    fn rotate(&mut self, old: &mut Option<String>) {
        match self.version % 3 {
            1 => {
                let new = authority(self.version.into());
                *old = Some(std::mem::replace(&mut self.root, new).1);
                self.trusted = format!("{}{}", old.as_deref().unwrap_or_default(), self.root.1);
                self.write(false);
            }
            2 => self.write(true),
            _ => {
                self.trusted = self.root.1.clone();
                self.write(false);
            }
        }
    }

    fn write(&mut self, leaves: bool) {
        let new = self.folder.join(format!("v{}", self.version));
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("root.crt"), &self.trusted).unwrap();
        if leaves {
            self.serial = self.version + 1;
        }
        for name in ["server", "client"] {
            if leaves {
                let mut params = params(name, 2035);
                let uri = format!("spiffe://td/ns/n/sa/{name}");
                params.serial_number = Some(SerialNumber::from(vec![self.serial]));
                params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
                let key = KeyPair::generate().unwrap();
                let pem = params.signed_by(&key, &self.root.0).unwrap().pem();
                fs::write(new.join(format!("{name}.crt")), pem).unwrap();
                fs::write(new.join(format!("{name}.key")), key.serialize_pem()).unwrap();
            } else {
                for end in ["crt", "key"] {
                    let file = format!("{name}.{end}");
                    fs::copy(self.folder.join("data").join(&file), new.join(&file)).unwrap();
                }
            }
        }
        let link = self.folder.join("link");
        symlink(format!("v{}", self.version), &link).unwrap();
        fs::rename(&link, self.folder.join("data")).unwrap();
        self.version += 1;
    }
}

/// The common context of a side.
fn context(folder: &Path, own: &str, peer: &str) -> String {
    let source = |name: &str| {
        let file = folder.join(format!("{name}.yaml"));
        format!(
            "{{ name: {name}, sds_config: {{ resource_api_version: V3, path_config_source: {{ path: {} }} }} }}",
            file.display()
        )
    };
    format!(
        "common_tls_context: {{ tls_certificate_sds_secret_configs: [ {} ], combined_validation_context: {{ default_validation_context: {{ match_typed_subject_alt_names: [ {{ san_type: URI, matcher: {{ exact: \"spiffe://td/ns/n/sa/{peer}\" }} }} ] }}, validation_context_sds_secret_config: {} }} }}",
        source(own),
        source("root")
    )
}

const ADMIN: &str = "node: { id: rotation, cluster: stories }\nadmin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
const ADDRESS: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

const UPGRADES: &str = "stream_idle_timeout: 0s, upgrade_configs: [ { upgrade_type: websocket } ]";
const MANY: &str = "circuit_breakers: { thresholds: [ { max_connections: 4000, max_pending_requests: 4000, max_requests: 4000 } ] }";

/// The sidecar of the server: HTTP, WebSockets to a server on this port, and bytes that come back, all for clients with a good
/// certificate only.
pub fn inner(folder: &Path, sockets: u16) -> String {
    let socket = format!(
        "transport_socket: {{ name: tls, typed_config: {{ \"@type\": {TLS}.DownstreamTlsContext, require_client_certificate: true, {} }} }}",
        context(folder, "server", "client")
    );
    format!(
        r#"{ADMIN}static_resources:
  listeners:
  - name: http
    stat_prefix: inner
    {ADDRESS}
    filter_chains:
    - {socket}
      filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: http, {UPGRADES}, route_config: {{ response_headers_to_add: [ {{ header: {{ key: x-serial, value: "%DOWNSTREAM_PEER_SERIAL%" }} }} ], virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ path: /ws }}, route: {{ cluster: sockets, timeout: 0s }} }}, {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: ok }} }} }} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
  - name: tcp
    {ADDRESS}
    filter_chains:
    - {socket}
      filters: [ {{ name: echo, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }} }} ]
  clusters:
  - name: sockets
    {MANY}
    load_assignment: {{ cluster_name: sockets, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {sockets} }} }} }} }} ] }} ] }}
"#
    )
}

/// The sidecar of the client.
pub fn outer(folder: &Path, http: SocketAddr, tcp: SocketAddr) -> String {
    let cluster = |name: &str, address: SocketAddr, more: &str| {
        format!(
            "  - name: {name}\n    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }} ] }} ] }}\n    transport_socket: {{ name: tls, typed_config: {{ \"@type\": {TLS}.UpstreamTlsContext, {} }} }}\n{more}",
            address.port(),
            context(folder, "client", "server")
        )
    };
    let clusters = cluster(
        "http",
        http,
        &format!("    max_requests_per_connection: 25\n    {MANY}\n"),
    ) + &cluster("tcp", tcp, "");
    format!(
        r#"{ADMIN}static_resources:
  listeners:
  - name: http
    {ADDRESS}
    filter_chains:
    - filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: http, {UPGRADES}, route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: http, timeout: 0s }} }} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
  - name: tcp
    {ADDRESS}
    filter_chains:
    - filters: [ {{ name: tcp, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: tcp, idle_timeout: 0s }} }} ]
  clusters:
{clusters}"#
    )
}

/// Counts requests and what failed of them.
#[derive(Default)]
struct Tally {
    good: Cell<u64>,
    bad: RefCell<Vec<String>>,
    /// The serial number of the newest certificate that the sidecar of the server has seen.
    newest: Cell<u8>,
    /// From when on no more requests are due.
    end: Cell<Option<Instant>>,
}

/// The certificate with which the request of this answer came.
fn serial(answer: &str) -> Option<u8> {
    let rest = answer.split("x-serial: ").nth(1)?;
    u8::from_str_radix(rest.lines().next()?, 16).ok()
}

/// Sends requests on one connection at an even pace, and all that are due until the end; late ones at once.
async fn load(address: SocketAddr, tally: Rc<Tally>, start: Instant) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let mut buffer = Vec::new();
    let mut due = start;
    loop {
        sleep_until(due).await;
        if tally.end.get().is_some_and(|end| due >= end) {
            return;
        }
        due += PACE;
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.expect("the sidecar reads");
        buffer.clear();
        while !buffer.ends_with(b"ok") {
            let read = stream
                .read_buf(&mut buffer)
                .await
                .expect("the sidecar answers");
            let text = String::from_utf8_lossy(&buffer);
            if read == 0 || !text.starts_with("HTTP/1.1 200") {
                tally.bad.borrow_mut().push(text.into_owned());
                return;
            }
        }
        let newest = serial(&String::from_utf8_lossy(&buffer)).expect("there was a certificate");
        tally.newest.set(tally.newest.get().max(newest));
        tally.good.set(tally.good.get() + 1);
    }
}

/// A message as a client of WebSockets sends it.
const MESSAGE: &[u8; 10] = b"\x81\x84\0\0\0\0ping";

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; MESSAGE.len()];
    stream.write_all(MESSAGE).await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && &answer == MESSAGE
}

/// Reads a head to its end.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1..) => head.extend_from_slice(&byte),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A server that takes every WebSocket, and gives back what comes.
async fn socket_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                head(&mut stream).await;
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                let (mut reader, mut writer) = stream.split();
                if writer.write_all(answer).await.is_ok() {
                    // Ends with the connection.
                    let _ = copy(&mut reader, &mut writer).await;
                }
            });
        }
    });
    port
}

async fn web_socket(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(echoes(&mut stream).await, "the socket does not answer");
    stream
}

async fn stat(proxy: &Proxy, name: &str) -> u64 {
    let path = format!("/stats?filter=^{name}$");
    let (_, text) = admin_get(proxy.admin_address(), &path).await.unwrap();
    let value = text.split(": ").nth(1).map(|value| value.trim().parse());
    value.and_then(Result::ok).unwrap_or(0)
}

/// Waits until both sidecars have taken a rotation.
async fn taken(inner: &Proxy, outer: &Proxy, before: (u64, u64)) -> (u64, u64) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let now = updates(inner, outer).await;
        if now.0 > before.0 && now.1 > before.1 {
            return now;
        }
        assert!(
            Instant::now() < patience,
            "a rotation is not taken: {before:?} {now:?}"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the sidecars have used a rotation: on new connections, and with the certificate that is valid now.
async fn used(inner: &Proxy, tally: &Tally, serial: u8) {
    let patience = Instant::now() + Duration::from_secs(20);
    let handshakes = stat(inner, HANDSHAKE).await + HANDSHAKES;
    let requests = tally.good.get() + REQUESTS;
    while tally.newest.get() != serial
        || tally.good.get() < requests
        || stat(inner, HANDSHAKE).await < handshakes
    {
        assert!(
            Instant::now() < patience,
            "certificate {serial} is not used: {:?}",
            tally.newest
        );
        sleep(Duration::from_millis(10)).await;
    }
}

const HANDSHAKE: &str = "listener.inner.ssl.handshake";

async fn updates(inner: &Proxy, outer: &Proxy) -> (u64, u64) {
    (
        stat(
            inner,
            "listener.inner.server_ssl_socket_factory.ssl_context_update_by_sds",
        )
        .await,
        stat(
            outer,
            "cluster.http.client_ssl_socket_factory.ssl_context_update_by_sds",
        )
        .await,
    )
}

#[tokio::test]
async fn a_hundred_rotations_cost_no_request_and_no_connection() {
    LocalSet::new().run_until(story()).await;
}

async fn story() {
    let scratch = binaries::scratch("tls_rotation").unwrap();
    let binary = binaries::outrigger().unwrap();
    let mut secrets = Secrets::new(scratch.join("secrets"));
    let folder = secrets.folder.clone();
    let server = socket_server().await;
    let inner = Proxy::start(&binary, &inner(&folder, server), &scratch.join("inner"))
        .await
        .unwrap();
    let to = |name: &str| inner.listener(name).expect("the listener is there");
    let config = outer(&folder, to("http"), to("tcp"));
    let outer = Proxy::start(&binary, &config, &scratch.join("outer"))
        .await
        .unwrap();
    let tcp = outer.listener("tcp").expect("the listener is there");
    let http = outer.listener("http").expect("the listener is there");

    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(tcp).await.unwrap();
        assert!(echoes(&mut stream).await);
        idle.push(stream);
    }
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(web_socket(http).await);
    }
    let tally = Rc::new(Tally::default());
    let start = Instant::now();
    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|_| spawn_local(load(http, tally.clone(), start)))
        .collect();
    sleep(Duration::from_millis(500)).await;

    let mut old = None;
    let mut before = updates(&inner, &outer).await;
    let mut memory = None;
    for number in 0..ROTATIONS {
        secrets.rotate(&mut old);
        before = taken(&inner, &outer, before).await;
        used(&inner, &tally, secrets.serial).await;
        for socket in sockets.iter_mut().skip(number).step_by(ROTATIONS) {
            assert!(
                echoes(socket).await,
                "a WebSocket is lost in rotation {number}"
            );
        }
        if number == ROTATIONS / 4 {
            memory = Some((inner.resident().unwrap(), outer.resident().unwrap()));
        }
    }
    let took = start.elapsed();
    tally.end.set(Some(start + took));
    for client in clients {
        client.await.unwrap();
    }
    let late = start.elapsed() - took;
    assert!(tally.bad.borrow().is_empty(), "{:?}", tally.bad.borrow());
    let mut lost = 0;
    for stream in idle.iter_mut().chain(&mut sockets) {
        lost += usize::from(!echoes(stream).await);
    }
    assert_eq!(lost, 0, "connections are lost");
    let due = u64::try_from(took.as_nanos().div_ceil(PACE.as_nanos())).unwrap() * CLIENTS;
    let rate = due * 1_000 / u64::try_from((took + late).as_millis()).unwrap();
    let handshakes = stat(&inner, HANDSHAKE).await;
    let failed = stat(&outer, "cluster.http.upstream_cx_connect_fail").await;
    let end = (inner.resident().unwrap(), outer.resident().unwrap());
    println!(
        "{ROTATIONS} rotations in {took:?} and {late:?}: {} requests ({rate}/s), {SOCKETS} WebSockets, {handshakes} handshakes, {failed} failed; resident {memory:?}, then {end:?} bytes",
        tally.good.get()
    );
    assert_eq!(failed, 0, "connections failed");
    assert_eq!(tally.good.get(), due, "requests that were due");
    // The last ones may be late, on a machine that does much else at the time.
    assert!(rate * 10 > RATE * 9, "only {rate} requests per second");
    for ((quarter, end), name) in [memory.unwrap().0, memory.unwrap().1]
        .into_iter()
        .zip([end.0, end.1])
        .zip(["inner", "outer"])
    {
        assert!(
            end < quarter + quarter / 4,
            "{name} grew from {quarter} to {end} bytes"
        );
    }
}
