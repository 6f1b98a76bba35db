//! The configuration that an explanation is made from.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_proto::any;
use outrigger_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::listener::v3::Listener;
use outrigger_proto::pb::envoy::config::listener::v3::filter::ConfigType;
use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use outrigger_proto::pb::google::protobuf::Any;
use prost::{Message, Name};

use crate::admin::ConfigDumps;
use crate::server::{LocalInfo, ServerContext};

/// Listeners, routes and clusters, with what else decides about a request.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// All listeners.
    pub listeners: Vec<Listener>,
    /// All clusters.
    pub clusters: Vec<Cluster>,
    /// Routes that listeners name.
    pub routes: Vec<RouteConfiguration>,
    /// Runtime layers, the strongest last.
    pub runtime_layers: Vec<(String, HashMap<String, String>)>,
    /// Who this proxy is.
    pub local_info: LocalInfo,
}

impl Configuration {
    /// What a bootstrap holds.
    pub fn of_bootstrap(
        proto: &Bootstrap,
        runtime_layers: Vec<(String, HashMap<String, String>)>,
        local_info: LocalInfo,
    ) -> Self {
        let statics = proto.static_resources.clone().unwrap_or_default();
        Self {
            listeners: statics.listeners,
            clusters: statics.clusters,
            routes: Vec::new(),
            runtime_layers,
            local_info,
        }
    }

    /// What a process runs with.
    pub fn of_dumps(dumps: &ConfigDumps, server: &ServerContext) -> Self {
        let listeners = &dumps.listeners;
        let fixed = listeners
            .static_listeners
            .iter()
            .map(|l| l.listener.as_ref());
        let dynamic = listeners
            .dynamic_listeners
            .iter()
            .map(|l| l.active_state.as_ref()?.listener.as_ref());
        let listeners = fixed.chain(dynamic).filter_map(decoded).collect();
        let clusters = &dumps.clusters;
        let fixed = clusters.static_clusters.iter().map(|c| c.cluster.as_ref());
        let dynamic = clusters.dynamic_active_clusters.iter();
        let dynamic = dynamic.map(|c| c.cluster.as_ref());
        let clusters = fixed.chain(dynamic).filter_map(decoded).collect();
        let routes = dumps.routes.dynamic_route_configs.iter();
        let routes = routes.map(|r| r.route_config.as_ref()).filter_map(decoded);
        Self {
            listeners,
            clusters,
            routes: routes.collect(),
            runtime_layers: server.runtime.layers(),
            local_info: server.local_info.clone(),
        }
    }

    /// A process with this configuration, that serves nobody and writes nothing.
    pub(super) fn server(&self) -> Arc<ServerContext> {
        let server = ServerContext::new(1, self.local_info.clone());
        server.access_logs.keep_closed();
        for (name, values) in &self.runtime_layers {
            server.runtime.set_layer(name, values.clone());
        }
        let names = self.clusters.iter().map(|cluster| &*cluster.name);
        server.cluster_names.set_static(names);
        Arc::new(server)
    }

    /// The listener with the route configurations in it that it names.
    pub(super) fn with_routes(&self, listener: &Listener) -> Result<Listener, String> {
        let mut listener = listener.clone();
        let chains = listener.filter_chains.iter_mut();
        for chain in chains.chain(listener.default_filter_chain.as_mut()) {
            for filter in &mut chain.filters {
                if let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type {
                    self.insert_routes(any)?;
                }
            }
        }
        Ok(listener)
    }

    fn insert_routes(&self, any: &mut Any) -> Result<(), String> {
        if any::type_name(&any.type_url) != HttpConnectionManager::full_name() {
            return Ok(());
        }
        // What is wrong with it the conversion says.
        let Ok(mut manager) = any::decode::<HttpConnectionManager>(any) else {
            return Ok(());
        };
        if let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier {
            let name = &rds.route_config_name;
            let found = self.routes.iter().find(|routes| routes.name == *name);
            let routes = found.ok_or_else(|| {
                format!("the route configuration \"{name}\" has not arrived: requests are answered with 404")
            })?;
            manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes.clone()));
            *any = any::pack(&manager);
        }
        Ok(())
    }
}

fn decoded<M: Message + Name + Default>(any: Option<&Any>) -> Option<M> {
    any::decode(any?).ok()
}
