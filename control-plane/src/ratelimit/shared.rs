//! Counters in Redis, which several control planes share.
//!
//! One script counts a request in all of its counters or in none, by the clock of Redis. A counter is a hash of the fields of
//! [`Counter`](super::Counter) under `outrigger:{:DOMAIN}:LENGTH:KEYS`, which Redis forgets when it counts nothing any more;
//! the braces keep all counters of a domain on one node of a cluster, where one script can reach them. A connection that
//! breaks is made anew for the same question; while there is none, questions are answered by an error at once, and what
//! becomes of requests then is the proxy's own choice (`failure_mode_deny`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisError, Script, TlsCertificates,
};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::store::{Ask, Told};
use super::window::Counter;

/// Time for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_millis(250);
/// Time for the connections to a cluster: it is asked for its nodes first.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that could not be made is not tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// Beyond it numbers of Lua are not exact.
const MOST: u64 = 1 << 53;

/// Where a Redis is, and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Such as `redis://USER:PASSWORD@HOST:6379/0`, `rediss://HOST:6379` (TLS) or `unix:///PATH`. Several are nodes of a
    /// cluster.
    pub urls: Vec<String>,
    /// The password, in place of that of the URL.
    pub password: Option<String>,
    /// The nodes are those of a cluster, which knows the others.
    pub is_cluster: bool,
    /// For TLS, the roots of its certificate, in PEM; none: those of the system. The certificate is always verified.
    pub roots: Option<Vec<u8>>,
    /// For TLS, a certificate to show and its key, in PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// Counters in Redis.
#[derive(Debug)]
pub struct Shared {
    store: Store,
    script: Script,
    link: Mutex<Link>,
    is_away: AtomicBool,
}

/// Counters that cannot be reached.
#[derive(Debug, Error)]
#[error("the counters of rate limits cannot be reached: {0}")]
pub struct Unavailable(String);

enum Store {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

#[derive(Debug)]
enum Link {
    None,
    Up(Connection),
    /// Not to be tried before.
    Down(Instant, String),
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Access {
    /// The nodes that are named, each with what is said for all.
    fn nodes(&self) -> Result<Vec<ConnectionInfo>, String> {
        let nodes = self.urls.iter().map(|url| {
            let mut info = url
                .as_str()
                .into_connection_info()
                .map_err(|error| error.to_string())?;
            match info.addr() {
                ConnectionAddr::TcpTls { insecure: true, .. } => {
                    return Err("#insecure: the certificate is always verified".to_owned());
                }
                ConnectionAddr::TcpTls { .. } => {}
                _ if self.roots.is_some() || self.certificate.is_some() => {
                    return Err("roots and certificates are for rediss://".to_owned());
                }
                _ => {}
            }
            if let Some(password) = &self.password {
                let settings = info.redis_settings().clone().set_password(password);
                info = info.set_redis_settings(settings);
            }
            Ok(info)
        });
        nodes.collect()
    }

    fn certificates(&self) -> TlsCertificates {
        let certificate = self.certificate.clone();
        TlsCertificates {
            client_tls: certificate.map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            }),
            root_cert: self.roots.clone(),
        }
    }

    fn open(&self) -> Result<Store, String> {
        let nodes = self.nodes()?;
        let is_tls = |node: &ConnectionInfo| matches!(node.addr(), ConnectionAddr::TcpTls { .. });
        let is_secured = nodes.iter().any(is_tls);
        let made = match (self.is_cluster, <[_; 1]>::try_from(nodes)) {
            (false, Ok([node])) if is_secured => {
                Client::build_with_tls(node, self.certificates()).map(Store::one)
            }
            (false, Ok([node])) => Client::open(node).map(Store::one),
            (false, Err(nodes)) => {
                return Err(format!("{} nodes, which only a cluster has", nodes.len()));
            }
            (true, nodes) => {
                let nodes = nodes.map_or_else(|nodes| nodes, Vec::from);
                let mut builder = ClusterClient::builder(nodes)
                    // One, where a counter has moved to another node.
                    .retries(1)
                    .max_retry_wait(10)
                    .connection_timeout(TIMEOUT)
                    .response_timeout(TIMEOUT);
                if is_secured {
                    builder = builder.certs(self.certificates());
                }
                builder
                    .build()
                    .map(|client| Store::Cluster(Box::new(client)))
            }
        };
        made.map_err(|error: RedisError| error.to_string())
    }
}

impl Store {
    fn one(client: Client) -> Self {
        Self::One(Box::new(client))
    }

    async fn connect(&self) -> Result<Connection, String> {
        match self {
            Self::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(TIMEOUT))
                    .set_response_timeout(Some(TIMEOUT));
                let made = client.get_multiplexed_async_connection_with_config(&config);
                made.await.map(Connection::One)
            }
            Self::Cluster(client) => {
                let made = tokio::time::timeout(CLUSTER_TIMEOUT, client.get_async_connection());
                let made = made.await.map_err(|_| "the cluster does not answer")?;
                made.map(Connection::Cluster)
            }
        }
        .map_err(|error| error.to_string())
    }
}

impl Shared {
    /// The counters of a Redis, or of a cluster. It need not be there yet.
    ///
    /// # Errors
    /// There is no such URL, or what is said of TLS does not fit it.
    pub fn new(access: &Access) -> Result<Self, String> {
        Ok(Self {
            store: access.open()?,
            script: Script::new(include_str!("take.lua")),
            link: Mutex::new(Link::None),
            is_away: AtomicBool::new(false),
        })
    }

