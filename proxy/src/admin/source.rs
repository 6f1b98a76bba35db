//! What the admin pages need from the server.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::Node;
use tokio::time::Instant;

use crate::server::ServerContext;
use crate::xds::{LogEntry, ResourceStatus};

/// The server as the admin pages see it. It lives on the main thread; every call is made there.
///
/// Reading calls build their answer when asked, and nothing keeps it. Changing calls start a change and return: the answer to
/// the client does not wait for its end.
pub trait AdminSource {
    /// The services of the process: stats, runtime, the health-check flag.
    fn server(&self) -> &Arc<ServerContext>;

    /// How far the server has come: `PreInitializing`, `Initializing` or `Live`. `Draining` is added here, when
    /// health checks were told to fail.
    fn init_state(&self) -> pb::server_info::State;

    /// When this process began.
    fn started_at(&self) -> Instant;

    /// The command line, as `/server_info` shows it.
    fn command_line_options(&self) -> pb::CommandLineOptions;

    /// The node with what the command line and the build put in: user agent, version, extensions.
    fn node(&self) -> Node;

    /// The name of the runtime layer that `/runtime_modify` writes to, if the bootstrap has an `admin_layer`.
    fn admin_layer(&self) -> Option<String>;

    /// Every cluster that is in use, with its hosts, sorted by name.
    fn clusters(&self) -> Vec<pb::ClusterStatus>;

    /// By the names of clusters with outlier detection: average and threshold of their success rates, of responses and of connections.
    fn success_rates(&self) -> HashMap<String, [f64; 4]> {
        HashMap::new()
    }

    /// Every listener that is in use, with the addresses it is bound to.
    fn listeners(&self) -> Vec<pb::ListenerStatus>;

    /// The configuration in use, piece by piece. Endpoints only `with_endpoints`.
    fn config_dump(&self, with_endpoints: bool) -> ConfigDumps;

    /// What the server waits for before it is live, by component.
    fn unready_targets(&self) -> Vec<pb::unready_targets_dumps::UnreadyTargetsDump>;

    /// What management servers have changed lately, the last first.
    fn xds_log(&self) -> Vec<LogEntry> {
        Vec::new()
    }

    /// What became of each resource that management servers were asked for.
    fn resource_statuses(&self) -> Vec<ResourceStatus> {
        Vec::new()
    }

    /// Begins to drain listeners.
    fn drain_listeners(&self, request: DrainListeners);

    /// Ends the process, as SIGINT does.
    fn quit(&self);

    /// Closes and opens every log file, as SIGUSR1 does.
    fn reopen_logs(&self);

    /// Every logger with its level, sorted by name.
    fn log_levels(&self) -> Vec<(String, String)>;

    /// Changes levels. Nothing changes, and the error says why, unless all of them can be set.
    fn set_log_levels(&self, change: LogLevels) -> Result<(), String>;
}

/// The pieces of `/config_dump`, in the order in which they are shown.
#[derive(Debug, Default)]
pub struct ConfigDumps {
    /// The bootstrap as it was read, with the node filled in.
    pub bootstrap: pb::BootstrapConfigDump,
    /// Static and dynamic clusters.
    pub clusters: pb::ClustersConfigDump,
    /// Filters that came through ECDS; none means that the piece is not shown.
    pub ecds_filters: Option<pb::EcdsConfigDump>,
    /// Endpoints, when asked for.
    pub endpoints: Option<pb::EndpointsConfigDump>,
    /// Static and dynamic listeners.
    pub listeners: pb::ListenersConfigDump,
    /// Scoped route configurations.
    pub scoped_routes: pb::ScopedRoutesConfigDump,
    /// Static and dynamic route configurations.
    pub routes: pb::RoutesConfigDump,
    /// Secrets, without what is private.
    pub secrets: pb::SecretsConfigDump,
}

/// `POST /drain_listeners`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainListeners {
    /// Only listeners whose `traffic_direction` is `INBOUND`.
    pub inbound_only: bool,
    /// Connections get the drain time before listeners close.
    pub graceful: bool,
    /// Connections drain, but listeners never close.
    pub skip_exit: bool,
}

/// `POST /logging`. Levels are Envoy's: trace, debug, info, warning, error, critical, off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogLevels {
    /// Every logger gets this level.
    All(String),
    /// Single loggers, by name, get a level each.
    Some(Vec<(String, String)>),
}
