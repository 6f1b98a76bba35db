//! Whole tables against what Envoy does with them.

#![allow(
    clippy::redundant_allocation,
    reason = "the tests hold tables as streams do"
)]

mod errors;
mod filters;
mod look_up;
mod matcher;

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::yaml::{self, Format, Source, UnknownFields};

use super::{Action, ClusterChoice, RouteTable, SelectedRoute, Selection, https_location};
use crate::config::{ConfigPath, ConfigReport};
use crate::http::{Protocol, RequestHead, ResponseHead};
use crate::http_filters::HttpFilterFactory;
use crate::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// A request as `select.txt` writes it: method, authority, path.
pub(super) fn head(method: &str, authority: &str, path: &str) -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head.set_scheme(b"http");
    head.fields.append("x-forwarded-proto", "http");
    head
}

pub(super) fn info() -> StreamInfo {
    let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
    let connection = ConnectionInfo::between(address("10.1.2.3:4567"), address("10.0.0.1:80"));
    StreamInfo::new(Rc::new(connection), 1, Some(Protocol::Http11))
}

pub(super) fn server() -> Arc<ServerContext> {
    Arc::new(ServerContext::new(0, LocalInfo::default()))
}

fn parse(yaml: &str) -> RouteConfiguration {
    let source = Source {
        name: "test",
        format: Format::Yaml,
        bytes: yaml.as_bytes(),
    };
    yaml::load(&[source], UnknownFields::Refuse).unwrap()
}

