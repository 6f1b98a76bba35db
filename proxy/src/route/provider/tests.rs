//! Route configurations that come, change and go.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::route::v3::{
    RouteConfiguration, ScopedRouteConfiguration, VirtualHost,
};
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::dynamic::RdsStats;
use super::{RouteProvider, ScopeSource, Scopes};
use crate::config::{ConfigPath, ConfigReport};
use crate::http::{Protocol, RequestHead};
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use crate::xds::{Refused, Resource, ResourceKind, SourceKind, XdsClient, XdsSource};

struct Fixture {
    server: Arc<ServerContext>,
    client: Rc<XdsClient>,
    init: InitManager,
}

impl Fixture {
    fn new() -> Self {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        Self {
            client: XdsClient::new(server.clone()),
            server,
            init: InitManager::new("test"),
        }
    }

    fn provider(&self, name: &str) -> Arc<RouteProvider> {
        self.provider_of("http.a.", name)
    }

    fn provider_of(&self, prefix: &str, name: &str) -> Arc<RouteProvider> {
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.server.stats.scope(prefix),
            init: &self.init,
        };
        self.server.routes.dynamic(name, source(), &cx)
    }

    fn deliver(&self, yaml: &str, name: &str) -> Result<(), Vec<Refused>> {
        let sent = [resource(yaml, name)];
        let kind = ResourceKind::RouteConfiguration;
        self.client.deliver(&source(), kind, "v1", &sent, &[])
    }
}

fn source() -> XdsSource {
    XdsSource {
        kind: SourceKind::Ads,
        initial_fetch_timeout: Duration::from_secs(15),
    }
}

fn resource(yaml: &str, name: &str) -> Resource {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: RouteConfiguration = load(&[source], UnknownFields::Refuse).unwrap();
    Resource {
        name: name.into(),
        aliases: Vec::new(),
        version: "v1".into(),
        body: Some(pack(&proto)),
    }
}

fn to(cluster: &str) -> String {
    format!(
        "name: r\nvirtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]"
    )
}

#[test]
fn connection_managers_that_name_the_same_routes_share_them() {
    let fixture = Fixture::new();
    let first = fixture.provider_of("http.a.", "r");
    let second = fixture.provider_of("http.b.", "r");
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &fixture.provider("other")));
    drop((first, second));
    // Who comes after the last one has gone asks anew.
    assert_eq!(fixture.provider("r").version(), 0);
}

#[test]
fn a_table_is_published_with_a_number_of_its_own() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    assert!(provider.table().virtual_hosts().is_empty());
    assert!(!fixture.init.is_ready());
    assert_eq!(
        fixture.init.unready(),
        ["shared target RdsRouteConfigSubscription RDS init r"]
    );
    fixture.deliver(&to("a"), "r").unwrap();
    assert!(fixture.init.is_ready());
    assert_eq!(provider.version(), 1);
    assert_eq!(provider.table().virtual_hosts().len(), 1);
    fixture.deliver(&to("b"), "r").unwrap();
    assert_eq!(provider.version(), 2);
    let dump = fixture.server.routes.dump();
    assert_eq!(dump.dynamic_route_configs.len(), 1);
    assert_eq!(dump.dynamic_route_configs[0].version_info, "v1");
}

#[test]
fn what_comes_again_unchanged_changes_nothing() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    fixture.deliver(&to("a"), "r").unwrap();
    let table = provider.table();
    fixture.deliver(&to("a"), "r").unwrap();
    assert!(Arc::ptr_eq(&table, &provider.table()));
    assert_eq!(provider.version(), 1);
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force_and_names_every_error() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    fixture.deliver(&to("a"), "r").unwrap();
    let bad = "name: r\nvirtual_hosts: [{name: a, domains: ['*'], routes: [{match: {safe_regex: {regex: '('}}, route: {cluster: a}}]}, {name: b, domains: ['*']}]";
    let refused = fixture.deliver(bad, "r").unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].name, "r");
    let lines: Vec<&str> = refused[0].reason.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("route configuration \"r\" / virtual_hosts[0]"));
    assert_eq!(provider.version(), 1);
}

