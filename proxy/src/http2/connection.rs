//! The state of a connection, and what its owner asks of it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::connection_config::{ConnectionConfig, Role};
use super::flow::ReceiveWindow;
use super::frame::{self, ErrorCode};
use super::head::Flaw;
use super::hpack::{Decoder, Encoder};
use super::limits::{Flood, FloodCounters};
use super::outgoing::Outgoing;
use super::room::Room;
use super::stats::{Gauges, Http2CodecStats, Waiting};
use super::stream::{Broken, Receive, Received, Send, Stream};
use crate::http::{EndStream, RequestHead};
use crate::stream_info::BytesMeter;

/// A stream that a client has opened.
#[derive(Debug)]
pub struct Accepted {
    /// Its number.
    pub id: u32,
    /// Its head and whether it is all, or what is wrong with it.
    pub head: Result<(RequestHead, EndStream), Refused>,
    /// Fields that were left out for the underscore in their name.
    pub dropped_underscores: u64,
}

/// A request whose head was not taken. The stream is reset already, or the connection has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
    /// The client broke the protocol, and not a limit.
    pub is_malformed: bool,
}

/// Why a connection has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    /// The peer is told by GOAWAY. Envoy tells it not always.
    pub(super) goaway: bool,
    pub(super) details: &'static str,
    /// It counts as no error of the protocol.
    pub(super) is_flood: bool,
}

/// What Envoy's access log says of streams whose connection fails.
pub(super) const CODEC_ERROR: &str = "codec_error:The_user_callback_function_failed";

impl Failure {
    /// One that the peer is told of.
    pub(super) fn told(code: ErrorCode) -> Self {
        Self {
            code,
            goaway: true,
            details: CODEC_ERROR,
            is_flood: false,
        }
    }

    /// A limit against floods.
    pub(super) fn flood(flood: Flood) -> Self {
        Self {
            details: flood.details(),
            is_flood: true,
            ..Self::silent()
        }
    }

    /// One that closes the connection without a word.
    pub(super) fn silent() -> Self {
        Self {
            code: ErrorCode::PROTOCOL_ERROR,
            goaway: false,
            details: CODEC_ERROR,
            is_flood: false,
        }
    }
}

/// What the peer has told by SETTINGS.
#[derive(Debug)]
pub(super) struct PeerSettings {
    pub(super) max_frame_size: usize,
    pub(super) initial_window: i64,
    pub(super) max_concurrent_streams: Option<u32>,
}

/// How far a drained connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goaway {
    None,
    /// The peer knows that the end is near.
    Announced,
    /// Streams above this one are not looked at.
    Sent(u32),
}

/// A header block of which more is to come.
#[derive(Debug)]
pub(super) struct PartialBlock {
    pub(super) id: u32,
    pub(super) end_stream: bool,
    pub(super) block: Vec<u8>,
    pub(super) depends_on_itself: bool,
}

/// A connection without socket and clock: what was read goes in, what is to be written comes out, and between them are
/// streams.
pub struct Connection {
    pub(super) config: Rc<ConnectionConfig>,
    pub(super) stats: Option<Rc<Http2CodecStats>>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    /// Streams that neither side has closed for good.
    pub(super) open: usize,
    pub(super) accepted: VecDeque<Accepted>,
    /// Streams with something to send that may be sent.
    pub(super) sendable: VecDeque<u32>,
    pub(super) out: Outgoing,
    pub(super) counters: FloodCounters,
    pub(super) peer: PeerSettings,
    pub(super) send_window: i64,
    pub(super) receive_window: ReceiveWindow,
    /// Octets of the client's preface that are still to come.
    pub(super) preface_left: usize,
    pub(super) settings_seen: bool,
    pub(super) settings_acked: bool,
    pub(super) block: Option<Box<PartialBlock>>,
    /// The highest stream that the peer has opened.
    pub(super) highest_remote: u32,
    /// The next stream that we open.
    pub(super) next_local: u32,
    /// Streams that we have reset lately, whose frames may still be under way, and the highest that was forgotten.
    pub(super) reset_by_us: VecDeque<u32>,
    pub(super) reset_forgotten: u32,
    pub(super) goaway: Goaway,
    /// The first stream that came too late for a GOAWAY: neither that one nor those behind it are looked at.
    pub(super) first_ignored: Option<u32>,
    /// The last stream that the peer will look at, by its GOAWAY.
    pub(super) peer_goaway: Option<u32>,
    pub(super) failure: Option<Failure>,
    pub(super) eof: bool,
    pub(super) pong: bool,
    pub(super) heard: bool,
    pub(super) resets: ResetBucket,
    pub(super) now: Instant,
    /// Bytes that wait on streams.
    pub(super) outgoing_bytes: usize,
    /// Bytes of metadata that streams hold.
    pub(super) metadata_held: usize,
    pub(super) gauges: Gauges,
}

