//! Sequences of discovery responses, of either kind of stream, to the managers of clusters, endpoints, listeners, routes,
//! scopes, virtual hosts, filters and secrets: each response is answered once, what was refused changes nothing, and what was
//! taken stays in force until it is replaced or removed.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use outrigger::config::{ConfigPath, ConfigReport};
use outrigger::listener::ListenerManager;
use outrigger::server::{InitManager, LocalInfo, ServerContext};
use outrigger::upstream::{ClusterConfig, ClusterManager, HickoryResolver};
use outrigger::xds::{Conversation, Refused, ResourceKind, SourceKind, XdsClient, XdsSource};
use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::listener::v3::Listener;
use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
use outrigger_proto::pb::google::protobuf::{Any, BoolValue, Duration as DurationProto};
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use prost::Message;
use tokio::task::LocalSet;

/// The most responses of one run.
const LONGEST: usize = 24;
/// What names files for writing.
const FILES: &[&[u8]] = &[b"FileAccessLog", b"StatsSink"];
/// Resources that name each other. Half of them are alike but for one thing, so that they replace each other.
const TEXTS: &[(ResourceKind, &str, &str)] = &[
    (ResourceKind::Cluster, "a", "{name: a, load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}}"),
    (ResourceKind::Cluster, "a", "{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}"),
    (ResourceKind::Cluster, "a", "{name: a, type: EDS, eds_cluster_config: {service_name: b, eds_config: {ads: {}, initial_fetch_timeout: 0s}}, lb_policy: RING_HASH}"),
    (ResourceKind::Cluster, "b", "{name: b, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, outlier_detection: {}, circuit_breakers: {thresholds: [{max_connections: 1}]}}"),
    (ResourceKind::Cluster, "b", "{name: b, type: EDS, connect_timeout: -1s, eds_cluster_config: {eds_config: {ads: {}}}}"),
    (ResourceKind::Cluster, "tls", "{name: tls, transport_socket: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {tls_certificate_sds_secret_configs: [{name: s, sds_config: {ads: {}}}]}}}}"),
    (ResourceKind::Cluster, "fixed", "{name: fixed}"),
    (ResourceKind::Endpoints, "a", "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}, {endpoint: {address: {socket_address: {address: '::1', port_value: 2}}}, health_status: UNHEALTHY, load_balancing_weight: 3}]}]}"),
    (ResourceKind::Endpoints, "a", "{cluster_name: a, policy: {endpoint_stale_after: 5s, overprovisioning_factor: 100}, endpoints: [{priority: 1, locality: {zone: z}}, {priority: 0}]}"),
    (ResourceKind::Endpoints, "a", "{cluster_name: a, endpoints: [{priority: 3}]}"),
    (ResourceKind::Endpoints, "b", "{cluster_name: b, policy: {drop_overloads: [{category: c, drop_percentage: {numerator: 50}}]}}"),
    (ResourceKind::Endpoints, "b", "{cluster_name: b, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: nowhere, port_value: 1}}}}]}]}"),
    (ResourceKind::Listener, "l", "{name: l, bind_to_port: false, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, rds: {route_config_name: r, config_source: {ads: {}}}, http_filters: [{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}"),
    (ResourceKind::Listener, "l", "{name: l, bind_to_port: false, address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, rds: {route_config_name: v, config_source: {ads: {}}}, http_filters: [{name: f, config_discovery: {config_source: {ads: {}}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC]}}, {name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}"),
    (ResourceKind::Listener, "m", "{name: m, bind_to_port: false, address: {socket_address: {address: 127.0.0.1, port_value: 2}}, filter_chains: [{filters: [{name: h, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, scoped_routes: {name: p, scope_key_builder: {fragments: [{header_value_extractor: {name: x, element_separator: ';', element: {key: k, separator: '='}}}]}, rds_config_source: {ads: {}}, scoped_rds: {scoped_rds_config_source: {ads: {}}}}, http_filters: [{name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}"),
    (ResourceKind::Listener, "m", "{name: m, bind_to_port: false, address: {socket_address: {address: 127.0.0.1, port_value: 2}}, filter_chains: [{filters: [{name: e, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]}"),
    (ResourceKind::RouteConfiguration, "r", "{name: r, virtual_hosts: [{name: h, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: a}}, {match: {safe_regex: {regex: '/(b|c)+'}}, route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 2}]}}}]}]}"),
    (ResourceKind::RouteConfiguration, "r", "{name: r, virtual_hosts: [{name: h, domains: [a.example.com, '*.example.com']}, {name: i, domains: [a.example.com]}]}"),
    (ResourceKind::RouteConfiguration, "v", "{name: v, vhds: {config_source: {ads: {}}}, virtual_hosts: [{name: h, domains: [x]}]}"),
    (ResourceKind::RouteConfiguration, "v", "{name: v, validate_clusters: true, virtual_hosts: [{name: h, domains: ['*'], routes: [{match: {path: /}, route: {cluster: none}}]}]}"),
    (ResourceKind::VirtualHost, "v/y", "{name: 'y', domains: ['y'], routes: [{match: {prefix: /}, redirect: {host_redirect: z}}]}"),
    (ResourceKind::VirtualHost, "v/z", "{name: z, domains: [x]}"),
    (ResourceKind::ScopedRoute, "s1", "{name: s1, route_configuration_name: r, key: {fragments: [{string_key: one}]}}"),
    (ResourceKind::ScopedRoute, "s2", "{name: s2, route_configuration_name: v, key: {fragments: [{string_key: one}]}}"),
    (ResourceKind::ExtensionConfig, "f", "{name: f, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}}"),
    (ResourceKind::ExtensionConfig, "f", "{name: f, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"),
    (ResourceKind::Secret, "s", "{name: s, generic_secret: {secret: {inline_string: x}}}"),
    (ResourceKind::Secret, "s", "{name: s, tls_certificate: {certificate_chain: {inline_string: x}, private_key: {inline_string: k}}}"),
];