#[test]
fn nobody_waits_for_a_second_try_of_what_was_refused() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    let refused = fixture.deliver("name: other", "r").unwrap_err();
    assert!(
        refused[0]
            .reason
            .contains("Unexpected RDS configuration (expecting r): other")
    );
    assert!(fixture.init.is_ready());
    assert_eq!(provider.version(), 0);
}

#[test]
fn withdrawn_routes_stay_in_use() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    fixture.deliver(&to("a"), "r").unwrap();
    let kind = ResourceKind::RouteConfiguration;
    fixture
        .client
        .deliver(&source(), kind, "v2", &[], &["r".into()])
        .unwrap();
    assert_eq!(provider.table().virtual_hosts().len(), 1);
}

#[test]
fn missing_clusters_are_refused_only_where_that_is_asked_for() {
    let fixture = Fixture::new();
    fixture.server.cluster_names.set_static(["a"]);
    let _provider = fixture.provider("r");
    fixture.deliver(&to("missing"), "r").unwrap();
    let strict = format!("{}\nvalidate_clusters: true", to("missing"));
    assert!(fixture.deliver(&strict, "r").is_err());
    let stats = RdsStats::new(&fixture.server.stats.scope("http.a.rds.r."));
    assert_eq!(stats.config_reload().value(), 1);
}

fn host(name: &str, domain: &str, cluster: &str) -> Resource {
    let yaml = format!(
        "{{name: {name}, domains: ['{domain}'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}"
    );
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: VirtualHost = load(&[source], UnknownFields::Refuse).unwrap();
    Resource {
        name: name.into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

const WITH_VHDS: &str = "name: r\nvhds: {config_source: {ads: {}}}\nvirtual_hosts: [{name: own, domains: [own], routes: [{match: {prefix: /}, route: {cluster: a}}]}]";

impl Fixture {
    fn hosts(&self, sent: &[Resource], removed: &[&str]) -> Result<(), Vec<Refused>> {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        let kind = ResourceKind::VirtualHost;
        self.client.deliver(&source(), kind, "1", sent, &removed)
    }
}

fn names(provider: &RouteProvider) -> Vec<String> {
    let table = provider.table();
    let hosts = table.virtual_hosts().iter();
    hosts.map(|host| host.name.to_string()).collect()
}

#[test]
fn virtual_hosts_of_the_route_configuration_are_added_and_those_of_others_left_alone() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    fixture.deliver(WITH_VHDS, "r").unwrap();
    // The first answer of VHDS belongs to that of RDS.
    assert!(!fixture.init.is_ready());
    fixture
        .hosts(&[host("r/a", "*", "a"), host("other/a", "*", "a")], &[])
        .unwrap();
    assert!(fixture.init.is_ready());
    assert_eq!(names(&provider), ["own", "r/a"]);
    fixture.hosts(&[host("r/b", "b", "a")], &["r/a"]).unwrap();
    assert_eq!(names(&provider), ["own", "r/b"]);
    // Another answer of RDS keeps them.
    let other = WITH_VHDS.replace("[own]", "[own2]");
    fixture.deliver(&other, "r").unwrap();
    assert_eq!(names(&provider), ["own", "r/b"]);
    fixture.deliver(&to("a"), "r").unwrap();
    assert_eq!(names(&provider), ["all"]);
    fixture.hosts(&[host("r/c", "c", "a")], &[]).unwrap();
    assert_eq!(names(&provider), ["all"]);
}

#[test]
fn a_virtual_host_that_does_not_fit_is_refused_alone() {
    let fixture = Fixture::new();
    let provider = fixture.provider("r");
    fixture.deliver(WITH_VHDS, "r").unwrap();
    let sent = [
        host("r/a", "a", "a"),
        host("r/clash", "own", "a"),
        host("r/b", "b", "a"),
    ];
    let refused = fixture.hosts(&sent, &[]).unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].name, "r/clash");
    assert!(refused[0].reason.contains("\"own\" stands more than once"));
    assert_eq!(names(&provider), ["own", "r/a", "r/b"]);
    let version = provider.version();
    fixture.hosts(&sent[..1], &[]).unwrap();
    assert_eq!(provider.version(), version);
}

