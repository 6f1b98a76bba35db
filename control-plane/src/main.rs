//! `outrigger-control-plane`: see `--help`, and the library for how it works.

#![allow(
    clippy::print_stdout,
    reason = "a program of the command line answers there"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};
use http::Method;
use outrigger_control_plane::admin::api::Api;
use outrigger_control_plane::admin::client::{Client, ClientError};
use outrigger_control_plane::agent::Agent;
use outrigger_control_plane::ca::{Authority, Tokens};
use outrigger_control_plane::control::Control;
use outrigger_control_plane::dns::{Names, Resolver, SystemResolver};
use outrigger_control_plane::ratelimit::{self, Access, Limiter, Limits, Shared};
use outrigger_control_plane::telemetry::{Collector, LogFormat, Telemetry};
use outrigger_control_plane::translate::Secrets;
use outrigger_control_plane::world::World;
use outrigger_control_plane::{admin, model, watch};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Large meshes are many small allocations, which it makes faster and packs closer than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// An xDS control plane: short YAML files to a mesh and its gateways.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// What to log, such as `info` or `outrigger_control_plane=debug`.
    #[arg(long, global = true, default_value = "info")]
    log: String,
    /// What a line of the log is.
    #[arg(long, global = true, value_enum, default_value_t = LogLines::Text)]
    log_format: LogLines,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
struct Run {
    /// The directory with the configuration.
    directory: PathBuf,
    /// Where keys, certificates and tokens are kept.
    #[arg(long, default_value = "outrigger-state")]
    state: PathBuf,
    /// Where to listen, for proxies and operators.
    #[arg(long, default_value = "127.0.0.1:18000")]
    listen: SocketAddr,
    /// Other names and addresses by which it is reached.
    #[arg(long)]
    name: Vec<String>,
    /// The first part of every identity.
    #[arg(long, default_value = "mesh.local")]
    trust_domain: String,
    /// How many seconds a certificate lives.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(10..=31_536_000))]
    certificate_ttl: u64,
    /// A DNS server for the names of endpoints, as `IP:PORT`, instead of those of the system.
    #[arg(long)]
    dns_server: Vec<SocketAddr>,
    /// Where the rate limit service listens without TLS, on a loopback address, beside `--listen` where it has mTLS.
    #[arg(long)]
    rate_limit_listen: Option<SocketAddr>,
    /// Where what the rate limit service has counted is kept over a restart.
    #[arg(long, value_enum, default_value_t = RateLimitStore::Memory)]
    rate_limit_store: RateLimitStore,
    #[command(flatten)]
    redis: Redis,
    /// No TLS, and every proxy is believed: for trials on a loopback address only.
    #[arg(long)]
    insecure_plaintext: bool,
    #[command(flatten)]
    tracing: Tracing,
}

/// The Redis with the counters of limits.
#[derive(Debug, clap::Args)]
struct Redis {
    /// The Redis with the counters, such as `redis://127.0.0.1:6379/0`, `rediss://redis.example:6379` (TLS) or
    /// `unix:///run/redis.sock`; of a cluster one or more nodes, separated by commas.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        required_if_eq("rate_limit_store", "redis")
    )]
    rate_limit_redis: Vec<String>,
    /// The Redis is a cluster.
    #[arg(long, requires = "rate_limit_redis")]
    rate_limit_redis_cluster: bool,
    /// The file with the password of that Redis.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis")]
    rate_limit_redis_password: Option<PathBuf>,
    /// The file with the roots of its certificate, in PEM, instead of those of the system.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis")]
    rate_limit_redis_roots: Option<PathBuf>,
    /// The file with a certificate to show to it, in PEM.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis_key")]
    rate_limit_redis_certificate: Option<PathBuf>,
    /// The file with the key of that certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "rate_limit_redis_certificate")]
    rate_limit_redis_key: Option<PathBuf>,
}

impl Redis {
    fn open(&self) -> Result<Shared, Box<dyn Error>> {
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
enum LogLines {
    /// Words for people.
    Text,
    /// A JSON object.
    Json,
}

/// Traces of the control plane itself.
#[derive(Debug, Args)]
struct Tracing {
    /// A collector of OpenTelemetry that takes spans by OTLP/gRPC, such as `http://127.0.0.1:4317`.
    #[arg(long = "tracing-otlp", value_name = "URL")]
    otlp: Option<String>,
    /// The file with the roots of the collector's certificate, where the URL is of `https`.
    #[arg(long = "tracing-otlp-roots", value_name = "FILE", requires = "otlp")]
    otlp_roots: Option<PathBuf>,
    /// Which part of the traces that begin here is kept, 0 to 1.
    #[arg(long = "tracing-sampling", default_value_t = 1.0, value_parser = ratio)]
    sampling: f64,
    /// The name of this service in its spans.
    #[arg(
        long = "tracing-service",
        default_value = "outrigger-control-plane",
        value_name = "NAME"
    )]
    service: String,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "not a number from 0 to 1".to_owned())
}

