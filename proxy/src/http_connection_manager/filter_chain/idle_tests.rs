//! Filters that are made only when a table configures them.

use std::cell::RefCell;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use parking_lot::Mutex;

use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::http::Protocol;
use crate::http_filters::chain_config::ChainConfig;
use crate::http_filters::{DataStatus, HeadersStatus, HttpFilterConfig, WorkerHttpFilter};
use crate::net::Address;
use crate::route::{SelectedRoute, Selection};
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use crate::stream_info::ConnectionInfo;
use crate::upstream::WorkerClusters;

/// A filter that notes when it is made and called, and with which number.
#[derive(Clone)]
struct Noting {
    name: &'static str,
    is_idle: bool,
    /// Chooses the route anew with each head of a request.
    clears: bool,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Noting {
    fn note(&self, call: &str, slot: Option<usize>) {
        let slot = slot.map_or("-".to_owned(), |slot| slot.to_string());
        let note = format!("{} {call} {slot}", self.name);
        self.notes.lock().push(note);
    }
}

impl HttpFilterConfig for Noting {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        Box::new(move || -> Box<dyn HttpFilter> {
            self.note("made", None);
            Box::new((*self).clone())
        })
    }

    fn is_idle(&self) -> bool {
        self.is_idle
    }
}

impl HttpFilter for Noting {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::COMPLETE)
    }
    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.note("head", cx.slot);
        if self.clears {
            cx.clear_route_cache();
        }
        HeadersStatus::Continue
    }
    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        self.note("data", cx.slot);
        DataStatus::Continue
    }
    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.note("response", cx.slot);
        HeadersStatus::Continue
    }
    fn on_stream_complete(&mut self, _: &mut StreamInfo) {
        self.note("end", None);
    }
}

/// Leads every request to a table, whatever the stream began with; or to one table and the next in turn.
struct Leads(RefCell<Vec<Rc<Arc<RouteTable>>>>);

impl RouteResolver for Leads {
    fn resolve(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) -> Option<Rc<Arc<RouteTable>>> {
        let mut tables = self.0.borrow_mut();
        tables.rotate_left(1);
        let table = tables.last()?;
        choose(table, head, info);
        Some(table.clone())
    }
}

fn choose(table: &Rc<Arc<RouteTable>>, head: &RequestHead, info: &mut StreamInfo) {
    let Selection::Route(index) = table.select(head, info, 0) else {
        panic!("there is a route for everything");
    };
    let table = table.clone();
    info.route = Some(SelectedRoute { table, index });
}

/// A stream through filters of which `a` and `b` are idle, and `clears` is not and chooses the route anew.
struct Harness {
    worker: Rc<Worker>,
    filters: Filters,
    decode: Chain<Decode>,
    encode: Chain<Encode>,
    info: StreamInfo,
    request: RequestHead,
    response: Option<ResponseHead>,
    effects: Effects,
    routes: Leads,
    notes: Arc<Mutex<Vec<String>>>,
}

/// A table with one route, which configures these filters.
fn table(configured: &[&str]) -> Rc<Arc<RouteTable>> {
    let entries = configured.iter().map(|name| {
        format!("{name}: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy }}")
    });
    let entries: Vec<_> = entries.collect();
    let yaml = format!(
        "virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }}, typed_per_filter_config: {{ {} }} }}] }}]",
        entries.join(", ")
    );
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: RouteConfiguration = load(&[source], UnknownFields::Refuse).unwrap();
    let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "routes");
    let cx = FactoryContext {
        server: &server,
        scope: &server.stats.scope(""),
        init: &InitManager::new("test"),
    };
    let table = RouteTable::from_proto(proto, &cx, &path);
    Rc::new(Arc::new(table.unwrap()))
}

impl Harness {
    /// A stream that begins with the first table and is led to the others.
    fn new<const N: usize>(names: [&'static str; N], first: &[&str], later: &[&[&str]]) -> Self {
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let worker = Worker::new(0, server, WorkerClusters::default(), 1);
        let notes = Arc::default();
        let config = |name: &'static str| -> (&str, Arc<dyn HttpFilterConfig>) {
            let clears = name.starts_with("clears");
            let config = Noting {
                name,
                is_idle: !clears,
                clears,
                notes: Arc::clone(&notes),
            };
            (name, Arc::new(config))
        };
        let first = table(first);
        let chain = ChainConfig::of_named(names.map(config)).on_worker(&worker, Some(&first));
        let mut info = StreamInfo::new(
            ConnectionInfo::between(address(), address()).into(),
            1,
            Some(Protocol::Http11),
        );
        let mut request = RequestHead::new(Protocol::Http11, b"POST");
        request.set_path(b"/");
        request.set_authority(b"example.com");
        choose(&first, &request, &mut info);
        Self {
            filters: chain.new_stream(info.route.as_ref()),
            worker,
            decode: Chain::default(),
            encode: Chain::default(),
            info,
            request,
            response: None,
            effects: Effects::default(),
            routes: Leads(RefCell::new(
                later.iter().map(|names| table(names)).collect(),
            )),
            notes,
        }
    }

