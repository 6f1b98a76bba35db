//! A connection manager on one worker: what all of its streams share, and the checks that every request passes.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;

use super::config::{HcmConfig, HostNormalization, ServerHeaderTransformation};
use super::date::with_http_date;
use super::filter_chain::RouteResolver;
use super::path_normalize::Normalized;
use super::premature_resets::PrematureResetLimits;
use super::routing::{Routing, WorkerRoutes};
use super::stream::Record;
use super::timer::Timers;
use crate::access_loggers::AccessLogs;
use crate::codec::h1::Http1Settings;
use crate::codec::h2::Http2Settings;
use crate::codec::{Http1CodecStats, Http2CodecStats};
use crate::http::{HeaderName, Known, Method, Protocol, RequestHead, ResponseHead};
use crate::http_filters::chain_config::WorkerChain;
use crate::http_filters::router::WorkerRouter;
use crate::http_filters::{LocalBoxFuture, LocalReply};
use crate::overload::{Action, LoadShedPoint};
use crate::route::{ClusterChoice, RouteAction, RouteTable, SelectedRoute, Selection};
use crate::runtime::RuntimeInteger;
use crate::server::Worker;
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// A connection manager on one worker.
pub(super) struct Hcm {
    pub(super) config: Arc<HcmConfig>,
    pub(super) worker: Rc<Worker>,
    pub(super) router: Rc<WorkerRouter>,
    pub(super) access_logs: AccessLogs,
    pub(super) http1: Rc<Http1Settings>,
    pub(super) http2: Rc<Http2Settings>,
    pub(super) timers: Timers,
    http1_stats: OnceCell<Rc<Http1CodecStats>>,
    http2_stats: OnceCell<Rc<Http2CodecStats>>,
    routes: WorkerRoutes,
    pub(super) premature_resets: PrematureResetLimits,
    /// `http.max_requests_per_io_cycle`: requests of a connection that are begun before others have their turn. Default: any.
    pub(super) max_requests_per_io_cycle: RuntimeInteger,
    next_stream: Cell<u64>,
}

/// Chooses routes for filters that clear them: by the table that the stream began with.
pub(super) struct Routes<'a> {
    pub(super) hcm: &'a Hcm,
    pub(super) routing: &'a Routing,
}

/// Why a request goes no further than the connection manager.
#[derive(Debug, PartialEq)]
pub(super) struct Rejection {
    /// The answer.
    pub(super) reply: LocalReply,
    /// The connection ends with it.
    pub(super) close: bool,
    /// No filters are made for it, since there is not enough memory.
    pub(super) past_filters: bool,
}

impl Hcm {
    /// This worker's instance.
    pub(super) fn new(config: Arc<HcmConfig>, worker: &Rc<Worker>) -> Self {
        Self {
            router: Rc::new(WorkerRouter::new(
                config.router.clone(),
                config.stats.clone(),
                worker,
            )),
            access_logs: AccessLogs::on_worker(&config.access_logs, worker),
            http1: Rc::new(config.http1.clone()),
            http2: Rc::new(config.http2.clone()),
            timers: Timers::default(),
            http1_stats: OnceCell::new(),
            http2_stats: OnceCell::new(),
            routes: WorkerRoutes::new(&config, worker),
            premature_resets: PrematureResetLimits::new(&worker.server.runtime),
            max_requests_per_io_cycle: worker
                .server
                .runtime
                .integer("http.max_requests_per_io_cycle", u64::MAX),
            // Numbers of different workers differ in their upper half.
            next_stream: Cell::new((worker.index as u64) << 48),
            worker: worker.clone(),
            config,
        }
    }

    /// `http1.`, there from the first HTTP/1 connection on.
    pub(super) fn http1_stats(&self) -> Rc<Http1CodecStats> {
        let store = &self.worker.server.stats;
        self.http1_stats
            .get_or_init(|| Rc::new(Http1CodecStats::new(&store.scope("http1."))))
            .clone()
    }

    /// `http2.`, there from the first HTTP/2 connection on.
    pub(super) fn http2_stats(&self) -> Rc<Http2CodecStats> {
        let store = &self.worker.server.stats;
        self.http2_stats
            .get_or_init(|| Rc::new(Http2CodecStats::new(&store.scope("http2."))))
            .clone()
    }

