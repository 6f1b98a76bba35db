//! `JwtProvider`: whose tokens are good, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use pb::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use serde_json::{Map, Value};

use super::Stats;
use super::cache::CacheLimits;
use super::extract::HeaderLocation;
use super::keys::KeySet;
use super::remote::RemoteKeys;
use super::status::Fault;
use super::token::Token;
use crate::config::{ConfigPath, Rejected, data_source};
use crate::http::{HeaderName, RequestHead};
use crate::matchers::StringMatcher;
use crate::server::FactoryContext;

/// A converted `JwtProvider`.
#[derive(Debug)]
pub(super) struct Provider {
    /// Empty: any.
    pub(super) issuer: Box<str>,
    /// Without schemes and closing slashes; empty: any.
    audiences: Vec<Box<str>>,
    subjects: Option<StringMatcher>,
    /// How long a token may still live; none: as it likes.
    lifetime: Option<Lifetime>,
    forward: bool,
    pub(super) from_headers: Vec<HeaderLocation>,
    pub(super) from_params: Vec<String>,
    pub(super) from_cookies: Vec<String>,
    forward_payload_header: Option<HeaderName>,
    pad_forward_payload_header: bool,
    payload_in_metadata: Box<str>,
    space_delimited_claims: Vec<String>,
    header_in_metadata: Box<str>,
    pub(super) failed_status_in_metadata: Box<str>,
    /// Seconds.
    pub(super) clock_skew: u64,
    claim_to_headers: Vec<(HeaderName, Vec<Box<str>>)>,
    clear_route_cache: bool,
    pub(super) cache: Option<CacheLimits>,
    pub(super) keys: KeySource,
}

/// Where a provider's keys are.
#[derive(Debug)]
pub(super) enum KeySource {
    Local(KeySet),
    Remote(Arc<RemoteKeys>),
}

#[derive(Debug, Clone, Copy)]
enum Lifetime {
    Finite,
    Below(Duration),
}

/// Seconds.
const CLOCK_SKEW: u32 = 60;

impl Provider {
    pub(super) fn from_proto(
        proto: pb::JwtProvider,
        cx: &FactoryContext<'_>,
        stats: &Stats,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::JwtProvider {
            issuer,
            audiences,
            subjects,
            require_expiration,
            max_lifetime,
            forward,
            from_headers,
            from_params,
            from_cookies,
            forward_payload_header,
            pad_forward_payload_header,
            payload_in_metadata,
            normalize_payload_in_metadata,
            header_in_metadata,
            failed_status_in_metadata,
            clock_skew_seconds,
            jwt_cache_config,
            claim_to_headers,
            clear_route_cache,
            jwks_source_specifier,
        } = proto;
        let keys = path
            .required("jwks_source_specifier", jwks_source_specifier)
            .and_then(|source| KeySource::from_proto(source, cx, stats, path));
        let subjects = path.optional("subjects", subjects, StringMatcher::from_proto);
        let max_lifetime = path.duration("max_lifetime", max_lifetime);
        let from_headers = path.each("from_headers", from_headers, |header, path| {
            let pb::JwtHeader { name, value_prefix } = header;
            Ok(HeaderLocation {
                name: HeaderName::new(path.non_empty("name", name)?),
                prefix: value_prefix.into_bytes().into(),
            })
        });
        let claims = path.each("claim_to_headers", claim_to_headers, claim_to_header);
        let payload_header = match forward_payload_header.is_empty() {
            true => Ok(None),
            false => writable("forward_payload_header", forward_payload_header, path).map(Some),
        };
        let NormalizePayload {
            space_delimited_claims,
        } = normalize_payload_in_metadata.unwrap_or_default();
        let lifetime = match (max_lifetime?, require_expiration) {
            (Some(limit), _) => Some(Lifetime::Below(limit)),
            (None, true) => Some(Lifetime::Finite),
            (None, false) => None,
        };
        let skew = match clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => seconds,
        };
        Ok(Self {
            issuer: issuer.into(),
            audiences: audiences
                .iter()
                .map(|audience| plain(audience).into())
                .collect(),
            subjects: subjects?,
            lifetime,
            forward,
            from_headers: from_headers?,
            from_params,
            from_cookies,
            forward_payload_header: payload_header?,
            pad_forward_payload_header,
            payload_in_metadata: payload_in_metadata.into(),
            space_delimited_claims,
            header_in_metadata: header_in_metadata.into(),
            failed_status_in_metadata: failed_status_in_metadata.into(),
            clock_skew: skew.into(),
            claim_to_headers: claims?,
            clear_route_cache,
            cache: jwt_cache_config.map(CacheLimits::from_proto),
            keys: keys?,
        })
    }

    /// The headers that only this filter may write.
    pub(super) fn written_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.claim_to_headers.iter().map(|(name, _)| name);
        self.forward_payload_header.iter().chain(claims)
    }

    /// Whether a token is good for this provider, its signature aside. `audiences` take the place of its own.
    pub(super) fn check(
        &self,
        token: &Token,
        audiences: Option<&[Box<str>]>,
        now: u64,
    ) -> Result<(), Fault> {
        let claims = &token.claims;
        claims.check_time(now, self.clock_skew)?;
        let audiences = audiences.unwrap_or(&self.audiences);
        let allowed = |audience: &str| audiences.iter().any(|a| **a == *plain(audience));
        if !audiences.is_empty() && !claims.audiences.iter().any(|a| allowed(a)) {
            return Err(Fault::AudienceNotAllowed);
        }
        let subject = self.subjects.as_ref();
        if subject.is_some_and(|subject| !subject.matches(claims.subject.as_bytes())) {
            return Err(Fault::VerificationFail);
        }
        let short = match self.lifetime {
            None => true,
            Some(_) if claims.expires == 0 => false,
            Some(Lifetime::Finite) => true,
            Some(Lifetime::Below(limit)) => {
                Duration::from_secs(claims.expires.saturating_sub(now)) < limit
            }
        };
        if short {
            Ok(())
        } else {
            Err(Fault::VerificationFail)
        }
    }

    /// Writes what is known of a good token into the request. True: the route must be chosen again.
    pub(super) fn write_headers(&self, token: &Token, head: &mut RequestHead) -> bool {
        if let Some(name) = &self.forward_payload_header {
            let mut payload = token.payload_base64().to_owned();
            if self.pad_forward_payload_header {
                let padded = payload.len().next_multiple_of(4);
                payload.extend(std::iter::repeat_n('=', padded - payload.len()));
            }
            write(head, name, payload);
        }
        let mut added = false;
        for (name, claim) in &self.claim_to_headers {
            let text = token.claim(claim).and_then(claim_text);
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                write(head, name, text);
                added = true;
            }
        }
        self.clear_route_cache && (added || !self.payload_in_metadata.is_empty())
    }

    /// Whether a good token stays in the request.
    pub(super) fn keeps_token(&self) -> bool {
        self.forward
    }

    /// Adds what goes into the dynamic metadata.
    pub(super) fn extract(&self, token: &Token, metadata: &mut Map<String, Value>) {
        if !self.header_in_metadata.is_empty() {
            let header = Value::Object(token.header.fields.clone());
            metadata.insert(self.header_in_metadata.to_string(), header);
        }
        if self.payload_in_metadata.is_empty() {
            return;
        }
        let mut payload = token.payload().clone();
        for claim in &self.space_delimited_claims {
            if let Some(Value::String(text)) = payload.get(claim) {
                let parts = text.split(' ').filter(|part| !part.is_empty());
                let parts: Vec<Value> = parts.map(Value::from).collect();
                // Envoy leaves a text without a word as it is.
                if !parts.is_empty() {
                    payload.insert(claim.clone(), Value::Array(parts));
                }
            }
        }
        let payload = Value::Object(payload);
        metadata.insert(self.payload_in_metadata.to_string(), payload);
    }
}

