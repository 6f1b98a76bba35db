//! `envoy.filters.http.admission_control`: refuses a share of requests while too many fail.
//!
//! Type URL: `envoy.extensions.filters.http.admission_control.v3.AdmissionControl`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/admission_control_filter>
//! Stats: `http.<stat_prefix>.admission_control.{rq_rejected,rq_success,rq_failure}`.
//! Details: `denied_by_admission_control`. Each worker counts for itself, as in Envoy.
//!
//! Deviations: none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::admission_control::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3::{Int32Range, Percent};
use pb::admission_control::success_criteria::{GrpcCriteria, HttpCriteria};
use pb::admission_control::{EvaluationCriteria, SuccessCriteria};
use tokio::time::Instant;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::runtime::{RuntimeDouble, RuntimeFlag, RuntimeInteger};
use crate::server::{FactoryContext, Worker};

/// Makes filters that refuse requests while too many fail.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.admission_control"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.admission_control.v3.AdmissionControl"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(config))
    }
}

crate::stats_group! {
    /// What the filter counts.
    struct Stats {
        counter rq_failure;
        counter rq_rejected;
        counter rq_success;
    }
}

struct Config {
    enabled: RuntimeFlag,
    success: Success,
    /// Whole seconds. Default 30 s.
    window: Duration,
    /// Values below 1 count as 1. Default 1.
    aggression: RuntimeDouble,
    /// In percent: below it requests are refused. Default 95.
    threshold: RuntimeDouble,
    /// With fewer requests a second nothing is refused. Default 0.
    rps_threshold: RuntimeInteger,
    /// In percent: never more are refused. Default 80.
    most: RuntimeDouble,
    stats: Stats,
}

/// Which responses are good.
#[derive(Debug)]
struct Success {
    /// Statuses from and to (the last is not in it).
    http: Box<[(u16, u16)]>,
    /// Bits by gRPC status.
    grpc: u32,
}

const GRPC_STATUSES: u32 = 17;
/// OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, OUT_OF_RANGE,
/// UNIMPLEMENTED, UNAUTHENTICATED.
const GOOD_GRPC: [u32; 11] = [0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 16];
/// Requests are counted together for so long.
const GRANULARITY: Duration = Duration::from_secs(1);

impl Config {
    fn from_proto(
        proto: pb::AdmissionControl,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::AdmissionControl {
            enabled,
            sampling_window,
            aggression,
            sr_threshold,
            rps_threshold,
            max_rejection_probability,
            evaluation_criteria,
        } = proto;
        let runtime = &cx.server.runtime;
        let enabled = path.optional("enabled", enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, runtime, path)
        });
        let window = path.duration("sampling_window", sampling_window);
        let percent = |name: &str, proto, default: f64| match proto {
            None => Ok(runtime.double("", default)),
            Some(core::RuntimePercent {
                default_value,
                runtime_key,
            }) => {
                let path = path.field(name);
                let Percent { value } = path.required("default_value", default_value)?;
                if !(0.0..=100.0).contains(&value) {
                    return Err(path
                        .field("default_value")
                        .reject(format!("{value}: has to be from 0 to 100")));
                }
                Ok(runtime.double(&runtime_key, value))
            }
        };
        let threshold = percent("sr_threshold", sr_threshold, 95.0).and_then(|threshold| {
            if threshold.get() < 1.0 {
                let path = path.field("sr_threshold");
                return Err(path.reject("Success rate threshold cannot be less than 1.0%."));
            }
            Ok(threshold)
        });
        let most = percent("max_rejection_probability", max_rejection_probability, 80.0);
        let success = path
            .required("success_criteria", evaluation_criteria)
            .and_then(|EvaluationCriteria::SuccessCriteria(criteria)| {
                Success::from_proto(criteria, &path.field("success_criteria"))
            });
        let aggression = match aggression {
            None => runtime.double("", 1.0),
            Some(core::RuntimeDouble {
                default_value,
                runtime_key,
            }) => runtime.double(&runtime_key, default_value),
        };
        let rps_threshold = match rps_threshold {
            None => runtime.integer("", 0),
            Some(core::RuntimeUInt32 {
                default_value,
                runtime_key,
            }) => runtime.integer(&runtime_key, default_value.into()),
        };
        let window = window?.unwrap_or(Duration::from_secs(30));
        Ok(Self {
            enabled: enabled?.unwrap_or_else(|| runtime.flag("", true)),
            success: success?,
            window: Duration::from_secs(window.as_secs()),
            aggression,
            threshold: threshold?,
            rps_threshold,
            most: most?,
            stats: Stats::new(&cx.scope.scope("admission_control.")),
        })
    }

    /// Whether a request that drew `random` is refused after `history`.
    fn refuses(&self, history: &mut History, random: u64) -> bool {
        let now = Instant::now();
        history.forget(now);
        if history.per_second(now) < self.rps_threshold.get() {
            return false;
        }
        let History { all, .. } = history;
        let (requests, successes) = (double(all.requests), double(all.successes));
        let threshold = (self.threshold.get() / 100.0).clamp(0.01, 1.0);
        let mut probability = (requests - successes / threshold) / (requests + 1.0);
        let aggression = self.aggression.get().max(1.0);
        if aggression > 1.0 {
            probability = probability.max(0.0).powf(1.0 / aggression);
        }
        let probability = probability.min(self.most.get().clamp(0.0, 100.0) / 100.0);
        ACCURACY * probability.max(0.0) > double(random % 10_000)
    }
}

