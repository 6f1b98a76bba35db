//! `envoy.filters.http.header_mutation`: changes headers, trailers and the query, step by step.
//!
//! Type URLs: `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`, per route
//! `envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/header_mutation_filter>
//! Stats: none.
//!
//! Deviations: query parameters that no mutation names keep their escapes, where Envoy sends them on decoded.
//! Deviations: `remove` of a pseudo header is refused.
//! Deviations: the ends of lines are left out of a value; Envoy answers a request with such a value 503.

use std::rc::Rc;
use std::sync::Arc;

use core::key_value_append::KeyValueAppendAction;
use outrigger_proto::pb::envoy::config::common::mutation_rules::v3 as rules;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::header_mutation::v3 as pb;
use outrigger_proto::pb::google::protobuf::value::Kind;

use super::context::FirstRoute;
use super::headers::Mutation;
use super::query::Query;
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{FormatData, Formatter};
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};

/// Makes header mutation filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.header_mutation"
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::HeaderMutation {
            mutations,
            most_specific_header_mutations_wins,
        } = config.decode(path)?;
        let mutations = mutations.unwrap_or_default();
        Ok(Arc::new(Config {
            mutations: Mutations::from_proto(mutations, cx, &path.field("mutations"))?,
            most_specific_header_mutations_wins,
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::HeaderMutationPerRoute { mutations } = config.decode(path)?;
        let mutations = mutations.unwrap_or_default();
        let mutations = Mutations::from_proto(mutations, cx, &path.field("mutations"))?;
        Ok(Arc::new(PerRoute(vec![Arc::new(mutations)])))
    }

    /// All levels count, one after the other.
    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let levels = configs
            .iter()
            .filter_map(|config| config.downcast_ref::<PerRoute>())
            .flat_map(|config| config.0.iter().cloned());
        Arc::new(PerRoute(levels.collect()))
    }
}

/// The mutations of table, virtual host and route, from the least to the most specific.
#[derive(Debug)]
struct PerRoute(Vec<Arc<Mutations>>);

#[derive(Debug)]
struct Config {
    mutations: Mutations,
    /// Runs the most specific mutations last, so that they win. Default: first.
    most_specific_header_mutations_wins: bool,
}

#[derive(Debug, Default)]
struct Mutations {
    request: Box<[Mutation]>,
    query: Box<[QueryMutation]>,
    response: Box<[Mutation]>,
    response_trailers: Box<[Mutation]>,
    request_trailers: Box<[Mutation]>,
}

#[derive(Debug)]
enum QueryMutation {
    Remove(Box<str>),
    Append {
        key: Box<str>,
        value: Formatter,
        action: KeyValueAppendAction,
    },
}

impl Mutations {
    fn from_proto(
        proto: pb::Mutations,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
        } = proto;
        let list = |name: &str, list: Vec<rules::HeaderMutation>| {
            path.each(name, list, |proto, path| {
                Mutation::from_proto(proto, cx, path)
            })
        };
        let request = list("request_mutations", request_mutations);
        let query = path.each(
            "query_parameter_mutations",
            query_parameter_mutations,
            |proto, path| QueryMutation::from_proto(proto, cx, path),
        );
        let response = list("response_mutations", response_mutations);
        let response_trailers = list("response_trailers_mutations", response_trailers_mutations);
        let request_trailers = list("request_trailers_mutations", request_trailers_mutations);
        Ok(Self {
            request: request?.into(),
            query: query?.into(),
            response: response?.into(),
            response_trailers: response_trailers?.into(),
            request_trailers: request_trailers?.into(),
        })
    }
}

impl QueryMutation {
    fn from_proto(
        proto: core::KeyValueMutation,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::KeyValueMutation { append, remove } = proto;
        let Some(append) = append else {
            return path
                .non_empty("remove", remove)
                .map(|key| Self::Remove(key.into()));
        };
        path.unsupported_if_set("remove", remove)?;
        let path = path.field("append");
        #[allow(deprecated, reason = "the field is refused")]
        let core::KeyValueAppend {
            record,
            entry,
            action,
        } = append;
        path.unsupported_if_set("entry", entry)?;
        let action = path.enumeration("action", action);
        let core::KeyValuePair { key, value } = path.required("record", record)?;
        let path = path.field("record");
        let key = path.non_empty("key", key);
        let value = match value.and_then(|value| value.kind) {
            Some(Kind::StringValue(text)) => {
                Formatter::parse_omitting_empty(&text, cx, &path.field("value"))
            }
            _ => Err(path
                .field("value")
                .reject("only a string is allowed for a query parameter")),
        };
        Ok(Self::Append {
            key: key?.into(),
            value: value?,
            action: action?,
        })
    }

