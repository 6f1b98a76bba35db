//! The life of the process: from flags to exit.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::future::poll_fn;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrigger_proto::pb::envoy::admin::v3::server_info::State;
use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::listener::v3::Listener;
use outrigger_proto::validate::{Problem, check};
use outrigger_proto::yaml::{Format, Source, UnknownFields, encode};
use prost::{Message, Name};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::admin_start::AdminSetup;
use super::cli::{Cli, DrainStrategy, Mode};
use super::log_control::LogControl;
use super::log_format::{DEFAULT_PATTERN, LogPattern};
use super::worker_thread::{WorkerSetup, local_runtime, start_worker};
use super::{
    Bootstrap, LocalInfo, ServerContext, ServerFigures, ServerStats, WorkerMessage, WorkerSender,
};
use crate::admin::DrainListeners;
use crate::config::{ConfigPath, ConfigReport};
use crate::listener::ListenerManager;
use crate::overload::{Heap, Jemalloc, OverloadManager};
use crate::upstream::cluster::ClusterConfig;
use crate::upstream::{ClusterManager, HickoryResolver};

/// Runs the process. The errors are all that was found, one line each.
pub fn run(cli: Cli) -> Result<(), Vec<String>> {
    if cli.disable_extensions.is_some() {
        return Err(vec!["--disable-extensions is not supported".to_owned()]);
    }
    let (proto, broken) = load(&cli)?;
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "bootstrap");
    let converted = Bootstrap::from_proto(proto.clone(), &cli, &path);
    let bootstrap = match converted {
        Ok(bootstrap) if broken.is_empty() => bootstrap,
        _ => {
            // Resources are converted all the same, so that their errors are found as well.
            let resources = proto.static_resources.unwrap_or_default();
            let context = Arc::new(ServerContext::new(1, LocalInfo::default()));
            drop(convert_clusters(&resources.clusters, &context, &report));
            drop(convert_listeners(&context, 1, resources.listeners, &report));
            return Err(with_config(&cli, broken, &report));
        }
    };
    let log = install_log(&cli, &bootstrap).map_err(|error| vec![error])?;
    let runtime = local_runtime().map_err(|error| vec![format!("no runtime: {error}")])?;
    runtime.block_on(async move {
        let server = Server::new(cli, proto, bootstrap, log)?;
        match server.cli.mode {
            Mode::Validate => {
                // Nobody reads what cannot be written.
                let _ = writeln!(
                    std::io::stdout(),
                    "configuration '{}' OK",
                    server.cli.config_name()
                );
                Ok(())
            }
            Mode::Serve | Mode::InitOnly => server.serve().await,
        }
    })
}

/// The process, on the main thread.
pub struct Server {
    pub(super) cli: Cli,
    pub(super) context: Arc<ServerContext>,
    pub(super) bootstrap_proto: pb::Bootstrap,
    pub(super) bootstrap: Bootstrap,
    pub(super) listeners: RefCell<ListenerManager>,
    pub(super) log: LogControl,
    pub(super) started_at: Instant,
    pub(super) state: Cell<State>,
    pub(super) events: mpsc::Sender<ServerEvent>,
    received: RefCell<Option<mpsc::Receiver<ServerEvent>>>,
    pub(super) clusters: Rc<ClusterManager>,
    pub(super) cluster_protos: Vec<Cluster>,
    overload: RefCell<Option<OverloadManager>>,
    admin: RefCell<Option<AdminSetup>>,
    stats: ServerStats,
    workers: RefCell<Vec<WorkerSender>>,
    /// Closed when the last worker has ended.
    ended: RefCell<mpsc::Receiver<()>>,
    alive: RefCell<Option<mpsc::Sender<()>>>,
}

/// What the admin interface asks of the process.
#[derive(Debug)]
pub(super) enum ServerEvent {
    Quit,
    DrainListeners(DrainListeners),
}

/// Why the process stops serving.
enum Stop {
    /// At once.
    Quit,
    /// When its connections have ended, or their time is over.
    Drain,
}

