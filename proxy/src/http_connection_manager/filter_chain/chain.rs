//! One direction of a chain: the state of each filter in it, and the way of a head through them.

use std::marker::PhantomData;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::direction::Direction;
use super::{ChainEnv, Filters, Flow, Piece};
use crate::http::{EndStream, Fields, RequestHead};
use crate::http_filters::{HeadersStatus, LocalBoxFuture, Recreate};

/// One direction of a chain: what each filter holds back, and what has come out.
pub struct Chain<D> {
    /// Only as far as any of them has held something back.
    held: Vec<Held>,
    /// What passed the last filter and was not taken yet.
    pub(super) out: Vec<Piece>,
    /// Bytes held back by all filters.
    pub(super) buffered: usize,
    /// What was held back when it was stopped.
    left: Vec<Bytes>,
    direction: PhantomData<D>,
}

/// What one filter holds back in one direction.
#[derive(Default)]
pub(super) struct Held {
    pub(super) state: State,
    pub(super) buffer: BytesMut,
    /// The body ended with what is in the buffer.
    pub(super) ended: bool,
    pub(super) trailers: Option<Fields>,
    pub(super) wait: Option<LocalBoxFuture<'static, ()>>,
    /// More than the limit is an error, not a reason to stop reading.
    pub(super) limit_is_error: bool,
    /// Before data or trailers that wait, the head is held as well.
    head_held: bool,
}

impl Held {
    /// Holds data or trailers, and the head before them if it is held already, until the future ends.
    pub(super) fn wait(&mut self, state: State, future: LocalBoxFuture<'static, ()>) {
        self.head_held |= matches!(self.state, State::HeadStopped(_));
        self.state = state;
        self.wait = Some(future);
        self.limit_is_error = false;
    }

    /// What `wait` ends in.
    pub(super) fn wake(&mut self) {
        self.state = match std::mem::take(&mut self.head_held) {
            true => State::HeadStopped(EndStream::No),
            false => State::Open,
        };
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Everything passes.
    #[default]
    Open,
    /// The head is held; data is still handed to the filter. The head ended the message or not.
    HeadStopped(EndStream),
    /// The head is held, and everything behind it.
    AllStopped(EndStream),
    /// Data is held until a future ends.
    DataWaits,
    /// Trailers are held until a future ends.
    TrailersWait,
}

impl<D> Default for Chain<D> {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            out: Vec::new(),
            buffered: 0,
            left: Vec::new(),
            direction: PhantomData,
        }
    }
}

impl<D: Direction> Chain<D> {
    /// Bytes that filters hold back.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Whether a filter waits for a future.
    pub fn is_waiting(&self) -> bool {
        self.held.iter().any(|held| held.wait.is_some())
    }

    /// Whether anything is held back at all.
    pub fn is_holding(&self) -> bool {
        self.held
            .iter()
            .any(|held| held.state != State::Open || !held.buffer.is_empty())
    }

    /// Begins anew, and keeps what filters held back of the body for [`Self::take_held`] only.
    pub fn stop(&mut self) {
        let left = self.take_held();
        *self = Self {
            left,
            ..Self::default()
        };
    }

    /// Takes what filters hold back of the body, or did when it was stopped, in its order.
    pub fn take_held(&mut self) -> Vec<Bytes> {
        self.buffered = 0;
        let mut pieces = std::mem::take(&mut self.left);
        let held = self.held.iter_mut().rev();
        let held = held.map(|held| std::mem::take(&mut held.buffer).freeze());
        pieces.extend(held.filter(|piece| !piece.is_empty()));
        pieces
    }

