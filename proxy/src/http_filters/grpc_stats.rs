//! `envoy.filters.http.grpc_stats`: counts calls and messages of gRPC, per cluster, service and method.
//!
//! Type URL: `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_stats_filter>
//! Stats: `cluster.<name>.grpc.[<service>.<method>.]{<status>,success,failure,total,request_message_count,`
//! `response_message_count,upstream_rq_time}`. Filter state: `envoy.filters.http.grpc_stats`.
//!
//! Deviations: calls of the Connect protocol are not counted.
//! Deviations: a worker counts the first 1000 methods of a cluster under their names, and all others without; Envoy all.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3::{GrpcMethodList, grpc_method_list::Service};
use outrigger_proto::pb::envoy::extensions::filters::http::grpc_stats::v3 as pb;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::route::ClusterChoice;
use crate::server::{FactoryContext, Worker};
use crate::stats::{Counter, Histogram, Scope, Unit};
use crate::stream_info::{FilterStateObject, StreamInfo};
use crate::upstream::ClusterId;

/// Makes gRPC stats filters.
pub(super) struct Factory;

const FILTER_STATE: &str = "envoy.filters.http.grpc_stats";
/// How many methods of a cluster a worker counts by name.
const MOST_METHODS: usize = 1000;
/// How many statuses that are no number of gRPC's a method has stats for.
const MOST_STATUSES: usize = 32;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.grpc_stats"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        use pb::filter_config::PerMethodStatSpecifier;
        let pb::FilterConfig {
            emit_filter_state,
            enable_upstream_stats,
            replace_dots_in_grpc_service_name,
            per_method_stat_specifier,
        } = config.decode(path)?;
        let methods = match per_method_stat_specifier {
            None => Methods::None,
            Some(PerMethodStatSpecifier::StatsForAllMethods(all)) if all.value => Methods::All {
                replace_dots: replace_dots_in_grpc_service_name,
            },
            Some(PerMethodStatSpecifier::StatsForAllMethods(_)) => Methods::None,
            Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => Methods::Listed(
                listed(list, &path.field("individual_method_stats_allowlist"))?,
            ),
        };
        Ok(Arc::new(Config {
            emit_filter_state,
            enable_upstream_stats,
            methods,
        }))
    }
}

fn listed(
    list: GrpcMethodList,
    path: &ConfigPath<'_>,
) -> Result<HashMap<Box<str>, HashSet<Box<str>>>, Rejected> {
    let GrpcMethodList { services } = list;
    let services = path.each("services", services, |service, path| {
        let Service { name, method_names } = service;
        let name = path.non_empty("name", name);
        if method_names.is_empty() {
            return Err(path.field("method_names").reject("must not be empty"));
        }
        Ok((name?, method_names))
    })?;
    let mut out = HashMap::<Box<str>, HashSet<Box<str>>>::new();
    for (name, methods) in services {
        let listed = out.entry(name.into()).or_default();
        listed.extend(methods.into_iter().map(Box::from));
    }
    Ok(out)
}

struct Config {
    emit_filter_state: bool,
    enable_upstream_stats: bool,
    methods: Methods,
}

/// Which methods are counted by name.
enum Methods {
    None,
    All {
        /// Writes the dots of service names as underscores.
        replace_dots: bool,
    },
    /// By service.
    Listed(HashMap<Box<str>, HashSet<Box<str>>>),
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let shared = Rc::new(Shared {
            config: self,
            clusters: RefCell::default(),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(GrpcStats {
                shared: shared.clone(),
                stats: None,
                is_grpc: false,
                is_grpc_response: false,
                counts: Rc::default(),
                request: FrameCounter::default(),
                response: FrameCounter::default(),
                emitted: false,
            })
        })
    }
}

/// What the streams of one worker share.
struct Shared {
    config: Arc<Config>,
    clusters: RefCell<HashMap<ClusterId, Rc<ClusterStats>>>,
}

struct ClusterStats {
    /// `cluster.<name>.grpc.`
    scope: Scope,
    /// Of calls that are not counted by name.
    unnamed: Rc<MethodStats>,
    /// By path, as clients ask for it.
    named: RefCell<HashMap<Box<[u8]>, Rc<MethodStats>>>,
}