impl Server {
    fn new(
        cli: Cli,
        bootstrap_proto: pb::Bootstrap,
        mut bootstrap: Bootstrap,
        log: LogControl,
    ) -> Result<Rc<Self>, Vec<String>> {
        let workers = cli.worker_count();
        let context = Arc::new(ServerContext::new(workers, bootstrap.local_info.clone()));
        if let Some(stats) = bootstrap.stats.take() {
            context.stats.configure(stats);
        }
        for (name, values) in &bootstrap.runtime_layers {
            let values = values.clone().unwrap_or_default();
            context.runtime.set_layer(name, values);
        }
        let report = ConfigReport::new();
        let cluster_protos = std::mem::take(&mut bootstrap.clusters);
        let configs = convert_clusters(&cluster_protos, &context, &report);
        let listener_protos = std::mem::take(&mut bootstrap.listeners);
        let listeners = convert_listeners(&context, workers, listener_protos, &report);
        let overload = convert_overload(&context, &mut bootstrap, &report);
        let admin = bootstrap.admin.take().and_then(|proto| {
            let root = ConfigPath::root(&report, "bootstrap");
            AdminSetup::from_proto(proto, &context, &root.field("admin")).ok()
        });
        check_cluster_manager(&mut bootstrap, &cluster_protos, &report);
        if !report.is_empty() {
            return Err(with_config(&cli, Vec::new(), &report));
        }
        let resolver = Rc::new(HickoryResolver::default());
        let clusters = ClusterManager::new(context.clone(), workers, resolver);
        clusters.add(configs);
        let interval = Duration::from_millis(cli.file_flush_interval_msec.into());
        let min_size = u64::from(cli.file_flush_min_size_kb) << 10;
        context.access_logs.set_flush(interval, min_size);
        let stats = ServerStats::new(&context.stats, workers);
        if let Some(version) = bootstrap.stats_server_version {
            stats.group.version().set(version);
        }
        // Few things are asked at a time; who asks for more is not waited for.
        let (events, received) = mpsc::channel(16);
        let (alive, ended) = mpsc::channel(1);
        Ok(Rc::new(Self {
            cli,
            context,
            bootstrap_proto,
            bootstrap,
            listeners: RefCell::new(listeners),
            log,
            started_at: Instant::now(),
            state: Cell::new(State::PreInitializing),
            events,
            received: RefCell::new(Some(received)),
            stats,
            clusters,
            cluster_protos,
            overload: RefCell::new(overload),
            admin: RefCell::new(admin),
            workers: RefCell::default(),
            ended: RefCell::new(ended),
            alive: RefCell::new(Some(alive)),
        }))
    }

    async fn serve(self: Rc<Self>) -> Result<(), Vec<String>> {
        let mut signals = Signals::new().map_err(|error| vec![format!("no signals: {error}")])?;
        let bound = self.listeners.borrow_mut().bind();
        bound.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        self.state.set(State::Initializing);
        if self.cli.mode == Mode::InitOnly {
            info!("Initialized.");
            return Ok(());
        }
        let admin = self.admin.take();
        if let Some(admin) = admin {
            let address_path = self.cli.admin_address_path.as_deref();
            let started = admin.start(self.clone(), address_path);
            started.map_err(|error| vec![error])?;
        }
        self.run_beside();
        // Until then only signals are listened to.
        tokio::select! {
            () = self.clusters.warmed() => {}
            _ = signals.end() => return Ok(()),
        }
        self.start_workers().map_err(|error| vec![error])?;
        self.state.set(State::Live);
        let took = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stats.group.initialization_time_ms().record(took);
        self.update_stats();
        info!("All clusters and listeners are ready.");
        match self.wait(&mut signals).await {
            Stop::Quit => {}
            Stop::Drain => self.drain(&mut signals).await,
        }
        self.exit().await;
        Ok(())
    }

