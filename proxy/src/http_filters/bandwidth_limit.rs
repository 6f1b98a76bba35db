//! `envoy.filters.http.bandwidth_limit`: lets bodies pass no faster than a rate, over all streams together.
//!
//! Type URL: `envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit`, for the filter and for routes.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/bandwidth_limit_filter>
//! Stats: `<stat_prefix>.http_bandwidth_limit.{request,response}_{enabled,enforced,incoming_total_size,allowed_total_size}`, the
//! gauges `…_{pending,incoming_size,allowed_size}` and the histogram `…_transfer_duration`.
//! Trailers of responses that are limited, with `enable_response_trailers`, each only where it is not 0:
//! `[<prefix>-]bandwidth-{request,response}-delay-ms`, the time from the first data to the last, and
//! `[<prefix>-]bandwidth-{request,response}-filter-delay-ms`, a fill interval for each time that data had to wait.
//!
//! Deviations: data that may pass does so at once, where Envoy lets it wait for its next turn of events.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger_proto::pb::envoy::extensions::filters::http::bandwidth_limit::v3 as pb;
use pb::bandwidth_limit::EnableMode;
use tokio::time::Instant;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    RouteFilterConfig, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, HeaderName, RequestHead, ResponseHead};
use crate::rate_limit::TokenBucket;
use crate::runtime::RuntimeFlag;
use crate::server::{FactoryContext, Worker};
use crate::stream_info::StreamInfo;

/// Makes filters that slow bodies down.
pub(super) struct Factory;

const TYPE_NAMES: &[&str] = &["envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit"];

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.bandwidth_limit"
    }

    fn type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, false, cx, path)?;
        Ok(Arc::new(Shared(Arc::new(config))))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, true, cx, path)?;
        Ok(Arc::new(Arc::new(config)))
    }
}

struct Shared(Arc<Config>);

#[derive(Debug)]
struct Config {
    request: DirectionStats,
    response: DirectionStats,
    mode: EnableMode,
    /// Bytes; of both directions and all workers.
    bucket: TokenBucket,
    /// How long data waits for more. Default 50 ms.
    fill_interval: Duration,
    enabled: RuntimeFlag,
    /// None: responses say nothing of how long bodies took.
    trailers: Option<TrailerNames>,
}

/// What the trailers of a response are called.
#[derive(Debug)]
struct TrailerNames {
    request_delay: HeaderName,
    request_filter_delay: HeaderName,
    response_delay: HeaderName,
    response_filter_delay: HeaderName,
}

impl TrailerNames {
    fn new(prefix: &str) -> Self {
        let name = |name: &str| match prefix {
            "" => HeaderName::new(name),
            prefix => HeaderName::new(format!("{prefix}-{name}")),
        };
        Self {
            request_delay: name("bandwidth-request-delay-ms"),
            request_filter_delay: name("bandwidth-request-filter-delay-ms"),
            response_delay: name("bandwidth-response-delay-ms"),
            response_filter_delay: name("bandwidth-response-filter-delay-ms"),
        }
    }
}

crate::stats_group! {
    /// What is counted of one direction, below `request_` or `response_`.
    struct DirectionStats {
        counter enabled;
        counter enforced;
        gauge pending;
        gauge incoming_size;
        gauge allowed_size;
        counter incoming_total_size;
        counter allowed_total_size;
        histogram transfer_duration (Milliseconds);
    }
}

const FILL_INTERVAL: Duration = Duration::from_millis(50);
const FILL_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_secs(1);

