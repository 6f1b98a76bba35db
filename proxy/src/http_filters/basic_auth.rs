//! `envoy.filters.http.basic_auth`: lets requests pass that carry a user name and its password.
//!
//! Type URLs: `envoy.extensions.filters.http.basic_auth.v3.BasicAuth`, per route
//! `envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/basic_auth_filter>
//! Stats: `<prefix>basic_auth.{allowed,denied}`. Details: `no_credential_for_basic_auth`, `invalid_scheme_for_basic_auth`,
//! `invalid_format_for_basic_auth`, `invalid_credential_for_basic_auth`.
//! Dynamic metadata with `emit_dynamic_metadata`: `username`, in the namespace that is called as the filter.
//!
//! Deviations: none.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use outrigger_proto::ours::outrigger::patch::envoy::extensions::filters::http::basic_auth::v3 as patch;
use outrigger_proto::pb::envoy::config::core::v3::DataSource;
use outrigger_proto::pb::envoy::extensions::filters::http::basic_auth::v3 as pb;
use serde_json::{Map, Value};

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, data_source};
use crate::http::{EndStream, HeaderName, Known, RequestHead};
use crate::server::{FactoryContext, Worker};

/// Makes filters that ask for passwords.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.basic_auth";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.basic_auth.v3.BasicAuth"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        self.named_from_proto(NAME, config, cx, path)
    }

    fn named_from_proto(
        &self,
        name: &str,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let patch::BasicAuth { realm } = config.decode(path)?;
        let pb::BasicAuth {
            users,
            forward_username_header,
            authentication_header,
            allow_missing,
            emit_dynamic_metadata,
        } = config.decode(path)?;
        let header = |name: String| (!name.is_empty()).then(|| HeaderName::new(name));
        Ok(Arc::new(Config {
            users: Users::from_proto(users, path)?,
            realm: quoted(&realm),
            authentication_header: header(authentication_header),
            forward_username_header: header(forward_username_header),
            allow_missing,
            metadata_namespace: emit_dynamic_metadata.then(|| name.into()),
            stats: Stats::new(&cx.scope.scope("basic_auth.")),
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let patch::BasicAuthPerRoute { realm } = config.decode(path)?;
        let pb::BasicAuthPerRoute { users } = config.decode(path)?;
        Ok(Arc::new(PerRoute {
            users: Users::from_proto(users, path)?,
            realm: quoted(&realm),
        }))
    }
}

crate::stats_group! {
    /// What the filter decides.
    struct Stats {
        counter allowed;
        counter denied;
    }
}

struct Config {
    users: Users,
    /// What the challenge says, ready to stand between quotes; none: the URI of the request.
    realm: Option<Box<str>>,
    /// Default: `authorization`.
    authentication_header: Option<HeaderName>,
    forward_username_header: Option<HeaderName>,
    /// Requests that carry nothing of this scheme pass.
    allow_missing: bool,
    metadata_namespace: Option<Box<str>>,
    stats: Stats,
}

/// What a route says in the place of the filter.
struct PerRoute {
    users: Users,
    /// None: that of the filter.
    realm: Option<Box<str>>,
}

/// Users and the Base64 of the SHA-1 of their passwords.
struct Users(HashMap<Box<[u8]>, Box<[u8]>>);

impl Users {
    /// Reads `users`, which is a file of htpasswd.
    fn from_proto(proto: Option<DataSource>, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let source = path.required("users", proto)?;
        let path = path.field("users");
        let text = data_source(source, &path)?;
        if text.is_empty() {
            return Err(path.reject("is empty"));
        }
        let mut users = HashMap::new();
        for (index, line) in text.split(|b| *b == b'\n').enumerate() {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            // Neither names nor hashes are told to whoever reads the log.
            let wrong = |what: &str| path.reject(format!("line {}: {what}", index + 1));
            let colon = line.iter().position(|b| *b == b':');
            let colon = colon.ok_or_else(|| wrong("is not of the form username:password"))?;
            let (name, hash) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || hash.is_empty() {
                return Err(wrong("the user name or the password is empty"));
            }
            let hash = hash
                .strip_prefix(b"{SHA}")
                .ok_or_else(|| wrong("the password has to be of the format {SHA}"))?;
            if hash.len() != HASH_LENGTH {
                return Err(wrong("the SHA hash has to have 28 characters"));
            }
            if users.insert(name.into(), hash.into()).is_some() {
                return Err(wrong("the user is there already"));
            }
        }
        Ok(Self(users))
    }

    fn knows(&self, name: &[u8], password: &[u8]) -> bool {
        let Some(expected) = self.0.get(name) else {
            return false;
        };
        let mut encoded = [0; HASH_LENGTH];
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
        let written = STANDARD.encode_slice(hash.as_ref(), &mut encoded);
        written.is_ok() && verify_slices_are_equal(&encoded, expected).is_ok()
    }
}

/// A realm as it stands between quotes; none for an empty one.
fn quoted(realm: &str) -> Option<Box<str>> {
    let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
    (!escaped.is_empty()).then(|| escaped.into())
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> { Box::new(BasicAuth(config.clone())) })
    }
}