    /// What main does beside listening to signals.
    fn run_beside(self: &Rc<Self>) {
        if let Some(overload) = self.overload.take() {
            tokio::task::spawn_local(overload.run(Jemalloc));
        }
        let server = self.clone();
        tokio::task::spawn_local(async move {
            // Where stats are flushed on request only, the figures of the process still change.
            let interval = server.bootstrap.stats_flush_interval;
            let interval = interval.unwrap_or(Duration::from_secs(5));
            loop {
                server.update_stats();
                server.context.stats.flush();
                tokio::time::sleep(interval).await;
            }
        });
    }

    /// Brings the stats of the process up to date.
    pub(super) fn update_stats(&self) {
        let live = !self.context.health_check_failed.load(Relaxed);
        let state = match (self.state.get(), live) {
            (State::Live, false) => State::Draining,
            (state, _) => state,
        };
        self.stats.update(ServerFigures {
            uptime: self.started_at.elapsed().as_secs(),
            connections: self.context.overload.connections.active(),
            state: u64::from((state as i32).unsigned_abs()),
            live,
            heap: Jemalloc.usage(),
        });
    }

    fn start_workers(&self) -> Result<(), String> {
        let count = self.cli.worker_count();
        let (senders, receivers): (Vec<WorkerSender>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(WORKER_QUEUE)).unzip();
        let peers: Arc<[WorkerSender]> = senders.into();
        let alive = self.alive.take().ok_or("the workers run already")?;
        for (index, messages) in receivers.into_iter().enumerate() {
            let setup = WorkerSetup {
                index,
                server: self.context.clone(),
                clusters: self.clusters.table().clone(),
                peers: peers.clone(),
                messages,
                seed: rand::random(),
                alive: alive.clone(),
            };
            start_worker(setup)
                .map_err(|error| format!("worker {index} cannot be started: {error}"))?;
        }
        self.workers.replace(peers.to_vec());
        let listeners = self.listeners.borrow();
        let per_worker = listeners.listen().map_err(|error| error.to_string())?;
        for (worker, new) in self.workers.borrow().iter().zip(per_worker) {
            worker
                .try_send(WorkerMessage::AddListeners(new))
                .map_err(|_| "a worker ended at once".to_owned())?;
        }
        listeners.workers_started();
        Ok(())
    }

    /// Serves until something asks for the end.
    async fn wait(self: &Rc<Self>, signals: &mut Signals) -> Stop {
        let Some(mut received) = self.received.take() else {
            return Stop::Quit;
        };
        loop {
            let event = tokio::select! {
                signal = signals.next() => match signal {
                    Caught::Terminate => return Stop::Drain,
                    Caught::Interrupt => return Stop::Quit,
                    Caught::ReopenLogs => None,
                },
                event = received.recv() => event,
            };
            match event {
                None => self.reopen_log_files(),
                Some(ServerEvent::Quit) => return Stop::Quit,
                Some(ServerEvent::DrainListeners(request)) => {
                    let server = self.clone();
                    tokio::task::spawn_local(async move { server.drain_listeners(request).await });
                }
            }
        }
    }

    /// Stops accepting, and lets connections end within the drain time.
    async fn drain(&self, signals: &mut Signals) {
        info!(seconds = self.cli.drain_time_s, "Draining.");
        self.state.set(State::Draining);
        self.context.draining.store(true, Relaxed);
        self.broadcast(|| WorkerMessage::Drain {
            inbound_only: false,
            gradually: None,
        })
        .await;
        self.broadcast(|| WorkerMessage::StopListening {
            inbound_only: false,
        })
        .await;
        self.broadcast(|| WorkerMessage::Finish).await;
        self.listeners.borrow_mut().close_sockets(false);
        let limit = Duration::from_secs(self.cli.drain_time_s.into());
        tokio::select! {
            () = self.workers_ended() => info!("All connections have ended."),
            () = tokio::time::sleep(limit) => warn!("The drain time is over."),
            () = signals.end() => warn!("Asked again to end: connections are closed."),
        }
    }

