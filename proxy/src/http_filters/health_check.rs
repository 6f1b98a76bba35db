//! `envoy.filters.http.health_check`: answers health checks of peers, or lets them pass and remembers the answer.
//!
//! Type URL: `envoy.extensions.filters.http.health_check.v3.HealthCheck`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/health_check_filter>
//! Stats: `<prefix>health_check.{request_total,ok,failed,cached_response,failed_cluster_not_found,failed_cluster_empty,`
//! `failed_cluster_unhealthy,degraded}`. Details: `health_check_ok`, `health_check_failed`, `health_check_cached`,
//! `health_check_failed_no_cluster_found`, `health_check_failed_cluster_empty`, `health_check_ok_cluster_healthy`,
//! `health_check_failed_cluster_unhealthy`. Flag: `LH`.
//!
//! Deviations: a remembered answer holds for `cache_time` from its arrival; Envoy forgets all answers every `cache_time`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::health_check::v3 as pb;
use tokio::time::Instant;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalReply, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, HeaderName, Known, RequestHead, ResponseHead};
use crate::matchers::HeaderMatcher;
use crate::server::{FactoryContext, Worker};
use crate::stream_info::ResponseFlag;
use crate::upstream::ClusterId;

/// Makes health check filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.health_check"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.health_check.v3.HealthCheck"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            cx,
            path,
        )?))
    }
}

crate::stats_group! {
    /// What the filter counts.
    struct Stats {
        counter request_total;
        counter ok;
        counter failed;
        counter cached_response;
        counter failed_cluster_not_found;
        counter failed_cluster_empty;
        counter failed_cluster_unhealthy;
        counter degraded;
    }
}

struct Config {
    stats: Stats,
    /// Sends health checks upstream, as long as the proxy itself is well.
    pass_through_mode: bool,
    cache: Option<Cache>,
    /// The share of hosts that must be healthy, in whole percent, in the order of the names.
    cluster_min_healthy_percentages: Box<[(ClusterId, u64)]>,
    headers: Box<[HeaderMatcher]>,
}

impl Config {
    fn from_proto(
        proto: pb::HealthCheck,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HealthCheck {
            pass_through_mode,
            cache_time,
            cluster_min_healthy_percentages,
            headers,
        } = proto;
        let pass_through = path.required("pass_through_mode", pass_through_mode);
        let cache_time = path.duration("cache_time", cache_time);
        let headers = path.each("headers", headers, HeaderMatcher::from_proto);
        let mut percentages = Vec::new();
        let mut failed = None;
        let clusters: BTreeMap<_, _> = cluster_min_healthy_percentages.into_iter().collect();
        for (name, percent) in clusters {
            let path = path.key("cluster_min_healthy_percentages", &name);
            match path.percent("value", Some(percent)) {
                Ok(share) => {
                    let percent = whole_percent(share.unwrap_or_default());
                    percentages.push((cx.server.cluster_names.id(&name), percent));
                }
                Err(rejected) => failed = Some(rejected),
            }
        }
        let (pass_through, cache_time) = (pass_through?.value, cache_time?);
        if !pass_through && cache_time.is_some_and(|time| !time.is_zero()) {
            return Err(path
                .field("cache_time")
                .reject("must not be set when pass_through_mode is disabled"));
        }
        failed.map_or(Ok(()), Err)?;
        Ok(Self {
            stats: Stats::new(&cx.scope.scope("health_check.")),
            pass_through_mode: pass_through,
            cache: cache_time.filter(|time| !time.is_zero()).map(Cache::new),
            cluster_min_healthy_percentages: percentages.into(),
            headers: headers?.into(),
        })
    }

