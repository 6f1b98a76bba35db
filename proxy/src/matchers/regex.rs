//! Regular expressions in RE2's dialect, over bytes, in linear time.
//!
//! `envoy.type.matcher.v3.RegexMatcher`.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/matcher/v3/regex.proto>
//!
//! Deviations: `max_program_size` is accepted and has no effect, as in Envoy, where only a runtime key limits programs.

use std::fmt;

use outrigger_proto::pb::envoy::r#type::matcher::v3 as pb;
use regex::bytes::{Captures, Regex as BytesRegex};

use crate::config::{ConfigPath, Rejected};

/// The largest compiled program, in bytes.
const SIZE_LIMIT: usize = 16 << 20;
/// The largest count of a repetition, as in RE2.
const MAX_REPETITION: u32 = 1_000;

/// A compiled regular expression with RE2's meaning.
#[derive(Clone)]
pub struct Regex {
    whole: BytesRegex,
    part: BytesRegex,
}

impl Regex {
    /// Compiles the `RegexMatcher` of a configuration.
    pub fn from_proto(proto: pb::RegexMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        // The engine can only be RE2, whose program size Envoy no longer takes from here.
        let pb::RegexMatcher {
            regex,
            engine_type: _,
        } = proto;
        if regex.is_empty() {
            return Err(path.field("regex").reject("must not be empty"));
        }
        Self::new(&regex).map_err(|error| {
            path.field("regex")
                .reject(format!("\"{regex}\" is not a regular expression: {error}"))
        })
    }

    /// Compiles `pattern`; the error says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let pattern = translate(pattern)?;
        Ok(Self {
            whole: compile(&format!("^(?:{pattern})$"))?,
            part: compile(&pattern)?,
        })
    }

    /// Whether all of `value` matches.
    #[inline]
    pub fn is_full_match(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }

    /// Whether some part of `value` matches.
    #[inline]
    pub fn is_partial_match(&self, value: &[u8]) -> bool {
        self.part.is_match(value)
    }

    /// The groups of a match of all of `value`.
    pub fn full_captures<'v>(&self, value: &'v [u8]) -> Option<Captures<'v>> {
        self.whole.captures(value)
    }

    /// The groups of the first match within `value`.
    pub fn captures<'v>(&self, value: &'v [u8]) -> Option<Captures<'v>> {
        self.part.captures(value)
    }

    /// Every match within `value`, from left to right.
    pub fn find_iter<'v>(
        &'v self,
        value: &'v [u8],
    ) -> impl Iterator<Item = regex::bytes::Match<'v>> {
        self.part.find_iter(value)
    }

    /// How many groups it has, not counting the whole match.
    pub fn group_count(&self) -> usize {
        self.part.captures_len() - 1
    }

    /// The compiled expression that finds its matches within a value.
    pub fn as_bytes_regex(&self) -> &BytesRegex {
        &self.part
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.part.as_str())
    }
}

fn compile(pattern: &str) -> Result<BytesRegex, String> {
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| {
            // The first lines draw the pattern; the last one says what is wrong.
            let text = error.to_string();
            text.lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned()
        })
}

/// Rewrites what RE2 and the `regex` crate understand differently: Perl classes and word boundaries are ASCII, classes do not
/// nest and have no set operations, `\<` is a plain character, `\Q…\E` quotes, a brace that is no repetition stands for itself.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut class: Option<Class> = None;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match (c, class.as_mut()) {
            ('\\', in_class) => escape(after, in_class.is_some(), &mut out)?,
            ('[', None) => {
                class = Some(Class);
                open_class(after, &mut out)
            }
            ('[', Some(Class)) if after.starts_with(':') => match after.find(":]") {
                Some(end) => {
                    out.push_str(&rest[..end + 3]);
                    &after[end + 2..]
                }
                None => push(&mut out, "\\[", after),
            },
            (']', Some(Class)) => {
                class = None;
                push(&mut out, "]", after)
            }
            ('[' | '&' | '~', Some(Class)) => {
                out.push('\\');
                out.push(c);
                after
            }
            ('-', Some(Class)) if after.starts_with('-') => push(&mut out, "\\-", after),
            ('(', None) if let Some(flag) = foreign_flag(after) => {
                return Err(format!("invalid perl operator: (?{flag}"));
            }
            ('{', None) if repeats_too_often(after) => {
                return Err(format!("a repetition has at most {MAX_REPETITION} rounds"));
            }
            ('{', None) if !is_repetition(after) => push(&mut out, "\\{", after),
            ('}', None) if !closes_repetition(&out) => push(&mut out, "\\}", after),
            _ => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

/// That the scanner stands within `[…]`.
struct Class;

/// What follows `[`: a caret, and a bracket that closes nothing.
fn open_class<'p>(after: &'p str, out: &mut String) -> &'p str {
    out.push('[');
    let after = match after.strip_prefix('^') {
        Some(after) => push(out, "^", after),
        None => after,
    };
    match after.strip_prefix(']') {
        Some(after) => push(out, "\\]", after),
        None => after,
    }
}

