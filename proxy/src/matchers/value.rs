//! `envoy.type.matcher.v3.ValueMatcher`, and the metadata that it looks into.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as pb;
use pb::value_matcher::MatchPattern;
use serde_json::Value;

use super::StringMatcher;
use crate::config::{ConfigPath, Rejected, json_object};
use crate::stream_info::DynamicMetadata;

/// A condition on a value of metadata.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// The value is null.
    Null,
    /// The number is exactly this.
    Exact(f64),
    /// The number lies from the first to before the second.
    Range(f64, f64),
    /// The text passes.
    Text(StringMatcher),
    /// The value is this truth value.
    Bool(bool),
    /// There is a value. `false` is met by nothing, as in Envoy.
    Present(bool),
    /// The value is a list, and one of its entries passes.
    OneOf(Box<ValueMatcher>),
    /// One of the conditions is met.
    Any(Vec<ValueMatcher>),
}

/// How deep matchers may nest.
const DEPTH: usize = 16;

impl ValueMatcher {
    /// Converts a `ValueMatcher`.
    pub fn from_proto(proto: pb::ValueMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        Self::convert(proto, path, 0)
    }

    /// Whether `value` meets the condition; none where there is no value.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Null => value == Some(&Value::Null),
            Self::Exact(number) => value.and_then(Value::as_f64) == Some(*number),
            Self::Range(start, end) => value
                .and_then(Value::as_f64)
                .is_some_and(|number| *start <= number && number < *end),
            Self::Text(text) => value
                .and_then(Value::as_str)
                .is_some_and(|value| text.matches(value.as_bytes())),
            Self::Bool(expected) => value.and_then(Value::as_bool) == Some(*expected),
            Self::Present(present) => *present && value.is_some(),
            Self::OneOf(matcher) => value
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|entry| matcher.matches(Some(entry)))),
            Self::Any(matchers) => matchers.iter().any(|matcher| matcher.matches(value)),
        }
    }

    fn convert(
        proto: pb::ValueMatcher,
        path: &ConfigPath<'_>,
        depth: usize,
    ) -> Result<Self, Rejected> {
        if depth > DEPTH {
            return Err(path.reject(format!("nests more than {DEPTH} times")));
        }
        let pb::ValueMatcher { match_pattern } = proto;
        match match_pattern {
            None => Err(path.reject("needs one of null_match, double_match, string_match, bool_match, present_match, list_match, or_match")),
            Some(MatchPattern::NullMatch(_)) => Ok(Self::Null),
            Some(MatchPattern::BoolMatch(value)) => Ok(Self::Bool(value)),
            Some(MatchPattern::PresentMatch(present)) => Ok(Self::Present(present)),
            Some(MatchPattern::StringMatch(text)) => {
                StringMatcher::from_proto(text, &path.field("string_match")).map(Self::Text)
            }
            Some(MatchPattern::DoubleMatch(pb::DoubleMatcher { match_pattern })) => {
                match match_pattern {
                    Some(pb::double_matcher::MatchPattern::Exact(value)) => Ok(Self::Exact(value)),
                    Some(pb::double_matcher::MatchPattern::Range(range)) => {
                        Ok(Self::Range(range.start, range.end))
                    }
                    None => Err(path
                        .field("double_match")
                        .reject("needs one of range, exact")),
                }
            }
            Some(MatchPattern::ListMatch(list)) => match list.match_pattern {
                Some(pb::list_matcher::MatchPattern::OneOf(matcher)) => Self::convert(
                    *matcher,
                    &path.field("list_match").field("one_of"),
                    depth + 1,
                )
                .map(|matcher| Self::OneOf(Box::new(matcher))),
                None => Err(path.field("list_match").reject("needs one_of")),
            },
            Some(MatchPattern::OrMatch(pb::OrMatcher { value_matchers })) => path
                .field("or_match")
                .each("value_matchers", value_matchers, |matcher, path| {
                    Self::convert(matcher, path, depth + 1)
                })
                .map(Self::Any),
        }
    }
}

/// Converts `Metadata`; `typed_filter_metadata` has no reader yet and is left out.
pub fn metadata_from_proto(proto: core::Metadata) -> DynamicMetadata {
    let core::Metadata {
        filter_metadata,
        // Harmless: what it holds is only read by extensions that know its type; none of ours does.
        typed_filter_metadata: _,
    } = proto;
    let mut metadata = DynamicMetadata::default();
    for (namespace, values) in filter_metadata {
        metadata.merge(&namespace, json_object(values));
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_condition_holds_for_its_kind_of_value_only() {
        let text = || ValueMatcher::Text(StringMatcher::exact("a"));
        for (matcher, yes, no) in [
            (ValueMatcher::Null, Some(json!(null)), Some(json!(0))),
            (ValueMatcher::Null, Some(json!(null)), None),
            (ValueMatcher::Exact(2.0), Some(json!(2)), Some(json!(3))),
            (
                ValueMatcher::Range(1.0, 2.0),
                Some(json!(1)),
                Some(json!(2)),
            ),
            (text(), Some(json!("a")), Some(json!("b"))),
            (ValueMatcher::Bool(false), Some(json!(false)), None),
            (ValueMatcher::Present(true), Some(json!(null)), None),
            (
                ValueMatcher::OneOf(Box::new(text())),
                Some(json!(["b", "a"])),
                Some(json!("a")),
            ),
            (
                ValueMatcher::Any(vec![text(), ValueMatcher::Null]),
                Some(json!(null)),
                Some(json!(1)),
            ),
        ] {
            assert!(matcher.matches(yes.as_ref()), "{matcher:?} {yes:?}");
            assert!(!matcher.matches(no.as_ref()), "{matcher:?} {no:?}");
        }
        assert!(!ValueMatcher::Present(false).matches(None));
    }
}