    /// Finds what to answer with.
    fn answer(&self, worker: &Worker) -> Answer {
        if worker.server.health_check_failed.load(Relaxed) {
            return Answer::new(503, "health_check_failed");
        }
        if let Some(cache) = &self.cache {
            self.stats.cached_response().inc();
            // What has run out in the meantime was good enough to get here.
            let (status, degraded) = cache.get().unwrap_or((200, false));
            return Answer {
                status,
                degraded,
                details: "health_check_cached",
            };
        }
        if self.cluster_min_healthy_percentages.is_empty() {
            return Answer::new(200, "health_check_ok");
        }
        for (id, percent) in &self.cluster_min_healthy_percentages {
            let Some(cluster) = worker.clusters.get(*id) else {
                self.stats.failed_cluster_not_found().inc();
                return Answer::new(503, "health_check_failed_no_cluster_found");
            };
            let stats = &cluster.info().endpoint_stats;
            let total = stats.membership_total().value();
            if total == 0 {
                if *percent == 0 {
                    continue;
                }
                self.stats.failed_cluster_empty().inc();
                return Answer::new(503, "health_check_failed_cluster_empty");
            }
            let well = stats.membership_healthy().value() + stats.membership_degraded().value();
            if 100 * well < total * percent {
                self.stats.failed_cluster_unhealthy().inc();
                return Answer::new(503, "health_check_failed_cluster_unhealthy");
            }
        }
        Answer::new(200, "health_check_ok_cluster_healthy")
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage is within 0..=100, and Envoy cuts its fraction off"
)]
fn whole_percent(share: f64) -> u64 {
    (share * 100.0 + 1e-9) as u64
}

struct Answer {
    status: u16,
    degraded: bool,
    details: &'static str,
}

impl Answer {
    fn new(status: u16, details: &'static str) -> Self {
        Self {
            status,
            degraded: false,
            details,
        }
    }
}

/// The last answer of the upstream, for all workers: status, whether it was degraded, and until when it holds.
struct Cache {
    time: Duration,
    origin: Instant,
    /// Milliseconds since `origin` above, a bit for degraded, and 16 bits of status. 0: nothing.
    answer: AtomicU64,
}

impl Cache {
    fn new(time: Duration) -> Self {
        Self {
            time,
            origin: Instant::now(),
            answer: AtomicU64::new(0),
        }
    }

    fn get(&self) -> Option<(u16, bool)> {
        let answer = self.answer.load(Relaxed);
        let status = u16::try_from(answer & 0xffff).unwrap_or(0);
        let degraded = answer >> 16 & 1 == 1;
        (status != 0 && millis(self.origin.elapsed()) < answer >> 17).then_some((status, degraded))
    }

    fn set(&self, status: u16, degraded: bool) {
        let until = millis(self.origin.elapsed() + self.time).min(u64::MAX >> 17);
        let answer = until << 17 | u64::from(degraded) << 16 | u64::from(status);
        self.answer.store(answer, Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(HealthCheck {
                config: config.clone(),
                is_health_check: false,
                handling: false,
            })
        })
    }
}

struct HealthCheck {
    config: Rc<Arc<Config>>,
    is_health_check: bool,
    /// Whether the answer comes from here, once the request has ended.
    handling: bool,
}

impl HttpFilter for HealthCheck {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        let config = &self.config;
        if !HeaderMatcher::all(&config.headers, head) {
            return HeadersStatus::Continue;
        }
        self.is_health_check = true;
        cx.info.health_check = true;
        self.handling = !config.pass_through_mode
            || cx.worker.server.health_check_failed.load(Relaxed)
            || config.cache.as_ref().is_some_and(|c| c.get().is_some());
        match (self.handling, end) {
            (false, _) => HeadersStatus::Continue,
            (true, EndStream::No) => HeadersStatus::StopIteration,
            (true, EndStream::Yes) => HeadersStatus::LocalReply(self.reply(cx)),
        }
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        _data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        match (self.handling, end) {
            (false, _) => DataStatus::Continue,
            (true, EndStream::No) => DataStatus::StopIterationNoBuffer,
            (true, EndStream::Yes) => DataStatus::LocalReply(self.reply(cx)),
        }
    }

    fn decode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _trailers: &mut Fields,
    ) -> TrailersStatus {
        if self.handling {
            TrailersStatus::LocalReply(self.reply(cx))
        } else {
            TrailersStatus::Continue
        }
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        let server = &cx.worker.server;
        if self.is_health_check {
            if let Some(cache) = self.config.cache.as_ref().filter(|_| !self.handling) {
                cache.set(head.status, head.fields.contains("x-envoy-degraded"));
            }
            let cluster = server.local_info.cluster.as_bytes();
            head.fields
                .set(Known::EnvoyUpstreamHealthcheckedCluster, cluster);
        }
        if server.health_check_failed.load(Relaxed) {
            head.fields
                .set(Known::EnvoyImmediateHealthCheckFail, "true");
        }
        HeadersStatus::Continue
    }
}

