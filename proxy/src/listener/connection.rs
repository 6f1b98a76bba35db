//! An accepted connection: its listener filters, the choice of its filter chain, its network filters, its end.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tracing::debug;

use super::config::Listener;
use super::filter_chain::WorkerFilterChain;
use super::handler::{ActiveListener, OpenGuard};
use crate::LocalBoxFuture;
use crate::formatter::FormatData;
use crate::listener_filters::ListenerFilterStatus;
use crate::net::Io;
use crate::network_filters::filtered_io::FilteredIo;
use crate::network_filters::{Connection, NetworkFilter, NetworkStatus, TerminalFilter};
use crate::overload::ScaledTimer;
use crate::stream_info::{ConnectionInfo, ResponseFlag, StreamInfo};
use crate::transport_sockets::HandshakeLimit;

/// Starts the work on a connection. Without listener filters that is its network filters at once.
pub(super) fn start(guard: OpenGuard, io: Io, info: ConnectionInfo) {
    if guard.listener.config().listener_filters.is_empty() {
        establish(guard, io, info);
    } else {
        tokio::task::spawn_local(inspect_and_establish(guard, io, info, true));
    }
}

/// `may_hand_off`: whether the connection may still go to the listener of its original destination.
async fn inspect_and_establish(guard: OpenGuard, io: Io, info: ConnectionInfo, may_hand_off: bool) {
    // The filters are boxed, and gone before the connection is served: it keeps nothing of them.
    let inspected = Box::pin(inspect(guard.listener.clone(), io, info)).await;
    let Some((io, info)) = inspected else { return };
    let restored = info.local_address != info.direct_local_address;
    if may_hand_off && restored && guard.listener.config().use_original_dst {
        let other = guard.listener.handler.find_by_address(&info.local_address);
        if let Some(other) = other.filter(|other| !Rc::ptr_eq(other, &guard.listener)) {
            let handed_off = inspect_and_establish(guard.hand_off(other), io, info, false);
            return Box::pin(handed_off).await;
        }
    }
    establish(guard, io, info);
}

/// Runs the listener filters. None: the connection is closed.
async fn inspect(
    listener: Rc<ActiveListener>,
    io: Io,
    mut info: ConnectionInfo,
) -> Option<(Io, ConnectionInfo)> {
    let generation = listener.generation();
    let config = &*generation.config;
    let _active = PreConnectionGuard::new(listener.clone());
    let mut inspection = Inspection {
        io,
        bytes: BytesMut::new(),
    };
    let outcome = match config.listener_filters_timeout {
        None => inspection.run(config, &mut info).await,
        Some(limit) => match timeout(limit, inspection.run(config, &mut info)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                config.stats.downstream_pre_cx_timeout().inc();
                if config.continue_on_listener_filters_timeout {
                    Ok(())
                } else {
                    Err(Ended::Closed("listener_filters_timeout"))
                }
            }
        },
    };
    match outcome {
        Ok(()) => {
            let Inspection { io, bytes } = inspection;
            return Some((io.with_prefix(bytes.freeze()), info));
        }
        Err(Ended::Remote) => config.stats.downstream_listener_filter_remote_close().inc(),
        Err(Ended::Failed(error)) => {
            debug!(%error, "Reading for listener filters failed.");
            config.stats.downstream_listener_filter_error().inc();
        }
        Err(Ended::Closed(reason)) => debug!(reason, "A listener filter closed a connection."),
    }
    log(&listener, Rc::new(info), |_| {});
    None
}

/// A connection that listener filters look at.
struct Inspection {
    io: Io,
    bytes: BytesMut,
}

/// Why a connection ended in its listener filters.
enum Ended {
    Remote,
    Failed(io::Error),
    Closed(&'static str),
}

impl Inspection {
    async fn run(&mut self, config: &Listener, info: &mut ConnectionInfo) -> Result<(), Ended> {
        for entry in &config.listener_filters {
            if entry
                .disabled
                .as_ref()
                .is_some_and(|rule| rule.matches(info))
            {
                continue;
            }
            let mut filter = entry.config.new_connection();
            if filter.wants_original_destination() {
                filter.original_destination(self.io.original_destination(), info);
            }
            let max = filter.max_read_bytes();
            if max > 0 && self.bytes.is_empty() {
                self.read(max).await?;
            }
            loop {
                match filter.inspect(&self.bytes, info) {
                    ListenerFilterStatus::Continue { consumed } => {
                        self.bytes.advance(consumed.min(self.bytes.len()));
                        break;
                    }
                    ListenerFilterStatus::Close(reason) => return Err(Ended::Closed(reason)),
                    ListenerFilterStatus::NeedMore if self.bytes.len() >= max => {
                        return Err(Ended::Closed(
                            "listener filter asked for more than its limit",
                        ));
                    }
                    ListenerFilterStatus::NeedMore => self.read(max).await?,
                }
            }
        }
        Ok(())
    }

