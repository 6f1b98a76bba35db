//! `envoy.path.match.uri_template` and `envoy.path.rewrite.uri_template`: paths with variables.
//! Type URLs: `envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig`,
//! `envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig`.

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;

use crate::config::{ConfigPath, Rejected};
use crate::matchers::Regex;

/// The characters of a path segment, as a class of an expression.
const SEGMENT: &str = r"[a-zA-Z0-9._~%!$\&'()*+,;:@=-]+";
/// The same with the separator, and perhaps none of them.
const SEGMENTS: &str = r"[a-zA-Z0-9._~%!$\&'()*+,;:@=/-]*";
/// Matches nothing.
const NEVER: &str = r"\z.";
const MOST_VARIABLES: usize = 5;
const LONGEST_NAME: usize = 16;

/// A pattern with `*`, `**`, `{name}` and `{name=pattern}`.
#[derive(Debug)]
pub struct UriTemplate {
    regex: Regex,
    names: Vec<Box<str>>,
    prefix: Box<[u8]>,
}

/// What a path becomes: text and variables of the pattern.
#[derive(Debug)]
pub(super) struct UriTemplateRewrite(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Variable(Box<str>),
}

/// Collects the expression while the pattern is read.
#[derive(Default)]
struct Builder {
    regex: String,
    names: Vec<Box<str>>,
    prefix: String,
    /// The path may differ from here on.
    prefix_ended: bool,
    text_glob_seen: bool,
    /// Matches nothing.
    never: bool,
}

impl UriTemplate {
    /// Reads a pattern; the error says what is wrong with it.
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        if !pattern.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("must be printable ASCII".to_owned());
        }
        let mut rest = pattern.strip_prefix('/').ok_or("must begin with /")?;
        let mut builder = Builder::default();
        builder.separator();
        while !rest.is_empty() {
            rest = builder.segment(rest)?;
            if let Some(next) = rest.strip_prefix('/') {
                builder.separator();
                rest = next;
            }
        }
        let regex = if builder.never { NEVER } else { &builder.regex };
        Ok(Self {
            regex: Regex::new(regex)?,
            names: builder.names,
            prefix: builder.prefix.into_bytes().into(),
        })
    }

    /// Converts an extension that matches paths.
    pub(crate) fn from_extension(
        extension: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        super::path::template(extension, path)
    }

    /// Whether a path without query is of this form.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.regex.is_full_match(path)
    }

    pub(super) fn literal_prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl Builder {
    fn separator(&mut self) {
        self.regex.push('/');
        if !self.prefix_ended {
            self.prefix.push('/');
        }
    }

    /// Takes a segment from the front, and leaves its separator. It is an operator with text behind it at the very end of the
    /// pattern, text, or a variable with text around it.
    fn segment<'p>(&mut self, rest: &'p str) -> Result<&'p str, String> {
        if let Some(after) = rest.strip_prefix('*') {
            let after_two = after.strip_prefix('*');
            self.operator(after_two.is_some())?;
            let after = after_two.unwrap_or(after);
            if after.is_empty() || after.starts_with('/') {
                return Ok(after);
            }
            self.literal(after)?;
            return Ok("");
        }
        let end = rest.find(['{', '/']).unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix('{') else {
            self.literal(text)?;
            return Ok(after);
        };
        if !text.is_empty() {
            self.literal(text)?;
        }
        let (variable, after) = after.split_once('}').ok_or("has a { without its }")?;
        self.variable(variable)?;
        let (text, after) = after.split_at(after.find('/').unwrap_or(after.len()));
        if !text.is_empty() {
            self.literal(text)?;
        }
        Ok(after)
    }

    /// Text of a segment. A star in it repeats what stands before it, as Envoy takes the text for an expression; where that
    /// makes an illegal one, nothing matches.
    fn literal(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Err("has an empty segment".to_owned());
        }
        if let Some(odd) = text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !"-._~%!$&'()*+,;:@=".contains(*c))
        {
            return Err(format!("may not contain {odd} there"));
        }
        let starred = text.find('*');
        self.never |= text.contains("**") || (starred == Some(0) && self.regex.ends_with("]*"));
        for (number, piece) in text.split('*').enumerate() {
            if number > 0 {
                self.regex.push('*');
            }
            self.regex.push_str(&regex::escape(piece));
        }
        if !self.prefix_ended {
            let fixed = starred.map_or(text.len(), |star| star.saturating_sub(1));
            self.prefix.push_str(&text[..fixed]);
            self.prefix_ended = starred.is_some();
        }
        Ok(())
    }

    fn operator(&mut self, text_glob: bool) -> Result<(), String> {
        if self.text_glob_seen {
            return Err("has an operator after **".to_owned());
        }
        self.text_glob_seen = text_glob;
        self.prefix_ended = true;
        self.regex
            .push_str(if text_glob { SEGMENTS } else { SEGMENT });
        Ok(())
    }

    fn variable(&mut self, variable: &str) -> Result<(), String> {
        let (name, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !letters
            || !name.starts_with(|c: char| c.is_ascii_alphabetic())
            || name.len() > LONGEST_NAME
        {
            return Err(format!("has a variable with the illegal name {name:?}"));
        }
        if self.names.iter().any(|known| **known == *name) {
            return Err(format!("has the variable {name} twice"));
        }
        if self.names.len() == MOST_VARIABLES {
            return Err(format!("has more than {MOST_VARIABLES} variables"));
        }
        self.names.push(name.into());
        self.prefix_ended = true;
        self.regex.push_str(&format!("(?P<{name}>"));
        for (number, part) in pattern.split('/').enumerate() {
            if number > 0 {
                self.regex.push('/');
            }
            match part {
                "*" => self.operator(false)?,
                "**" => self.operator(true)?,
                text if text.starts_with('*') => {
                    return Err(format!("has an illegal pattern for the variable {name}"));
                }
                text => self.literal(text)?,
            }
        }
        self.regex.push(')');
        Ok(())
    }
}

