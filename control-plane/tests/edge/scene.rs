//! A control plane with a folder of files, the proxies that joined it, processes, and clients.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_control_plane::admin::client::Client;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value as Json;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::world::{Plane, Running, ports, proxy};

pub(crate) struct Scene {
    pub(crate) folder: PathBuf,
    pub(crate) plane: Plane,
    proxies: Vec<Running>,
}

impl Scene {
    pub(crate) fn start(folder: &Path, text: &str, flags: &[&str]) -> Self {
        Self::start_in(folder, text, flags, &[])
    }

    /// The same with settings of the control plane's environment.
    pub(crate) fn start_in(
        folder: &Path,
        text: &str,
        flags: &[&str],
        environment: &[(&str, &Path)],
    ) -> Self {
        fs::create_dir_all(folder.join("mesh")).unwrap();
        fs::write(folder.join("mesh/mesh.yaml"), text).unwrap();
        let [address] = ports();
        Self {
            folder: folder.to_owned(),
            plane: Plane::start_in(folder, address, flags, environment),
            proxies: Vec::new(),
        }
    }

    /// Starts a proxy with the bootstrap of its agent, as `edit` changes it.
    pub(crate) fn join(&mut self, program: &Path, node: &str, edit: impl Fn(&mut Json)) {
        let directory = self.enroll(node, &node.replace('/', "-"));
        let file = directory.join("bootstrap.yaml");
        let mut bootstrap = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        edit(&mut bootstrap);
        fs::write(&file, bootstrap.to_string()).unwrap();
        self.proxies.push(proxy(program, &directory));
    }

    /// Gets the certificate of a node.
    pub(crate) fn enroll(&self, node: &str, name: &str) -> PathBuf {
        let directory = self.folder.join(name);
        let token = self.plane.token(node, 600);
        let status = Command::new(env!("CARGO_BIN_EXE_outrigger-control-plane"))
            .args(["agent", node, "--once", "--token", &token])
            .args(["--admin", "127.0.0.1:0"])
            .args(["--server", &self.plane.address.to_string()])
            .arg("--roots")
            .arg(self.folder.join("state/roots.pem"))
            .arg("--directory")
            .arg(&directory)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        directory
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.folder.join(name);
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder.join("mesh").join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join("mesh").join(name)).unwrap();
    }

    /// The lines of the control plane's log that have all of these words.
    pub(crate) fn log(&self, words: &[&str]) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("control-plane.log")).unwrap();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(has_all).map(str::to_owned).collect()
    }

    /// A connection of gRPC to the control plane, with the certificate in a directory.
    pub(crate) async fn channel(&self, own: Option<&Path>) -> Channel {
        let roots = Client::file(&self.folder.join("state/roots.pem")).unwrap();
        let own = own.map(|own| {
            let read = |name: &str| Client::file(&own.join(name)).unwrap();
            (read("certificate.pem"), read("key.pem"))
        });
        let own = own
            .as_ref()
            .map(|(chain, key)| (chain.as_str(), key.as_str()));
        let mut tls = (*Client::tls(&roots, own).unwrap()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = Connector(self.plane.address, Arc::new(tls));
        Endpoint::from_static("http://control-plane")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }
}

/// One call.
pub(crate) async fn unary<Q, A>(
    channel: &Channel,
    path: &'static str,
    token: Option<&str>,
    message: Q,
) -> Result<A, Status>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let codec = ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    Ok(client.unary(request, path, codec).await?.into_inner())
}

/// Runs what waits.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[derive(Clone)]
struct Connector(SocketAddr, Arc<rustls::ClientConfig>);

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self(address, tls) = self.clone();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = ServerName::from(address.ip());
            let stream = tokio_rustls::TlsConnector::from(tls)
                .connect(name, stream)
                .await?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// The gateway `edge` with one listener of HTTP, as a document.
pub(crate) fn edge(gateway: SocketAddr) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: outrigger
  addresses: [{{ value: 127.0.0.1 }}]
  listeners: [{{ name: http, port: {}, protocol: HTTP }}]
",
        gateway.port()
    )
}

/// Status and body of a GET; status 0 if there is no answer.
pub(crate) fn get_host(address: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        exchange(&mut stream, host, path)
    };
    ask().unwrap_or((0, String::new()))
}

/// The same over TLS, for the server name `host`.
pub(crate) fn get_tls(address: SocketAddr, roots: &str, host: &str, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<(u16, String)> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let session = rustls::ClientConnection::new(Client::tls(roots, None).unwrap(), name);
        let mut stream = rustls::StreamOwned::new(session.unwrap(), stream);
        exchange(&mut stream, host, path)
    };
    ask().unwrap_or((0, String::new()))
}

fn exchange(
    stream: &mut (impl Read + Write),
    host: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // Not everyone says goodbye in TLS.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        read => drop(read?),
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// A process that answers everything with its name.
pub(crate) fn process_at(address: SocketAddr, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, name));
        }
    });
    address
}

/// The same in TLS.
pub(crate) fn tls_process(certificate: &str, key: &str, name: &'static str) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            thread::spawn(move || answer(rustls::StreamOwned::new(session, stream), name));
        }
    });
    address
}

fn answer(stream: impl Read + Write, name: &str) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut is_empty = true;
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => is_empty = false,
            }
        }
        let length = name.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
        if is_empty || reader.get_mut().write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}
