//! Making sockets to hosts.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{Sleep, sleep};

use super::ConnectError;
use crate::LocalBoxFuture;
use crate::net::{Address, Io, Keepalive, SocketOption, SocketStage};
use crate::stream_info::TlsConnectionInfo;
use crate::upstream::Host;

/// Makes connections. The one of the process opens sockets; tests have their own.
pub trait Connector: fmt::Debug {
    /// Connects to a host. The caller limits the time.
    fn connect(
        &self,
        host: &Host,
        settings: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>>;
}

/// A connection that was made.
#[derive(Debug)]
pub struct Connected {
    /// Its bytes.
    pub io: Io,
    /// Our end.
    pub local_address: Option<Address>,
    /// The peer.
    pub remote_address: Option<Address>,
    /// What TLS agreed on; none: it is plain.
    pub tls: Option<Rc<TlsConnectionInfo>>,
}

/// How the sockets of a cluster are set up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketSettings {
    /// `upstream_bind_config.source_address` first, then the extra ones.
    pub source_addresses: Box<[SourceAddress]>,
    /// `upstream_bind_config.socket_options`.
    pub socket_options: Box<[SocketOption]>,
    /// Whether sockets may be bound to addresses that the machine does not have.
    pub freebind: bool,
    /// `upstream_connection_options.tcp_keepalive`.
    pub keepalive: Option<Keepalive>,
}

/// An address to connect from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Options in place of those of the cluster.
    pub socket_options: Option<Box<[SocketOption]>>,
}

/// Connects by sockets of the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketConnector;

impl Connector for SocketConnector {
    fn connect(
        &self,
        host: &Host,
        settings: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let settings = settings.clone();
        let mut addresses = vec![host.address.clone()];
        addresses.extend(host.additional_addresses.iter().cloned());
        Box::pin(async move {
            if let [address] = addresses.as_slice() {
                return connect_one(address.clone(), settings).await;
            }
            Race::new(addresses, settings).await
        })
    }
}

/// Connects to several addresses of one host, the next after 300 ms or when one fails (RFC 8305). The first that answers wins.
struct Race {
    running: Vec<LocalBoxFuture<'static, Result<Connected, ConnectError>>>,
    waiting: std::vec::IntoIter<Address>,
    settings: SocketSettings,
    delay: Pin<Box<Sleep>>,
    error: ConnectError,
}

const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

impl Race {
    fn new(addresses: Vec<Address>, settings: SocketSettings) -> Self {
        let mut race = Self {
            running: Vec::with_capacity(addresses.len()),
            waiting: addresses.into_iter(),
            settings,
            delay: Box::pin(sleep(ATTEMPT_DELAY)),
            error: ConnectError::Timeout,
        };
        race.start_next();
        race
    }

    /// False when there is no other address.
    fn start_next(&mut self) -> bool {
        let Some(address) = self.waiting.next() else {
            return false;
        };
        self.running
            .push(Box::pin(connect_one(address, self.settings.clone())));
        self.delay = Box::pin(sleep(ATTEMPT_DELAY));
        true
    }
}

impl Future for Race {
    type Output = Result<Connected, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let mut at = 0;
            let mut failed = false;
            while let Some(attempt) = this.running.get_mut(at) {
                match attempt.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Ok(connected)),
                    Poll::Ready(Err(error)) => {
                        this.error = error;
                        failed = true;
                        drop(this.running.remove(at));
                    }
                }
            }
            if this.waiting.len() == 0 {
                return match this.running.is_empty() {
                    true => Poll::Ready(Err(this.error.clone())),
                    false => Poll::Pending,
                };
            }
            let due = failed || this.delay.as_mut().poll(cx).is_ready();
            if !(due && this.start_next()) {
                return Poll::Pending;
            }
        }
    }
}

async fn connect_one(
    address: Address,
    settings: SocketSettings,
) -> Result<Connected, ConnectError> {
    match address {
        Address::Ip(ip) => connect_tcp(ip, &settings).await,
        Address::Pipe(path) => {
            let stream = UnixStream::connect(pipe_path(&path))
                .await
                .map_err(|error| immediate(&error, &Address::Pipe(path.clone())))?;
            Ok(Connected {
                io: stream.into(),
                local_address: None,
                remote_address: Some(Address::Pipe(path)),
                tls: None,
            })
        }
    }
}

async fn connect_tcp(
    address: SocketAddr,
    settings: &SocketSettings,
) -> Result<Connected, ConnectError> {
    let peer = Address::Ip(address);
    let socket = open(address, settings)?;
    // What the kernel knows at once fails at once; the rest comes from the peer or from the way to it.
    let stream = socket
        .connect(address)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                immediate(&error, &peer)
            }
            _ => delayed(&error),
        })?;
    let local_address = stream.local_addr().ok().map(Address::Ip);
    Ok(Connected {
        io: stream.into(),
        local_address,
        remote_address: Some(peer),
        tls: None,
    })
}

