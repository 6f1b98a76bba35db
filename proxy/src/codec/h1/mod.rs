//! The HTTP/1 codec of downstream connections, and the parser and encoder that upstream connections share with it.
//!
//! The parser takes and refuses what Envoy's (balsa) takes and refuses: folded values, bare LF, any white space between the
//! parts of a first line; status, body and details of a refusal are Envoy's.
//!
//! Deviations: chunk extensions and stray bytes behind a chunk are limited to 64 KiB per line, trailers to the size of a head
//! even where they are dropped.
//! Deviations: a response status above 999 is refused.
//! Deviations: any `stateful_formatter` but `preserve_case` is refused.
//! Deviations: `transfer-encoding` with a bare CR in its value is refused; Envoy reads it in one way and passes it on in another.

mod body;
mod chunk;
mod encode;
mod lines;
mod message;
mod reject;
mod request;
mod response;
mod server;
#[cfg(test)]
mod server_tests;
mod settings;
mod target;
#[cfg(test)]
mod tests;

pub use chunk::{ChunkDecoder, ChunkStep, parse_trailers};
pub use encode::reason_phrase;
pub use message::Framing;
pub use reject::Reject;
pub use request::Request;
pub use response::{Response, ResponseTo};
pub use server::{HeadError, Next, ServerConnection};
pub use settings::{ClientHttp1Settings, HeaderKeyFormat, Http1ProtocolOptions, Http1Settings};

pub(crate) use body::{Body, BodyEvent, Limits as BodyLimits};
pub(crate) use encode::{BodyEncoding, RequestContext, chunk, request_head, trailers};
pub(crate) use lines::HeadSearch;
pub(crate) use message::is_upgrade;
pub(crate) use response::parse as parse_response_head;

/// Reads a request head from the start of `bytes`: the head and its length, nothing while it is incomplete, or why it is
/// refused. For fuzzing and benchmarks; a connection reads through [`ServerConnection`].
pub fn parse_request(
    bytes: &[u8],
    settings: &Http1Settings,
) -> Result<Option<(Request, usize)>, Reject> {
    request::parse(bytes, &mut HeadSearch::default(), settings)
}

/// [`parse_request`] without the fast path: for fuzzing, which holds one against the other.
pub fn parse_request_leniently(
    bytes: &[u8],
    settings: &Http1Settings,
) -> Result<Option<(Request, usize)>, Reject> {
    request::parse_lenient(bytes, &mut HeadSearch::default(), settings)
}

/// Reads a response head from the start of `bytes`, as [`parse_request`] does for requests.
pub fn parse_response(
    bytes: &[u8],
    to: ResponseTo,
    settings: &ClientHttp1Settings,
) -> Result<Option<(Response, usize)>, Reject> {
    response::parse(bytes, &mut HeadSearch::default(), to, settings)
}

/// [`parse_response`] without the fast path.
pub fn parse_response_leniently(
    bytes: &[u8],
    to: ResponseTo,
    settings: &ClientHttp1Settings,
) -> Result<Option<(Response, usize)>, Reject> {
    response::parse_lenient(bytes, &mut HeadSearch::default(), to, settings)
}