/// Where counters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RateLimitStore {
    /// In memory: they are lost with the process.
    Memory,
    /// In memory, and every second in `rate-limits.json` of the state directory.
    Disk,
    /// In Redis, for all control planes that have the same.
    Redis,
}

#[derive(Debug, Args)]
struct Remote {
    /// The control plane.
    #[arg(long = "against", alias = "server", default_value = "127.0.0.1:18000")]
    server: String,
    /// Its state directory, for its roots and the operator's token.
    #[arg(long, default_value = "outrigger-state")]
    state: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// It speaks no TLS.
    #[arg(long)]
    insecure_plaintext: bool,
}

#[derive(Debug, Args)]
struct AgentFlags {
    /// The node ID, such as `sidecar/default/a`.
    node: String,
    /// The control plane.
    #[arg(long, default_value = "127.0.0.1:18000")]
    server: String,
    /// The file with the roots by which it is known.
    #[arg(long, required_unless_present = "insecure_plaintext")]
    roots: Option<PathBuf>,
    /// The join token, if there is no certificate yet.
    #[arg(long)]
    token: Option<String>,
    /// Where to write.
    #[arg(long)]
    directory: PathBuf,
    /// Where the proxy's admin interface is to listen.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// A UNIX socket by which gRPC reaches the control plane through this agent, for clients that cannot speak TLS to it.
    #[arg(long, conflicts_with = "once")]
    socket: Option<PathBuf>,
    /// Ends when the files are written, and renews nothing.
    #[arg(long)]
    once: bool,
    /// The control plane speaks no TLS.
    #[arg(long)]
    insecure_plaintext: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(observed(flags)) {
        Ok(code) => code,
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "outrigger-control-plane: {error}");
    ExitCode::FAILURE
}

/// Does what is asked, with logs and traces of it.
async fn observed(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let collector = match &flags.command {
        Command::Run(run) => run.tracing.collector()?,
        _ => None,
    };
    let format = match flags.log_format {
        LogLines::Text => LogFormat::Text,
        LogLines::Json => LogFormat::Json,
    };
    let telemetry = Telemetry::start(&flags.log, format, collector.as_ref())?;
    let done = command(flags.command, &telemetry).await;
    telemetry.end().await;
    done
}

