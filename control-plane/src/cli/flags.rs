//! What can be said on the command line.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use outrigger_control_plane::admin::client::Client;
use outrigger_control_plane::ratelimit::{Access, Shared};
use outrigger_control_plane::telemetry::Collector;

/// An xDS control plane: short YAML files to a mesh and its gateways.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Flags {
    /// What to log, such as `info` or `outrigger_control_plane=debug`.
    #[arg(long, global = true, default_value = "info")]
    pub(crate) log: String,
    /// What a line of the log is.
    #[arg(long, global = true, value_enum, default_value_t = LogLines::Text)]
    pub(crate) log_format: LogLines,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves the configuration of a directory, and follows its changes.
    Run(Box<Run>),
    /// Checks a directory. The exit code is 1 if something is wrong with it.
    Validate {
        /// The directory.
        directory: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the proxies, what they have accepted and refused, and what became of each object.
    Status(Remote),
    /// Shows what is counted, in Prometheus' text form.
    Metrics(Remote),
    /// Shows the resources of a proxy.
    Get {
        /// Its node ID, such as `sidecar/default/a`.
        node: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows what a directory would change.
    Diff {
        /// The directory.
        directory: PathBuf,
        #[command(flatten)]
        remote: Remote,
    },
    /// Makes a join token.
    Token {
        /// For which node ID, such as `sidecar/default/a`.
        node: String,
        /// For how many seconds.
        #[arg(long, default_value_t = 600)]
        ttl: u64,
        #[command(flatten)]
        remote: Remote,
    },
    /// Takes the next of the three steps of a change of the root.
    Rotate(Remote),
    /// Gets and renews the certificate of a proxy or of a process whose gRPC needs none, and writes its bootstrap.
    Agent(AgentFlags),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The directory with the configuration.
    pub(crate) directory: PathBuf,
    /// Where keys, certificates and tokens are kept.
    #[arg(long, default_value = "outrigger-state")]
    pub(crate) state: PathBuf,
    /// Where to listen, for proxies and operators.
    #[arg(long, default_value = "127.0.0.1:18000")]
    pub(crate) listen: SocketAddr,
    /// Other names and addresses by which it is reached.
    #[arg(long)]
    pub(crate) name: Vec<String>,
    /// The first part of every identity.
    #[arg(long, default_value = "mesh.local")]
    pub(crate) trust_domain: String,
    /// How many seconds a certificate lives.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(10..=31_536_000))]
    pub(crate) certificate_ttl: u64,
    /// A DNS server for the names of endpoints, as `IP:PORT`, instead of those of the system.
    #[arg(long)]
    pub(crate) dns_server: Vec<SocketAddr>,
    /// Where the rate limit service listens without TLS, on a loopback address, beside `--listen` where it has mTLS.
    #[arg(long)]
    pub(crate) rate_limit_listen: Option<SocketAddr>,
    /// Where what the rate limit service has counted is kept over a restart.
    #[arg(long, value_enum, default_value_t = RateLimitStore::Memory)]
    pub(crate) rate_limit_store: RateLimitStore,
    #[command(flatten)]
    pub(crate) redis: Redis,
    /// No TLS, and every proxy is believed: for trials on a loopback address only.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    #[command(flatten)]
    pub(crate) tracing: Tracing,
}

/// The Redis with the counters of limits.
#[derive(Debug, clap::Args)]
pub(crate) struct Redis {
    /// The Redis with the counters, such as `redis://127.0.0.1:6379/0`, `rediss://redis.example:6379` (TLS) or
    /// `unix:///run/redis.sock`; of a cluster one or more nodes, separated by commas.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        required_if_eq("rate_limit_store", "redis")
    )]
    pub(crate) rate_limit_redis: Vec<String>,
    /// The Redis is a cluster.
    #[arg(long, requires = "rate_limit_redis")]
    pub(crate) rate_limit_redis_cluster: bool,
    /// The file with the password of that Redis.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis")]
    pub(crate) rate_limit_redis_password: Option<PathBuf>,
    /// The file with the roots of its certificate, in PEM, instead of those of the system.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis")]
    pub(crate) rate_limit_redis_roots: Option<PathBuf>,
    /// The file with a certificate to show to it, in PEM.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis_key")]
    pub(crate) rate_limit_redis_certificate: Option<PathBuf>,
    /// The file with the key of that certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis_certificate")]
    pub(crate) rate_limit_redis_key: Option<PathBuf>,
}

