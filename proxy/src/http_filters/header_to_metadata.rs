//! `envoy.filters.http.header_to_metadata`: values of headers and cookies become dynamic metadata.
//!
//! Type URLs: `envoy.extensions.filters.http.header_to_metadata.v3.Config`, also per route.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/header_to_metadata_filter>
//! Stats, with `stat_prefix`: `http_filter_name.<stat_prefix>.{request,response}_{rules_processed,metadata_added,header_not_found}`,
//! and of both directions `base64_decode_failed`, `header_value_too_long`, `regex_substitution_failed`.
//!
//! Deviations: none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::header_to_metadata::v3 as pb;
use outrigger_proto::pb::google::protobuf::value::Kind;
use pb::config::{ValueEncode, ValueType};
use prost::Message;
use serde_json::{Map, Value};

use super::context::FirstRoute;
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_value};
use crate::http::{EndStream, HeaderName, RequestHead, ResponseHead};
use crate::matchers::{HeaderKey, HeaderSource, RegexRewrite, cookie_value};
use crate::server::{FactoryContext, Worker};

/// Makes filters that turn headers into metadata.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.header_to_metadata";

/// Values of this length and above are left out.
const MAX_VALUE_LEN: usize = 8 * 1024;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.header_to_metadata.v3.Config"]
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
        Ok(Arc::new(config))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        if config.request_rules.is_empty() && config.response_rules.is_empty() {
            return Err(path.reject("of a route needs request_rules or response_rules"));
        }
        Ok(Arc::new(config))
    }
}

struct Config {
    request_rules: Box<[Rule]>,
    response_rules: Box<[Rule]>,
    /// None: nothing is counted.
    stats: Option<Stats>,
}

crate::stats_group! {
    /// What the rules found and made.
    struct Stats {
        counter request_rules_processed;
        counter response_rules_processed;
        counter request_metadata_added;
        counter response_metadata_added;
        counter request_header_not_found;
        counter response_header_not_found;
        counter base64_decode_failed;
        counter header_value_too_long;
        counter regex_substitution_failed;
    }
}

/// Which head the rules look at.
#[derive(Clone, Copy)]
enum Direction {
    Request,
    Response,
}

/// Why nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Omitted {
    Empty,
    /// The rewriting left nothing of what was there.
    RewrittenToNothing,
    TooLong,
    NotBase64,
    /// It is not of the type that is asked for.
    OtherType,
}

impl Stats {
    fn rules_processed(&self, direction: Direction) {
        match direction {
            Direction::Request => self.request_rules_processed().inc(),
            Direction::Response => self.response_rules_processed().inc(),
        }
    }

    fn header_not_found(&self, direction: Direction) {
        match direction {
            Direction::Request => self.request_header_not_found().inc(),
            Direction::Response => self.response_header_not_found().inc(),
        }
    }

    fn value(&self, direction: Direction, value: &Result<Value, Omitted>) {
        match (value, direction) {
            (Ok(_), Direction::Request) => self.request_metadata_added().inc(),
            (Ok(_), Direction::Response) => self.response_metadata_added().inc(),
            (Err(Omitted::RewrittenToNothing), _) => self.regex_substitution_failed().inc(),
            (Err(Omitted::TooLong), _) => self.header_value_too_long().inc(),
            (Err(Omitted::NotBase64), _) => self.base64_decode_failed().inc(),
            (Err(Omitted::Empty | Omitted::OtherType), _) => {}
        }
    }
}

struct Rule {
    source: Source,
    on_header_present: Option<KeyValuePair>,
    on_header_missing: Option<KeyValuePair>,
}

enum Source {
    Header {
        key: HeaderKey,
        name: HeaderName,
        /// The header goes no further. Default false.
        remove: bool,
    },
    Cookie(Box<str>),
}

/// What is written.
struct KeyValuePair {
    namespace: Box<str>,
    key: Box<str>,
    value: NewValue,
    kind: ValueType,
    encode: ValueEncode,
}

enum NewValue {
    /// What was found.
    Found,
    Fixed(Box<str>),
    Rewritten(RegexRewrite),
}

impl Config {
    fn from_proto(
        proto: pb::Config,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Config {
            request_rules,
            response_rules,
            stat_prefix,
        } = proto;
        let request_rules = path.each("request_rules", request_rules, Rule::from_proto);
        let response_rules = path.each("response_rules", response_rules, Rule::from_proto);
        let stats = || {
            let scope = format!("http_filter_name.{stat_prefix}.");
            Stats::new(&cx.server.stats.scope(&scope))
        };
        Ok(Self {
            request_rules: request_rules?.into(),
            response_rules: response_rules?.into(),
            stats: (!stat_prefix.is_empty()).then(stats),
        })
    }
}