/// Stats of one method; each is made when first counted, as in Envoy.
struct MethodStats {
    scope: Scope,
    success: OnceCell<Counter>,
    failure: OnceCell<Counter>,
    total: OnceCell<Counter>,
    request_message_count: OnceCell<Counter>,
    response_message_count: OnceCell<Counter>,
    upstream_rq_time: OnceCell<Histogram>,
    statuses: RefCell<HashMap<Box<[u8]>, Counter>>,
}

impl Shared {
    fn stats(&self, cx: &StreamContext<'_>, head: &RequestHead) -> Option<Rc<MethodStats>> {
        let (service, method) = names(head)?;
        let route = cx.info.route.as_ref()?;
        let ClusterChoice::Id(id) = route.cluster(head, &cx.worker.clusters) else {
            return None;
        };
        let known = self.clusters.borrow().get(&id).cloned();
        let cluster = match known {
            Some(cluster) => cluster,
            None => {
                let cluster = cx.worker.clusters.get(id)?;
                let stats = Rc::new(ClusterStats::new(cluster.info().scope.scope("grpc.")));
                self.clusters.borrow_mut().insert(id, stats.clone());
                stats
            }
        };
        let replace_dots = match &self.config.methods {
            Methods::None => return Some(cluster.unnamed.clone()),
            Methods::All { replace_dots } => *replace_dots,
            Methods::Listed(list) => {
                if !list.get(service).is_some_and(|list| list.contains(method)) {
                    return Some(cluster.unnamed.clone());
                }
                false
            }
        };
        Some(cluster.method(head.path().unwrap_or_default(), || {
            if replace_dots {
                format!("{}.{method}.", service.replace('.', "_"))
            } else {
                format!("{service}.{method}.")
            }
        }))
    }
}

/// Service and method: the two parts of the path.
fn names(head: &RequestHead) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(head.path_without_query()).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let names = (parts.next()?, parts.next()?);
    parts.next().is_none().then_some(names)
}

impl ClusterStats {
    fn new(scope: Scope) -> Self {
        Self {
            unnamed: Rc::new(MethodStats::new(scope.clone())),
            scope,
            named: RefCell::default(),
        }
    }

    fn method(&self, path: &[u8], name: impl FnOnce() -> String) -> Rc<MethodStats> {
        if let Some(stats) = self.named.borrow().get(path) {
            return stats.clone();
        }
        let mut named = self.named.borrow_mut();
        if named.len() >= MOST_METHODS {
            return self.unnamed.clone();
        }
        let stats = Rc::new(MethodStats::new(self.scope.scope(&name())));
        named.insert(path.into(), stats.clone());
        stats
    }
}

impl MethodStats {
    fn new(scope: Scope) -> Self {
        Self {
            scope,
            success: OnceCell::new(),
            failure: OnceCell::new(),
            total: OnceCell::new(),
            request_message_count: OnceCell::new(),
            response_message_count: OnceCell::new(),
            upstream_rq_time: OnceCell::new(),
            statuses: RefCell::default(),
        }
    }

    fn count(&self, cell: &OnceCell<Counter>, name: &str, n: u64) {
        cell.get_or_init(|| self.scope.counter(name)).add(n);
    }

    fn charge_status(&self, status: &[u8]) {
        let mut statuses = self.statuses.borrow_mut();
        if let Some(counter) = statuses.get(status) {
            counter.inc();
        } else if statuses.len() < MOST_STATUSES {
            let name = String::from_utf8_lossy(status);
            let counter = self.scope.counter(&name);
            counter.inc();
            statuses.insert(status.into(), counter);
        }
        if status == b"0" {
            self.count(&self.success, "success", 1);
        } else {
            self.count(&self.failure, "failure", 1);
        }
        self.count(&self.total, "total", 1);
    }

    fn charge_time(&self, info: &StreamInfo) {
        let timing = &info.timing;
        let (Some(sent), Some(received)) =
            (timing.last_upstream_tx_byte, timing.last_upstream_rx_byte)
        else {
            return;
        };
        let took = received.saturating_duration_since(sent).as_millis();
        self.upstream_rq_time
            .get_or_init(|| self.scope.histogram("upstream_rq_time", Unit::Milliseconds))
            .get()
            .record(u64::try_from(took).unwrap_or(u64::MAX));
    }
}

