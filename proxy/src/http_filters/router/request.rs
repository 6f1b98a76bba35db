//! The request half: what the filters let pass goes to the attempt, or waits for one.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Router, RouterEvent, State};
use crate::http::{EndStream, Fields};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::http2::MetadataMap;

impl Router {
    /// A piece of the request body has passed the filters.
    pub fn data(
        &mut self,
        env: &mut ChainEnv<'_>,
        data: Bytes,
        end: EndStream,
    ) -> Option<RouterEvent> {
        if end.is_end() {
            self.request_ended(env.info.now);
        }
        if !self.shadows.is_empty() {
            self.shadows.data(&data, end, self.cluster.as_deref());
        }
        if let State::Attempt(attempt) = &mut self.state {
            attempt.body_moves(env.info);
            if attempt.is_open() || attempt.filters().is_some() {
                attempt.sends(data.len() as u64);
            }
            if let Some(stream) = attempt.stream() {
                self.body.push(data, end, Some(stream));
            } else if let Some(filters) = attempt.filters() {
                self.body.note(&data, end, true);
                if let Err(reply) = filters.request_data(env, data, end) {
                    return Some(RouterEvent::LocalReply(reply));
                }
            } else {
                self.body.push(data, end, None);
            }
        } else if matches!(self.state, State::BackingOff(_)) {
            self.body.push(data, end, None);
        }
        if self.body.overflowed() {
            return self.body_overflowed(env);
        }
        None
    }

    /// More came than may be kept: the request is not sent again. Where nothing else can become of it, it ends here.
    #[cold]
    fn body_overflowed(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        self.retry.stop();
        if let Some(cluster) = &self.cluster {
            cluster.info().stats.retry_or_shadow_abandoned().inc();
        }
        if !matches!(self.state, State::BackingOff(_)) {
            return None;
        }
        self.state = State::Idle;
        self.route_deadline = None;
        let reply = LocalReply::new(507, "request_payload_exceeded_retry_buffer_limit")
            .with_body("exceeded request buffer limit while retrying upstream");
        Some(self.reply(env, reply))
    }

    /// The request trailers have passed the filters.
    pub fn trailers(&mut self, env: &mut ChainEnv<'_>, trailers: Fields) -> Option<RouterEvent> {
        self.request_ended(env.info.now);
        self.shadows.trailers(&trailers);
        if let State::Attempt(attempt) = &mut self.state
            && let Some(filters) = attempt.filters()
        {
            let passed = filters.request_trailers(env, trailers.clone());
            self.body.push_trailers(trailers, None);
            return passed.err().map(RouterEvent::LocalReply);
        }
        let stream = if let State::Attempt(attempt) = &mut self.state {
            attempt.stream()
        } else {
            None
        };
        self.body.push_trailers(trailers, stream);
        None
    }

    /// Ready when the upstream takes more of the request.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            // What does not fit ends the wait.
            State::Idle | State::BackingOff(_) | State::OnlySlow => Poll::Ready(()),
            State::Attempt(attempt) => match attempt.stream() {
                Some(stream) => stream.poll_ready(cx),
                None => match attempt.filters() {
                    None => self.body.poll_room(),
                    Some(filters) if !filters.has_room() => Poll::Pending,
                    Some(_) => attempt
                        .filtered()
                        .map_or(Poll::Ready(()), |(stream, _)| stream.poll_ready(cx)),
                },
            },
        }
    }

    /// Bytes of bodies that lie here and towards the upstream.
    pub fn held(&self) -> usize {
        let slow = self.slow.iter().map(|slow| slow.attempt().held());
        let attempt = match &self.state {
            State::Attempt(attempt) => attempt.held(),
            State::Idle | State::BackingOff(_) | State::OnlySlow => 0,
        };
        self.body.kept() + attempt + slow.sum::<usize>()
    }

    /// Metadata has come beside the request. It passes the filters by, and waits for the head.
    pub fn metadata(&mut self, map: MetadataMap) {
        let waiting: usize = self.metadata.iter().map(MetadataMap::size).sum();
        // As much as of a body: what nobody can take is dropped.
        if u64::try_from(waiting + map.size()).is_ok_and(|size| size <= self.buffer_limit) {
            self.metadata.push(map);
        }
        self.send_metadata();
    }

    /// Sends the metadata that waits, if the head was sent.
    pub(super) fn send_metadata(&mut self) {
        if let State::Attempt(attempt) = &mut self.state
            && let Some(stream) = attempt.begun_stream()
        {
            for map in self.metadata.drain(..) {
                stream.send_metadata(&map);
            }
        }
    }

    /// The request has come whole, though the router may not have got all of it yet. Only the first call has an effect.
    pub fn request_ended(&mut self, now: Instant) {
        if self.request_complete.is_some() {
            return;
        }
        self.request_complete = Some(now);
        self.route_deadline = self.timeouts.global.map(|d| now + d);
        if let State::Attempt(attempt) = &mut self.state {
            attempt.arm(now, &self.timeouts);
        }
    }
}
