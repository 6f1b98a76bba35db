//! gRPC calls that go both ways for as long as both sides like.

use bytes::{Buf, BytesMut};
use prost::Message;

use super::grpc::{
    INTERNAL, PREFIX, RESOURCE_EXHAUSTED, UNIMPLEMENTED, failed, framed, request_head, status_of,
    transport_error,
};
use super::{
    AsyncClient, Body, BodySender, ClientError, GrpcError, Piece, RequestOptions, Response, body,
};
use crate::LocalBoxFuture;
use crate::http::{EndStream, Fields};
use crate::upstream::ClusterId;

/// What a call may hold back.
#[derive(Debug, Clone, Copy)]
pub struct GrpcStreamLimits {
    /// Bytes of the largest message that is taken.
    pub max_message_bytes: usize,
    /// Bytes that wait for the peer to take them.
    pub max_pending_bytes: usize,
}

/// The way to the peer. Dropped, it breaks the call off.
#[derive(Debug)]
pub struct GrpcSender(BodySender);

/// What comes from the peer. It must be asked for messages for what was sent to go out. Dropped, it breaks the call off.
pub struct GrpcReceiver {
    state: State,
    /// What is no whole message yet.
    buffer: BytesMut,
    max_message_bytes: usize,
}

enum State {
    Opening(LocalBoxFuture<'static, Result<Response, ClientError>>),
    Open(Box<Response>),
    Ended,
}

impl AsyncClient {
    /// Begins the call `path`, such as `/package.Service/Method`, with `metadata` beside the fields of the protocol.
    pub fn stream(
        &self,
        cluster: ClusterId,
        (authority, path): (&str, &str),
        metadata: &Fields,
        limits: GrpcStreamLimits,
    ) -> (GrpcSender, GrpcReceiver) {
        let head = request_head((authority, path), metadata);
        let (sender, reader) = body(limits.max_pending_bytes);
        let opening = self.open(
            cluster,
            head,
            Body::Streamed(reader),
            RequestOptions::default(),
        );
        let receiver = GrpcReceiver {
            state: State::Opening(Box::pin(opening)),
            buffer: BytesMut::new(),
            max_message_bytes: limits.max_message_bytes,
        };
        (GrpcSender(sender), receiver)
    }
}

impl GrpcSender {
    /// Sends a message. False if too much waits already, or if the call has ended.
    #[must_use]
    pub fn send<M: Message>(&self, message: &M) -> bool {
        self.0.send_data(framed(message), EndStream::No)
    }
}

impl GrpcReceiver {
    /// The next message; none when the peer has ended the call well. May be given up and asked again.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, GrpcError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            match &mut self.state {
                State::Opening(opening) => {
                    let response = opening.await;
                    self.state = State::Ended;
                    let response = response.map_err(|error| transport_error(&error))?;
                    if response.head.status != 200 || response.is_ended() {
                        let fields = &response.head.fields;
                        return status_of(response.head.status, fields).map(|()| None);
                    }
                    self.state = State::Open(Box::new(response));
                }
                State::Open(response) => {
                    let piece = response.next().await;
                    match piece.map_err(|error| transport_error(&error))? {
                        Some(Piece::Data(data)) => self.buffer.extend_from_slice(&data),
                        Some(Piece::Trailers(trailers)) => {
                            self.state = State::Ended;
                            return status_of(200, &trailers).map(|()| None);
                        }
                        None => {
                            self.state = State::Ended;
                            return Err(failed(INTERNAL, "the response has no grpc-status"));
                        }
                    }
                }
                State::Ended => return Ok(None),
            }
        }
    }

    fn take_message<M: Message + Default>(&mut self) -> Result<Option<M>, GrpcError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if *compressed != 0 {
            return Err(failed(
                UNIMPLEMENTED,
                "a message is compressed, which was not asked for",
            ));
        }
        let limit = self.max_message_bytes;
        if length > limit {
            let text = format!("a message has {length} bytes, more than {limit}");
            return Err(failed(RESOURCE_EXHAUSTED, &text));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = M::decode(self.buffer.split_to(length).freeze());
        message
            .map(Some)
            .map_err(|error| failed(INTERNAL, &error.to_string()))
    }
}

impl std::fmt::Debug for GrpcReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcReceiver").finish_non_exhaustive()
    }
}
