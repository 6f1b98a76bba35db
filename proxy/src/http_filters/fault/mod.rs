//! `envoy.filters.http.fault`: delays and aborts requests, and slows responses down, to see what happens.
//!
//! Type URL: `envoy.extensions.filters.http.fault.v3.HTTPFault`, for the filter and for routes.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/fault_filter>
//! Stats: `<prefix>fault.{aborts_injected,delays_injected,faults_overflow,response_rl_injected}`, the gauge
//! `<prefix>fault.active_faults`, and per `x-envoy-downstream-service-cluster`
//! `<prefix>fault.<cluster>.{aborts_injected,delays_injected}`. Details: `fault_filter_abort`. Flags: `DI`, `FI`.
//!
//! Deviations: a worker keeps stats and runtime keys of the first 256 downstream clusters that it hears of; Envoy of all.

mod config;
mod pace;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalReply, RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Fraction, Rejected, TypedConfig};
use crate::http::{EndStream, Known, RequestHead};
use crate::matchers::HeaderMatcher;
use crate::route::ClusterChoice;
use crate::runtime::{Runtime, RuntimeFraction, RuntimeInteger};
use crate::server::{FactoryContext, Worker};
use crate::stats::{Counter, Scope};
use crate::stream_info::{ResponseFlag, StreamInfo};
use config::{AbortStatus, FaultSettings};
use pace::Pace;

/// Makes fault filters.
pub(super) struct Factory;

const TYPE_NAMES: &[&str] = &["envoy.extensions.filters.http.fault.v3.HTTPFault"];
/// How many downstream clusters a worker has stats for.
const MOST_CLUSTERS: usize = 256;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.fault"
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
        let scope = cx.scope.scope("fault.");
        Ok(Arc::new(Config {
            settings: FaultSettings::from_proto(config.decode(path)?, cx, path)?,
            stats: Stats::new(&scope),
            scope,
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let settings = FaultSettings::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(settings))
    }
}

crate::stats_group! {
    /// What the filter counts.
    struct Stats {
        counter aborts_injected;
        counter delays_injected;
        counter faults_overflow;
        counter response_rl_injected;
        gauge active_faults;
    }
}

struct Config {
    settings: FaultSettings,
    stats: Stats,
    scope: Scope,
}

/// What the streams of one worker share.
struct Shared {
    config: Arc<Config>,
    clusters: RefCell<HashMap<Box<[u8]>, Rc<DownstreamCluster>>>,
    runtime: Runtime,
}

/// What is counted and overridden for one value of `x-envoy-downstream-service-cluster`.
struct DownstreamCluster {
    aborts_injected: Counter,
    delays_injected: Counter,
    delay_percent: RuntimeFraction,
    abort_percent: RuntimeFraction,
    delay_duration: RuntimeInteger,
    abort_http_status: RuntimeInteger,
    abort_grpc_status: RuntimeInteger,
}