    /// As [`Counters::take`](super::Counters), by the clock of Redis.
    pub(super) async fn take(&self, asks: &[Ask]) -> Result<Vec<Told>, Unavailable> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let mut answer = self.run(asks).await;
        if answer.as_ref().is_err_and(Failure::is_broken) {
            // It may have been broken since the last question.
            answer = self.run(asks).await;
        }
        match answer {
            Ok(values) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("The counters of rate limits are there again.");
                }
                told(asks, &values)
            }
            Err(failure) => {
                let text = failure.to_string();
                // Once, not for each request.
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = text, "The counters of rate limits are away.");
                }
                Err(Unavailable(text))
            }
        }
    }

    async fn run(&self, asks: &[Ask]) -> Result<Vec<i64>, Failure> {
        let mut connection = self.connection().await.map_err(Failure::NoConnection)?;
        let mut call = self.script.prepare_invoke();
        for ask in asks {
            call.key(key(ask))
                .arg(ask.length)
                .arg(ask.limit)
                .arg(ask.hits.min(MOST))
                .arg(u8::from(ask.gives_back))
                .arg(u8::from(ask.shadow));
        }
        let answer = match &mut connection {
            Connection::One(connection) => call.invoke_async(connection).await,
            Connection::Cluster(connection) => call.invoke_async(connection).await,
        };
        let answer = answer.map_err(Failure::Call);
        if answer.as_ref().is_err_and(Failure::costs_the_connection) {
            *self.link.lock().await = Link::None;
        }
        answer
    }

    async fn connection(&self) -> Result<Connection, String> {
        let mut link = self.link.lock().await;
        match &*link {
            Link::Up(connection) => return Ok(connection.clone()),
            Link::Down(until, error) if Instant::now() < *until => return Err(error.clone()),
            Link::None | Link::Down(..) => {}
        }
        match self.store.connect().await {
            Ok(connection) => {
                *link = Link::Up(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                *link = Link::Down(Instant::now() + PAUSE, error.clone());
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// Under which key a counter lies. The domain is the first line of what is counted; a colon before it keeps the braces from
/// being empty, which would keep nothing together.
fn key(ask: &Ask) -> String {
    let domain = ask.key.split('\n').next().unwrap_or_default();
    format!("outrigger:{{:{domain}}}:{}:{}", ask.length, ask.key)
}

#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    NoConnection(String),
    #[error("{0}")]
    Call(RedisError),
}

impl Failure {
    /// Whether the connection had ended, so that another one may do better.
    fn is_broken(&self) -> bool {
        matches!(self, Self::Call(error) if !error.is_timeout()) && self.costs_the_connection()
    }

    /// Whether the connection is of no use any more. An answer that does not come may never come.
    fn costs_the_connection(&self) -> bool {
        match self {
            Self::NoConnection(_) => false,
            Self::Call(error) => {
                error.is_io_error()
                    || error.is_connection_dropped()
                    || error.is_timeout()
                    || error.is_cluster_error()
                    || error.kind() == ErrorKind::ClusterConnectionNotFound
            }
        }
    }
}

fn told(asks: &[Ask], values: &[i64]) -> Result<Vec<Told>, Unavailable> {
    let wrong = || Unavailable("the script has answered something else".to_owned());
    let values: Vec<u64> = values
        .iter()
        .map(|value| u64::try_from(*value).map_err(|_| wrong()))
        .collect::<Result<_, _>>()?;
    let (now, values) = values.split_first().ok_or_else(wrong)?;
    if values.len() != 4 * asks.len() {
        return Err(wrong());
    }
    let told = asks.iter().zip(values.chunks_exact(4)).map(|(ask, value)| {
        let counter = Counter::of(value[0], value[1], value[2]);
        Told::of(counter, ask, value[3] == 1, *now)
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(urls: &[&str]) -> Access {
        Access {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..Access::default()
        }
    }

    #[test]
    fn counters_of_a_domain_lie_on_one_node() {
        let ask = |key: &str| Ask {
            key: key.to_owned(),
            length: 60_000,
            limit: 1,
            hits: 1,
            gives_back: false,
            shadow: false,
        };
        assert_eq!(
            key(&ask("apis\n4 user\n3 ann")),
            "outrigger:{:apis}:60000:apis\n4 user\n3 ann"
        );
        assert_eq!(key(&ask("\n4 user\n3 ann")).find("{:}"), Some(10));
    }

    #[test]
    fn what_is_said_of_tls_has_to_fit_the_url() {
        let refused = |access: &Access| Shared::new(access).unwrap_err();
        assert!(refused(&access(&["rediss://a/#insecure"])).contains("always verified"));
        let with_roots = |url: &str, roots: &str| Access {
            roots: Some(roots.as_bytes().to_vec()),
            ..access(&[url])
        };
        assert!(refused(&with_roots("redis://a", "")).contains("for rediss://"));
        let nonsense = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(!refused(&with_roots("rediss://a", nonsense)).is_empty());
        assert!(refused(&access(&["redis://a", "redis://b"])).contains("only a cluster"));
        assert!(refused(&access(&["http://a"])).contains("URL"));
    }
}