    /// Reads once, so that there are `max` bytes at most.
    async fn read(&mut self, max: usize) -> Result<(), Ended> {
        let more = max.saturating_sub(self.bytes.len());
        self.bytes.reserve(more.min(READ_STEP));
        let mut limited = (&mut self.io).take(more as u64);
        match limited.read_buf(&mut self.bytes).await {
            Ok(0) => Err(Ended::Remote),
            Ok(_) => Ok(()),
            Err(error) => Err(Ended::Failed(error)),
        }
    }
}

/// Chooses the filter chain and lets it serve the connection to its end, in a task of its own.
fn establish(guard: OpenGuard, io: Io, info: ConnectionInfo) {
    if let Some(established) = choose_chain(guard, io, info) {
        let (chain, id) = (established.active.chain.clone(), established.info.id);
        let task = tokio::task::spawn_local(established.serve());
        // The task has not begun yet.
        chain.connections.insert(id, task.abort_handle());
    }
}

/// A connection whose filter chain is chosen. Small: it lies in the task of every connection.
struct Established {
    active: ActiveGuard,
    io: Io,
    info: Rc<ConnectionInfo>,
}

/// Chooses the filter chain. None: there is none, and the connection is closed.
fn choose_chain(guard: OpenGuard, io: Io, mut info: ConnectionInfo) -> Option<Established> {
    let listener = guard.listener.clone();
    if listener.closed.get() {
        return None;
    }
    let generation = listener.generation();
    let config = &*generation.config;
    info.transport_protocol.get_or_insert("raw_buffer");
    let found = config.chain_of(&info);
    let found = found.and_then(|at| generation.chains.get(at));
    let Some(chain) = found else {
        config.stats.no_filter_chain_match().inc();
        debug!(listener = %config.identity.name, "No filter chain matches a connection.");
        log(&listener, Rc::new(info), |info| {
            info.response_flags.set(ResponseFlag::NoRouteFound);
            info.details("filter_chain_not_found");
        });
        return None;
    };
    info.filter_chain_name = chain.name.clone();
    info.is_tls = chain
        .socket
        .as_ref()
        .is_some_and(|socket| socket.is_secure());
    let info = Rc::new(info);
    let io = match &chain.socket {
        None => io,
        Some(socket) => {
            let limit = chain
                .handshake_limit
                .map(|after| handshake_limit(after, &listener));
            socket.accept(io, &info, limit)
        }
    };
    Some(Established {
        active: ActiveGuard::new(guard, chain.clone(), info.clone()),
        io,
        info,
    })
}

fn handshake_limit(after: Duration, listener: &Rc<ActiveListener>) -> HandshakeLimit {
    let overload = &listener.worker.server.overload;
    let after = overload.timeout(ScaledTimer::TransportSocketConnect, after);
    let listener = listener.clone();
    let on_timeout = move || {
        let stats = &listener.config().stats;
        stats.downstream_cx_transport_socket_connect_timeout().inc();
    };
    HandshakeLimit {
        after,
        on_timeout: Box::new(on_timeout),
    }
}

impl Established {
    /// A future that serves the connection to its end. It holds little itself: it lies in the task of every connection.
    fn serve(self) -> impl Future<Output = ()> {
        let Self { active, io, info } = self;
        let listener = &active.open.listener;
        let chain = &active.chain;
        let filters: Vec<Box<dyn NetworkFilter>> = chain
            .filters
            .iter()
            .map(|filter| filter.new_filter(&listener.worker, &info))
            .collect();
        let connection = Connection {
            io,
            info,
            worker: listener.worker.clone(),
            drain: chain.drain.clone(),
            buffer_limit: listener.config().buffer_limit,
        };
        let terminal = chain.terminal.clone();
        let served: LocalBoxFuture<'static, ()> = match terminal {
            Some(terminal) if filters.is_empty() => terminal.serve(connection),
            terminal => Box::pin(serve_filtered(terminal, filters, connection)),
        };
        async move {
            served.await;
            drop(active);
        }
    }
}

