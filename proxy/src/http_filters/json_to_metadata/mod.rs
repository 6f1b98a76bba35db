//! `envoy.filters.http.json_to_metadata`: values of JSON bodies become dynamic metadata.
//!
//! Type URL: `envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata`, also per route.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/json_to_metadata_filter>
//! Stats: `json_to_metadata.{rq,resp}.{success,mismatched_content_type,no_body,invalid_json_body}`.
//!
//! A body is held back until it is whole, up to the limit of the connection: beyond it 413, or 500 for a response.
//!
//! Deviations: `-0` keeps its sign. Of texts that are to be numbers, `inf`, `nan` and hexadecimal ones are none.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::json_to_metadata::v3 as pb;
use pb::json_to_metadata as proto;
use proto::{ValueType, key_value_pair, selector};
use serde_json::{Map, Value};

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    RouteFilterConfig, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_value};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::matchers::Regex;
use crate::server::{FactoryContext, Worker};
use crate::stream_info::StreamInfo;

/// Makes filters that turn JSON into metadata.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.json_to_metadata";

/// Longer texts are left out, in bytes.
const MAX_VALUE_LEN: usize = 8 * 1024;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"]
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
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(Shared(Arc::new(config))))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(PerRoute(Arc::new(config))))
    }
}

crate::stats_group! {
    /// What became of the bodies of one direction.
    struct Stats {
        counter invalid_json_body;
        counter mismatched_content_type;
        counter no_body;
        counter success;
    }
}

struct PerRoute(Arc<Config>);

struct Config {
    request: Option<Rules>,
    response: Option<Rules>,
}

/// The rules of one direction.
struct Rules {
    rules: Box<[Rule]>,
    /// Default `application/json` alone.
    content_types: Box<[Box<[u8]>]>,
    content_type_regex: Option<Regex>,
    /// Default false.
    allow_empty_content_type: bool,
    stats: Stats,
}

struct Rule {
    /// The way to the value.
    keys: Box<[Box<str>]>,
    on_present: Option<KeyValuePair>,
    on_missing: Option<KeyValuePair>,
    on_error: Option<KeyValuePair>,
}

/// What is written.
struct KeyValuePair {
    namespace: Box<str>,
    key: Box<str>,
    /// None: what was found.
    value: Option<Value>,
    kind: ValueType,
    preserve_existing: bool,
}

impl Config {
    fn from_proto(
        config: pb::JsonToMetadata,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::JsonToMetadata {
            request_rules,
            response_rules,
        } = config;
        let stats = |word| Stats::new(&cx.server.stats.scope(&format!("json_to_metadata.{word}.")));
        let request = path.optional("request_rules", request_rules, |rules, path| {
            Rules::from_proto(rules, stats("rq"), path)
        });
        let response = path.optional("response_rules", response_rules, |rules, path| {
            Rules::from_proto(rules, stats("resp"), path)
        });
        let (request, response) = (request?, response?);
        if request.is_none() && response.is_none() {
            return Err(path.reject("needs request_rules or response_rules"));
        }
        Ok(Self { request, response })
    }
}

impl Rules {
    fn from_proto(
        rules: proto::MatchRules,
        stats: Stats,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let proto::MatchRules {
            rules,
            allow_content_types,
            allow_empty_content_type,
            allow_content_types_regex,
        } = rules;
        let rules = path.each("rules", rules, Rule::from_proto);
        let regex = path.optional(
            "allow_content_types_regex",
            allow_content_types_regex,
            Regex::from_proto,
        );
        let mut content_types: Vec<Box<[u8]>> = allow_content_types
            .into_iter()
            .map(|name| name.into_bytes().into())
            .collect();
        let regex = regex?;
        if content_types.is_empty() {
            content_types.push((*b"application/json").into());
        }
        Ok(Self {
            rules: rules?.into(),
            content_types: content_types.into(),
            content_type_regex: regex,
            allow_empty_content_type,
            stats,
        })
    }

    fn takes(&self, content_type: Option<&[u8]>) -> bool {
        let value = content_type.unwrap_or_default();
        if value.is_empty() {
            return self.allow_empty_content_type;
        }
        // Envoy differs from RFC 9110 here: parameters and case count.
        self.content_types.iter().any(|listed| **listed == *value)
            || self
                .content_type_regex
                .as_ref()
                .is_some_and(|regex| regex.is_full_match(value))
    }

    /// Applies what the rules say where there is no body, or none of JSON.
    fn apply_all<'a>(
        &'a self,
        cx: &mut StreamContext<'_>,
        pair: impl Fn(&'a Rule) -> Option<&'a KeyValuePair>,
    ) {
        let mut writes = Writes::default();
        for pair in self.rules.iter().filter_map(pair) {
            pair.write_own(cx.info, &mut writes);
        }
        writes.carry_out(cx);
    }

