//! The filters of one upstream attempt: between the router and the upstream codec.
//!
//! They run on a copy of the request head, so that another attempt starts from what the router was given. They run at once,
//! while the pool still looks for a connection; what has passed them waits for the stream. What they answer themselves is
//! the answer of the request: it is not tried again, and no upstream filter sees it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::config::WorkerRouter;
use super::reply::refusal_of_illegal;
use super::upstream_request::UpstreamRequest;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_connection_manager::filter_chain::{
    Chain, ChainEnv, Decode, Encode, Filters, Flow, Piece, RouteResolver,
};
use crate::http_filters::chain_config::{ChainConfig, WorkerChain};
use crate::http_filters::{Effects, LocalReply};
use crate::route::{RouteTable, SelectedRoute};
use crate::stream_info::StreamInfo;
use crate::upstream::pool::{ClientStream, ResponseEvent};
use crate::upstream::{ClusterId, WorkerCluster};

/// The filters of an attempt, and what is on its way through them.
pub(super) struct UpstreamFilters {
    filters: Filters,
    decode: Chain<Decode>,
    encode: Chain<Encode>,
    request: RequestHead,
    response: Option<ResponseHead>,
    effects: Effects,
    /// The most bytes that filters may hold back in either direction.
    limit: usize,
    /// What passed the decode filters and waits for the stream.
    to_upstream: Vec<Piece>,
    /// Bytes in it.
    waiting: usize,
    /// What passed the encode filters and waits for the router.
    to_router: VecDeque<ResponseEvent>,
    pub(super) head_sent: bool,
}

/// What comes out of a filtered attempt.
pub(super) enum Filtered {
    /// An event of the response.
    Event(ResponseEvent),
    /// A filter answers.
    Reply(LocalReply),
}

/// The chains of clusters that have filters of their own, on one worker.
#[derive(Default)]
pub(super) struct ClusterChains(RefCell<HashMap<ClusterId, ClusterChain>>);

/// The chain of the router itself, on one worker.
pub(super) struct UpstreamChain {
    is_empty: bool,
    current: RefCell<(Option<Rc<Arc<RouteTable>>>, Rc<WorkerChain>)>,
}

struct ClusterChain {
    config: Arc<ChainConfig>,
    table: Option<Rc<Arc<RouteTable>>>,
    chain: Rc<WorkerChain>,
}

/// Upstream filters take the route as it is.
struct FixedRoute;

impl RouteResolver for FixedRoute {
    fn resolve(&self, _: &mut RequestHead, _: &mut StreamInfo) -> Option<Rc<Arc<RouteTable>>> {
        None
    }
}

impl WorkerRouter {
    /// The filters of an attempt on `cluster`: the cluster's if it has a list, else the router's. None: there are none.
    #[inline]
    pub(super) fn upstream_filters(
        &self,
        cluster: &WorkerCluster,
        env: &ChainEnv<'_>,
        limit: u64,
    ) -> Option<Box<UpstreamFilters>> {
        let route = env.info.route.as_ref();
        let filters = match &cluster.info().http_filters {
            Some(config) => self
                .cluster_chains
                .get(cluster.info().id, config, env)
                .new_stream(route),
            None if self.upstream_chain.is_empty => return None,
            None => self.upstream_chain.of(route).new_stream(route),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        (!filters.is_empty())
            .then(|| Box::new(UpstreamFilters::new(filters, env.request.clone(), limit)))
    }
}

impl UpstreamChain {
    /// A chain that is not yet mapped onto any table.
    pub(super) fn new(chain: WorkerChain) -> Self {
        Self {
            is_empty: chain.is_empty(),
            current: RefCell::new((None, Rc::new(chain))),
        }
    }

    /// The chain for streams with this route. It is mapped onto a table when streams begin to use it.
    fn of(&self, route: Option<&SelectedRoute>) -> Rc<WorkerChain> {
        let mut current = self.current.borrow_mut();
        if let Some(route) = route
            && !is_same(current.0.as_ref(), Some(&route.table))
        {
            let chain = current.1.for_table(Some(&route.table));
            *current = (Some(route.table.clone()), Rc::new(chain));
        }
        current.1.clone()
    }
}

fn is_same(known: Option<&Rc<Arc<RouteTable>>>, table: Option<&Rc<Arc<RouteTable>>>) -> bool {
    match (known, table) {
        (Some(known), Some(table)) => Rc::ptr_eq(known, table),
        (known, table) => known.is_none() && table.is_none(),
    }
}

impl ClusterChains {
    fn get(&self, id: ClusterId, config: &Arc<ChainConfig>, env: &ChainEnv<'_>) -> Rc<WorkerChain> {
        let table = env.info.route.as_ref().map(|route| &route.table);
        let mut chains = self.0.borrow_mut();
        let known = chains.get(&id);
        let known = known.filter(|known| Arc::ptr_eq(&known.config, config));
        if let Some(known) = known
            && is_same(known.table.as_ref(), table)
        {
            return known.chain.clone();
        }
        let table_or_none = table.map(|table| &***table);
        let chain = Rc::new(match known {
            Some(known) => known.chain.for_table(table_or_none),
            None => config.on_worker(env.worker, table_or_none),
        });
        chains.insert(
            id,
            ClusterChain {
                config: config.clone(),
                table: table.cloned(),
                chain: chain.clone(),
            },
        );
        chain
    }
}

impl UpstreamFilters {
    fn new(filters: Filters, request: RequestHead, limit: usize) -> Self {
        Self {
            filters,
            decode: Chain::default(),
            encode: Chain::default(),
            request,
            response: None,
            effects: Effects::default(),
            limit,
            to_upstream: Vec::new(),
            waiting: 0,
            to_router: VecDeque::new(),
            head_sent: false,
        }
    }