/// Counts the messages of a body: each has a byte of flags, four bytes of length, and so many bytes.
#[derive(Debug, Default)]
struct FrameCounter {
    frames: u64,
    /// How many bytes of the head of a frame have come: 0..=4.
    head: u8,
    length: u32,
    /// How many bytes of the frame are still to come.
    left: u32,
}

impl FrameCounter {
    /// Looks at the next piece, wherever it was cut; says how many messages begin in it.
    fn inspect(&mut self, mut data: &[u8]) -> u64 {
        let before = self.frames;
        while let Some((&byte, rest)) = data.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                data = &data[skipped..];
                continue;
            }
            data = rest;
            if self.head == 0 {
                self.frames += 1;
                self.length = 0;
                self.head = 1;
                continue;
            }
            self.length = self.length << 8 | u32::from(byte);
            self.head += 1;
            if self.head == 5 {
                self.head = 0;
                self.left = self.length;
            }
        }
        self.frames - before
    }
}

/// What the filter leaves for logs: how many messages went each way.
#[derive(Debug, Default)]
struct MessageCounts {
    request: Cell<u64>,
    response: Cell<u64>,
}

impl FilterStateObject for Rc<MessageCounts> {
    fn serialize_as_string(&self) -> Option<String> {
        Some(format!("{},{}", self.request.get(), self.response.get()))
    }

    /// As the `FilterObject` of the API: 64 bits are text in JSON, and 0 is left out.
    fn serialize_as_json(&self) -> Option<serde_json::Value> {
        let mut map = serde_json::Map::new();
        for (name, count) in [
            ("requestMessageCount", self.request.get()),
            ("responseMessageCount", self.response.get()),
        ] {
            if count > 0 {
                map.insert(name.to_owned(), count.to_string().into());
            }
        }
        Some(map.into())
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "request_message_count" => Some(self.request.get().to_string()),
            "response_message_count" => Some(self.response.get().to_string()),
            _ => None,
        }
    }
}

struct GrpcStats {
    shared: Rc<Shared>,
    /// None: the call is not counted.
    stats: Option<Rc<MethodStats>>,
    is_grpc: bool,
    is_grpc_response: bool,
    counts: Rc<MessageCounts>,
    request: FrameCounter,
    response: FrameCounter,
    /// Whether the counts stand in the filter state.
    emitted: bool,
}

impl HttpFilter for GrpcStats {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.is_grpc = head.is_grpc();
        if self.is_grpc {
            self.stats = self.shared.stats(cx, head);
        }
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        if self.is_grpc {
            let messages = self.request.inspect(data);
            if messages > 0 {
                self.emit(cx.info);
                if let Some(stats) = &self.stats {
                    stats.count(
                        &stats.request_message_count,
                        "request_message_count",
                        messages,
                    );
                }
            }
        }
        DataStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        let status = head.fields.get(Known::GrpcStatus);
        self.is_grpc_response = if end.is_end() {
            status.is_some()
        } else {
            head.status == 200 && head.is_grpc()
        };
        if let Some(stats) = &self.stats {
            if let Some(status) = status {
                stats.charge_status(status);
            }
            if end.is_end() && self.shared.config.enable_upstream_stats {
                stats.charge_time(cx.info);
            }
        }
        HeadersStatus::Continue
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        if self.is_grpc_response {
            let messages = self.response.inspect(data);
            if messages > 0 {
                self.emit(cx.info);
                if let Some(stats) = &self.stats {
                    stats.count(
                        &stats.response_message_count,
                        "response_message_count",
                        messages,
                    );
                }
            }
        }
        DataStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if let Some(stats) = &self.stats {
            if let Some(status) = trailers.get(Known::GrpcStatus) {
                stats.charge_status(status);
            }
            if self.shared.config.enable_upstream_stats {
                stats.charge_time(cx.info);
            }
        }
        TrailersStatus::Continue
    }
}

