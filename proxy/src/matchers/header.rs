//! `envoy.config.route.v3.HeaderMatcher`.
//!
//! Of several fields of one name it is enough that one meets the condition; inverted, none may. `host` means `:authority`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto#config-route-v3-headermatcher>

#![allow(
    deprecated,
    reason = "control planes still send the kinds of match that string_match replaces"
)]

use std::borrow::Cow;

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::header_matcher::HeaderMatchSpecifier;

use super::{Regex, StringMatcher};
use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, HeaderName, RequestHead, ResponseHead};

/// What a header matcher may look at.
pub trait HeaderSource {
    /// The first value behind `key`.
    fn first(&self, key: &HeaderKey) -> Option<Cow<'_, [u8]>>;

    /// The ordinary fields.
    fn fields(&self) -> &Fields;
}

/// A header as configurations name it: a field or a pseudo header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the pseudo headers, each under its own name without the colon"
)]
pub enum HeaderKey {
    Method,
    Path,
    Authority,
    Scheme,
    Protocol,
    Status,
    /// Any other.
    Field(HeaderName),
}

impl HeaderKey {
    /// The header called `name`, in any case.
    pub fn new(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":protocol" => Self::Protocol,
            ":status" => Self::Status,
            other => Self::Field(HeaderName::new(other)),
        }
    }
}

impl HeaderSource for RequestHead {
    fn first(&self, key: &HeaderKey) -> Option<Cow<'_, [u8]>> {
        match key {
            HeaderKey::Method => Some(self.method_bytes()),
            HeaderKey::Path => self.path(),
            HeaderKey::Authority => self.authority(),
            HeaderKey::Scheme => self.scheme(),
            HeaderKey::Protocol => self.protocol(),
            HeaderKey::Status => None,
            HeaderKey::Field(name) => self.fields.get(name),
        }
        .map(Cow::Borrowed)
    }

    fn fields(&self) -> &Fields {
        &self.fields
    }
}

impl HeaderSource for ResponseHead {
    fn first(&self, key: &HeaderKey) -> Option<Cow<'_, [u8]>> {
        match key {
            HeaderKey::Status => Some(Cow::Owned(self.status.to_string().into_bytes())),
            _ => self.fields.first(key),
        }
    }

    fn fields(&self) -> &Fields {
        &self.fields
    }
}

impl HeaderSource for Fields {
    fn first(&self, key: &HeaderKey) -> Option<Cow<'_, [u8]>> {
        match key {
            HeaderKey::Field(name) => self.get(name).map(Cow::Borrowed),
            _ => None,
        }
    }

    fn fields(&self) -> &Fields {
        self
    }
}

/// A condition on one header.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    key: HeaderKey,
    invert: bool,
    missing_is_empty: bool,
    condition: Condition,
}

#[derive(Debug, Clone)]
enum Condition {
    Present(bool),
    Text(Box<StringMatcher>),
    /// The deprecated `exact_match`; an empty one is met by every value.
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Box<Regex>),
    /// From the first to before the second.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Converts a `HeaderMatcher`.
    pub fn from_proto(proto: pb::HeaderMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::HeaderMatcher {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = proto;
        let name = path.non_empty("name", name);
        let condition = header_match_specifier.map_or(Ok(Condition::Present(true)), |specifier| {
            Condition::from_proto(specifier, path)
        });
        Ok(Self {
            key: HeaderKey::new(&name?),
            invert: invert_match,
            missing_is_empty: treat_missing_header_as_empty,
            condition: condition?,
        })
    }

    /// Whether the header of `head` meets the condition.
    pub fn matches(&self, head: &impl HeaderSource) -> bool {
        let HeaderKey::Field(name) = &self.key else {
            return self.matches_value(head.first(&self.key).as_deref());
        };
        let fields = head.fields();
        match &self.condition {
            Condition::Present(_) => self.matches_value(fields.get(name)),
            condition => {
                let mut values = fields.get_all(name).peekable();
                if values.peek().is_none() {
                    return self.matches_value(None);
                }
                values.any(|value| condition.holds(value)) != self.invert
            }
        }
    }

    /// As `matches`, for a header that comes once or is missing.
    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        if let Condition::Present(present) = self.condition {
            let there = value.is_some() || self.missing_is_empty;
            return (there == present) != self.invert;
        }
        match value {
            None if !self.missing_is_empty => false,
            value => self.condition.holds(value.unwrap_or_default()) != self.invert,
        }
    }

    /// Whether all of `matchers` are met.
    pub fn all(matchers: &[Self], head: &impl HeaderSource) -> bool {
        matchers.iter().all(|matcher| matcher.matches(head))
    }
}