struct BasicAuth(Rc<Arc<Config>>);

/// Why a request is refused.
struct Refusal {
    details: &'static str,
    body: &'static str,
}

impl HttpFilter for BasicAuth {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let config = &*self.0;
        let route = cx.route_config::<PerRoute>();
        let value = match &config.authentication_header {
            Some(name) => head.fields.get(name),
            None => head.fields.get(Known::Authorization),
        };
        let token = value.map(|value| value.strip_prefix(b"Basic "));
        if config.allow_missing && token.flatten().is_none() {
            return HeadersStatus::Continue;
        }
        let users = route.map_or(&config.users, |route| &route.users);
        match authenticate(token, users) {
            Ok(name) => {
                if let Some(header) = &config.forward_username_header {
                    head.set_field(header, &name);
                }
                if let Some(namespace) = &config.metadata_namespace {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    let values = Map::from_iter([("username".to_owned(), Value::String(name))]);
                    cx.info.dynamic_metadata.merge(namespace, values);
                }
                config.stats.allowed().inc();
                HeadersStatus::Continue
            }
            Err(Refusal { details, body }) => {
                config.stats.denied().inc();
                let realm = route.and_then(|route| route.realm.as_deref());
                let challenge = challenge(realm.or(config.realm.as_deref()), head);
                let reply = LocalReply::new(401, details)
                    .with_body(body)
                    .with_header(HeaderName::new("www-authenticate"), challenge);
                HeadersStatus::LocalReply(reply)
            }
        }
    }
}

/// The name of the user whose name and password `token` is. It is none without a field, and `Some(None)` in another scheme.
fn authenticate(token: Option<Option<&[u8]>>, users: &Users) -> Result<Vec<u8>, Refusal> {
    let refused = |details, body| Err(Refusal { details, body });
    let token = match token {
        Some(Some(token)) => token,
        Some(None) => {
            return refused(
                "invalid_scheme_for_basic_auth",
                "User authentication failed. Expected 'Basic' authentication scheme.",
            );
        }
        None => {
            return refused(
                "no_credential_for_basic_auth",
                "User authentication failed. Missing username and password.",
            );
        }
    };
    let mut decoded = BASE64.decode(token).unwrap_or_default();
    let Some(colon) = decoded.iter().position(|b| *b == b':') else {
        return refused(
            "invalid_format_for_basic_auth",
            "User authentication failed. Invalid basic credential format.",
        );
    };
    if !users.knows(&decoded[..colon], &decoded[colon + 1..]) {
        return refused(
            "invalid_credential_for_basic_auth",
            "User authentication failed. Invalid username/password combination.",
        );
    }
    decoded.truncate(colon);
    Ok(decoded)
}

fn challenge(realm: Option<&str>, head: &RequestHead) -> Vec<u8> {
    let mut challenge = b"Basic realm=\"".to_vec();
    match realm {
        Some(realm) => challenge.extend_from_slice(realm.as_bytes()),
        None => challenge.extend_from_slice(&head.original_uri(MAX_URI_PATH)),
    }
    challenge.push(b'"');
    challenge
}

