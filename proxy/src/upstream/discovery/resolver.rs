//! Asking for the addresses of a name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use crate::LocalBoxFuture;
use crate::upstream::cluster::{LookupFamily, ResolverSettings};

/// Resolves names. The one of the process asks the servers of the system; tests have their own.
pub trait Resolver: fmt::Debug {
    /// The addresses of `name`. No address at all is an answer, not an error.
    fn resolve(
        &self,
        name: &str,
        family: LookupFamily,
        settings: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>>;
}

/// What a name stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// For how long that holds; zero if nobody said so.
    pub ttl: Duration,
}

/// Why a name could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DnsError(pub String);

/// Resolves by `hickory-resolver`: the hosts file, then the servers of the system or those that are configured.
#[derive(Default)]
pub struct HickoryResolver {
    resolvers: RefCell<HashMap<ResolverSettings, Rc<TokioResolver>>>,
}

impl Resolver for HickoryResolver {
    fn resolve(
        &self,
        name: &str,
        family: LookupFamily,
        settings: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>> {
        let resolver = self.resolver(settings);
        let name = name.to_owned();
        Box::pin(async move {
            let resolver = resolver?;
            let ask = |kind| lookup(&resolver, &name, kind);
            let (first, second) = match family {
                LookupFamily::V4Only => return ask(RecordType::A).await,
                LookupFamily::V6Only => return ask(RecordType::AAAA).await,
                LookupFamily::V4Preferred => (RecordType::A, RecordType::AAAA),
                LookupFamily::Auto | LookupFamily::All => (RecordType::AAAA, RecordType::A),
            };
            let preferred = ask(first).await;
            if family == LookupFamily::All {
                return both(preferred, ask(second).await);
            }
            match preferred {
                Ok(found) if !found.addresses.is_empty() => Ok(found),
                // A server that knows nothing of one family may know the other.
                Ok(_) | Err(_) => ask(second).await,
            }
        })
    }
}

impl HickoryResolver {
    /// Resolvers are kept: those of the same settings share their sockets.
    fn resolver(&self, settings: &ResolverSettings) -> Result<Rc<TokioResolver>, DnsError> {
        if let Some(resolver) = self.resolvers.borrow().get(settings) {
            return Ok(resolver.clone());
        }
        let resolver = Rc::new(build(settings).map_err(|error| DnsError(error.to_string()))?);
        self.resolvers
            .borrow_mut()
            .insert(settings.clone(), resolver.clone());
        Ok(resolver)
    }
}

fn build(settings: &ResolverSettings) -> Result<TokioResolver, NetError> {
    let mut builder = match (
        settings.servers.is_empty(),
        settings.no_default_search_domain,
    ) {
        (true, false) if !settings.use_tcp => TokioResolver::builder_tokio()?,
        _ => custom(settings)?,
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // The cluster says how long an answer holds.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    builder.build()
}

fn custom(settings: &ResolverSettings) -> Result<ResolverBuilder<TokioRuntimeProvider>, NetError> {
    let (system, options) = hickory_resolver::system_conf::read_system_conf()?;
    let (domain, search, mut servers) = system.into_parts();
    if !settings.servers.is_empty() {
        let server = |address: &std::net::SocketAddr| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
            NameServerConfig::new(address.ip(), true, connections.into())
        };
        servers = settings.servers.iter().map(server).collect();
    }
    if settings.use_tcp {
        for server in &mut servers {
            server.connections.retain(|connection| {
                matches!(
                    connection.protocol,
                    hickory_resolver::config::ProtocolConfig::Tcp
                )
            });
        }
    }
    let config = match settings.no_default_search_domain {
        true => ResolverConfig::from_parts(None, Vec::new(), servers),
        false => ResolverConfig::from_parts(domain, search, servers),
    };
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    Ok(builder.with_options(options))
}

async fn lookup(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Resolved, DnsError> {
    let answer = match resolver.lookup(name, kind).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() => return Ok(Resolved::default()),
        Err(error) => return Err(DnsError(error.to_string())),
    };
    let mut found = Resolved::default();
    let mut ttl = u32::MAX;
    for record in answer.answers() {
        let address = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        if !found.addresses.contains(&address) {
            found.addresses.push(address);
        }
        ttl = ttl.min(record.ttl);
    }
    if !found.addresses.is_empty() {
        found.ttl = Duration::from_secs(ttl.into());
    }
    Ok(found)
}

/// One family is enough for an answer.
fn both(
    first: Result<Resolved, DnsError>,
    second: Result<Resolved, DnsError>,
) -> Result<Resolved, DnsError> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.ttl = match (first.addresses.is_empty(), second.addresses.is_empty()) {
                (true, _) => second.ttl,
                (false, true) => first.ttl,
                (false, false) => first.ttl.min(second.ttl),
            };
            first.addresses.extend(second.addresses);
            Ok(first)
        }
        (Ok(one), Err(error)) | (Err(error), Ok(one)) => match one.addresses.is_empty() {
            true => Err(error),
            false => Ok(one),
        },
        (Err(error), Err(_)) => Err(error),
    }
}

impl fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HickoryResolver").finish_non_exhaustive()
    }
}
