//! `envoy.type.matcher.v3.StringMatcher`.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/matcher/v3/string.proto>
//!
//! Deviations: `custom` matchers are refused.

use memchr::memmem;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as pb;

use super::Regex;
use crate::config::{ConfigPath, Rejected};

/// A test of a string. Values are bytes: they need not be UTF-8.
#[derive(Debug, Clone)]
pub struct StringMatcher {
    pattern: Pattern,
}

#[derive(Debug, Clone)]
enum Pattern {
    Exact(Text),
    Prefix(Text),
    Suffix(Text),
    Contains(Text),
    Regex(Box<Regex>),
}

/// What to compare with. With `ignore_case` it is in lower case, and so is what it is compared with; only ASCII has cases.
#[derive(Debug, Clone)]
struct Text {
    bytes: Box<[u8]>,
    ignore_case: bool,
}

impl StringMatcher {
    /// Converts a `StringMatcher`. Fails without a pattern, on a bad regex, and on a `custom` matcher.
    pub fn from_proto(proto: pb::StringMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::StringMatcher {
            ignore_case,
            match_pattern,
        } = proto;
        let text = |text: String| Text::new(&text, ignore_case);
        use pb::string_matcher::MatchPattern as P;
        let pattern = match match_pattern {
            Some(P::Exact(value)) => Pattern::Exact(text(value)),
            Some(P::Prefix(value)) => Pattern::Prefix(text(path.non_empty("prefix", value)?)),
            Some(P::Suffix(value)) => Pattern::Suffix(text(path.non_empty("suffix", value)?)),
            Some(P::Contains(value)) => Pattern::Contains(text(path.non_empty("contains", value)?)),
            Some(P::SafeRegex(regex)) if ignore_case => {
                let _ = regex;
                return Err(path
                    .field("ignore_case")
                    .reject("has no effect for safe_regex: write (?i) into the expression"));
            }
            Some(P::SafeRegex(regex)) => Pattern::Regex(Box::new(Regex::from_proto(
                regex,
                &path.field("safe_regex"),
            )?)),
            Some(P::Custom(extension)) => {
                return Err(path
                    .field("custom")
                    .reject(format!("\"{}\" is not supported", extension.name)));
            }
            None => {
                return Err(path.reject("needs one of exact, prefix, suffix, contains, safe_regex"));
            }
        };
        Ok(Self { pattern })
    }

    /// Converts every matcher of a `ListStringMatcher`.
    pub fn list_from_proto(
        proto: pb::ListStringMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Vec<Self>, Rejected> {
        let pb::ListStringMatcher { patterns } = proto;
        path.each("patterns", patterns, Self::from_proto)
    }

    /// A matcher of exactly `value`.
    pub fn exact(value: &str) -> Self {
        Self {
            pattern: Pattern::Exact(Text::new(value, false)),
        }
    }

    /// A matcher of all that begins with `value`.
    pub fn prefix(value: &str) -> Self {
        Self {
            pattern: Pattern::Prefix(Text::new(value, false)),
        }
    }

    /// Whether `value` passes the test.
    #[inline]
    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.pattern {
            Pattern::Exact(text) => value.len() == text.bytes.len() && text.is_at(value, 0),
            Pattern::Prefix(text) => value.len() >= text.bytes.len() && text.is_at(value, 0),
            Pattern::Suffix(text) => value
                .len()
                .checked_sub(text.bytes.len())
                .is_some_and(|at| text.is_at(value, at)),
            Pattern::Contains(text) => text.is_within(value),
            Pattern::Regex(regex) => regex.is_full_match(value),
        }
    }

    /// What it matches exactly, if it does so and minds the case: such matchers can be looked up instead of tried.
    pub fn as_exact(&self) -> Option<&[u8]> {
        match &self.pattern {
            Pattern::Exact(text) if !text.ignore_case => Some(&text.bytes),
            _ => None,
        }
    }

