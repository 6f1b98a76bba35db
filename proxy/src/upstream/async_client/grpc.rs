//! Unary gRPC calls: one message each way.
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::future::Future;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{AsyncClient, Body, ClientError, RequestOptions, WholeResponse};
use crate::http::{Fields, Known, Protocol, RequestHead};
use crate::upstream::ClusterId;

/// How a call failed: what the server said, or what stands for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {status}: {message}")]
pub struct GrpcError {
    /// The status code, never 0.
    pub status: u32,
    /// Its text.
    pub message: String,
}

/// `UNKNOWN`.
const UNKNOWN: u32 = 2;
/// `DEADLINE_EXCEEDED`.
const DEADLINE_EXCEEDED: u32 = 4;
/// `RESOURCE_EXHAUSTED`.
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
/// `UNIMPLEMENTED`.
pub(super) const UNIMPLEMENTED: u32 = 12;
/// `INTERNAL`.
pub(super) const INTERNAL: u32 = 13;
/// `UNAVAILABLE`.
const UNAVAILABLE: u32 = 14;

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

impl AsyncClient {
    /// Calls `path`, such as `/package.Service/Method`, with `metadata` beside the fields of the protocol. The message that
    /// comes back may have up to `max_message_bytes`; `options.max_response_bytes` does not count.
    #[allow(
        clippy::too_many_arguments,
        reason = "a call is where, what, and its limits; a type for them would be built for each call"
    )]
    pub fn unary<M: Message, R: Message + Default>(
        &self,
        cluster: ClusterId,
        (authority, path): (&str, &str),
        metadata: &Fields,
        message: &M,
        mut options: RequestOptions,
        max_message_bytes: usize,
    ) -> impl Future<Output = Result<R, GrpcError>> + use<M, R> {
        let mut head = request_head((authority, path), metadata);
        if let Some(timeout) = options.timeout {
            head.fields.set(Known::GrpcTimeout, grpc_timeout(timeout));
        }
        options.max_response_bytes = max_message_bytes.saturating_add(PREFIX);
        let sending = self.send(cluster, head, Body::Whole(framed(message)), options);
        async move { decode(sending.await, max_message_bytes) }
    }
}

/// The head of a call.
pub(super) fn request_head((authority, path): (&str, &str), metadata: &Fields) -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http2, b"POST");
    head.set_scheme(b"http");
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head.fields.set(Known::ContentType, "application/grpc");
    head.fields.set("te", "trailers");
    for (name, value) in metadata.iter() {
        head.fields.append_wire(name, value);
    }
    head
}

/// At most eight digits: milliseconds, or seconds where those are too many.
fn grpc_timeout(timeout: std::time::Duration) -> String {
    match timeout.as_millis() {
        millis if millis < 100_000_000 => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(99_999_999)),
    }
}

/// A message behind its prefix.
pub(super) fn framed<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

fn decode<R: Message + Default>(
    result: Result<WholeResponse, ClientError>,
    limit: usize,
) -> Result<R, GrpcError> {
    let response = result.map_err(|error| transport_error(&error))?;
    let fields = response.trailers.as_ref().unwrap_or(&response.head.fields);
    status_of(response.head.status, fields)?;
    let Some((prefix, message)) = response.body.split_first_chunk::<PREFIX>() else {
        return Err(failed(INTERNAL, "the response has no message"));
    };
    let [compressed, length @ ..] = prefix;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if *compressed != 0 {
        return Err(failed(
            UNIMPLEMENTED,
            "the message is compressed, which was not asked for",
        ));
    }
    if length > limit {
        return Err(failed(
            RESOURCE_EXHAUSTED,
            &format!("the message has {length} bytes, more than {limit}"),
        ));
    }
    if length != message.len() {
        return Err(failed(INTERNAL, "the response is not one message"));
    }
    R::decode(message).map_err(|error| failed(INTERNAL, &error.to_string()))
}

/// What a call that got no response says.
pub(super) fn transport_error(error: &ClientError) -> GrpcError {
    let status = match error {
        ClientError::Timeout => DEADLINE_EXCEEDED,
        ClientError::TooLarge(_) => RESOURCE_EXHAUSTED,
        _ => UNAVAILABLE,
    };
    failed(status, &error.to_string())
}

/// Whether the fields that end a response say that all is well. Without a word of theirs, the HTTP status tells.
pub(super) fn status_of(http: u16, fields: &Fields) -> Result<(), GrpcError> {
    match fields.get_str(Known::GrpcStatus).map(str::parse::<u32>) {
        Some(Ok(0)) => Ok(()),
        Some(status) => {
            let message = fields.get_str(Known::GrpcMessage).unwrap_or_default();
            Err(failed(status.unwrap_or(UNKNOWN), message))
        }
        None if http == 200 => Err(failed(INTERNAL, "the response has no grpc-status")),
        None => {
            let status = match http {
                400 => INTERNAL,
                401 => 16,
                403 => 7,
                404 => UNIMPLEMENTED,
                429 | 502..=504 => UNAVAILABLE,
                _ => UNKNOWN,
            };
            Err(failed(status, &format!("HTTP status {http}")))
        }
    }
}

pub(super) fn failed(status: u32, message: &str) -> GrpcError {
    GrpcError {
        status,
        message: message.to_owned(),
    }
}