/// The encoded resources.
static RESOURCES: LazyLock<Vec<(ResourceKind, &str, Any)>> = LazyLock::new(|| {
    let parse = |(kind, name, text): &(ResourceKind, &'static str, &str)| {
        // An Any in YAML, so that one loader does for all kinds.
        let text = format!("resources: [{{'@type': {}, {}]", kind.type_url(), &text[1..]);
        let source = Source {
            name: "resource",
            format: Format::Yaml,
            bytes: text.as_bytes(),
        };
        let response: Result<pb::DiscoveryResponse, _> = load(&[source], UnknownFields::Refuse);
        let mut response = response.unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        (*kind, *name, response.resources.remove(0))
    };
    TEXTS.iter().map(parse).collect()
});

/// The bytes of a run, taken one after the other; zeros behind their end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next()) % limit
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    /// A resource, often a sound one of the kind.
    fn resource(&mut self, kind: ResourceKind) -> (String, Any) {
        let of_kind: Vec<_> = RESOURCES.iter().filter(|(of, ..)| *of == kind).collect();
        let choice = self.next();
        if of_kind.is_empty() || choice == u8::MAX {
            let type_url = match self.next() {
                0 => String::new(),
                _ => kind.type_url(),
            };
            let count = self.below(64);
            let value = self.take(count);
            return ("raw".to_owned(), Any { type_url, value });
        }
        let (_, name, any) = of_kind[usize::from(choice & 15) % of_kind.len()];
        let mut any = any.clone();
        // Bytes of it change.
        for _ in 0..(choice >> 4) & 3 {
            let at = (usize::from(self.next()) << 8 | usize::from(self.next())) % any.value.len();
            match self.below(4) {
                0 => any.value.truncate(at.max(1)),
                1 => any.value.insert(at, self.next()),
                _ => any.value[at] = self.next(),
            }
        }
        let name = match choice >> 6 {
            3 => String::from(["", "a", "b", "v/y", "*"][self.below(5)]),
            _ => (*name).to_owned(),
        };
        (name, harmless(kind, any))
    }

    fn name(&mut self) -> String {
        ["a", "b", "l", "m", "r", "v", "v/y", "s1", "f", "s", "fixed", "none", ""][self.below(13)].to_owned()
    }
}

/// Without what binds addresses or writes files.
fn harmless(kind: ResourceKind, mut any: Any) -> Any {
    if FILES.iter().any(|name| any.value.windows(name.len()).any(|w| w == *name)) {
        any.value.clear();
    }
    if kind == ResourceKind::Listener
        && let Ok(mut listener) = Listener::decode(&*any.value)
    {
        listener.bind_to_port = Some(BoolValue { value: false });
        any = pack(&listener);
    }
    any
}

/// The proxy, and what should be in force.
struct Proxy {
    clusters: Rc<ClusterManager>,
    listeners: ListenerManager,
    conversation: Conversation,
    /// By name, of the kinds that are shown as they came.
    taken: [BTreeMap<String, Vec<u8>>; 2],
    delta: bool,
    nonce: u64,
    due: Vec<(String, bool)>,
}

const SHOWN: [ResourceKind; 2] = [ResourceKind::Cluster, ResourceKind::Listener];

