//! Resources as they come from their source.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::{AnyError, decode, type_name};
use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::pb::google::rpc::Status;
use outrigger_proto::yaml::{LoadError, Source, UnknownFields, load};
use prost::{Message, Name};

use crate::config::{ConfigPath, DynamicFieldPolicy, DynamicFields, Rejected};

/// What kinds of resources there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// SRDS.
    ScopedRoute,
    /// RDS.
    RouteConfiguration,
    /// VHDS.
    VirtualHost,
    /// SDS.
    Secret,
    /// RTDS.
    Runtime,
    /// ECDS.
    ExtensionConfig,
}

/// A resource as it came.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its name. Of the resource itself where the response wraps it in none.
    pub name: Arc<str>,
    /// Other names that it answers to.
    pub aliases: Vec<String>,
    /// Its own version in delta, else that of the response. Says nothing about whether it has changed.
    pub version: Arc<str>,
    /// Its bytes with their type. None in delta answers about virtual hosts that do not exist.
    pub body: Option<Any>,
}

/// What a response, or a file, changes for one subscription.
#[derive(Debug)]
pub struct Update<'a> {
    /// `version_info` or `system_version_info` of the response.
    pub version: &'a Arc<str>,
    /// Resources that were sent, be they changed or not.
    pub sent: &'a [Resource],
    /// Names of resources that exist no more: said so in delta, and left out of the state of the world for the kinds whose
    /// responses are complete (listeners, clusters and scopes), or over their time to live.
    pub removed: &'a [Arc<str>],
}

/// A resource that was not taken. All others of the response are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: Arc<str>,
    /// Every error in it, each with its path, one per line.
    pub reason: String,
}

/// A response, taken apart.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) version: Arc<str>,
    pub(super) sent: Vec<Resource>,
    pub(super) removed: Vec<Arc<str>>,
    /// What the server says is wrong with resources that it does not send.
    pub(super) errors: Vec<Refused>,
    /// How long resources of these names are good for; none: without end.
    pub(super) lifetimes: Vec<(Arc<str>, Option<Duration>)>,
}

impl Received {
    /// The names of what was sent.
    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.sent.iter().map(|resource| resource.name.clone())
    }
}

/// All kinds have their name in the first field.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// `INTERNAL`: what Envoy says when it refuses.
const INTERNAL: i32 = 13;
/// An error text that is longer is cut: servers log it, and lines have limits.
const MAX_ERROR_BYTES: usize = 4096;

/// The error that an answer carries, which names every resource that was refused; none for an ACK.
pub(super) fn refusal(refused: &[Refused]) -> Option<Status> {
    if refused.is_empty() {
        return None;
    }
    let lines: Vec<String> = refused
        .iter()
        .map(|Refused { name, reason }| match name.is_empty() {
            true => reason.clone(),
            false => format!("{name}: {reason}"),
        })
        .collect();
    let mut message = lines.join("\n");
    if message.len() > MAX_ERROR_BYTES {
        let cut = (0..=MAX_ERROR_BYTES)
            .rev()
            .find(|at| message.is_char_boundary(*at));
        message.truncate(cut.unwrap_or_default());
        message.push_str("...(truncated)");
    }
    Some(Status {
        code: INTERNAL,
        message,
        details: Vec::new(),
    })
}

/// The resources of a state-of-the-world response, bare or wrapped.
pub(super) fn received_from(
    kind: ResourceKind,
    resources: Vec<Any>,
    version: &Arc<str>,
) -> Result<Received, Vec<Refused>> {
    let mut received = Received::default();
    for any in resources {
        if type_name(&any.type_url) == "envoy.service.discovery.v3.Resource" {
            let wrapped = pb::Resource::decode(&*any.value).map_err(|error| {
                refused_response(&format!("a resource cannot be read: {error}"))
            })?;
            take_wrapped(kind, wrapped, version, &mut received)?;
            continue;
        }
        check_type(kind, &any)?;
        let resource = Resource {
            name: name_of(&any)?.into(),
            aliases: Vec::new(),
            version: version.clone(),
            body: Some(any),
        };
        received.lifetimes.push((resource.name.clone(), None));
        received.sent.push(resource);
    }
    Ok(received)
}

/// The resources of a delta response.
pub(super) fn received_wrapped(
    kind: ResourceKind,
    resources: Vec<pb::Resource>,
) -> Result<Received, Vec<Refused>> {
    let mut received = Received::default();
    for resource in resources {
        let version: Arc<str> = resource.version.as_str().into();
        take_wrapped(kind, resource, &version, &mut received)?;
    }
    Ok(received)
}

fn take_wrapped(
    kind: ResourceKind,
    wrapped: pb::Resource,
    version: &Arc<str>,
    received: &mut Received,
) -> Result<(), Vec<Refused>> {
    let pb::Resource {
        name,
        // Of names that carry parameters, which nothing here asks for.
        resource_name: _,
        aliases,
        version: _,
        resource,
        ttl,
        // Harmless: nothing is cached.
        cache_control: _,
        // Harmless: for people and tools.
        metadata: _,
    } = wrapped;
    let name = match (&resource, name.is_empty()) {
        (Some(any), true) => name_of(any)?,
        _ => name,
    };
    let name: Arc<str> = name.into();
    let lifetime = ttl.map(|ttl| {
        let seconds = u64::try_from(ttl.seconds).unwrap_or(0);
        Duration::new(
            seconds,
            u32::try_from(ttl.nanos).unwrap_or(0).min(999_999_999),
        )
    });
    received.lifetimes.push((name.clone(), lifetime));
    match &resource {
        Some(any) => check_type(kind, any)?,
        // A heartbeat: what is in force stays so.
        None if lifetime.is_some() => return Ok(()),
        None => {}
    }
    received.sent.push(Resource {
        name,
        aliases,
        version: version.clone(),
        body: resource,
    });
    Ok(())
}

