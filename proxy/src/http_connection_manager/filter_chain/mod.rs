//! Runs a message through filters, in either direction, with all of Envoy's statuses.
//!
//! The chain does no I/O and knows neither client nor upstream: heads, data and trailers are pushed in, what passes the last
//! filter comes out as [`Piece`]s. So the same code runs downstream filters (ending in the router) and upstream filters
//! (ending in the upstream codec). Each filter holds back what it stopped; a filter that waits stops only its own direction.

use std::marker::PhantomData;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_filters::{
    DataStatus, Effects, HeadersStatus, HttpFilter, Interests, LocalBoxFuture, LocalReply,
    StreamContext, TrailersStatus,
};
use crate::server::Worker;
use crate::stream_info::StreamInfo;

/// The filters of one stream, in the order of the configuration, with the number of each one's name in the route table.
#[derive(Default)]
pub struct Filters {
    list: Vec<(Box<dyn HttpFilter>, Interests, Option<usize>)>,
    union: Interests,
}

/// What the filters may see of their stream, lent for one call.
pub struct ChainEnv<'a> {
    /// All that is known about the stream.
    pub info: &'a mut StreamInfo,
    /// The worker that runs it.
    pub worker: &'a Rc<Worker>,
    /// The request head.
    pub request: &'a mut RequestHead,
    /// The response head, once there is one.
    pub response: &'a mut Option<ResponseHead>,
    /// Chooses a route anew when a filter has cleared the old one.
    pub routes: &'a dyn RouteResolver,
    /// What filters asked for and the owner of the stream has to carry out.
    pub effects: &'a mut Effects,
}

/// Chooses the route of a request.
pub trait RouteResolver {
    /// Fills `info.route` for this head.
    fn resolve(&self, head: &mut RequestHead, info: &mut StreamInfo);
}

/// What passed the last filter.
#[derive(Debug)]
pub enum Piece {
    /// The head, which lies in the environment.
    Head(EndStream),
    /// A piece of the body.
    Data(Bytes, EndStream),
    /// The trailers.
    Trailers(Fields),
}

/// How a call on the chain ended.
#[derive(Debug)]
pub enum Flow {
    /// As far as the filters let it.
    Done,
    /// A filter answers itself.
    LocalReply(LocalReply),
    /// More was to be buffered than the limit allows: 413 for a request, 500 for a response.
    BufferFull,
}

/// One direction of a chain: what each filter holds back, and what has come out.
pub struct Chain<D> {
    held: Vec<Held>,
    /// What passed the last filter and was not taken yet.
    out: Vec<Piece>,
    /// Bytes held back by all filters.
    buffered: usize,
    direction: PhantomData<D>,
}

/// Request direction: filters in order.
#[derive(Debug)]
pub struct Decode;
/// Response direction: filters in reverse.
#[derive(Debug)]
pub struct Encode;

/// What one filter holds back in one direction.
#[derive(Default)]
struct Held {
    state: State,
    buffer: BytesMut,
    /// The body ended with what is in the buffer.
    ended: bool,
    trailers: Option<Fields>,
    wait: Option<LocalBoxFuture<'static, ()>>,
    /// More than the limit is an error, not a reason to stop reading.
    limit_is_error: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
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

impl Filters {
    /// Adds a filter after the others.
    pub fn push(&mut self, filter: Box<dyn HttpFilter>, slot: Option<usize>) {
        let interests = filter.interests();
        self.union = self.union.and(interests);
        self.list.push((filter, interests, slot));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Tells every filter that its stream has ended.
    pub fn complete(&mut self, info: &mut StreamInfo) {
        if self.union.contains(Interests::COMPLETE) {
            for (filter, interests, _) in &mut self.list {
                if interests.contains(Interests::COMPLETE) {
                    filter.on_stream_complete(info);
                }
            }
        }
    }

    /// Shows an informational response to the filters, the last one first.
    pub fn encode_1xx(&mut self, env: &mut ChainEnv<'_>, head: &mut ResponseHead) {
        for (filter, interests, slot) in self.list.iter_mut().rev() {
            if interests.contains(Interests::ENCODE_HEADERS) {
                let mut cx = StreamContext {
                    info: env.info,
                    worker: env.worker,
                    request: Some(env.request),
                    response: None,
                    effects: env.effects,
                    slot: *slot,
                };
                filter.encode_1xx(&mut cx, head);
            }
        }
    }
}

/// What differs between the directions: the order of the filters and the names of their methods.
pub trait Direction {
    /// Which of these the direction calls.
    const HEADERS: Interests;
    /// See `HEADERS`.
    const DATA: Interests;
    /// See `HEADERS`.
    const TRAILERS: Interests;
    /// The filter that is met at `position` of `len`.
    fn index(position: usize, len: usize) -> usize;
    /// `decode_headers` or `encode_headers`; or the resuming one.
    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus;
    /// `decode_data` or `encode_data`.
    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus;
    /// `resume_decode_data` or `resume_encode_data`.
    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus;
    /// `decode_trailers` or `encode_trailers`.
    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus;
}

impl Direction for Decode {
    const HEADERS: Interests = Interests::DECODE_HEADERS;
    const DATA: Interests = Interests::DECODE_DATA;
    const TRAILERS: Interests = Interests::DECODE_TRAILERS;

