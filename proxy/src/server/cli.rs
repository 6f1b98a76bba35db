//! The command line, as Envoy's.
//!
//! Accepted without effect: `--base-id`, `--base-id-path`, `--use-dynamic-base-id`, `--restart-epoch`, `--hot-restart-version`
//! (prints 0), `--disable-hot-restart`, `--skip-hot-restart-*`, `--socket-path`, `--socket-mode`, `--parent-shutdown-time-s`:
//! there is no hot restart. `--enable-core-dump`, `--enable-mutex-tracing`, `--enable-fine-grain-logging`,
//! `--log-stacktrace-single-entry`, `--skip-deprecated-logs`, `--cpuset-threads`: what they ask for is so, or does not exist here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};

use crate::config::DynamicFieldPolicy;

/// The flags of the process.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "outrigger",
    disable_version_flag = true,
    disable_help_subcommand = true
)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Cli {
    /// Path to configuration file.
    #[arg(short = 'c', long)]
    pub config_path: Option<PathBuf>,
    /// Inline YAML configuration, merged into what --config-path holds. May be given several times.
    #[arg(long)]
    pub config_yaml: Vec<String>,
    /// What to do: serve, validate the configuration and exit, or initialize and exit.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// Number of worker threads. Default: the CPUs that affinity and control group give.
    #[arg(long)]
    pub concurrency: Option<usize>,
    /// File that the bound address of the admin interface is written to.
    #[arg(long)]
    pub admin_address_path: Option<PathBuf>,
    /// Address family of the local address in node information: v4 or v6.
    #[arg(long, value_enum, default_value_t = IpVersion::V4)]
    pub local_address_ip_version: IpVersion,
    /// Log level: trace, debug, info, warning, warn, error, critical, off.
    #[arg(short = 'l', long, default_value = "info")]
    pub log_level: String,
    /// Levels of single components: upstream:debug,config:trace.
    #[arg(long)]
    pub component_log_level: Option<String>,
    /// Format of application log lines, in the syntax of spdlog.
    #[arg(long)]
    pub log_format: Option<String>,
    /// Escape C-style escape sequences in the application log.
    #[arg(long)]
    pub log_format_escaped: bool,
    /// File for the application log. Default: standard error.
    #[arg(long)]
    pub log_path: Option<PathBuf>,
    /// Name of the cluster, in place of node.cluster.
    #[arg(long)]
    pub service_cluster: Option<String>,
    /// Name of the node, in place of node.id.
    #[arg(long)]
    pub service_node: Option<String>,
    /// Zone of the node, in place of node.locality.zone.
    #[arg(long)]
    pub service_zone: Option<String>,
    /// Seconds that connections get to end when the server drains.
    #[arg(long, default_value_t = 600)]
    pub drain_time_s: u32,
    /// How listeners drain on request: gradual or immediate.
    #[arg(long, value_enum, default_value_t = DrainStrategy::Gradual)]
    pub drain_strategy: DrainStrategy,
    /// Milliseconds between flushes of log files.
    #[arg(long, default_value_t = 10_000)]
    pub file_flush_interval_msec: u32,
    /// KiB after which a log file is flushed.
    #[arg(long, default_value_t = 64)]
    pub file_flush_min_size_kb: u32,
    /// Allow unknown fields in static configuration.
    #[arg(long, alias = "allow-unknown-fields")]
    pub allow_unknown_static_fields: bool,
    /// Keep what management servers sent last in this file, and start with it when they cannot be reached. Envoy has no such flag.
    #[arg(long)]
    pub xds_snapshot_path: Option<PathBuf>,
    /// Leave out unknown fields in dynamic configuration without a warning.
    #[arg(long)]
    pub ignore_unknown_dynamic_fields: bool,
    /// Refuse dynamic configuration with unknown fields. Stronger than `--ignore-unknown-dynamic-fields`.
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,
    /// A tag for all stats, as tag:value. May be given several times.
    #[arg(long)]
    pub stats_tag: Vec<String>,
    /// Extensions that must not be used, separated by commas.
    #[arg(long)]
    pub disable_extensions: Option<String>,
    /// Print the version.
    #[arg(long, action = ArgAction::SetTrue)]
    pub version: bool,
    /// Print the version of the hot restart protocol.
    #[arg(long)]
    pub hot_restart_version: bool,
    #[command(flatten)]
    no_ops: NoOps,
}

/// Flags without effect; the module says why.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct NoOps {
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true)]
    base_id_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    use_dynamic_base_id: bool,
    #[arg(long, hide = true)]
    restart_epoch: Option<u32>,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true)]
    socket_path: Option<String>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<u32>,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true)]
    enable_mutex_tracing: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    log_stacktrace_single_entry: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// Serve traffic.
    Serve,
    /// Load the configuration, say whether it is good, exit.
    Validate,
    /// Initialize as for serving, exit.
    InitOnly,
}

