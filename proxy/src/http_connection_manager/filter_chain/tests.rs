//! Every status, in both directions.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::http::Protocol;
use crate::http_filters::{DataStatus, HeadersStatus, TrailersStatus};
use crate::net::Address;
use crate::server::{LocalInfo, ServerContext};
use crate::stream_info::ConnectionInfo;
use crate::upstream::WorkerClusters;

/// A filter made of closures, which notes its calls.
struct Scripted {
    name: &'static str,
    calls: Rc<RefCell<Vec<String>>>,
    headers: fn() -> HeadersStatus,
    data: fn(&mut StreamContext<'_>, &mut Bytes, EndStream) -> DataStatus,
    trailers: fn() -> TrailersStatus,
}

impl Scripted {
    fn note(&self, call: &str) {
        self.calls
            .borrow_mut()
            .push(format!("{}:{call}", self.name));
    }
}

impl HttpFilter for Scripted {
    fn interests(&self) -> Interests {
        [
            Interests::DECODE_DATA,
            Interests::DECODE_TRAILERS,
            Interests::ENCODE_HEADERS,
            Interests::ENCODE_DATA,
        ]
        .into_iter()
        .fold(Interests::DECODE_HEADERS, Interests::and)
    }
    fn decode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        _: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.note("head");
        (self.headers)()
    }
    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        self.note(&format!(
            "data {} {}",
            String::from_utf8_lossy(data),
            end.is_end()
        ));
        (self.data)(cx, data, end)
    }
    fn decode_trailers(&mut self, _: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        self.note("trailers");
        (self.trailers)()
    }
    fn encode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        _: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.note("response head");
        HeadersStatus::Continue
    }
}

/// A chain with everything around it.
struct Harness {
    filters: Filters,
    chain: Chain<Decode>,
    calls: Rc<RefCell<Vec<String>>>,
    worker: Rc<Worker>,
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

impl Harness {
    fn new() -> Self {
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        Self {
            filters: Filters::default(),
            chain: Chain::default(),
            calls: Rc::default(),
            worker: Worker::new(0, server, WorkerClusters::default(), 1),
            info: StreamInfo::new(
                ConnectionInfo::between(address(), address()).into(),
                1,
                Some(Protocol::Http11),
            ),
            request: RequestHead::new(Protocol::Http11, b"POST"),
            response: None,
            effects: Effects::default(),
        }
    }