    /// The request head, from the router.
    pub(super) fn request_head(
        &mut self,
        env: &mut ChainEnv<'_>,
        end: EndStream,
    ) -> Result<(), LocalReply> {
        let flow = self.run(env, |parts, env| {
            parts.decode.headers(parts.filters, env, end)
        });
        self.after_decode(flow, env)
    }

    /// A piece of the request body.
    pub(super) fn request_data(
        &mut self,
        env: &mut ChainEnv<'_>,
        data: Bytes,
        end: EndStream,
    ) -> Result<(), LocalReply> {
        let limit = self.limit;
        let flow = self.run(env, |parts, env| {
            parts.decode.data(parts.filters, env, data, end, limit)
        });
        self.after_decode(flow, env)
    }

    /// The request trailers.
    pub(super) fn request_trailers(
        &mut self,
        env: &mut ChainEnv<'_>,
        trailers: Fields,
    ) -> Result<(), LocalReply> {
        let flow = self.run(env, |parts, env| {
            parts.decode.trailers(parts.filters, env, trailers)
        });
        self.after_decode(flow, env)
    }

    /// Bytes of bodies that they hold.
    pub(super) fn held(&self) -> usize {
        self.decode.buffered() + self.waiting + self.encode.buffered()
    }

    /// Whether more of the request may come.
    pub(super) fn has_room(&self) -> bool {
        self.decode.buffered() + self.waiting <= self.limit
    }

    /// Sends what has passed the filters.
    fn send(&mut self, stream: &mut ClientStream, is_upgrade: bool) {
        for piece in self.to_upstream.drain(..) {
            match piece {
                Piece::Head(end) => {
                    self.head_sent = true;
                    stream.send_head(&self.request, end);
                    if is_upgrade {
                        stream.upgrade();
                    }
                }
                Piece::Data(data, end) => stream.send_data(data, end),
                Piece::Trailers(trailers) => stream.send_trailers(&trailers),
            }
        }
        self.waiting = 0;
    }

    /// An event of the upstream.
    fn response(&mut self, env: &mut ChainEnv<'_>, event: ResponseEvent) -> Result<(), LocalReply> {
        let limit = self.limit;
        let flow = match event {
            ResponseEvent::Informational(mut head) => {
                self.run(env, |parts, env| parts.filters.encode_1xx(env, &mut head));
                self.to_router.push_back(ResponseEvent::Informational(head));
                return Ok(());
            }
            ResponseEvent::Metadata(map) => {
                self.to_router.push_back(ResponseEvent::Metadata(map));
                return Ok(());
            }
            ResponseEvent::Head(head, end) => {
                self.response = Some(head);
                self.run(env, |parts, env| {
                    parts.encode.headers(parts.filters, env, end)
                })
            }
            ResponseEvent::Data(data, end) => self.run(env, |parts, env| {
                parts.encode.data(parts.filters, env, data, end, limit)
            }),
            ResponseEvent::Trailers(trailers) => self.run(env, |parts, env| {
                parts.encode.trailers(parts.filters, env, trailers)
            }),
            ResponseEvent::Reset(reason) => {
                self.to_router.push_back(ResponseEvent::Reset(reason));
                return Ok(());
            }
        };
        self.after_encode(flow)
    }

    /// Lets filters go on that have waited. Ready if one has.
    fn poll_waits(
        &mut self,
        env: &mut ChainEnv<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), LocalReply>> {
        if self.decode.is_waiting()
            && let Poll::Ready(flow) = self.run(env, |parts, env| {
                parts.decode.poll_waits(parts.filters, env, cx)
            })
        {
            return Poll::Ready(self.after_decode(flow, env));
        }
        if self.encode.is_waiting()
            && let Poll::Ready(flow) = self.run(env, |parts, env| {
                parts.encode.poll_waits(parts.filters, env, cx)
            })
        {
            return Poll::Ready(self.after_encode(flow));
        }
        Poll::Pending
    }