    fn apply(&self, body: &[u8], cx: &mut StreamContext<'_>) {
        if body.is_empty() {
            self.stats.no_body().inc();
            return self.apply_all(cx, |rule| rule.on_missing.as_ref());
        }
        let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let parsed = serde_json::from_slice::<Value>(text).ok();
        let Some(body) = parsed.filter(has_known_numbers) else {
            self.stats.invalid_json_body().inc();
            return self.apply_all(cx, |rule| rule.on_error.as_ref());
        };
        let mut writes = Writes::default();
        let is_tree = body.is_object() || body.is_array();
        for rule in &self.rules {
            let parent = rule.keys.split_last().and_then(|(last, parents)| {
                let mut parents = parents.iter();
                let parent = parents.try_fold(&body, |node, key| {
                    node.get(&**key).filter(|node| node.is_object())
                });
                Some((parent.filter(|_| is_tree)?, last))
            });
            let written = match (parent, &rule.on_present) {
                (Some((parent, last)), Some(pair)) => {
                    pair.write(parent.get(&**last), cx.info, &mut writes)
                }
                // As in Envoy nobody looks for the last key.
                (Some(_), None) => true,
                (None, _) => false,
            };
            if !written && let Some(pair) = &rule.on_missing {
                pair.write_own(cx.info, &mut writes);
            }
        }
        self.stats.success().inc();
        writes.carry_out(cx);
    }
}

/// What rules write when all are through, by namespace.
#[derive(Default)]
struct Writes(BTreeMap<Box<str>, Map<String, Value>>);

impl Writes {
    fn carry_out(self, cx: &mut StreamContext<'_>) {
        for (namespace, values) in self.0 {
            cx.info.dynamic_metadata.merge(&namespace, values);
        }
    }
}

impl Rule {
    fn from_proto(rule: proto::Rule, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let proto::Rule {
            selectors,
            on_present,
            on_missing,
            on_error,
        } = rule;
        let keys = path.each("selectors", selectors, |selector, path| {
            let proto::Selector { selector } = selector;
            let selector::Selector::Key(key) = path.required("selector", selector)?;
            path.non_empty("key", key).map(Box::from)
        });
        let pair = |name, pair| path.optional(name, pair, KeyValuePair::from_proto);
        let present = pair("on_present", on_present);
        let missing = pair("on_missing", on_missing);
        let error = pair("on_error", on_error);
        let (on_present, on_missing, on_error) = (present?, missing?, error?);
        if on_present.is_none() && on_missing.is_none() {
            return Err(path.reject("has neither on_present nor on_missing"));
        }
        for (name, pair) in [("on_missing", &on_missing), ("on_error", &on_error)] {
            if pair.as_ref().is_some_and(|pair| pair.value.is_none()) {
                return Err(path.field(name).field("value").reject("is required"));
            }
        }
        Ok(Self {
            keys: keys?.into(),
            on_present,
            on_missing,
            on_error,
        })
    }
}