impl Rule {
    fn from_proto(proto: pb::config::Rule, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::config::Rule {
            header,
            cookie,
            on_header_present,
            on_header_missing,
            remove,
        } = proto;
        let source = match (header.as_str(), cookie.as_str()) {
            ("", "") => return Err(path.reject("needs one of header, cookie")),
            ("", _) if remove => return Err(path.field("remove").reject("is not for cookies")),
            ("", cookie) => Source::Cookie(cookie.into()),
            (header, "") => Source::Header {
                key: HeaderKey::new(header),
                name: HeaderName::new(header),
                remove,
            },
            _ => return Err(path.field("cookie").reject("excludes header")),
        };
        let present = path.optional(
            "on_header_present",
            on_header_present,
            KeyValuePair::from_proto,
        );
        let missing = path.optional(
            "on_header_missing",
            on_header_missing,
            KeyValuePair::from_proto,
        );
        let (present, missing) = (present?, missing?);
        if present.is_none() && missing.is_none() {
            return Err(path.reject("has neither on_header_present nor on_header_missing"));
        }
        if missing
            .as_ref()
            .is_some_and(|pair| !matches!(pair.value, NewValue::Fixed(_)))
        {
            return Err(path
                .field("on_header_missing")
                .field("value")
                .reject("is required"));
        }
        Ok(Self {
            source,
            on_header_present: present,
            on_header_missing: missing,
        })
    }
}

impl KeyValuePair {
    fn from_proto(
        proto: pb::config::KeyValuePair,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        #[allow(deprecated, reason = "the older fields are decided like all others")]
        let pb::config::KeyValuePair {
            metadata_namespace,
            key,
            value,
            regex_value_rewrite,
            r#type,
            encode,
        } = proto;
        let namespace = match metadata_namespace.as_str() {
            "" => NAME,
            given => given,
        };
        let key = path.non_empty("key", key);
        let kind = path.enumeration("type", r#type);
        let encode = path.enumeration("encode", encode);
        let rewrite = path.optional(
            "regex_value_rewrite",
            regex_value_rewrite,
            RegexRewrite::from_proto,
        );
        let value = match (rewrite?, value.as_str()) {
            (None, "") => NewValue::Found,
            (None, value) => NewValue::Fixed(value.into()),
            (Some(rewrite), "") => NewValue::Rewritten(rewrite),
            (Some(_), _) => return Err(path.field("value").reject("excludes regex_value_rewrite")),
        };
        Ok(Self {
            namespace: namespace.into(),
            key: key?.into(),
            value,
            kind: kind?,
            encode: encode?,
        })
    }

    /// The value to write for what was found.
    fn value(&self, found: &[u8]) -> Result<Value, Omitted> {
        let bytes: Cow<'_, [u8]> = match &self.value {
            NewValue::Found => Cow::Borrowed(found),
            NewValue::Fixed(value) => Cow::Borrowed(value.as_bytes()),
            NewValue::Rewritten(rewrite) => Cow::Owned(rewrite.replace_all(found)),
        };
        if bytes.is_empty() {
            return Err(match (&self.value, found) {
                (NewValue::Rewritten(_), [_, ..]) => Omitted::RewrittenToNothing,
                _ => Omitted::Empty,
            });
        }
        if bytes.len() >= MAX_VALUE_LEN {
            return Err(Omitted::TooLong);
        }
        let bytes = match self.encode {
            ValueEncode::None => bytes,
            ValueEncode::Base64 => Cow::Owned(decode_base64(&bytes).ok_or(Omitted::NotBase64)?),
        };
        let kind = match self.kind {
            ValueType::String => return Ok(String::from_utf8_lossy(&bytes).into()),
            ValueType::Number => {
                let text = std::str::from_utf8(&bytes).unwrap_or_default();
                text.trim().parse().ok().map(Kind::NumberValue).map(Some)
            }
            ValueType::ProtobufValue => {
                let value = outrigger_proto::pb::google::protobuf::Value::decode(&*bytes);
                value.ok().map(|value| value.kind)
            }
        };
        kind.map(json_value).ok_or(Omitted::OtherType)
    }
}

/// Base64 with or without padding; none where it is not well formed, or nothing.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=')? + 1;
    let (mut bits, mut count) = (0_u32, 0);
    let mut out = Vec::with_capacity(end * 3 / 4);
    for byte in &text[..end] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the lowest eight bits are those wanted"
            )]
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // What is left over must be less than a digit, and say nothing.
    (count < 6 && bits == 0 && !out.is_empty()).then_some(out)
}

impl Source {
    /// All values of a header, or the value of a cookie.
    fn find(&self, head: &impl HeaderSource) -> Option<Vec<u8>> {
        match self {
            Self::Header { key, name, .. } => {
                let values: Vec<&[u8]> = head.fields().get_all(name).collect();
                match &*values {
                    [] | [_] => head.first(key).map(Cow::into_owned),
                    several => Some(several.join(&b',')),
                }
            }
            Self::Cookie(name) => cookie_value(head.fields(), name.as_bytes())
                .filter(|value| !value.is_empty())
                .map(<[u8]>::to_vec),
        }
    }

    fn to_remove(&self) -> Option<&HeaderName> {
        match self {
            Self::Header {
                name, remove: true, ..
            } => Some(name),
            _ => None,
        }
    }
}

