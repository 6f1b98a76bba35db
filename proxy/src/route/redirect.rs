//! `RedirectAction`: answers that send the client elsewhere.

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};

use super::path::PathCriterion;
use super::rewrite::PathRewrite;
use crate::config::{ConfigPath, Rejected};
use crate::formatter::Formatter;
use crate::http::{Known, RequestHead};
use crate::matchers::RegexRewrite;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// Sends the client to another address.
#[derive(Debug)]
pub struct RedirectAction {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<Box<str>>,
    path: Option<RedirectPath>,
    strip_query: bool,
}

#[derive(Debug)]
enum RedirectPath {
    /// Replaces the path; with a query of its own, the query as well.
    Replace(Box<str>),
    Rewrite(PathRewrite),
}

impl RedirectAction {
    /// To where the request has come already: `location` of a direct response.
    pub(super) const HERE: Self = Self {
        status: 201,
        scheme: None,
        host: None,
        port: None,
        path: None,
        strip_query: false,
    };

    pub(super) fn from_proto(
        proto: pb::RedirectAction,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = proto;
        let code = path.enumeration::<RedirectResponseCode>("response_code", response_code);
        let host = header_text("host_redirect", host_redirect, path);
        let scheme = match scheme_rewrite_specifier {
            None => Ok(None),
            Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => Ok(https.then(|| "https".into())),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
                header_text("scheme_redirect", scheme, path)
            }
        };
        let target = RedirectPath::from_proto(path_rewrite_specifier, cx, path);
        let port = path.in_range("port_redirect", port_redirect, 0..=65535);
        Ok(Self {
            status: match code? {
                RedirectResponseCode::MovedPermanently => 301,
                RedirectResponseCode::Found => 302,
                RedirectResponseCode::SeeOther => 303,
                RedirectResponseCode::TemporaryRedirect => 307,
                RedirectResponseCode::PermanentRedirect => 308,
            },
            scheme: scheme?,
            host: host?,
            port: Some(port?)
                .filter(|port| *port != 0)
                .map(|port| format!(":{port}").into()),
            path: target?,
            strip_query,
        })
    }

    /// Converts the redirect of a custom response, which neither looks at the route nor leaves everything as it is.
    pub fn of_custom_response(
        proto: pb::RedirectAction,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let unsupported = match &proto.path_rewrite_specifier {
            Some(PathRewriteSpecifier::RegexRewrite(_)) => Some("regex_rewrite"),
            Some(PathRewriteSpecifier::PrefixRewrite(_)) => Some("prefix_rewrite"),
            Some(PathRewriteSpecifier::PathRewrite(_)) => Some("path_rewrite"),
            Some(PathRewriteSpecifier::PathRedirect(_)) | None => None,
        };
        if let Some(name) = unsupported {
            let message = format!("{name} is not supported for Custom Response");
            return Err(path.field(name).reject(message));
        }
        let action = Self::from_proto(proto, cx, path)?;
        if matches!(&action.path, Some(RedirectPath::Replace(text)) if text.contains('#')) {
            let path = path.field("path_redirect");
            return Err(path.reject("#fragment is not supported for custom response"));
        }
        if action.host.is_none() && action.path.is_none() {
            return Err(path
                .reject("At least one of host_redirect and path_redirect needs to be specified"));
        }
        Ok(action)
    }

    /// Where it leads, for one that does not look at the route.
    pub fn uri(&self, head: &RequestHead, info: &StreamInfo) -> Vec<u8> {
        self.location_for(head, None, info)
    }

    /// The value of `location` for a request.
    pub(super) fn location(
        &self,
        head: &RequestHead,
        criterion: &PathCriterion,
        info: &StreamInfo,
    ) -> Vec<u8> {
        self.location_for(head, Some(criterion), info)
    }

    fn location_for(
        &self,
        head: &RequestHead,
        criterion: Option<&PathCriterion>,
        info: &StreamInfo,
    ) -> Vec<u8> {
        let scheme = match &self.scheme {
            Some(scheme) => scheme.as_bytes(),
            None => head.scheme().unwrap_or(b"http"),
        };
        let port = self.port.as_deref().unwrap_or_default().as_bytes();
        let host = match &self.host {
            Some(host) => host.as_bytes(),
            None => self.request_host(head, scheme),
        };
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        out.extend_from_slice(host);
        out.extend_from_slice(port);
        self.append_path(head, criterion, info, &mut out);
        out
    }

    fn append_path(
        &self,
        head: &RequestHead,
        criterion: Option<&PathCriterion>,
        info: &StreamInfo,
        out: &mut Vec<u8>,
    ) {
        let path = head.path().unwrap_or_default();
        let start = out.len();
        match &self.path {
            None => out.extend_from_slice(path),
            Some(RedirectPath::Replace(replacement)) => {
                out.extend_from_slice(replacement.as_bytes());
                if replacement.contains('?') {
                    // Its own query counts and stays.
                    return;
                }
                if let Some(query) = path.iter().position(|b| *b == b'?') {
                    out.extend_from_slice(&path[query..]);
                }
            }
            Some(RedirectPath::Rewrite(rewrite)) => {
                let rewritten =
                    criterion.and_then(|criterion| rewrite.rewrite(head, criterion, info));
                match rewritten {
                    Some(rewritten) => out.extend_from_slice(&rewritten),
                    None => out.extend_from_slice(path),
                }
            }
        }
        if self.strip_query
            && let Some(query) = out[start..].iter().position(|b| *b == b'?')
        {
            out.truncate(start + query);
        }
    }

    /// The authority, without its port where the redirect has one, or where the port was the default of the scheme it leaves.
    fn request_host<'a>(&self, head: &'a RequestHead, scheme: &[u8]) -> &'a [u8] {
        let host = head.authority().unwrap_or_default();
        let Some(colon) = host.iter().rposition(|b| *b == b':') else {
            return host;
        };
        if host.starts_with(b"[") && host[..colon].last() != Some(&b']') {
            return host;
        }
        let (name, port) = host.split_at(colon);
        let protocol = head.fields.get(Known::ForwardedProto).unwrap_or_default();
        let was_default = match protocol {
            b"https" => port == b":443",
            b"http" => port == b":80",
            _ => false,
        };
        if self.port.is_some() || (scheme != protocol && was_default) {
            name
        } else {
            host
        }
    }
}