impl Proxy {
    fn new(delta: bool) -> Self {
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let resolver = Rc::new(HickoryResolver::default());
        let clusters = ClusterManager::new(server.clone(), 0, resolver);
        let report = ConfigReport::new();
        let fixed = Cluster { name: "fixed".to_owned(), ..Cluster::default() };
        let fixed = ClusterConfig::from_proto(fixed, &server, &ConfigPath::root(&report, "fixed"));
        clusters.add(fixed);
        let client = XdsClient::new(server.clone());
        let source = XdsSource { kind: SourceKind::Ads, initial_fetch_timeout: Duration::from_secs(15) };
        clusters.watch_cds(&client, source.clone());
        let listeners = ListenerManager::new(server, 0);
        listeners.watch_lds(&client, source, &InitManager::new("fuzz"));
        listeners.start_workers(&[]).expect("nothing listens");
        Self {
            clusters,
            listeners,
            conversation: client.conversation(),
            taken: Default::default(),
            delta,
            nonce: 0,
            due: Vec::new(),
        }
    }

    fn respond(&mut self, bytes: &mut Bytes<'_>) {
        let kind = ResourceKind::ALL[bytes.below(ResourceKind::ALL.len())];
        let sent: Vec<(String, Any)> = (0..bytes.below(4)).map(|_| bytes.resource(kind)).collect();
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let version = bytes.below(3).to_string();
        let (refused, removed) = match self.delta {
            false => {
                let resources = sent.iter().map(|(_, any)| any.clone()).collect();
                let response = pb::DiscoveryResponse {
                    version_info: version,
                    resources,
                    type_url: kind.type_url(),
                    nonce: nonce.clone(),
                    ..Default::default()
                };
                (self.conversation.state(response), None)
            }
            true => {
                let wrap = |(name, any): &(String, Any)| {
                    let mode = bytes.next();
                    pb::Resource {
                        name: name.clone(),
                        version: version.clone(),
                        resource: (mode & 7 != 7).then(|| any.clone()),
                        ttl: (mode & 8 != 0).then_some(DurationProto { seconds: i64::from(mode) - 128, nanos: -1 }),
                        aliases: (mode & 16 != 0).then(|| "a".to_owned()).into_iter().collect(),
                        ..Default::default()
                    }
                };
                let resources: Vec<pb::Resource> = sent.iter().map(wrap).collect();
                let removed: Vec<String> = (0..bytes.below(3)).map(|_| bytes.name()).collect();
                let response = pb::DeltaDiscoveryResponse {
                    system_version_info: version,
                    resources: resources.clone(),
                    type_url: kind.type_url(),
                    nonce: nonce.clone(),
                    removed_resources: removed.clone(),
                    ..Default::default()
                };
                let refused = self.conversation.change(response);
                self.model_change(kind, &resources, &removed, refused.as_deref());
                (refused, Some(removed))
            }
        };
        if removed.is_none() {
            self.model_state(kind, &sent, refused.as_deref());
        }
        if let Some(refused) = refused {
            self.due.push((nonce, !refused.is_empty()));
        }
    }

    /// What a state of the world leaves in force.
    fn model_state(&mut self, kind: ResourceKind, sent: &[(String, Any)], refused: Option<&[Refused]>) {
        let (Some(place), Some(refused)) = (SHOWN.iter().position(|shown| *shown == kind), refused) else {
            return;
        };
        if is_refused_as_a_whole(refused) {
            return;
        }
        let named: Vec<_> = sent.iter().map(|(_, any)| (name_of(kind, any), any)).collect();
        let taken = &mut self.taken[place];
        taken.retain(|name, _| named.iter().any(|(sent, _)| sent == name));
        for (name, any) in &named {
            take(taken, name.clone(), any, refused);
        }
        let names: Vec<String> = named.into_iter().map(|(name, _)| name).collect();
        let is_twice = |name: &&String| names.iter().filter(|other| other == name).count() > 1;
        self.believe(place, names.iter().filter(is_twice));
    }

    /// What changes leave in force.
    fn model_change(&mut self, kind: ResourceKind, sent: &[pb::Resource], removed: &[String], refused: Option<&[Refused]>) {
        let (Some(place), Some(refused)) = (SHOWN.iter().position(|shown| *shown == kind), refused) else {
            return;
        };
        let mut names = BTreeSet::new();
        if is_refused_as_a_whole(refused) || !sent.iter().all(|sent| names.insert(&sent.name)) {
            return;
        }
        let taken = &mut self.taken[place];
        for name in removed {
            taken.remove(name);
        }
        for resource in sent {
            if let Some(any) = &resource.resource {
                take(taken, name_of(kind, any), any, refused);
            }
        }
        let named = sent.iter().filter_map(|sent| Some((&sent.name, name_of(kind, sent.resource.as_ref()?))));
        let named: Vec<_> = named.collect();
        let is_odd = |(outer, inner): &&(&String, String)| {
            *outer != inner || named.iter().filter(|(_, other)| other == inner).count() > 1
        };
        let odd = named.iter().filter(is_odd);
        self.believe(place, odd.flat_map(|(outer, inner)| [*outer, inner]));
    }