    async fn drain_listeners(&self, request: DrainListeners) {
        let DrainListeners {
            inbound_only,
            graceful,
            skip_exit,
        } = request;
        if graceful {
            let over = Duration::from_secs(self.cli.drain_time_s.into());
            let gradually = (self.cli.drain_strategy == DrainStrategy::Gradual).then_some(over);
            self.broadcast(|| WorkerMessage::Drain {
                inbound_only,
                gradually,
            })
            .await;
            tokio::time::sleep(over).await;
        }
        if !(graceful && skip_exit) {
            self.broadcast(|| WorkerMessage::StopListening { inbound_only })
                .await;
            self.listeners.borrow_mut().close_sockets(inbound_only);
        }
    }

    async fn exit(&self) {
        info!("Exiting.");
        self.broadcast(|| WorkerMessage::Exit).await;
        // A worker that does not answer within a second is ended with the process.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.workers_ended()).await;
        self.context.access_logs.flush();
    }

    async fn broadcast(&self, message: impl Fn() -> WorkerMessage) {
        let workers = self.workers.borrow().clone();
        for worker in workers {
            // A worker that has ended needs no message.
            let _ = worker.send(message()).await;
        }
    }

    /// Ends when the last worker has.
    async fn workers_ended(&self) {
        poll_fn(|cx| self.ended.borrow_mut().poll_recv(cx).map(drop)).await;
    }

    pub(super) fn reopen_log_files(&self) {
        self.context.access_logs.reopen();
        if let Err(error) = self.log.reopen() {
            warn!(%error, "The log file cannot be opened again.");
        }
    }
}

/// The signals that the process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hang_up: Signal,
}

enum Caught {
    Terminate,
    Interrupt,
    ReopenLogs,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Caught {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Caught::Terminate,
                _ = self.interrupt.recv() => return Caught::Interrupt,
                _ = self.reopen.recv() => return Caught::ReopenLogs,
                _ = self.hang_up.recv() => info!("SIGHUP is ignored."),
            }
        }
    }

    /// The next signal that asks for the end.
    async fn end(&mut self) {
        while let Caught::ReopenLogs = self.next().await {}
    }
}

/// Reads the configuration: the file, and everything inline merged into it. With it comes what breaks the rules of the API.
fn load(cli: &Cli) -> Result<(pb::Bootstrap, Vec<String>), Vec<String>> {
    let mut texts = Vec::new();
    if let Some(path) = &cli.config_path {
        let bytes = fs::read(path)
            .map_err(|error| vec![format!("unable to read file: {}: {error}", path.display())])?;
        texts.push((path.display().to_string(), Format::of_path(path), bytes));
    }
    for yaml in cli.config_yaml.iter().filter(|yaml| !yaml.is_empty()) {
        let name = "--config-yaml".to_owned();
        texts.push((name, Format::Yaml, yaml.clone().into_bytes()));
    }
    if texts.is_empty() {
        return Err(vec![
            "there is no configuration: give --config-path, --config-yaml, or both".to_owned(),
        ]);
    }
    let sources: Vec<Source<'_>> = texts
        .iter()
        .map(|(name, format, bytes)| Source {
            name,
            format: *format,
            bytes,
        })
        .collect();
    let unknown = if cli.allow_unknown_static_fields {
        UnknownFields::Ignore
    } else {
        UnknownFields::Refuse
    };
    let name = pb::Bootstrap::full_name();
    // The bytes hold what the Rust types lack as well, so that it can be refused.
    let bytes = encode(&name, &sources, unknown)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let violations = check(&name, &bytes);
    let broken: Vec<String> = violations
        .iter()
        // What is merely old is taken, as Envoy does.
        .filter(|violation| !matches!(violation.problem, Problem::Deprecated { .. }))
        .map(|violation| format!("bootstrap / {violation}"))
        .collect();
    pb::Bootstrap::decode(bytes.as_slice())
        .map(|proto| (proto, broken))
        .map_err(|error| vec![format!("the configuration is no bootstrap: {error}")])
}