    fn index(position: usize, _len: usize) -> usize {
        position
    }

    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus {
        let mut cx = StreamContext {
            info: env.info,
            worker: env.worker,
            request: None,
            response: env.response.as_mut(),
            effects: env.effects,
            slot,
        };
        if resume {
            filter.resume_decode(&mut cx, env.request)
        } else {
            filter.decode_headers(&mut cx, env.request, end)
        }
    }

    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        filter.decode_data(cx, data, end)
    }

    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        filter.resume_decode_data(cx, buffer, end)
    }

    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        filter.decode_trailers(cx, trailers)
    }
}

impl Direction for Encode {
    const HEADERS: Interests = Interests::ENCODE_HEADERS;
    const DATA: Interests = Interests::ENCODE_DATA;
    const TRAILERS: Interests = Interests::ENCODE_TRAILERS;

    fn index(position: usize, len: usize) -> usize {
        len - 1 - position
    }

    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus {
        let Some(head) = env.response.as_mut() else {
            return HeadersStatus::Continue;
        };
        let mut cx = StreamContext {
            info: env.info,
            worker: env.worker,
            request: Some(env.request),
            response: None,
            effects: env.effects,
            slot,
        };
        if resume {
            filter.resume_encode(&mut cx, head)
        } else {
            filter.encode_headers(&mut cx, head, end)
        }
    }

    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        filter.encode_data(cx, data, end)
    }

    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        filter.resume_encode_data(cx, buffer, end)
    }

    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        filter.encode_trailers(cx, trailers)
    }
}

