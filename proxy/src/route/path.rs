//! What a route says about the path: prefix, exact path, expression, template, or a CONNECT.

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use outrigger_proto::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;

use super::uri_template::UriTemplate;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::matchers::Regex;

const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// A condition on the path without query and fragment.
#[derive(Debug)]
pub(super) struct PathCriterion {
    pub(super) kind: PathKind,
    pub(super) ignore_case: bool,
}

#[derive(Debug)]
pub(super) enum PathKind {
    Prefix(Box<[u8]>),
    Exact(Box<[u8]>),
    /// A prefix that ends where a segment ends.
    SeparatedPrefix(Box<[u8]>),
    Regex(Box<PathRegex>),
    Template(Box<UriTemplate>),
    /// Any CONNECT, and nothing else.
    Connect,
}

/// An expression, and the text that every match of it begins with.
#[derive(Debug)]
pub(super) struct PathRegex {
    regex: Regex,
    prefix: Box<[u8]>,
}

/// The part of every path that meets a criterion, by which the criterion is found.
pub(super) enum Anchor<'a> {
    /// Such paths begin with these bytes.
    Prefix(&'a [u8]),
    /// The criterion asks for the method instead.
    Connect,
}

impl PathCriterion {
    pub(super) fn from_proto(
        specifier: Option<PathSpecifier>,
        case_sensitive: bool,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let kind = match specifier {
            None => {
                return Err(path.reject(
                    "needs one of prefix, path, safe_regex, connect_matcher, path_separated_prefix, path_match_policy",
                ));
            }
            Some(PathSpecifier::Prefix(text)) => PathKind::Prefix(text.into_bytes().into()),
            Some(PathSpecifier::Path(text)) => PathKind::Exact(text.into_bytes().into()),
            Some(PathSpecifier::PathSeparatedPrefix(text)) => {
                let at = path.field("path_separated_prefix");
                if text.ends_with('/') || text.contains(['?', '#']) {
                    return Err(
                        at.reject(format!("\"{text}\" must not end with / and has no query"))
                    );
                }
                PathKind::SeparatedPrefix(text.into_bytes().into())
            }
            Some(PathSpecifier::SafeRegex(proto)) => {
                let prefix = literal_prefix(&proto.regex).into_bytes().into();
                let regex = Regex::from_proto(proto, &path.field("safe_regex"))?;
                PathKind::Regex(Box::new(PathRegex { regex, prefix }))
            }
            Some(PathSpecifier::ConnectMatcher(_)) => PathKind::Connect,
            Some(PathSpecifier::PathMatchPolicy(extension)) => PathKind::Template(Box::new(
                template(extension, &path.field("path_match_policy"))?,
            )),
        };
        Ok(Self {
            kind,
            ignore_case: !case_sensitive,
        })
    }

    /// Whether `path`, without query and fragment, meets the criterion.
    #[inline]
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let begins = |prefix: &[u8]| match path.get(..prefix.len()) {
            None => false,
            Some(start) if self.ignore_case => start.eq_ignore_ascii_case(prefix),
            Some(start) => start == prefix,
        };
        match &self.kind {
            PathKind::Prefix(prefix) => begins(prefix),
            PathKind::Exact(exact) => path.len() == exact.len() && begins(exact),
            PathKind::SeparatedPrefix(prefix) => {
                begins(prefix) && path.get(prefix.len()).is_none_or(|next| *next == b'/')
            }
            PathKind::Regex(regex) => regex.regex.is_full_match(path),
            PathKind::Template(template) => template.matches(path),
            PathKind::Connect => false,
        }
    }

    /// How many leading bytes of `path` (without query) the criterion stands for: what `prefix_rewrite` replaces.
    pub(super) fn matched_len(&self, path: &[u8]) -> usize {
        match &self.kind {
            PathKind::Prefix(text) | PathKind::Exact(text) | PathKind::SeparatedPrefix(text) => {
                text.len().min(path.len())
            }
            PathKind::Regex(_) | PathKind::Template(_) | PathKind::Connect => path.len(),
        }
    }

    pub(super) fn anchor(&self) -> Anchor<'_> {
        match &self.kind {
            PathKind::Prefix(text) | PathKind::Exact(text) | PathKind::SeparatedPrefix(text) => {
                Anchor::Prefix(text)
            }
            PathKind::Regex(regex) => Anchor::Prefix(&regex.prefix),
            PathKind::Template(template) => Anchor::Prefix(template.literal_prefix()),
            PathKind::Connect => Anchor::Connect,
        }
    }

    /// Whether prefix and exact texts are compared without regard to case. Expressions never are.
    pub(super) fn folds(&self) -> bool {
        self.ignore_case
            && matches!(
                self.kind,
                PathKind::Prefix(_) | PathKind::Exact(_) | PathKind::SeparatedPrefix(_)
            )
    }

    pub(super) fn is_connect(&self) -> bool {
        matches!(self.kind, PathKind::Connect)
    }

    pub(super) fn template(&self) -> Option<&UriTemplate> {
        match &self.kind {
            PathKind::Template(template) => Some(template),
            _ => None,
        }
    }
}

pub(super) fn template(
    extension: TypedExtensionConfig,
    path: &ConfigPath<'_>,
) -> Result<UriTemplate, Rejected> {
    let (config, path) = TypedConfig::of_extension(extension, path)?;
    if config.type_name != URI_TEMPLATE {
        return Err(config.unknown(&path, &[URI_TEMPLATE]));
    }
    let UriTemplateMatchConfig { path_template } = config.decode(&path)?;
    UriTemplate::parse(&path_template).map_err(|error| {
        path.field("path_template")
            .reject(format!("\"{path_template}\" {error}"))
    })
}

/// What every text that the expression matches begins with; shorter than it could be where the expression is not plain.
fn literal_prefix(regex: &str) -> String {
    let mut prefix = String::new();
    if regex.contains('|') {
        return prefix;
    }
    for c in regex.strip_prefix('^').unwrap_or(regex).chars() {
        match c {
            // Says how often the character before it may come, which may be never.
            '*' | '?' | '{' | '+' => {
                prefix.pop();
                return prefix;
            }
            '\\' | '.' | '(' | ')' | '[' | ']' | '}' | '^' | '$' => return prefix,
            c => prefix.push(c),
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_prefix_of_an_expression_never_promises_too_much() {
        for (regex, expected) in [
            ("/a/b", "/a/b"),
            ("^/a/b$", "/a/b"),
            ("/a/.*", "/a/"),
            ("/ab*", "/a"),
            ("/ab{0,2}c", "/a"),
            ("/ab+c", "/a"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            (r"/a\d", "/a"),
            ("/é?", "/"),
        ] {
            assert_eq!(literal_prefix(regex), expected, "{regex}");
        }
    }
}
