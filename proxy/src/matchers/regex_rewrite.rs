//! `envoy.type.matcher.v3.RegexMatchAndSubstitute`: replaces every match of an expression.
//!
//! Deviations: a substitution that names a group which the pattern lacks is refused; Envoy finds it out with each request.

use outrigger_proto::pb::envoy::r#type::matcher::v3 as pb;

use super::Regex;
use crate::config::{ConfigPath, Rejected};

/// An expression, and what each of its matches is replaced with.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    regex: Regex,
    substitution: Box<[Piece]>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(Box<[u8]>),
    Group(usize),
}

impl RegexRewrite {
    /// Converts a `RegexMatchAndSubstitute`.
    pub fn from_proto(
        proto: pb::RegexMatchAndSubstitute,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RegexMatchAndSubstitute {
            pattern,
            substitution,
        } = proto;
        let regex = Regex::from_proto(path.required("pattern", pattern)?, &path.field("pattern"))?;
        let substitution = parse_substitution(
            &substitution,
            regex.group_count(),
            &path.field("substitution"),
        )?;
        Ok(Self {
            regex,
            substitution,
        })
    }

    /// `text` with every match replaced.
    pub fn replace_all(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut end = 0;
        for captures in self.regex.as_bytes_regex().captures_iter(text) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            out.extend_from_slice(&text[end..whole.start()]);
            end = whole.end();
            for piece in &self.substitution {
                match piece {
                    Piece::Literal(bytes) => out.extend_from_slice(bytes),
                    Piece::Group(index) => {
                        if let Some(group) = captures.get(*index) {
                            out.extend_from_slice(group.as_bytes());
                        }
                    }
                }
            }
        }
        out.extend_from_slice(&text[end..]);
        out
    }
}

fn parse_substitution(
    text: &str,
    groups: usize,
    path: &ConfigPath<'_>,
) -> Result<Box<[Piece]>, Rejected> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group > groups {
                    return Err(path.reject(format!(
                        "\\{group} is not a group of the pattern, which has {groups}"
                    )));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                }
                pieces.push(Piece::Group(group));
            }
            _ => {
                return Err(path.reject("a backslash must be followed by a digit or a backslash"));
            }
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;

    fn rewrite(pattern: &str, substitution: &str) -> Result<RegexRewrite, String> {
        let report = ConfigReport::new();
        let proto = pb::RegexMatchAndSubstitute {
            pattern: Some(pb::RegexMatcher {
                regex: pattern.into(),
                ..Default::default()
            }),
            substitution: substitution.into(),
        };
        RegexRewrite::from_proto(proto, &ConfigPath::root(&report, "r"))
            .map_err(|_| report.take()[0].to_string())
    }

    #[test]
    fn every_match_is_replaced_and_groups_are_inserted() {
        for (pattern, substitution, text, expected) in [
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            (
                "^(.*?)one(.*)$",
                r"\1two\2",
                "/xxx/one/yyy/one/zzz",
                "/xxx/two/yyy/one/zzz",
            ),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            (
                "^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api",
                "/v1/api/instance/foo",
            ),
        ] {
            let rewrite = rewrite(pattern, substitution).unwrap();
            assert_eq!(
                rewrite.replace_all(text.as_bytes()),
                expected.as_bytes(),
                "{pattern}"
            );
        }
    }

    #[test]
    fn a_group_that_the_pattern_lacks_is_refused() {
        assert_eq!(
            rewrite("(a)", r"\2").unwrap_err(),
            r"r / substitution: \2 is not a group of the pattern, which has 1"
        );
    }
}
