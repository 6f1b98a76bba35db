//! What an `Any` holds, both kinds of `TypedStruct` resolved.

use bytes::Bytes;
use prost::Name;

use crate::pb::google::protobuf::Any;
use crate::schema::Message;
use crate::wire::{Malformed, WireField, WireReader, WireValue};
use crate::yaml::{self, LoadError, UnknownFields};

/// Why an `Any` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnyError {
    /// It has no type URL.
    #[error("the type URL is empty")]
    NoType,
    /// A `TypedStruct` is for a message that is not known, so its fields cannot be encoded.
    #[error("no message {0} is known")]
    UnknownType(String),
    /// The bytes are no encoded message of that type.
    #[error("the value is no encoded {0}")]
    Malformed(String),
    /// It holds another message than the one asked for.
    #[error("it holds a {found}, not a {wanted}")]
    WrongType {
        /// The type in the `Any`.
        found: String,
        /// The type asked for.
        wanted: String,
    },
    /// Fields of a `TypedStruct` do not fit the message. Their paths begin at the message.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Fields(Vec<LoadError>),
}

/// The full name of the message in `any`, such as `envoy.extensions.filters.http.router.v3.Router`, and its encoding.
///
/// `udpa.type.v1.TypedStruct` and `xds.type.v3.TypedStruct` give the message that they describe; unknown fields in
/// them are errors. The type of a plain `Any` need not be known. A `google.protobuf.Struct` is returned as such: what
/// it describes depends on who asks, see [`from_struct`].
///
/// # Errors
/// There is no type URL, or a `TypedStruct` cannot be resolved.
pub fn unpack(any: &Any) -> Result<(String, Bytes), AnyError> {
    unpack_with(any, UnknownFields::Refuse)
}

/// [`unpack`], with a choice what becomes of unknown fields in a `TypedStruct`.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_with(any: &Any, unknown: UnknownFields) -> Result<(String, Bytes), AnyError> {
    let name = type_name(&any.type_url);
    match name {
        "" => Err(AnyError::NoType),
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            let (url, value) = typed_struct(&any.value)
                .map_err(|Malformed| AnyError::Malformed(name.to_owned()))?;
            let inner = type_name(url);
            match inner {
                "" => Err(AnyError::NoType),
                "google.protobuf.Struct" => Ok((inner.to_owned(), Bytes::copy_from_slice(&value))),
                _ => Ok((
                    inner.to_owned(),
                    from_struct_bytes(inner, &value, unknown)?.into(),
                )),
            }
        }
        _ => Ok((name.to_owned(), Bytes::copy_from_slice(&any.value))),
    }
}

/// The message `M` out of `any`, whether plain or in a `TypedStruct`.
///
/// # Errors
/// As [`unpack`]; or it holds another message.
pub fn decode<M: Name + Default>(any: &Any) -> Result<M, AnyError> {
    let (found, value) = unpack(any)?;
    let wanted = M::full_name();
    if found != wanted {
        return Err(AnyError::WrongType { found, wanted });
    }
    M::decode(value).map_err(|_| AnyError::Malformed(wanted))
}

/// Packs a message.
#[must_use]
pub fn pack<M: Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Encodes the message `full_name` from an encoded `google.protobuf.Struct` with its JSON form.
///
/// # Errors
/// No such message is known, or fields do not fit it.
pub fn from_struct(
    full_name: &str,
    structure: &[u8],
    unknown: UnknownFields,
) -> Result<Bytes, AnyError> {
    from_struct_bytes(full_name, structure, unknown).map(Bytes::from)
}

/// The full name of the message in a type URL: what follows the last slash.
#[must_use]
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

fn from_struct_bytes(
    full_name: &str,
    structure: &[u8],
    unknown: UnknownFields,
) -> Result<Vec<u8>, AnyError> {
    let message =
        Message::by_name(full_name).ok_or_else(|| AnyError::UnknownType(full_name.to_owned()))?;
    let encoded = yaml::encode_struct(message, structure, unknown);
    encoded
        .map_err(|Malformed| AnyError::Malformed("google.protobuf.Struct".to_owned()))?
        .map_err(AnyError::Fields)
}