    /// The number of a new stream.
    pub(super) fn next_stream_id(&self) -> u64 {
        self.next_stream.set(self.next_stream.get() + 1);
        self.next_stream.get()
    }

    /// Checks a request head and completes it, up to the choice of its route. Says whether it is an upgrade that is taken.
    pub(super) fn admit(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        routing: &Routing,
    ) -> Result<bool, Rejection> {
        if self.sheds(&info.connection) {
            self.config.stats.downstream_rq_overload_close().inc();
            let mut rejection = Rejection::new(503, "overload").body("envoy overloaded");
            rejection.past_filters = true;
            if self.config.append_local_overload {
                rejection.reply = rejection
                    .reply
                    .with_header(HeaderName::new("x-envoy-local-overloaded"), "true");
            }
            return Err(rejection);
        }
        let upgrade = head.method() == Method::Connect || is_upgrade_request(head);
        if head.authority().is_none() {
            let keep = head.version.is_http1() && self.http1.keeps_connection_on_error();
            let rejection = Rejection::new(400, "missing_host_header");
            return Err(if keep { rejection } else { rejection.closing() });
        }
        if head.path().is_none_or(<[u8]>::is_empty) && head.method() != Method::Connect {
            return Err(Rejection::new(404, "missing_path_rejected").closing());
        }
        if is_query_without_content_type(head) {
            return Err(Rejection::new(400, "query_missing_content_type").closing());
        }
        self.check_path(head)?;
        if upgrade && !take_udp_target(head) {
            return Err(
                Rejection::new(404, "invalid_path").body("The path is incorrect for CONNECT-UDP")
            );
        }
        normalize_host(self.config.host, head, info);
        let forwarding = self.config.forwarding.mutate_request(
            head,
            info,
            &self.worker.random,
            upgrade,
            routing.table.internal_only_headers(),
        );
        forwarding
            .map_err(|status| Rejection::new(status, "rejecting_because_detection_failed"))?;
        if let Some(scheme) = &self.config.scheme.overwrite {
            head.set_scheme(scheme.as_bytes());
            head.fields.set(Known::ForwardedProto, scheme.as_bytes());
        }
        info.scheme_matches_upstream = self.config.scheme.match_upstream;
        Ok(upgrade)
    }

    fn check_path(&self, head: &mut RequestHead) -> Result<(), Rejection> {
        let Some(path) = head.path() else {
            return Ok(());
        };
        if path.first() != Some(&b'/') {
            self.config.stats.downstream_rq_non_relative_path().inc();
            return Err(Rejection::new(404, "absolute_path_rejected"));
        }
        if path.contains(&b'#') {
            self.config
                .stats
                .downstream_rq_failed_path_normalization()
                .inc();
            return Err(Rejection::new(400, "path_normalization_failed").closing());
        }
        match self.config.path.apply(path) {
            Normalized::Unchanged => Ok(()),
            Normalized::Changed(path) => {
                head.set_path(&path);
                Ok(())
            }
            Normalized::Redirect(path) => {
                head.set_path(&path);
                self.config
                    .stats
                    .downstream_rq_redirected_with_normalized_path()
                    .inc();
                let mut rejection = Rejection::new(307, "path_normalization_failed");
                rejection.reply = rejection
                    .reply
                    .with_header(HeaderName::new("location"), path);
                Err(rejection)
            }
            Normalized::Reject(path) => {
                head.set_path(&path);
                self.config
                    .stats
                    .downstream_rq_failed_path_normalization()
                    .inc();
                Err(Rejection::new(400, "path_normalization_failed").closing())
            }
        }
    }

    /// Whether the overload manager turns a request away.
    #[inline]
    fn sheds(&self, connection: &ConnectionInfo) -> bool {
        let overload = &self.worker.server.overload;
        let random = || self.worker.random.next();
        (overload.holds(Action::StopAcceptingRequests)
            && overload.stop_accepting_requests(random())
            || overload
                .load_shed
                .sheds(LoadShedPoint::DecodeHeaders, random))
            && !connection.listener.bypass_overload_manager
    }