/// Bytes of a SHA-1 in Base64.
const HASH_LENGTH: usize = 28;
/// Bytes of the path that a challenge shows.
const MAX_URI_PATH: usize = 256;
/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier;

    use super::super::test_support::{Harness, errors};
    use super::*;

    /// The password is `password`.
    const USER: &str = "u:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";

    fn users(text: &str) -> Option<DataSource> {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..Default::default()
        })
    }

    fn basic(text: &str) -> pb::BasicAuth {
        pb::BasicAuth {
            users: users(text),
            ..Default::default()
        }
    }

    fn credentials(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn a_user_with_the_right_password_passes_and_is_named() {
        let config = pb::BasicAuth {
            forward_username_header: "X-User".to_owned(),
            emit_dynamic_metadata: true,
            ..basic(USER)
        };
        let harness = Harness::new(&config);
        let value = credentials("u:password");
        let mut stream = harness.stream_with(&[("authorization", &value), ("x-user", "other")]);
        assert!(stream.decode_headers(true).is_continue());
        let names: Vec<_> = stream.request.fields.get_all("x-user").collect();
        assert_eq!(names, [b"u"]);
        let name = stream.info.dynamic_metadata.value(NAME, ["username"]);
        assert_eq!(name, Some(&Value::String("u".to_owned())));
        assert_eq!(harness.stat("http.test.basic_auth.allowed"), 1);
    }

    #[test]
    fn each_fault_has_its_details_and_a_challenge() {
        let harness = Harness::new(&basic(USER));
        let bad = [
            (None, "no_credential_for_basic_auth"),
            (Some("Bearer x".to_owned()), "invalid_scheme_for_basic_auth"),
            (Some("Basic !".to_owned()), "invalid_format_for_basic_auth"),
            (Some(credentials("u")), "invalid_format_for_basic_auth"),
            (
                Some(credentials("u:x")),
                "invalid_credential_for_basic_auth",
            ),
            (
                Some(credentials("v:password")),
                "invalid_credential_for_basic_auth",
            ),
        ];
        for (value, details) in &bad {
            let field = value.as_deref().map(|value| ("authorization", value));
            let mut stream = harness.stream_with(field.as_slice());
            let reply = stream.decode_headers(true).reply();
            assert_eq!((reply.status, &*reply.details), (401, *details));
            let challenge = reply.header("www-authenticate");
            assert_eq!(challenge, Some("Basic realm=\"http://example.com/\""));
        }
        assert_eq!(harness.stat("http.test.basic_auth.denied"), 6);
    }

    #[test]
    fn what_is_missing_passes_where_that_is_allowed_but_a_wrong_password_does_not() {
        let config = pb::BasicAuth {
            allow_missing: true,
            authentication_header: "X-Auth".to_owned(),
            ..basic(USER)
        };
        let harness = Harness::new(&config);
        assert!(harness.stream().decode_headers(true).is_continue());
        let mut bearer = harness.stream_with(&[("x-auth", "Bearer x")]);
        assert!(bearer.decode_headers(true).is_continue());
        let value = credentials("u:x");
        let mut wrong = harness.stream_with(&[("x-auth", &value)]);
        assert_eq!(wrong.decode_headers(true).reply().status, 401);
    }

    #[test]
    fn a_route_has_users_of_its_own() {
        let route = pb::BasicAuthPerRoute {
            users: users(&USER.replace("u:", "v:")),
        };
        let harness = Harness::with_route(&basic(USER), &route);
        let (own, other) = (credentials("v:password"), credentials("u:password"));
        let mut own = harness.stream_with(&[("authorization", &own)]);
        assert!(own.decode_headers(true).is_continue());
        let mut other = harness.stream_with(&[("authorization", &other)]);
        assert_eq!(other.decode_headers(true).reply().status, 401);
    }

    #[test]
    fn a_file_of_another_form_is_refused_without_being_shown() {
        let bad = [
            ("u", "line 1: is not of the form username:password"),
            ("#\n\n:x", "line 3: the user name or the password is empty"),
            (
                "u:secret",
                "line 1: the password has to be of the format {SHA}",
            ),
            ("u:{SHA}x", "line 1: the SHA hash has to have 28 characters"),
        ];
        for (text, error) in bad {
            assert_eq!(errors(&basic(text)), [format!("config / users: {error}")]);
        }
        let twice = format!("{USER}\n{USER}");
        assert_eq!(
            errors(&basic(&twice)),
            ["config / users: line 2: the user is there already"]
        );
        assert_eq!(
            errors(&pb::BasicAuth::default()),
            ["config / users: is required"]
        );
    }
}