/// Type URL and encoded `Struct` of a `TypedStruct`. Parts of the `Struct` add up, as protobuf wants it.
pub(crate) fn typed_struct(bytes: &[u8]) -> Result<(&str, Vec<u8>), Malformed> {
    let (mut url, mut value) = ("", Vec::new());
    for field in WireReader::new(bytes) {
        match field? {
            WireField {
                number: 1,
                value: WireValue::Bytes(bytes),
            } => url = std::str::from_utf8(bytes).map_err(|_| Malformed)?,
            WireField {
                number: 2,
                value: WireValue::Bytes(bytes),
            } => value.extend_from_slice(bytes),
            WireField { number: 1 | 2, .. } => return Err(Malformed),
            WireField { .. } => {}
        }
    }
    Ok((url, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    use crate::ours;
    use crate::pb::envoy::extensions::filters::http::router::v3::Router;
    use crate::pb::google::protobuf::value::Kind;
    use crate::pb::google::protobuf::{BoolValue, ListValue, Struct, Value};

    fn structure(fields: &[(&str, Kind)]) -> Struct {
        let fields = fields.iter().map(|(name, kind)| {
            (
                (*name).to_owned(),
                Value {
                    kind: Some(kind.clone()),
                },
            )
        });
        Struct {
            fields: fields.collect(),
        }
    }

    fn typed_structs(type_url: &str, value: &Struct) -> [Any; 2] {
        let (type_url, value) = (type_url.to_owned(), Some(value.clone()));
        let old = ours::udpa::r#type::v1::TypedStruct {
            type_url: type_url.clone(),
            value: value.clone(),
        };
        [
            pack(&old),
            pack(&ours::xds::r#type::v3::TypedStruct { type_url, value }),
        ]
    }

    #[test]
    fn a_message_comes_back_as_it_was_packed() {
        let router = Router {
            suppress_envoy_headers: true,
            ..Router::default()
        };
        let any = pack(&router);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        );
        assert_eq!(decode::<Router>(&any), Ok(router));
    }

    #[test]
    fn both_typed_structs_give_the_message_that_they_describe() {
        let checks = ListValue {
            values: vec![Value {
                kind: Some(Kind::StringValue("x-envoy-retry-on".to_owned())),
            }],
        };
        let value = structure(&[
            ("dynamic_stats", Kind::BoolValue(false)),
            ("suppressEnvoyHeaders", Kind::BoolValue(true)),
            ("strict_check_headers", Kind::ListValue(checks)),
        ]);
        for any in typed_structs(
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            &value,
        ) {
            let router: Router = decode(&any).expect("a router");
            assert_eq!(router.dynamic_stats, Some(BoolValue { value: false }));
            assert!(router.suppress_envoy_headers);
            assert_eq!(router.strict_check_headers, ["x-envoy-retry-on"]);
        }
    }

    #[test]
    fn a_typed_struct_with_a_wrong_field_names_its_path() {
        let inner = structure(&[("nam", Kind::StringValue("x".to_owned()))]);
        let value = structure(&[(
            "upstream_log",
            Kind::ListValue(ListValue {
                values: vec![Value {
                    kind: Some(Kind::StructValue(inner)),
                }],
            }),
        )]);
        for any in typed_structs(
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            &value,
        ) {
            let text = unpack(&any).expect_err("no such field").to_string();
            assert_eq!(
                text,
                "TypedStruct: upstream_log[0]: no such field \"nam\" in envoy.config.accesslog.v3.AccessLog; did you mean \"name\"?"
            );
            let (_, bytes) = unpack_with(&any, UnknownFields::Ignore).expect("passed over");
            assert_eq!(
                Router::decode(bytes).expect("a router").upstream_log.len(),
                1
            );
        }
    }

    #[test]
    fn a_typed_struct_for_an_unknown_message_is_refused() {
        for any in typed_structs("type.googleapis.com/istio.Unknown", &Struct::default()) {
            assert_eq!(
                unpack(&any),
                Err(AnyError::UnknownType("istio.Unknown".to_owned()))
            );
        }
        for any in typed_structs("", &Struct::default()) {
            assert_eq!(unpack(&any), Err(AnyError::NoType));
        }
    }

    #[test]
    fn the_wrong_message_is_refused() {
        let wrong = decode::<Router>(&pack(&Struct::default()));
        assert_eq!(
            wrong.expect_err("no router").to_string(),
            "it holds a google.protobuf.Struct, not a envoy.extensions.filters.http.router.v3.Router"
        );
        assert_eq!(unpack(&Any::default()), Err(AnyError::NoType));
        let broken = Any {
            type_url: "x/xds.type.v3.TypedStruct".to_owned(),
            value: vec![0x0a, 9],
        };
        assert_eq!(
            unpack(&broken),
            Err(AnyError::Malformed("xds.type.v3.TypedStruct".to_owned()))
        );
    }
}
