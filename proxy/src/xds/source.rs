//! Where resources come from: `envoy.config.core.v3.ConfigSource`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::api_config_source::ApiType;
use pb::config_source::ConfigSourceSpecifier;
use pb::grpc_service::{EnvoyGrpc, TargetSpecifier};

use super::google_grpc;
use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;
use crate::upstream::ClusterId;
use crate::upstream::async_client::GrpcService;

/// A converted `ConfigSource`.
#[derive(Debug, Clone, PartialEq)]
pub struct XdsSource {
    /// Where it is.
    pub kind: SourceKind,
    /// How long the first answer is waited for before who waits goes on without. Default 15 s; zero: for ever.
    pub initial_fetch_timeout: Duration,
}

/// The kinds of sources.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// The aggregated stream of `dynamic_resources.ads_config`.
    Ads,
    /// A stream, or requests, for each subscription.
    Api(Arc<ApiSource>),
    /// A file that is watched.
    Path(Arc<PathSource>),
}

/// A converted `ApiConfigSource`.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiSource {
    /// How it is asked.
    pub transport: ApiTransport,
    /// The node is not sent again on a stream.
    pub set_node_on_first_message_only: bool,
    /// How often a stream may ask; none: as often as it likes.
    pub rate_limit: Option<RateLimit>,
}

/// The ways to ask.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiTransport {
    /// A stream whose responses say all that there is, or `delta`: what has changed.
    Grpc {
        /// Responses say what has changed.
        delta: bool,
        /// Whom to ask.
        service: GrpcTarget,
        /// Whom to ask while that one has never answered. Of the aggregated stream alone, as in Envoy.
        failover: Option<GrpcTarget>,
    },
    /// Requests by HTTP, again and again.
    Rest {
        /// The server.
        cluster: ClusterId,
        /// The name of the cluster.
        cluster_name: Arc<str>,
        /// Between an answer and the next request.
        refresh_delay: Duration,
        /// Default 1 s.
        request_timeout: Duration,
    },
}

/// A server of xDS by gRPC.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcTarget {
    /// Whom to ask.
    pub service: GrpcService,
    /// After a stream has ended: the first wait, and the longest one.
    pub back_off: (Duration, Duration),
    /// Bytes of the largest message.
    pub max_message_bytes: usize,
}

/// `RateLimitSettings`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Default 100.
    pub max_tokens: f64,
    /// Per second. Default 10.
    pub fill_rate: f64,
}

/// A converted `PathConfigSource`.
#[derive(Debug, PartialEq, Eq)]
pub struct PathSource {
    /// The file.
    pub path: PathBuf,
    /// Whose changes tell that the file may have changed. Default: the directory of the file.
    pub directory: Option<PathBuf>,
    /// Files that are written where they are count as well, and not only those that are moved into place. Default false.
    pub watch_modify: bool,
}

/// The runtime key that allows a second server.
const FAILOVER: &str = "envoy.restart_features.xds_failover_support";
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A response of all clusters of a large mesh has tens of megabytes.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

impl XdsSource {
    /// Whether it is a file, for which no server is needed.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, SourceKind::Path(_))
    }

    /// Converts a `ConfigSource`.
    #[allow(deprecated, reason = "`path` is what `path_config_source` was before")]
    pub fn from_proto(
        proto: pb::ConfigSource,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version,
            config_source_specifier,
        } = proto;
        let authorities = path.unsupported_if_set("authorities", authorities);
        let timeout = path.duration("initial_fetch_timeout", initial_fetch_timeout);
        let version = api_version("resource_api_version", resource_api_version, path);
        let kind = match path.required("config_source_specifier", config_source_specifier)? {
            ConfigSourceSpecifier::Ads(pb::AggregatedConfigSource {}) => Ok(SourceKind::Ads),
            ConfigSourceSpecifier::ApiConfigSource(source) => {
                ApiSource::from_proto(source, server, &path.field("api_config_source"))
                    .map(|source| SourceKind::Api(Arc::new(source)))
            }
            ConfigSourceSpecifier::Path(file) => Ok(SourceKind::Path(Arc::new(PathSource {
                path: file.into(),
                directory: None,
                watch_modify: false,
            }))),
            ConfigSourceSpecifier::PathConfigSource(source) => {
                PathSource::from_proto(source, &path.field("path_config_source"))
                    .map(|source| SourceKind::Path(Arc::new(source)))
            }
            // The server that sent this is meant: for us the aggregated stream.
            ConfigSourceSpecifier::Self_(pb::SelfConfigSource {
                transport_api_version,
            }) => {
                let path = path.field("self");
                api_version("transport_api_version", transport_api_version, &path)
                    .map(|()| SourceKind::Ads)
            }
        };
        authorities?;
        version?;
        Ok(Self {
            kind: kind?,
            initial_fetch_timeout: timeout?.unwrap_or(INITIAL_FETCH_TIMEOUT),
        })
    }
}

