//! The body of a request: there already, or handed over piece by piece.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::ClientError;
use crate::http::{EndStream, Fields};
use crate::upstream::pool::ClientStream;

/// The body of a request.
#[derive(Debug)]
pub enum Body {
    /// All of it; empty: none.
    Whole(Bytes),
    /// What its sender hands over.
    Streamed(BodyReader),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// Hands a body over. Dropped before the end, it breaks the request off.
#[derive(Debug)]
pub struct BodySender(Rc<RefCell<Queue>>);

/// The other end, for [`Body::Streamed`].
#[derive(Debug)]
pub struct BodyReader(Rc<RefCell<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    trailers: Option<Fields>,
    ended: bool,
    sender_gone: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    sender: Option<Waker>,
}

/// A body of which up to `limit` bytes wait for the upstream.
pub fn body(limit: usize) -> (BodySender, BodyReader) {
    let queue = Rc::new(RefCell::new(Queue {
        limit,
        ..Queue::default()
    }));
    (BodySender(queue.clone()), BodyReader(queue))
}

impl BodySender {
    /// Hands a piece over. False if it would not fit, or if nobody waits for it any more: then it is not taken.
    #[must_use]
    pub fn send_data(&self, data: Bytes, end: EndStream) -> bool {
        let mut queue = self.0.borrow_mut();
        if queue.reader_gone || queue.ended || queue.bytes + data.len() > queue.limit {
            return false;
        }
        queue.bytes += data.len();
        queue.ended = end.is_end();
        queue.pieces.push_back(data);
        queue.wake_reader();
        true
    }

    /// Ends the body with trailers.
    pub fn send_trailers(self, trailers: Fields) {
        let mut queue = self.0.borrow_mut();
        queue.trailers = Some(trailers);
        queue.ended = true;
        queue.wake_reader();
    }

    /// Ready while there is room, or when nobody waits for the body any more.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.0.borrow_mut();
        if queue.reader_gone || queue.bytes < queue.limit {
            return Poll::Ready(());
        }
        queue.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.sender_gone = true;
        queue.wake_reader();
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        queue.reader_gone = true;
        queue.pieces.clear();
        if let Some(sender) = queue.sender.take() {
            sender.wake();
        }
    }
}

impl Queue {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// A body on its way, over all attempts.
pub(super) struct Upload {
    incoming: Option<BodyReader>,
    pieces: Vec<Bytes>,
    /// How many of them this attempt has sent.
    sent: usize,
    trailers: Option<Fields>,
    /// Nothing comes behind `pieces` and `trailers`.
    ended: bool,
    end_sent: bool,
    /// What was sent is kept for another attempt.
    keep: bool,
    kept: u64,
    limit: u64,
    overflowed: bool,
}

impl Upload {
    pub(super) fn new(body: Body, keep: bool, limit: u64) -> Self {
        let (pieces, incoming) = match body {
            Body::Whole(bytes) if bytes.is_empty() => (Vec::new(), None),
            Body::Whole(bytes) => (vec![bytes], None),
            Body::Streamed(reader) => (Vec::new(), Some(reader)),
        };
        let ended = incoming.is_none();
        // What is there already is no more for being kept.
        let kept = 0;
        Self {
            incoming,
            pieces,
            sent: 0,
            trailers: None,
            ended,
            end_sent: false,
            keep: keep || ended,
            kept,
            limit,
            overflowed: false,
        }
    }

    /// A head is sent: says whether the request ends with it.
    pub(super) fn start(&mut self) -> EndStream {
        self.end_sent = self.ended && self.pieces.is_empty() && self.trailers.is_none();
        self.end_sent.into()
    }

    /// Another attempt begins.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.end_sent = false;
    }

    /// Says once that more came than may be kept.
    pub(super) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// Sends what there is and what the stream takes.
    pub(super) fn poll(
        &mut self,
        stream: &mut ClientStream,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError> {
        while !self.end_sent {
            if self.sent < self.pieces.len() {
                if stream.poll_ready(cx).is_pending() {
                    break;
                }
                let piece = self.pieces[self.sent].clone();
                self.sent += 1;
                self.end_sent =
                    self.ended && self.sent == self.pieces.len() && self.trailers.is_none();
                stream.send_data(piece, self.end_sent.into());
                if !self.keep && self.sent == self.pieces.len() {
                    self.pieces.clear();
                    self.sent = 0;
                }
            } else if self.ended {
                match &self.trailers {
                    Some(trailers) => stream.send_trailers(trailers),
                    None => stream.send_data(Bytes::new(), EndStream::Yes),
                }
                self.end_sent = true;
            } else if !self.poll_incoming(cx)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether something has come.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Result<bool, ClientError> {
        let Some(reader) = &self.incoming else {
            return Ok(false);
        };
        let mut queue = reader.0.borrow_mut();
        if queue.pieces.is_empty() && !queue.ended {
            if queue.sender_gone {
                return Err(ClientError::BodyAborted);
            }
            queue.reader = Some(cx.waker().clone());
            return Ok(false);
        }
        self.kept += queue.bytes as u64;
        queue.bytes = 0;
        self.pieces.extend(queue.pieces.drain(..));
        self.ended = queue.ended;
        self.trailers = queue.trailers.take();
        if let Some(sender) = queue.sender.take() {
            sender.wake();
        }
        if self.keep && self.kept > self.limit {
            self.keep = false;
            self.overflowed = true;
            self.pieces.drain(..self.sent);
            self.sent = 0;
        }
        Ok(true)
    }
}