const ACCURACY: f64 = 10_000.0;

#[allow(
    clippy::cast_precision_loss,
    reason = "no window holds more than 2^53 requests"
)]
fn double(number: u64) -> f64 {
    number as f64
}

impl Success {
    fn from_proto(proto: SuccessCriteria, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let SuccessCriteria {
            http_criteria,
            grpc_criteria,
        } = proto;
        let http = match http_criteria {
            None => Ok(vec![(0, 500)]),
            Some(HttpCriteria {
                http_success_status,
            }) => path.field("http_criteria").each(
                "http_success_status",
                http_success_status,
                |Int32Range { start, end }, path| {
                    let bound = |value| u16::try_from(value).ok();
                    match (bound(start), bound(end)) {
                        (Some(from), Some(to)) if from <= to && from >= 100 && to <= 600 => {
                            Ok((from, to))
                        }
                        _ => Err(path.reject(format!("invalid HTTP range: [{start}, {end})"))),
                    }
                },
            ),
        };
        let grpc = match grpc_criteria {
            None => Ok(GOOD_GRPC.to_vec()),
            Some(GrpcCriteria {
                grpc_success_status,
            }) => path.field("grpc_criteria").each(
                "grpc_success_status",
                grpc_success_status,
                |status, path| match status < GRPC_STATUSES {
                    true => Ok(status),
                    false => Err(path.reject(format!("invalid gRPC code {status}"))),
                },
            ),
        };
        Ok(Self {
            http: http?.into(),
            grpc: grpc?.iter().fold(0, |bits, status| bits | 1 << status),
        })
    }

    fn http(&self, status: u16) -> bool {
        self.http
            .iter()
            .any(|(from, to)| (*from..*to).contains(&status))
    }

    fn grpc(&self, status: u32) -> bool {
        status < GRPC_STATUSES && self.grpc & 1 << status != 0
    }
}

/// What became of the requests of a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    successes: u64,
}

/// What became of the requests of one worker within the window.
#[derive(Debug, Default)]
struct History {
    window: Duration,
    samples: VecDeque<(Instant, Counts)>,
    all: Counts,
}

impl History {
    /// Drops what is older than the window, and begins a sample where the last one is old enough.
    fn forget(&mut self, now: Instant) {
        while let Some((began, counts)) = self.samples.front().copied()
            && now.saturating_duration_since(began) >= self.window
        {
            self.samples.pop_front();
            self.all.requests -= counts.requests;
            self.all.successes -= counts.successes;
        }
        let newest = self.samples.back();
        if newest.is_none_or(|(began, _)| now.saturating_duration_since(*began) >= GRANULARITY) {
            self.samples.push_back((now, Counts::default()));
        }
    }