impl ApiSource {
    /// Converts an `ApiConfigSource`.
    #[allow(deprecated, reason = "a value that is refused")]
    pub fn from_proto(
        proto: pb::ApiConfigSource,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ApiConfigSource {
            api_type,
            transport_api_version,
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            rate_limit_settings,
            set_node_on_first_message_only,
            config_validators,
        } = proto;
        let validators = path.unsupported_if_set("config_validators", config_validators);
        let version = api_version("transport_api_version", transport_api_version, path);
        let refresh_delay = path.duration("refresh_delay", refresh_delay);
        let request_timeout = path.duration("request_timeout", request_timeout);
        let rate_limit = path.optional("rate_limit_settings", rate_limit_settings, |limit, _| {
            let pb::RateLimitSettings {
                max_tokens,
                fill_rate,
            } = limit;
            Ok(RateLimit {
                max_tokens: max_tokens.map_or(100.0, |tokens| tokens.value.into()),
                fill_rate: fill_rate.map_or(10.0, |rate| rate.value),
            })
        });
        let transport = match path.enumeration::<ApiType>("api_type", api_type)? {
            ApiType::Grpc | ApiType::AggregatedGrpc => {
                grpc(false, grpc_services, &cluster_names, server, path)
            }
            ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => {
                grpc(true, grpc_services, &cluster_names, server, path)
            }
            ApiType::Rest => {
                let delay = refresh_delay?;
                let delay = delay.ok_or_else(|| {
                    path.field("refresh_delay")
                        .reject("must be set: a REST server is asked again and again")
                });
                let [cluster] = &cluster_names[..] else {
                    return Err(path
                        .field("cluster_names")
                        .reject("must name exactly one cluster for REST"));
                };
                Ok(ApiTransport::Rest {
                    cluster: known_cluster(cluster, server, &path.index("cluster_names", 0))?,
                    cluster_name: cluster.as_str().into(),
                    refresh_delay: delay?,
                    request_timeout: request_timeout?.unwrap_or(REQUEST_TIMEOUT),
                })
            }
            ApiType::DeprecatedAndUnavailableDoNotUse => Err(path
                .field("api_type")
                .reject("is the REST of a version that is gone; legal are REST, GRPC, DELTA_GRPC")),
        };
        validators?;
        version?;
        Ok(Self {
            transport: transport?,
            set_node_on_first_message_only,
            rate_limit: rate_limit?,
        })
    }
}

fn grpc(
    delta: bool,
    services: Vec<pb::GrpcService>,
    cluster_names: &[String],
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<ApiTransport, Rejected> {
    if !cluster_names.is_empty() {
        return Err(path
            .field("cluster_names")
            .reject("is for REST; gRPC servers are named in grpc_services"));
    }
    let count = services.len();
    let runtime = &server.runtime;
    let limit = match runtime.flag(FAILOVER, false).get() {
        true => 2,
        false => 1,
    };
    let services = path.each("grpc_services", services, |service, path| {
        GrpcTarget::from_proto(service, server, path)
    })?;
    let mut services = services.into_iter();
    match services.next() {
        Some(service) if count <= limit => Ok(ApiTransport::Grpc {
            delta,
            service,
            failover: services.next(),
        }),
        _ => Err(path.field("grpc_services").reject(format!(
            "has {count} entries; legal are 1 and, where the runtime key {FAILOVER} is true, 2"
        ))),
    }
}

impl GrpcTarget {
    /// Converts a `GrpcService` of xDS.
    pub fn from_proto(
        mut proto: pb::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        if let Some(TargetSpecifier::GoogleGrpc(google)) = proto.target_specifier {
            let (cluster_name, authority) =
                google_grpc::target(google, &path.field("google_grpc"))?;
            proto.target_specifier = Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name,
                authority,
                ..EnvoyGrpc::default()
            }));
        }
        // Of `timeout` nothing is seen: streams of xDS have no end.
        let (service, retries) = GrpcService::with_retries(proto, server, path)?;
        let envoy_grpc = path.field("envoy_grpc");
        let back_off = envoy_grpc.optional("retry_policy", retries, back_off);
        check_static(service.cluster, server, &envoy_grpc.field("cluster_name"))?;
        let limit = service.max_receive_message_length;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        Ok(Self {
            service,
            back_off: back_off?.unwrap_or(BACK_OFF),
            max_message_bytes: limit
                .filter(|limit| *limit > 0)
                .unwrap_or(MAX_MESSAGE_BYTES),
        })
    }
}

