//! How a route changes path and host of a request before it goes on.

#![allow(
    deprecated,
    reason = "fields that Envoy has deprecated still stand in oneofs with others"
)]

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use outrigger_proto::pb::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use outrigger_proto::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use smallvec::SmallVec;

use super::path::PathCriterion;
use super::uri_template::UriTemplateRewrite;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{FormatData, Formatter};
use crate::http::{Known, RequestHead};
use crate::matchers::{HeaderKey, HeaderSource, RegexRewrite};
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

const URI_TEMPLATE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";

/// A path or an authority, on its way from one place of the head to another.
pub(super) type Rewritten = SmallVec<[u8; 128]>;

/// What becomes of the path. The query stays as it is.
#[derive(Debug)]
pub(super) enum PathRewrite {
    /// Replaces what the route has matched.
    Prefix(Box<[u8]>),
    Regex(Box<RegexRewrite>),
    Template(Box<UriTemplateRewrite>),
    /// Replaces the path, unless it comes out empty.
    Format(Box<Formatter>),
}

/// What becomes of the authority.
#[derive(Debug)]
pub(super) enum HostRewrite {
    Literal(Box<[u8]>),
    Header(HeaderKey),
    PathRegex(Box<RegexRewrite>),
    Format(Box<Formatter>),
    /// The host name of the chosen endpoint; the router does it.
    Auto,
}

/// The four fields of `RouteAction`, of which one may be set.
pub(super) struct PathRewriteFields {
    pub(super) prefix_rewrite: String,
    pub(super) regex_rewrite: Option<RegexMatchAndSubstitute>,
    pub(super) path_rewrite_policy: Option<TypedExtensionConfig>,
    pub(super) path_rewrite: String,
}

impl PathRewrite {
    pub(super) fn from_proto(
        fields: PathRewriteFields,
        criterion: Option<&PathCriterion>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let PathRewriteFields {
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
        } = fields;
        let set = [
            !prefix_rewrite.is_empty(),
            regex_rewrite.is_some(),
            path_rewrite_policy.is_some(),
            !path_rewrite.is_empty(),
        ];
        if set.iter().filter(|set| **set).count() > 1 {
            return Err(path.reject(
                "has more than one of prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite",
            ));
        }
        let template = criterion.and_then(PathCriterion::template);
        if !prefix_rewrite.is_empty() {
            if template.is_some() {
                return Err(path
                    .field("prefix_rewrite")
                    .reject("cannot go with path_match_policy"));
            }
            return Ok(Some(Self::Prefix(prefix_rewrite.into_bytes().into())));
        }
        if let Some(regex) = regex_rewrite {
            let regex = RegexRewrite::from_proto(regex, &path.field("regex_rewrite"))?;
            return Ok(Some(Self::Regex(Box::new(regex))));
        }
        if !path_rewrite.is_empty() {
            let formatter =
                Formatter::parse_omitting_empty(&path_rewrite, cx, &path.field("path_rewrite"))?;
            return Ok(Some(Self::Format(Box::new(formatter))));
        }
        let Some(extension) = path_rewrite_policy else {
            return Ok(None);
        };
        let path = path.field("path_rewrite_policy");
        let (config, path) = TypedConfig::of_extension(extension, &path)?;
        if config.type_name != URI_TEMPLATE {
            return Err(config.unknown(&path, &[URI_TEMPLATE]));
        }
        let UriTemplateRewriteConfig {
            path_template_rewrite,
        } = config.decode(&path)?;
        let at = path.field("path_template_rewrite");
        let Some(template) = template else {
            return Err(at.reject("needs a path_match_policy of the same kind"));
        };
        UriTemplateRewrite::parse(&path_template_rewrite, template)
            .map(|rewrite| Some(Self::Template(Box::new(rewrite))))
            .map_err(|error| at.reject(format!("\"{path_template_rewrite}\" {error}")))
    }

    /// The path and query that the request of `head` gets; none if they stay.
    pub(super) fn rewrite(
        &self,
        head: &RequestHead,
        criterion: &PathCriterion,
        info: &StreamInfo,
    ) -> Option<Rewritten> {
        let whole = head.path().unwrap_or_default();
        let path = head.path_without_query();
        let mut replaced = path.len();
        let mut out: Rewritten = match self {
            Self::Prefix(prefix) => {
                replaced = criterion.matched_len(path);
                SmallVec::from_slice(prefix)
            }
            Self::Regex(regex) => regex.replace_all(path).into(),
            Self::Template(rewrite) => rewrite.rewrite(path, criterion.template()?)?.into(),
            Self::Format(formatter) => {
                let new = render(formatter, head, info);
                if new.is_empty() {
                    return None;
                }
                new.into()
            }
        };
        out.extend_from_slice(&whole[replaced..]);
        Some(out)
    }
}

impl HostRewrite {
    pub(super) fn from_proto(
        proto: Option<HostRewriteSpecifier>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        Ok(match proto {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                Some(Self::Literal(host.into_bytes().into()))
            }
            Some(HostRewriteSpecifier::HostRewriteHeader(name)) if !name.is_empty() => {
                Some(Self::Header(HeaderKey::new(&name)))
            }
            Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if auto.value => Some(Self::Auto),
            Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
                let regex =
                    RegexRewrite::from_proto(regex, &path.field("host_rewrite_path_regex"))?;
                Some(Self::PathRegex(Box::new(regex)))
            }
            Some(HostRewriteSpecifier::HostRewrite(format)) if !format.is_empty() => {
                let at = path.field("host_rewrite");
                // Unlike for path_rewrite, Envoy prints what is missing as `-` here.
                let formatter = Formatter::parse(&format, cx, &at)?;
                Some(Self::Format(Box::new(formatter)))
            }
            _ => None,
        })
    }

    /// The authority that the request gets; none if it stays.
    pub(super) fn rewrite(&self, head: &RequestHead, info: &StreamInfo) -> Option<Rewritten> {
        let host: Rewritten = match self {
            Self::Literal(host) => SmallVec::from_slice(host),
            Self::Header(key) => SmallVec::from_slice(&head.first(key)?),
            Self::PathRegex(regex) => regex.replace_all(head.path_without_query()).into(),
            Self::Format(formatter) => render(formatter, head, info).into(),
            Self::Auto => return None,
        };
        Some(host).filter(|host| !host.is_empty())
    }
}

/// Gives a request another authority.
///
/// `append_x_forwarded_host` adds the old one to `x-forwarded-host` unless it stands last there; `keep_original` keeps it in
/// `x-envoy-original-host`.
pub fn update_authority(
    head: &mut RequestHead,
    host: &[u8],
    append_x_forwarded_host: bool,
    keep_original: bool,
) {
    let old: Rewritten = SmallVec::from_slice(head.authority().unwrap_or_default());
    if append_x_forwarded_host && !old.is_empty() {
        let known = head.fields.get(Known::ForwardedHost).unwrap_or_default();
        let last = known
            .rsplit(|b| *b == b',')
            .find(|part| !part.is_empty())
            .unwrap_or_default();
        if *last != *old {
            head.fields.append_to(Known::ForwardedHost, b",", &old);
        }
    }
    if keep_original {
        head.fields.set(Known::EnvoyOriginalHost, &old);
    }
    head.set_authority(host);
}

/// A formatter's text for a request that has no response yet.
pub(super) fn render(formatter: &Formatter, head: &RequestHead, info: &StreamInfo) -> Vec<u8> {
    let mut out = Vec::new();
    let data = FormatData::of_request(info, Some(head));
    formatter.render(&data, &mut out);
    out
}