    fn record(&mut self, success: bool) {
        self.forget(Instant::now());
        let newest = self.samples.back_mut().map(|(_, counts)| counts);
        for counts in newest.into_iter().chain([&mut self.all]) {
            counts.requests += 1;
            counts.successes += u64::from(success);
        }
    }

    /// Requests a second since the oldest sample, at least over a second.
    fn per_second(&self, now: Instant) -> u64 {
        let oldest = self.samples.front().map_or(now, |(began, _)| *began);
        let seconds = now.saturating_duration_since(oldest).as_secs().max(1);
        self.all.requests / seconds
    }
}

/// What the filter has on one worker.
struct WorkerState {
    config: Arc<Config>,
    history: RefCell<History>,
}

impl WorkerState {
    fn record(&self, success: bool) {
        match success {
            true => self.config.stats.rq_success().inc(),
            false => self.config.stats.rq_failure().inc(),
        }
        self.history.borrow_mut().record(success);
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let history = History {
            window: self.window,
            ..History::default()
        };
        let state = Rc::new(WorkerState {
            config: self,
            history: RefCell::new(history),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(AdmissionControl {
                state: state.clone(),
                stage: Stage::NotCounted,
            })
        })
    }
}

struct AdmissionControl {
    state: Rc<WorkerState>,
    stage: Stage,
}

/// What is known of the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It does not count, or has been counted.
    NotCounted,
    /// No response has come. As in Envoy a stream that ends without one does not count.
    Waiting,
    /// The trailers will tell.
    Trailers,
}

impl AdmissionControl {
    fn count(&mut self, success: bool) {
        self.stage = Stage::NotCounted;
        self.state.record(success);
    }

    fn is_good(&self, fields: &Fields) -> Option<bool> {
        let status = fields.get_str(Known::GrpcStatus)?;
        let status = status.parse::<u32>();
        Some(status.is_ok_and(|status| self.state.config.success.grpc(status)))
    }
}

impl HttpFilter for AdmissionControl {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        let config = &self.state.config;
        if !config.enabled.get() || cx.info.health_check {
            return HeadersStatus::Continue;
        }
        let random = cx.worker.random.next();
        if config.refuses(&mut self.state.history.borrow_mut(), random) {
            config.stats.rq_rejected().inc();
            return HeadersStatus::LocalReply(LocalReply::new(503, "denied_by_admission_control"));
        }
        self.stage = Stage::Waiting;
        HeadersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        if self.stage != Stage::Waiting {
            return HeadersStatus::Continue;
        }
        let is_grpc = head
            .fields
            .get(Known::ContentType)
            .is_some_and(|kind| kind.starts_with(b"application/grpc"));
        if is_grpc && head.status == 200 {
            match self.is_good(&head.fields) {
                Some(good) => self.count(good),
                None if end == EndStream::Yes => self.count(false),
                None => self.stage = Stage::Trailers,
            }
        } else {
            let good = self.state.config.success.http(head.status);
            self.count(good);
        }
        HeadersStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        _: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if self.stage == Stage::Trailers {
            let good = self.is_good(trailers).unwrap_or(false);
            self.count(good);
        }
        TrailersStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf as wkt;

    use super::super::test_support::{Harness, errors};
    use super::*;

