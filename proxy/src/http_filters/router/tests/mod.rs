//! Attempts behind filters.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::sync::Arc;

use bytes::BytesMut;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use tokio::sync::Notify;

use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::http::{Protocol, RequestHead};
use crate::http_connection_manager::HcmStats;
use crate::http_connection_manager::filter_chain::RouteResolver;
use crate::http_filters::chain_config::ChainConfig;
use crate::http_filters::{
    DataStatus, Effects, HeadersStatus, HttpFilter, HttpFilterConfig, Interests, StreamContext,
    TrailersStatus, WorkerHttpFilter,
};
use crate::net::Address;
use crate::route::{RouteTable, Selection};
use crate::server::{FactoryContext, InitManager, Worker};
use crate::stream_info::ConnectionInfo;
use crate::upstream::test_support::{Answer, TestWorker};

/// A router on a route to the cluster `backend`.
struct Harness {
    test: TestWorker,
    router: Router,
    info: StreamInfo,
    request: RequestHead,
    response: Option<ResponseHead>,
    effects: Effects,
}

struct NoRoutes;
impl RouteResolver for NoRoutes {
    fn resolve(&self, _: &mut RequestHead, _: &mut StreamInfo) -> Option<Rc<Arc<RouteTable>>> {
        None
    }
}

macro_rules! env {
    ($h:ident) => {
        &mut ChainEnv {
            info: &mut $h.info,
            worker: &$h.test.worker,
            request: &mut $h.request,
            response: &mut $h.response,
            routes: &NoRoutes,
            effects: &mut $h.effects,
        }
    };
}

impl Harness {
    fn new(cluster: &str, filters: ChainConfig, route: &str) -> Self {
        let test = TestWorker::new(&[("backend", cluster), ("mirror", "")]);
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "test");
        let cx = FactoryContext {
            server: &test.server,
            scope: &test.server.stats.scope(""),
            init: &InitManager::new("test"),
        };
        let yaml = format!(
            "virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, {route}}}]}}]"
        );
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let table: route_pb::RouteConfiguration = load(&[source], UnknownFields::Refuse).unwrap();
        let table = RouteTable::from_proto(table, &cx, &path);
        assert!(report.is_empty(), "{:?}", report.take());
        let table = Rc::new(Arc::new(table.unwrap()));
        let config = Arc::new(RouterConfig {
            dynamic_stats: true,
            suppress_envoy_headers: true,
            respect_expected_rq_timeout: false,
            strict_check_headers: Vec::new(),
            suppress_grpc_request_failure_code_stats: false,
            upstream_logs: Vec::new(),
            log_on_pool_ready: false,
            upstream_log_flush_interval: None,
            upstream_http_filters: filters,
        });
        let shared = WorkerRouter::new(config, HcmStats::of(cx.scope, "test"), &test.worker);
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let mut info = StreamInfo::new(
            ConnectionInfo::between(address(), address()).into(),
            1,
            Some(Protocol::Http11),
        );
        let mut request = RequestHead::new(Protocol::Http11, b"POST");
        request.set_path(b"/");
        request.set_authority(b"example.com");
        request.set_scheme(b"http");
        let Selection::Route(index) = table.select(&request, &info, 0) else {
            panic!("no route")
        };
        info.route = Some(SelectedRoute { table, index });
        info.cluster = test
            .worker
            .clusters
            .get(test.server.cluster_names.id("backend"));
        let router = Router::new(shared.into(), 1024 * 1024);
        Self {
            test,
            router,
            info,
            request,
            response: None,
            effects: Effects::default(),
        }
    }

    /// Sends the request, with this body.
    fn send(&mut self, body: &[&'static str]) -> Option<RouterEvent> {
        let h = self;
        let mut event = h.router.start(env!(h), EndStream::from(body.is_empty()));
        for (index, piece) in body.iter().enumerate() {
            let end = EndStream::from(index + 1 == body.len());
            event = event.or(h
                .router
                .data(env!(h), Bytes::from_static(piece.as_bytes()), end));
        }
        event
    }

    /// The next event other than progress.
    async fn next(&mut self) -> RouterEvent {
        let h = self;
        loop {
            let mut timer = None;
            // The deadline is asked for when the router has done what it can, as the pump does.
            let polled = poll_fn(|cx| {
                h.info.now = Instant::now();
                if let Poll::Ready(event) = h.router.poll(env!(h), cx) {
                    return Poll::Ready(Some(event));
                }
                let Some(deadline) = h.router.deadline() else {
                    return Poll::Pending;
                };
                let timer = timer.insert(Box::pin(tokio::time::sleep_until(deadline)));
                timer.as_mut().poll(cx).map(|()| None)
            })
            .await;
            let event = polled.or_else(|| h.router.on_deadline(Instant::now(), env!(h)));
            match event {
                Some(RouterEvent::Progress) | None => {}
                Some(event) => return event,
            }
        }
    }

    /// The response as text: status, fields `x-…`, body.
    async fn response(&mut self) -> String {
        let mut text = String::new();
        loop {
            let end = match self.next().await {
                RouterEvent::Head(head, end) => {
                    text.push_str(&head.status.to_string());
                    for (name, value) in head
                        .fields
                        .iter()
                        .filter(|(name, _)| name.starts_with(b"x-"))
                    {
                        text.push_str(&format!(
                            " {}={}",
                            String::from_utf8_lossy(name),
                            String::from_utf8_lossy(value)
                        ));
                    }
                    end
                }
                RouterEvent::Data(data, end) => {
                    text.push_str(&format!(" {}", String::from_utf8_lossy(&data)));
                    end
                }
                RouterEvent::Trailers(_) => EndStream::Yes,
                RouterEvent::LocalReply(reply) => {
                    return format!("reply {} {}", reply.status, reply.details);
                }
                other => return format!("{other:?}"),
            };
            if end.is_end() {
                self.router.finish(&mut self.info);
                return text;
            }
        }
    }
}

