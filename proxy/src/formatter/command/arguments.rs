//! What stands in the brackets of a command, and the names that say whose address or time is meant.

use serde_json::Value;

use super::super::operator::{AddressPart, End, HeaderRef, Operator, Point};
use super::{Command, Extensions};
use crate::http::HeaderName;
use crate::http::syntax::is_token;

/// Reads `:max%` or `%`.
pub(super) fn read_end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    let legal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let max = legal.then(|| digits.parse().ok()).flatten()?;
    Some((Some(max), after))
}

pub(super) fn coalesced(entry: &Value) -> Result<Operator, String> {
    let (name, argument, max) = match entry {
        Value::String(name) => (name.as_str(), "", None),
        Value::Object(fields) => {
            let text = |key: &str| match fields.get(key) {
                None => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.as_str())),
                Some(_) => Err(format!("'{key}' field must be a string")),
            };
            let name = text("command")?.ok_or("operator object must have 'command' field")?;
            let max = match fields.get("max_length") {
                None => None,
                Some(value) => {
                    let value = value
                        .as_i64()
                        .ok_or("'max_length' field must be an integer")?;
                    let positive = usize::try_from(value).ok().filter(|value| *value > 0);
                    Some(positive.ok_or("'max_length' must be a positive integer")?)
                }
            };
            (name, text("param")?.unwrap_or_default(), max)
        }
        _ => {
            return Err(
                "operator entry must be either a string (command name) or an object with 'command' field"
                    .to_owned(),
            );
        }
    };
    if name == "COALESCE" {
        // Envoy differs: it allows a COALESCE in a COALESCE, to any depth.
        return Err("COALESCE cannot stand in a COALESCE".to_owned());
    }
    Command {
        name,
        argument,
        max,
    }
    .operator(Extensions::default())?
    .ok_or_else(|| format!("unknown command: '{name}'"))
}

/// A header name that may stand in a format, `:path` and its kin included.
pub(super) fn header_ref(name: &str) -> Option<HeaderRef> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        ":method" => HeaderRef::Method,
        ":path" => HeaderRef::Path,
        // Both are one thing in a head.
        ":authority" | "host" => HeaderRef::Authority,
        ":scheme" => HeaderRef::Scheme,
        ":protocol" => HeaderRef::Protocol,
        ":status" => HeaderRef::Status,
        _ => {
            let token = name.strip_prefix(':').unwrap_or(&name);
            let legal = token.bytes().all(is_token);
            return legal.then(|| HeaderRef::Field(HeaderName::new(&name)));
        }
    })
}

pub(super) fn point(name: &str) -> Point {
    match name {
        "DS_RX_BEG" => Point::Start,
        "DS_RX_END" => Point::LastDownstreamRx,
        "US_CX_BEG" => Point::ConnectStart,
        "US_CX_END" => Point::ConnectEnd,
        "US_TX_BEG" => Point::FirstUpstreamTx,
        "US_TX_END" => Point::LastUpstreamTx,
        "US_RX_BEG" => Point::FirstUpstreamRx,
        "US_RX_BODY_BEG" => Point::FirstUpstreamRxBody,
        "US_RX_END" => Point::LastUpstreamRx,
        "DS_TX_BEG" => Point::FirstDownstreamTx,
        "DS_TX_END" => Point::LastDownstreamTx,
        _ => Point::Never,
    }
}

/// The end of a connection that a command names, and whether it wants the address alone (which may be masked).
pub(super) fn address(name: &str) -> Option<(End, bool)> {
    let (name, masked) = match name.strip_suffix("_WITHOUT_PORT") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let end = match name {
        "DOWNSTREAM_REMOTE_ADDRESS" => End::Remote,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => End::DirectRemote,
        "DOWNSTREAM_LOCAL_ADDRESS" => End::Local,
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => End::DirectLocal,
        "UPSTREAM_REMOTE_ADDRESS" => End::UpstreamRemote,
        "UPSTREAM_LOCAL_ADDRESS" => End::UpstreamLocal,
        "UPSTREAM_HOST" if !masked => End::UpstreamHost,
        _ => return None,
    };
    Some((end, masked))
}

/// The length of a network. What is none leaves the address as it is, as in Envoy.
pub(super) fn mask(argument: &str) -> AddressPart {
    match argument.trim().parse::<i32>() {
        Err(_) => AddressPart::Ip,
        Ok(0..) if argument.is_empty() => AddressPart::Ip,
        Ok(bits) => match u8::try_from(bits) {
            Ok(bits) => AddressPart::Network(bits),
            Err(_) if bits < 0 => AddressPart::Nothing,
            Err(_) => AddressPart::Network(u8::MAX),
        },
    }
}