/// How many streams the peer may still reset.
#[derive(Debug)]
pub(super) struct ResetBucket {
    left: f64,
    at: Instant,
}

impl ResetBucket {
    /// Takes one. False: there is none.
    pub(super) fn take(&mut self, now: Instant, burst: u64, rate: u64) -> bool {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a limit needs no more than 52 bits of precision"
        )]
        let (burst, rate) = (burst as f64, rate as f64);
        let more = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.left = (self.left + more).min(burst);
        self.at = now;
        self.left -= 1.0;
        self.left >= 0.0
    }
}

/// Numbers of streams are different enough as they are.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Streams that were reset by us of which the numbers are kept.
const RESETS_KEPT: usize = 128;

impl Connection {
    /// A connection on which nothing was read yet. A client's preface and settings wait to be written; a server says nothing
    /// to what is no client.
    pub fn new(
        config: Rc<ConnectionConfig>,
        stats: Option<Rc<Http2CodecStats>>,
        now: Instant,
    ) -> Self {
        let options = &config.options;
        let cap = usize::try_from(options.hpack_table_size).unwrap_or(usize::MAX);
        let is_server = config.role == Role::Server;
        let window = options.initial_connection_window_size;
        #[allow(
            clippy::cast_precision_loss,
            reason = "a limit needs no more than 52 bits of precision"
        )]
        let burst = options.stream_reset_burst as f64;
        let mut decoder = Decoder::default();
        decoder.set_max_string(options.max_string());
        let mut connection = Self {
            encoder: Encoder::new(cap, options.enable_huffman_encoding),
            decoder,
            streams: HashMap::default(),
            open: 0,
            accepted: VecDeque::new(),
            sendable: VecDeque::new(),
            out: Outgoing::default(),
            counters: FloodCounters::default(),
            peer: PeerSettings {
                max_frame_size: frame::MAX_PAYLOAD,
                initial_window: 65_535,
                max_concurrent_streams: None,
            },
            send_window: 65_535,
            receive_window: ReceiveWindow::new(window),
            preface_left: if is_server { frame::PREFACE.len() } else { 0 },
            settings_seen: false,
            settings_acked: false,
            block: None,
            highest_remote: 0,
            next_local: 1,
            reset_by_us: VecDeque::new(),
            reset_forgotten: 0,
            goaway: Goaway::None,
            first_ignored: None,
            peer_goaway: None,
            failure: None,
            eof: false,
            pong: false,
            heard: false,
            resets: ResetBucket {
                left: burst,
                at: now,
            },
            now,
            outgoing_bytes: 0,
            metadata_held: 0,
            gauges: Gauges::new(stats.clone()),
            config,
            stats,
        };
        if !is_server {
            connection.send_preface();
        }
        connection
    }

    /// The next stream that the client has opened.
    pub fn accept(&mut self) -> Option<Accepted> {
        let accepted = self.accepted.pop_front();
        if self.accepted.is_empty() && self.accepted.capacity() > 8 {
            self.accepted = VecDeque::new();
        }
        accepted
    }

    /// Whether there are streams that nobody has accepted.
    pub fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// What a stream has received next. Taking data makes room for more.
    pub fn poll_received(&mut self, id: u32, cx: &Context<'_>) -> Poll<Received> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Pending;
        };
        let Some(received) = stream.take_received() else {
            stream.wait(cx);
            return Poll::Pending;
        };
        if let Received::Data(data, _) = &received {
            let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
            self.consume(id, count);
        } else if let Received::Metadata(map) = &received {
            self.metadata_taken(id, map);
        }
        Poll::Ready(received)
    }

    /// Ready when no more than `limit` bytes wait on the stream.
    pub fn poll_sent(&mut self, id: u32, limit: usize, cx: &Context<'_>) -> Poll<()> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(());
        };
        let unfinished = matches!(stream.send, Send::LastData | Send::LastTrailers(_));
        if stream.outgoing_bytes > limit || limit == 0 && unfinished {
            stream.awaits_room = true;
            stream.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Bytes of a stream so far.
    pub fn meter(&self, id: u32) -> BytesMeter {
        self.streams
            .get(&id)
            .map_or_else(BytesMeter::default, |stream| stream.meter)
    }

    /// Bytes of bodies that lie on a stream: those that its owner has not taken, and those that could not be sent yet.
    pub fn held(&self, id: u32) -> usize {
        self.streams
            .get(&id)
            .map_or(0, |stream| stream.received_bytes() + stream.outgoing_bytes)
    }

    /// Whether everything was sent on a stream, up to its end.
    pub fn has_sent_all(&self, id: u32) -> bool {
        self.streams
            .get(&id)
            .is_none_or(|stream| !matches!(stream.send, Send::Head | Send::Body))
    }

    /// Whether the head of the stream was sent.
    pub fn has_sent_head(&self, id: u32) -> bool {
        self.streams
            .get(&id)
            .is_none_or(|stream| !matches!(stream.send, Send::Head))
    }

    /// Notes that the owner of a stream has let it go. What has not come to its end is reset.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.released = true;
        let bytes = stream.drop_received();
        if bytes > 0 {
            let count = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.consume_connection(count);
        }
        self.let_go(id);
    }

    /// Resets what nobody owns any more, once all that is to be sent was sent, and forgets what is closed.
    pub(super) fn let_go(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.released && !stream.is_closed() && self.is_alive() {
            match (&stream.send, self.config.role) {
                // The answer is complete, and nobody wants the rest of the request.
                (Send::Closed, Role::Server) => self.reset(id, ErrorCode::NO_ERROR),
                (Send::LastData | Send::LastTrailers(_), _) => return,
                (_, Role::Server) => self.reset(id, ErrorCode::INTERNAL_ERROR),
                (_, Role::Client) => self.reset(id, ErrorCode::CANCEL),
            }
        }
        self.settle(id);
    }

    /// Counts a stream out that has closed, and forgets it when its owner has too.
    pub(super) fn settle(&mut self, id: u32) {
        let alive = self.is_alive();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_open && (stream.is_closed() || !alive) {
            stream.is_open = false;
            self.open -= 1;
        }
        if stream.released && !stream.is_open {
            self.metadata_held -= stream.metadata.as_ref().map_or(0, |held| held.size);
            self.outgoing_bytes -= stream.outgoing_bytes;
            self.streams.remove(&id);
            if self.streams.is_empty() {
                self.give_back();
            }
        }
    }

    /// Gets room for streams from the worker, for a connection that has none.
    pub(super) fn borrow_room(&mut self) {
        if self.streams.capacity() > 0 {
            return;
        }
        let Some(room) = Room::take() else {
            return;
        };
        self.streams = room.streams;
        self.sendable = room.sendable;
        if self.accepted.is_empty() {
            self.accepted = room.accepted;
        }
        self.counters.lend(room.unsent);
        self.decoder.lend_buffers(room.buffers);
    }

    /// An idle connection keeps no room for streams.
    fn give_back(&mut self) {
        let mut room = Room {
            streams: std::mem::take(&mut self.streams),
            sendable: std::mem::take(&mut self.sendable),
            unsent: self.counters.give_back(),
            buffers: self.decoder.give_back_buffers(),
            ..Room::default()
        };
        if self.accepted.is_empty() {
            room.accepted = std::mem::take(&mut self.accepted);
        }
        room.sendable.clear();
        room.put();
    }

    /// Streams that are open, as the protocol counts them.
    pub fn open_streams(&self) -> usize {
        self.open
    }

    /// Whether the peer's SETTINGS are there.
    pub fn has_peer_settings(&self) -> bool {
        self.settings_seen
    }

    /// Lets the gauges say what waits.
    pub(super) fn say_gauges(&mut self) {
        let (frames, control_frames) = self.counters.unsent();
        self.gauges.say(Waiting {
            frames: frames as u64,
            control_frames: control_frames.into(),
            bytes: self.outgoing_bytes as u64,
        });
    }

    /// Streams that the peer allows, if it has said so.
    pub fn peer_max_concurrent_streams(&self) -> Option<u32> {
        self.peer.max_concurrent_streams
    }

    /// Whether the connection can carry anything.
    pub fn is_alive(&self) -> bool {
        self.failure.is_none() && !self.eof
    }

    /// Whether what the peer sent has broken the connection.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether it has failed by what is no flood.
    pub fn has_failed_by_error(&self) -> bool {
        self.failure.is_some_and(|failure| !failure.is_flood)
    }

    /// Whether new streams can be opened on it.
    pub fn takes_streams(&self) -> bool {
        self.is_alive()
            && self.peer_goaway.is_none()
            && self.goaway == Goaway::None
            && self.next_local < 1 << 31
    }

    /// Whether the last GOAWAY was sent, so that only the streams that are there come to their end.
    pub fn is_going_away(&self) -> bool {
        matches!(self.goaway, Goaway::Sent(_))
    }

    /// Whether an answer to our ping has come since this was last asked.
    pub fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    /// Whether any frame but an answer to a ping has come since this was last asked.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Ends a connection on which a PING had no answer.
    pub(super) fn unanswered(&mut self) {
        if !self.eof {
            self.eof = true;
            self.break_streams(Broken::Unanswered);
        }
    }

    /// Notes that the peer has closed the connection.
    pub fn ended(&mut self) {
        if !self.eof {
            self.eof = true;
            self.break_streams(Broken::ConnectionEnded);
        }
    }

    /// Ends the connection for what the peer has sent.
    pub(super) fn fail(&mut self, failure: Failure) {
        if !self.is_alive() {
            return;
        }
        if failure.goaway {
            // What was said before may not be taken back.
            let last = match self.goaway {
                Goaway::Sent(last) => last,
                _ => self.highest_remote,
            };
            self.write_goaway(last, failure.code);
        }
        self.failure = Some(failure);
        self.break_streams(Broken::ConnectionError(failure.details));
    }

    /// Ends the connection because there is too much to do.
    pub(super) fn forced(&mut self) {
        self.failure = Some(Failure {
            code: ErrorCode::NO_ERROR,
            is_flood: true,
            ..Failure::silent()
        });
        self.break_streams(Broken::Forced);
    }

    pub(super) fn flooded(&mut self, flood: Flood) {
        if let Some(stats) = &self.stats {
            flood.count(stats);
        }
        self.fail(Failure::flood(flood));
    }

    /// Ends every stream.
    fn break_streams(&mut self, broken: Broken) {
        self.sendable.clear();
        let mut gone = Vec::new();
        for (id, stream) in &mut self.streams {
            // What has come to its end on both sides is not touched by the end of the connection.
            if !stream.is_closed() {
                if stream.receive != Receive::Closed || !stream.released {
                    stream.deliver(Received::Broken(broken));
                }
                stream.receive = Receive::Closed;
                self.outgoing_bytes -= stream.drop_outgoing();
                stream.wake();
            }
            gone.push(*id);
        }
        for id in gone {
            self.settle(id);
        }
    }

    /// Notes that a stream with a flawed head was opened.
    pub(super) fn refuse_head(&mut self, id: u32, flaw: Flaw, dropped_underscores: u64) {
        self.accepted.push_back(Accepted {
            id,
            head: Err(Refused {
                details: flaw.details(),
                is_malformed: flaw.is_malformed(),
            }),
            dropped_underscores,
        });
    }

    /// Remembers a stream that we have reset.
    pub(super) fn remember_reset(&mut self, id: u32) {
        if self.reset_by_us.len() == RESETS_KEPT
            && let Some(oldest) = self.reset_by_us.pop_front()
        {
            self.reset_forgotten = self.reset_forgotten.max(oldest);
        }
        self.reset_by_us.push_back(id);
    }

    /// Whether frames of this closed stream may still be under way because we have reset it, or have not looked at it.
    pub(super) fn was_reset_by_us(&self, id: u32) -> bool {
        id <= self.reset_forgotten
            || self.reset_by_us.contains(&id)
            || self.first_ignored.is_some_and(|first| id >= first)
    }

    pub(super) fn count(&self, count: impl FnOnce(&Http2CodecStats)) {
        if let Some(stats) = &self.stats {
            count(stats);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.config.role)
            .field("streams", &self.streams.len())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
