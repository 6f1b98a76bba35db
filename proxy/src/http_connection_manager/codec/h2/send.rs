//! The sending half of a stream: what its flow-control window does not take yet.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http::HeaderMap;

use crate::http::EndStream;

/// Data and trailers behind a head that was sent.
pub(crate) struct SendQueue {
    stream: SendStream<Bytes>,
    data: VecDeque<Bytes>,
    queued: usize,
    end: End,
    failed: bool,
}

enum End {
    /// More may come.
    Open,
    /// The last data is in the queue.
    Data,
    /// These come behind the data.
    Trailers(HeaderMap),
    /// It was handed over.
    Sent,
}

impl SendQueue {
    pub(crate) fn new(stream: SendStream<Bytes>, end: EndStream) -> Self {
        Self {
            stream,
            data: VecDeque::new(),
            queued: 0,
            end: if end.is_end() { End::Sent } else { End::Open },
            failed: false,
        }
    }

    pub(crate) fn push(&mut self, data: Bytes, end: EndStream) {
        if !matches!(self.end, End::Open) {
            return;
        }
        if !data.is_empty() {
            self.queued += data.len();
            self.data.push_back(data);
        }
        if end.is_end() {
            self.end = End::Data;
        }
    }

    pub(crate) fn push_trailers(&mut self, trailers: HeaderMap) {
        if matches!(self.end, End::Open) {
            self.end = End::Trailers(trailers);
        }
    }

    /// Bytes that the window has not taken.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Whether everything up to the end of the stream was handed over.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.end, End::Sent)
    }

    /// Hands over what the window takes. Ready when nothing is queued any more.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(front) = self.data.front_mut() {
            if self.failed {
                break;
            }
            self.stream.reserve_capacity(front.len());
            let mut room = self.stream.capacity();
            if room == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(capacity))) => room = capacity,
                    Poll::Ready(_) => {
                        self.failed = true;
                        break;
                    }
                }
                if room == 0 {
                    continue;
                }
            }
            let piece = front.split_to(room.min(front.len()));
            self.queued -= piece.len();
            if !front.has_remaining() {
                self.data.pop_front();
            }
            let last = self.data.is_empty() && matches!(self.end, End::Data);
            if last {
                self.end = End::Sent;
            }
            self.failed = self.stream.send_data(piece, last).is_err();
        }
        if self.failed {
            // The reset shows on the receiving side.
            self.data.clear();
            self.queued = 0;
            self.end = End::Sent;
            return Poll::Ready(());
        }
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Sent => {}
            End::Data => self.failed = self.stream.send_data(Bytes::new(), true).is_err(),
            End::Trailers(trailers) => {
                self.failed = self.stream.send_trailers(trailers).is_err();
            }
        }
        Poll::Ready(())
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
        self.data.clear();
        self.queued = 0;
        self.end = End::Sent;
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }
}
