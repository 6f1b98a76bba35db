//! A stream around one filter, for the tests of the rooms: made of configuration messages, as a proxy would make it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use outrigger_proto::pb::envoy::config::cluster::v3 as cluster_pb;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::{Message, Name};

use super::{
    DataStatus, Effects, FACTORIES, HeadersStatus, HttpFilter, HttpFilterFactory, LocalBoxFuture,
    LocalReply, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, ConfigReport, TypedConfig};
use crate::http::{EndStream, Fields, Protocol, RequestHead, ResponseHead};
use crate::net::Address;
use crate::route::{RouteIndex, RouteTable, SelectedRoute, Selection};
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext, Worker};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::upstream::cluster::{LookupFamily, ResolverSettings};
use crate::upstream::{
    ClusterConfig, ClusterManager, DnsError, Resolved, Resolver, WorkerClusters,
};

/// A resolver for clusters of addresses: it is never asked.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        name: &str,
        _: LookupFamily,
        _: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>> {
        panic!("{name} is to be resolved")
    }
}

/// The name under which routes configure the filter.
const FILTER: &str = "the filter";

/// A process with one worker and one configured filter.
pub(super) struct Harness {
    pub(super) server: Arc<ServerContext>,
    pub(super) worker: Rc<Worker>,
    /// Whether the filter says that it has nothing to do by itself.
    pub(super) is_idle: bool,
    filter: Box<dyn WorkerHttpFilter>,
    table: Rc<Arc<RouteTable>>,
    pub(super) connection: Rc<ConnectionInfo>,
}

/// One stream with the filter on it.
pub(super) struct TestStream {
    worker: Rc<Worker>,
    filter: Box<dyn HttpFilter>,
    slot: Option<usize>,
    pub(super) info: StreamInfo,
    pub(super) effects: Effects,
    pub(super) request: RequestHead,
    pub(super) response: ResponseHead,
}

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// What a factory says is wrong with a configuration, of the filter or of a route.
pub(super) fn errors<M: Message + Name>(config: &M) -> Vec<String> {
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "config");
    let scope = server.stats.scope("http.test.");
    let cx = FactoryContext {
        server: &server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    // What breaks the rules of the API is reported before a factory sees it.
    if let Ok(typed) = TypedConfig::from_any(any(config), &path) {
        let name = typed.type_name.as_str();
        for factory in FACTORIES {
            if factory.type_names().contains(&name) {
                let _ = factory.from_proto(&typed, &cx, &path);
            } else if factory.per_route_type_names().contains(&name) {
                let _ = factory.per_route_from_proto(&typed, &cx, &path);
            }
        }
    }
    report.take().iter().map(ToString::to_string).collect()
}

