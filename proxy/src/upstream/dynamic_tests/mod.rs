//! Clusters and endpoints of a management server.

mod clusters;
mod endpoints;
mod memory;
mod warming;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::cluster::ClusterConfig;
use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::{LocalInfo, ServerContext};
use crate::xds::{
    Refused, Resource as XdsResource, ResourceKind, SourceKind, XdsClient, XdsSource,
};

/// A manager whose clusters come from a management server.
pub(super) struct Harness {
    pub(super) server: Arc<ServerContext>,
    pub(super) manager: Rc<ClusterManager>,
    client: Rc<XdsClient>,
    source: XdsSource,
}

fn parse<M: prost::Name + Default>(yaml: &str) -> M {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

pub(super) fn cluster(yaml: &str) -> XdsResource {
    let proto: pb::Cluster = parse(yaml);
    XdsResource {
        name: proto.name.as_str().into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

pub(super) fn endpoints(yaml: &str) -> XdsResource {
    let proto: ClusterLoadAssignment = parse(yaml);
    XdsResource {
        name: proto.cluster_name.as_str().into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

pub(super) fn static_cluster(name: &str, port: u16) -> String {
    format!(
        "{{name: {name}, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    )
}

pub(super) fn eds_cluster(name: &str) -> String {
    format!(
        "{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}, connect_timeout: 1s}}"
    )
}

/// An assignment of endpoints at these ports of 127.0.0.1, each with what else it says.
pub(super) fn assignment(name: &str, ports: &[(u16, &str)]) -> XdsResource {
    endpoints(&assignment_text(name, ports))
}

pub(super) fn assignment_text(name: &str, ports: &[(u16, &str)]) -> String {
    let endpoint = |(port, rest): &(u16, &str)| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}{rest}}}"
        )
    };
    let endpoints: Vec<String> = ports.iter().map(endpoint).collect();
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}",
        endpoints.join(", ")
    )
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with_static(&[])
    }

    fn with_static(clusters: &[&str]) -> Self {
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let resolver = Rc::new(HickoryResolver::default());
        let manager = ClusterManager::new(server.clone(), 0, resolver);
        for yaml in clusters {
            let report = ConfigReport::new();
            let path = ConfigPath::root(&report, "cluster");
            manager.add([ClusterConfig::from_proto(parse(yaml), &server, &path).unwrap()]);
        }
        let client = XdsClient::new(server.clone());
        let source = XdsSource {
            kind: SourceKind::Ads,
            initial_fetch_timeout: Duration::from_secs(15),
        };
        manager.watch_cds(&client, source.clone());
        Self {
            server,
            manager,
            client,
            source,
        }
    }

    pub(super) fn deliver(
        &self,
        kind: ResourceKind,
        sent: &[XdsResource],
        removed: &[&str],
    ) -> Result<(), Vec<Refused>> {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        self.client
            .deliver(&self.source, kind, "v1", sent, &removed)
    }

    pub(super) fn clusters(&self, sent: &[String]) -> Result<(), Vec<Refused>> {
        let sent: Vec<_> = sent.iter().map(|yaml| cluster(yaml)).collect();
        self.deliver(ResourceKind::Cluster, &sent, &[])
    }

    pub(super) fn endpoints(&self, sent: XdsResource) -> Result<(), Vec<Refused>> {
        self.deliver(ResourceKind::Endpoints, &[sent], &[])
    }

    pub(super) fn id(&self, name: &str) -> ClusterId {
        self.server.cluster_names.id(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Cluster>> {
        self.manager.table().get(self.id(name))
    }

    /// The ports of the hosts of a cluster in use.
    fn ports(&self, name: &str) -> Vec<u16> {
        let cluster = self.get(name).expect("the cluster is in use");
        let hosts = cluster.hosts.load();
        hosts
            .hosts()
            .map(|host| match &host.address {
                crate::net::Address::Ip(address) => address.port(),
                crate::net::Address::Pipe(_) => 0,
            })
            .collect()
    }

    /// The values of stats by name.
    pub(super) fn stat(&self, name: &str) -> u64 {
        let (prefix, last) = name.rsplit_once('.').unwrap();
        let prefix = format!("{prefix}.");
        let groups = self.server.stats.groups();
        let of_prefix = groups.iter().filter(|group| group.prefix() == prefix);
        let found = of_prefix.flat_map(|group| {
            (0..group.len())
                .filter(|at| group.stat(*at).0 == last)
                .map(|at| match group.stat(at).1 {
                    crate::stats::Kind::Gauge => group.gauge(at).value(),
                    _ => group.counter(at).value(),
                })
        });
        let values: Vec<u64> = found.collect();
        assert!(!values.is_empty(), "no stat {name}");
        values.iter().sum()
    }
}
