//! `envoy.config.bootstrap.v3.Admin`.

use outrigger_proto::pb::envoy::config::accesslog::v3::AccessLog;
use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::{Address, SocketOption};

use crate::config::{ConfigPath, Rejected, Unset};
use crate::matchers::StringMatcher;

/// The bootstrap's `admin`.
#[derive(Debug, Clone, Default)]
pub struct AdminConfig {
    /// Where to listen; the listeners' kit converts it. Without it there is no admin interface.
    pub address: Option<Address>,
    /// For the listen socket; the listeners' kit converts them.
    pub socket_options: Vec<SocketOption>,
    /// The loggers' room converts them; [`Admin::with_access_log`](super::Admin::with_access_log) calls them.
    pub access_log: Vec<AccessLog>,
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
        // What control planes configure is a file that nobody keeps.
        let old_path = if access_log_path.is_unset() || access_log_path == "/dev/null" {
            Ok(())
        } else {
            Err(path
                .field("access_log_path")
                .reject("is not supported; legal is /dev/null, which keeps nothing"))
        };
        let allow_paths = path.each("allow_paths", allow_paths, StringMatcher::from_proto);
        old_path?;
        Ok(Self {
            address,
            socket_options,
            access_log,
            ignore_global_conn_limit,
            allow_paths: allow_paths?,
        })
    }
}
