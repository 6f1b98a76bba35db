//! gRPC on the admin port, over HTTP/2 without TLS: the one service of `client_status`.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::Admin;
use super::client_status::Status;

/// The longest request, in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// A flag and a length come before each message.
const PREFIX: usize = 5;

const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/";
const INTERNAL: u8 = 13;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;

/// The body of an answer.
pub(super) enum AdminBody {
    Page(Full<Bytes>),
    /// Messages as they are made, then the status.
    Grpc(mpsc::Receiver<Frame<Bytes>>),
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Page(page) => Pin::new(page).poll_frame(cx),
            Self::Grpc(frames) => frames.poll_recv(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Grpc(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Grpc(_) => SizeHint::default(),
        }
    }
}

/// Whether this is a call, and no page.
pub(super) fn is_call(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    head.version == hyper::Version::HTTP_2
        && head.method == hyper::Method::POST
        && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Begins to answer a call. Its task ends with the call.
pub(super) fn answer(
    admin: &Rc<Admin>,
    head: &Parts,
    body: Incoming,
) -> hyper::Response<AdminBody> {
    let (sender, frames) = mpsc::channel(1);
    let call = Call {
        admin: admin.clone(),
        requests: Requests {
            body,
            buffer: BytesMut::new(),
        },
        sender,
    };
    let method = head.uri.path().strip_prefix(SERVICE).map(ToOwned::to_owned);
    spawn_local(call.run(method));
    let mut response = hyper::Response::new(AdminBody::Grpc(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A call that is being answered.
struct Call {
    admin: Rc<Admin>,
    requests: Requests,
    sender: mpsc::Sender<Frame<Bytes>>,
}

impl Call {
    async fn run(mut self, method: Option<String>) {
        let result = match method.as_deref() {
            Some("StreamClientStatus") => self.stream().await,
            Some("FetchClientStatus") => self.fetch().await,
            _ => Err((UNIMPLEMENTED, "there is no such method here".to_owned())),
        };
        let (code, text) = result.err().unwrap_or_default();
        // Who has gone needs no status.
        let _ = self
            .sender
            .send(Frame::trailers(trailers(code, &text)))
            .await;
    }

    /// One answer for each request, until there are no more.
    async fn stream(&mut self) -> Result<(), Status> {
        while let Some(request) = self.requests.next().await? {
            if !self.answer(&request).await? {
                break;
            }
        }
        Ok(())
    }

    async fn fetch(&mut self) -> Result<(), Status> {
        let Some(request) = self.requests.next().await? else {
            return Err((INTERNAL, "the request has no message".to_owned()));
        };
        self.answer(&request).await.map(drop)
    }

    /// False: the client has gone.
    async fn answer(&self, request: &[u8]) -> Result<bool, Status> {
        let response = self.admin.client_status(request)?;
        let length = response.encoded_len();
        let too_long = |_| {
            let text = "the answer is longer than a message may be";
            (RESOURCE_EXHAUSTED, text.to_owned())
        };
        let prefix = u32::try_from(length).map_err(too_long)?;
        let mut message = Vec::with_capacity(PREFIX + length);
        message.put_u8(0);
        message.put_u32(prefix);
        message.extend(response.encode_to_vec());
        let sent = self.sender.send(Frame::data(message.into())).await;
        Ok(sent.is_ok())
    }
}

/// The messages of a call.
struct Requests {
    body: Incoming,
    buffer: BytesMut,
}

impl Requests {
    /// The next one; none: there are no more.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = take_message(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err((INTERNAL, error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err((INTERNAL, "the last message is cut off".to_owned())),
            }
        }
    }
}

/// Takes one message, if it is whole.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [flag, a, b, c, d] = *prefix;
    if flag != 0 {
        let text = "compressed messages are not understood";
        return Err((UNIMPLEMENTED, text.to_owned()));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_REQUEST {
        let text = format!("a request may have {MAX_REQUEST} bytes");
        return Err((RESOURCE_EXHAUSTED, text));
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn trailers(code: u8, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    // What a header cannot hold goes without.
    let text = text.replace(['\n', '%'], " ");
    if let Ok(text) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        trailers.insert("grpc-message", text);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_limited() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(take_message(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0]);
        assert_eq!(
            take_message(&mut buffer),
            Ok(Some(Bytes::from_static(&[7, 8])))
        );
        assert_eq!(take_message(&mut buffer), Ok(Some(Bytes::new())));
        assert_eq!(take_message(&mut buffer), Ok(None));
        let mut long = BytesMut::from(&[0, 0, 1, 0, 1][..]);
        assert_eq!(take_message(&mut long).unwrap_err().0, RESOURCE_EXHAUSTED);
        let mut compressed = BytesMut::from(&[1, 0, 0, 0, 0][..]);
        assert_eq!(take_message(&mut compressed).unwrap_err().0, UNIMPLEMENTED);
    }

    #[test]
    fn a_status_is_one_line() {
        let trailers = trailers(3, "a\nb 5%");
        assert_eq!(trailers["grpc-status"], "3");
        assert_eq!(trailers["grpc-message"], "a b 5 ");
    }
}
