//! The HTTP/2 codec of downstream connections, over the crate `h2`.

mod server;
mod settings;

pub use server::{ServerConnection, ServerHttp2Stream};
pub use settings::{ClientHttp2Settings, Http2ProtocolOptions, Http2Settings, KeepaliveSettings};