impl KeyValuePair {
    fn from_proto(pair: proto::KeyValuePair, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let proto::KeyValuePair {
            metadata_namespace,
            key,
            r#type,
            preserve_existing_metadata_value,
            value_type,
        } = pair;
        let key = path.non_empty("key", key);
        let kind = path.enumeration("type", r#type);
        let value =
            value_type.map(|key_value_pair::ValueType::Value(value)| json_value(value.kind));
        Ok(Self {
            namespace: match metadata_namespace.as_str() {
                "" => NAME.into(),
                given => given.into(),
            },
            key: key?.into(),
            value,
            kind: kind?,
            preserve_existing: preserve_existing_metadata_value,
        })
    }

    /// Writes what was found, or the value of the configuration, be anything found or not. False if it is nothing that can be
    /// written.
    fn write(&self, found: Option<&Value>, info: &StreamInfo, writes: &mut Writes) -> bool {
        if self.value.is_some() {
            self.write_own(info, writes);
            return true;
        }
        let Some(found) = found else { return false };
        let is_short = |text: &str| text.len() <= MAX_VALUE_LEN;
        let value = match (self.kind, found) {
            // Objects, lists and null are no values.
            (_, Value::Null | Value::Array(_) | Value::Object(_)) => None,
            (ValueType::ProtobufValue, Value::String(text)) => {
                is_short(text).then(|| found.clone())
            }
            (ValueType::ProtobufValue, found) => number(found).or_else(|| Some(found.clone())),
            (ValueType::Number, Value::Bool(is)) => Some(f64::from(u8::from(*is)).into()),
            (ValueType::Number, Value::String(text)) => {
                let number = text.trim().parse::<f64>().ok();
                number.filter(|number| number.is_finite()).map(Value::from)
            }
            (ValueType::Number, found) => number(found),
            (ValueType::String, found) => match text_of(found) {
                // Nothing is written, and nothing is missing.
                text if text.is_empty() => return true,
                text => is_short(&text).then(|| text.into()),
            },
        };
        let Some(value) = value else { return false };
        self.put(value, info, writes);
        true
    }

    fn write_own(&self, info: &StreamInfo, writes: &mut Writes) {
        if let Some(value) = &self.value {
            self.put(value.clone(), info, writes);
        }
    }

    fn put(&self, value: Value, info: &StreamInfo, writes: &mut Writes) {
        let known = info.dynamic_metadata.get(&self.namespace);
        if self.preserve_existing && known.is_some_and(|values| values.contains_key(&*self.key)) {
            return;
        }
        let values = writes.0.entry(self.namespace.clone()).or_default();
        values.insert((*self.key).to_owned(), value);
    }
}

/// Whether all whole numbers fit into 64 bits with a sign: Envoy takes others for no JSON.
fn has_known_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64() || !number.is_u64(),
        Value::Array(values) => values.iter().all(has_known_numbers),
        Value::Object(values) => values.values().all(has_known_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Metadata know one kind of number.
fn number(found: &Value) -> Option<Value> {
    found.as_f64().map(Value::from)
}

/// As C++ writes it: `1`, `1.500000`, `0` for false.
fn text_of(found: &Value) -> String {
    match found {
        Value::String(text) => text.clone(),
        Value::Bool(is) => u8::from(*is).to_string(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.to_string(),
            None => format!("{:.6}", number.as_f64().unwrap_or_default()),
        },
        _ => String::new(),
    }
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self.0.clone());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(JsonToMetadata {
                config: config.clone(),
                of_route: None,
                request: None,
                response: None,
            })
        })
    }
}

struct JsonToMetadata {
    config: Rc<Arc<Config>>,
    of_route: Option<Arc<Config>>,
    /// What has come of a body that is read.
    request: Option<Vec<u8>>,
    response: Option<Vec<u8>>,
}

impl JsonToMetadata {
    fn config(&self) -> &Config {
        self.of_route.as_ref().unwrap_or(&self.config)
    }

    fn end_request(&mut self, cx: &mut StreamContext<'_>) {
        if let (Some(body), Some(rules)) = (self.request.take(), &self.config().request) {
            rules.apply(&body, cx);
        }
    }

    fn end_response(&mut self, cx: &mut StreamContext<'_>) {
        if let (Some(body), Some(rules)) = (self.response.take(), &self.config().response) {
            rules.apply(&body, cx);
        }
    }
}

/// Whether a body is to be read; rules that cannot wait for one are applied.
fn begin(
    rules: Option<&Rules>,
    fields: &Fields,
    end: EndStream,
    cx: &mut StreamContext<'_>,
) -> bool {
    let Some(rules) = rules else { return false };
    if !rules.takes(fields.get(Known::ContentType)) {
        rules.stats.mismatched_content_type().inc();
        rules.apply_all(cx, |rule| rule.on_error.as_ref());
        return false;
    }
    if end.is_end() {
        rules.apply(b"", cx);
        return false;
    }
    true
}

impl HttpFilter for JsonToMetadata {
    fn interests(&self) -> Interests {
        // A route may have rules for either direction.
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        self.of_route = cx.route_config::<PerRoute>().map(|route| route.0.clone());
        if !begin(self.config().request.as_ref(), &head.fields, end, cx) {
            return HeadersStatus::Continue;
        }
        self.request = Some(Vec::new());
        HeadersStatus::StopIteration
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(body) = &mut self.request else {
            return DataStatus::Continue;
        };
        body.extend_from_slice(data);
        if end.is_end() {
            self.end_request(cx);
            return DataStatus::Continue;
        }
        DataStatus::StopIterationAndBuffer
    }

    fn decode_trailers(&mut self, cx: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        self.end_request(cx);
        TrailersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        if !begin(self.config().response.as_ref(), &head.fields, end, cx) {
            return HeadersStatus::Continue;
        }
        self.response = Some(Vec::new());
        HeadersStatus::StopIteration
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(body) = &mut self.response else {
            return DataStatus::Continue;
        };
        body.extend_from_slice(data);
        if end.is_end() {
            self.end_response(cx);
            return DataStatus::Continue;
        }
        DataStatus::StopIterationAndBuffer
    }

    fn encode_trailers(&mut self, cx: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        self.end_response(cx);
        TrailersStatus::Continue
    }
}
