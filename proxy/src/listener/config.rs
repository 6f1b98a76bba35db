//! A listener as it is configured.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::TrafficDirection as DirectionProto;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use pb::listener::connection_balance_config::BalanceType;
use pb::listener::{ConnectionBalanceConfig, DeprecatedV1, DrainType};

use super::address::ListenAddress;
use super::filter_chain::{FilterChain, metadata_from};
use super::filter_chain_match::{FilterChainMatch, FilterChainMatcher};
use super::predicate::Predicate;
use super::socket::SocketSettings;
use super::stats::ListenerStats;
use crate::access_loggers::AccessLog;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::listener_filters::{FACTORIES, ListenerFilterConfig};
use crate::net::{Address, Keepalive, SocketOption};
use crate::runtime::RuntimeInteger;
use crate::server::{FactoryContext, InitManager, ServerContext};
use crate::stream_info::{ConnectionInfo, ListenerIdentity, TrafficDirection};

/// A converted listener, shared by all workers.
pub struct Listener {
    /// Its names, for logs.
    pub identity: Arc<ListenerIdentity>,
    /// One at least.
    pub addresses: Vec<ListenAddress>,
    /// How sockets are made.
    pub sockets: SocketSettings,
    /// Without, nothing listens: connections come from other listeners.
    pub bind_to_port: bool,
    /// Connections that were redirected go to the listener of their original destination.
    pub use_original_dst: bool,
    /// `filter_chains`, and after them the default chain.
    pub chains: Vec<Arc<FilterChain>>,
    /// Which of `chains` takes a connection.
    pub matcher: FilterChainMatcher,
    /// The index in `chains` of `default_filter_chain`.
    pub default_chain: Option<usize>,
    /// What looks at a connection before its chain is chosen.
    pub listener_filters: Vec<ListenerFilterEntry>,
    /// How long listener filters may take. Default 15 s; none: forever.
    pub listener_filters_timeout: Option<Duration>,
    /// After that time the connection goes on with what is known.
    pub continue_on_listener_filters_timeout: bool,
    /// `per_connection_buffer_limit_bytes`. Default 1 MiB.
    pub buffer_limit: usize,
    /// How many connections are accepted at a time. Default: all that wait.
    pub max_accept_per_event: usize,
    /// New connections go to the worker that has the fewest.
    pub exact_balance: bool,
    /// Connections do not count among all of the process.
    pub ignore_global_conn_limit: bool,
    /// Overload actions do not concern its connections.
    pub bypass_overload_manager: bool,
    /// Written when a connection ends.
    pub access_logs: Vec<AccessLog>,
    /// Draining does not concern connections, except when the listener changes.
    pub drain_on_modify_only: bool,
    /// `envoy.resource_limits.listener.<name>.connection_limit`.
    pub connection_limit: RuntimeInteger,
    /// Connections of all workers. Shared with the configurations that only other filter chains tell from this one.
    pub open_connections: Arc<AtomicU64>,
    /// `listener.<address>.`
    pub stats: ListenerStats,
    /// What must be there before the listener may be used.
    pub init: InitManager,
}

/// A listener filter and whom it leaves alone.
pub struct ListenerFilterEntry {
    /// Makes the filter.
    pub config: Arc<dyn ListenerFilterConfig>,
    /// The filter is skipped where this holds.
    pub disabled: Option<Predicate>,
}

/// A listener in force, for whoever comes in its place.
pub struct Predecessor<'a> {
    /// As it came.
    pub proto: &'a pb::Listener,
    /// Converted.
    pub config: &'a Listener,
}

impl Predecessor<'_> {
    /// The chain that is made of the same message.
    fn same_chain(&self, proto: &pb::FilterChain) -> Option<Arc<FilterChain>> {
        let protos = self.proto.filter_chains.iter();
        let mut all = protos.chain(&self.proto.default_filter_chain);
        let at = all.position(|known| known == proto)?;
        self.config.chains.get(at).cloned()
    }
}