impl Config {
    fn from_proto(
        proto: pb::BandwidthLimit,
        per_route: bool,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::BandwidthLimit {
            stat_prefix,
            enable_mode,
            limit_kbps,
            fill_interval,
            runtime_enabled,
            enable_response_trailers,
            response_trailer_prefix,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let mode = path.enumeration::<EnableMode>("enable_mode", enable_mode);
        let fill_interval = path.duration("fill_interval", fill_interval);
        let enabled = path.optional("runtime_enabled", runtime_enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        let limit = limit_kbps.map(|limit| limit.value);
        let limit = match limit {
            Some(0) => Err(path.field("limit_kbps").reject("0: has to be at least 1")),
            Some(limit) => Ok(limit),
            None if per_route
                && mode
                    .as_ref()
                    .is_ok_and(|mode| *mode != EnableMode::Disabled) =>
            {
                Err(path
                    .field("limit_kbps")
                    .reject("limit must be set for per route filter config"))
            }
            // As in Envoy nothing of a body passes then.
            None => Ok(0),
        };
        let fill_interval = fill_interval?.unwrap_or(FILL_INTERVAL);
        if !FILL_INTERVALS.contains(&fill_interval) {
            return Err(path
                .field("fill_interval")
                .reject("has to be from 20 ms to 1 s"));
        }
        let prefix = prefix?;
        let mode = mode?;
        let stats = |direction: &str| {
            let scope = format!("{prefix}.http_bandwidth_limit.{direction}_");
            DirectionStats::new(&cx.server.stats.scope(&scope))
        };
        Ok(Self {
            request: stats("request"),
            response: stats("response"),
            mode,
            bucket: TokenBucket::per_second(limit?.saturating_mul(1024), fill_interval),
            fill_interval,
            enabled: enabled?.unwrap_or_else(|| cx.server.runtime.flag("", true)),
            trailers: enable_response_trailers.then(|| TrailerNames::new(&response_trailer_prefix)),
        })
    }
}

impl HttpFilterConfig for Shared {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self.0.clone());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(BandwidthLimit {
                config: config.clone(),
                request: None,
                response: None,
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.0.mode == EnableMode::Disabled
    }
}

struct BandwidthLimit {
    config: Rc<Arc<Config>>,
    request: Option<Flow>,
    response: Option<Flow>,
}

/// One direction of a stream that is limited.
struct Flow {
    config: Arc<Config>,
    direction: Direction,
    /// When the first data came; none: none has, or all has gone.
    began: Option<Instant>,
    /// How much is held back, as far as it was counted.
    held: usize,
    times: Times,
}

/// What the body of one direction has cost.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// From the first data to the last; none: they are still coming.
    whole: Option<Duration>,
    /// That data had to wait here.
    waited: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

impl BandwidthLimit {
    /// The flow of a direction, if it is limited.
    fn flow(&self, cx: &StreamContext<'_>, direction: Direction) -> Option<Flow> {
        let config = cx.route_config::<Arc<Config>>().unwrap_or(&self.config);
        if !config.limits(direction) || !config.enabled.get() {
            return None;
        }
        config.stats(direction).enabled().inc();
        Some(Flow {
            config: config.clone(),
            direction,
            began: None,
            held: 0,
            times: Times::default(),
        })
    }
}

impl Config {
    fn limits(&self, direction: Direction) -> bool {
        match self.mode {
            EnableMode::Disabled => false,
            EnableMode::Request => direction == Direction::Request,
            EnableMode::Response => direction == Direction::Response,
            EnableMode::RequestAndResponse => true,
        }
    }

    fn stats(&self, direction: Direction) -> &DirectionStats {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }
}

impl Flow {
    fn stats(&self) -> &DirectionStats {
        self.config.stats(self.direction)
    }

    /// New data has come.
    fn came(&mut self, size: usize) {
        let stats = self.config.stats(self.direction);
        if self.began.is_none() {
            stats.pending().inc();
            self.began = Some(Instant::now());
        }
        stats.incoming_size().set(size as u64);
        stats.incoming_total_size().add(size as u64);
    }

    /// How many of so many bytes may go now.
    fn take(&mut self, held: usize) -> usize {
        let bucket = &self.config.bucket;
        let taken = bucket.consume_up_to(Instant::now(), held as u64);
        let stats = self.stats();
        stats.allowed_size().set(taken);
        stats.allowed_total_size().add(taken);
        if taken < held as u64 {
            stats.enforced().inc();
            self.times.waited += self.config.fill_interval;
        }
        let taken = usize::try_from(taken).unwrap_or(held);
        self.held = held - taken;
        taken
    }

    fn wait(&self) -> DataStatus {
        DataStatus::Wait(Box::pin(tokio::time::sleep(self.config.fill_interval)))
    }

    /// Data has gone, as far as the status says.
    fn went(&mut self, status: &DataStatus, end: EndStream) {
        if end.is_end() && matches!(status, DataStatus::Continue) {
            self.ended();
        }
    }

    /// All data has gone.
    fn ended(&mut self) {
        if let Some(began) = self.began.take() {
            let stats = self.stats();
            stats.pending().dec();
            let took = began.elapsed();
            stats.transfer_duration().record(whole_millis(took));
            self.times.whole = Some(took);
        }
    }

    /// What the trailers of a response say when its last data goes.
    fn trailers(&self, request: Option<&Self>) -> Vec<(&HeaderName, u64)> {
        let (Some(names), Some(began)) = (&self.config.trailers, self.began) else {
            return Vec::new();
        };
        let of_request = request.map(|flow| flow.times).unwrap_or_default();
        [
            (&names.request_delay, of_request.whole.unwrap_or_default()),
            (&names.request_filter_delay, of_request.waited),
            (&names.response_delay, began.elapsed()),
            (&names.response_filter_delay, self.times.waited),
        ]
        .into_iter()
        .map(|(name, time)| (name, whole_millis(time)))
        .filter(|(_, millis)| *millis > 0)
        .collect()
    }

    fn data(&mut self, cx: &mut StreamContext<'_>, data: &mut Bytes) -> DataStatus {
        self.came(data.len());
        let now = self.take(data.len());
        if now == data.len() {
            return DataStatus::Continue;
        }
        if now > 0 {
            cx.inject_data(data.split_to(now), EndStream::No);
        }
        self.wait()
    }

    fn resumed(&mut self, cx: &mut StreamContext<'_>, held: &mut BytesMut) -> DataStatus {
        // What came meanwhile was not shown.
        if held.len() > self.held {
            self.came(held.len() - self.held);
        }
        let now = self.take(held.len());
        if now == held.len() {
            return DataStatus::Continue;
        }
        if now > 0 {
            cx.inject_data(held.split_to(now).freeze(), EndStream::No);
        }
        self.wait()
    }
}

fn write(said: Vec<(&HeaderName, u64)>, trailers: &mut Fields) {
    for (name, millis) in said {
        trailers.set(name, millis.to_string());
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl BandwidthLimit {
    /// Data of a response has gone, as far as the status says; trailers follow the last.
    fn response_went(&mut self, cx: &mut StreamContext<'_>, status: &DataStatus, end: EndStream) {
        let Some(flow) = &mut self.response else {
            return;
        };
        if end.is_end() && matches!(status, DataStatus::Continue) {
            let said = flow.trailers(self.request.as_ref());
            if !said.is_empty() {
                write(said, cx.add_trailers());
            }
            flow.ended();
        }
    }
}

impl HttpFilter for BandwidthLimit {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
            .and(Interests::COMPLETE)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.request = self.flow(cx, Direction::Request);
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(flow) = &mut self.request else {
            return DataStatus::Continue;
        };
        let status = flow.data(cx, data);
        flow.went(&status, end);
        status
    }

    fn resume_decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        let Some(flow) = &mut self.request else {
            return DataStatus::Continue;
        };
        let status = flow.resumed(cx, buffered);
        flow.went(&status, end);
        status
    }

    fn decode_trailers(&mut self, _: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        if let Some(flow) = &mut self.request {
            flow.ended();
        }
        TrailersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.response = self.flow(cx, Direction::Response);
        HeadersStatus::Continue
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(flow) = &mut self.response else {
            return DataStatus::Continue;
        };
        let status = flow.data(cx, data);
        self.response_went(cx, &status, end);
        status
    }

    fn resume_encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        let Some(flow) = &mut self.response else {
            return DataStatus::Continue;
        };
        let status = flow.resumed(cx, buffered);
        self.response_went(cx, &status, end);
        status
    }

    fn encode_trailers(
        &mut self,
        _: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if let Some(flow) = &mut self.response {
            write(flow.trailers(self.request.as_ref()), trailers);
            flow.ended();
        }
        TrailersStatus::Continue
    }

    fn on_stream_complete(&mut self, _: &mut StreamInfo) {
        for flow in [&mut self.request, &mut self.response]
            .into_iter()
            .flatten()
        {
            flow.ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf as wkt;

    use super::super::test_support::{Harness, errors};
    use super::*;

    fn limit(mode: EnableMode, kbps: u64) -> pb::BandwidthLimit {
        pb::BandwidthLimit {
            stat_prefix: "bw".to_owned(),
            enable_mode: mode.into(),
            limit_kbps: Some(wkt::UInt64Value { value: kbps }),
            ..Default::default()
        }
    }

    fn stat(harness: &Harness, name: &str) -> u64 {
        harness.stat(&format!("bw.http_bandwidth_limit.{name}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_beyond_the_rate_goes_piece_by_piece() {
        let harness = Harness::new(&limit(EnableMode::Response, 1));
        let mut stream = harness.stream();
        stream.decode_headers(true);
        stream.encode_headers(false);
        let began = Instant::now();
        let (mut status, left) = stream.encode_data([b'x'; 2048], true);
        let mut held = BytesMut::from(&left[..]);
        let mut gone = stream.take_injected().len();
        assert_eq!(gone, 51, "the worth of one interval is there at the start");
        while let DataStatus::Wait(waiting) = status {
            waiting.await;
            status = stream.resume_encode_data(&mut held, EndStream::Yes);
            gone += stream.take_injected().len();
        }
        assert_eq!(gone + held.len(), 2048);
        let took = began.elapsed().as_millis();
        assert!((1950..=2050).contains(&took), "{took}");
        assert_eq!(stat(&harness, "response_enabled"), 1);
        assert_eq!(stat(&harness, "response_incoming_total_size"), 2048);
        assert_eq!(stat(&harness, "response_allowed_total_size"), 2048);
        assert_eq!(stat(&harness, "response_pending"), 0);
        assert!(stat(&harness, "response_enforced") >= 20);
        assert_eq!(stat(&harness, "request_enabled"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_and_directions_share_the_rate() {
        let harness = Harness::new(&limit(EnableMode::RequestAndResponse, 1));
        let mut first = harness.stream();
        first.decode_headers(false);
        let body = "x".repeat(50);
        assert!(matches!(
            first.decode_data(&body, true),
            DataStatus::Continue
        ));
        let mut second = harness.stream();
        second.decode_headers(true);
        second.encode_headers(false);
        let (status, _) = second.encode_data("yes", true);
        assert!(matches!(status, DataStatus::Wait(_)));
        assert_eq!(stat(&harness, "response_pending"), 1);
        second.complete();
        assert_eq!(stat(&harness, "response_pending"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_say_how_long_bodies_took_and_waited() {
        let config = pb::BandwidthLimit {
            enable_response_trailers: true,
            response_trailer_prefix: "x-eg".to_owned(),
            ..limit(EnableMode::RequestAndResponse, 1)
        };
        let harness = Harness::new(&config);
        let mut stream = harness.stream();
        stream.decode_headers(false);
        let _ = stream.decode_data("short", true);
        stream.encode_headers(false);
        let (mut status, left) = stream.encode_data([b'x'; 100], false);
        let mut held = BytesMut::from(&left[..]);
        while let DataStatus::Wait(waiting) = status {
            waiting.await;
            status = stream.resume_encode_data(&mut held, EndStream::No);
        }
        let mut trailers = Fields::new();
        trailers.append("x-eg-bandwidth-response-delay-ms", "old");
        let _ = stream.encode_trailers(&mut trailers);
        let millis = |name: &str| {
            let value = trailers.get_str(format!("x-eg-bandwidth-{name}-ms").as_str());
            value.map(|value| value.parse::<u64>().unwrap())
        };
        let waited = millis("response-filter-delay").unwrap();
        assert!(waited >= 50 && waited % 50 == 0, "{waited}");
        assert!(millis("response-delay").unwrap() >= 50);
        assert_eq!(
            (millis("request-delay"), millis("request-filter-delay")),
            (None, None),
            "what is 0 is not said"
        );
    }

    #[test]
    fn a_filter_that_is_disabled_limits_nothing() {
        let harness = Harness::new(&limit(EnableMode::Disabled, 1));
        let mut stream = harness.stream();
        stream.decode_headers(true);
        stream.encode_headers(false);
        let (status, _) = stream.encode_data([b'x'; 5000], true);
        assert!(matches!(status, DataStatus::Continue));
    }

    #[test]
    fn a_route_has_a_rate_of_its_own_and_needs_one() {
        let route = limit(EnableMode::Response, 1_000_000);
        let harness = Harness::with_route(&limit(EnableMode::Response, 1), &route);
        let mut stream = harness.stream();
        stream.decode_headers(true);
        stream.encode_headers(false);
        let (status, _) = stream.encode_data([b'x'; 5000], true);
        assert!(matches!(status, DataStatus::Continue));
        let without = pb::BandwidthLimit {
            limit_kbps: None,
            ..limit(EnableMode::Request, 1)
        };
        assert!(errors(&without).is_empty());
        let report = crate::config::ConfigReport::new();
        let path = ConfigPath::root(&report, "config");
        let scope = harness.server.stats.scope("");
        let cx = FactoryContext {
            server: &harness.server,
            scope: &scope,
            init: &crate::server::InitManager::new("test"),
        };
        assert!(Config::from_proto(without, true, &cx, &path).is_err());
        assert_eq!(
            report.take()[0].to_string(),
            "config / limit_kbps: limit must be set for per route filter config"
        );
    }
}
