//! `RouteAction.hash_policy`: the number by which ring hash and Maglev choose a host.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto#config-route-v3-routeaction-hashpolicy>
//!
//! A cookie that was made is sent with the response when a load balancer asked for the hash.
//! Deviations: none.

use std::io::Write;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::route::v3::route_action as pb;
use pb::hash_policy::PolicySpecifier;
use smallvec::SmallVec;

use crate::config::{ConfigPath, Rejected};
use crate::http::RequestHead;
use crate::matchers::{HeaderKey, HeaderSource, RegexRewrite, cookie_value, first_query_value};
use crate::stream_info::StreamInfo;
use crate::xx_hash::xx_hash64;

/// All hash policies of a route.
#[derive(Debug)]
pub struct HashPolicy {
    methods: Box<[Method]>,
}

/// A cookie that the response must set, so that the client comes back to the same host.
#[derive(Debug, PartialEq, Eq)]
pub struct NewCookie {
    /// The whole value of `set-cookie`.
    pub set_cookie: String,
}

#[derive(Debug)]
struct Method {
    input: Input,
    /// Ends the evaluation if there is a hash by now.
    terminal: bool,
}

#[derive(Debug)]
enum Input {
    Header(HeaderKey, Option<RegexRewrite>),
    Cookie(Cookie),
    SourceIp,
    QueryParameter(Box<str>),
    FilterState(Box<str>),
    /// `connection_properties` that asks for nothing.
    Nothing,
}

#[derive(Debug)]
struct Cookie {
    name: Box<str>,
    /// None: the cookie is never made. Zero: it lives as long as the client's session.
    ttl: Option<Duration>,
    path: Box<str>,
    attributes: Box<[(Box<str>, Box<str>)]>,
}

impl HashPolicy {
    pub(crate) fn from_proto(
        protos: Vec<pb::HashPolicy>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let methods = path.each("hash_policy", protos, Method::from_proto)?;
        Ok((!methods.is_empty()).then(|| Self {
            methods: methods.into(),
        }))
    }

    /// The hash of a request; none if nothing that the policies look at is there.
    ///
    /// Where a policy makes a missing cookie, `new_cookies` gets it; without that list the cookie counts as missing.
    pub fn hash(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        mut new_cookies: Option<&mut Vec<NewCookie>>,
    ) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for method in &self.methods {
            if let Some(new) = method.input.hash(head, info, new_cookies.as_deref_mut()) {
                // Turned by one bit, so that a policy that stands twice does not cancel itself.
                hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if method.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl Method {
    fn from_proto(proto: pb::HashPolicy, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::HashPolicy {
            terminal,
            policy_specifier,
        } = proto;
        let input = match policy_specifier {
            None => Err(path.reject(
                "needs one of header, cookie, connection_properties, query_parameter, filter_state",
            )),
            Some(PolicySpecifier::Header(pb::hash_policy::Header {
                header_name,
                regex_rewrite,
            })) => {
                let path = path.field("header");
                let name = path.non_empty("header_name", header_name);
                let rewrite =
                    path.optional("regex_rewrite", regex_rewrite, RegexRewrite::from_proto);
                Ok(Input::Header(HeaderKey::new(&name?), rewrite?))
            }
            Some(PolicySpecifier::Cookie(cookie)) => {
                Cookie::from_proto(cookie, &path.field("cookie")).map(Input::Cookie)
            }
            Some(PolicySpecifier::ConnectionProperties(
                pb::hash_policy::ConnectionProperties { source_ip },
            )) => Ok(if source_ip {
                Input::SourceIp
            } else {
                Input::Nothing
            }),
            Some(PolicySpecifier::QueryParameter(pb::hash_policy::QueryParameter { name })) => path
                .field("query_parameter")
                .non_empty("name", name)
                .map(|name| Input::QueryParameter(name.into())),
            Some(PolicySpecifier::FilterState(pb::hash_policy::FilterState { key })) => path
                .field("filter_state")
                .non_empty("key", key)
                .map(|key| Input::FilterState(key.into())),
        };
        Ok(Self {
            input: input?,
            terminal,
        })
    }
}

impl Input {
    fn hash(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        new_cookies: Option<&mut Vec<NewCookie>>,
    ) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Header(key, rewrite) => header_hash(head, key, rewrite.as_ref()),
            Self::SourceIp => {
                let ip = info.remote_address().ip()?;
                let mut text = [0; 48];
                let mut rest = &mut text[..];
                write!(rest, "{ip}").ok()?;
                let len = 48 - rest.len();
                Some(xx_hash64(&text[..len], 0))
            }
            Self::QueryParameter(name) => {
                let value = first_query_value(head.path()?, name.as_bytes())?;
                Some(xx_hash64(value, 0))
            }
            Self::FilterState(key) => {
                let connection = info.connection.filter_state.borrow();
                let object = info.filter_state.get(key).or_else(|| connection.get(key))?;
                object.hash()
            }
            Self::Cookie(cookie) => {
                let value = cookie_value(&head.fields, cookie.name.as_bytes()).unwrap_or_default();
                if !value.is_empty() {
                    return Some(xx_hash64(value, 0));
                }
                let (ttl, new_cookies) = (cookie.ttl?, new_cookies?);
                let value = cookie.make(info);
                new_cookies.push(NewCookie {
                    set_cookie: cookie.set_cookie(&value, ttl),
                });
                Some(xx_hash64(value.as_bytes(), 0))
            }
        }
    }
}

/// The order of several values of a header makes no difference.
fn header_hash(head: &RequestHead, key: &HeaderKey, rewrite: Option<&RegexRewrite>) -> Option<u64> {
    let HeaderKey::Field(name) = key else {
        let value = head.first(key)?;
        return Some(match rewrite {
            Some(rewrite) => xx_hash64(&rewrite.replace_all(&value), 0),
            None => xx_hash64(&value, 0),
        });
    };
    let first = head.fields.get(name)?;
    let several = head.fields.get_all(name).nth(1).is_some();
    match (rewrite, several) {
        (None, false) => Some(xx_hash64(first, 0)),
        (Some(rewrite), false) => Some(xx_hash64(&rewrite.replace_all(first), 0)),
        (rewrite, true) => {
            let mut values: SmallVec<[Vec<u8>; 4]> = head
                .fields
                .get_all(name)
                .map(|value| rewrite.map_or_else(|| value.to_vec(), |r| r.replace_all(value)))
                .collect();
            values.sort();
            Some(xx_hash64(&values.concat(), 0))
        }
    }
}

impl Cookie {
    fn from_proto(proto: pb::hash_policy::Cookie, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::hash_policy::Cookie {
            name,
            ttl,
            path: cookie_path,
            attributes,
        } = proto;
        let name = path.non_empty("name", name);
        let ttl = path.duration("ttl", ttl);
        Ok(Self {
            name: name?.into(),
            ttl: ttl?,
            path: cookie_path.into(),
            attributes: attributes
                .into_iter()
                .map(|pb::hash_policy::CookieAttribute { name, value }| (name.into(), value.into()))
                .collect(),
        })
    }