impl GrpcStats {
    fn emit(&mut self, info: &mut StreamInfo) {
        if !self.shared.config.emit_filter_state {
            return;
        }
        self.counts.request.set(self.request.frames);
        self.counts.response.set(self.response.frames);
        if !self.emitted {
            self.emitted = true;
            let object: Rc<dyn FilterStateObject> = Rc::new(self.counts.clone());
            info.filter_state.set(FILTER_STATE, object);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_proto::pb::google::protobuf::BoolValue;
    use proptest::prelude::*;

    use super::super::test_support::{Harness, TestStream, errors};
    use super::*;

    const CLUSTER: &str = "{name: backend, type: STATIC}";

    fn all_methods() -> pb::FilterConfig {
        pb::FilterConfig {
            per_method_stat_specifier: Some(
                pb::filter_config::PerMethodStatSpecifier::StatsForAllMethods(BoolValue {
                    value: true,
                }),
            ),
            ..Default::default()
        }
    }

    fn allowlist() -> pb::FilterConfig {
        pb::FilterConfig {
            per_method_stat_specifier: Some(
                pb::filter_config::PerMethodStatSpecifier::IndividualMethodStatsAllowlist(
                    GrpcMethodList {
                        services: vec![Service {
                            name: "pkg.Echo".to_owned(),
                            method_names: vec!["Say".to_owned()],
                        }],
                    },
                ),
            ),
            ..Default::default()
        }
    }

    fn call(harness: &Harness, path: &str) -> TestStream {
        let fields = [(":path", path), ("content-type", "application/grpc")];
        let mut stream = harness.stream_with(&fields);
        assert!(stream.decode_headers(false).is_continue());
        stream
            .response
            .fields
            .append("content-type", "application/grpc");
        stream
    }

    fn finish(stream: &mut TestStream, status: &str) {
        let mut trailers = Fields::new();
        trailers.append("grpc-status", status);
        stream.encode_trailers(&mut trailers);
    }

    fn frame(length: usize) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        out.resize(5 + length, b'x');
        out
    }

    #[test]
    fn calls_and_messages_are_counted_by_method() {
        let harness = Harness::with_cluster(&all_methods(), CLUSTER);
        let mut stream = call(&harness, "/pkg.Echo/Say?x=1");
        let body = String::from_utf8([frame(3), frame(0)].concat()).unwrap();
        stream.decode_data(&body, true);
        stream.encode_headers(false);
        stream.encode_data(frame(10), false);
        finish(&mut stream, "0");
        let mut stream = call(&harness, "/pkg.Echo/Say");
        stream.encode_headers(false);
        finish(&mut stream, "14");
        for (name, value) in [
            ("request_message_count", 2),
            ("response_message_count", 1),
            ("0", 1),
            ("14", 1),
            ("success", 1),
            ("failure", 1),
            ("total", 2),
        ] {
            let full = format!("cluster.backend.grpc.pkg.Echo.Say.{name}");
            assert_eq!(harness.stat(&full), value, "{name}");
        }
    }

    #[test]
    fn a_status_in_the_head_counts_when_the_response_is_nothing_but_it() {
        let harness = Harness::with_cluster(&all_methods(), CLUSTER);
        let mut stream = call(&harness, "/pkg.Echo/Say");
        stream.response.fields.append("grpc-status", "7");
        stream.encode_headers(true);
        assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.7"), 1);
        assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.failure"), 1);
    }

    #[test]
    fn methods_that_are_not_listed_are_counted_without_their_names() {
        let harness = Harness::with_cluster(&allowlist(), CLUSTER);
        for path in ["/pkg.Echo/Say", "/pkg.Echo/Other", "/other.Echo/Say"] {
            finish(&mut call(&harness, path), "0");
        }
        finish(&mut call(&harness, "/not/a/call"), "0");
        assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.success"), 1);
        assert_eq!(harness.stat("cluster.backend.grpc.success"), 2);
        let harness = Harness::with_cluster(&pb::FilterConfig::default(), CLUSTER);
        finish(&mut call(&harness, "/pkg.Echo/Say"), "0");
        assert_eq!(harness.stat("cluster.backend.grpc.success"), 1);
    }

    #[test]
    fn dots_of_services_become_underscores_where_configured() {
        let config = pb::FilterConfig {
            replace_dots_in_grpc_service_name: true,
            ..all_methods()
        };
        let harness = Harness::with_cluster(&config, CLUSTER);
        finish(&mut call(&harness, "/pkg.Echo/Say"), "0");
        assert_eq!(harness.stat("cluster.backend.grpc.pkg_Echo.Say.total"), 1);
    }

    #[test]
    fn names_of_methods_cannot_fill_the_memory() {
        let harness = Harness::with_cluster(&all_methods(), CLUSTER);
        for n in 0..1010 {
            finish(&mut call(&harness, &format!("/pkg.Echo/Say{n}")), "0");
        }
        assert_eq!(
            harness.stat("cluster.backend.grpc.pkg.Echo.Say999.total"),
            1
        );
        assert_eq!(harness.stat("cluster.backend.grpc.total"), 10);
    }

    #[test]
    fn what_is_no_grpc_is_not_counted() {
        let harness = Harness::with_cluster(&all_methods(), CLUSTER);
        let mut stream = harness.stream_with(&[(":path", "/pkg.Echo/Say")]);
        stream.decode_headers(false);
        stream.decode_data("xxxxxxxx", true);
        finish(&mut stream, "0");
        assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.total"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_upstream_is_recorded_where_configured() {
        let config = pb::FilterConfig {
            enable_upstream_stats: true,
            ..pb::FilterConfig::default()
        };
        let harness = Harness::with_cluster(&config, CLUSTER);
        let mut stream = call(&harness, "/pkg.Echo/Say");
        stream.info.timing.last_upstream_tx_byte = Some(stream.info.start);
        stream.info.timing.last_upstream_rx_byte =
            Some(stream.info.start + Duration::from_millis(30));
        finish(&mut stream, "0");
        let scope = harness.server.stats.scope("cluster.backend.grpc.");
        let histogram = scope.histogram("upstream_rq_time", Unit::Milliseconds);
        assert_eq!(histogram.get().snapshot().count(), 1);
    }

    #[test]
    fn logs_can_read_the_counts_of_messages() {
        let config = pb::FilterConfig {
            emit_filter_state: true,
            ..pb::FilterConfig::default()
        };
        let harness = Harness::with_cluster(&config, CLUSTER);
        let mut stream = call(&harness, "/pkg.Echo/Say");
        assert!(stream.info.filter_state.get(FILTER_STATE).is_none());
        stream.decode_data(std::str::from_utf8(&frame(1)).unwrap(), true);
        stream.encode_headers(false);
        stream.encode_data([frame(1), frame(2)].concat(), false);
        let object = stream.info.filter_state.get(FILTER_STATE).unwrap();
        assert_eq!(object.serialize_as_string().as_deref(), Some("1,2"));
        assert_eq!(object.field("response_message_count").as_deref(), Some("2"));
        assert_eq!(
            object.serialize_as_json().unwrap().to_string(),
            r#"{"requestMessageCount":"1","responseMessageCount":"2"}"#
        );
    }

    #[test]
    fn an_empty_list_of_methods_is_refused() {
        let mut config = allowlist();
        if let Some(pb::filter_config::PerMethodStatSpecifier::IndividualMethodStatsAllowlist(
            list,
        )) = &mut config.per_method_stat_specifier
        {
            list.services[0].method_names.clear();
        }
        assert_eq!(
            errors(&config),
            [
                "config / individual_method_stats_allowlist / services[0] / method_names: 0 elements: has to have at least 1 elements"
            ]
        );
    }

    proptest! {
        #[test]
        fn messages_are_counted_wherever_the_body_is_cut(
            lengths in prop::collection::vec(0usize..40, 0..12),
            cuts in prop::collection::vec(1usize..17, 1..60),
        ) {
            let body: Vec<u8> = lengths.iter().flat_map(|length| frame(*length)).collect();
            let mut counter = FrameCounter::default();
            let (mut rest, mut sum) = (&body[..], 0);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                sum += counter.inspect(piece);
                rest = after;
            }
            prop_assert_eq!(sum, lengths.len() as u64);
            prop_assert_eq!(counter.frames, lengths.len() as u64);
        }
    }
}
