//! The life of the process: from flags to exit.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrigger_proto::pb::envoy::admin::v3::server_info::State;
use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::yaml::Format;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::admin_start::AdminSetup;
use super::cli::{Cli, DrainStrategy, Mode};
use super::dynamic::DynamicResources;
use super::load::LoadedBootstrap;
use super::log_control::LogControl;
use super::log_format::{DEFAULT_PATTERN, LogPattern};
use super::resources::Resources;
use super::worker_thread::{WorkerSetup, local_runtime, start_worker};
use super::{
    Bootstrap, InitManager, LocalInfo, ServerContext, ServerFigures, ServerStats, Worker,
    WorkerMessage, WorkerSender,
};
use crate::admin::DrainListeners;
use crate::config::{ConfigPath, ConfigReport};
use crate::explain::Configuration;
use crate::listener::ListenerManager;
use crate::overload::{Heap, Jemalloc, OverloadManager};
use crate::upstream::{ClusterManager, HickoryResolver, WorkerClusters};
use crate::xds::{Subscription, XdsClient};

/// Runs the process. The errors are all that was found, one line each.
pub fn run(cli: Cli) -> Result<(), Vec<String>> {
    if cli.disable_extensions.is_some() {
        return Err(vec!["--disable-extensions is not supported".to_owned()]);
    }
    let loaded = LoadedBootstrap::load(&cli)?;
    let report = ConfigReport::new().with_unknown_fields(cli.allow_unknown_static_fields);
    let path = ConfigPath::root(&report, "bootstrap");
    let checked = loaded.check(&path);
    let converted = Bootstrap::from_proto(loaded.proto.clone(), &cli, &path);
    let (Ok(()), Ok(bootstrap)) = (checked, converted) else {
        // The rest is converted as well, so that one run shows all errors.
        let context = Arc::new(ServerContext::new(1, LocalInfo::default()));
        drop(Resources::convert(&context, 1, &loaded, &report));
        return Err(loaded.errors(&report));
    };
    let log = install_log(&cli, &bootstrap).map_err(|error| vec![error])?;
    for warning in report.take_warnings() {
        warn!("{warning}");
    }
    let runtime = local_runtime().map_err(|error| vec![format!("no runtime: {error}")])?;
    runtime.block_on(async move {
        let server = Server::new(cli, loaded, bootstrap, log)?;
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

/// What a process with these flags would be configured with, for explanations. The errors are all that was found.
pub fn configuration(cli: &Cli) -> Result<Configuration, Vec<String>> {
    let loaded = LoadedBootstrap::load(cli)?;
    let report = ConfigReport::new().with_unknown_fields(cli.allow_unknown_static_fields);
    let path = ConfigPath::root(&report, "bootstrap");
    let checked = loaded.check(&path);
    let converted = Bootstrap::from_proto(loaded.proto.clone(), cli, &path);
    let (Ok(()), Ok(bootstrap)) = (checked, converted) else {
        return Err(loaded.errors(&report));
    };
    let layers = bootstrap.runtime_layers.into_iter();
    let layers = layers.map(|(name, values)| (name, values.unwrap_or_default()));
    Ok(Configuration::of_bootstrap(
        &loaded.proto,
        layers.collect(),
        bootstrap.local_info,
    ))
}

/// Loads a bootstrap as `--mode validate` does, from bytes. The errors are all that was found. For fuzzing and tests; what the
/// bootstrap names is looked up and opened.
pub fn validate(format: Format, bytes: &[u8]) -> Result<(), Vec<String>> {
    let cli = Cli::parse_args(["outrigger".into()]).map_err(|error| vec![error.to_string()])?;
    let loaded = LoadedBootstrap::from_bytes(&cli, format, bytes)?;
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "bootstrap");
    let checked = loaded.check(&path);
    let converted = Bootstrap::from_proto(loaded.proto.clone(), &cli, &path);
    let context = Arc::new(ServerContext::new(1, LocalInfo::default()));
    drop(Resources::convert(&context, 1, &loaded, &report));
    match (checked, converted) {
        (Ok(()), Ok(_)) if report.is_empty() => Ok(()),
        _ => Err(loaded.errors(&report)),
    }
}

/// The process, on the main thread.
pub struct Server {
    pub(super) cli: Cli,
    pub(super) context: Arc<ServerContext>,
    pub(super) bootstrap_proto: pb::Bootstrap,
    pub(super) bootstrap: Bootstrap,
    pub(super) listeners: ListenerManager,
    pub(super) log: LogControl,
    pub(super) started_at: Instant,
    pub(super) state: Cell<State>,
    pub(super) events: mpsc::Sender<ServerEvent>,
    received: RefCell<Option<mpsc::Receiver<ServerEvent>>>,
    pub(super) clusters: Rc<ClusterManager>,
    pub(super) xds: Rc<XdsClient>,
    dynamic: DynamicResources,
    /// Subscriptions to layers of the runtime.
    runtime_layers: RefCell<Vec<Subscription>>,
    /// What the process waits for before it is live.
    pub(super) init: InitManager,
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
        loaded: LoadedBootstrap,
        mut bootstrap: Bootstrap,
        log: LogControl,
    ) -> Result<Rc<Self>, Vec<String>> {
        let workers = cli.worker_count();
        let context = Arc::new(ServerContext::new(workers, bootstrap.local_info.clone()));
        if let Some(stats) = bootstrap.stats.take() {
            context.stats.configure(stats);
        }
        let policy = cli.dynamic_fields();
        context.unknown_fields.choose(policy, &context.stats);
        for (name, values) in &bootstrap.runtime_layers {
            let values = values.clone().unwrap_or_default();
            context.runtime.set_layer(name, values);
        }
        context.runtime.count(&context.stats);
        let report = ConfigReport::new()
            .with_runtime(&context.runtime)
            .with_unknown_fields(cli.allow_unknown_static_fields);
        let resources = Resources::convert(&context, workers, &loaded, &report);
        if !report.is_empty() {
            return Err(loaded.errors(&report));
        }
        for warning in report.take_warnings() {
            warn!("{warning}");
        }
        let Resources {
            clusters,
            cluster_protos,
            listeners,
            dynamic,
            overload,
            admin,
            outlier_log,
        } = resources;
        let resolver = Rc::new(HickoryResolver::default());
        let manager = ClusterManager::new(context.clone(), workers, resolver);
        let xds = XdsClient::new(context.clone());
        if let Some(file) = outlier_log {
            manager.set_outlier_log(file);
        }
        manager.add(clusters);
        let clusters = manager;
        let drain_time = Duration::from_secs(cli.drain_time_s.into());
        listeners.set_drain_time(drain_time, cli.drain_strategy == DrainStrategy::Gradual);
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
            bootstrap_proto: loaded.proto,
            bootstrap,
            listeners,
            log,
            started_at: Instant::now(),
            state: Cell::new(State::PreInitializing),
            events,
            received: RefCell::new(Some(received)),
            stats,
            clusters,
            xds,
            dynamic,
            runtime_layers: RefCell::default(),
            init: InitManager::new("Server"),
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
        let bound = self.listeners.bind();
        bound.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        self.state.set(State::Initializing);
        if self.cli.mode == Mode::InitOnly {
            info!("Initialized.");
            return Ok(());
        }
        let clusters = WorkerClusters::on_main(self.clusters.table().clone());
        let main = Worker::on_main(self.context.clone(), clusters, rand::random());
        let admin = self.admin.take();
        if let Some(admin) = admin {
            let address_path = self.cli.admin_address_path.as_deref();
            let started = admin.start(self.clone(), &main, address_path);
            started.map_err(|error| vec![error])?;
        }
        let context = self.context.clone();
        let worker = main.clone();
        tokio::task::spawn_local(async move { context.main.serve(worker).await });
        self.run_beside();
        // Until then only signals are listened to.
        tokio::select! {
            () = self.initialize(&main) => {}
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

    /// Waits for all that the process needs before it serves. What is asked for later must not wait for what is asked for first:
    /// runtime values decide on clusters, and listeners name them.
    async fn initialize(&self, main: &Rc<Worker>) {
        self.clusters.primary_ready().await;
        let following = main.clone();
        tokio::task::spawn_local(async move { following.clusters.follow().await });
        let node = self.bootstrap.node.clone();
        let dynamic = &self.dynamic;
        if let Some(path) = &self.cli.xds_snapshot_path {
            self.xds.keep_snapshot(path);
        }
        self.xds.start(main, node, dynamic.ads.clone());
        let layers = InitManager::new("RTDS");
        let subscriptions = dynamic.watch_layers(&self.context, &self.xds, &layers);
        self.runtime_layers.replace(subscriptions);
        layers.ready().await;
        match &dynamic.cds {
            Some(source) => self.clusters.watch_cds(&self.xds, source.clone()),
            None => self.clusters.set_xds_client(&self.xds),
        }
        self.clusters.all_ready().await;
        self.listeners.wait_in(&self.init);
        if let Some(source) = &dynamic.lds {
            self.listeners
                .watch_lds(&self.xds, source.clone(), &self.init);
        }
        self.init.ready().await;
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
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let certificates = &self.context.certificates;
        self.stats.update(ServerFigures {
            uptime: self.started_at.elapsed().as_secs(),
            connections: self.context.overload.connections.active(),
            state: u64::from((state as i32).unsigned_abs()),
            live,
            heap: Jemalloc.usage(),
            days_until_first_cert_expiring: certificates.days_until_first_expires(now),
            seconds_until_first_ocsp_response_expiring: certificates
                .seconds_until_first_response_expires(now),
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
        let started = self.listeners.start_workers(&peers);
        started.map_err(|error| error.to_string())
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
        self.listeners.close_sockets(false);
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
            self.listeners.close_sockets(inbound_only);
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

/// A worker that has not read this many messages is stuck, or overwhelmed.
const WORKER_QUEUE: usize = 1024;
