//! Asking DNS: the hosts file, then the servers of the system or those that are given.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{Answer, Resolve};

/// Asks the servers of the system, or others.
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// Asks these servers; those of the system if there are none.
    ///
    /// # Errors
    /// The system's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let server = |address: &SocketAddr| {
                let connections =
                    [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                        connection.port = address.port();
                        connection
                    });
                NameServerConfig::new(address.ip(), true, connections.into())
            };
            let servers = servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options: &mut ResolverOpts = builder.options_mut();
        // How long an answer holds is decided above.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Always;
        builder.build().map(Self)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, String> {
        let none = Answer {
            addresses: Vec::new(),
            ttl: Duration::MAX,
        };
        // A name with a dot is a whole name.
        let whole = match name.contains('.') {
            true => format!("{name}."),
            false => name.to_owned(),
        };
        let found = match self.0.lookup(whole, kind).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(none),
            Err(error) => return Err(error.to_string()),
        };
        let answers = found.answers().iter();
        Ok(answers.fold(none, |mut answer, record| {
            let address = match &record.data {
                RData::A(a) => IpAddr::V4(a.0),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                _ => return answer,
            };
            answer.addresses.push(address);
            answer.ttl = answer.ttl.min(Duration::from_secs(record.ttl.into()));
            answer
        }))
    }
}

impl Resolve for SystemResolver {
    /// Both families; one is enough for an answer.
    async fn resolve(&self, name: String) -> Result<Answer, String> {
        let (four, six) = tokio::join!(
            self.ask(&name, RecordType::A),
            self.ask(&name, RecordType::AAAA)
        );
        match (four, six) {
            (Ok(mut four), Ok(six)) => {
                four.addresses.extend(six.addresses);
                four.ttl = four.ttl.min(six.ttl);
                Ok(four)
            }
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => match one.addresses.is_empty() {
                true => Err(error),
                false => Ok(one),
            },
            (Err(error), Err(_)) => Err(error),
        }
    }
}