    /// Whether a connection is to end with this response, since the overload manager wants no connections to be kept.
    #[inline]
    pub(super) fn disables_keepalive(&self, connection: &ConnectionInfo) -> bool {
        let overload = &self.worker.server.overload;
        let disables = overload.holds(Action::DisableHttpKeepalive)
            && overload.disable_http_keepalive(self.worker.random.next())
            && !connection.listener.bypass_overload_manager;
        if disables {
            let stats = &self.config.stats;
            stats.downstream_cx_overload_disable_keepalive().inc();
        }
        disables
    }

    /// Whether an upgrade that a request asks for is taken: as its route says, or else as the connection manager does.
    /// 403 for one that is not.
    pub(super) fn take_upgrade(
        &self,
        asked: bool,
        head: &RequestHead,
        info: &StreamInfo,
    ) -> Result<bool, Rejection> {
        if !asked {
            return Ok(false);
        }
        let connect = head.method() == Method::Connect;
        let kind = if connect {
            Some(&b"connect"[..])
        } else {
            head.fields.get(Known::Upgrade)
        };
        let Some(kind) = kind else { return Ok(false) };
        let action = info
            .route
            .as_ref()
            .and_then(|route| route.route().forward());
        // The router answers that there is no route.
        if info.route.is_none() && !info.requires_tls {
            return Ok(false);
        }
        let by_route = action.and_then(|a| {
            a.upgrades()
                .iter()
                .find(|u| u.upgrade_type.as_bytes().eq_ignore_ascii_case(kind))
        });
        let by_manager = || {
            self.config
                .upgrades
                .iter()
                .find(|u| u.upgrade_type.as_bytes().eq_ignore_ascii_case(kind))
        };
        let enabled =
            by_route.map_or_else(|| by_manager().is_some_and(|u| u.enabled), |u| u.enabled);
        if enabled {
            return Ok(true);
        }
        self.config.stats.downstream_rq_ws_on_non_ws_route().inc();
        Err(Rejection::new(403, "upgrade_failed"))
    }

    /// Whether the client waits for `100 Continue`, and gets it from us.
    pub(super) fn continues_at_once(&self, head: &mut RequestHead) -> bool {
        let expects = head
            .fields
            .get(Known::Expect)
            .is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
        if !expects || self.config.proxy_100_continue {
            return false;
        }
        head.fields.remove(Known::Expect);
        true
    }