/// A runtime key without a value.
const UNSET: u64 = u64::MAX;

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let shared = Rc::new(Shared {
            config: self,
            clusters: RefCell::default(),
            runtime: worker.server.runtime.clone(),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Fault {
                shared: shared.clone(),
                cluster: None,
                active: false,
                pace: None,
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.settings.is_empty()
    }
}

impl Shared {
    fn cluster(&self, name: &[u8]) -> Option<Rc<DownstreamCluster>> {
        if let Some(cluster) = self.clusters.borrow().get(name) {
            return Some(cluster.clone());
        }
        let text = std::str::from_utf8(name).ok()?;
        let mut clusters = self.clusters.borrow_mut();
        if text.is_empty() || clusters.len() >= MOST_CLUSTERS {
            return None;
        }
        let scope = self.config.scope.scope(&format!("{text}."));
        let key = |rest: &str| format!("fault.http.{text}.{rest}");
        let integer = |rest: &str| self.runtime.integer(&key(rest), UNSET);
        let fraction = |rest: &str| self.runtime.fraction(&key(rest), Fraction::NEVER);
        let cluster = Rc::new(DownstreamCluster {
            aborts_injected: scope.counter("aborts_injected"),
            delays_injected: scope.counter("delays_injected"),
            delay_percent: fraction("delay.fixed_delay_percent"),
            abort_percent: fraction("abort.abort_percent"),
            delay_duration: integer("delay.fixed_duration_ms"),
            abort_http_status: integer("abort.http_status"),
            abort_grpc_status: integer("abort.grpc_status"),
        });
        clusters.insert(name.into(), cluster.clone());
        Some(cluster)
    }
}

struct Fault {
    shared: Rc<Shared>,
    cluster: Option<Rc<DownstreamCluster>>,
    /// Whether the stream counts as an active fault.
    active: bool,
    /// How fast the response may go; none: as it comes.
    pace: Option<Pace>,
}

impl HttpFilter for Fault {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::ENCODE_DATA)
            .and(Interests::COMPLETE)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        let shared = self.shared.clone();
        self.with_settings(&shared, cx, |fault, settings, cx| {
            if !applies(settings, cx, head) {
                return HeadersStatus::Continue;
            }
            if let Some(name) = head.fields.get(Known::EnvoyDownstreamServiceCluster) {
                fault.cluster = fault.shared.cluster(name);
            }
            fault.slow_response_down(settings, cx, head);
            match fault.delay(settings, cx, head) {
                Some(delay) => HeadersStatus::Wait(Box::pin(tokio::time::sleep(delay))),
                None => fault.abort(settings, cx, head),
            }
        })
    }

    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        let shared = self.shared.clone();
        self.with_settings(&shared, cx, |fault, settings, cx| {
            fault.abort(settings, cx, head)
        })
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        let Some(pace) = &mut self.pace else {
            return DataStatus::Continue;
        };
        match pace.take(data.len()) {
            now if now == data.len() => DataStatus::Continue,
            now => {
                if now > 0 {
                    cx.inject_data(data.split_to(now), EndStream::No);
                }
                DataStatus::Wait(Box::pin(tokio::time::sleep_until(pace.next())))
            }
        }
    }

    fn resume_encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        _: EndStream,
    ) -> DataStatus {
        let Some(pace) = &mut self.pace else {
            return DataStatus::Continue;
        };
        match pace.take(buffered.len()) {
            now if now == buffered.len() => DataStatus::Continue,
            now => {
                if now > 0 {
                    cx.inject_data(buffered.split_to(now).freeze(), EndStream::No);
                }
                DataStatus::Wait(Box::pin(tokio::time::sleep_until(pace.next())))
            }
        }
    }

    fn on_stream_complete(&mut self, _info: &mut StreamInfo) {
        if std::mem::take(&mut self.active) {
            self.shared.config.stats.active_faults().dec();
        }
    }
}