    /// Which of several resources of one name in one response is taken, or which of two names of one counts, only the proxy says.
    fn believe<'a>(&mut self, place: usize, names: impl Iterator<Item = &'a String>) {
        for name in names {
            match self.shown(place).remove(name) {
                Some(any) => drop(self.taken[place].insert(name.clone(), any.value)),
                None => drop(self.taken[place].remove(name)),
            }
        }
    }

    fn settle(&mut self, is_next: bool) {
        let answers: Vec<(String, bool)> = match self.delta {
            true => {
                let requests = self.conversation.change_requests().into_iter();
                let answers = requests.filter(|r| !r.response_nonce.is_empty());
                answers.map(|r| (r.response_nonce, r.error_detail.is_some())).collect()
            }
            false => {
                let requests = self.conversation.state_requests().into_iter();
                let answers = requests.filter(|r| !r.response_nonce.is_empty());
                answers.map(|r| (r.response_nonce, r.error_detail.is_some())).collect()
            }
        };
        let due = std::mem::take(&mut self.due);
        if is_next {
            for answer in &due {
                assert!(answers.contains(answer), "{answer:?} is not among {answers:?}");
            }
        }
    }

    /// What is in force must be what was taken.
    fn check(&self) {
        for (place, kind) in SHOWN.into_iter().enumerate() {
            compare(kind, &self.shown(place), &self.taken[place]);
        }
    }

    /// The newest version of each resource, be it in force or not yet, by name.
    fn shown(&self, place: usize) -> BTreeMap<String, Any> {
        let kind = SHOWN[place];
        let all: Vec<Any> = match kind {
            ResourceKind::Cluster => {
                let dump = self.clusters.config_dump(Vec::new());
                // The warming ones come last: they are the newest.
                let active = dump.dynamic_active_clusters.into_iter();
                let all = active.chain(dump.dynamic_warming_clusters);
                all.filter_map(|cluster| cluster.cluster).collect()
            }
            _ => {
                let states = self.listeners.dump().dynamic_listeners.into_iter();
                let newest = states.filter_map(|l| l.warming_state.or(l.active_state));
                newest.filter_map(|state| state.listener).collect()
            }
        };
        all.into_iter().map(|any| (name_of(kind, &any), any)).collect()
    }
}

fn is_refused_as_a_whole(refused: &[Refused]) -> bool {
    refused.iter().any(|refused| refused.name.is_empty())
}

fn take(taken: &mut BTreeMap<String, Vec<u8>>, name: String, any: &Any, refused: &[Refused]) {
    if name != "fixed" && !refused.iter().any(|refused| *refused.name == *name) {
        taken.insert(name, any.value.clone());
    }
}

fn name_of(kind: ResourceKind, any: &Any) -> String {
    match kind {
        ResourceKind::Cluster => Cluster::decode(&*any.value).unwrap_or_default().name,
        _ => Listener::decode(&*any.value).unwrap_or_default().name,
    }
}

fn compare(kind: ResourceKind, shown: &BTreeMap<String, Any>, taken: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(shown.keys().collect::<Vec<_>>(), taken.keys().collect::<Vec<_>>(), "{kind:?}");
    for (name, any) in shown {
        // The same in another encoding is no change.
        let same = match kind {
            ResourceKind::Cluster => Cluster::decode(&*any.value).ok() == Cluster::decode(&*taken[name]).ok(),
            _ => Listener::decode(&*any.value).ok() == Listener::decode(&*taken[name]).ok(),
        };
        assert!(same, "{kind:?} {name}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    // Time stands still, and no task runs: nobody connects to anything.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let _runtime = runtime.enter();
    let tasks = LocalSet::new();
    let _tasks = tasks.enter();
    let mut proxy = Proxy::new(bytes.next() & 1 == 1);
    proxy.settle(false);
    for _ in 0..LONGEST {
        if bytes.0.is_empty() {
            break;
        }
        match bytes.next() {
            // The stream breaks off; what it left unanswered stays so.
            0..8 => {
                proxy.conversation.begin_again();
                proxy.due.clear();
                proxy.settle(false);
            }
            _ => {
                proxy.respond(&mut bytes);
                proxy.check();
                proxy.settle(true);
            }
        }
    }
});