/// What follows a backslash.
fn escape<'p>(after: &'p str, in_class: bool, out: &mut String) -> Result<&'p str, String> {
    let Some(c) = after.chars().next() else {
        return Err("ends in a backslash".to_owned());
    };
    let rest = &after[c.len_utf8()..];
    let ascii = match (c, in_class) {
        ('d', true) => "0-9",
        ('d', false) => "[0-9]",
        ('D', _) => "[^0-9]",
        ('w', true) => "0-9A-Za-z_",
        ('w', false) => "[0-9A-Za-z_]",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', true) => "\\t\\n\\f\\r ",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', false) => "(?-u:\\b)",
        ('B', false) => "(?-u:\\B)",
        ('C', false) => "(?s-u:.)",
        ('<' | '>', _) => return Ok(push(out, &c.to_string(), rest)),
        ('Q', false) => {
            let (quoted, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            return Ok(push(out, &regex::escape(quoted), rest));
        }
        ('Z', _) => return Err("\\Z is not supported".to_owned()),
        _ => {
            out.push('\\');
            out.push(c);
            return Ok(match (c, rest.strip_prefix('{')) {
                // \x{…}, \p{…}: the brace belongs to the escape.
                ('x' | 'p' | 'P', Some(braced)) => match braced.find('}') {
                    Some(end) => push(out, &rest[..end + 2], &braced[end + 1..]),
                    None => rest,
                },
                _ => rest,
            });
        }
    };
    out.push_str(ascii);
    // After a class within a class, a hyphen opens no range.
    Ok(match rest.strip_prefix('-') {
        Some(rest) if in_class => push(out, "\\-", rest),
        _ => rest,
    })
}

/// Whether `{` opens `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(after: &str) -> bool {
    let Some((counts, _)) = after.split_once('}') else {
        return false;
    };
    let (low, high) = counts.split_once(',').unwrap_or((counts, ""));
    !low.is_empty() && low.chars().chain(high.chars()).all(|c| c.is_ascii_digit())
}

/// Whether `{n,m}` asks for more rounds than RE2 grants.
fn repeats_too_often(after: &str) -> bool {
    let counts = after.split('}').next().unwrap_or_default();
    let too_often = |count: &str| {
        count.len() > 9
            || count
                .parse::<u32>()
                .is_ok_and(|count| count > MAX_REPETITION)
    };
    is_repetition(after) && counts.split(',').any(too_often)
}

/// A flag of the `regex` crate that RE2 does not have, in what follows `(`.
fn foreign_flag(after: &str) -> Option<char> {
    let flags = after.strip_prefix('?')?;
    flags
        .chars()
        .take_while(|c| c.is_ascii_alphabetic() || *c == '-')
        .take_while(|c| *c != 'P')
        .find(|c| matches!(c, 'x' | 'u' | 'R'))
}

/// Whether a `}` after `out` ends a repetition, which `is_repetition` has let through unescaped.
fn closes_repetition(out: &str) -> bool {
    let counts = out.trim_end_matches(|c: char| c.is_ascii_digit() || c == ',');
    counts.ends_with('{') && !counts.ends_with("\\{")
}

fn push<'p>(out: &mut String, text: &str, rest: &'p str) -> &'p str {
    out.push_str(text);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(pattern: &str, value: &str) -> bool {
        Regex::new(pattern).unwrap().is_full_match(value.as_bytes())
    }

    #[test]
    fn classes_and_escapes_mean_what_they_mean_in_re2() {
        for (pattern, matching, other) in [
            (r"\d+", "12", "\u{0661}"),
            (r"[\d.]+", "1.2", "\u{0661}"),
            (r"\w+", "a_1", "é"),
            (r"[^\w]", "é", "a"),
            (r"[[]x", "[x", "x"),
            (r"[\w-\.]+", "a-b.c", "!"),
            (r"[]a]+", "]a", "b"),
            (r"[a&&b]+", "a&b", "c"),
            (r"[[:alpha:]_]+", "a_", "1"),
            (r"\<a\>", "<a>", "a"),
            (r"\Qa.b\E+", "a.bb", "axb"),
            (r"a{2}", "aa", "a"),
            (r"a{,2}", "a{,2}", "aa"),
            (r"\{a\}", "{a}", "a"),
            (r"/\x{41}", "/A", "/B"),
            (r"a|bc", "bc", "abc"),
            (r"(?P<xu>a)(?s:.)", "a\n", "b"),
            (r"(?i)abc", "ABC", "abd"),
        ] {
            assert!(full(pattern, matching), "{pattern} {matching}");
            assert!(!full(pattern, other), "{pattern} {other}");
        }
    }

    #[test]
    fn what_re2_does_not_have_is_refused() {
        for pattern in [
            r"(?=a)",
            r"(?<!a)b",
            r"(a)\1",
            "(",
            r"a\",
            "(?x) a",
            "(?i-u:a)",
            "a{1001}",
            "a{1,99999999999}",
        ] {
            assert!(Regex::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_partial_match_may_stand_anywhere() {
        let regex = Regex::new("b.d").unwrap();
        assert!(regex.is_partial_match(b"abcde"));
        assert!(!regex.is_full_match(b"abcde"));
    }
}