/// Serves a connection that has filters before the terminal one, or none that is.
async fn serve_filtered(
    terminal: Option<Rc<dyn TerminalFilter>>,
    mut filters: Vec<Box<dyn NetworkFilter>>,
    mut connection: Connection,
) {
    let started = start_filters(&mut filters, &connection.io, &connection.info);
    let passed = Box::pin(started).await;
    let (true, Some(terminal)) = (passed, terminal) else {
        return;
    };
    if filters.iter().any(|filter| filter.wants_data()) {
        let Connection {
            io,
            info,
            buffer_limit,
            ..
        } = connection;
        let filters = std::mem::take(&mut filters);
        let filtered = FilteredIo::new(io, filters, info.clone(), buffer_limit);
        connection.io = Io::layered(Box::new(filtered));
        connection.info = info;
    }
    terminal.serve(connection).await;
    drop(filters);
}

/// Tells the filters before the terminal one of the connection. False: one of them closes it.
async fn start_filters(
    filters: &mut [Box<dyn NetworkFilter>],
    io: &Io,
    info: &ConnectionInfo,
) -> bool {
    for filter in filters {
        let mut status = filter.on_new_connection(info);
        loop {
            match status {
                NetworkStatus::Continue => break,
                NetworkStatus::StopIteration => {
                    poll_fn(|cx| io.poll_read_ready(cx)).await;
                    break;
                }
                NetworkStatus::Wait(waiting) => {
                    waiting.await;
                    status = filter.resume(info);
                }
                NetworkStatus::Close(details) => {
                    info.termination_details.replace(Some(details.into()));
                    return false;
                }
            }
        }
    }
    true
}

/// Counts a connection while listener filters look at it.
struct PreConnectionGuard(Rc<ActiveListener>);

impl PreConnectionGuard {
    fn new(listener: Rc<ActiveListener>) -> Self {
        listener.config().stats.downstream_pre_cx_active().inc();
        Self(listener)
    }
}

impl Drop for PreConnectionGuard {
    fn drop(&mut self) {
        self.0.config().stats.downstream_pre_cx_active().dec();
    }
}

/// Counts a connection that its filter chain serves.
struct ActiveGuard {
    open: OpenGuard,
    chain: Rc<WorkerFilterChain>,
    info: Rc<ConnectionInfo>,
}

impl ActiveGuard {
    fn new(open: OpenGuard, chain: Rc<WorkerFilterChain>, info: Rc<ConnectionInfo>) -> Self {
        let listener = &open.listener;
        let stats = listener.config().stats.clone();
        stats.downstream_cx_total().inc();
        stats.downstream_cx_active().inc();
        listener.stats.downstream_cx_total().inc();
        listener.stats.downstream_cx_active().inc();
        Self { open, chain, info }
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.chain.connections.remove(self.info.id);
        let listener = &self.open.listener;
        let stats = listener.config().stats.clone();
        stats.downstream_cx_active().dec();
        stats.downstream_cx_destroy().inc();
        listener.stats.downstream_cx_active().dec();
        let length = self.info.start.elapsed().as_millis();
        stats
            .downstream_cx_length_ms()
            .record(u64::try_from(length).unwrap_or(u64::MAX));
        log(listener, self.info.clone(), |_| {});
    }
}

/// Writes the access logs of the listener.
fn log(
    listener: &ActiveListener,
    connection: Rc<ConnectionInfo>,
    add: impl FnOnce(&mut StreamInfo),
) {
    let access_logs = &listener.generation().access_logs;
    if access_logs.is_empty() {
        return;
    }
    let start = connection.start;
    let mut info = StreamInfo::new(connection, 0, None);
    info.start_time -= start.elapsed();
    info.start = start;
    info.bytes_received = info.connection.bytes_received.get();
    info.bytes_sent = info.connection.bytes_sent.get();
    info.dynamic_metadata = info.connection.dynamic_metadata.borrow().clone();
    info.note_closing_filter();
    add(&mut info);
    access_logs.log(&FormatData {
        info: &info,
        request: None,
        response: None,
        request_trailers: None,
        response_trailers: None,
        local_reply_body: b"",
        log_type: "NotSet",
    });
}

/// How much room a read for listener filters gets at a time.
const READ_STEP: usize = 2048;
