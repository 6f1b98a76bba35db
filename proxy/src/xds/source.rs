//! Where resources come from: `envoy.config.core.v3.ConfigSource`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::config_source::ConfigSourceSpecifier;

use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;

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
}

const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

impl XdsSource {
    /// Converts a `ConfigSource`.
    pub fn from_proto(
        proto: pb::ConfigSource,
        _server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version: _,
            config_source_specifier,
        } = proto;
        let authorities = path.unsupported_if_set("authorities", authorities);
        let timeout = path.duration("initial_fetch_timeout", initial_fetch_timeout);
        let kind = match path.required("config_source_specifier", config_source_specifier)? {
            ConfigSourceSpecifier::Ads(pb::AggregatedConfigSource {}) => SourceKind::Ads,
            other => {
                return Err(path.reject(format!("is not supported: {other:?}")));
            }
        };
        authorities?;
        Ok(Self {
            kind,
            initial_fetch_timeout: timeout?.unwrap_or(INITIAL_FETCH_TIMEOUT),
        })
    }
}
