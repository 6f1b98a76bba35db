//! The HTTP/1 codec of downstream connections, and the parser and encoder that upstream connections share with it.

mod server;
mod settings;

pub use server::{HeadError, Next, ServerConnection};
pub use settings::{
    ClientHttp1Settings, HeaderKeyFormat, HeadersWithUnderscoresAction, Http1ProtocolOptions,
    Http1Settings,
};