fn convert(
    proto: RouteConfiguration,
    factories: &[&dyn HttpFilterFactory],
    server: &Arc<ServerContext>,
) -> Result<RouteTable, Vec<String>> {
    let report = ConfigReport::new();
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    RouteTable::with_factories(proto, factories, &cx, &ConfigPath::root(&report, "routes"))
        .map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

fn table(yaml: &str) -> RouteTable {
    convert(parse(yaml), &[], &server()).unwrap()
}

fn select(table: &Rc<Arc<RouteTable>>, head: &RequestHead, random: u64) -> Option<SelectedRoute> {
    match table.select(head, &info(), random) {
        Selection::Route(index) => Some(SelectedRoute {
            table: table.clone(),
            index,
        }),
        Selection::RequireTls | Selection::None => None,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What becomes of a request, in the words of `select.txt`.
fn outcome(table: &Rc<Arc<RouteTable>>, mut head: RequestHead) -> String {
    let info = info();
    if table.select(&head, &info, 0) == Selection::RequireTls {
        return format!("301 {}", text(&https_location(&head)));
    }
    let Some(route) = select(table, &head, 0) else {
        return "404".to_owned();
    };
    match &route.route().action {
        Action::DirectResponse(response) => {
            format!("{} {}", response.status, text(&response.body(&head, &info)))
        }
        Action::Redirect(redirect) => {
            let location = route.redirect_location(&head, &info).unwrap();
            format!("{} {}", redirect.status, text(&location))
        }
        Action::Forward(_) => {
            route.finalize_request_headers(&mut head, &info, true);
            let mut fields: Vec<_> = head
                .fields
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .filter(|(name, _)| name != "x-forwarded-proto")
                .collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            let fields: Vec<_> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            format!(
                "forward {} {} {}",
                text(head.authority().unwrap()),
                text(head.path().unwrap()),
                fields.join("; ")
            )
        }
        Action::NonForwarding => "nothing".to_owned(),
    }
}

#[test]
fn requests_meet_the_routes_and_rewrites_that_they_meet_in_envoy() {
    let table = Rc::new(Arc::new(table(include_str!("select.yaml"))));
    let mut wrong = Vec::new();
    for line in include_str!("select.txt").lines() {
        let Some((request, expected)) = line.split_once(" => ").filter(|_| !line.starts_with('#'))
        else {
            continue;
        };
        let mut parts = request.split(" | ");
        let mut first = parts.next().unwrap().split(' ');
        let mut next = || first.next().unwrap();
        let mut head = head(next(), next(), next());
        for field in parts {
            let (name, value) = field.split_once(':').unwrap();
            head.fields.append(name, value.trim());
        }
        let found = outcome(&table, head);
        if found.trim() != expected.trim() {
            wrong.push(format!(
                "{request}\n  expected {expected}\n  found    {found}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn header_mutations_happen_in_the_order_of_their_levels() {
    let yaml = |wins: bool| {
        format!(
            r#"
most_specific_header_mutations_wins: {wins}
request_headers_to_add: [ {{ header: {{ key: x-l, value: table }} }} ]
response_headers_to_add: [ {{ header: {{ key: x-l, value: table }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }} ]
virtual_hosts:
- name: a
  domains: ["*"]
  request_headers_to_add: [ {{ header: {{ key: x-l, value: host }} }} ]
  response_headers_to_add: [ {{ header: {{ key: x-l, value: host }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }} ]
  response_headers_to_remove: [x-gone]
  routes:
  - match: {{ prefix: / }}
    request_headers_to_add: [ {{ header: {{ key: x-l, value: route }} }} ]
    response_headers_to_add: [ {{ header: {{ key: x-l, value: route }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }}, {{ header: {{ key: x-of, value: "%REQ(x-l)%" }} }} ]
    route: {{ cluster: c }}
"#
        )
    };
    for (wins, request, response) in [
        (false, ["route", "host", "table"], "table"),
        (true, ["table", "host", "route"], "route"),
    ] {
        let table = Rc::new(Arc::new(table(&yaml(wins))));
        let mut head = head("GET", "a", "/");
        let selected = select(&table, &head, 0).unwrap();
        selected.finalize_request_headers(&mut head, &info(), false);
        let values: Vec<_> = head.fields.get_all("x-l").map(text).collect();
        assert_eq!(values, request);
        let mut answer = ResponseHead::new(200);
        answer.fields.append("x-l", "upstream");
        answer.fields.append("x-gone", "1");
        answer.fields.append("x-last", "1");
        selected.finalize_response_headers(&mut answer, &head, &info());
        let values: Vec<_> = answer.fields.get_all("x-l").map(text).collect();
        assert_eq!(values, [response]);
        let names: Vec<_> = answer.fields.iter().map(|(name, _)| text(name)).collect();
        let (x_l, x_last) = (
            names.iter().position(|n| n == "x-l"),
            names.iter().position(|n| n == "x-last"),
        );
        assert!(
            x_l > x_last,
            "what is overwritten moves to the end: {names:?}"
        );
        assert_eq!(answer.fields.get_str("x-of"), Some(request[0]));
        assert!(!answer.fields.contains("x-gone"));
    }
}

#[test]
fn clusters_come_from_names_headers_and_weights() {
    let server = server();
    let proto = parse(
        r#"
virtual_hosts:
- name: a
  domains: ["*"]
  routes:
  - { match: { path: /one }, route: { cluster: one } }
  - { match: { path: /header }, route: { cluster_header: x-c } }
  - match: { path: /weighted }
    route:
      cluster_not_found_response_code: NOT_FOUND
      weighted_clusters:
        clusters: [ { name: one, weight: 1 }, { name: zero, weight: 0 }, { cluster_header: x-c, weight: 3 } ]
"#,
    );
    let table = Rc::new(Arc::new(convert(proto, &[], &server).unwrap()));
    let names = &server.cluster_names;
    let choice = |path: &str, header: Option<&str>, random| {
        let mut head = head("GET", "a", path);
        if let Some(value) = header {
            head.fields.append("x-c", value);
        }
        select(&table, &head, random).unwrap().cluster(&head, names)
    };
    let (one, zero) = (names.id("one"), names.id("zero"));
    assert_eq!(choice("/one", None, 0), ClusterChoice::Id(one));
    assert_eq!(choice("/header", Some("zero"), 0), ClusterChoice::Id(zero));
    assert_eq!(choice("/header", Some("what"), 0), ClusterChoice::NotFound);
    assert_eq!(choice("/header", None, 0), ClusterChoice::NotFound);
    let drawn: Vec<_> = (0..8)
        .map(|random| choice("/weighted", Some("zero"), random))
        .collect();
    let (one, zero) = (ClusterChoice::Id(one), ClusterChoice::Id(zero));
    assert_eq!(drawn, [one, zero, zero, zero, one, zero, zero, zero]);
    let listed: Vec<_> = table.clusters().map(|(_, _, id)| id).collect();
    assert_eq!(listed.len(), 3);
}

#[test]
fn an_action_has_the_defaults_of_envoy() {
    let table = table(
        r#"
virtual_hosts:
- name: a
  domains: ["*"]
  retry_policy: { retry_on: 5xx }
  routes:
  - { match: { path: /default }, route: { cluster: c } }
  - { match: { path: /set }, route: { cluster: c, timeout: 0s, idle_timeout: 0s, retry_policy: { retry_on: reset, num_retries: 4 }, cluster_not_found_response_code: INTERNAL_SERVER_ERROR } }
"#,
    );
    let routes: Vec<_> = table.virtual_hosts[0]
        .routes
        .iter()
        .map(|r| r.forward().unwrap())
        .collect();
    let [default, set] = routes[..] else {
        panic!("two routes")
    };
    assert_eq!(default.timeout, Some(std::time::Duration::from_secs(15)));
    assert_eq!(default.idle_timeout, None);
    assert_eq!(default.cluster_not_found_response_code, 503);
    let policy = |action: &super::RouteAction| action.retry_policy.as_ref().unwrap().num_retries;
    assert_eq!(policy(default), 1);
    assert_eq!(set.timeout, None);
    assert_eq!(set.idle_timeout, Some(std::time::Duration::ZERO));
    assert_eq!(set.cluster_not_found_response_code, 500);
    assert_eq!(policy(set), 4);
}
