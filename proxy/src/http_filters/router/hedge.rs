//! Hedging: an attempt that takes too long goes on beside the next one, and the first good answer counts.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::attempt::retry_policy;
use super::outcome::Failure;
use super::response::flag;
use super::retry::{RetryContext, RetryDecision};
use super::upstream_filters::{Filtered, poll_filtered};
use super::upstream_request::UpstreamRequest;
use super::{BackingOff, Router, RouterEvent, State};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_connection_manager::timer::nearer;
use crate::http_filters::LocalReply;
use crate::route::SelectedRoute;
use crate::stream_info::{StreamInfo, UpstreamInfo};
use crate::upstream::pool::ResponseEvent;
use crate::upstream::{HostResult, HostStat};

/// An attempt that took too long and goes on, with what is known of it.
pub(super) struct Slow {
    attempt: Box<UpstreamRequest>,
    upstream: Option<Box<UpstreamInfo>>,
}

impl Slow {
    /// The attempt itself.
    pub(super) fn attempt(&self) -> &UpstreamRequest {
        &self.attempt
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(mut self, info: &mut StreamInfo) {
        std::mem::swap(&mut info.upstream, &mut self.upstream);
        self.attempt.give_up(info);
        info.upstream = self.upstream;
    }

    /// It has failed.
    pub(super) fn fail(mut self, failure: &Failure, info: &mut StreamInfo) {
        std::mem::swap(&mut info.upstream, &mut self.upstream);
        self.attempt.fail(failure, info);
        info.upstream = self.upstream;
    }
}

/// What a slow attempt says.
enum Said {
    Event(ResponseEvent),
    Reply(LocalReply),
}

impl Router {
    /// Whether attempts go on that took too long.
    #[inline]
    pub(super) fn has_slow_attempts(&self) -> bool {
        !self.slow.is_empty()
    }

    /// An attempt has taken its time: another one is started beside it, if there may be one.
    #[cold]
    pub(super) fn on_slow_attempt(&mut self, env: &mut ChainEnv<'_>) -> RouterEvent {
        let decision = self.decide_slow(env);
        flag(decision, env.info);
        let State::Attempt(attempt) = &mut self.state else {
            return RouterEvent::Progress;
        };
        let RetryDecision::After(wait) = decision else {
            attempt.outlasts(false);
            return RouterEvent::Progress;
        };
        attempt.outlasts(true);
        let pending = State::BackingOff(BackingOff {
            until: env.info.now + wait,
            after_timeout: true,
        });
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, pending) {
            self.slow.push(Slow {
                attempt,
                upstream: self.note_of_attempt(env),
            });
        }
        RouterEvent::Progress
    }

    fn decide_slow(&mut self, env: &ChainEnv<'_>) -> RetryDecision {
        let Some(cluster) = self.cluster.clone() else {
            return RetryDecision::No;
        };
        if self.response_started {
            return RetryDecision::No;
        }
        let selected = self.route.clone();
        let action = selected.as_ref().and_then(|s| s.route().forward());
        self.retry.on_slow_attempt(&RetryContext {
            policy: action.and_then(|action| retry_policy(Some(&cluster), action)),
            cluster: &cluster,
            priority: self.priority,
            runtime: &self.shared.retry,
            route_stats: selected
                .as_ref()
                .map_or([None, None], SelectedRoute::counted),
            random: env.worker.random.next(),
        })
    }

    /// What is known of the attempt in front, kept for when its answer is the first.
    fn note_of_attempt(&self, env: &mut ChainEnv<'_>) -> Option<Box<UpstreamInfo>> {
        let upstream = env.info.upstream.take()?;
        env.info.upstream = Some(Box::new(UpstreamInfo {
            host: upstream.host.clone(),
            connection_id: upstream.connection_id,
            ..UpstreamInfo::default()
        }));
        Some(upstream)
    }