/// The value of `location` where a virtual host demands TLS. The status is 301.
pub fn https_location(head: &RequestHead) -> Vec<u8> {
    [
        b"https://",
        head.authority().unwrap_or_default(),
        head.path().unwrap_or_default(),
    ]
    .concat()
}

impl RedirectPath {
    fn from_proto(
        proto: Option<PathRewriteSpecifier>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        Ok(match proto {
            None => None,
            Some(PathRewriteSpecifier::PathRedirect(text)) => {
                header_text("path_redirect", text, path)?.map(Self::Replace)
            }
            Some(PathRewriteSpecifier::PrefixRewrite(text)) => {
                header_text("prefix_rewrite", text, path)?
                    .map(|text| Self::Rewrite(PathRewrite::Prefix(text.into_boxed_bytes())))
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
                let regex = RegexRewrite::from_proto(regex, &path.field("regex_rewrite"))?;
                Some(Self::Rewrite(PathRewrite::Regex(Box::new(regex))))
            }
            Some(PathRewriteSpecifier::PathRewrite(format)) if format.is_empty() => None,
            Some(PathRewriteSpecifier::PathRewrite(format)) => {
                let at = path.field("path_rewrite");
                let formatter = Formatter::parse_omitting_empty(&format, cx, &at)?;
                Some(Self::Rewrite(PathRewrite::Format(Box::new(formatter))))
            }
        })
    }
}

/// A text that goes into a header as it is; none if it is empty.
fn header_text(
    field: &str,
    text: String,
    path: &ConfigPath<'_>,
) -> Result<Option<Box<str>>, Rejected> {
    if text.contains(['\r', '\n', '\0']) {
        return Err(path
            .field(field)
            .reject("may not contain CR, LF or NUL: it goes into a header"));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}