    /// The filters of a request: of its upgrade, if that has some of its own.
    pub(super) fn chain_for<'a>(
        &self,
        routing: &'a Routing,
        upgrade: bool,
        head: &RequestHead,
    ) -> &'a WorkerChain {
        let kind = match head.method() {
            _ if !upgrade => None,
            Method::Connect => Some(&b"connect"[..]),
            _ => head.fields.get(Known::Upgrade),
        };
        let index = kind.and_then(|kind| {
            self.config
                .upgrades
                .iter()
                .position(|u| u.upgrade_type.as_bytes().eq_ignore_ascii_case(kind))
        });
        index
            .and_then(|index| routing.upgrade_chains.get(index)?.as_ref())
            .unwrap_or(&routing.chain)
    }

    /// What a new stream is routed by, before its head has come.
    #[inline]
    pub(super) fn routing(&self) -> Rc<Routing> {
        self.routes.current()
    }

    /// The same, where its head decides about that.
    #[inline]
    pub(super) fn routing_by_head(&self, head: &RequestHead) -> Option<Rc<Routing>> {
        self.routes.by_head(head)
    }

    /// Chooses the route of a request.
    pub(super) fn resolve_route(
        &self,
        routing: &Routing,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) {
        self.resolve_by(&routing.table, head, info);
    }

    /// Chooses the route of a request by this table.
    fn resolve_by(
        &self,
        table: &Rc<Arc<RouteTable>>,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) {
        info.route = None;
        info.cluster = None;
        info.requires_tls = false;
        // Every request has got one; without it, when a filter took it away, Envoy finds no route.
        if !head.fields.contains(Known::ForwardedProto) {
            return;
        }
        match table.select(head, info, self.worker.random.next()) {
            Selection::Route(index) => {
                let selected = SelectedRoute {
                    table: table.clone(),
                    index,
                };
                if let ClusterChoice::Id(id) = selected.cluster(head, &self.worker.clusters) {
                    info.cluster = self.worker.clusters.get(id);
                }
                info.route = Some(selected);
            }
            Selection::RequireTls => info.requires_tls = true,
            Selection::None => {}
        }
    }

    /// Whether the connection has to end after this response.
    pub(super) fn must_close(&self, request: &RequestHead) -> bool {
        let asked = |value: Option<&[u8]>, token: &[u8]| {
            value.is_some_and(|v| {
                v.split(|b| *b == b',')
                    .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
            })
        };
        self.worker.server.draining.load(Relaxed)
            || request.version == Protocol::Http11
                && asked(request.fields.get(Known::Connection), b"close")
    }

    /// Completes the head of every final response.
    pub(super) fn set_server_and_date(&self, head: &mut ResponseHead, info: &StreamInfo) {
        if !head.fields.contains(Known::Date) {
            with_http_date(info.start_time + (info.now - info.start), |date| {
                head.fields.append(Known::Date, date)
            });
        }
        let server = &self.config.server;
        match server.transformation {
            ServerHeaderTransformation::Overwrite => {
                head.fields.set(Known::Server, server.name.as_bytes())
            }
            ServerHeaderTransformation::AppendIfAbsent if !head.fields.contains(Known::Server) => {
                head.fields.append(Known::Server, server.name.as_bytes());
            }
            ServerHeaderTransformation::AppendIfAbsent
            | ServerHeaderTransformation::PassThrough => {}
        }
    }

    /// Counts and logs a stream that has ended.
    pub(super) fn finish(&self, record: &Record) {
        if let Some(status) = record.info.response_code {
            self.config.stats.record_response(status);
            self.config.listener_stats.record_response(status);
        }
        self.finish_without_response(record);
    }

    /// The same for one whose client gets its response from another stream.
    pub(super) fn finish_without_response(&self, record: &Record) {
        let stats = &self.config.stats;
        let info = &record.info;
        stats.downstream_rq_active().dec();
        let bytes = info.downstream_bytes;
        stats
            .downstream_cx_rx_bytes_total()
            .add(bytes.wire_received);
        stats.downstream_cx_tx_bytes_total().add(bytes.wire_sent);
        let received = &info.connection.bytes_received;
        received.set(received.get() + bytes.wire_received);
        let took = info.now - info.start;
        stats
            .downstream_rq_time()
            .record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.access_logs.log(&record.format_data("DownstreamEnd"));
    }
}

impl Routes<'_> {
    /// Chooses a route by other tables than those that the stream began with.
    fn resolve_in(
        &self,
        routing: &Routing,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) -> Rc<Arc<RouteTable>> {
        self.hcm.resolve_by(&routing.table, head, info);
        routing.table.clone()
    }
}

impl RouteResolver for Routes<'_> {
    fn resolve(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) -> Option<Rc<Arc<RouteTable>>> {
        // Its scope may have changed since the stream began.
        if let Some(scoped) = self.hcm.routing_by_head(head) {
            return Some(self.resolve_in(&scoped, head, info));
        }
        // A newer table, once a route was found in it, is the stream's.
        let found = info.route.as_ref().map(|route| &route.table);
        let table = found.unwrap_or(&self.routing.table).clone();
        self.hcm.resolve_by(&table, head, info);
        Some(table)
    }

    fn resolve_anew(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
    ) -> Option<Rc<Arc<RouteTable>>> {
        let newest = self.hcm.routing_by_head(head);
        let newest = newest.unwrap_or_else(|| self.hcm.routing());
        Some(self.resolve_in(&newest, head, info))
    }

    fn find_host(&self, head: &RequestHead) -> Option<LocalBoxFuture<'static, ()>> {
        let provider = self.hcm.routes.provider()?;
        let host = std::str::from_utf8(head.authority()?).ok()?;
        let found = provider.find_host(&host.to_ascii_lowercase())?;
        Some(Box::pin(found))
    }
}