/// A route to the cluster `backend`, for all paths.
pub(super) fn forward() -> route_pb::Route {
    route_pb::Route {
        r#match: Some(route_pb::RouteMatch {
            path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route_pb::route::Action::Route(route_pb::RouteAction {
            cluster_specifier: Some(route_pb::route_action::ClusterSpecifier::Cluster(
                "backend".to_owned(),
            )),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// What a level of a route table says about the filter.
pub(super) fn per_filter<M: Message + Name>(config: &M) -> HashMap<String, Any> {
    HashMap::from([(FILTER.to_owned(), any(config))])
}

/// A virtual host for everything.
pub(super) fn virtual_host(route: route_pb::Route) -> route_pb::VirtualHost {
    route_pb::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    }
}

impl Harness {
    /// A filter on a route without a configuration of its own.
    pub(super) fn new<M: Message + Name>(config: &M) -> Self {
        Self::with_host(config, virtual_host(forward()))
    }

    /// A filter with a per-route configuration.
    pub(super) fn with_route<M: Message + Name, R: Message + Name>(config: &M, route: &R) -> Self {
        let route = route_pb::Route {
            typed_per_filter_config: per_filter(route),
            ..forward()
        };
        Self::with_host(config, virtual_host(route))
    }

    /// A filter in a process that has a cluster.
    pub(super) fn with_cluster<M: Message + Name>(config: &M, yaml: &str) -> Self {
        Self::make(config, virtual_host(forward()), Some(yaml))
    }

    /// A filter under a virtual host.
    pub(super) fn with_host<M: Message + Name>(config: &M, host: route_pb::VirtualHost) -> Self {
        Self::make(config, host, None)
    }

    fn make<M: Message + Name>(
        config: &M,
        host: route_pb::VirtualHost,
        cluster: Option<&str>,
    ) -> Self {
        let local_info = LocalInfo {
            cluster: "local".to_owned(),
            ..LocalInfo::default()
        };
        let server = Arc::new(ServerContext::new(1, local_info));
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "config");
        let scope = server.stats.scope("http.test.");
        let cx = FactoryContext {
            server: &server,
            scope: &scope,
            init: &InitManager::new("test"),
        };
        let typed = TypedConfig::from_any(any(config), &path).unwrap();
        let factory: &dyn HttpFilterFactory = *FACTORIES
            .iter()
            .find(|factory| factory.type_names().contains(&typed.type_name.as_str()))
            .expect("the filter is registered");
        let converted = factory.from_proto(&typed, &cx, &path);
        let table = RouteTable::from_proto(
            route_pb::RouteConfiguration {
                virtual_hosts: vec![host],
                ..Default::default()
            },
            &cx,
            &path,
        );
        let clusters = cluster.map(|yaml| {
            let source = Source {
                name: "test",
                format: Format::Yaml,
                bytes: yaml.as_bytes(),
            };
            let proto: cluster_pb::Cluster = load(&[source], UnknownFields::Refuse).unwrap();
            let manager = ClusterManager::new(server.clone(), 1, Rc::new(NoResolver));
            manager.add(ClusterConfig::from_proto(proto, &server, &path).ok());
            WorkerClusters::new(manager.table().clone(), 0)
        });
        assert!(report.is_empty(), "{:?}", report.take());
        let worker = Worker::new(0, server.clone(), clusters.unwrap_or_default(), 1);
        let address = Address::Ip("10.0.0.1:1000".parse::<SocketAddr>().unwrap());
        let converted = converted.unwrap();
        Self {
            is_idle: converted.is_idle(),
            filter: converted.on_worker(&worker),
            table: Rc::new(Arc::new(table.unwrap())),
            connection: Rc::new(ConnectionInfo::between(address.clone(), address)),
            worker,
            server,
        }
    }

    /// The number of the filter's name in the route table.
    pub(super) fn slot(&self) -> Option<usize> {
        self.table.filter_slot(FILTER)
    }

    /// A stream of `GET /` with the filter on it, its route already chosen.
    pub(super) fn stream(&self) -> TestStream {
        self.stream_with(&[])
    }

    /// The same with fields; `:method` and `:path` replace the defaults.
    pub(super) fn stream_with(&self, fields: &[(&str, &str)]) -> TestStream {
        let mut request = RequestHead::new(Protocol::Http11, b"GET");
        request.set_path(b"/");
        request.set_authority(b"example.com");
        request.set_scheme(b"http");
        for (name, value) in fields {
            match *name {
                ":method" => request.set_method(value.as_bytes()),
                ":path" => request.set_path(value.as_bytes()),
                name => request.fields.append(name, value),
            }
        }
        let mut info = StreamInfo::new(self.connection.clone(), 1, Some(Protocol::Http11));
        let index: RouteIndex = match self.table.select(&request, &info, 0) {
            Selection::Route(index) => index,
            other => panic!("no route: {other:?}"),
        };
        info.route = Some(SelectedRoute {
            table: self.table.clone(),
            index,
        });
        TestStream {
            worker: self.worker.clone(),
            filter: self.filter.new_stream(),
            slot: self.table.filter_slot(FILTER),
            info,
            effects: Effects::default(),
            request,
            response: ResponseHead::new(200),
        }
    }

    /// The counters and gauges that are not 0.
    pub(super) fn counted(&self) -> Vec<String> {
        let mut out = Vec::new();
        for group in self.server.stats.groups() {
            for index in 0..group.len() {
                let (last, kind) = group.stat(index);
                let measures = matches!(kind, crate::stats::Kind::Histogram(_));
                if !measures && group.counter(index).value() > 0 {
                    out.push(format!("{}{last}", group.prefix()));
                }
            }
        }
        out
    }

    /// The value of a counter or gauge; 0 for one that was never made.
    pub(super) fn stat(&self, name: &str) -> u64 {
        let mut sum = 0;
        for group in self.server.stats.groups() {
            for index in 0..group.len() {
                let (last, _) = group.stat(index);
                if format!("{}{last}", group.prefix()) == name {
                    sum += group.counter(index).value();
                }
            }
        }
        sum
    }
}

macro_rules! call {
    ($self:ident, |$filter:ident, $cx:ident| $body:expr) => {{
        let mut $cx = StreamContext {
            info: &mut $self.info,
            worker: &$self.worker,
            request: Some(&mut $self.request),
            response: Some(&mut $self.response),
            effects: &mut $self.effects,
            slot: $self.slot,
        };
        let $filter = &mut $self.filter;
        $body
    }};
    ($self:ident without request, |$filter:ident, $cx:ident, $head:ident| $body:expr) => {{
        let mut $cx = StreamContext {
            info: &mut $self.info,
            worker: &$self.worker,
            request: None,
            response: None,
            effects: &mut $self.effects,
            slot: $self.slot,
        };
        let $filter = &mut $self.filter;
        let $head = &mut $self.request;
        $body
    }};
    ($self:ident without response, |$filter:ident, $cx:ident, $head:ident| $body:expr) => {{
        let mut $cx = StreamContext {
            info: &mut $self.info,
            worker: &$self.worker,
            request: Some(&mut $self.request),
            response: None,
            effects: &mut $self.effects,
            slot: $self.slot,
        };
        let $filter = &mut $self.filter;
        let $head = &mut $self.response;
        $body
    }};
}

impl TestStream {
    pub(super) fn decode_headers(&mut self, end: bool) -> HeadersStatus {
        call!(self without request, |filter, cx, head| filter.decode_headers(&mut cx, head, end.into()))
    }

    pub(super) fn resume_decode(&mut self) -> HeadersStatus {
        call!(self without request, |filter, cx, head| filter.resume_decode(&mut cx, head))
    }

    pub(super) fn decode_data(&mut self, data: &str, end: bool) -> DataStatus {
        let mut data = Bytes::copy_from_slice(data.as_bytes());
        call!(self, |filter, cx| filter.decode_data(
            &mut cx,
            &mut data,
            end.into()
        ))
    }

    pub(super) fn decode_trailers(&mut self, trailers: &mut Fields) -> TrailersStatus {
        call!(self, |filter, cx| filter.decode_trailers(&mut cx, trailers))
    }

    pub(super) fn encode_headers(&mut self, end: bool) -> HeadersStatus {
        call!(self without response, |filter, cx, head| filter.encode_headers(&mut cx, head, end.into()))
    }

    /// Gives what is left in the piece as well.
    pub(super) fn encode_data(&mut self, data: impl AsRef<[u8]>, end: bool) -> (DataStatus, Bytes) {
        let mut data = Bytes::copy_from_slice(data.as_ref());
        let status = call!(self, |filter, cx| filter.encode_data(
            &mut cx,
            &mut data,
            end.into()
        ));
        (status, data)
    }

    pub(super) fn resume_encode_data(&mut self, held: &mut BytesMut, end: EndStream) -> DataStatus {
        call!(self, |filter, cx| filter
            .resume_encode_data(&mut cx, held, end))
    }

    pub(super) fn encode_trailers(&mut self, trailers: &mut Fields) -> TrailersStatus {
        call!(self, |filter, cx| filter.encode_trailers(&mut cx, trailers))
    }

    pub(super) fn complete(&mut self) {
        self.filter.on_stream_complete(&mut self.info);
    }

    /// What the filter has sent on by itself since it was last asked.
    pub(super) fn take_injected(&mut self) -> Vec<u8> {
        let pieces = std::mem::take(&mut self.effects.injected);
        pieces
            .iter()
            .flat_map(|piece| piece.data.to_vec())
            .collect()
    }
}

impl HeadersStatus {
    /// The reply of a filter that answers itself.
    pub(super) fn reply(self) -> LocalReply {
        match self {
            Self::LocalReply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn is_continue(&self) -> bool {
        matches!(self, Self::Continue)
    }
}

impl LocalReply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n.as_str() == name)?;
        std::str::from_utf8(value).ok()
    }
}
