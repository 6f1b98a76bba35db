//! The HTTP/2 codec of downstream connections: requests out of the streams of [`crate::http2`].
//!
//! Deviations: those of [`crate::http2`].

mod server;

pub use crate::http2::{
    ClientHttp2Settings, Http2ProtocolOptions, Http2Settings, KeepaliveSettings,
};
pub use server::{AcceptedStream, RefusedHead, ServerConnection, ServerHttp2Stream};