impl KeySource {
    fn from_proto(
        proto: JwksSourceSpecifier,
        cx: &FactoryContext<'_>,
        stats: &Stats,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        match proto {
            JwksSourceSpecifier::LocalJwks(source) => {
                let source: core::DataSource = source;
                let path = path.field("local_jwks");
                let json = data_source(source, &path)?;
                let keys = KeySet::parse(&json);
                keys.map(Self::Local)
                    .map_err(|fault| path.reject(fault.text()))
            }
            JwksSourceSpecifier::RemoteJwks(remote) => {
                let path = path.field("remote_jwks");
                RemoteKeys::from_proto(remote, cx, stats, &path).map(Self::Remote)
            }
        }
    }
}

fn claim_to_header(
    proto: pb::JwtClaimToHeader,
    path: &ConfigPath<'_>,
) -> Result<(HeaderName, Vec<Box<str>>), Rejected> {
    let pb::JwtClaimToHeader {
        header_name,
        claim_name,
        claim_path,
    } = proto;
    let name = writable("header_name", header_name, path)?;
    let claim: Vec<Box<str>> = match (claim_name.is_empty(), claim_path.is_empty()) {
        (false, true) => claim_name.split('.').map(Into::into).collect(),
        (true, false) => path.each("claim_path", claim_path, |segment, path| {
            let pb::jwt_claim_to_header::PathSegment { key } = segment;
            path.non_empty("key", key).map(Into::into)
        })?,
        _ => return Err(path.reject("needs exactly one of claim_name and claim_path")),
    };
    Ok((name, claim))
}

/// A header that tokens may write.
fn writable(field: &str, name: String, path: &ConfigPath<'_>) -> Result<HeaderName, Rejected> {
    let name = path.non_empty(field, name)?;
    match name.starts_with(':') {
        true => Err(path.field(field).reject(format!(
            "\"{name}\" is not the name of a field, and no request could be served without it"
        ))),
        false => Ok(HeaderName::new(name)),
    }
}

/// Adds a field; that of the host is where the request goes to.
fn write(head: &mut RequestHead, name: &HeaderName, value: impl AsRef<[u8]>) {
    match name.as_str() {
        "host" => head.set_authority(value.as_ref()),
        _ => head.fields.append(name, value),
    }
}

/// A claim as a header shows it.
fn claim_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number_text(number)),
        structured => Some(STANDARD.encode(structured.to_string())),
    }
}

/// Positive whole numbers have no fraction; all others have six digits of it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked first"
)]
fn number_text(number: &serde_json::Number) -> String {
    let value = number.as_f64().unwrap_or_default();
    if value < 0.0 || value >= u64::MAX as f64 || value.fract() != 0.0 {
        return format!("{value:.6}");
    }
    (value as u64).to_string()
}

/// An audience without scheme and closing slash, so that names of services compare as they are meant.
pub(super) fn plain(audience: &str) -> &str {
    let rest = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}