impl Fault {
    /// Runs with the settings of the route, or else of the filter.
    fn with_settings<T>(
        &mut self,
        shared: &Shared,
        cx: &mut StreamContext<'_>,
        run: impl FnOnce(&mut Self, &FaultSettings, &mut StreamContext<'_>) -> T,
    ) -> T {
        // The stream may change meanwhile, so the route is held, not borrowed.
        let route = cx.info.route.clone();
        let slot = cx.slot;
        let settings = route
            .as_ref()
            .and_then(|route| route.filter_config(slot?)?.downcast_ref())
            .unwrap_or(&shared.config.settings);
        run(self, settings, cx)
    }

    /// Counts the stream as an active fault, once. False if there are too many already.
    fn try_begin(&mut self, settings: &FaultSettings) -> bool {
        if self.active {
            return true;
        }
        let stats = &self.shared.config.stats;
        // Not exact across workers, as in Envoy.
        if stats.active_faults().value() >= settings.max_active_faults.get() {
            stats.faults_overflow().inc();
            return false;
        }
        stats.active_faults().inc();
        self.active = true;
        true
    }

    fn slow_response_down(
        &mut self,
        settings: &FaultSettings,
        cx: &StreamContext<'_>,
        head: &RequestHead,
    ) {
        let Some(limit) = &settings.response_rate_limit else {
            return;
        };
        let Some(kbps) = limit.kbps(head) else { return };
        let share = limit.share.of(head);
        let random = cx.worker.random.next();
        if settings
            .response_rate_limit_percent
            .contains_with_default(random, share)
            && self.try_begin(settings)
        {
            self.shared.config.stats.response_rl_injected().inc();
            self.pace = Some(Pace::new(kbps));
        }
    }

    fn delay(
        &mut self,
        settings: &FaultSettings,
        cx: &mut StreamContext<'_>,
        head: &RequestHead,
    ) -> Option<Duration> {
        let delay = settings.delay.as_ref()?;
        let share = delay.share.of(head);
        let random = &cx.worker.random;
        let of_cluster = |cluster: &DownstreamCluster| {
            cluster
                .delay_percent
                .contains_with_default(random.next(), share)
        };
        let enabled = settings
            .delay_percent
            .contains_with_default(random.next(), share)
            || self.cluster.as_deref().is_some_and(of_cluster);
        if !enabled {
            return None;
        }
        let configured = delay.millis(head)?;
        let mut millis = overridden(&settings.delay_duration, configured);
        if let Some(cluster) = &self.cluster {
            millis = overridden(&cluster.delay_duration, millis);
        }
        if millis == 0 || !self.try_begin(settings) {
            return None;
        }
        if let Some(cluster) = &self.cluster
            && !settings.disable_downstream_cluster_stats
        {
            cluster.delays_injected.inc();
        }
        self.shared.config.stats.delays_injected().inc();
        cx.info.response_flags.set(ResponseFlag::DelayInjected);
        settings.mark(cx.info);
        Some(Duration::from_millis(millis))
    }

    fn abort(
        &mut self,
        settings: &FaultSettings,
        cx: &mut StreamContext<'_>,
        head: &RequestHead,
    ) -> HeadersStatus {
        let Some(status) = self.abort_status(settings, cx, head) else {
            return HeadersStatus::Continue;
        };
        if !self.try_begin(settings) {
            return HeadersStatus::Continue;
        }
        if let Some(cluster) = &self.cluster
            && !settings.disable_downstream_cluster_stats
        {
            cluster.aborts_injected.inc();
        }
        self.shared.config.stats.aborts_injected().inc();
        cx.info.response_flags.set(ResponseFlag::FaultInjected);
        settings.mark(cx.info);
        let (http_status, grpc_status) = match status {
            AbortStatus::Http(status) => (status, None),
            AbortStatus::Grpc(status) => (200, Some(status)),
        };
        let mut reply = LocalReply::new(http_status, "fault_filter_abort")
            .with_body(settings.abort_body.clone());
        reply.grpc_status = grpc_status;
        HeadersStatus::LocalReply(reply)
    }

    /// What to answer with; none for no abort.
    fn abort_status(
        &self,
        settings: &FaultSettings,
        cx: &StreamContext<'_>,
        head: &RequestHead,
    ) -> Option<AbortStatus> {
        let abort = settings.abort.as_ref()?;
        let share = abort.share.of(head);
        let random = &cx.worker.random;
        let of_cluster = |cluster: &DownstreamCluster| {
            cluster
                .abort_percent
                .contains_with_default(random.next(), share)
        };
        let enabled = settings
            .abort_percent
            .contains_with_default(random.next(), share)
            || self.cluster.as_deref().is_some_and(of_cluster);
        if !enabled {
            return None;
        }
        let cluster = self.cluster.as_deref();
        let with = |own: &RuntimeInteger, of_cluster: Option<&RuntimeInteger>, status: u64| {
            let status = overridden(own, status);
            of_cluster.map_or(status, |key| overridden(key, status))
        };
        Some(match abort.status(head)? {
            AbortStatus::Http(status) => {
                let key = cluster.map(|c| &c.abort_http_status);
                let status = with(&settings.abort_http_status, key, status.into());
                // A runtime value may be any number; what is no status aborts as 503.
                AbortStatus::Http(
                    u16::try_from(status)
                        .ok()
                        .filter(|status| (200..=599).contains(status))
                        .unwrap_or(503),
                )
            }
            AbortStatus::Grpc(status) => {
                let key = cluster.map(|c| &c.abort_grpc_status);
                let status = with(&settings.abort_grpc_status, key, status.into());
                AbortStatus::Grpc(u32::try_from(status).unwrap_or(u32::MAX))
            }
        })
    }
}

/// Whether the settings are for this request at all.
fn applies(settings: &FaultSettings, cx: &StreamContext<'_>, head: &RequestHead) -> bool {
    if let Some(wanted) = settings.upstream_cluster {
        let clusters = &cx.worker.clusters;
        let route = cx.info.route.as_ref();
        if route.is_none_or(|route| route.cluster(head, clusters) != ClusterChoice::Id(wanted)) {
            return false;
        }
    }
    if !settings.downstream_nodes.is_empty() {
        let node = head.fields.get(Known::EnvoyDownstreamServiceNode);
        if node.is_none_or(|node| !settings.downstream_nodes.contains(node)) {
            return false;
        }
    }
    HeaderMatcher::all(&settings.headers, head)
}

fn overridden(key: &RuntimeInteger, value: u64) -> u64 {
    match key.get() {
        UNSET => value,
        other => other,
    }
}

#[cfg(test)]
mod tests;