impl UriTemplateRewrite {
    /// Reads a rewrite; its variables must be those of `template`.
    pub(super) fn parse(rewrite: &str, template: &UriTemplate) -> Result<Self, String> {
        if !rewrite.starts_with('/') || rewrite.contains("//") {
            return Err("must begin with / and have no empty segment".to_owned());
        }
        let mut pieces = Vec::new();
        let mut rest = rewrite;
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains(['}', '*']) || !literal.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("may contain text and {variables} only".to_owned());
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.as_bytes().into()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (name, after) = after.split_once('}').ok_or("has a { without its }")?;
            if !template.names.iter().any(|known| **known == *name) {
                return Err(format!("has the variable {name}, which the pattern lacks"));
            }
            pieces.push(Piece::Variable(name.into()));
            rest = after;
        }
        Ok(Self(pieces))
    }

    /// The new path; none if the path does not match the pattern any more.
    pub(super) fn rewrite(&self, path: &[u8], template: &UriTemplate) -> Option<Vec<u8>> {
        let captures = template.regex.full_captures(path)?;
        let mut out = Vec::with_capacity(path.len());
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Variable(name) => {
                    if let Some(group) = captures.name(name) {
                        out.extend_from_slice(group.as_bytes());
                    }
                }
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_and_variables_match_their_segments() {
        for (pattern, yes, no) in [
            (
                "/videos/*/*/*.m4s",
                "/videos/123414/hls/1080p5000_00001.m4s",
                "/videos/1/2.m4s",
            ),
            (
                "/videos/{file}",
                "/videos/1080p5000_00001.m4s",
                "/videos/a/b",
            ),
            (
                "/**.mpd",
                "/content/123/india/dash/55/manifest.mpd",
                "/content/manifest.mp4",
            ),
            (
                "/api/v{version}/users/{id}.json",
                "/api/v2/users/456.json",
                "/api/2/users/456.json",
            ),
            ("/{lang=en/*}/x", "/en/us/x", "/de/us/x"),
            ("/{x}", "/a=b*c", "/a\"b"),
            ("/v=1/{x=a=b}", "/v=1/a=b", "/v=1/a"),
            ("/pre{x}post/y", "/prexpost/y", "/prepost/y"),
            ("/x/ab*c", "/x/abbc", "/x/abXc"),
            ("/{x}*", "/ab", "/a/b"),
        ] {
            let template = UriTemplate::parse(pattern).unwrap();
            assert!(template.matches(yes.as_bytes()), "{pattern} {yes}");
            assert!(!template.matches(no.as_bytes()), "{pattern} {no}");
            assert!(yes.as_bytes().starts_with(template.literal_prefix()));
        }
    }

    #[test]
    fn text_that_is_no_expression_matches_nothing() {
        for pattern in ["/a**b", "/***", "/{x}**"] {
            let template = UriTemplate::parse(pattern).unwrap();
            for path in ["/", "/a", "/ab", "/a**b", "/***", "/x**"] {
                assert!(!template.matches(path.as_bytes()), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn illegal_patterns_are_refused() {
        for pattern in [
            "a",
            "/{a",
            "/{a}/{a}",
            "/**/*",
            "/{1}",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/a//b",
            "/a[b",
            "/{abcdefghijklmnopq}",
            "/{a}{b}",
            "/*a/b",
            "/*{a}",
            "/{a=*b}",
            "/{a=}",
            "/{a=b/}",
        ] {
            assert!(UriTemplate::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn variables_move_to_their_places_in_the_rewrite() {
        for (pattern, rewrite, path, expected) in [
            ("/{one}/{two}", "/{two}/{one}", "/cat/dog", "/dog/cat"),
            (
                "/content/{format}/{lang}/{id}/{file}.vtt",
                "/{lang}/{format}/{file}.vtt",
                "/content/hls/en-us/12345/en_193913.vtt",
                "/en-us/hls/en_193913.vtt",
            ),
            (
                "/videos/{language=lang/*}/*",
                "/{language}",
                "/videos/lang/en/video.m4s",
                "/lang/en",
            ),
        ] {
            let template = UriTemplate::parse(pattern).unwrap();
            let rewrite = UriTemplateRewrite::parse(rewrite, &template).unwrap();
            let found = rewrite.rewrite(path.as_bytes(), &template).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        }
        let template = UriTemplate::parse("/{one}").unwrap();
        assert!(UriTemplateRewrite::parse("/{two}", &template).is_err());
    }
}