impl Listener {
    /// The index in `chains` of the one that takes a connection; none: it is closed.
    #[inline]
    pub fn chain_of(&self, connection: &ConnectionInfo) -> Option<usize> {
        self.matcher.find(connection).or(self.default_chain)
    }

    /// Converts a `Listener`.
    pub fn from_proto(
        proto: pb::Listener,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::convert(proto, None, server, path)
    }

    /// Converts a `Listener` that takes the place of another one and differs from it in its filter chains only. Those that both
    /// have stay what they are.
    pub fn successor_from_proto(
        proto: pb::Listener,
        predecessor: &Predecessor<'_>,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::convert(proto, Some(predecessor), server, path)
    }

    #[allow(
        clippy::too_many_lines,
        deprecated,
        reason = "one line for each of 39 fields, some of them old"
    )]
    fn convert(
        proto: pb::Listener,
        predecessor: Option<&Predecessor<'_>>,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let root = server.stats.scope("");
        let init = InitManager::new(&format!("Listener-local-init-manager {}", proto.name));
        let cx = FactoryContext {
            server,
            scope: &root,
            init: &init,
        };
        let pb::Listener {
            name,
            address,
            additional_addresses,
            stat_prefix,
            stats_matcher,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            metadata,
            deprecated_v1,
            drain_type,
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            // Harmless: says what is the default anyway.
            reuse_port: _,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit,
            bypass_overload_manager,
            tcp_keepalive,
            listener_specifier,
        } = proto;
        let refused = [
            path.unsupported_if_set("stats_matcher", stats_matcher),
            path.unsupported_if_set("fcds_config", fcds_config),
            path.unsupported_if_set("filter_chain_matcher", filter_chain_matcher),
            path.unsupported_if_set(
                "per_connection_buffer_high_watermark_timeout",
                per_connection_buffer_high_watermark_timeout,
            ),
            path.unsupported_if_set("udp_listener_config", udp_listener_config),
            path.unsupported_if_set("api_listener", api_listener),
        ];
        // An internal listener has no address; one complaint is enough.
        let addresses = path
            .unsupported_if_set("internal_listener", listener_specifier)
            .and_then(|()| addresses_from(address, additional_addresses, path));
        let uses_proxy_protocol = filter_chains
            .first()
            .and_then(|chain| chain.use_proxy_proto)
            .is_some_and(|value| value.value);
        let listener_filters =
            listener_filters_from(listener_filters, uses_proxy_protocol, &cx, path);
        let prefix = match &addresses {
            Ok(addresses) if stat_prefix.is_empty() => stat_name(&addresses[0].address),
            _ => stat_prefix,
        };
        let scope = root.scope(&format!("listener.{prefix}."));
        let chains = match &addresses {
            // UDP and internal listeners, which are refused, may have none.
            Err(refused) if filter_chains.is_empty() && default_filter_chain.is_none() => {
                Err(*refused)
            }
            _ => {
                let cx = FactoryContext {
                    server,
                    scope: &scope,
                    init: &init,
                };
                chains_from(filter_chains, default_filter_chain, predecessor, &cx, path)
            }
        };
        let access_logs = path.each("access_log", access_log, |log, path| {
            AccessLog::from_proto(log, &cx, path)
        });
        let timeout = path.duration("listener_filters_timeout", listener_filters_timeout);
        let drain_type = path.enumeration::<DrainType>("drain_type", drain_type);
        let direction = path.enumeration::<DirectionProto>("traffic_direction", traffic_direction);
        let options = path.each("socket_options", socket_options, SocketOption::from_proto);
        let keepalive = path.optional("tcp_keepalive", tcp_keepalive, Keepalive::from_proto);
        let balance = path.optional(
            "connection_balance_config",
            connection_balance_config,
            balance_from,
        );
        let max_accept = max_connections_to_accept_per_socket_event
            .map(|max| {
                path.in_range(
                    "max_connections_to_accept_per_socket_event",
                    max.value,
                    1..=u32::MAX,
                )
            })
            .transpose();
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        let addresses = addresses?;
        let (chains, matcher, default_chain) = chains?;
        let deprecated_bind = deprecated_v1.and_then(|DeprecatedV1 { bind_to_port }| bind_to_port);
        Ok(Self {
            connection_limit: server.runtime.integer(
                &format!("envoy.resource_limits.listener.{name}.connection_limit"),
                u64::MAX,
            ),
            stats: ListenerStats::new(&scope),
            init,
            identity: Arc::new(ListenerIdentity {
                bypass_overload_manager,
                name: name.into(),
                stat_prefix: prefix.into(),
                traffic_direction: match direction? {
                    DirectionProto::Unspecified => TrafficDirection::Unspecified,
                    DirectionProto::Inbound => TrafficDirection::Inbound,
                    DirectionProto::Outbound => TrafficDirection::Outbound,
                },
                metadata: metadata_from(metadata),
            }),
            sockets: SocketSettings {
                reuse_port: enable_reuse_port.is_none_or(|enable| enable.value),
                transparent: transparent.map(|value| value.value),
                freebind: freebind.map(|value| value.value),
                fast_open_queue: tcp_fast_open_queue_length.map(|value| value.value),
                backlog: tcp_backlog_size.map(|value| value.value),
                keepalive: keepalive?,
                options: options?.into_iter().flatten().collect(),
                mptcp: enable_mptcp,
            },
            addresses,
            bind_to_port: bind_to_port
                .or(deprecated_bind)
                .is_none_or(|value| value.value),
            use_original_dst: use_original_dst.is_some_and(|value| value.value),
            chains,
            matcher,
            default_chain,
            listener_filters: listener_filters?,
            listener_filters_timeout: match timeout? {
                None => Some(Duration::from_secs(15)),
                Some(Duration::ZERO) => None,
                set => set,
            },
            continue_on_listener_filters_timeout,
            buffer_limit: per_connection_buffer_limit_bytes
                .and_then(|limit| usize::try_from(limit.value).ok())
                .unwrap_or(1 << 20),
            max_accept_per_event: max_accept?
                .and_then(|max| usize::try_from(max).ok())
                .unwrap_or(usize::MAX),
            exact_balance: balance?.unwrap_or(false),
            ignore_global_conn_limit,
            bypass_overload_manager,
            access_logs: access_logs?,
            drain_on_modify_only: drain_type? == DrainType::ModifyOnly,
            open_connections: predecessor
                .map(|old| old.config.open_connections.clone())
                .unwrap_or_default(),
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("name", &self.identity.name)
            .finish_non_exhaustive()
    }
}

type Chains = (Vec<Arc<FilterChain>>, FilterChainMatcher, Option<usize>);

fn chains_from(
    protos: Vec<pb::FilterChain>,
    default: Option<pb::FilterChain>,
    predecessor: Option<&Predecessor<'_>>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Chains, Rejected> {
    if protos.is_empty() && default.is_none() {
        return Err(path
            .field("filter_chains")
            .reject("is empty: a listener needs a filter chain or a default_filter_chain"));
    }
    let mut matcher = FilterChainMatcher::default();
    let mut names: Vec<String> = Vec::new();
    let chains = path.each("filter_chains", protos, |mut proto, path| {
        let known = predecessor.and_then(|old| old.same_chain(&proto));
        let criteria = proto.filter_chain_match.take().unwrap_or_default();
        let criteria = FilterChainMatch::from_proto(criteria, &path.field("filter_chain_match"));
        let chain_name = proto.name.clone();
        let chain = match known {
            Some(chain) => Ok(chain),
            None => FilterChain::from_proto(proto, cx, path).map(Arc::new),
        };
        let inserted = criteria.and_then(|criteria| {
            matcher.insert(&criteria, names.len()).map_err(|other| {
                path.field("filter_chain_match").reject(format!(
                    "matches connections that filter_chains[{other}] (\"{}\") matches too",
                    names.get(other).unwrap_or(&chain_name)
                ))
            })
        });
        names.push(chain_name);
        inserted.and(chain)
    });
    let default = path.optional(
        "default_filter_chain",
        default,
        |proto, path| match predecessor.and_then(|old| old.same_chain(&proto)) {
            Some(chain) => Ok(chain),
            None => FilterChain::from_proto(proto, cx, path).map(Arc::new),
        },
    );
    let (mut chains, default) = (chains?, default?);
    let default_index = default.is_some().then_some(chains.len());
    chains.extend(default);
    Ok((chains, matcher, default_index))
}

fn addresses_from(
    first: Option<outrigger_proto::pb::envoy::config::core::v3::Address>,
    additional: Vec<pb::AdditionalAddress>,
    path: &ConfigPath<'_>,
) -> Result<Vec<ListenAddress>, Rejected> {
    let first = path
        .required("address", first)
        .and_then(|address| ListenAddress::from_proto(address, &path.field("address")));
    let additional = path.each("additional_addresses", additional, |proto, path| {
        let pb::AdditionalAddress {
            address,
            socket_options,
            tcp_keepalive,
        } = proto;
        let address = path
            .required("address", address)
            .and_then(|address| ListenAddress::from_proto(address, &path.field("address")));
        let options = path.optional("socket_options", socket_options, |options, path| {
            path.each(
                "socket_options",
                options.socket_options,
                SocketOption::from_proto,
            )
        });
        let keepalive = path.optional("tcp_keepalive", tcp_keepalive, Keepalive::from_proto);
        Ok(ListenAddress {
            socket_options: options?.map(|options| options.into_iter().flatten().collect()),
            keepalive: keepalive?,
            ..address?
        })
    });
    let mut addresses = vec![first?];
    addresses.extend(additional?);
    Ok(addresses)
}

/// The filter that `use_proxy_proto` stands for.
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

fn listener_filters_from(
    protos: Vec<pb::ListenerFilter>,
    uses_proxy_protocol: bool,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Vec<ListenerFilterEntry>, Rejected> {
    let mut entries = path.each("listener_filters", protos, |proto, path| {
        let pb::ListenerFilter {
            name: _,
            filter_disabled,
            config_type,
        } = proto;
        let disabled = path.optional("filter_disabled", filter_disabled, Predicate::from_proto);
        let any = match path.required("typed_config", config_type)? {
            pb::listener_filter::ConfigType::TypedConfig(any) => any,
            pb::listener_filter::ConfigType::ConfigDiscovery(_) => {
                return Err(path.field("config_discovery").reject("is not supported"));
            }
        };
        let path = path.field("typed_config");
        let config = TypedConfig::from_any(any, &path)?;
        let factory = config.factory(FACTORIES, |factory| factory.type_names(), &path)?;
        Ok(ListenerFilterEntry {
            config: factory.from_proto(&config, cx, &path)?,
            disabled: disabled?,
        })
    })?;
    if uses_proxy_protocol {
        let path = path.field("use_proxy_proto");
        let config = TypedConfig {
            type_name: PROXY_PROTOCOL.to_owned(),
            value: Default::default(),
        };
        let factory = config.factory(FACTORIES, |factory| factory.type_names(), &path)?;
        entries.push(ListenerFilterEntry {
            config: factory.from_proto(&config, cx, &path)?,
            disabled: None,
        });
    }
    Ok(entries)
}

fn balance_from(proto: ConnectionBalanceConfig, path: &ConfigPath<'_>) -> Result<bool, Rejected> {
    let ConnectionBalanceConfig { balance_type } = proto;
    match path.required("balance_type", balance_type)? {
        BalanceType::ExactBalance(_) => Ok(true),
        BalanceType::ExtendBalance(_) => Err(path
            .field("extend_balance")
            .reject("is not supported; supported is exact_balance")),
        BalanceType::CpuLocalityBalance(_) => Err(path
            .field("cpu_locality_balance")
            .reject("is not supported; supported is exact_balance")),
    }
}

/// An address as it stands in the name of a stat.
fn stat_name(address: &Address) -> String {
    address.to_string().replace(':', "_")
}