impl<D> Default for Chain<D> {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            out: Vec::new(),
            buffered: 0,
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
        self.held.resize_with(filters.len(), Held::default);
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
        match self.run_data(0, filters, env, data, end) {
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
            State::AllStopped(end) => self.one_head(position, filters, env, end, true),
            State::DataWaits => self.resume_data(position, filters, env),
            State::TrailersWait => {
                self.held[position].state = State::Open;
                self.release(position, filters, env)
            }
            State::Open | State::HeadStopped(_) => Flow::Done,
        }
    }

    fn run_headers(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
    ) -> Flow {
        if from >= filters.len() {
            self.out.push(Piece::Head(end));
            return Flow::Done;
        }
        self.one_head(from, filters, env, end, false)
    }

    /// Shows the head to one filter, and to those after it as far as it goes.
    fn one_head(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        end: EndStream,
        resume: bool,
    ) -> Flow {
        let index = D::index(position, filters.len());
        let (filter, interests, slot) = &mut filters.list[index];
        let status = if interests.contains(D::HEADERS) {
            D::headers(&mut **filter, env, *slot, end, resume)
        } else {
            HeadersStatus::Continue
        };
        if std::mem::take(&mut env.effects.route_cleared) {
            env.routes.resolve(env.request, env.info);
        }
        let held = &mut self.held[position];
        held.state = State::Open;
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
                held.state = State::HeadStopped(end);
                self.send_injected(position, filters, env)
            }
            HeadersStatus::StopAllAndBuffer => {
                held.state = State::AllStopped(end);
                held.limit_is_error = true;
                Flow::Done
            }
            HeadersStatus::StopAllAndWatermark => {
                held.state = State::AllStopped(end);
                Flow::Done
            }
            HeadersStatus::Wait(future) => {
                held.state = State::AllStopped(end);
                held.wait = Some(future);
                Flow::Done
            }
            HeadersStatus::LocalReply(reply) => Flow::LocalReply(reply),
        }
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
        let trailers = self.held[position].trailers.take();
        if !data.is_empty() || ended {
            let flow = self.run_data(position, filters, env, data.freeze(), ended.into());
            let Flow::Done = flow else { return flow };
        }
        match trailers {
            Some(trailers) => self.run_trailers(position, filters, env, trailers),
            None => Flow::Done,
        }
    }

    /// Sends on what a filter held back, to the filters after it.
    fn release(&mut self, position: usize, filters: &mut Filters, env: &mut ChainEnv<'_>) -> Flow {
        let (data, ended) = self.take_buffer(position);
        let trailers = self.held[position].trailers.take();
        if !data.is_empty() || ended {
            let flow = self.run_data(position + 1, filters, env, data.freeze(), ended.into());
            let Flow::Done = flow else { return flow };
        }
        match trailers {
            Some(trailers) => self.run_trailers(position + 1, filters, env, trailers),
            None => Flow::Done,
        }
    }

    fn run_data(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        mut data: Bytes,
        mut end: EndStream,
    ) -> Flow {
        let len = filters.len();
        for position in from..len {
            match self.held[position].state {
                State::AllStopped(_) | State::DataWaits | State::TrailersWait => {
                    self.hold(position, &data, end);
                    return Flow::Done;
                }
                State::Open | State::HeadStopped(_) => {}
            }
            let index = D::index(position, len);
            let (filter, interests, slot) = &mut filters.list[index];
            let status = if interests.contains(D::DATA) {
                let mut cx = context(env, *slot);
                D::data(&mut **filter, &mut cx, &mut data, end)
            } else if self.held[position].state == State::Open {
                continue;
            } else {
                // The head is held and nobody looks at the data: it waits with it.
                DataStatus::StopIterationAndWatermark
            };
            match self.apply_data(position, status, data, end, filters, env) {
                Step::On(next, next_end) => (data, end) = (next, next_end),
                Step::Stop(flow) => return flow,
            }
        }
        self.out.push(Piece::Data(data, end));
        Flow::Done
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "what a filter said, about what, and the chain lent to it"
    )]
    fn apply_data(
        &mut self,
        position: usize,
        status: DataStatus,
        data: Bytes,
        end: EndStream,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Step {
        let held = &mut self.held[position];
        match status {
            DataStatus::Continue => {
                let flow = self.continue_head(position, filters, env);
                let Flow::Done = flow else {
                    return Step::Stop(flow);
                };
                let flow = self.send_injected(position, filters, env);
                let Flow::Done = flow else {
                    return Step::Stop(flow);
                };
                let (mut before, _) = self.take_buffer(position);
                if before.is_empty() {
                    return Step::On(data, end);
                }
                before.extend_from_slice(&data);
                Step::On(before.freeze(), end)
            }
            DataStatus::StopIterationAndBuffer => {
                held.limit_is_error = true;
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::StopIterationAndWatermark => {
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::StopIterationNoBuffer => {
                held.ended |= end.is_end();
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::Wait(future) => {
                held.wait = Some(future);
                held.state = State::DataWaits;
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::LocalReply(reply) => Step::Stop(Flow::LocalReply(reply)),
        }
    }

    fn resume_data(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let held = &mut self.held[position];
        let mut buffer = std::mem::take(&mut held.buffer);
        let before = buffer.len();
        let end = held.ended && held.trailers.is_none();
        let index = D::index(position, filters.len());
        let (filter, _, slot) = &mut filters.list[index];
        let status = D::resume_data(
            &mut **filter,
            &mut context(env, *slot),
            &mut buffer,
            end.into(),
        );
        self.buffered = self.buffered.saturating_sub(before) + buffer.len();
        let held = &mut self.held[position];
        held.buffer = buffer;
        held.state = State::Open;
        let flow = self.send_injected(position, filters, env);
        let Flow::Done = flow else { return flow };
        let held = &mut self.held[position];
        match status {
            DataStatus::Continue => {
                let flow = self.continue_head(position, filters, env);
                let Flow::Done = flow else { return flow };
                self.release(position, filters, env)
            }
            DataStatus::Wait(future) => {
                held.wait = Some(future);
                held.state = State::DataWaits;
                Flow::Done
            }
            DataStatus::StopIterationAndBuffer => {
                held.limit_is_error = true;
                Flow::Done
            }
            DataStatus::StopIterationAndWatermark => Flow::Done,
            DataStatus::StopIterationNoBuffer => {
                self.take_buffer(position);
                match self.held[position].trailers.take() {
                    Some(trailers) => self.run_trailers(position + 1, filters, env, trailers),
                    None => Flow::Done,
                }
            }
            DataStatus::LocalReply(reply) => Flow::LocalReply(reply),
        }
    }

    fn run_trailers(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        mut trailers: Fields,
    ) -> Flow {
        let len = filters.len();
        for position in from..len {
            if matches!(
                self.held[position].state,
                State::AllStopped(_) | State::DataWaits | State::TrailersWait
            ) {
                self.held[position].trailers = Some(trailers);
                self.held[position].ended = false;
                return Flow::Done;
            }
            let index = D::index(position, len);
            let (filter, interests, slot) = &mut filters.list[index];
            let status = if interests.contains(D::TRAILERS) {
                D::trailers(&mut **filter, &mut context(env, *slot), &mut trailers)
            } else {
                TrailersStatus::Continue
            };
            match status {
                TrailersStatus::Continue => {
                    let flow = self.continue_head(position, filters, env);
                    let Flow::Done = flow else { return flow };
                    let flow = self.send_injected(position, filters, env);
                    let Flow::Done = flow else { return flow };
                    let (data, _) = self.take_buffer(position);
                    if !data.is_empty() {
                        let flow =
                            self.run_data(position + 1, filters, env, data.freeze(), EndStream::No);
                        let Flow::Done = flow else { return flow };
                    }
                }
                TrailersStatus::StopIteration => {
                    self.held[position].trailers = Some(trailers);
                    return self.send_injected(position, filters, env);
                }
                TrailersStatus::Wait(future) => {
                    let held = &mut self.held[position];
                    held.trailers = Some(trailers);
                    held.wait = Some(future);
                    held.state = State::TrailersWait;
                    return self.send_injected(position, filters, env);
                }
                TrailersStatus::LocalReply(reply) => return Flow::LocalReply(reply),
            }
        }
        self.out.push(Piece::Trailers(trailers));
        Flow::Done
    }

    /// Lets a head go on that this filter had stopped, now that the filter lets its body go on.
    fn continue_head(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let State::HeadStopped(_) = self.held[position].state else {
            return Flow::Done;
        };
        self.held[position].state = State::Open;
        self.run_headers(position + 1, filters, env, EndStream::No)
    }

    fn send_injected(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        for injected in std::mem::take(&mut env.effects.injected) {
            let flow = self.continue_head(position, filters, env);
            let Flow::Done = flow else { return flow };
            let flow = self.run_data(position + 1, filters, env, injected.data, injected.end);
            let Flow::Done = flow else { return flow };
        }
        Flow::Done
    }

    fn hold(&mut self, position: usize, data: &[u8], end: EndStream) {
        let held = &mut self.held[position];
        held.buffer.extend_from_slice(data);
        held.ended |= end.is_end();
        self.buffered += data.len();
    }

    fn take_buffer(&mut self, position: usize) -> (BytesMut, bool) {
        let held = &mut self.held[position];
        let data = std::mem::take(&mut held.buffer);
        self.buffered = self.buffered.saturating_sub(data.len());
        held.limit_is_error = false;
        (data, std::mem::take(&mut held.ended))
    }
}

/// Where data goes after one filter.
enum Step {
    On(Bytes, EndStream),
    Stop(Flow),
}

fn context<'a>(env: &'a mut ChainEnv<'_>, slot: Option<usize>) -> StreamContext<'a> {
    StreamContext {
        info: env.info,
        worker: env.worker,
        request: Some(env.request),
        response: env.response.as_mut(),
        effects: env.effects,
        slot,
    }
}

#[cfg(test)]
mod tests;