impl HealthCheck {
    fn reply(&self, cx: &mut StreamContext<'_>) -> LocalReply {
        let stats = &self.config.stats;
        stats.request_total().inc();
        let answer = self.config.answer(cx.worker);
        if (200..300).contains(&answer.status) {
            stats.ok().inc();
        } else {
            stats.failed().inc();
            let flags = &mut cx.info.response_flags;
            flags.set(ResponseFlag::FailedLocalHealthCheck);
        }
        let reply = LocalReply::new(answer.status, answer.details);
        if answer.degraded {
            stats.degraded().inc();
            return reply.with_header(HeaderName::new("x-envoy-degraded"), Bytes::new());
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
    use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
    use outrigger_proto::pb::envoy::r#type::v3::Percent;
    use outrigger_proto::pb::google::protobuf as wkt;

    use super::super::test_support::{Harness, errors};
    use super::*;

    const CLUSTER: &str = "
name: backend
type: STATIC
load_assignment:
  cluster_name: backend
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}
    - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 2}}}
      health_status: UNHEALTHY
";

    fn config(pass_through: bool) -> pb::HealthCheck {
        let path = matcher_pb::StringMatcher {
            match_pattern: Some(matcher_pb::string_matcher::MatchPattern::Exact(
                "/hc".to_owned(),
            )),
            ..Default::default()
        };
        pb::HealthCheck {
            pass_through_mode: Some(wkt::BoolValue {
                value: pass_through,
            }),
            headers: vec![route_pb::HeaderMatcher {
                name: ":path".to_owned(),
                header_match_specifier: Some(
                    route_pb::header_matcher::HeaderMatchSpecifier::StringMatch(path),
                ),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn at_least(cluster: &str, value: f64) -> pb::HealthCheck {
        pb::HealthCheck {
            cluster_min_healthy_percentages: HashMap::from([(
                cluster.to_owned(),
                Percent { value },
            )]),
            ..config(false)
        }
    }

    const CHECK: &[(&str, &str)] = &[(":path", "/hc")];

    fn stat(harness: &Harness, name: &str) -> u64 {
        harness.stat(&format!("http.test.health_check.{name}"))
    }

    #[test]
    fn a_health_check_is_answered_here_and_marked() {
        let harness = Harness::new(&config(false));
        let mut stream = harness.stream_with(CHECK);
        let reply = stream.decode_headers(true).reply();
        assert_eq!((reply.status, &*reply.details), (200, "health_check_ok"));
        assert!(stream.info.health_check);
        stream.encode_headers(true);
        let cluster = stream
            .response
            .fields
            .get_str("x-envoy-upstream-healthchecked-cluster");
        assert_eq!(cluster, Some("local"));
        assert_eq!(
            (stat(&harness, "request_total"), stat(&harness, "ok")),
            (1, 1)
        );
        let mut other = harness.stream();
        assert!(other.decode_headers(true).is_continue());
        assert!(!other.info.health_check);
        other.encode_headers(true);
        assert!(other.response.fields.is_empty());
    }

    #[test]
    fn the_answer_waits_for_the_end_of_the_request() {
        let harness = Harness::new(&config(false));
        let mut stream = harness.stream_with(CHECK);
        let status = stream.decode_headers(false);
        assert!(matches!(status, HeadersStatus::StopIteration));
        let status = stream.decode_data("abc", false);
        assert!(matches!(status, DataStatus::StopIterationNoBuffer));
        assert!(matches!(
            stream.decode_data("", true),
            DataStatus::LocalReply(_)
        ));
    }

    #[test]
    fn a_proxy_that_asked_to_fail_says_so_on_every_response() {
        let harness = Harness::new(&config(true));
        harness.server.health_check_failed.store(true, Relaxed);
        let mut stream = harness.stream_with(CHECK);
        let reply = stream.decode_headers(true).reply();
        assert_eq!(
            (reply.status, &*reply.details),
            (503, "health_check_failed")
        );
        let flags = stream.info.response_flags;
        assert!(flags.contains(ResponseFlag::FailedLocalHealthCheck));
        for fields in [CHECK, &[]] {
            let mut stream = harness.stream_with(fields);
            let _ = stream.decode_headers(true);
            stream.encode_headers(true);
            let fail = stream
                .response
                .fields
                .get_str("x-envoy-immediate-health-check-fail");
            assert_eq!(fail, Some("true"));
        }
        assert_eq!((stat(&harness, "failed"), stat(&harness, "ok")), (2, 0));
    }

    #[test]
    fn the_health_of_clusters_decides() {
        for (cluster, percent, status, details, counter) in [
            (
                "no",
                1.0,
                503,
                "health_check_failed_no_cluster_found",
                "failed_cluster_not_found",
            ),
            (
                "backend",
                50.0,
                200,
                "health_check_ok_cluster_healthy",
                "ok",
            ),
            (
                "backend",
                51.0,
                503,
                "health_check_failed_cluster_unhealthy",
                "failed_cluster_unhealthy",
            ),
        ] {
            let harness = Harness::with_cluster(&at_least(cluster, percent), CLUSTER);
            let reply = harness.stream_with(CHECK).decode_headers(true).reply();
            assert_eq!((reply.status, &*reply.details), (status, details));
            assert_eq!(stat(&harness, counter), 1, "{counter}");
            assert_eq!(stat(&harness, "failed"), u64::from(status != 200));
        }
        let empty = "{name: backend, type: STATIC}";
        for (percent, status, details) in [
            (0.0, 200, "health_check_ok_cluster_healthy"),
            (1.0, 503, "health_check_failed_cluster_empty"),
        ] {
            let harness = Harness::with_cluster(&at_least("backend", percent), empty);
            let reply = harness.stream_with(CHECK).decode_headers(true).reply();
            assert_eq!((reply.status, &*reply.details), (status, details));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_the_upstream_is_remembered_for_a_while() {
        let harness = Harness::new(&pb::HealthCheck {
            cache_time: Some(wkt::Duration {
                seconds: 5,
                nanos: 0,
            }),
            ..config(true)
        });
        let mut first = harness.stream_with(CHECK);
        assert!(first.decode_headers(true).is_continue());
        first.response = ResponseHead::new(503);
        first.response.fields.append("x-envoy-degraded", "");
        first.encode_headers(true);
        tokio::time::advance(Duration::from_millis(4_900)).await;
        let reply = harness.stream_with(CHECK).decode_headers(true).reply();
        assert_eq!(
            (reply.status, &*reply.details),
            (503, "health_check_cached")
        );
        assert_eq!(reply.header("x-envoy-degraded"), Some(""));
        let counts = ["cached_response", "failed", "degraded"];
        assert_eq!(counts.map(|name| stat(&harness, name)), [1, 1, 1]);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(
            harness
                .stream_with(CHECK)
                .decode_headers(true)
                .is_continue()
        );
    }

    #[test]
    fn a_mode_is_required_and_a_cache_needs_something_to_remember() {
        let config = pb::HealthCheck {
            cache_time: Some(wkt::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..config(false)
        };
        assert_eq!(
            errors(&config),
            ["config / cache_time: must not be set when pass_through_mode is disabled"]
        );
        assert_eq!(
            errors(&pb::HealthCheck::default()),
            ["config / pass_through_mode: has to be set"]
        );
    }
}
