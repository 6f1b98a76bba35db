//! `envoy.config.route.v3.QueryParameterMatcher`. Values are compared as they were sent, without percent-decoding.

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::query_parameter_matcher::QueryParameterMatchSpecifier;

use super::StringMatcher;
use crate::config::{ConfigPath, Rejected};

/// A condition on the first value of one query parameter.
#[derive(Debug, Clone)]
pub struct QueryParameterMatcher {
    name: Box<str>,
    condition: Condition,
}

#[derive(Debug, Clone)]
enum Condition {
    Present(bool),
    Text(StringMatcher),
}

impl QueryParameterMatcher {
    /// Converts a `QueryParameterMatcher`.
    pub fn from_proto(
        proto: pb::QueryParameterMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::QueryParameterMatcher {
            name,
            query_parameter_match_specifier,
        } = proto;
        let name = path.non_empty("name", name);
        let condition = match query_parameter_match_specifier {
            None => Ok(Condition::Present(true)),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => {
                Ok(Condition::Present(present))
            }
            Some(QueryParameterMatchSpecifier::StringMatch(text)) => {
                StringMatcher::from_proto(text, &path.field("string_match")).map(Condition::Text)
            }
        };
        Ok(Self {
            name: name?.into(),
            condition: condition?,
        })
    }

    /// Whether the query of `path` (a path with its query) meets the condition.
    pub fn matches(&self, path: &[u8]) -> bool {
        let value = first_query_value(path, self.name.as_bytes());
        match &self.condition {
            Condition::Present(present) => value.is_some() == *present,
            Condition::Text(text) => value.is_some_and(|value| text.matches(value)),
        }
    }
}

/// The first value of the parameter `name` in the query of `path`; empty for one without `=`.
pub fn first_query_value<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = path.iter().position(|b| *b == b'?')? + 1;
    path[start..].split(|b| *b == b'&').find_map(|parameter| {
        let rest = parameter.strip_prefix(name)?;
        match rest.split_first() {
            None => (!name.is_empty()).then_some(rest),
            Some((b'=', value)) => Some(value),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_parameter_counts() {
        for (path, name, expected) in [
            ("/p?a=1&b=2&a=3", "a", Some("1")),
            ("/p?a=1&b=2&a=3", "b", Some("2")),
            ("/p?ab=1&a", "a", Some("")),
            ("/p?a==&b", "a", Some("=")),
            ("/p?a%3D=1", "a", None),
            ("/a=1", "a", None),
            ("/p?", "a", None),
        ] {
            assert_eq!(
                first_query_value(path.as_bytes(), name.as_bytes()),
                expected.map(str::as_bytes),
                "{path} {name}"
            );
        }
    }
}