const FORWARD: &str = "route: {cluster: backend}";
const RETRY: &str = "route: {cluster: backend, retry_policy: {retry_on: 5xx}}";

/// `HttpProtocolOptions` with these filters before the codec.
fn filters(filters: &str) -> String {
    let at = "'@type': type.googleapis.com/envoy.extensions";
    let codec = format!(
        "{{name: codec, typed_config: {{{at}.filters.http.upstream_codec.v3.UpstreamCodec}}}}"
    );
    let comma = if filters.is_empty() { "" } else { ", " };
    format!(
        "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{{at}.upstreams.http.v3.HttpProtocolOptions, \
         explicit_http_config: {{http_protocol_options: {{}}}}, http_filters: [{filters}{comma}{codec}]}}}}"
    )
}

/// Adds a field to requests and one to responses.
const MUTATION: &str = "{name: mutation, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, \
    mutations: {request_mutations: [{append: {header: {key: x-in, value: a}, append_action: APPEND_IF_EXISTS_OR_ADD}}], \
    response_mutations: [{append: {header: {key: x-out, value: b}}}]}}}";
const BUFFER: &str = "{name: buffer, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 4}}";

/// A filter that notes what it sees, and waits with the heads if it is told to.
#[derive(Clone, Default)]
struct Probe {
    calls: Rc<RefCell<Vec<String>>>,
    wait: Option<Rc<Notify>>,
    reply: bool,
}

struct ProbeConfig;

thread_local! {
    static PROBE: RefCell<Probe> = RefCell::default();
}

impl HttpFilterConfig for ProbeConfig {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        Box::new(|| Box::new(PROBE.with_borrow(Probe::clone)) as Box<dyn HttpFilter>)
    }
}

impl Probe {
    /// A chain of the router's own with this filter in it. Each test has a thread of its own.
    fn chain(self) -> ChainConfig {
        PROBE.set(self);
        ChainConfig::of(Arc::new(ProbeConfig))
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.borrow_mut().push(call.into());
    }

    fn waited(&self) -> HeadersStatus {
        match self.wait.clone() {
            Some(wait) => HeadersStatus::Wait(Box::pin(async move { wait.notified().await })),
            None => HeadersStatus::Continue,
        }
    }
}

