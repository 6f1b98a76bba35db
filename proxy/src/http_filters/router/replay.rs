//! The request body on its way to the upstream: kept while there is no stream to send it on, and for a retry.

use std::task::Poll;

use bytes::Bytes;

use crate::http::{EndStream, Fields};
use crate::upstream::pool::ClientStream;

/// What has come of a request body.
#[derive(Default)]
pub(super) struct RequestBody {
    pieces: Vec<Bytes>,
    trailers: Option<Fields>,
    /// Bytes in `pieces`.
    kept: u64,
    limit: u64,
    ended: bool,
    /// Everything is kept, so that it can be sent again.
    keep: bool,
    overflowed: bool,
    any: bool,
}

impl RequestBody {
    /// The head has come. `keep`: the request may have to be sent again.
    pub(super) fn start(&mut self, end: EndStream, keep: bool) {
        self.ended = end.is_end();
        self.keep = keep;
    }

    /// The most bytes that may be kept.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// A piece has come. It goes on `stream` at once if there is one.
    pub(super) fn push(&mut self, data: Bytes, end: EndStream, stream: Option<&mut ClientStream>) {
        self.note(&data, end, stream.is_some());
        if let Some(stream) = stream {
            stream.send_data(data, end);
        }
    }

    /// A piece has come; it is kept if it may be needed again. `goes_on`: it has somewhere to go at once.
    pub(super) fn note(&mut self, data: &Bytes, end: EndStream, goes_on: bool) {
        self.ended |= end.is_end();
        self.any |= !data.is_empty();
        if self.keep && self.kept + data.len() as u64 > self.limit {
            self.keep = false;
            self.overflowed = true;
            if goes_on {
                self.pieces.clear();
                self.kept = 0;
            }
        }
        if self.keep || !goes_on {
            self.kept += data.len() as u64;
            self.pieces.push(data.clone());
        }
    }

    /// The trailers have come.
    pub(super) fn push_trailers(&mut self, trailers: Fields, stream: Option<&mut ClientStream>) {
        self.ended = true;
        if let Some(stream) = stream {
            stream.send_trailers(&trailers);
        }
        self.trailers = Some(trailers);
    }

    /// Sends what was kept, now that there is a stream. Returns the bytes of it.
    pub(super) fn flush_into(&mut self, stream: &mut ClientStream) -> u64 {
        let flushed = self.kept;
        let last = self.pieces.len();
        let ends_with_data = self.ended && self.trailers.is_none();
        for (index, piece) in self.pieces.iter().enumerate() {
            stream.send_data(
                piece.clone(),
                EndStream::from(ends_with_data && index + 1 == last),
            );
        }
        if let Some(trailers) = &self.trailers {
            stream.send_trailers(trailers);
        }
        if !self.keep {
            self.pieces.clear();
            self.kept = 0;
        }
        flushed
    }

    /// What was kept, to be handed on elsewhere: the pieces, whether the last one ends the request, and the trailers.
    pub(super) fn hand_on(&mut self) -> (Vec<Bytes>, bool, Option<Fields>) {
        let ends_with_data = self.ended && self.trailers.is_none();
        let pieces = if self.keep {
            self.pieces.clone()
        } else {
            std::mem::take(&mut self.pieces)
        };
        if !self.keep {
            self.kept = 0;
        }
        (pieces, ends_with_data, self.trailers.clone())
    }

    /// Everything that came, to begin anew with; none if it was too much to be kept.
    pub(super) fn take_all(&mut self) -> Option<(Vec<Bytes>, Option<Fields>)> {
        if self.any && !self.keep {
            return None;
        }
        self.kept = 0;
        Some((std::mem::take(&mut self.pieces), self.trailers.take()))
    }

    /// Whether everything that came is there.
    pub(super) fn is_whole(&self) -> bool {
        self.ended && (!self.any || self.keep)
    }

    /// The most bytes that may be kept.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether there is no body and none will come.
    pub(super) fn is_empty_and_ended(&self) -> bool {
        self.ended && !self.any && self.pieces.is_empty() && self.trailers.is_none()
    }

    /// Says once that more came than could be kept.
    pub(super) fn overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// Bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        usize::try_from(self.kept).unwrap_or(usize::MAX)
    }

    /// Ready while there is room for more without a stream.
    pub(super) fn poll_room(&self) -> Poll<()> {
        if self.kept < self.limit {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
