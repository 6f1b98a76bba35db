//! `envoy.filters.http.set_metadata`: writes fixed values into the dynamic metadata of a request.
//!
//! Type URLs: `envoy.extensions.filters.http.set_metadata.v3.Config`, also per route.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/set_metadata_filter>
//! Stats: `<prefix>set_metadata.overwrite_denied`.
//!
//! Deviations: `typed_value` is refused.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::set_metadata::v3 as pb;
use serde_json::{Map, Value};

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_object};
use crate::http::{EndStream, RequestHead};
use crate::server::{FactoryContext, Worker};

crate::stats_group! {
    /// What the filter could not do.
    struct Stats {
        counter overwrite_denied;
    }
}

/// Makes filters that set metadata.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.set_metadata"
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.set_metadata.v3.Config"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        self.type_names()
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let stats = Stats::new(&cx.scope.scope("set_metadata."));
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            stats,
            path,
        )?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let stats = Stats::new(&cx.server.stats.scope("set_metadata."));
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            stats,
            path,
        )?))
    }
}

struct Config {
    entries: Box<[Entry]>,
    stats: Stats,
}

/// Values for one namespace.
struct Entry {
    namespace: Box<str>,
    values: Map<String, Value>,
    /// Whether they may join values that are there already. Default false.
    allow_overwrite: bool,
}

impl Config {
    fn from_proto(
        proto: pb::Config,
        stats: Stats,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "the older fields are decided like all others")]
        let pb::Config {
            metadata_namespace,
            value,
            metadata,
        } = proto;
        let mut entries = Vec::new();
        if let (Some(value), false) = (value, metadata_namespace.is_empty()) {
            entries.push(Entry {
                namespace: metadata_namespace.into(),
                values: json_object(value),
                allow_overwrite: true,
            });
        }
        let listed = path.each("metadata", metadata, |proto, path| {
            let pb::Metadata {
                metadata_namespace,
                allow_overwrite,
                value,
                typed_value,
            } = proto;
            path.unsupported_if_set("typed_value", typed_value)?;
            let namespace = path.non_empty("metadata_namespace", metadata_namespace)?;
            Ok(value.map(|value| Entry {
                namespace: namespace.into(),
                values: json_object(value),
                allow_overwrite,
            }))
        });
        entries.extend(listed?.into_iter().flatten());
        Ok(Self {
            entries: entries.into(),
            stats,
        })
    }

    fn apply(&self, cx: &mut StreamContext<'_>) {
        for entry in &self.entries {
            let metadata = &mut cx.info.dynamic_metadata;
            if metadata.get(&entry.namespace).is_none() {
                metadata.merge(&entry.namespace, entry.values.clone());
            } else if entry.allow_overwrite {
                join(metadata.namespace_mut(&entry.namespace), &entry.values);
            } else {
                self.stats.overwrite_denied().inc();
            }
        }
    }
}

/// Structures become one, lists follow each other, and what is neither is replaced.
fn join(old: &mut Map<String, Value>, new: &Map<String, Value>) {
    for (key, value) in new {
        match (old.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => join(old, new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend_from_slice(new),
            (Some(old), new) => *old = new.clone(),
            (None, new) => {
                old.insert(key.clone(), new.clone());
            }
        }
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(SetMetadata {
                config: config.clone(),
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }
}

struct SetMetadata {
    config: Rc<Arc<Config>>,
}

impl HttpFilter for SetMetadata {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let of_route = cx.info.route.clone();
        let of_route = of_route.as_ref().zip(cx.slot);
        let of_route = of_route.and_then(|(route, slot)| route.filter_config(slot));
        match of_route.and_then(|config| config.downcast_ref::<Config>()) {
            Some(config) => config.apply(cx),
            None => self.config.apply(cx),
        }
        HeadersStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn structures_are_joined_lists_appended_and_other_values_replaced() {
        let mut old = object(r#"{"a": {"x": 1, "y": 2}, "l": [1], "v": 1, "k": "s"}"#);
        join(
            &mut old,
            &object(r#"{"a": {"y": 3}, "l": [2], "v": 2, "k": {"n": 1}, "new": true}"#),
        );
        let joined = r#"{"a": {"x": 1, "y": 3}, "l": [1, 2], "v": 2, "k": {"n": 1}, "new": true}"#;
        assert_eq!(old, object(joined));
    }
}
