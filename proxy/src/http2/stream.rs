//! One stream as its connection sees it.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::flow::ReceiveWindow;
use super::frame::ErrorCode;
use super::metadata::{HeldMetadata, MetadataMap};
use crate::http::{EndStream, Fields, ResponseHead};
use crate::stream_info::BytesMeter;

/// What a stream has received.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the largest one is what most streams get exactly once; a box would cost each an allocation"
)]
pub enum Received {
    /// A 1xx.
    Informational(ResponseHead),
    /// The head of the response.
    Head(ResponseHead, EndStream),
    /// A piece of the body.
    Data(Bytes, EndStream),
    /// The trailers, and the end.
    Trailers(Fields),
    /// Metadata beside the message.
    Metadata(Box<MetadataMap>),
    /// The stream broke off.
    Broken(Broken),
}

/// Why a stream broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The peer reset it.
    Remote(ErrorCode),
    /// The peer never looked at it: it refused it, or said so by GOAWAY.
    Refused,
    /// What the peer sent on it breaks the rules, and it was reset; the details for the access log.
    Malformed(&'static str),
    /// What the peer sent broke the connection; the details for the access log.
    ConnectionError(&'static str),
    /// We have ended the connection because there is too much to do.
    Forced,
    /// The connection has ended.
    ConnectionEnded,
    /// We have ended the connection because a PING had no answer.
    Unanswered,
}

/// What may still come from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receive {
    /// The head of the response, or 1xx.
    Head,
    /// Body and trailers.
    Body,
    /// Nothing: it has sent the end, or the stream was reset.
    Closed,
}

/// What we may still send.
#[derive(Debug)]
pub(super) enum Send {
    /// The head.
    Head,
    /// Body and trailers.
    Body,
    /// What is queued, and with it the end.
    LastData,
    /// What is queued, and these.
    LastTrailers(Box<Fields>),
    /// Nothing.
    Closed,
}

/// A stream of a connection. It stays until both sides have closed it and its owner has let it go.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) receive: Receive,
    pub(super) send: Send,
    /// Counted among the open ones.
    pub(super) is_open: bool,
    /// Nobody asks for what it receives any more.
    pub(super) released: bool,
    /// In the queue of those that can send.
    pub(super) is_queued: bool,
    /// The owner waits until it can send more.
    pub(super) awaits_room: bool,
    /// The request was HEAD: the response has no body, whatever it says.
    pub(super) is_head_request: bool,
    pub(super) receive_window: ReceiveWindow,
    pub(super) send_window: i64,
    pub(super) content_length: Option<u64>,
    pub(super) body_received: u64,
    pub(super) outgoing: VecDeque<Bytes>,
    pub(super) outgoing_bytes: usize,
    first: Option<Received>,
    more: VecDeque<Received>,
    pub(super) meter: BytesMeter,
    /// There from the first METADATA frame on.
    pub(super) metadata: Option<Box<HeldMetadata>>,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(receive: Receive, send_window: i64, receive_window: u32) -> Self {
        Self {
            receive,
            send: Send::Head,
            is_open: true,
            released: false,
            is_queued: false,
            awaits_room: false,
            is_head_request: false,
            receive_window: ReceiveWindow::new(receive_window),
            send_window,
            content_length: None,
            body_received: 0,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            first: None,
            more: VecDeque::new(),
            meter: BytesMeter::default(),
            metadata: None,
            waker: None,
        }
    }

    /// Hands something over to the owner.
    pub(super) fn deliver(&mut self, received: Received) {
        if self.released {
            return;
        }
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(received);
        } else {
            self.more.push_back(received);
        }
        self.wake();
    }

    /// What was handed over and not yet taken, without taking it.
    pub(super) fn received(&self) -> impl Iterator<Item = &Received> {
        self.first.iter().chain(&self.more)
    }

    /// The bytes of the body among that.
    pub(super) fn received_bytes(&self) -> usize {
        let bytes = self.received().map(|received| match received {
            Received::Data(data, _) => data.len(),
            _ => 0,
        });
        bytes.sum()
    }

    pub(super) fn take_received(&mut self) -> Option<Received> {
        self.first.take().or_else(|| self.more.pop_front())
    }

    /// Drops what was handed over and not yet taken. Gives the bytes of the body among it.
    pub(super) fn drop_received(&mut self) -> usize {
        let bytes = self.received_bytes();
        self.first = None;
        self.more = VecDeque::new();
        bytes
    }

    /// Sends nothing more. Gives the bytes that waited.
    #[must_use]
    pub(super) fn drop_outgoing(&mut self) -> usize {
        self.outgoing = VecDeque::new();
        self.send = Send::Closed;
        std::mem::take(&mut self.outgoing_bytes)
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether both directions have come to their end.
    pub(super) fn is_closed(&self) -> bool {
        self.receive == Receive::Closed && matches!(self.send, Send::Closed)
    }

    /// Whether there is something that can be sent now, as far as the stream itself is concerned.
    pub(super) fn can_send(&self) -> bool {
        if self.outgoing_bytes > 0 {
            self.send_window > 0
        } else {
            matches!(self.send, Send::LastData | Send::LastTrailers(_))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_at_rest_is_small_even_in_a_table_that_is_half_empty() {
        assert!(size_of::<Stream>() <= 256, "{}", size_of::<Stream>());
    }
}