    fn filter(
        mut self,
        name: &'static str,
        headers: fn() -> HeadersStatus,
        data: fn(&mut StreamContext<'_>, &mut Bytes, EndStream) -> DataStatus,
    ) -> Self {
        let calls = self.calls.clone();
        self.filters.push(
            Box::new(Scripted {
                name,
                calls,
                headers,
                data,
                trailers: || TrailersStatus::Continue,
            }),
            0,
            None,
        );
        self
    }

    fn run<T>(
        &mut self,
        call: impl FnOnce(&mut Chain<Decode>, &mut Filters, &mut ChainEnv<'_>) -> T,
    ) -> T {
        let mut env = ChainEnv {
            info: &mut self.info,
            worker: &self.worker,
            request: &mut self.request,
            response: &mut self.response,
            routes: &NoRoutes,
            effects: &mut self.effects,
        };
        call(&mut self.chain, &mut self.filters, &mut env)
    }

    fn head(&mut self, end: bool) -> Flow {
        self.run(|chain, filters, env| chain.headers(filters, env, end.into()))
    }

    fn data(&mut self, text: &'static str, end: bool) -> Flow {
        self.run(|chain, filters, env| {
            chain.data(
                filters,
                env,
                Bytes::from_static(text.as_bytes()),
                end.into(),
                10,
            )
        })
    }

    fn trailers(&mut self) -> Flow {
        self.run(|chain, filters, env| chain.trailers(filters, env, Fields::new()))
    }

    async fn wait(&mut self) -> Flow {
        poll_fn(|cx| self.run(|chain, filters, env| chain.poll_waits(filters, env, cx))).await
    }

    /// What has come out, as text.
    fn out(&mut self) -> Vec<String> {
        self.chain
            .take()
            .into_iter()
            .map(|piece| match piece {
                Piece::Head(end) => format!("head {}", end.is_end()),
                Piece::Data(data, end) => {
                    format!("data {} {}", String::from_utf8_lossy(&data), end.is_end())
                }
                Piece::Trailers(_) => "trailers".to_owned(),
            })
            .collect()
    }
}

fn go_on() -> HeadersStatus {
    HeadersStatus::Continue
}

fn pass(_: &mut StreamContext<'_>, _: &mut Bytes, _: EndStream) -> DataStatus {
    DataStatus::Continue
}

fn until_end(_: &mut StreamContext<'_>, _: &mut Bytes, end: EndStream) -> DataStatus {
    if end.is_end() {
        DataStatus::Continue
    } else {
        DataStatus::StopIterationAndBuffer
    }
}

#[tokio::test]
async fn a_message_passes_filters_in_their_order() {
    let mut h = Harness::new()
        .filter("a", go_on, pass)
        .filter("b", go_on, pass);
    let _ = (h.head(false), h.data("x", false), h.trailers());
    assert_eq!(h.out(), ["head false", "data x false", "trailers"]);
    assert_eq!(
        *h.calls.borrow(),
        [
            "a:head",
            "b:head",
            "a:data x false",
            "b:data x false",
            "a:trailers",
            "b:trailers"
        ]
    );
}

#[tokio::test]
async fn a_stopped_head_goes_on_with_the_whole_body() {
    let mut h = Harness::new()
        .filter("buffer", || HeadersStatus::StopIteration, until_end)
        .filter("next", go_on, pass);
    let _ = (h.head(false), h.data("ab", false));
    assert!(h.out().is_empty());
    let _ = h.data("cd", true);
    assert_eq!(h.out(), ["head false", "data abcd true"]);
    assert_eq!(h.calls.borrow()[3..], ["next:head", "next:data abcd true"]);
}

#[tokio::test]
async fn trailers_release_a_stopped_head_and_its_body() {
    let mut h = Harness::new().filter("buffer", || HeadersStatus::StopIteration, until_end);
    let _ = (h.head(false), h.data("ab", false), h.trailers());
    assert_eq!(h.out(), ["head false", "data ab false", "trailers"]);
}

#[tokio::test]
async fn more_than_the_limit_is_an_error_for_a_filter_that_buffers() {
    let mut h = Harness::new().filter("buffer", || HeadersStatus::StopIteration, until_end);
    let _ = h.head(false);
    assert!(matches!(h.data("0123456789", false), Flow::Done));
    assert!(matches!(h.data("x", false), Flow::BufferFull));
}

#[tokio::test]
async fn more_than_the_limit_only_stops_reading_for_a_filter_with_a_watermark() {
    let mut h = Harness::new().filter("slow", || HeadersStatus::StopAllAndWatermark, pass);
    let _ = h.head(false);
    assert!(matches!(h.data("0123456789", false), Flow::Done));
    assert!(matches!(h.data("x", false), Flow::Done));
    assert_eq!(h.chain.buffered(), 11);
}

#[tokio::test(start_paused = true)]
async fn what_came_while_a_filter_waited_is_shown_to_it_afterwards() {
    let wait: fn() -> HeadersStatus =
        || HeadersStatus::Wait(Box::pin(tokio::time::sleep(Duration::from_secs(1))));
    let mut h = Harness::new()
        .filter("waits", wait, pass)
        .filter("next", go_on, pass);
    let _ = (h.head(false), h.data("ab", false), h.trailers());
    assert!(h.out().is_empty());
    assert_eq!(*h.calls.borrow(), ["waits:head"]);
    assert!(matches!(h.wait().await, Flow::Done));
    assert_eq!(h.out(), ["head false", "data ab false", "trailers"]);
    assert_eq!(
        h.calls.borrow()[1..],
        [
            "next:head",
            "waits:data ab false",
            "next:data ab false",
            "waits:trailers",
            "next:trailers"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn data_that_waits_goes_on_after_its_filter_has_resumed() {
    let wait: fn(&mut StreamContext<'_>, &mut Bytes, EndStream) -> DataStatus =
        |_, _, _| DataStatus::Wait(Box::pin(tokio::time::sleep(Duration::from_secs(1))));
    let mut h = Harness::new()
        .filter("waits", go_on, wait)
        .filter("next", go_on, pass);
    let _ = (h.head(false), h.data("ab", false), h.data("cd", true));
    assert_eq!(h.out(), ["head false"]);
    assert!(matches!(h.wait().await, Flow::Done));
    assert_eq!(h.out(), ["data abcd true"]);
}

#[tokio::test]
async fn injected_data_goes_before_what_the_call_returned() {
    let inject: fn(&mut StreamContext<'_>, &mut Bytes, EndStream) -> DataStatus = |cx, _, _| {
        cx.inject_data(Bytes::from_static(b"first"), EndStream::No);
        DataStatus::Continue
    };
    let mut h = Harness::new()
        .filter("injects", go_on, inject)
        .filter("next", go_on, pass);
    let _ = (h.head(false), h.data("second", true));
    assert_eq!(
        h.out(),
        ["head false", "data first false", "data second true"]
    );
}

#[tokio::test]
async fn a_filter_that_answers_ends_the_run() {
    let reply: fn() -> HeadersStatus = || HeadersStatus::LocalReply(LocalReply::new(403, "test"));
    let mut h = Harness::new()
        .filter("answers", reply, pass)
        .filter("never", go_on, pass);
    assert!(matches!(h.head(true), Flow::LocalReply(reply) if reply.status == 403));
    assert_eq!(*h.calls.borrow(), ["answers:head"]);
}

#[tokio::test]
async fn a_filter_may_turn_a_head_without_body_into_one_with_a_body() {
    let mut h = Harness::new().filter("adds", || HeadersStatus::ContinueAndDontEndStream, pass);
    let _ = h.head(true);
    assert_eq!(h.out(), ["head false"]);
}

#[tokio::test]
async fn responses_meet_the_filters_in_reverse() {
    let mut h = Harness::new()
        .filter("a", go_on, pass)
        .filter("b", go_on, pass);
    let mut encode = Chain::<Encode>::default();
    h.response = Some(ResponseHead::new(200));
    let filters = &mut h.filters;
    let mut env = ChainEnv {
        info: &mut h.info,
        worker: &h.worker,
        request: &mut h.request,
        response: &mut h.response,
        routes: &NoRoutes,
        effects: &mut h.effects,
    };
    let _ = encode.headers(filters, &mut env, EndStream::Yes);
    assert_eq!(*h.calls.borrow(), ["b:response head", "a:response head"]);
}
