//! One stream to an access log service, of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use outrigger_proto::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use outrigger_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
};
use outrigger_proto::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use prost::Message;
use tokio::time::sleep;
use tracing::debug;

use super::Settings;
use crate::server::Worker;
use crate::upstream::async_client::{AsyncClient, GrpcSender, GrpcStreamLimits};

crate::stats_group! {
    /// What became of entries.
    struct GrpcAccessLogStats {
        counter grpc_entries_flush_failed;
        counter grpc_entries_flushed;
        counter logs_dropped;
        counter logs_written;
    }
}

const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Bytes that may wait for a server which reads slowly; beyond them, entries wait in the buffer, and are dropped when that is full.
const STREAM_BYTES: usize = 1024 * 1024;

/// An entry of either kind.
#[expect(
    clippy::large_enum_variant,
    reason = "it goes from the stack into one of two lists at once"
)]
pub(super) enum Entry {
    Http(HttpAccessLogEntry),
    Tcp(TcpAccessLogEntry),
}

/// Gathers entries and sends them.
pub(super) struct Exporter {
    settings: std::sync::Arc<Settings>,
    worker: Rc<Worker>,
    client: AsyncClient,
    stats: GrpcAccessLogStats,
    waiting: RefCell<Waiting>,
    stream: RefCell<Option<GrpcSender>>,
    /// Which stream it is: an older one that ends does not end a newer one.
    number: Cell<u64>,
}

#[derive(Default)]
struct Waiting {
    http: Vec<HttpAccessLogEntry>,
    tcp: Vec<TcpAccessLogEntry>,
    /// Of all of them, encoded.
    bytes: usize,
}

thread_local! {
    /// The exporters of this thread, by their settings.
    static EXPORTERS: RefCell<HashMap<Box<[u8]>, Weak<Exporter>>> = RefCell::default();
}

impl Exporter {
    /// The exporter for these settings on this worker: loggers that have the same settings have one stream.
    pub(super) fn shared(settings: &std::sync::Arc<Settings>, worker: &Rc<Worker>) -> Rc<Self> {
        EXPORTERS.with_borrow_mut(|known| {
            if let Some(exporter) = known.get(&settings.key).and_then(Weak::upgrade) {
                return exporter;
            }
            known.retain(|_, exporter| exporter.strong_count() > 0);
            let exporter = Self::start(settings.clone(), worker);
            known.insert(settings.key.clone(), Rc::downgrade(&exporter));
            exporter
        })
    }

    fn start(settings: std::sync::Arc<Settings>, worker: &Rc<Worker>) -> Rc<Self> {
        let scope = worker.server.stats.scope("access_logs.grpc_access_log.");
        let interval = settings.buffer_flush_interval;
        let exporter = Rc::new(Self {
            client: AsyncClient::new(worker.clone()),
            worker: worker.clone(),
            stats: GrpcAccessLogStats::new(&scope),
            settings,
            waiting: RefCell::default(),
            stream: RefCell::default(),
            number: Cell::new(0),
        });
        let weak = Rc::downgrade(&exporter);
        tokio::task::spawn_local(async move {
            loop {
                sleep(interval).await;
                let Some(exporter) = weak.upgrade() else {
                    return;
                };
                exporter.flush();
            }
        });
        exporter
    }

    /// Takes an entry, unless the buffer is full and nothing of it can be sent.
    pub(super) fn log(self: &Rc<Self>, entry: impl FnOnce() -> Entry) {
        let max = self.settings.buffer_size_bytes;
        if max > 0 && self.waiting.borrow().bytes >= max {
            self.flush();
            if self.waiting.borrow().bytes >= max {
                self.stats.logs_dropped().inc();
                return;
            }
        }
        if max == 0 && self.waiting.borrow().bytes > STREAM_BYTES {
            // Without a limit of the configuration's there is one of ours.
            self.stats.logs_dropped().inc();
            return;
        }
        self.stats.logs_written().inc();
        let full = {
            let mut waiting = self.waiting.borrow_mut();
            match entry() {
                Entry::Http(entry) => {
                    waiting.bytes += entry.encoded_len();
                    waiting.http.push(entry);
                }
                Entry::Tcp(entry) => {
                    waiting.bytes += entry.encoded_len();
                    waiting.tcp.push(entry);
                }
            }
            waiting.bytes >= max
        };
        if full {
            self.flush();
        }
    }

    /// Sends what waits, if the stream takes it.
    fn flush(self: &Rc<Self>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.http.is_empty() && waiting.tcp.is_empty() {
            return;
        }
        let opens = self.stream.borrow().is_none();
        if opens {
            self.open();
        }
        let Waiting { http, tcp, .. } = &mut *waiting;
        let count = u64::try_from(http.len() + tcp.len()).unwrap_or(u64::MAX);
        let entries = match http.is_empty() {
            false => LogEntries::HttpLogs(HttpAccessLogEntries {
                log_entry: std::mem::take(http),
            }),
            true => LogEntries::TcpLogs(TcpAccessLogEntries {
                log_entry: std::mem::take(tcp),
            }),
        };
        let message = StreamAccessLogsMessage {
            identifier: opens.then(|| Identifier {
                node: Some(self.worker.server.local_info.node.clone()),
                log_name: self.settings.log_name.clone(),
            }),
            log_entries: Some(entries),
        };
        let stream = self.stream.borrow();
        let sent = stream.as_ref().is_some_and(|stream| stream.send(&message));
        if sent {
            waiting.bytes = 0;
            self.stats.grpc_entries_flushed().add(count);
            return;
        }
        self.stats.grpc_entries_flush_failed().add(count);
        match message.log_entries {
            Some(LogEntries::HttpLogs(entries)) => waiting.http = entries.log_entry,
            Some(LogEntries::TcpLogs(entries)) => waiting.tcp = entries.log_entry,
            None => {}
        }
    }

    /// Opens a stream. Where it cannot be, it ends, and what was sent on it is lost.
    fn open(self: &Rc<Self>) {
        let service = &self.settings.service;
        let buffer = self.settings.buffer_size_bytes;
        let limits = GrpcStreamLimits {
            // The only answer is the end.
            max_message_bytes: 1024,
            max_pending_bytes: STREAM_BYTES.max(buffer.saturating_mul(2)),
        };
        let metadata = &service.metadata(None);
        let call = (&*service.authority, METHOD);
        let (sender, mut receiver) = self.client.stream(service.cluster, call, metadata, limits);
        *self.stream.borrow_mut() = Some(sender);
        self.number.set(self.number.get() + 1);
        let number = self.number.get();
        let weak = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                match receiver.next::<StreamAccessLogsResponse>().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        debug!(%error, "The stream to an access log service broke off.");
                        break;
                    }
                }
            }
            if let Some(exporter) = weak.upgrade()
                && exporter.number.get() == number
            {
                *exporter.stream.borrow_mut() = None;
            }
        });
    }
}
