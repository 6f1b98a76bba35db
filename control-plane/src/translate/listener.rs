//! Listeners: of a sidecar one per called port and one per served port, of a gateway one per port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::http::{self, Side, connection_manager};
use super::policy::Used;
use super::rbac::{self, Layer};
use super::route;
use super::{Builder, address, cluster, cluster_name, resource, secret, typed};
use crate::cache::ResourceType;
use crate::model::{Access, MtlsMode};
use crate::world::{
    Gateway, GatewayListener, Inbound, ListenerMode, Protocol, ResolvedCall, Workload,
};

impl Builder<'_> {
    /// Adds what a sidecar needs.
    pub(super) fn sidecar(&mut self, workload: &Workload) {
        let mut taken = BTreeMap::new();
        for call in &workload.calls {
            // Two services on one address and port: the first by name has it.
            if let Some(listen) = call.listen
                && taken.insert(listen, ()).is_none()
            {
                self.outbound(call, listen);
            }
        }
        for inbound in &workload.inbound {
            self.inbound(inbound);
        }
    }

    fn outbound(&mut self, call: &ResolvedCall, listen: SocketAddr) {
        let world = self.translator.world();
        let Some(made) = self.translator.service(&call.service) else {
            return;
        };
        let (Some(of_port), Some(port)) =
            (made.ports.get(&call.port), made.service.port(call.port))
        else {
            return;
        };
        for (key, port) in &of_port.targets {
            self.add_cluster(key, *port);
        }
        if let Some(route) = &of_port.route {
            self.snapshot.insert(ResourceType::Route, route.clone());
        }
        if let Some(known) = of_port.listeners.lock().get(&listen) {
            self.snapshot.insert(ResourceType::Listener, known.clone());
            return;
        }
        let route_name = cluster_name(&call.service, call.port);
        let filter = match &of_port.route {
            Some(_) => connection_manager(&world.defaults, Side::Outbound, &route_name),
            None => {
                let clusters: Vec<_> = made
                    .service
                    .policy
                    .split
                    .iter()
                    .map(|backend| {
                        let key = crate::model::Key::new(&call.service.namespace, &backend.service);
                        let port = backend.port.unwrap_or(port.number);
                        json!({"name": cluster_name(&key, port), "weight": backend.weight})
                    })
                    .filter(|cluster| cluster["weight"] != 0)
                    .collect();
                let to = if clusters.is_empty() {
                    json!({"cluster": route_name})
                } else {
                    json!({"weighted_clusters": {"clusters": clusters}})
                };
                self.tcp_proxy("outbound", to)
            }
        };
        let name = format!("outbound/{route_name}");
        let listener = json!({
            "name": name,
            "address": address(listen),
            "traffic_direction": "OUTBOUND",
            "filter_chains": [{"filters": [filter]}],
        });
        let listener = Arc::new(resource(ResourceType::Listener, &name, &listener));
        of_port
            .listeners
            .lock()
            .insert(listen, Arc::clone(&listener));
        self.snapshot.insert(ResourceType::Listener, listener);
    }

    fn inbound(&mut self, inbound: &Inbound) {
        let world = self.translator.world();
        let name = format!("inbound/{}", inbound.listen.port());
        self.add(
            ResourceType::Cluster,
            cluster::of_app(&world.defaults, inbound),
        );
        let filters = if inbound.protocol == Protocol::Tcp {
            let mut filters = Vec::new();
            for action in [Access::Deny, Access::Allow] {
                let rules = rbac::rules(
                    &inbound.authorization,
                    action,
                    Layer::Tcp,
                    &world.trust_domain,
                );
                if let Some(rules) = rules {
                    filters.push(json!({
                        "name": "envoy.filters.network.rbac",
                        "typed_config": typed(
                            "envoy.extensions.filters.network.rbac.v3.RBAC",
                            json!({"rules": rules, "stat_prefix": "inbound"}),
                        ),
                    }));
                }
            }
            filters.push(self.tcp_proxy("inbound", json!({"cluster": cluster::app_name(inbound)})));
            filters
        } else {
            let route = route::inbound(&name, inbound, &world.trust_domain);
            self.add(ResourceType::Route, route);
            let limit = http::rate_limit(&name, inbound.rate_limit.as_ref());
            self.add(ResourceType::Extension, limit);
            vec![connection_manager(&world.defaults, Side::Inbound, &name)]
        };
        // gRPC ends a connection on which no protocol was agreed.
        let alpn: &[_] = match inbound.protocol {
            Protocol::Tcp => &[],
            Protocol::Http1 | Protocol::Http2 => &["h2", "http/1.1"],
        };
        let tls = || secret::downstream_mtls(&world.trust_domain, alpn);
        let mut listener = json!({
            "name": name,
            "address": address(inbound.listen),
            "traffic_direction": "INBOUND",
        });
        listener["filter_chains"] = match inbound.mtls {
            MtlsMode::Disable => json!([{"name": "plain", "filters": filters}]),
            MtlsMode::Strict => {
                json!([{"name": "mtls", "filters": filters, "transport_socket": tls()}])
            }
            MtlsMode::Permissive => {
                listener["listener_filters"] = json!([tls_inspector()]);
                json!([
                    {
                        "name": "mtls",
                        "filter_chain_match": {"transport_protocol": "tls"},
                        "filters": filters,
                        "transport_socket": tls(),
                    },
                    {
                        "name": "plain",
                        "filter_chain_match": {"transport_protocol": "raw_buffer"},
                        "filters": filters,
                    },
                ])
            }
        };
        self.add(
            ResourceType::Listener,
            resource(ResourceType::Listener, &name, &listener),
        );
    }

    /// Adds what a gateway needs.
    pub(super) fn gateway(&mut self, gateway: &Gateway) {
        let mut ports: BTreeMap<u16, Vec<&GatewayListener>> = BTreeMap::new();
        for listener in &gateway.listeners {
            ports.entry(listener.port).or_default().push(listener);
        }
        for (port, listeners) in ports {
            self.gateway_port(gateway, port, &listeners);
        }
    }

    fn gateway_port(&mut self, gateway: &Gateway, port: u16, listeners: &[&GatewayListener]) {
        let world = self.translator.world();
        let name = format!("gateway/{}/{port}", gateway.key);
        let mut chains = Vec::new();
        let http: Vec<_> = listeners
            .iter()
            .copied()
            .filter(|listener| listener.mode == ListenerMode::Http)
            .collect();
        if !http.is_empty() {
            let used = self.gateway_routes(&name, &http, listeners);
            let manager = connection_manager(&world.defaults, Side::Gateway(&used), &name);
            chains.push(json!({"filters": [manager]}));
        }
        let mut needs_inspector = false;
        for listener in listeners {
            let route_name = format!("{name}/{}", listener.name);
            let mut chain = match &listener.mode {
                ListenerMode::Http => continue,
                ListenerMode::Https(secrets) => {
                    let used = self.gateway_routes(&route_name, &[listener], listeners);
                    self.gateway_secrets(secrets);
                    let side = Side::Gateway(&used);
                    let manager = connection_manager(&world.defaults, side, &route_name);
                    json!({
                        "filters": [manager],
                        "transport_socket": secret::downstream_tls(secrets, &["h2", "http/1.1"]),
                    })
                }
                ListenerMode::TerminateTls(secrets) => {
                    self.gateway_secrets(secrets);
                    let Some(proxy) = self.gateway_bytes(listener) else {
                        continue;
                    };
                    json!({
                        "filters": [proxy],
                        "transport_socket": secret::downstream_tls(secrets, &[]),
                    })
                }
                ListenerMode::Passthrough => {
                    needs_inspector = true;
                    self.passthrough(listener, &mut chains);
                    continue;
                }
                ListenerMode::Tcp => match self.gateway_bytes(listener) {
                    Some(proxy) => json!({"filters": [proxy]}),
                    None => continue,
                },
            };
            if let Some(hostname) = &listener.hostname {
                chain["filter_chain_match"] = json!({"server_names": [hostname]});
                needs_inspector = true;
            }
            chain["name"] = json!(listener.name);
            chains.push(chain);
        }
        if chains.is_empty() {
            return;
        }
        let mut listener = json!({
            "name": name,
            "address": address(SocketAddr::new(gateway.address, port)),
            "filter_chains": chains,
        });
        if needs_inspector {
            listener["listener_filters"] = json!([tls_inspector()]);
        }
        self.add(
            ResourceType::Listener,
            resource(ResourceType::Listener, &name, &listener),
        );
    }

    fn gateway_routes(
        &mut self,
        name: &str,
        listeners: &[&GatewayListener],
        all: &[&GatewayListener],
    ) -> Used {
        let world = self.translator.world();
        let (routes, targets, used) = route::of_gateway(world, name, listeners, all);
        self.add(ResourceType::Route, routes);
        for (key, port) in targets {
            self.add_cluster(&key, port);
        }
        used.add_resources(self);
        used
    }

    fn gateway_secrets(&mut self, secrets: &[crate::model::Key]) {
        for key in secrets {
            if let Some(pair) = self.translator.world().secrets.get(key) {
                let made = secret::certificate(&secret::name_of(key), pair);
                self.add(ResourceType::Secret, made);
            }
        }
    }

    /// A TCP proxy for the first route; the Gateway API has one route per listener of bytes.
    fn gateway_bytes(&mut self, listener: &GatewayListener) -> Option<Json> {
        let rule = listener.routes.first()?.rules.first()?;
        let (to, targets) = route::tcp_clusters(&rule.backends);
        for (key, port) in targets {
            self.add_cluster(&key, port);
        }
        Some(self.tcp_proxy("gateway", to))
    }

    /// A chain per host name; the first route that has it goes.
    fn passthrough(&mut self, listener: &GatewayListener, chains: &mut Vec<Json>) {
        let mut taken = std::collections::BTreeSet::new();
        for attached in &listener.routes {
            let Some(rule) = attached.rules.first() else {
                continue;
            };
            let names: Vec<_> = attached
                .hostnames
                .iter()
                .filter_map(|name| crate::world::intersect(listener.hostname.as_deref(), name))
                .filter(|name| taken.insert(name.clone()))
                .collect();
            if names.is_empty() {
                continue;
            }
            let (to, targets) = route::tcp_clusters(&rule.backends);
            for (key, port) in targets {
                self.add_cluster(&key, port);
            }
            chains.push(json!({
                "name": format!("{}/{}", listener.name, attached.key),
                "filter_chain_match": {"server_names": names},
                "filters": [self.tcp_proxy("gateway", to)],
            }));
        }
    }

    fn tcp_proxy(&self, prefix: &str, mut to: Json) -> Json {
        to["stat_prefix"] = json!(prefix);
        to["access_log"] = http::access_log(&self.translator.world().defaults);
        json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", to),
        })
    }
}

fn tls_inspector() -> Json {
    json!({
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": typed(
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        ),
    })
}