fn open(address: SocketAddr, settings: &SocketSettings) -> Result<TcpSocket, ConnectError> {
    let local = |error: io::Error| ConnectError::Local(text(&error).into());
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )
    .map_err(local)?;
    socket.set_tcp_nodelay(true).map_err(local)?;
    if let Some(keepalive) = settings.keepalive {
        keepalive.apply(&socket).map_err(local)?;
    }
    let source = settings.source_for(address);
    let options = source
        .and_then(|source| source.socket_options.as_ref())
        .unwrap_or(&settings.socket_options);
    let apply = |stage| {
        options
            .iter()
            .try_for_each(|option| option.apply(&socket, stage, &Address::Ip(address)))
            .map_err(local)
    };
    apply(SocketStage::Prebind)?;
    if let Some(SourceAddress {
        address: source, ..
    }) = source
    {
        if settings.freebind {
            match address {
                SocketAddr::V4(_) => socket.set_freebind_v4(true),
                SocketAddr::V6(_) => socket.set_freebind_v6(true),
            }
            .map_err(local)?;
        }
        socket.bind(&(*source).into()).map_err(|error| {
            ConnectError::Local(format!("failed to bind to {source}: {}", text(&error)).into())
        })?;
    }
    apply(SocketStage::Bound)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

impl SocketSettings {
    /// The first source address counts, unless only another one is of the peer's IP version.
    fn source_for(&self, peer: SocketAddr) -> Option<&SourceAddress> {
        let sources = &self.source_addresses;
        let alike = |source: &&SourceAddress| source.address.is_ipv4() == peer.is_ipv4();
        sources.iter().find(alike).or(sources.first())
    }
}

/// A path, or with `@` a name in the abstract namespace.
fn pipe_path(path: &str) -> std::path::PathBuf {
    match path.strip_prefix('@') {
        Some(name) => format!("\0{name}").into(),
        None => path.into(),
    }
}

/// Envoy's words: `delayed connect error: Connection refused`.
fn delayed(error: &io::Error) -> ConnectError {
    ConnectError::Failed(format!("delayed connect error: {}", text(error)).into())
}

/// What fails before anything was sent names the peer as well.
fn immediate(error: &io::Error, peer: &Address) -> ConnectError {
    ConnectError::Failed(
        format!(
            "immediate connect error: {}|remote address:{peer}",
            text(error)
        )
        .into(),
    )
}

/// The system's text without the number.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    async fn connect(
        address: SocketAddr,
        settings: &SocketSettings,
    ) -> Result<Connected, ConnectError> {
        let host = Host::new(Address::Ip(address), 0);
        SocketConnector.connect(&host, settings).await
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address where nobody listens.
    async fn closed() -> SocketAddr {
        listener().await.1
    }

    #[tokio::test]
    async fn a_connection_knows_both_of_its_ends_and_does_not_wait_to_fill_segments() {
        let (listener, address) = listener().await;
        let connected = connect(address, &SocketSettings::default()).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(connected.local_address, Some(Address::Ip(peer)));
        assert_eq!(connected.remote_address, Some(Address::Ip(address)));
        assert!(connected.io.as_tcp().unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn failures_have_envoys_words() {
        let refused = connect(closed().await, &SocketSettings::default()).await;
        assert_eq!(
            refused.unwrap_err(),
            ConnectError::Failed("delayed connect error: Connection refused".into())
        );
        let pipe = Host::new(Address::Pipe("/nowhere/at/all".into()), 0);
        let missing = SocketConnector
            .connect(&pipe, &SocketSettings::default())
            .await;
        assert_eq!(
            missing.unwrap_err(),
            ConnectError::Failed(
                "immediate connect error: No such file or directory|remote address:/nowhere/at/all"
                    .into()
            )
        );
        let (_listener, address) = listener().await;
        let foreign = SocketSettings {
            source_addresses: [source("192.0.2.1:0")].into(),
            ..SocketSettings::default()
        };
        assert_eq!(
            connect(address, &foreign).await.unwrap_err(),
            ConnectError::Local(
                "failed to bind to 192.0.2.1:0: Cannot assign requested address".into()
            )
        );
    }

    fn source(address: &str) -> SourceAddress {
        SourceAddress {
            address: address.parse().unwrap(),
            socket_options: None,
        }
    }

    #[tokio::test]
    async fn the_source_address_of_the_peers_version_is_taken() {
        let (listener, address) = listener().await;
        let settings = SocketSettings {
            source_addresses: [source("[::1]:0"), source("127.0.0.5:0")].into(),
            ..SocketSettings::default()
        };
        let _connected = connect(address, &settings).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.5");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_fails() {
        let (_listener, good) = listener().await;
        let mut host = Host::new(Address::Ip(closed().await), 0);
        host.additional_addresses = [Address::Ip(good)].into();
        let connected = SocketConnector
            .connect(&host, &SocketSettings::default())
            .await;
        assert_eq!(connected.unwrap().remote_address, Some(Address::Ip(good)));
        host.additional_addresses = [Address::Ip(closed().await)].into();
        assert!(
            SocketConnector
                .connect(&host, &SocketSettings::default())
                .await
                .is_err()
        );
    }
}
