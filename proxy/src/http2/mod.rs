//! HTTP/2 (RFC 9113) as a state machine: what was read goes in, what is to be written comes out, and between them are streams.
//! It knows no socket but the one that it is told to write to, and no clock but the instant that comes with what was read.
//!
//! The same code serves downstream and upstream connections: [`driver`] runs a connection on a socket,
//! `codec::h2` makes requests of its streams, `upstream::pool::http2` sends requests on them.
//! Header blocks are decoded straight into the heads that filters see, in the order of arrival; DATA leaves from the buffer it
//! was read into. What breaks the rules is answered as Envoy does, which most often closes the connection without a word.
//!
//! Stats: `http2.*`, `cluster.<name>.http2.*`.
//! Deviations: where Envoy fails h2spec RFC 9113 wins: frames on a stream that both sides have closed, numbers of streams that go
//! backwards, windows beyond the largest, PRIORITY on stream 0 or of itself.
//! Deviations: a header block of twice the largest head and 64 KiB more, which is not yet complete, closes the connection; Envoy
//! resets the stream and reads on.
//! Deviations: the refusal of an upgrade does not announce the end of the connection.
//! Deviations: GOAWAY carries no debug data.
//! Deviations: PUSH_PROMISE of a server, to whom pushes are forbidden, ends its connection; Envoy refuses the promised stream.
//! Deviations: a server that closes behind its GOAWAY is no `upstream_cx_protocol_error`.
//! Deviations: the limits of resets are looked at within what one read has brought, so that fewer streams may be begun.
//! Deviations: custom settings that the RFC knows are refused.
//! Deviations: metadata that nobody takes (`allow_metadata`) ends its connection at four times `max_metadata_size`; with HTTP/1
//! or without `allow_metadata` on the other side it is dropped.
//! Deviations: a new upstream connection carries no more than 100 streams, or as many as the host's last one, before the
//! peer's SETTINGS are there; Envoy opens all at once, and the peer refuses some.
//! Deviations: whether a field came as never indexed is forgotten; credentials and cookies are always sent so.
//! Deviations: `pending_send_bytes`, `outbound_frames_active` and `outbound_control_frames_active` say what was left after a
//! write; `nghttp2_downstream_connections` is not there.

mod connection;
mod connection_config;
pub mod driver;
mod flow;
mod frame;
mod head;
mod hpack;
mod keepalive;
mod limits;
mod metadata;
mod options;
mod outgoing;
mod receive;
mod receive_control;
mod receive_head;
mod room;
mod send;
mod stats;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Accepted, Connection, Refused};
pub use connection_config::{ConnectionConfig, Role};
pub use frame::ErrorCode;
pub use hpack::{Decoder, Encoder, HpackError};
pub use limits::FloodLimits;
pub use metadata::MetadataMap;
pub use options::{ClientHttp2Settings, Http2ProtocolOptions, Http2Settings, KeepaliveSettings};
pub use stats::Http2CodecStats;
pub use stream::{Broken, Received};