impl Rejection {
    fn new(status: u16, details: &'static str) -> Self {
        Self {
            reply: LocalReply::new(status, details),
            close: false,
            past_filters: false,
        }
    }

    fn body(mut self, body: &'static str) -> Self {
        self.reply.body = Bytes::from_static(body.as_bytes());
        self
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

/// How long a stream may last: as its route says, or the manager; none for no limit. A route that says something writes it into
/// `grpc-timeout` as well.
pub(super) fn max_stream_duration(
    action: &RouteAction,
    head: &mut RequestHead,
    of_manager: Option<Duration>,
) -> Option<Duration> {
    let Some(limits) = action.timeouts().max_stream_duration else {
        return of_manager;
    };
    let duration = match limits.grpc_timeout_header_max.zip(head.grpc_timeout()) {
        Some((max, asked)) => {
            let asked = if max.is_zero() { asked } else { asked.min(max) };
            let offset = limits.grpc_timeout_header_offset.unwrap_or_default();
            // Nothing left ends the stream at once.
            Some(asked.saturating_sub(offset))
        }
        None => limits
            .max_stream_duration
            .map_or(of_manager, |max| Some(max).filter(|max| !max.is_zero())),
    }?;
    if head.is_grpc() {
        head.set_grpc_timeout(duration);
    }
    Some(duration)
}

/// `Connection: upgrade` together with an `Upgrade` field.
fn is_upgrade_request(head: &RequestHead) -> bool {
    if !head.fields.contains(Known::Upgrade) {
        return false;
    }
    let connection = head.fields.get(Known::Connection).unwrap_or_default();
    connection
        .split(|b| *b == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// A CONNECT-UDP names its target in the path, `/.well-known/masque/udp/HOST/PORT/`, which becomes the authority. False: it
/// does not.
fn take_udp_target(head: &mut RequestHead) -> bool {
    let upgrade = head.fields.get(Known::Upgrade);
    if !upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"connect-udp")) {
        return true;
    }
    let path = head.path().unwrap_or_default();
    let Some(target) = path.strip_prefix(b"/.well-known/masque/udp/") else {
        return false;
    };
    let mut parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty());
    let (Some(host), Some(port)) = (parts.next(), parts.next()) else {
        return false;
    };
    let authority = [host, port].join(&b':');
    head.set_authority(&authority);
    true
}

/// A QUERY must say what its body is.
fn is_query_without_content_type(head: &RequestHead) -> bool {
    head.method() == Method::Other
        && head.method_bytes() == b"QUERY"
        && !head.fields.contains(Known::ContentType)
}

/// Takes port and trailing dot off the host, as configured.
fn normalize_host(options: HostNormalization, head: &mut RequestHead, info: &StreamInfo) {
    let HostNormalization {
        strip_matching_port,
        strip_any_port,
        strip_trailing_dot,
    } = options;
    if !(strip_matching_port || strip_any_port || strip_trailing_dot) {
        return;
    }
    let Some(authority) = head.authority() else {
        return;
    };
    let (host, port) = split_port(authority);
    let keep_port = match port {
        None => false,
        // The host of CONNECT is nothing without its port.
        Some(_) if head.method() == Method::Connect => true,
        Some(_) if strip_any_port => false,
        Some(port) => {
            let own = info.connection.local_address.port().map(|p| p.to_string());
            !(strip_matching_port && own.as_deref().map(str::as_bytes) == Some(port))
        }
    };
    let dotless = if strip_trailing_dot {
        host.strip_suffix(b".").unwrap_or(host)
    } else {
        host
    };
    let mut result = dotless.to_vec();
    if keep_port && let Some(port) = port {
        result.push(b':');
        result.extend_from_slice(port);
    }
    if result != authority {
        head.set_authority(&result);
    }
}

/// Host and port of an authority; the brackets of an IPv6 address stay with the host.
fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let colon = authority.iter().rposition(|b| *b == b':');
    match colon {
        Some(colon)
            if !authority[colon..].contains(&b']')
                && authority[colon + 1..].iter().all(u8::is_ascii_digit) =>
        {
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        _ => (authority, None),
    }
}