/// The waits between two streams.
fn back_off(
    proto: pb::RetryPolicy,
    path: &ConfigPath<'_>,
) -> Result<(Duration, Duration), Rejected> {
    let pb::RetryPolicy {
        retry_back_off,
        // Harmless: a stream is begun again until it stands.
        num_retries: _,
        retry_on,
        retry_priority,
        retry_host_predicate,
        // Of the host predicates alone.
        host_selection_retry_max_attempts: _,
    } = proto;
    path.unsupported_if_set("retry_on", retry_on)?;
    path.unsupported_if_set("retry_priority", retry_priority)?;
    path.unsupported_if_set("retry_host_predicate", retry_host_predicate)?;
    let waits = path.optional("retry_back_off", retry_back_off, |back_off, path| {
        let pb::BackoffStrategy {
            base_interval,
            max_interval,
        } = back_off;
        let base = path.duration("base_interval", base_interval);
        let max = path.duration("max_interval", max_interval);
        let base = base?.unwrap_or(BACK_OFF.0);
        let max = max?.unwrap_or(base * 10);
        if max < base {
            return Err(path
                .field("max_interval")
                .reject("must not be less than base_interval"));
        }
        Ok((base, max))
    });
    Ok(waits?.unwrap_or(BACK_OFF))
}

/// The number of a cluster of the bootstrap: a server of xDS is none that comes by xDS.
fn known_cluster(
    name: &str,
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<ClusterId, Rejected> {
    let id = server.cluster_names.id(name);
    check_static(id, server, path)?;
    Ok(id)
}

fn check_static(
    id: ClusterId,
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    if server.cluster_names.is_not_static(id) {
        let name = server.cluster_names.name(id).unwrap_or_default();
        return Err(path.reject(format!(
            "\"{name}\" is not the name of a cluster of the bootstrap"
        )));
    }
    Ok(())
}

/// Only version 3 of the API exists. For resources AUTO is taken as well, as by Envoy; for transports it once meant version 2.
fn api_version(name: &str, version: i32, path: &ConfigPath<'_>) -> Result<(), Rejected> {
    match path.enumeration::<pb::ApiVersion>(name, version)? {
        pb::ApiVersion::V3 => Ok(()),
        pb::ApiVersion::Auto if name == "resource_api_version" => Ok(()),
        _ => Err(path
            .field(name)
            .reject("V2 and AUTO are no more; legal is V3")),
    }
}

impl PathSource {
    fn from_proto(proto: pb::PathConfigSource, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::PathConfigSource {
            path: file,
            watched_directory,
            // Harmless: only systems without file events poll.
            poll_interval: _,
        } = proto;
        let file = PathBuf::from(path.non_empty("path", file)?);
        if let Err(error) = std::fs::metadata(&file) {
            let file = file.display();
            let text = format!("cannot read \"{file}\": {error}");
            return Err(path.field("path").reject(text));
        }
        let (directory, watch_modify) = match watched_directory {
            Some(pb::WatchedDirectory { path, watch_modify }) => (Some(path.into()), watch_modify),
            None => (None, false),
        };
        Ok(Self {
            path: file,
            directory,
            watch_modify,
        })
    }
}
