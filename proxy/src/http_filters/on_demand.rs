//! `envoy.filters.http.on_demand`: a request whose virtual host or cluster is not known waits while it is asked for.
//!
//! Type URLs: `envoy.extensions.filters.http.on_demand.v3.OnDemand`, per route
//! `envoy.extensions.filters.http.on_demand.v3.PerRouteConfig`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/on_demand_updates_filter>
//! Stats: `cluster_manager.odcds.*`.
//! Deviations: `odcds.resources_locator` is refused.
//! Deviations: a virtual host that has come is used from this filter on; Envoy starts the request again, at the first filter.
//! Deviations: at most 1024 names are asked for at a time; requests for others go on as they are.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::extensions::filters::http::on_demand::v3 as pb;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, RequestHead};
use crate::route::ClusterChoice;
use crate::server::{FactoryContext, ServerContext, Worker};
use crate::xds::XdsSource;

/// Makes filters that let requests wait for clusters.
pub(super) struct Factory;

/// Where clusters are asked for.
struct Config {
    odcds: Option<Odcds>,
}

struct Odcds {
    source: Arc<XdsSource>,
    /// How long a cluster is waited for. Default 5 s.
    timeout: Duration,
}

struct OnDemand {
    config: Arc<Config>,
    waits: WaitsFor,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Nothing,
    /// Its virtual host.
    Host,
    /// The route that the virtual host has for it.
    Route,
    Cluster,
}

const TIMEOUT: Duration = Duration::from_secs(5);

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.on_demand"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.on_demand.v3.OnDemand"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.on_demand.v3.PerRouteConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::OnDemand { odcds } = config.decode(path)?;
        Ok(Arc::new(Config::from_proto(odcds, cx.server, path)?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::PerRouteConfig { odcds } = config.decode(path)?;
        Ok(Arc::new(Config::from_proto(odcds, cx.server, path)?))
    }
}

impl Config {
    fn from_proto(
        odcds: Option<pb::OnDemandCds>,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let odcds = path.optional("odcds", odcds, |odcds, path| {
            let pb::OnDemandCds {
                source,
                resources_locator,
                timeout,
            } = odcds;
            let locator = path.unsupported_if_set("resources_locator", resources_locator);
            let timeout = path.duration("timeout", timeout);
            let source = path
                .required("source", source)
                .and_then(|source| XdsSource::from_proto(source, server, &path.field("source")));
            locator?;
            Ok(Odcds {
                source: Arc::new(source?),
                timeout: timeout?.unwrap_or(TIMEOUT),
            })
        });
        Ok(Self { odcds: odcds? })
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(OnDemand {
                config: self.clone(),
                waits: WaitsFor::Nothing,
            })
        })
    }
}

impl HttpFilter for OnDemand {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        if cx.info.route.is_none() && !cx.info.requires_tls {
            self.waits = WaitsFor::Host;
            cx.effects.host_wanted = true;
            return HeadersStatus::Continue;
        }
        self.find_cluster(cx, head)
    }

    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        match std::mem::replace(&mut self.waits, WaitsFor::Nothing) {
            WaitsFor::Nothing => HeadersStatus::Continue,
            WaitsFor::Host => {
                self.waits = WaitsFor::Route;
                cx.effects.routes_renewed = true;
                // The route is chosen when this has returned.
                HeadersStatus::Wait(Box::pin(std::future::ready(())))
            }
            WaitsFor::Route => self.find_cluster(cx, head),
            WaitsFor::Cluster => {
                let clusters = &cx.worker.clusters;
                if let Some(route) = &cx.info.route
                    && let ClusterChoice::Id(id) = route.cluster(head, clusters)
                {
                    cx.info.cluster = clusters.get(id);
                }
                HeadersStatus::Continue
            }
        }
    }
}

impl OnDemand {
    fn find_cluster(&mut self, cx: &StreamContext<'_>, head: &RequestHead) -> HeadersStatus {
        let config = cx.route_config::<Config>().unwrap_or(&self.config);
        let (Some(odcds), Some(route)) = (&config.odcds, &cx.info.route) else {
            return HeadersStatus::Continue;
        };
        let server = &cx.worker.server;
        let clusters = &cx.worker.clusters;
        if let ClusterChoice::Id(id) = route.cluster(head, clusters)
            && clusters.get(id).is_some()
        {
            return HeadersStatus::Continue;
        }
        let Some(name) = route.cluster_name(head, &server.cluster_names) else {
            return HeadersStatus::Continue;
        };
        let Odcds { source, timeout } = odcds;
        self.waits = WaitsFor::Cluster;
        let found = server.on_demand_clusters.find(source, &name, *timeout);
        HeadersStatus::Wait(Box::pin(found))
    }
}