impl HttpFilter for Probe {
    fn interests(&self) -> Interests {
        let all = [
            Interests::DECODE_DATA,
            Interests::DECODE_TRAILERS,
            Interests::ENCODE_HEADERS,
            Interests::ENCODE_DATA,
            Interests::COMPLETE,
        ];
        all.into_iter()
            .fold(Interests::DECODE_HEADERS, Interests::and)
    }
    fn decode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        _: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        self.note(format!("head {}", end.is_end()));
        self.waited()
    }
    fn decode_data(
        &mut self,
        _: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        self.note(format!(
            "data {} {}",
            String::from_utf8_lossy(data),
            end.is_end()
        ));
        DataStatus::Continue
    }
    fn decode_trailers(
        &mut self,
        _: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        self.note("trailers");
        trailers.append("x-filtered", "1");
        TrailersStatus::Continue
    }
    fn encode_1xx(&mut self, _: &mut StreamContext<'_>, head: &mut ResponseHead) {
        self.note(head.status.to_string());
    }
    fn encode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.note(head.status.to_string());
        if self.reply {
            HeadersStatus::LocalReply(LocalReply::new(418, "teapot"))
        } else {
            self.waited()
        }
    }
    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        assert!(
            cx.response.is_some(),
            "the head can be seen while the body passes"
        );
        let mut upper = BytesMut::from(&**data);
        upper.make_ascii_uppercase();
        *data = upper.freeze();
        DataStatus::Continue
    }
    fn on_stream_complete(&mut self, _: &mut StreamInfo) {
        self.note("complete");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_upstream_filter_changes_request_and_response() {
    let mut h = Harness::new(&filters(MUTATION), ChainConfig::default(), FORWARD);
    h.test.backends.respond(200, "", "hello");
    assert!(h.send(&[]).is_none());
    assert_eq!(h.response().await, "200 x-out=b hello");
    assert!(h.test.backends.request().unwrap().contains("x-in: a\r\n"));
    assert!(
        !h.request.fields.contains("x-in"),
        "the head of the stream stays as it is"
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_retry_starts_from_the_unfiltered_request() {
    let mut h = Harness::new(&filters(MUTATION), ChainConfig::default(), RETRY);
    h.test.backends.respond(503, "", "no");
    h.test.backends.respond(200, "", "yes");
    h.send(&["some ", "body"]);
    assert_eq!(h.response().await, "200 x-out=b yes");
    for _ in 0..2 {
        let request = h.test.backends.request().unwrap();
        assert_eq!(request.matches("x-in: a\r\n").count(), 1, "{request}");
        assert!(
            request.contains("some ") && request.contains("body"),
            "{request}"
        );
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_buffering_upstream_filter_answers_413_when_too_much_comes() {
    let mut h = Harness::new(&filters(BUFFER), ChainConfig::default(), RETRY);
    match h.send(&["123", "45", "6"]) {
        Some(RouterEvent::LocalReply(reply)) => assert_eq!(
            (reply.status, &*reply.details),
            (413, "request_payload_too_large")
        ),
        other => panic!("{other:?}"),
    }
    h.router.abandon();
    let mut h = Harness::new(&filters(BUFFER), ChainConfig::default(), FORWARD);
    h.test.backends.respond(200, "", "");
    assert!(h.send(&["12", "3"]).is_none());
    assert_eq!(h.response().await, "200");
    assert!(
        h.test
            .backends
            .request()
            .unwrap()
            .contains("content-length: 3"),
        "the whole length is known"
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_route_configures_an_upstream_filter_by_its_name() {
    let route = "route: {cluster: backend}, typed_per_filter_config: {mutation: {'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, \
        mutations: {request_mutations: [{append: {header: {key: x-route, value: r}}}]}}}";
    let mut h = Harness::new(&filters(MUTATION), ChainConfig::default(), route);
    h.test.backends.respond(200, "", "");
    h.send(&[]);
    h.response().await;
    assert!(
        h.test
            .backends
            .request()
            .unwrap()
            .contains("x-route: r\r\n")
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_list_of_a_cluster_takes_the_place_of_the_routers() {
    let probe = Probe::default();
    let mut h = Harness::new(&filters(""), probe.clone().chain(), FORWARD);
    h.test.backends.respond(200, "", "");
    h.send(&[]);
    assert_eq!(h.response().await, "200");
    assert!(probe.calls.borrow().is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_filter_sees_everything_of_its_attempt_and_the_end_once() {
    let probe = Probe::default();
    let mut h = Harness::new("", probe.clone().chain(), FORWARD);
    let response = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    h.test.backends.answer(Answer::With(response.into()));
    h.send(&["a", "b"]);
    assert!(matches!(h.next().await, RouterEvent::Informational(head) if head.status == 103));
    assert_eq!(h.response().await, "200 HI");
    h.router.finish(&mut h.info);
    assert_eq!(
        *probe.calls.borrow(),
        [
            "head false",
            "data a false",
            "data b true",
            "103",
            "200",
            "complete"
        ]
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_filter_may_wait_with_either_head() {
    let probe = Probe {
        wait: Some(Rc::default()),
        ..Probe::default()
    };
    let wait = probe.wait.clone().unwrap();
    let mut h = Harness::new("", probe.clone().chain(), FORWARD);
    h.test.backends.respond(200, "", "hi");
    h.send(&["body"]);
    for round in 0..2 {
        let waited = tokio::time::timeout(Duration::from_secs(1), h.next()).await;
        assert!(waited.is_err(), "{round}: {waited:?}");
        assert_eq!(
            h.test.backends.request().is_some(),
            round == 1,
            "the upstream sees nothing before"
        );
        wait.notify_one();
    }
    assert_eq!(h.response().await, "200 HI");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_answer_of_an_upstream_filter_is_final() {
    let probe = Probe {
        reply: true,
        ..Probe::default()
    };
    let mut h = Harness::new("", probe.clone().chain(), RETRY);
    h.test.backends.respond(503, "", "no");
    h.send(&[]);
    assert_eq!(h.response().await, "reply 418 teapot");
    h.router.abandon();
    assert_eq!(
        *probe.calls.borrow(),
        ["head true", "503"],
        "nothing more can be said to the client yet"
    );
    h.router.finish(&mut h.info);
    assert_eq!(probe.calls.borrow().last().unwrap(), "complete");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn trailers_pass_upstream_filters() {
    let probe = Probe::default();
    let mut h = Harness::new("", probe.clone().chain(), FORWARD);
    h.test.backends.respond(200, "", "");
    let options = &mut h;
    options.router.start(env!(options), EndStream::No);
    options
        .router
        .data(env!(options), Bytes::from_static(b"x"), EndStream::No);
    let mut trailers = Fields::new();
    trailers.append("x-end", "1");
    options.router.trailers(env!(options), trailers);
    assert_eq!(h.response().await, "200");
    assert_eq!(
        probe.calls.borrow()[..3],
        ["head false", "data x false", "trailers"]
    );
}

const MIRROR: &str = "route: {cluster: backend, request_mirror_policies: [{cluster: mirror}]}";

/// The next two requests: the client's own, and its copy.
async fn both(h: &Harness) -> [String; 2] {
    let mut requests = Vec::new();
    while requests.len() < 2 {
        requests.extend(h.test.backends.request());
        tokio::task::yield_now().await;
    }
    requests.sort_by_key(|request| request.contains("-shadow"));
    requests.try_into().unwrap()
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_mirrored_request_goes_to_both_clusters_with_its_body() {
    let mut h = Harness::new("", ChainConfig::default(), MIRROR);
    h.test.backends.respond(200, "", "one");
    h.test.backends.respond(200, "", "one");
    h.send(&["some ", "body"]);
    assert_eq!(h.response().await, "200 one");
    let [own, copy] = both(&h).await;
    assert!(!own.contains("x-envoy-internal"), "{own}");
    assert!(
        copy.contains("host: example.com-shadow\r\n")
            && copy.contains("x-envoy-internal: true\r\n"),
        "{copy}"
    );
    for request in [own, copy] {
        assert!(
            request.contains("some ") && request.contains("body"),
            "{request}"
        );
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    for stat in [
        "upstream_rq_total",
        "upstream_rq_completed",
        "internal.upstream_rq_200",
    ] {
        assert_eq!(h.test.stat(&format!("cluster.mirror.{stat}")), 1, "{stat}");
    }
    assert_eq!(h.test.stat("cluster.mirror.upstream_rq_active"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_the_mirror_does_changes_nothing_for_the_client() {
    let mut h = Harness::new("", ChainConfig::default(), MIRROR);
    h.test.backends.answer(Answer::Never);
    h.test.backends.answer(Answer::Never);
    h.send(&[]);
    // Neither is answered.
    let waited = tokio::time::timeout(Duration::from_secs(14), h.next()).await;
    assert!(waited.is_err());
    assert!(matches!(h.next().await, RouterEvent::LocalReply(reply) if reply.status == 504));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_copy_breaks_off_with_its_request() {
    let mut h = Harness::new("", ChainConfig::default(), MIRROR);
    h.router.start(env!(h), EndStream::No);
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_millis(1), h.next()).await;
    }
    assert_eq!(h.test.stat("cluster.mirror.upstream_rq_active"), 1);
    h.router.abandon();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(h.test.stat("cluster.mirror.upstream_rq_active"), 0);
    // Over HTTP/1 it ends with its connection, which Envoy does not count.
    assert_eq!(h.test.stat("cluster.mirror.upstream_rq_tx_reset"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_fraction_of_nothing_mirrors_nothing() {
    let route = "route: {cluster: backend, request_mirror_policies: [{cluster: mirror, runtime_fraction: {default_value: {numerator: 0}}}]}";
    let mut h = Harness::new("", ChainConfig::default(), route);
    h.test.backends.respond(200, "", "");
    h.send(&[]);
    assert_eq!(h.response().await, "200");
    assert_eq!(h.test.stat("cluster.mirror.upstream_rq_total"), 0);
}

mod attempts;