    fn after_decode(&mut self, flow: Flow, env: &mut ChainEnv<'_>) -> Result<(), LocalReply> {
        match flow {
            // Of a stream within a stream nothing begins anew.
            Flow::Done | Flow::Recreate => {}
            Flow::LocalReply(reply) => return Err(reply),
            Flow::BufferFull => {
                let body = Bytes::from_static(b"Payload Too Large");
                return Err(LocalReply::new(413, "request_payload_too_large").with_body(body));
            }
        }
        let mut passed = self.decode.take();
        for piece in passed.drain(..) {
            match &piece {
                Piece::Head(_) => {
                    if let Some(reply) = refusal_of_illegal(&self.request, env.info) {
                        return Err(reply);
                    }
                }
                Piece::Data(data, _) => self.waiting += data.len(),
                Piece::Trailers(_) => {}
            }
            self.to_upstream.push(piece);
        }
        self.decode.give_back(passed);
        Ok(())
    }

    fn after_encode(&mut self, flow: Flow) -> Result<(), LocalReply> {
        match flow {
            // Of a stream within a stream nothing begins anew.
            Flow::Done | Flow::Recreate => {}
            Flow::LocalReply(reply) => return Err(reply),
            Flow::BufferFull => {
                let body = Bytes::from_static(b"Internal Server Error");
                return Err(LocalReply::new(500, "response_payload_too_large").with_body(body));
            }
        }
        let mut passed = self.encode.take();
        for piece in passed.drain(..) {
            let event = match piece {
                // Filters may ask for the head while the body passes, so they keep theirs.
                Piece::Head(end) => match self.response.clone() {
                    Some(head) => ResponseEvent::Head(head, end),
                    None => continue,
                },
                Piece::Data(data, end) => ResponseEvent::Data(data, end),
                Piece::Trailers(trailers) => ResponseEvent::Trailers(trailers),
            };
            self.to_router.push_back(event);
        }
        self.encode.give_back(passed);
        Ok(())
    }

    /// Runs `call` with the environment of the attempt, and carries out what filters asked for.
    fn run<T>(
        &mut self,
        env: &mut ChainEnv<'_>,
        call: impl FnOnce(Parts<'_>, &mut ChainEnv<'_>) -> T,
    ) -> T {
        let mut own = ChainEnv {
            info: &mut *env.info,
            worker: env.worker,
            request: &mut self.request,
            response: &mut self.response,
            routes: &FixedRoute,
            effects: &mut self.effects,
        };
        let parts = Parts {
            filters: &mut self.filters,
            decode: &mut self.decode,
            encode: &mut self.encode,
        };
        let result = call(parts, &mut own);
        let asked = &mut self.effects;
        self.to_router.extend(
            asked
                .informational
                .drain(..)
                .map(ResponseEvent::Informational),
        );
        if let Some(limit) = asked.buffer_limit.take() {
            self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        }
        env.effects.close_connection |= std::mem::take(&mut asked.close_connection);
        result
    }

    /// The attempt has ended.
    pub(super) fn complete(&mut self, info: &mut StreamInfo) {
        self.filters.complete(info);
    }
}

/// The parts that work on the environment.
struct Parts<'a> {
    filters: &'a mut Filters,
    decode: &'a mut Chain<Decode>,
    encode: &'a mut Chain<Encode>,
}

/// Drives an attempt that has filters.
pub(super) fn poll_filtered(
    attempt: &mut UpstreamRequest,
    env: &mut ChainEnv<'_>,
    cx: &mut Context<'_>,
    is_upgrade: bool,
) -> Poll<Filtered> {
    loop {
        let Some(filters) = attempt.filters() else {
            return Poll::Pending;
        };
        if let Some(event) = filters.to_router.pop_front() {
            return Poll::Ready(Filtered::Event(event));
        }
        match filters.poll_waits(env, cx) {
            Poll::Ready(Ok(())) => continue,
            Poll::Ready(Err(reply)) => return Poll::Ready(Filtered::Reply(reply)),
            Poll::Pending => {}
        }
        let Some((stream, filters)) = attempt.filtered() else {
            match std::task::ready!(attempt.poll_connect(cx, env.info)) {
                Ok(()) => attempt.ready(env.info),
                Err(reason) => return Poll::Ready(Filtered::Event(ResponseEvent::Reset(reason))),
            }
            continue;
        };
        filters.send(stream, is_upgrade);
        if !filters.head_sent || filters.encode.buffered() > filters.limit {
            return Poll::Pending;
        }
        let _ = stream.poll_ready(cx);
        let event = std::task::ready!(stream.poll_event(cx));
        let result = filters.response(env, event);
        attempt.received(Instant::now(), env.info);
        if let Err(reply) = result {
            return Poll::Ready(Filtered::Reply(reply));
        }
    }
}