    fn config() -> pb::AdmissionControl {
        pb::AdmissionControl {
            evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(
                SuccessCriteria::default(),
            )),
            ..Default::default()
        }
    }

    /// Sends requests that are answered with this status, and gives the share that was refused.
    fn refused(harness: &Harness, requests: u32, status: u16) -> f64 {
        let mut count = 0;
        for _ in 0..requests {
            let mut stream = harness.stream();
            if stream.decode_headers(true).is_continue() {
                stream.response.status = status;
                stream.encode_headers(true);
            } else {
                count += 1;
            }
            stream.complete();
        }
        f64::from(count) / f64::from(requests)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_have_requests_refused_until_they_are_forgotten() {
        let harness = Harness::new(&config());
        assert_eq!(refused(&harness, 500, 200), 0.0);
        refused(&harness, 10_000, 500);
        let share = refused(&harness, 2000, 500);
        assert!((0.75..0.85).contains(&share), "at most 80 %: {share}");
        let stat = |name: &str| harness.stat(&format!("http.test.admission_control.{name}"));
        assert_eq!(stat("rq_success"), 500);
        assert_eq!(stat("rq_failure") + stat("rq_rejected"), 12_000);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(refused(&harness, 500, 200), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn few_requests_a_second_are_never_refused() {
        let few = pb::AdmissionControl {
            rps_threshold: Some(core::RuntimeUInt32 {
                default_value: 101,
                runtime_key: String::new(),
            }),
            ..config()
        };
        let harness = Harness::new(&few);
        for _ in 0..20 {
            assert_eq!(refused(&harness, 50, 500), 0.0);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn aggression_refuses_more_at_the_same_rate_of_success() {
        let share = |aggression: f64| {
            let harness = Harness::new(&pb::AdmissionControl {
                aggression: Some(core::RuntimeDouble {
                    default_value: aggression,
                    runtime_key: String::new(),
                }),
                sr_threshold: Some(core::RuntimePercent {
                    default_value: Some(Percent { value: 100.0 }),
                    runtime_key: String::new(),
                }),
                ..config()
            });
            for _ in 0..2000 {
                refused(&harness, 1, 200);
                refused(&harness, 1, 500);
            }
            harness.stat("http.test.admission_control.rq_rejected")
        };
        let (plain, eager) = (share(0.5), share(2.0));
        assert!(plain > 0 && eager > plain * 5 / 4, "{plain} {eager}");
    }

    #[test]
    fn the_status_of_grpc_counts_and_no_answer_does_not() {
        // Nothing is refused at this rate.
        let harness = Harness::new(&pb::AdmissionControl {
            rps_threshold: Some(core::RuntimeUInt32 {
                default_value: 1000,
                runtime_key: String::new(),
            }),
            ..config()
        });
        let stat = |name: &str| harness.stat(&format!("http.test.admission_control.{name}"));
        let answer = |grpc_status: Option<&str>, trailers: Option<&str>| {
            let mut stream = harness.stream();
            stream.decode_headers(true);
            let fields = &mut stream.response.fields;
            fields.append("content-type", "application/grpc");
            if let Some(status) = grpc_status {
                fields.append("grpc-status", status);
            }
            stream.encode_headers(trailers.is_none());
            if let Some(status) = trailers {
                let mut fields = Fields::new();
                fields.append("grpc-status", status);
                stream.encode_trailers(&mut fields);
            }
            stream.complete();
        };
        answer(Some("5"), None);
        answer(None, Some("0"));
        assert_eq!((stat("rq_success"), stat("rq_failure")), (2, 0));
        answer(Some("14"), None);
        answer(None, Some("8"));
        answer(None, None);
        let mut unanswered = harness.stream();
        unanswered.decode_headers(true);
        unanswered.complete();
        assert_eq!((stat("rq_success"), stat("rq_failure")), (2, 3));
    }

    #[test]
    fn health_checks_do_not_count() {
        let harness = Harness::new(&config());
        let mut stream = harness.stream();
        stream.info.health_check = true;
        assert!(stream.decode_headers(true).is_continue());
        stream.complete();
        assert_eq!(harness.stat("http.test.admission_control.rq_failure"), 0);
    }

    #[test]
    fn what_is_no_status_is_refused_with_its_path() {
        let criteria = SuccessCriteria {
            http_criteria: Some(HttpCriteria {
                http_success_status: vec![Int32Range {
                    start: 300,
                    end: 200,
                }],
            }),
            grpc_criteria: Some(GrpcCriteria {
                grpc_success_status: vec![17],
            }),
        };
        let mut found = errors(&pb::AdmissionControl {
            evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(criteria)),
            sampling_window: Some(wkt::Duration {
                seconds: 5,
                nanos: 0,
            }),
            ..config()
        });
        found.sort();
        assert_eq!(
            found,
            [
                "config / success_criteria / grpc_criteria / grpc_success_status[0]: invalid gRPC code 17",
                "config / success_criteria / http_criteria / http_success_status[0]: invalid HTTP range: [300, 200)",
            ]
        );
    }
}
