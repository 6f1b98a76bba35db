//! `typed_per_filter_config` at all its levels.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::buffer::v3::{
    BufferPerRoute, buffer_per_route::Override,
};

use super::{convert, head, parse, select, server};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http_filters::{HttpFilterConfig, HttpFilterFactory, RouteFilterConfig};
use crate::server::FactoryContext;

/// Takes `BufferPerRoute` for a list of numbers, and merges by joining the lists.
struct Joining;

impl HttpFilterFactory for Joining {
    fn name(&self) -> &'static str {
        "test.joining"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.buffer.v3.BufferPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Err(config.unknown(path, &[]))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let BufferPerRoute { r#override } = config.decode(path)?;
        match r#override {
            Some(Override::Buffer(buffer)) => Ok(Arc::new(vec![
                buffer.max_request_bytes.map_or(0, |n| n.value),
            ])),
            _ => Err(path.reject("has no number")),
        }
    }

    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let lists = configs
            .iter()
            .map(|c| c.downcast_ref::<Vec<u32>>().unwrap());
        Arc::new(lists.flatten().copied().collect::<Vec<_>>())
    }
}

fn number(number: u32) -> String {
    format!(
        r#"{{ "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, buffer: {{ max_request_bytes: {number} }} }}"#
    )
}

fn wrapped(rest: &str) -> String {
    format!(r#"{{ "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, {rest} }}"#)
}

#[test]
fn the_levels_of_a_filter_are_merged_by_its_factory() {
    let yaml = format!(
        r#"
typed_per_filter_config: {{ b: {one}, z: {one} }}
virtual_hosts:
- name: a
  domains: ["*"]
  typed_per_filter_config: {{ b: {two} }}
  routes:
  - match: {{ path: /route }}
    typed_per_filter_config: {{ b: {three}, a: {off} }}
    route: {{ cluster: c }}
  - match: {{ path: /host }}
    route: {{ cluster: c }}
  - match: {{ path: /weighted }}
    typed_per_filter_config: {{ b: {off} }}
    route:
      weighted_clusters:
        clusters:
        - {{ name: c, weight: 1, typed_per_filter_config: {{ b: {on} }} }}
        - {{ name: c, weight: 1 }}
"#,
        one = number(1),
        two = number(2),
        three = number(3),
        off = wrapped("disabled: true"),
        on = wrapped(&format!("config: {}", number(4))),
    );
    let table = convert(parse(&yaml), &[&Joining], &server()).unwrap();
    let table = Rc::new(Arc::new(table));
    let [a, b, z] = ["a", "b", "z"].map(|name| table.filter_slot(name).unwrap());
    assert_eq!(table.filter_slot("c"), None);
    for (path, random, numbers, b_off, a_off) in [
        ("/route", 0, vec![1, 2, 3], Some(false), Some(true)),
        ("/host", 0, vec![1, 2], Some(false), None),
        ("/weighted", 0, vec![1, 2, 4], Some(false), None),
        ("/weighted", 1, vec![1, 2], Some(true), None),
    ] {
        let selected = select(&table, &head("GET", "a", path), random).unwrap();
        let list = |slot| {
            selected
                .filter_config(slot)?
                .downcast_ref::<Vec<u32>>()
                .cloned()
        };
        assert_eq!(list(b), Some(numbers), "{path} {random}");
        assert_eq!(list(z), Some(vec![1]));
        assert_eq!(list(a), None);
        assert_eq!(selected.filter_disabled(b), b_off, "{path} {random}");
        assert_eq!(selected.filter_disabled(a), a_off);
    }
}

#[test]
fn an_unknown_filter_is_refused_unless_it_is_optional() {
    let yaml = |config: &str| {
        format!(
            "virtual_hosts: [ {{ name: a, domains: [a], typed_per_filter_config: {{ f: {config} }} }} ]"
        )
    };
    let result = |config: &str| convert(parse(&yaml(config)), &[], &server()).map(drop);
    let path = "routes / virtual_hosts[0] / typed_per_filter_config[\"f\"]";
    let refused = result(&number(1)).unwrap_err();
    assert!(refused[0].starts_with(path), "{refused:?}");
    let refused = result(&wrapped("disabled: false")).unwrap_err();
    assert!(
        refused[0].starts_with(&format!("{path} / config")),
        "{refused:?}"
    );
    // Envoy would not pass over what it knows.
    let known = format!("is_optional: true, config: {}", number(1));
    assert!(result(&wrapped(&known)).is_err());
    let unknown = "is_optional: true, config: {'@type': type.googleapis.com/xds.type.v3.TypedStruct, type_url: x/some.Unknown}";
    assert!(result(&wrapped(unknown)).is_ok());
    assert!(result(&wrapped("config: {}")).is_ok());
}