fn check_type(kind: ResourceKind, any: &Any) -> Result<(), Vec<Refused>> {
    if type_name(&any.type_url) == kind.type_name() {
        return Ok(());
    }
    Err(refused_response(&format!(
        "type URL {} embedded in an individual Any does not match the message-wide type URL {} in DiscoveryResponse",
        any.type_url,
        kind.type_url()
    )))
}

fn name_of(any: &Any) -> Result<String, Vec<Refused>> {
    Named::decode(&*any.value)
        .map(|named| named.name)
        .map_err(|error| refused_response(&format!("a resource cannot be read: {error}")))
}

/// A response that is written as text.
pub(super) fn load_response(
    source: &Source<'_>,
    unknown: &DynamicFields,
) -> Result<pb::DiscoveryResponse, String> {
    let sources = std::slice::from_ref(source);
    let text = |errors: Vec<LoadError>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("; ")
    };
    let refused = match load(sources, unknown.first_try()) {
        Ok(response) => return Ok(response),
        Err(errors) if unknown.policy() != DynamicFieldPolicy::Warn => return Err(text(errors)),
        Err(errors) => errors,
    };
    let response = load(sources, UnknownFields::Ignore).map_err(text)?;
    for error in refused {
        unknown.note(&error.to_string());
    }
    Ok(response)
}

/// Errors of the server, by the name of the resource.
pub(super) fn errors_from(errors: Vec<pb::ResourceError>) -> Vec<Refused> {
    let errors = errors.into_iter().map(|error| {
        let pb::ResourceError {
            resource_name,
            error_detail,
        } = error;
        Refused {
            name: resource_name
                .map(|known| known.name)
                .unwrap_or_default()
                .into(),
            reason: error_detail
                .map(|status| status.message)
                .unwrap_or_default(),
        }
    });
    errors.collect()
}

/// The refusal of a response as a whole.
pub(super) fn refused_response(reason: &str) -> Vec<Refused> {
    vec![Refused {
        name: "".into(),
        reason: reason.to_owned(),
    }]
}

impl ResourceKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::ScopedRoute,
        Self::RouteConfiguration,
        Self::VirtualHost,
        Self::Secret,
        Self::Runtime,
        Self::ExtensionConfig,
    ];

    /// The kind of a type URL.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        let name = type_name(type_url);
        Self::ALL.into_iter().find(|kind| kind.type_name() == name)
    }

    /// Service, method of a stream of all states, method of a stream of changes, and the last part of a path of REST.
    pub(super) const fn service(self) -> [&'static str; 4] {
        match self {
            Self::Cluster => [
                "envoy.service.cluster.v3.ClusterDiscoveryService",
                "StreamClusters",
                "DeltaClusters",
                "clusters",
            ],
            Self::Endpoints => [
                "envoy.service.endpoint.v3.EndpointDiscoveryService",
                "StreamEndpoints",
                "DeltaEndpoints",
                "endpoints",
            ],
            Self::Listener => [
                "envoy.service.listener.v3.ListenerDiscoveryService",
                "StreamListeners",
                "DeltaListeners",
                "listeners",
            ],
            Self::ScopedRoute => [
                "envoy.service.route.v3.ScopedRoutesDiscoveryService",
                "StreamScopedRoutes",
                "DeltaScopedRoutes",
                "scoped-routes",
            ],
            Self::RouteConfiguration => [
                "envoy.service.route.v3.RouteDiscoveryService",
                "StreamRoutes",
                "DeltaRoutes",
                "routes",
            ],
            // There is no stream of all virtual hosts, and no REST.
            Self::VirtualHost => [
                "envoy.service.route.v3.VirtualHostDiscoveryService",
                "DeltaVirtualHosts",
                "DeltaVirtualHosts",
                "virtual-hosts",
            ],
            Self::Secret => [
                "envoy.service.secret.v3.SecretDiscoveryService",
                "StreamSecrets",
                "DeltaSecrets",
                "secrets",
            ],
            Self::Runtime => [
                "envoy.service.runtime.v3.RuntimeDiscoveryService",
                "StreamRuntime",
                "DeltaRuntime",
                "runtime",
            ],
            Self::ExtensionConfig => [
                "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
                "StreamExtensionConfigs",
                "DeltaExtensionConfigs",
                "extension_configs",
            ],
        }
    }

    /// The name of the message: `envoy.config.cluster.v3.Cluster`.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::ScopedRoute => "envoy.config.route.v3.ScopedRouteConfiguration",
            Self::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Runtime => "envoy.service.runtime.v3.Runtime",
            Self::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// `type.googleapis.com/` and the name of the message.
    pub fn type_url(self) -> String {
        format!("type.googleapis.com/{}", self.type_name())
    }

    /// Whether a state-of-the-world response lists all resources of the kind, so that what it leaves out is gone.
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRoute)
    }
}

impl Resource {
    /// The message that it holds, after the checks that every configuration passes.
    pub fn decode<M: Name + Default>(&self, path: &ConfigPath<'_>) -> Result<M, Rejected> {
        let Some(body) = &self.body else {
            return Err(path.reject("has no body"));
        };
        let message = decode::<M>(body).map_err(|error| match error {
            AnyError::UnknownType(name) => path.reject(format!("is of an unknown type: {name}")),
            other => path.reject(other.to_string()),
        })?;
        path.check(&M::full_name(), &body.value)?;
        Ok(message)
    }
}