impl Tracing {
    fn collector(&self) -> Result<Option<Collector>, Box<dyn Error>> {
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

async fn command(command: Command, telemetry: &Telemetry) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run(flags) => run(*flags, telemetry).await?,
        Command::Validate { directory, json } => return Ok(validate(&directory, json)),
        Command::Status(remote) => {
            let text = call(&remote, Method::GET, "/v1/status", None).await?;
            show(&remote, &text, status_text)?;
        }
        Command::Metrics(remote) => {
            print!("{}", call(&remote, Method::GET, "/metrics", None).await?)
        }
        Command::Get { node, remote } => {
            let path = format!("/v1/config?node={node}");
            let text = call(&remote, Method::GET, &path, None).await?;
            let json: Json = serde_json::from_str(&text)?;
            println!("{}", serde_json::to_string_pretty(&json)?);
        }
        Command::Diff { directory, remote } => {
            let files = texts(&directory, &directory)?;
            let text = call(&remote, Method::POST, "/v1/diff", Some(&json!(files))).await?;
            show(&remote, &text, diff_text)?;
        }
        Command::Token { node, ttl, remote } => {
            let request = json!({"node": node, "ttlSeconds": ttl});
            let text = call(&remote, Method::POST, "/v1/tokens", Some(&request)).await?;
            show(&remote, &text, |json| {
                json["token"].as_str().unwrap_or_default().to_owned() + "\n"
            })?;
        }
        Command::Rotate(remote) => {
            let text = call(&remote, Method::POST, "/v1/rotate", None).await?;
            show(&remote, &text, |json| format!("{} is done\n", json["step"]))?;
        }
        Command::Agent(flags) => agent(flags).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(flags: Run, telemetry: &Telemetry) -> Result<(), Box<dyn Error>> {
    if flags.insecure_plaintext && !flags.listen.ip().is_loopback() {
        return Err("--insecure-plaintext is for loopback addresses only".into());
    }
    let ttl = Duration::from_secs(flags.certificate_ttl);
    let authority = Arc::new(Authority::open(&flags.state, &flags.trust_domain, ttl)?);
    let tokens = Tokens::open(&flags.state)?;
    let operator = Tokens::operator(&flags.state)?;
    // For agents, which know the control plane by it.
    std::fs::write(flags.state.join("roots.pem"), authority.roots().as_bytes())?;
    let mut control = Control::new(Arc::clone(&authority), tokens, flags.insecure_plaintext);
    control.metrics.spans = telemetry.counts();
    if flags.rate_limit_store == RateLimitStore::Redis {
        control.limits = Arc::new(Limiter::shared(flags.redis.open()?));
    }
    let control = Arc::new(control);
    let dns = Resolver::new(SystemResolver::new(&flags.dns_server));
    let loaded = model::load(&flags.directory);
    if let Ok(model) = &loaded {
        // Proxies that come again are to find their endpoints.
        let patience = Duration::from_secs(5);
        control.set_names(dns.refresh(model, &Names::default(), patience).await);
    }
    control.input(loaded);
    let counted = (flags.rate_limit_store == RateLimitStore::Disk)
        .then(|| flags.state.join("rate-limits.json"));
    if let Some(file) = &counted {
        control.limits.counters().load(file)?;
    }
    let limits = match flags.rate_limit_listen {
        Some(address) if !address.ip().is_loopback() => {
            return Err("--rate-limit-listen is for loopback addresses only".into());
        }
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let api = Arc::new(Api::new(Arc::clone(&control), operator));
    let listener = TcpListener::bind(flags.listen).await?;
    tracing::info!(address = %listener.local_addr()?, directory = %flags.directory.display(), "Serving.");
    let mut names = vec!["localhost".to_owned(), flags.listen.ip().to_string()];
    names.extend(flags.name);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = admin::serve(listener, Arc::clone(&control), api, names) => served?,
        () = serve_limits(limits, &control) => {}
        () = keep_counters(counted.as_deref(), &control) => {}
        () = watch::watch(Arc::clone(&control), flags.directory) => {}
        () = follow_registry(&control) => {}
        () = dns.follow(&control) => {}
        () = renew(&authority, &flags.state) => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    if let Some(file) = &counted {
        control.limits.counters().save(file, millis())?;
    }
    Ok(())
}

async fn serve_limits(listener: Option<TcpListener>, control: &Control) {
    match listener {
        Some(listener) => {
            ratelimit::serve(listener, Limits::new(Arc::clone(&control.limits))).await
        }
        None => std::future::pending().await,
    }
}

async fn keep_counters(file: Option<&Path>, control: &Control) {
    let Some(file) = file else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = control.limits.counters().save(file, millis()) {
            tracing::error!(%error, "Counters of rate limits cannot be written.");
        }
    }
}

/// Milliseconds since 1970.
fn millis() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

async fn follow_registry(control: &Control) {
    loop {
        control.registry.changed().await;
        // Many that come at once are one change.
        tokio::time::sleep(Duration::from_millis(50)).await;
        control.rebuild();
    }
}

async fn renew(authority: &Authority, state: &Path) {
    let mut changes = authority.changes();
    loop {
        let pause = (authority.ttl() / 20).clamp(Duration::from_secs(1), Duration::from_secs(60));
        let _ = tokio::time::timeout(pause, changes.changed()).await;
        if let Err(error) = authority.renew(SystemTime::now()) {
            tracing::error!(%error, "Certificates cannot be renewed.");
        }
        if let Err(error) = std::fs::write(state.join("roots.pem"), authority.roots().as_bytes()) {
            tracing::error!(%error, "The roots cannot be written.");
        }
    }
}

fn validate(directory: &Path, json: bool) -> ExitCode {
    match model::load(directory) {
        Err(errors) if json => {
            println!("{}", json!({"errors": errors}));
            ExitCode::FAILURE
        }
        Err(errors) => {
            for error in errors {
                println!("{error}");
            }
            ExitCode::FAILURE
        }
        Ok(model) => {
            let world = World::build(&model, "mesh.local", &[], None);
            let failed: Vec<_> = world
                .statuses
                .iter()
                .filter(|status| status.has_failed())
                .collect();
            if json {
                println!("{}", json!({"errors": [], "objects": world.statuses}));
            } else {
                for status in &failed {
                    print!("{}", object_text(&json!(status)));
                }
                println!(
                    "{} objects, {} with a problem",
                    world.statuses.len(),
                    failed.len()
                );
            }
            if failed.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn agent(flags: AgentFlags) -> Result<(), Box<dyn Error>> {
    let roots = flags.roots.as_deref().map(Client::file).transpose()?;
    let agent = Arc::new(Agent {
        server: flags.server,
        roots: roots.filter(|_| !flags.insecure_plaintext),
        token: flags.token,
        directory: std::path::absolute(flags.directory)?,
        node: flags.node,
        admin: flags.admin,
        socket: flags.socket.map(std::path::absolute).transpose()?,
    });
    agent.enroll().await?;
    let listener = match &agent.socket {
        Some(path) => Some(agent.listen(path)?),
        None => None,
    };
    let forward = async {
        match listener {
            Some(listener) => Arc::clone(&agent).forward(listener).await,
            None if agent.roots.is_some() => std::future::pending().await,
            None => {}
        }
    };
    let renew = async {
        match &agent.roots {
            Some(_) => agent.renew().await,
            None => std::future::pending().await,
        }
    };
    if !flags.once {
        tokio::select! {
            () = forward => {}
            () = renew => {}
        }
    }
    Ok(())
}

async fn call(
    remote: &Remote,
    method: Method,
    path: &str,
    body: Option<&Json>,
) -> Result<String, ClientError> {
    let tls = if remote.insecure_plaintext {
        None
    } else {
        Some(Client::tls(
            &Client::file(&remote.state.join("roots.pem"))?,
            None,
        )?)
    };
    let client = Client {
        server: remote.server.clone(),
        tls,
        token: Some(
            Client::file(&remote.state.join("operator-token"))?
                .trim()
                .to_owned(),
        ),
    };
    client.call(method, path, body).await
}

fn show(
    remote: &Remote,
    text: &str,
    human: impl Fn(&Json) -> String,
) -> Result<(), Box<dyn Error>> {
    let json: Json = serde_json::from_str(text)?;
    if remote.json {
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        print!("{}", human(&json));
    }
    Ok(())
}

fn texts(root: &Path, directory: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(texts(root, &path)?);
        } else if [".yaml", ".yml", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .display()
                .to_string();
            found.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

fn status_text(json: &Json) -> String {
    let mut out = String::new();
    let errors = json["input"]["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if errors.is_empty() {
        out.push_str("The input is in force.\n");
    } else {
        out.push_str("The input is refused; the last good one is in force:\n");
        for error in errors {
            out.push_str(&format!(
                "  {}:{}: {}: {}\n",
                plain(&error["file"]),
                error["line"],
                plain(&error["field"]),
                plain(&error["reason"]),
            ));
        }
    }
    for proxy in json["proxies"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "{} ({}, {}, {})\n",
            plain(&proxy["node"]),
            plain(&proxy["agent"]),
            plain(&proxy["variant"]),
            plain(&proxy["address"]),
        ));
        for kind in proxy["types"].as_array().into_iter().flatten() {
            let state = match (&kind["refused"], &kind["waiting"]) {
                (Json::Null, Json::Bool(false)) => "accepted".to_owned(),
                (Json::Null, _) => "waiting".to_owned(),
                (refused, _) => format!("refused: {}", plain(&refused["reason"])),
            };
            out.push_str(&format!(
                "  {:<10} {:>5}  {}  {state}\n",
                plain(&kind["type"]),
                kind["sent"],
                plain(&kind["accepted"]),
            ));
        }
    }
    for object in json["objects"].as_array().into_iter().flatten() {
        out.push_str(&object_text(object));
    }
    out
}

fn object_text(object: &Json) -> String {
    let mut out = format!(
        "{} {} ({}:{})\n",
        plain(&object["kind"]),
        plain(&object["key"]),
        plain(&object["origin"]["file"]),
        object["origin"]["line"],
    );
    for condition in object["conditions"].as_array().into_iter().flatten() {
        let about = plain(&condition["about"]);
        out.push_str(&format!(
            "  {}{}{}={} {} {}\n",
            about,
            if about.is_empty() { "" } else { ": " },
            plain(&condition["type"]),
            condition["status"],
            plain(&condition["reason"]),
            plain(&condition["message"]),
        ));
    }
    out
}

fn diff_text(json: &Json) -> String {
    let mut out = String::new();
    for change in json["changes"].as_array().into_iter().flatten() {
        let sign = match (&change["before"], &change["after"]) {
            (Json::Null, _) => '+',
            (_, Json::Null) => '-',
            _ => '~',
        };
        out.push_str(&format!(
            "{sign} {} {} {}\n",
            plain(&change["node"]),
            plain(&change["type"]),
            plain(&change["name"]),
        ));
        if sign == '~' {
            lines(&change["before"], &change["after"], "", &mut out);
        }
    }
    if out.is_empty() {
        out.push_str("Nothing would change.\n");
    }
    out
}

/// The fields that differ.
fn lines(before: &Json, after: &Json, path: &str, out: &mut String) {
    match (before, after) {
        (Json::Object(old), Json::Object(new)) => {
            let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                lines(&before[name], &after[name], &path, out);
            }
        }
        (Json::Array(old), Json::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                let (old, new) = (
                    old.get(index).unwrap_or(&Json::Null),
                    new.get(index).unwrap_or(&Json::Null),
                );
                lines(old, new, &format!("{path}[{index}]"), out);
            }
        }
        _ if before == after => {}
        _ => out.push_str(&format!("    {path}: {before} -> {after}\n")),
    }
}

fn plain(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}