impl Redis {
    pub(crate) fn open(&self) -> Result<Shared, Box<dyn Error>> {
        let password = self.rate_limit_redis_password.as_deref();
        let password = password.map(Client::file).transpose()?;
        let read = |file: &Option<PathBuf>| {
            let file = file.as_deref().map(|file| {
                std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
            });
            file.transpose()
        };
        let certificate = read(&self.rate_limit_redis_certificate)?;
        let access = Access {
            urls: self.rate_limit_redis.clone(),
            password: password.map(|password| password.trim().to_owned()),
            is_cluster: self.rate_limit_redis_cluster,
            roots: read(&self.rate_limit_redis_roots)?,
            certificate: certificate.zip(read(&self.rate_limit_redis_key)?),
        };
        Ok(Shared::new(&access).map_err(|error| format!("--rate-limit-redis: {error}"))?)
    }
}

/// What a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLines {
    /// Words for people.
    Text,
    /// A JSON object.
    Json,
}

/// Traces of the control plane itself.
#[derive(Debug, Args)]
pub(crate) struct Tracing {
    /// A collector of OpenTelemetry that takes spans by OTLP/gRPC, such as `http://127.0.0.1:4317`.
    #[arg(long = "tracing-otlp", value_name = "URL")]
    pub(crate) otlp: Option<String>,
    /// The file with the roots of the collector's certificate, where the URL is of `https`.
    #[arg(long = "tracing-otlp-roots", value_name = "FILE", requires = "otlp")]
    pub(crate) otlp_roots: Option<PathBuf>,
    /// Which part of the traces that begin here is kept, 0 to 1.
    #[arg(long = "tracing-sampling", default_value_t = 1.0, value_parser = ratio)]
    pub(crate) sampling: f64,
    /// The name of this service in its spans.
    #[arg(
        long = "tracing-service",
        default_value = "outrigger-control-plane",
        value_name = "NAME"
    )]
    pub(crate) service: String,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "not a number from 0 to 1".to_owned())
}

/// Where counters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RateLimitStore {
    /// In memory: they are lost with the process.
    Memory,
    /// In memory, and every second in `rate-limits.json` of the state directory.
    Disk,
    /// In Redis, for all control planes that have the same.
    Redis,
}

#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The control plane.
    #[arg(long = "against", alias = "server", default_value = "127.0.0.1:18000")]
    pub(crate) server: String,
    /// Its state directory, for its roots and the operator's token.
    #[arg(long, default_value = "outrigger-state")]
    pub(crate) state: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// It speaks no TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentFlags {
    /// The node ID, such as `sidecar/default/a`.
    pub(crate) node: String,
    /// The control plane.
    #[arg(long, default_value = "127.0.0.1:18000")]
    pub(crate) server: String,
    /// The file with the roots by which it is known.
    #[arg(long, required_unless_present = "insecure_plaintext")]
    pub(crate) roots: Option<PathBuf>,
    /// The join token, if there is no certificate yet.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Where to write.
    #[arg(long)]
    pub(crate) directory: PathBuf,
    /// Where the proxy's admin interface is to listen.
    #[arg(long)]
    pub(crate) admin: Option<SocketAddr>,
    /// A UNIX socket by which gRPC reaches the control plane through this agent, for clients that cannot speak TLS to it.
    #[arg(long, conflicts_with = "once")]
    pub(crate) socket: Option<PathBuf>,
    /// Ends when the files are written, and renews nothing.
    #[arg(long)]
    pub(crate) once: bool,
    /// The control plane speaks no TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
}

impl Tracing {
    pub(crate) fn collector(&self) -> Result<Option<Collector>, Box<dyn Error>> {
        let Some(endpoint) = self.otlp.clone() else {
            return Ok(None);
        };
        let roots = self.otlp_roots.as_deref().map(Client::file).transpose()?;
        Ok(Some(Collector {
            endpoint,
            roots,
            ratio: self.sampling,
            service: self.service.clone(),
        }))
    }
}
