//! The way of a body and of trailers through the filters of a chain.

use bytes::Bytes;

use super::chain::{Chain, State};
use super::direction::Direction;
use super::{ChainEnv, Filters, Flow, Piece};
use crate::http::{EndStream, Fields};
use crate::http_filters::{DataStatus, StreamContext, TrailersStatus};

impl<D: Direction> Chain<D> {
    /// Shows data to the filters from a position on. `was_held`: it was held back before, so that it is held again where a
    /// filter answers itself.
    #[allow(
        clippy::too_many_arguments,
        reason = "a piece, whence it comes, and the chain lent to it"
    )]
    pub(super) fn run_data(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        mut data: Bytes,
        mut end: EndStream,
        mut was_held: bool,
    ) -> Flow {
        let len = filters.len();
        for position in from..len {
            match self.state(position) {
                State::AllStopped(_) | State::DataWaits | State::TrailersWait => {
                    self.hold(position, &data, end);
                    return Flow::Done;
                }
                State::Open | State::HeadStopped(_) => {}
            }
            let index = D::index(position, len);
            let (filter, interests, slot) = &mut filters.list[index];
            let status = if interests.contains(D::DATA) {
                let mut cx = context(env, slot.number);
                D::data(&mut **filter, &mut cx, &mut data, end)
            } else if self.state(position) == State::Open {
                continue;
            } else {
                // The head is held and nobody looks at the data: it waits with it.
                DataStatus::StopIterationAndWatermark
            };
            if was_held && matches!(status, DataStatus::LocalReply(_)) {
                self.hold(position, &data, end);
            }
            match self.apply_data(position, status, data, end, filters, env) {
                Step::On(next, next_end, held) => {
                    (data, end) = (next, next_end);
                    was_held |= held;
                }
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
        match status {
            DataStatus::Continue => {
                let head_was_held = matches!(self.state(position), State::HeadStopped(_));
                let flow = self.continue_head(position, filters, env);
                let Flow::Done = flow else {
                    self.hold(position, &data, end);
                    return Step::Stop(flow);
                };
                let flow = self.send_injected(position, filters, env);
                let Flow::Done = flow else {
                    return Step::Stop(flow);
                };
                let (mut before, _) = self.take_buffer(position);
                let was_held = head_was_held || !before.is_empty();
                let data = if before.is_empty() {
                    data
                } else {
                    before.extend_from_slice(&data);
                    before.freeze()
                };
                match env.effects.trailers.take() {
                    Some(trailers) if end.is_end() => {
                        Step::Stop(self.end_with(position, data, trailers, filters, env))
                    }
                    _ => Step::On(data, end, was_held),
                }
            }
            DataStatus::StopIterationAndBuffer => {
                self.held(position).limit_is_error = true;
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::StopIterationAndWatermark => {
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::StopIterationNoBuffer => {
                self.held(position).ended |= end.is_end();
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::Wait(future) => {
                self.held(position).wait(State::DataWaits, future);
                self.hold(position, &data, end);
                Step::Stop(self.send_injected(position, filters, env))
            }
            DataStatus::LocalReply(reply) => Step::Stop(Flow::LocalReply(reply)),
        }
    }

    /// The last data of a body goes on, and trailers that a filter has added to it.
    fn end_with(
        &mut self,
        position: usize,
        data: Bytes,
        trailers: Fields,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        if !data.is_empty() {
            let flow = self.run_data(position + 1, filters, env, data, EndStream::No, true);
            let Flow::Done = flow else { return flow };
        }
        self.run_trailers(position + 1, filters, env, trailers)
    }

    pub(super) fn resume_data(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let held = self.held(position);
        let mut buffer = std::mem::take(&mut held.buffer);
        let before = buffer.len();
        let end = held.ended && held.trailers.is_none();
        let index = D::index(position, filters.len());
        let (filter, _, slot) = &mut filters.list[index];
        let status = D::resume_data(
            &mut **filter,
            &mut context(env, slot.number),
            &mut buffer,
            end.into(),
        );
        self.buffered = self.buffered.saturating_sub(before) + buffer.len();
        let held = self.held(position);
        held.buffer = buffer;
        held.wake();
        Self::choose_route_anew(filters, env);
        let added = env.effects.trailers.take();
        let flow = self.send_injected(position, filters, env);
        let Flow::Done = flow else { return flow };
        let held = self.held(position);
        match status {
            DataStatus::Continue => {
                let flow = self.continue_head(position, filters, env);
                let Flow::Done = flow else { return flow };
                self.release_data(position, added, filters, env)
            }
            DataStatus::Wait(future) => {
                held.wait(State::DataWaits, future);
                Flow::Done
            }
            DataStatus::StopIterationAndBuffer => {
                held.limit_is_error = true;
                Flow::Done
            }
            DataStatus::StopIterationAndWatermark => Flow::Done,
            DataStatus::StopIterationNoBuffer => {
                self.take_buffer(position);
                match self.held(position).trailers.take() {
                    Some(trailers) => self.run_trailers(position + 1, filters, env, trailers),
                    None => Flow::Done,
                }
            }
            DataStatus::LocalReply(reply) => Flow::LocalReply(reply),
        }
    }

    /// Sends on the data that a filter has waited for. Trailers that came meanwhile are shown to it; `added` are its own, for a
    /// message that ends with this data.
    fn release_data(
        &mut self,
        position: usize,
        added: Option<Fields>,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let (data, ended) = self.take_buffer(position);
        let came = self.held(position).trailers.take();
        if let (Some(added), None, true) = (added, &came, ended) {
            return self.end_with(position, data.freeze(), added, filters, env);
        }
        if !data.is_empty() || ended {
            let data = data.freeze();
            let flow = self.run_data(position + 1, filters, env, data, ended.into(), true);
            let Flow::Done = flow else { return flow };
        }
        match came {
            Some(trailers) => self.run_trailers(position, filters, env, trailers),
            None => Flow::Done,
        }
    }

    pub(super) fn resume_trailers(
        &mut self,
        position: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
    ) -> Flow {
        let index = D::index(position, filters.len());
        let (filter, _, slot) = &mut filters.list[index];
        let status = D::resume_trailers(&mut **filter, &mut context(env, slot.number));
        self.held(position).wake();
        Self::choose_route_anew(filters, env);
        match status {
            TrailersStatus::Continue => {
                let flow = self.continue_head(position, filters, env);
                let Flow::Done = flow else { return flow };
                let flow = self.send_injected(position, filters, env);
                let Flow::Done = flow else { return flow };
                self.release(position, filters, env)
            }
            TrailersStatus::StopIteration => self.send_injected(position, filters, env),
            TrailersStatus::Wait(future) => {
                self.held(position).wait(State::TrailersWait, future);
                self.send_injected(position, filters, env)
            }
            TrailersStatus::LocalReply(reply) => Flow::LocalReply(reply),
        }
    }

    pub(super) fn run_trailers(
        &mut self,
        from: usize,
        filters: &mut Filters,
        env: &mut ChainEnv<'_>,
        mut trailers: Fields,
    ) -> Flow {
        let len = filters.len();
        for position in from..len {
            if matches!(
                self.state(position),
                State::AllStopped(_) | State::DataWaits | State::TrailersWait
            ) {
                self.held(position).trailers = Some(trailers);
                self.held(position).ended = false;
                return Flow::Done;
            }
            let index = D::index(position, len);
            let (filter, interests, slot) = &mut filters.list[index];
            let status = if interests.contains(D::TRAILERS) {
                D::trailers(&mut **filter, &mut context(env, slot.number), &mut trailers)
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
                        let (next, data) = (position + 1, data.freeze());
                        let flow = self.run_data(next, filters, env, data, EndStream::No, true);
                        let Flow::Done = flow else { return flow };
                    }
                }
                TrailersStatus::StopIteration => {
                    self.held(position).trailers = Some(trailers);
                    return self.send_injected(position, filters, env);
                }
                TrailersStatus::Wait(future) => {
                    let held = self.held(position);
                    held.trailers = Some(trailers);
                    held.wait(State::TrailersWait, future);
                    return self.send_injected(position, filters, env);
                }
                TrailersStatus::LocalReply(reply) => return Flow::LocalReply(reply),
            }
        }
        self.out.push(Piece::Trailers(trailers));
        Flow::Done
    }
}

/// Where data goes after one filter, and whether it was held back there.
enum Step {
    On(Bytes, EndStream, bool),
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