    /// What passed the last filter since the last call.
    pub fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.out)
    }

    /// Gives the vector of `take` back, empty, so that its capacity serves again.
    pub fn give_back(&mut self, mut pieces: Vec<Piece>) {
        pieces.clear();
        if self.out.is_empty() {
            self.out = pieces;
        }
    }

    /// Pushes the head in.
    pub fn headers(
        &mut self,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
    ) -> Flow {
        self.run_headers(0, filters, env, end)
    }

    /// Pushes a piece of the body in. `limit` is the most that filters may hold back, in bytes.
    pub fn data(
        &mut self,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        data: Bytes,
        end: EndStream,
        limit: usize,
    ) -> Flow {
        if !filters.union.contains(D::DATA) && !self.is_holding() {
            self.out.push(Piece::Data(data, end));
            return Flow::Done;
        }
        match self.run_data(0, filters, env, data, end, false) {
            Flow::Done if self.buffered > limit && self.held.iter().any(|h| h.limit_is_error) => {
                Flow::BufferFull
            }
            flow => flow,
        }
    }

    /// Pushes the trailers in.
    pub fn trailers(
        &mut self,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        trailers: Fields,
    ) -> Flow {
        if !filters.union.contains(D::TRAILERS) && !self.is_holding() {
            self.out.push(Piece::Trailers(trailers));
            return Flow::Done;
        }
        self.run_trailers(0, filters, env, trailers)
    }

    /// Lets filters go on whose futures have ended.
    pub fn poll_waits(
        &mut self,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Flow> {
        for position in 0..self.held.len() {
            let Some(wait) = self.held[position].wait.as_mut() else {
                continue;
            };
            if wait.as_mut().poll(cx).is_ready() {
                self.held[position].wait = None;
                return Poll::Ready(self.resume(position, filters, env));
            }
        }
        Poll::Pending
    }

    fn resume(&mut self, position: usize, filters: &mut Filters, env: &mut ChainEnv<'_>) -> Flow {
        match self.held[position].state {
            State::AllStopped(end) => self.resume_head(position, filters, env, end),
            State::DataWaits => self.resume_data(position, filters, env),
            State::TrailersWait => self.resume_trailers(position, filters, env),
            State::Open | State::HeadStopped(_) => Flow::Done,
        }
    }

    /// What a filter holds back.
    pub(super) fn held(&mut self, position: usize) -> &mut Held {
        if position >= self.held.len() {
            self.held.resize_with(position + 1, Held::default);
        }
        &mut self.held[position]
    }

    /// Whether a filter holds something back.
    #[inline]
    pub(super) fn state(&self, position: usize) -> State {
        self.held
            .get(position)
            .map_or(State::Open, |held| held.state)
    }

    /// Shows the head to the filters from `from` on, as far as it goes.
    pub(super) fn run_headers(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
    ) -> Flow {
        for position in from..filters.len() {
            let index = D::index(position, filters.len());
            let (filter, interests, slot) = &mut filters.list[index];
            if !interests.contains(D::HEADERS) {
                continue;
            }
            let status = D::headers(&mut **filter, env, slot.number, end, false);
            Self::choose_route_anew(filters, env);
            let status = Self::look_for_routes(status, filters, env);
            if !matches!(status, HeadersStatus::Continue) || !env.effects.injected.is_empty() {
                return self.after_status(position, status, filters, env, end, false);
            }
        }
        self.out.push(Piece::Head(end));
        Flow::Done
    }

    /// Shows the head once more to the filter that waited with it, and to those after it as far as it goes.
    fn resume_head(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
    ) -> Flow {
        let index = D::index(position, filters.len());
        let (filter, interests, slot) = &mut filters.list[index];
        let status = if interests.contains(D::HEADERS) {
            D::headers(&mut **filter, env, slot.number, end, true)
        } else {
            HeadersStatus::Continue
        };
        Self::choose_route_anew(filters, env);
        let status = Self::look_for_routes(status, filters, env);
        self.held(position).state = State::Open;
        self.after_status(position, status, filters, env, end, true)
    }

    /// Carries out what a filter has said about the head.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a filter said, about what, and the chain lent to it"
    )]
    fn after_status(
        &mut self,
        position: usize,
        status: HeadersStatus,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
        resume: bool,
    ) -> Flow {
        match status {
            HeadersStatus::Continue => {
                let flow = self.run_headers(position + 1, filters, env, end);
                self.after_head(position, resume, flow, filters, env)
            }
            HeadersStatus::ContinueAndDontEndStream => {
                let flow = self.run_headers(position + 1, filters, env, EndStream::No);
                self.after_head(position, resume, flow, filters, env)
            }
            HeadersStatus::StopIteration => {
                self.held(position).state = State::HeadStopped(end);
                self.send_injected(position, filters, env)
            }
            HeadersStatus::StopAllAndBuffer => {
                let held = self.held(position);
                held.state = State::AllStopped(end);
                held.limit_is_error = true;
                Flow::Done
            }
            HeadersStatus::StopAllAndWatermark => {
                self.held(position).state = State::AllStopped(end);
                Flow::Done
            }
            HeadersStatus::Wait(future) => {
                let held = self.held(position);
                held.state = State::AllStopped(end);
                held.wait = Some(future);
                Flow::Done
            }
            HeadersStatus::LocalReply(reply) => Flow::LocalReply(reply),
            HeadersStatus::Recreate(recreate) => {
                let is_whole = env.info.timing.last_downstream_rx_byte.is_some();
                match Self::aim_anew(*recreate, filters, env) {
                    true if is_whole => return Flow::Recreate,
                    // As in Envoy, only logs see what it asks for now.
                    true => {}
                    false => {
                        let index = D::index(position, filters.len());
                        filters.list[index].0.on_recreate_refused();
                    }
                }
                let flow = self.run_headers(position + 1, filters, env, end);
                self.after_head(position, resume, flow, filters, env)
            }
        }
    }

    /// Lets the stream ask for something else; false if there is no route for it. Then the request asks for what it did, while
    /// its other fields stay changed, as in Envoy.
    #[cold]
    fn aim_anew(recreate: Recreate, filters: &mut Filters, env: &mut ChainEnv<'_>) -> bool {
        let Recreate {
            request,
            state: (name, state),
        } = recreate;
        let old = std::mem::replace(env.request, request);
        if let Some(table) = env.routes.resolve(env.request, env.info) {
            filters.renumber(table);
        }
        if env.info.route.is_some() || env.info.requires_tls {
            env.info.filter_state.set(name, state);
            return true;
        }
        env.request.set_method(old.method_bytes());
        for (value, set) in [
            (
                old.scheme(),
                RequestHead::set_scheme as fn(&mut RequestHead, &[u8]),
            ),
            (old.authority(), RequestHead::set_authority),
            (old.path(), RequestHead::set_path),
        ] {
            if let Some(value) = value {
                set(env.request, value);
            }
        }
        false
    }

    /// Chooses the route again if a filter has cleared it.
    #[inline]
    pub(super) fn choose_route_anew(filters: &mut Filters, env: &mut ChainEnv<'_>) {
        if std::mem::take(&mut env.effects.route_cleared)
            && let Some(table) = env.routes.resolve(env.request, env.info)
        {
            filters.renumber(table);
        }
    }

    /// Carries out what a filter asked for about routes that the table may not have (yet).
    #[inline]
    fn look_for_routes(
        status: HeadersStatus,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> HeadersStatus {
        if std::mem::take(&mut env.effects.routes_renewed)
            && let Some(table) = env.routes.resolve_anew(env.request, env.info)
        {
            filters.renumber(table);
        }
        if std::mem::take(&mut env.effects.host_wanted)
            && matches!(status, HeadersStatus::Continue)
            && let Some(found) = env.routes.find_host(env.request)
        {
            return HeadersStatus::Wait(found);
        }
        status
    }

    /// The head has passed `position`: what the filter injected and what piled up behind the head follows.
    fn after_head(
        &mut self,
        position: usize,
        resumed: bool,
        flow: Flow,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let Flow::Done = flow else { return flow };
        match self.send_injected(position, filters, env) {
            // Data that came while everything was stopped has not been shown to this filter yet.
            Flow::Done if resumed => self.replay(position, filters, env),
            flow => flow,
        }
    }

    /// Shows what was held behind a stopped head to the very filter that stopped it.
    fn replay(&mut self, position: usize, filters: &mut Filters, env: &mut ChainEnv<'_>) -> Flow {
        let (data, ended) = self.take_buffer(position);
        let trailers = self.held(position).trailers.take();
        if !data.is_empty() || ended {
            let data = data.freeze();
            let flow = self.run_data(position, filters, env, data, ended.into(), true);
            let Flow::Done = flow else { return flow };
        }
        match trailers {
            Some(trailers) => self.run_trailers(position, filters, env, trailers),
            None => Flow::Done,
        }
    }

    /// Sends on what a filter held back, to the filters after it.
    pub(super) fn release(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let (data, ended) = self.take_buffer(position);
        let trailers = self.held(position).trailers.take();
        if !data.is_empty() || ended {
            let data = data.freeze();
            let flow = self.run_data(position + 1, filters, env, data, ended.into(), true);
            let Flow::Done = flow else { return flow };
        }
        match trailers {
            Some(trailers) => self.run_trailers(position + 1, filters, env, trailers),
            None => Flow::Done,
        }
    }

    /// Lets a head go on that this filter had stopped, now that the filter lets its body go on.
    pub(super) fn continue_head(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let State::HeadStopped(_) = self.state(position) else {
            return Flow::Done;
        };
        self.held(position).state = State::Open;
        self.run_headers(position + 1, filters, env, EndStream::No)
    }

    pub(super) fn send_injected(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        if env.effects.injected.is_empty() {
            return Flow::Done;
        }
        for injected in std::mem::take(&mut env.effects.injected) {
            let flow = self.continue_head(position, filters, env);
            let Flow::Done = flow else { return flow };
            let (data, end) = (injected.data, injected.end);
            let flow = self.run_data(position + 1, filters, env, data, end, false);
            let Flow::Done = flow else { return flow };
        }
        Flow::Done
    }

    pub(super) fn hold(&mut self, position: usize, data: &[u8], end: EndStream) {
        let held = self.held(position);
        held.buffer.extend_from_slice(data);
        held.ended |= end.is_end();
        self.buffered += data.len();
    }

    pub(super) fn take_buffer(&mut self, position: usize) -> (BytesMut, bool) {
        let Some(held) = self.held.get_mut(position) else {
            return (BytesMut::new(), false);
        };
        let data = std::mem::take(&mut held.buffer);
        self.buffered = self.buffered.saturating_sub(data.len());
        held.limit_is_error = false;
        (data, std::mem::take(&mut held.ended))
    }
}