fn scope(name: &str, key: &str, routes: &str) -> Resource {
    let yaml = format!(
        "{{name: {name}, key: {{fragments: [{{string_key: '{key}'}}]}}, route_configuration_name: {routes}}}"
    );
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    let proto: ScopedRouteConfiguration = load(&[source], UnknownFields::Refuse).unwrap();
    Resource {
        name: name.into(),
        aliases: Vec::new(),
        version: "1".into(),
        body: Some(pack(&proto)),
    }
}

impl Fixture {
    fn scopes(&self) -> Scopes {
        let yaml = "{name: s, scope_key_builder: {fragments: [{header_value_extractor: {name: x, index: 0}}]}, rds_config_source: {ads: {}}, scoped_rds: {scoped_rds_config_source: {ads: {}}}}";
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "scoped_routes");
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.server.stats.scope("http.a."),
            init: &self.init,
        };
        let proto = load(&[source], UnknownFields::Refuse).unwrap();
        Scopes::from_proto(proto, &cx, &path).unwrap()
    }

    fn deliver_scopes(&self, sent: &[Resource], removed: &[&str]) -> Result<(), Vec<Refused>> {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        let kind = ResourceKind::ScopedRoute;
        self.client.deliver(&source(), kind, "1", sent, &removed)
    }

    fn asked_for(&self) -> Vec<Arc<str>> {
        self.client.asked_for(ResourceKind::RouteConfiguration)
    }
}

/// The name of the table for a request with this value of `x`.
fn table_of(scopes: &Scopes, value: &str) -> Option<String> {
    let ScopeSource::Dynamic(provider) = &scopes.routes else {
        panic!("not dynamic")
    };
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.fields.append("x", value);
    let (_, published) = provider.take();
    let routes = published.find(&scopes.builder, &head)?;
    Some(routes.take().1.name().to_owned())
}

#[test]
fn scopes_bring_their_routes_and_take_them_away() {
    let fixture = Fixture::new();
    let scopes = fixture.scopes();
    assert_eq!(fixture.init.unready(), ["SRDS s"]);
    let sent = [scope("one", "1", "r"), scope("two", "2", "q")];
    fixture.deliver_scopes(&sent, &[]).unwrap();
    assert_eq!(
        fixture.init.unready(),
        [
            "shared target RdsRouteConfigSubscription RDS init r",
            "shared target RdsRouteConfigSubscription RDS init q"
        ]
    );
    assert_eq!(table_of(&scopes, "1").as_deref(), Some("r"));
    assert_eq!(table_of(&scopes, "2").as_deref(), Some("q"));
    assert_eq!(table_of(&scopes, "3"), None);
    assert_eq!(fixture.asked_for(), ["q".into(), "r".into()]);
    fixture.deliver(&to("a"), "r").unwrap();
    fixture
        .deliver_scopes(&[scope("one", "3", "r")], &["two"])
        .unwrap();
    assert_eq!(table_of(&scopes, "1"), None);
    assert_eq!(table_of(&scopes, "3").as_deref(), Some("r"));
    assert_eq!(fixture.asked_for(), ["r".into()]);
    let dump = fixture.server.routes.dump_scopes();
    assert_eq!(
        dump.dynamic_scoped_route_configs[0]
            .scoped_route_configs
            .len(),
        1
    );
    drop(scopes);
    assert!(fixture.asked_for().is_empty());
}

#[test]
fn scopes_whose_keys_clash_are_refused_together() {
    let fixture = Fixture::new();
    let scopes = fixture.scopes();
    fixture
        .deliver_scopes(&[scope("one", "1", "r")], &[])
        .unwrap();
    let sent = [scope("three", "3", "r"), scope("two", "1", "q")];
    let refused = fixture.deliver_scopes(&sent, &[]).unwrap_err();
    assert_eq!(
        refused[0].reason,
        "scope key conflict found, first scope is 'one', second scope is 'two'"
    );
    assert_eq!(table_of(&scopes, "3"), None);
    assert_eq!(fixture.asked_for(), ["r".into()]);
    // The key may move from one to the other.
    let sent = [scope("two", "1", "q")];
    fixture.deliver_scopes(&sent, &["one"]).unwrap();
    assert_eq!(table_of(&scopes, "1").as_deref(), Some("q"));
}