fn install_log(cli: &Cli, bootstrap: &Bootstrap) -> Result<LogControl, String> {
    let pattern = bootstrap
        .log_pattern
        .as_deref()
        .or(cli.log_format.as_deref());
    LogControl::install(
        &cli.log_level,
        cli.component_log_level.as_deref(),
        LogPattern::parse(pattern.unwrap_or(DEFAULT_PATTERN), cli.log_format_escaped),
        cli.log_path.as_deref(),
    )
}

/// Converts all clusters. What is wrong with them is in the report.
fn convert_clusters(
    protos: &[Cluster],
    server: &Arc<ServerContext>,
    report: &ConfigReport,
) -> Vec<ClusterConfig> {
    let mut names = HashSet::new();
    let convert = |proto: &Cluster| {
        let resource = format!("cluster \"{}\"", proto.name);
        let path = ConfigPath::root(report, &resource);
        if !names.insert(proto.name.clone()) {
            path.field("name")
                .reject("is the name of an earlier cluster already");
            return None;
        }
        ClusterConfig::from_proto(proto.clone(), server, &path).ok()
    };
    protos.iter().filter_map(convert).collect()
}

fn convert_overload(
    context: &Arc<ServerContext>,
    bootstrap: &mut Bootstrap,
    report: &ConfigReport,
) -> Option<OverloadManager> {
    let proto = bootstrap.overload_manager.take()?;
    let root = ConfigPath::root(report, "bootstrap");
    OverloadManager::from_proto(proto, context, &root.field("overload_manager")).ok()
}

/// What the bootstrap says of the cluster manager as a whole.
fn check_cluster_manager(bootstrap: &mut Bootstrap, clusters: &[Cluster], report: &ConfigReport) {
    let Some(proto) = bootstrap.cluster_manager.take() else {
        return;
    };
    let pb::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        // Harmless: what a worker needs of a cluster is made when first used in any case.
        enable_deferred_cluster_creation: _,
    } = proto;
    let root = ConfigPath::root(report, "bootstrap");
    let path = root.field("cluster_manager");
    // Each reports what it refuses.
    let _ = path.unsupported_if_set("outlier_detection", outlier_detection);
    let _ = path.unsupported_if_set("upstream_bind_config", upstream_bind_config);
    let _ = path.unsupported_if_set("load_stats_config", load_stats_config);
    let known = clusters
        .iter()
        .any(|cluster| cluster.name == local_cluster_name);
    if !local_cluster_name.is_empty() && !known {
        path.field("local_cluster_name").reject(format!(
            "\"{local_cluster_name}\" is not the name of a static cluster"
        ));
    }
}

/// Converts all listeners. What is wrong with them is in the report.
fn convert_listeners(
    context: &Arc<ServerContext>,
    workers: usize,
    protos: Vec<Listener>,
    report: &ConfigReport,
) -> ListenerManager {
    let mut manager = ListenerManager::new(context.clone(), workers);
    for (index, mut proto) in protos.into_iter().enumerate() {
        let resource = if proto.name.is_empty() {
            format!("static_resources.listeners[{index}]")
        } else {
            format!("listener \"{}\"", proto.name)
        };
        if proto.name.is_empty() {
            // Envoy makes up a name as well.
            proto.name = format!("{:032x}", rand::random::<u128>());
        }
        let path = ConfigPath::root(report, &resource);
        // A rejection is in the report already.
        let _ = manager.add(proto, &path);
    }
    manager
}

/// All errors, and before them what they are errors of.
fn with_config(cli: &Cli, broken: Vec<String>, report: &ConfigReport) -> Vec<String> {
    let converted = report.take();
    let count = broken.len() + converted.len();
    let name = cli.config_name();
    let mut lines = vec![format!(
        "error initializing configuration '{name}': {count} found"
    )];
    lines.extend(broken);
    lines.extend(converted.iter().map(ToString::to_string));
    lines
}

/// A worker that has not read this many messages is stuck, or overwhelmed.
const WORKER_QUEUE: usize = 1024;