    /// Runs a request with a body, and its response, through the filters; gives what they have noted.
    fn run(mut self) -> Vec<String> {
        let len = self.filters.len();
        let (filters, effects) = (&mut self.filters, &mut self.effects);
        let mut env = ChainEnv {
            info: &mut self.info,
            worker: &self.worker,
            request: &mut self.request,
            response: &mut self.response,
            routes: &self.routes,
            effects,
        };
        let flow = self.decode.headers(filters, &mut env, EndStream::No);
        assert!(matches!(flow, Flow::Done));
        let body = Bytes::from_static(b"body");
        let flow = (self.decode).data(filters, &mut env, body, EndStream::Yes, 100);
        assert!(matches!(flow, Flow::Done));
        let out = self.decode.take();
        assert!(matches!(
            &out[..],
            [Piece::Head(EndStream::No), Piece::Data(_, EndStream::Yes)]
        ));
        *env.response = Some(ResponseHead::new(200));
        let flow = self.encode.headers(filters, &mut env, EndStream::Yes);
        assert!(matches!(flow, Flow::Done));
        self.filters.complete(&mut self.info);
        assert_eq!(self.filters.len(), len);
        std::mem::take(&mut self.notes.lock())
    }
}

const CLEARS: [&str; 5] = [
    "clears made -",
    "clears head -",
    "clears data -",
    "clears response -",
    "clears end -",
];

/// Apart from those of the filter that clears the route.
fn of_others(notes: Vec<String>) -> Vec<String> {
    let others = notes.into_iter();
    others.filter(|n| !CLEARS.contains(&n.as_str())).collect()
}

#[test]
fn idle_filters_that_no_route_configures_are_never_made() {
    assert!(Harness::new(["a", "b"], &[], &[]).run().is_empty());
    let notes = Harness::new(["a", "clears", "b"], &[], &[&["other"]]).run();
    assert_eq!(notes, CLEARS);
}

#[test]
fn a_filter_that_a_route_of_the_table_configures_is_made_at_once() {
    let notes = Harness::new(["a", "b"], &["b"], &[]).run();
    assert_eq!(
        notes,
        [
            "b made -",
            "b head 0",
            "b data 0",
            "b response 0",
            "b end -"
        ]
    );
}

#[test]
fn a_table_that_is_found_later_puts_the_filters_behind_to_work() {
    let notes = Harness::new(["clears", "a", "b"], &[], &[&["a", "b"]]).run();
    assert_eq!(
        of_others(notes),
        [
            "a made -",
            "b made -",
            "a head 0",
            "b head 1",
            "a data 0",
            "b data 1",
            "b response 1",
            "a response 0",
            "a end -",
            "b end -"
        ]
    );
}

#[test]
fn a_table_that_is_found_later_gives_the_filters_in_front_what_is_still_to_come() {
    let notes = Harness::new(["a", "clears", "b"], &[], &[&["a"]]).run();
    assert_eq!(
        of_others(notes),
        ["a made -", "a data 0", "a response 0", "a end -"]
    );
}

#[test]
fn a_filter_is_made_once_however_often_the_table_changes() {
    let names = ["clears", "a", "clears_too", "clears_again", "b"];
    let notes = Harness::new(names, &[], &[&["a"], &["a", "b"], &[]]).run();
    let of_a: Vec<_> = notes.iter().filter(|n| n.starts_with("a ")).collect();
    // After the last change nothing configures it any more.
    let expected = [
        "a made -",
        "a head 0",
        "a data -",
        "a response -",
        "a end -",
    ];
    assert_eq!(of_a, expected);
    let of_b: Vec<_> = notes.iter().filter(|n| n.starts_with("b ")).collect();
    let expected = [
        "b made -",
        "b head -",
        "b data -",
        "b response -",
        "b end -",
    ];
    assert_eq!(of_b, expected);
}