    /// The prefix it tests for, if it does so and minds the case.
    pub fn as_prefix(&self) -> Option<&[u8]> {
        match &self.pattern {
            Pattern::Prefix(text) if !text.ignore_case => Some(&text.bytes),
            _ => None,
        }
    }
}

impl Text {
    fn new(text: &str, ignore_case: bool) -> Self {
        let text = if ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        };
        Self {
            bytes: text.into_bytes().into(),
            ignore_case,
        }
    }

    /// Whether it stands at `at` in `value`. The caller has seen that there is room.
    fn is_at(&self, value: &[u8], at: usize) -> bool {
        let found = &value[at..at + self.bytes.len()];
        if self.ignore_case {
            found.eq_ignore_ascii_case(&self.bytes)
        } else {
            *found == *self.bytes
        }
    }

    fn is_within(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            value
                .windows(self.bytes.len())
                .any(|window| window.eq_ignore_ascii_case(&self.bytes))
        } else {
            memmem::find(value, &self.bytes).is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;
    use crate::config::ConfigReport;

    fn convert(pattern: Option<MatchPattern>, ignore_case: bool) -> Result<StringMatcher, String> {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "matcher");
        let proto = pb::StringMatcher {
            ignore_case,
            match_pattern: pattern,
        };
        StringMatcher::from_proto(proto, &path).map_err(|_| report.take()[0].to_string())
    }

    fn regex(regex: &str) -> MatchPattern {
        MatchPattern::SafeRegex(pb::RegexMatcher {
            regex: regex.to_owned(),
            engine_type: None,
        })
    }

    #[test]
    fn each_pattern_matches_its_part_of_the_value() {
        for (pattern, value, expected) in [
            (MatchPattern::Exact("ab".into()), "ab", true),
            (MatchPattern::Exact("ab".into()), "AB", false),
            (MatchPattern::Exact("".into()), "", true),
            (MatchPattern::Prefix("ab".into()), "abc", true),
            (MatchPattern::Prefix("ab".into()), "a", false),
            (MatchPattern::Suffix("bc".into()), "abc", true),
            (MatchPattern::Suffix("bc".into()), "c", false),
            (MatchPattern::Contains("b".into()), "abc", true),
            (MatchPattern::Contains("x".into()), "abc", false),
            (regex("a.c"), "abc", true),
            (regex("a.c"), "abcd", false),
        ] {
            let matcher = convert(Some(pattern.clone()), false).unwrap();
            assert_eq!(matcher.matches(value.as_bytes()), expected, "{pattern:?}");
        }
    }

    #[test]
    fn ignore_case_folds_ascii_only() {
        for pattern in [
            MatchPattern::Exact("aBc".into()),
            MatchPattern::Prefix("aB".into()),
            MatchPattern::Suffix("Bc".into()),
            MatchPattern::Contains("B".into()),
        ] {
            let matcher = convert(Some(pattern.clone()), true).unwrap();
            assert!(matcher.matches(b"AbC"), "{pattern:?}");
            assert!(!matcher.matches(b"xyz"), "{pattern:?}");
        }
        let umlaut = convert(Some(MatchPattern::Exact("ä".into())), true).unwrap();
        assert!(!umlaut.matches("Ä".as_bytes()));
    }

    #[test]
    fn what_cannot_be_matched_is_refused_with_its_path() {
        for (pattern, ignore_case, error) in [
            (None, false, "matcher: needs one of"),
            (
                Some(regex("(")),
                false,
                "matcher / safe_regex / regex: \"(\" is not",
            ),
            (
                Some(regex("a")),
                true,
                "matcher / ignore_case: has no effect",
            ),
            (
                Some(MatchPattern::Prefix(String::new())),
                false,
                "matcher / prefix: must not be empty",
            ),
            (
                Some(MatchPattern::Custom(Default::default())),
                false,
                "matcher / custom: \"\" is not supported",
            ),
        ] {
            let found = convert(pattern, ignore_case).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }
}
