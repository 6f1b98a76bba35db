//! Where a session says which host it is bound to: a cookie, a header, or an envelope around a header of the upstream.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::http::stateful_session as pb;
use outrigger_proto::pb::envoy::r#type::http::v3 as http_type;
use prost::Message;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{HeaderName, Known, RequestHead, ResponseHead};
use crate::matchers::cookie_value;
use crate::stream_info::StreamInfo;

/// Envoy's own decoder takes a text with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What stands before the value of the upstream in an envelope.
const UPSTREAM_VALUE: &[u8] = b"UV:";

/// Where a session says which host it is bound to.
pub(super) enum SessionState {
    Cookie(Box<Cookie>),
    Header(HeaderName),
    Envelope(HeaderName),
}

/// A cookie with the address of a host, and when that ends to count.
pub(super) struct Cookie {
    name: Box<str>,
    /// Default zero: for as long as the client keeps it.
    ttl: Duration,
    /// Requests below it are bound. Empty or `/`: all.
    path: Box<str>,
    /// What stands behind the value.
    attributes: Box<str>,
}

/// The value of the cookie.
#[derive(Clone, PartialEq, prost::Message)]
struct CookieValue {
    #[prost(string, tag = "1")]
    address: String,
    /// In seconds since 1970; 0: never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl SessionState {
    pub(super) fn from_proto(
        proto: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        const TYPES: [&str; 3] = [
            "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
            "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
            "envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState",
        ];
        let (config, path) = TypedConfig::of_extension(proto, path)?;
        let path = &path;
        match TYPES.iter().position(|name| *name == config.type_name) {
            Some(0) => {
                let pb::cookie::v3::CookieBasedSessionState { cookie } = config.decode(path)?;
                let cookie = path.required("cookie", cookie)?;
                Cookie::from_proto(cookie, &path.field("cookie"))
                    .map(Box::new)
                    .map(Self::Cookie)
            }
            Some(1) => {
                let pb::header::v3::HeaderBasedSessionState { name } = config.decode(path)?;
                let name = path.non_empty("name", name)?;
                Ok(Self::Header(HeaderName::new(name)))
            }
            Some(2) => {
                let pb::envelope::v3::EnvelopeSessionState { header } = config.decode(path)?;
                let pb::envelope::v3::envelope_session_state::Header { name } =
                    path.required("header", header)?;
                let name = path.field("header").non_empty("name", name)?;
                Ok(Self::Envelope(HeaderName::new(name)))
            }
            _ => Err(config.unknown(path, &TYPES)),
        }
    }

    /// Whether requests like this belong to sessions.
    pub(super) fn is_for(&self, head: &RequestHead) -> bool {
        match self {
            Self::Cookie(cookie) => cookie.is_for(head.path().unwrap_or_default()),
            Self::Header(_) | Self::Envelope(_) => true,
        }
    }

    /// The address that a request is bound to. Takes the envelope off.
    pub(super) fn address(&self, head: &mut RequestHead, info: &StreamInfo) -> Option<Box<str>> {
        match self {
            Self::Cookie(cookie) => cookie.address(head, info),
            Self::Header(name) => decoded(head.fields.get(name)?),
            Self::Envelope(name) => {
                let mut parts = head.fields.get(name)?.split(|b| *b == b';');
                let mut parts = parts.by_ref().filter(|part| !part.is_empty());
                let address = decoded(parts.next()?);
                let value = parts.find_map(|part| part.strip_prefix(UPSTREAM_VALUE))?;
                let value = BASE64
                    .decode(value)
                    .ok()
                    .filter(|value| !value.is_empty())?;
                head.fields.set(name, value);
                address
            }
        }
    }

    /// Tells the client which host it is bound to; `stays` if it knows.
    pub(super) fn bind(&self, host: &str, stays: bool, head: &mut ResponseHead, info: &StreamInfo) {
        match self {
            Self::Cookie(cookie) if !stays => {
                let value = cookie.set_cookie(host, info);
                head.fields.append(Known::SetCookie, value);
            }
            Self::Header(name) if !stays => head.fields.set(name, BASE64.encode(host)),
            Self::Envelope(name) => {
                let mut values = head.fields.get_all(name);
                // Without one value of the upstream there is nothing to put into an envelope.
                let (Some(value), None) = (values.next(), values.next()) else {
                    return;
                };
                let value = format!("{};UV:{}", BASE64.encode(host), BASE64.encode(value));
                drop(values);
                head.fields.set(name, value);
            }
            Self::Cookie(_) | Self::Header(_) => {}
        }
    }
}

/// An address that a client gave; none for what is no text, or none at all.
fn decoded(value: &[u8]) -> Option<Box<str>> {
    let bytes = BASE64.decode(value).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty()).then(|| text.into())
}

impl Cookie {
    fn from_proto(proto: http_type::Cookie, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let http_type::Cookie {
            name,
            ttl,
            path: cookie_path,
            attributes,
        } = proto;
        let name = path.non_empty("name", name);
        let ttl = path.duration("ttl", ttl)?.unwrap_or_default();
        let mut text = String::new();
        if ttl.as_secs() > 0 {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !cookie_path.is_empty() {
            text.push_str(&format!("; Path={cookie_path}"));
        }
        for attribute in attributes {
            let http_type::CookieAttribute { name, value } = attribute;
            text.push_str(&match value.as_str() {
                "" => format!("; {name}"),
                value => format!("; {name}={value}"),
            });
        }
        text.push_str("; HttpOnly");
        Ok(Self {
            name: name?.into(),
            ttl: Duration::from_secs(ttl.as_secs()),
            path: cookie_path.into(),
            attributes: text.into(),
        })
    }

    fn is_for(&self, path: &[u8]) -> bool {
        match &*self.path {
            "" | "/" => true,
            own => match path.strip_prefix(own.as_bytes()) {
                Some([]) | Some([b'/' | b'?' | b'#', ..]) => true,
                Some(_) => own.ends_with('/'),
                None => false,
            },
        }
    }

    fn address(&self, head: &RequestHead, info: &StreamInfo) -> Option<Box<str>> {
        let value = cookie_value(&head.fields, self.name.as_bytes())?;
        let bytes = BASE64
            .decode(value)
            .ok()
            .filter(|bytes| !bytes.is_empty())?;
        match CookieValue::decode(&*bytes) {
            Ok(CookieValue { address, expires }) => {
                let counts = expires == 0 || expires >= seconds_now(info);
                (counts && !address.is_empty()).then(|| address.into())
            }
            // Cookies were once the address and nothing else.
            Err(_) => String::from_utf8(bytes).ok().map(Into::into),
        }
    }

    fn set_cookie(&self, host: &str, info: &StreamInfo) -> String {
        let expires = match self.ttl.as_secs() {
            0 => 0,
            ttl => seconds_now(info).saturating_add(ttl),
        };
        let value = CookieValue {
            address: host.to_owned(),
            expires,
        };
        let value = BASE64.encode(value.encode_to_vec());
        format!("{}=\"{value}\"{}", self.name, self.attributes)
    }
}

/// The wall clock, in seconds since 1970.
fn seconds_now(info: &StreamInfo) -> u64 {
    let since = info.start_time.duration_since(UNIX_EPOCH);
    (since.unwrap_or_default() + (info.now - info.start)).as_secs()
}
