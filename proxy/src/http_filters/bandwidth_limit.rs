//! `envoy.filters.http.bandwidth_limit`: lets bodies pass no faster than a rate, over all streams together.
//!
//! Type URL: `envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit`, for the filter and for routes.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/bandwidth_limit_filter>
//! Stats: `<stat_prefix>.http_bandwidth_limit.{request,response}_{enabled,enforced,incoming_total_size,allowed_total_size}`, the
//! gauges `…_{pending,incoming_size,allowed_size}` and the histogram `…_transfer_duration`.
//!
//! Deviations: `enable_response_trailers` is refused.
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
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
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
            // Of those trailers alone.
            response_trailer_prefix: _,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let mode = path.enumeration::<EnableMode>("enable_mode", enable_mode);
        let fill_interval = path.duration("fill_interval", fill_interval);
        let enabled = path.optional("runtime_enabled", runtime_enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        let trailers = path.unsupported_if_set(
            "enable_response_trailers",
            enable_response_trailers.then_some(()),
        );
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
        trailers?;
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
        }
        let taken = usize::try_from(taken).unwrap_or(held);
        self.held = held - taken;
        taken
    }

    fn wait(&self) -> DataStatus {
        DataStatus::Wait(Box::pin(tokio::time::sleep(self.config.fill_interval)))
    }

    /// All data has gone.
    fn ended(&mut self) {
        if let Some(began) = self.began.take() {
            let stats = self.stats();
            stats.pending().dec();
            let took = began.elapsed().as_millis();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            stats.transfer_duration().record(took);
        }
    }

    fn data(&mut self, cx: &mut StreamContext<'_>, data: &mut Bytes, end: EndStream) -> DataStatus {
        self.came(data.len());
        let now = self.take(data.len());
        if now == data.len() {
            if end == EndStream::Yes {
                self.ended();
            }
            return DataStatus::Continue;
        }
        if now > 0 {
            cx.inject_data(data.split_to(now), EndStream::No);
        }
        self.wait()
    }

    fn resumed(
        &mut self,
        cx: &mut StreamContext<'_>,
        held: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        // What came meanwhile was not shown.
        if held.len() > self.held {
            self.came(held.len() - self.held);
        }
        let now = self.take(held.len());
        if now == held.len() {
            if end == EndStream::Yes {
                self.ended();
            }
            return DataStatus::Continue;
        }
        if now > 0 {
            cx.inject_data(held.split_to(now).freeze(), EndStream::No);
        }
        self.wait()
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
        match &mut self.request {
            Some(flow) => flow.data(cx, data, end),
            None => DataStatus::Continue,
        }
    }

    fn resume_decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        match &mut self.request {
            Some(flow) => flow.resumed(cx, buffered, end),
            None => DataStatus::Continue,
        }
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
        match &mut self.response {
            Some(flow) => flow.data(cx, data, end),
            None => DataStatus::Continue,
        }
    }

    fn resume_encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        match &mut self.response {
            Some(flow) => flow.resumed(cx, buffered, end),
            None => DataStatus::Continue,
        }
    }

    fn encode_trailers(&mut self, _: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        if let Some(flow) = &mut self.response {
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
            enable_response_trailers: true,
            ..limit(EnableMode::Request, 1)
        };
        assert_eq!(
            errors(&without),
            ["config / enable_response_trailers: is not supported"]
        );
        let report = crate::config::ConfigReport::new();
        let path = ConfigPath::root(&report, "config");
        let scope = harness.server.stats.scope("");
        let cx = FactoryContext {
            server: &harness.server,
            scope: &scope,
            init: &crate::server::InitManager::new("test"),
        };
        let without = pb::BandwidthLimit {
            enable_response_trailers: false,
            ..without
        };
        assert!(Config::from_proto(without, true, &cx, &path).is_err());
        assert_eq!(
            report.take()[0].to_string(),
            "config / limit_kbps: limit must be set for per route filter config"
        );
    }
}
