//! Resources as they come from their source.

use std::sync::Arc;

use outrigger_proto::any::{AnyError, decode};
use outrigger_proto::pb::google::protobuf::Any;
use prost::Name;

use crate::config::{ConfigPath, Rejected};

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
    /// responses are complete (listeners and clusters), or over their time to live.
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

impl ResourceKind {
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
        matches!(self, Self::Cluster | Self::Listener)
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