/// `--local-address-ip-version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the flag's own values")]
pub enum IpVersion {
    V4,
    V6,
}

/// `--drain-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// Ever more connections are ended over the drain time.
    Gradual,
    /// All connections are ended as soon as their streams allow.
    Immediate,
}

impl Cli {
    /// Parses a command line, the program's name included. What follows `--` is ignored.
    pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let used = args
            .into_iter()
            .take_while(|arg| arg != "--" && arg != "--ignore_rest");
        Self::try_parse_from(used)
    }

    /// What becomes of unknown fields in what management servers send.
    pub fn dynamic_fields(&self) -> DynamicFieldPolicy {
        match (
            self.reject_unknown_dynamic_fields,
            self.ignore_unknown_dynamic_fields,
        ) {
            (true, _) => DynamicFieldPolicy::Reject,
            (false, true) => DynamicFieldPolicy::Ignore,
            (false, false) => DynamicFieldPolicy::Warn,
        }
    }

    /// How many workers run. At least one: Envoy takes 0 as 1.
    pub fn worker_count(&self) -> usize {
        self.concurrency
            .unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            })
            .max(1)
    }

    /// What the configuration is called in messages: its path, or nothing where all is inline.
    pub fn config_name(&self) -> String {
        let path = self.config_path.as_ref();
        path.map(|path| path.display().to_string())
            .unwrap_or_default()
    }

    /// The epoch that hot restart would have.
    pub fn restart_epoch(&self) -> u32 {
        self.no_ops.restart_epoch.unwrap_or(0)
    }

    /// Seconds after which a hot restart would end the parent.
    pub fn parent_shutdown_time_s(&self) -> u32 {
        self.no_ops.parent_shutdown_time_s.unwrap_or(900)
    }
}

/// What `--version` prints: our version, and Envoy's whose behaviour it has.
pub fn version() -> String {
    format!(
        "{}/{ENVOY_VERSION}/Clean/{}/none",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) {
            "DEBUG"
        } else {
            "RELEASE"
        }
    )
}

/// The version of Envoy that is followed.
pub const ENVOY_VERSION: &str = "1.40.0";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        let args = std::iter::once("outrigger").chain(args.iter().copied());
        Cli::parse_args(args.map(OsString::from))
    }

    #[test]
    fn every_flag_of_envoy_is_accepted() {
        let cli = parse(&[
            "-c",
            "a.yaml",
            "--config-yaml",
            "{}",
            "--config-yaml",
            "{}",
            "--mode",
            "init_only",
            "--concurrency",
            "3",
            "--admin-address-path",
            "x",
            "--local-address-ip-version",
            "v6",
            "-l",
            "warn",
            "--component-log-level",
            "upstream:debug",
            "--log-format",
            "%v",
            "--log-format-escaped",
            "--log-path",
            "y",
            "--service-cluster",
            "c",
            "--service-node",
            "n",
            "--service-zone",
            "z",
            "--drain-time-s",
            "5",
            "--drain-strategy",
            "immediate",
            "--file-flush-interval-msec",
            "1",
            "--file-flush-min-size-kb",
            "2",
            "--allow-unknown-fields",
            "--stats-tag",
            "a:b",
            "--disable-extensions",
            "x,y",
            "--base-id",
            "1",
            "--base-id-path",
            "p",
            "--use-dynamic-base-id",
            "--restart-epoch",
            "0",
            "--disable-hot-restart",
            "--skip-hot-restart-on-no-parent",
            "--skip-hot-restart-parent-stats",
            "--socket-path",
            "@a",
            "--socket-mode",
            "600",
            "--parent-shutdown-time-s",
            "9",
            "--enable-core-dump",
            "--enable-mutex-tracing",
            "--enable-fine-grain-logging",
            "--log-stacktrace-single-entry",
            "--skip-deprecated-logs",
            "--cpuset-threads",
            "--ignore-unknown-dynamic-fields",
            "--reject-unknown-dynamic-fields",
            "--hot-restart-version",
            "--version",
        ])
        .unwrap();
        assert_eq!(cli.config_yaml.len(), 2);
        assert_eq!(cli.mode, Mode::InitOnly);
        assert_eq!(cli.worker_count(), 3);
        assert!(cli.allow_unknown_static_fields);
        assert_eq!(cli.dynamic_fields(), DynamicFieldPolicy::Reject);
    }

    #[test]
    fn what_follows_two_dashes_is_ignored() {
        let cli = parse(&["-c", "a", "--", "--no-such-flag"]).unwrap();
        assert_eq!(cli.config_name(), "a");
        assert!(parse(&["--no-such-flag"]).is_err());
    }
}
