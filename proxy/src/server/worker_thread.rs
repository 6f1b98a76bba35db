//! A worker's thread: a runtime of its own, and messages from main.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tracing::{debug, error};

use super::{ServerContext, Worker, WorkerMessage, WorkerSender};
use crate::listener::ConnectionHandler;
use crate::overload::StreamResetStats;
use crate::stats::set_thread_shard;
use crate::upstream::{ClusterTable, WorkerClusters};

/// What a worker begins with.
pub(super) struct WorkerSetup {
    /// 0-based.
    pub index: usize,
    /// The services of the process.
    pub server: Arc<ServerContext>,
    /// All clusters.
    pub clusters: Arc<ClusterTable>,
    /// All workers, by index.
    pub peers: Arc<[WorkerSender]>,
    /// Where this worker's messages come from.
    pub messages: mpsc::Receiver<WorkerMessage>,
    /// The start of its random numbers.
    pub seed: u64,
    /// Dropped when the worker ends.
    pub alive: mpsc::Sender<()>,
}

/// Starts the thread of a worker.
pub(super) fn start_worker(setup: WorkerSetup) -> io::Result<()> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    thread::Builder::new()
        .name(format!("wrk:worker_{}", setup.index))
        .spawn(move || {
            set_thread_shard(setup.index + 1);
            let runtime = local_runtime();
            // Whoever started this thread waits for the answer.
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(setup));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
    let started = started.recv();
    started.map_err(|_| io::Error::other("the thread ended at once"))?
}

/// The runtime of a thread: I/O, time, and tasks that need not be `Send`.
pub(super) fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

async fn run(setup: WorkerSetup) {
    let WorkerSetup {
        index,
        server,
        clusters,
        peers,
        mut messages,
        seed,
        alive,
    } = setup;
    let clusters = WorkerClusters::new(clusters, index);
    let worker = Worker::new(index, server, clusters, seed);
    let handler = ConnectionHandler::new(worker.clone(), peers);
    let following = worker.clone();
    tokio::task::spawn_local(async move { following.clusters.follow().await });
    let scope = worker
        .server
        .stats
        .scope("envoy.overload_actions.reset_high_memory_stream.");
    let resets = StreamResetStats::new(&scope);
    if let Some(accounts) = &worker.accounts {
        tokio::task::spawn_local(accounts.clone().run(resets));
    }
    let mut finishing = false;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = handler.finished(), if finishing => break,
        };
        match message {
            Some(WorkerMessage::Finish) => finishing = true,
            Some(WorkerMessage::Exit) | None => break,
            Some(message) => handle(&handler, message),
        }
    }
    debug!(index, "A worker ends.");
    drop(alive);
}

fn handle(handler: &Rc<ConnectionHandler>, message: WorkerMessage) {
    match message {
        WorkerMessage::AddListeners(listeners) => {
            for listener in listeners {
                if let Err(error) = handler.add_listener(listener) {
                    error!(%error, "A worker cannot accept on a socket.");
                }
            }
        }
        WorkerMessage::Listener(command) => handler.execute(command),
        WorkerMessage::Connection { listener, accepted } => {
            handler.take_connection(listener, accepted);
        }
        WorkerMessage::Drain {
            inbound_only,
            gradually,
        } => handler.drain(inbound_only, gradually),
        WorkerMessage::StopListening { inbound_only } => handler.stop_listening(inbound_only),
        WorkerMessage::Finish | WorkerMessage::Exit => {}
    }
}
