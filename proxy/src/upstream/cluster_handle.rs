//! What connections and requests hold on to of a cluster: everything but its hosts.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::circuit_breaker::{Resource, RoutingPriority};
use super::cluster::{ClusterInfo, CodeStats};
use super::pool::Connector;
use super::shared_cluster::Cluster;
use crate::codec::h1::ClientHttp1Settings;
use crate::codec::{Http1CodecStats, Http2CodecStats};
use crate::http2::ClientHttp2Settings;

/// A cluster without its hosts: what connections and requests hold on to.
pub(in crate::upstream) struct ClusterHandle {
    pub(super) cluster: Arc<Cluster>,
    /// The same as `cluster.info`.
    pub(super) info: Arc<ClusterInfo>,
    pub(super) name: Rc<str>,
    pub(super) observability_name: Rc<str>,
    pub(super) codes: RefCell<CodeStats>,
    pub(super) connector: Rc<dyn Connector>,
    pub(super) shard: usize,
    pub(super) http1: OnceCell<(Rc<ClientHttp1Settings>, Http1CodecStats)>,
    pub(super) http2: OnceCell<(Rc<ClientHttp2Settings>, Rc<Http2CodecStats>)>,
}

impl ClusterHandle {
    pub(super) fn has_room(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.has_room(&settings.circuit_breakers, priority, resource)
    }

    pub(super) fn acquire(&self, priority: RoutingPriority, resource: Resource) {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.acquire(&settings.circuit_breakers, priority, resource);
    }

    pub(super) fn release(&self, priority: RoutingPriority, resource: Resource) {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.release(&settings.circuit_breakers, priority, resource);
    }

    pub(super) fn http1_settings(&self) -> Rc<ClientHttp1Settings> {
        let (settings, _) = self.http1.get_or_init(|| {
            let settings = self.info.client_http1_settings();
            let stats = Http1CodecStats::new(&self.info.scope.scope("http1."));
            (Rc::new(settings), stats)
        });
        settings.clone()
    }

    pub(super) fn http2_settings(&self) -> Rc<ClientHttp2Settings> {
        self.http2().0.clone()
    }

    /// `cluster.<name>.http2.`
    pub(super) fn http2_stats(&self) -> &Rc<Http2CodecStats> {
        &self.http2().1
    }

    fn http2(&self) -> &(Rc<ClientHttp2Settings>, Rc<Http2CodecStats>) {
        self.http2.get_or_init(|| {
            let stats = Rc::new(Http2CodecStats::new(&self.info.scope.scope("http2.")));
            (Rc::new(self.info.client_http2_settings()), stats)
        })
    }
}

impl ClusterInfo {
    /// How the codec of an HTTP/1 connection is set up.
    pub(super) fn client_http1_settings(&self) -> ClientHttp1Settings {
        let http = &self.settings.http;
        ClientHttp1Settings {
            options: http.http1.clone(),
            max_response_headers_kb: http.common.max_response_headers_kb,
            max_headers_count: http.common.max_headers_count,
        }
    }

    /// The same of an HTTP/2 connection.
    pub(super) fn client_http2_settings(&self) -> ClientHttp2Settings {
        let settings = &self.settings;
        ClientHttp2Settings {
            options: settings.http.http2.clone(),
            max_response_headers_kb: settings.http.common.max_response_headers_kb,
            max_headers_count: settings.http.common.max_headers_count,
            buffer_limit: usize::try_from(settings.per_connection_buffer_limit_bytes)
                .unwrap_or(usize::MAX),
        }
    }
}

impl fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterHandle").field(&self.name).finish()
    }
}
