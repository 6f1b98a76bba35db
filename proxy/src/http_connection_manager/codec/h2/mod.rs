//! The HTTP/2 codec of downstream connections, over the crate `h2`, and what upstream connections share with it.
//!
//! Deviations: the order of repeated fields among others is lost (a, b, a comes out as a, a, b).
//! Deviations: malformed requests are reset by the crate and seen by no access log; paths that are no URI are among them.
//! Deviations: a head above `max_request_headers_kb` is answered with 431 by the crate, without an access log.
//! Deviations: the limits against floods are the crate's own, not those of `Http2ProtocolOptions`.
//! Deviations: a malformed message ends its stream, never the connection.
//! Deviations: `allow_metadata`, `custom_settings_parameters` and `disallow_obs_text` are refused.
//! Deviations: the bytes of heads on the wire are counted uncompressed.

mod coalesce;
mod convert;
mod keepalive;
mod send;
mod server;
mod settings;

pub use server::{ServerConnection, ServerHttp2Stream};
pub use settings::{ClientHttp2Settings, Http2ProtocolOptions, Http2Settings, KeepaliveSettings};

pub(crate) use coalesce::{Coalesced, Flusher, coalesce};
pub(crate) use convert::{fields_out, request_out, response_in, trailers_in};
pub(crate) use keepalive::Keepalive;
pub(crate) use send::SendQueue;