impl Condition {
    fn from_proto(
        specifier: HeaderMatchSpecifier,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let bytes = |field, text| {
            path.non_empty(field, text)
                .map(|text| text.into_bytes().into())
        };
        Ok(match specifier {
            HeaderMatchSpecifier::PresentMatch(present) => Self::Present(present),
            HeaderMatchSpecifier::StringMatch(text) => Self::Text(Box::new(
                StringMatcher::from_proto(text, &path.field("string_match"))?,
            )),
            HeaderMatchSpecifier::ExactMatch(text) => Self::Exact(text.into_bytes().into()),
            HeaderMatchSpecifier::PrefixMatch(text) => Self::Prefix(bytes("prefix_match", text)?),
            HeaderMatchSpecifier::SuffixMatch(text) => Self::Suffix(bytes("suffix_match", text)?),
            HeaderMatchSpecifier::ContainsMatch(text) => {
                Self::Contains(bytes("contains_match", text)?)
            }
            HeaderMatchSpecifier::SafeRegexMatch(regex) => Self::Regex(Box::new(
                Regex::from_proto(regex, &path.field("safe_regex_match"))?,
            )),
            HeaderMatchSpecifier::RangeMatch(range) => Self::Range(range.start, range.end),
        })
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Text(text) => text.matches(value),
            Self::Exact(text) => text.is_empty() || value == &**text,
            Self::Prefix(text) => value.starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
            Self::Contains(text) => value.windows(text.len()).any(|window| window == &**text),
            Self::Regex(regex) => regex.is_full_match(value),
            Self::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim_ascii().parse::<i64>().ok())
                .is_some_and(|number| *start <= number && number < *end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;
    use crate::http::Protocol;
    use outrigger_proto::pb::envoy::r#type::v3::Int64Range;

    fn matcher(
        specifier: Option<HeaderMatchSpecifier>,
        invert: bool,
        empty: bool,
    ) -> HeaderMatcher {
        let report = ConfigReport::new();
        HeaderMatcher::from_proto(
            pb::HeaderMatcher {
                name: "X-A".into(),
                invert_match: invert,
                treat_missing_header_as_empty: empty,
                header_match_specifier: specifier,
            },
            &ConfigPath::root(&report, "h"),
        )
        .unwrap()
    }

    fn head(values: &[&str]) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        for value in values {
            head.fields.append("x-a", value);
        }
        head
    }

    #[test]
    fn each_kind_holds_for_its_values_and_for_no_others() {
        use HeaderMatchSpecifier as S;
        let range = |start, end| S::RangeMatch(Int64Range { start, end });
        for (specifier, yes, no) in [
            (S::ExactMatch("v".into()), "v", "V"),
            (S::PrefixMatch("ab".into()), "abc", "xab"),
            (S::SuffixMatch("bc".into()), "abc", "bcd"),
            (S::ContainsMatch("bc".into()), "abcd", "acb"),
            (range(-10, 0), "-10", "0"),
            (range(1, 3), "2", "3"),
            (range(1, 3), "1", "x"),
        ] {
            let plain = matcher(Some(specifier.clone()), false, false);
            assert!(plain.matches(&head(&[yes])), "{specifier:?}");
            assert!(!plain.matches(&head(&[no])), "{specifier:?}");
            let inverted = matcher(Some(specifier), true, false);
            assert!(!inverted.matches(&head(&[yes])));
            assert!(inverted.matches(&head(&[no])));
        }
    }

    #[test]
    fn a_missing_header_meets_no_condition_even_inverted_unless_it_counts_as_empty() {
        let exact = || Some(HeaderMatchSpecifier::ExactMatch("v".into()));
        assert!(!matcher(exact(), false, false).matches(&head(&[])));
        assert!(!matcher(exact(), true, false).matches(&head(&[])));
        assert!(!matcher(exact(), false, true).matches(&head(&[])));
        assert!(matcher(exact(), true, true).matches(&head(&[])));
    }

    #[test]
    fn presence_and_absence_can_be_asked_for_and_inverted() {
        for (present, invert, missing_is_empty, if_there, if_missing) in [
            (true, false, false, true, false),
            (true, true, false, false, true),
            (false, false, false, false, true),
            (false, true, false, true, false),
            (true, false, true, true, true),
            (true, true, true, false, false),
            (false, false, true, false, false),
            (false, true, true, true, true),
        ] {
            let specifier = HeaderMatchSpecifier::PresentMatch(present);
            let matcher = matcher(Some(specifier), invert, missing_is_empty);
            let case = format!("{present} {invert} {missing_is_empty}");
            assert_eq!(matcher.matches(&head(&[""])), if_there, "{case}");
            assert_eq!(matcher.matches(&head(&[])), if_missing, "{case}");
        }
        assert!(matcher(None, false, false).matches(&head(&["anything"])));
    }

    #[test]
    fn of_repeated_headers_one_must_meet_the_condition_and_inverted_none_may() {
        let exact = |text: &str, invert| {
            let specifier = HeaderMatchSpecifier::ExactMatch(text.into());
            matcher(Some(specifier), invert, false)
        };
        let both = head(&["a", "b"]);
        for (text, expected) in [("a", true), ("b", true), ("a,b", false)] {
            assert_eq!(exact(text, false).matches(&both), expected, "{text}");
            assert_eq!(exact(text, true).matches(&both), !expected, "{text}");
        }
    }

    #[test]
    fn host_means_the_authority() {
        let mut head = head(&[]);
        head.set_authority(b"a.example");
        for name in ["host", "Host", ":authority"] {
            assert_eq!(
                head.first(&HeaderKey::new(name)).as_deref(),
                Some(&b"a.example"[..])
            );
        }
    }
}