    fn apply(&self, data: &FormatData<'_>, query: &mut Query) {
        match self {
            Self::Remove(key) => query.remove(key.as_bytes()),
            Self::Append { key, value, action } => {
                let mut out = Vec::new();
                value.render(data, &mut out);
                let key = key.as_bytes();
                let exists = query.contains(key);
                let (wanted, overwrite) = match action {
                    KeyValueAppendAction::AppendIfExistsOrAdd => (true, false),
                    KeyValueAppendAction::AddIfAbsent => (!exists, false),
                    KeyValueAppendAction::OverwriteIfExists => (exists, true),
                    KeyValueAppendAction::OverwriteIfExistsOrAdd => (true, true),
                };
                if overwrite && wanted {
                    query.remove(key);
                }
                if wanted {
                    query.add(key, &out);
                }
            }
        }
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(HeaderMutation {
                config: config.clone(),
                route: FirstRoute::default(),
            })
        })
    }
}

struct HeaderMutation {
    config: Rc<Arc<Config>>,
    route: FirstRoute,
}

impl HeaderMutation {
    /// Runs over the mutations of the filter, and then over those of the route's levels.
    fn each(
        &mut self,
        cx: &mut StreamContext<'_>,
        mut run: impl FnMut(&Mutations, &mut StreamContext<'_>),
    ) {
        run(&self.config.mutations, cx);
        let Some(PerRoute(levels)) = self.route.config(cx) else {
            return;
        };
        if self.config.most_specific_header_mutations_wins {
            levels.iter().for_each(|level| run(level, cx));
        } else {
            levels.iter().rev().for_each(|level| run(level, cx));
        }
    }
}

fn data<'a>(
    cx: &'a StreamContext<'_>,
    request: Option<&'a RequestHead>,
    response: Option<&'a ResponseHead>,
) -> FormatData<'a> {
    FormatData {
        response: response.or(cx.response.as_deref()),
        ..FormatData::of_request(cx.info, request.or(cx.request.as_deref()))
    }
}

impl HttpFilter for HeaderMutation {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.each(cx, |mutations, cx| {
            for mutation in &mutations.request {
                let value = mutation.value(&data(cx, Some(head), None));
                mutation.apply(value, &mut head.fields);
            }
            let Some(path) = head.path().filter(|_| !mutations.query.is_empty()) else {
                return;
            };
            let mut query = Query::of_path(path);
            for mutation in &mutations.query {
                mutation.apply(&data(cx, Some(head), None), &mut query);
            }
            let new = query.in_path(head.path().unwrap_or_default());
            head.set_path(&new);
        });
        HeadersStatus::Continue
    }

    fn decode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        self.each(cx, |mutations, cx| {
            for mutation in &mutations.request_trailers {
                let data = FormatData {
                    request_trailers: Some(trailers),
                    ..data(cx, None, None)
                };
                let value = mutation.value(&data);
                mutation.apply(value, trailers);
            }
        });
        TrailersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.each(cx, |mutations, cx| {
            for mutation in &mutations.response {
                let value = mutation.value(&data(cx, None, Some(head)));
                mutation.apply(value, &mut head.fields);
            }
        });
        HeadersStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        self.each(cx, |mutations, cx| {
            for mutation in &mutations.response_trailers {
                let data = FormatData {
                    response_trailers: Some(trailers),
                    ..data(cx, None, None)
                };
                let value = mutation.value(&data);
                mutation.apply(value, trailers);
            }
        });
        TrailersStatus::Continue
    }
}

#[cfg(test)]
#[path = "header_mutation_tests.rs"]
mod tests;
