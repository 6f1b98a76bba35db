//! Filters whose configuration comes, changes and goes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

use super::{DynamicFilter, WorkerDynamicFilter};
use crate::config::{ConfigPath, ConfigReport};
use crate::http::{EndStream, Protocol, RequestHead};
use crate::http_filters::{Effects, HeadersStatus, StreamContext};
use crate::net::Address;
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext, Worker};
use crate::stream_info::{ConnectionInfo, ResponseFlag, StreamInfo};
use crate::upstream::WorkerClusters;
use crate::xds::{Refused, Resource, ResourceKind, SourceKind, XdsClient, XdsSource};

const TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";

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

    fn filter(&self, more: &str) -> Result<WorkerDynamicFilter, String> {
        let yaml = format!("{{config_source: {{ads: {{}}}}, {more}}}");
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "config_discovery");
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.server.stats.scope("http.a."),
            init: &self.init,
        };
        let filter = DynamicFilter::from_proto("f", proto(&yaml), false, &cx, &path);
        let filter = filter.map_err(|_| report.text())?;
        let worker = Worker::new(0, self.server.clone(), WorkerClusters::default(), 1);
        Ok(filter.on_worker(&worker))
    }

    fn deliver(&self, config: &str, removed: &[&str]) -> Result<(), Vec<Refused>> {
        let sent: Vec<Resource> = match config {
            "" => Vec::new(),
            config => {
                let config: core::TypedExtensionConfig =
                    proto(&format!("{{name: f, typed_config: {config}}}"));
                vec![Resource {
                    name: "f".into(),
                    aliases: Vec::new(),
                    version: "1".into(),
                    body: Some(pack(&config)),
                }]
            }
        };
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        let source = XdsSource {
            kind: SourceKind::Ads,
            initial_fetch_timeout: Duration::from_secs(15),
        };
        let kind = ResourceKind::ExtensionConfig;
        self.client.deliver(&source, kind, "1", &sent, &removed)
    }
}

fn proto<M: prost::Name + Default>(yaml: &str) -> M {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    load(&[source], UnknownFields::Refuse).unwrap()
}

/// A filter that says `value` in the header `said`.
fn says(value: &str) -> String {
    format!(
        "{{'@type': {TYPE}, mutations: {{request_mutations: [{{append: {{header: {{key: said, value: {value}}}}}}}]}}}}"
    )
}

/// What a new stream's filter says, or the status that it answers with.
fn said(filter: &WorkerDynamicFilter) -> String {
    let address = || Address::Ip(([127, 0, 0, 1], 1).into());
    let connection = ConnectionInfo::between(address(), address());
    let mut info = StreamInfo::new(connection.into(), 1, Some(Protocol::Http11));
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    let mut stream = filter.new_stream();
    let mut cx = StreamContext {
        info: &mut info,
        worker: &filter.worker,
        request: None,
        response: None,
        effects: &mut Effects::default(),
        slot: None,
    };
    match stream.decode_headers(&mut cx, &mut head, EndStream::Yes) {
        HeadersStatus::LocalReply(reply) => {
            assert!(
                info.response_flags
                    .contains(ResponseFlag::NoFilterConfigFound)
            );
            reply.status.to_string()
        }
        _ => {
            let said = head.fields.get_str("said");
            said.unwrap_or_default().to_owned()
        }
    }
}

#[test]
fn a_filter_waits_for_its_configuration_and_follows_it() {
    let fixture = Fixture::new();
    let filter = fixture.filter(&format!("type_urls: ['{TYPE}']")).unwrap();
    assert_eq!(fixture.init.unready(), ["FilterConfigSubscription init f"]);
    assert_eq!(said(&filter), "500");
    fixture.deliver(&says("a"), &[]).unwrap();
    assert!(fixture.init.is_ready());
    assert_eq!(said(&filter), "a");
    fixture.deliver(&says("b"), &[]).unwrap();
    assert_eq!(said(&filter), "b");
    let dump = fixture.server.extension_configs.dump().unwrap();
    assert_eq!(dump.ecds_filters.len(), 1);
    fixture.deliver("", &["f"]).unwrap();
    assert_eq!(said(&filter), "500");
}

#[test]
fn the_default_is_in_force_until_something_comes_and_after_it_has_gone() {
    let fixture = Fixture::new();
    let filter = fixture
        .filter(&format!(
            "type_urls: ['{TYPE}'], default_config: {}, apply_default_config_without_warming: true",
            says("default")
        ))
        .unwrap();
    assert!(fixture.init.is_ready());
    assert_eq!(said(&filter), "default");
    fixture.deliver(&says("a"), &[]).unwrap();
    assert_eq!(said(&filter), "a");
    fixture.deliver("", &["f"]).unwrap();
    assert_eq!(said(&filter), "default");
}

#[test]
fn a_later_filter_of_the_same_name_gets_what_is_in_force() {
    let fixture = Fixture::new();
    let types = format!("type_urls: ['{TYPE}']");
    let _first = fixture.filter(&types).unwrap();
    fixture.deliver(&says("a"), &[]).unwrap();
    assert_eq!(said(&fixture.filter(&types).unwrap()), "a");
    assert!(fixture.init.is_ready());
}

#[test]
fn what_is_of_another_type_is_refused_and_leaves_the_old_one_in_force() {
    let fixture = Fixture::new();
    let filter = fixture.filter(&format!("type_urls: ['{TYPE}']")).unwrap();
    fixture.deliver(&says("a"), &[]).unwrap();
    let other = "{'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}";
    let refused = fixture.deliver(other, &[]).unwrap_err();
    assert!(
        refused[0].reason.contains(
            "Error: filter config has type URL envoy.extensions.filters.http.cors.v3.Cors but expect \
             envoy.extensions.filters.http.header_mutation.v3.HeaderMutation."
        ),
        "{refused:?}"
    );
    assert_eq!(said(&filter), "a");
}

#[test]
fn sources_without_types_or_defaults_that_would_be_needed_are_refused() {
    let fixture = Fixture::new();
    let error = |more: &str| fixture.filter(more).err().unwrap();
    assert!(error("type_urls: []").contains("type_urls"));
    assert!(error("type_urls: [x/unknown.Type]").contains("no filter is configured by"));
    let early = format!("type_urls: ['{TYPE}'], apply_default_config_without_warming: true");
    assert!(error(&early).contains("needs default_config"));
}
