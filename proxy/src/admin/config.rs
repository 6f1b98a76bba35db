//! `envoy.config.bootstrap.v3.Admin`.

use outrigger_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::{Address, SocketOption};

use crate::config::{ConfigPath, Rejected};
use crate::matchers::StringMatcher;

/// The bootstrap's `admin`.
#[derive(Debug, Clone, Default)]
pub struct AdminConfig {
    /// Where to listen; the listeners' kit converts it. Without it there is no admin interface.
    pub address: Option<Address>,
    /// For the listen socket; the listeners' kit converts them.
    pub socket_options: Vec<SocketOption>,
    /// The loggers' room converts them; [`Admin::with_access_log`](super::Admin::with_access_log) takes them.
    pub access_log: Vec<AccessLog>,
    /// `access_log_path`, which is deprecated: a file for one more log in the default format; empty for none.
    pub access_log_path: String,
    /// Admin connections do not count against the global limit. Default: they do.
    pub ignore_global_conn_limit: bool,
    /// Targets that may be asked for, path and query; empty for all.
    pub allow_paths: Vec<StringMatcher>,
}

impl AdminConfig {
    /// Converts the bootstrap's `admin`.
    pub fn from_proto(proto: pb::Admin, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        // Harmless: `profile_path` is where a CPU profile would go, and there is no profiler.
        #[allow(deprecated, reason = "every field is decided")]
        let pb::Admin {
            access_log,
            access_log_path,
            profile_path: _,
            address,
            socket_options,
            ignore_global_conn_limit,
            allow_paths,
        } = proto;
        let allow_paths = path.each("allow_paths", allow_paths, StringMatcher::from_proto);
        Ok(Self {
            address,
            socket_options,
            access_log,
            access_log_path,
            ignore_global_conn_limit,
            allow_paths: allow_paths?,
        })
    }
}