    /// Drives the slow attempts. The first that has something to say takes the place in front.
    #[cold]
    pub(super) fn poll_slow(
        &mut self,
        env: &mut ChainEnv<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<RouterEvent> {
        let is_upgrade = self.is_upgrade;
        for index in 0..self.slow.len() {
            let attempt = &mut self.slow[index].attempt;
            let said = if attempt.filters().is_some() {
                poll_filtered(attempt, env, cx, is_upgrade).map(|said| match said {
                    Filtered::Event(event) => Said::Event(event),
                    Filtered::Reply(reply) => Said::Reply(reply),
                })
            } else if let Some(stream) = attempt.stream() {
                let _ = stream.poll_ready(cx);
                stream.poll_event(cx).map(Said::Event)
            } else {
                Poll::Pending
            };
            if let Poll::Ready(said) = said {
                return Poll::Ready(self.on_slow_event(env, index, said));
            }
        }
        Poll::Pending
    }

    fn on_slow_event(&mut self, env: &mut ChainEnv<'_>, index: usize, said: Said) -> RouterEvent {
        let now = env.info.now;
        let mut slow = self.slow.swap_remove(index);
        slow.attempt.received(now, env.info);
        if let Said::Event(event) = &said {
            slow.attempt.saw(event);
        }
        match said {
            Said::Reply(reply) => {
                self.reset_slow_attempts(env);
                RouterEvent::LocalReply(reply)
            }
            Said::Event(ResponseEvent::Reset(reason)) => {
                let failure = Failure::Reset(reason);
                self.report_failure(&slow.attempt, &failure);
                self.budget_of_try(&slow.attempt, now);
                self.count_abort(env, &slow.attempt, &failure);
                slow.fail(&failure, env.info);
                self.unless_others_go_on(env, &failure)
            }
            Said::Event(ResponseEvent::Head(head, end)) => {
                let selected = self.route.clone();
                let action = selected.as_ref().and_then(|s| s.route().forward());
                let cluster = self.cluster.clone();
                let policy = action.and_then(|action| retry_policy(cluster.as_deref(), action));
                let bad = self.retry.would_retry(&head, env.request, policy);
                if let Some(cluster) = &cluster {
                    let status = cluster.outlier_status(&head, head.status);
                    cluster.report(slow.attempt.host(), HostResult::Response(status));
                }
                if bad && (self.has_slow_attempts() || !matches!(self.state, State::OnlySlow)) {
                    slow.attempt.host().count(HostStat::RqError);
                    slow.give_up(env.info);
                    return RouterEvent::Progress;
                }
                self.put_in_front(env, slow);
                if self.redirects
                    && let Some(event) = self.follow_redirect(env, &head, end)
                {
                    return event;
                }
                self.accept_head(env, head, end, now)
            }
            Said::Event(ResponseEvent::Informational(head)) => {
                self.put_in_front(env, slow);
                self.on_informational(env, head)
            }
            Said::Event(ResponseEvent::Metadata(_)) => {
                self.slow.push(slow);
                RouterEvent::Progress
            }
            // Nothing comes before a head.
            Said::Event(ResponseEvent::Data(..) | ResponseEvent::Trailers(_)) => {
                slow.give_up(env.info);
                RouterEvent::Progress
            }
        }
    }

    /// The answer of this attempt is the one: what ran or waited in front is given up.
    fn put_in_front(&mut self, env: &mut ChainEnv<'_>, slow: Slow) {
        let in_front = std::mem::replace(&mut self.state, State::Attempt(slow.attempt));
        if let State::Attempt(mut other) = in_front {
            other.give_up(env.info);
        }
        if let Some(upstream) = slow.upstream {
            env.info.upstream = Some(upstream);
        }
    }

    /// A response that should be tried again and cannot be: nobody needs it while other attempts run.
    #[cold]
    pub(super) fn drop_bad_attempt(&mut self, env: &mut ChainEnv<'_>) -> bool {
        if !self.has_slow_attempts() {
            return false;
        }
        if let State::Attempt(mut attempt) = std::mem::replace(&mut self.state, State::OnlySlow) {
            attempt.host().count(HostStat::RqError);
            attempt.give_up(env.info);
        }
        true
    }

    /// A slow attempt has failed: so has the request, unless other attempts run or wait.
    fn unless_others_go_on(&mut self, env: &mut ChainEnv<'_>, failure: &Failure) -> RouterEvent {
        if self.has_slow_attempts() || !matches!(self.state, State::OnlySlow) {
            return RouterEvent::Progress;
        }
        self.state = State::Idle;
        self.abort(env, failure)
    }

    /// When the stream of a slow attempt has lasted too long.
    pub(super) fn slow_deadline(&self) -> Option<Instant> {
        self.slow
            .iter()
            .filter_map(|slow| nearer(slow.attempt.deadline(), slow.attempt.log_due()))
            .min()
    }

    /// The same has passed.
    #[cold]
    pub(super) fn on_slow_deadline(
        &mut self,
        env: &mut ChainEnv<'_>,
        now: Instant,
    ) -> Option<RouterEvent> {
        for slow in &mut self.slow {
            std::mem::swap(&mut env.info.upstream, &mut slow.upstream);
            slow.attempt.flush_log(env.info);
            std::mem::swap(&mut env.info.upstream, &mut slow.upstream);
        }
        let index = self
            .slow
            .iter()
            .position(|slow| slow.attempt.deadline().is_some_and(|d| d <= now))?;
        let slow = self.slow.swap_remove(index);
        slow.fail(&Failure::MaxStreamDuration, env.info);
        Some(self.unless_others_go_on(env, &Failure::MaxStreamDuration))
    }

    /// Gives all slow attempts up.
    #[inline]
    pub(super) fn reset_slow_attempts(&mut self, env: &mut ChainEnv<'_>) {
        for slow in self.slow.drain(..) {
            slow.give_up(env.info);
        }
    }

    /// Ends all slow attempts when nothing is to be told of them.
    pub(super) fn drop_slow_attempts(&mut self) {
        for slow in self.slow.drain(..) {
            slow.attempt.reset(&mut self.left_bytes);
        }
    }
}