    /// A value that all streams of a connection agree on.
    fn make(&self, info: &StreamInfo) -> String {
        let text = format!("{}{}", info.remote_address(), info.connection.local_address);
        format!("{:016x}", xx_hash64(text.as_bytes(), 0))
    }

    fn set_cookie(&self, value: &str, ttl: Duration) -> String {
        let mut text = format!("{}=\"{value}\"", self.name);
        if ttl.as_secs() > 0 {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !self.path.is_empty() {
            text.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            text.push_str("; ");
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.push_str(value);
            }
        }
        text.push_str("; HttpOnly");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{head, info};
    use super::*;

    fn policy(inputs: Vec<(Input, bool)>) -> HashPolicy {
        let method = |(input, terminal)| Method { input, terminal };
        HashPolicy {
            methods: inputs.into_iter().map(method).collect(),
        }
    }

    fn header(name: &str) -> Input {
        Input::Header(HeaderKey::new(name), None)
    }

    #[test]
    fn hashes_are_joined_and_a_terminal_policy_ends_the_evaluation() {
        let mut head = head("GET", "a", "/");
        head.fields.append("x-a", "foo");
        head.fields.append("x-b", "abc");
        let info = info();
        let (a, b) = (xx_hash64(b"foo", 0), xx_hash64(b"abc", 0));
        let hash = |inputs| policy(inputs).hash(&head, &info, None);
        assert_eq!(hash(vec![(header("x-a"), false)]), Some(a));
        assert_eq!(
            hash(vec![(header("x-a"), false), (header("x-b"), false)]),
            Some(a.rotate_left(1) ^ b)
        );
        assert_eq!(
            hash(vec![(header("x-a"), true), (header("x-b"), false)]),
            Some(a)
        );
        assert_eq!(
            hash(vec![(header("x-c"), true), (header("x-b"), false)]),
            Some(b)
        );
        assert_eq!(hash(vec![(header("x-c"), true)]), None);
    }

    #[test]
    fn the_order_of_repeated_headers_makes_no_difference() {
        let info = info();
        let hash = |values: [&str; 2]| {
            let mut head = head("GET", "a", "/");
            for value in values {
                head.fields.append("x-a", value);
            }
            policy(vec![(header("x-a"), false)]).hash(&head, &info, None)
        };
        assert_eq!(hash(["foo", "bar"]), hash(["bar", "foo"]));
        assert_eq!(hash(["foo", "bar"]), Some(xx_hash64(b"barfoo", 0)));
    }

    #[test]
    fn the_source_address_is_hashed_as_text_without_its_port() {
        let policy = policy(vec![(Input::SourceIp, false)]);
        let hash = policy.hash(&head("GET", "a", "/"), &info(), None);
        assert_eq!(hash, Some(xx_hash64(b"10.1.2.3", 0)));
    }

    #[test]
    fn a_missing_cookie_is_made_when_it_has_a_lifetime() {
        let cookie = |ttl| {
            policy(vec![(
                Input::Cookie(Cookie {
                    name: "k".into(),
                    ttl,
                    path: "/p".into(),
                    attributes: [
                        ("SameSite".into(), "Lax".into()),
                        ("Secure".into(), "".into()),
                    ]
                    .into(),
                }),
                false,
            )])
        };
        let (head, info) = (head("GET", "a", "/"), info());
        let mut made = Vec::new();
        assert_eq!(cookie(None).hash(&head, &info, Some(&mut made)), None);
        assert!(made.is_empty());
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(cookie(hour).hash(&head, &info, None), None);
        assert!(cookie(hour).hash(&head, &info, Some(&mut made)).is_some());
        let text = &made[0].set_cookie;
        assert!(text.starts_with("k=\""), "{text}");
        assert!(
            text.ends_with("\"; Max-Age=3600; Path=/p; SameSite=Lax; Secure; HttpOnly"),
            "{text}"
        );
    }
}