/// Applies the rules to a head. What was found is written when all rules are through.
fn apply<H: HeaderSource>(
    config: &Config,
    direction: Direction,
    head: &mut H,
    cx: &mut StreamContext<'_>,
    remove: impl Fn(&mut H, &HeaderName),
) {
    let stats = config.stats.as_ref();
    let rules = match direction {
        Direction::Request => &config.request_rules,
        Direction::Response => &config.response_rules,
    };
    let mut found: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for rule in rules {
        let value = rule.source.find(head);
        if let (Some(_), Some(name)) = (&value, rule.source.to_remove()) {
            remove(head, name);
        }
        if let Some(stats) = stats {
            stats.rules_processed(direction);
        }
        let pair = match value {
            Some(_) => &rule.on_header_present,
            None => &rule.on_header_missing,
        };
        let Some(pair) = pair else { continue };
        let new = pair.value(value.as_deref().unwrap_or_default());
        if let Some(stats) = stats {
            if value.is_none() {
                stats.header_not_found(direction);
            }
            stats.value(direction, &new);
        }
        if let Ok(new) = new {
            let values = found.entry(&pair.namespace).or_default();
            values.insert((*pair.key).to_owned(), new);
        }
    }
    for (namespace, values) in found {
        cx.info.dynamic_metadata.merge(namespace, values);
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(HeaderToMetadata {
                config: config.clone(),
                route: FirstRoute::default(),
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.request_rules.is_empty() && self.response_rules.is_empty()
    }
}

struct HeaderToMetadata {
    config: Rc<Arc<Config>>,
    route: FirstRoute,
}

impl HeaderToMetadata {
    /// Runs `with` with the configuration of the route, or that of the filter.
    fn with_config(
        &mut self,
        cx: &mut StreamContext<'_>,
        with: impl FnOnce(&Config, &mut StreamContext<'_>),
    ) {
        match self.route.config::<Config>(cx) {
            Some(config) => with(config, cx),
            None => with(&self.config, cx),
        }
    }
}

impl HttpFilter for HeaderToMetadata {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS.and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        self.with_config(cx, |config, cx| {
            apply(config, Direction::Request, head, cx, |head, name| {
                head.fields.remove(name);
            });
        });
        HeadersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _end: EndStream,
    ) -> HeadersStatus {
        self.with_config(cx, |config, cx| {
            apply(config, Direction::Response, head, cx, |head, name| {
                head.fields.remove(name);
            });
        });
        HeadersStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher;

    use super::super::test_support::Harness;
    use super::*;

    #[test]
    fn what_rules_found_and_what_they_could_not_use_is_counted() {
        let pair = |key: &str| pb::config::KeyValuePair {
            key: key.to_owned(),
            ..Default::default()
        };
        let rule = |header: &str, pair| pb::config::Rule {
            header: header.to_owned(),
            on_header_present: Some(pair),
            ..Default::default()
        };
        let missing = pb::config::KeyValuePair {
            value: "nobody".to_owned(),
            ..pair("m")
        };
        let base64 = pb::config::KeyValuePair {
            encode: ValueEncode::Base64.into(),
            ..pair("b")
        };
        let emptied = pb::config::KeyValuePair {
            regex_value_rewrite: Some(matcher::RegexMatchAndSubstitute {
                pattern: Some(matcher::RegexMatcher {
                    regex: ".*".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..pair("e")
        };
        let harness = Harness::new(&pb::Config {
            request_rules: vec![
                rule("x-a", pair("a")),
                rule("x-a", base64),
                rule("x-a", emptied),
                rule("x-long", pair("l")),
                rule("x-none", pair("n")),
                pb::config::Rule {
                    header: "x-none".to_owned(),
                    on_header_missing: Some(missing),
                    ..Default::default()
                },
            ],
            stat_prefix: "p".to_owned(),
            ..Default::default()
        });
        let long = "x".repeat(MAX_VALUE_LEN);
        let mut stream = harness.stream_with(&[("x-a", "$"), ("x-long", &long)]);
        stream.decode_headers(true);
        let stat = |name: &str| harness.stat(&format!("http_filter_name.p.{name}"));
        assert_eq!(stat("request_rules_processed"), 6);
        assert_eq!(stat("request_metadata_added"), 2);
        assert_eq!(stat("request_header_not_found"), 1);
        assert_eq!(stat("base64_decode_failed"), 1);
        assert_eq!(stat("regex_substitution_failed"), 1);
        assert_eq!(stat("header_value_too_long"), 1);
        assert_eq!(stat("response_rules_processed"), 0);
    }

    #[test]
    fn base64_is_decoded_with_and_without_padding_and_refused_when_malformed() {
        for text in ["aGVsbG8", "aGVsbG8="] {
            assert_eq!(
                decode_base64(text.as_bytes()).as_deref(),
                Some(&b"hello"[..])
            );
        }
        for text in ["", "=", "a", "aGVsbG9", "aGV$"] {
            assert_eq!(decode_base64(text.as_bytes()), None, "{text}");
        }
    }
}
