//! Messages of `google.protobuf` that expressions make, such as `google.protobuf.Duration{seconds: 1}`. The language has
//! values of its own for them, and knows no message afterwards.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::functions::list;
use super::time;
use super::value::{Map, Value};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WellKnown {
    Duration,
    Timestamp,
    Bool,
    Bytes,
    String,
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Value,
    Struct,
    List,
}

/// Beyond it a number is no exact fraction, and texts stand for it in JSON.
const MAX_EXACT: u64 = (1 << 53) - 1;

impl WellKnown {
    /// By its full name, with a leading dot or without.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let name = name.trim_start_matches('.');
        Some(match name.strip_prefix("google.protobuf.")? {
            "Duration" => Self::Duration,
            "Timestamp" => Self::Timestamp,
            "BoolValue" => Self::Bool,
            "BytesValue" => Self::Bytes,
            "StringValue" => Self::String,
            "DoubleValue" => Self::Double,
            "FloatValue" => Self::Float,
            "Int32Value" => Self::Int32,
            "Int64Value" => Self::Int64,
            "UInt32Value" => Self::Uint32,
            "UInt64Value" => Self::Uint64,
            "Value" => Self::Value,
            "Struct" => Self::Struct,
            "ListValue" => Self::List,
            _ => return None,
        })
    }

    /// The field of this name, as the name that lives as long as the program.
    pub(super) fn field(self, name: &str) -> Option<&'static str> {
        let known: &[&'static str] = match self {
            Self::Duration | Self::Timestamp => &["seconds", "nanos"],
            Self::Value => &[
                "null_value",
                "number_value",
                "string_value",
                "bool_value",
                "struct_value",
                "list_value",
            ],
            Self::Struct => &["fields"],
            Self::List => &["values"],
            _ => &["value"],
        };
        known.iter().find(|known| **known == name).copied()
    }

    /// The value of a message with these fields, the last one of a name; none where one is of the wrong type.
    pub(super) fn make<'a>(self, fields: &[(&'static str, Value<'a>)]) -> Option<Value<'a>> {
        let last = |name| {
            let mut values = fields.iter().rev();
            values
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value)
        };
        Some(match self {
            Self::Duration => {
                Value::Duration(time::duration(nanos(last("seconds"), last("nanos"))?)?)
            }
            Self::Timestamp => {
                Value::Timestamp(time::timestamp(nanos(last("seconds"), last("nanos"))?)?)
            }
            Self::Value => {
                for (name, value) in fields {
                    of_value(name, value)?;
                }
                match fields.last() {
                    Some((name, value)) => of_value(name, value)?,
                    None => Value::Null,
                }
            }
            Self::Struct => match last("fields") {
                Some(fields) => json_map(fields)?,
                None => Value::Map(Map::Empty),
            },
            Self::List => match last("values") {
                Some(values) => json_list(values)?,
                None => list(Vec::new()),
            },
            scalar => scalar.scalar(last("value"))?,
        })
    }

    fn scalar<'a>(self, value: Option<&Value<'a>>) -> Option<Value<'a>> {
        let Some(value) = value else {
            return Some(match self {
                Self::Bool => Value::Bool(false),
                Self::Bytes => Value::Bytes(b""[..].into()),
                Self::String => Value::text(""),
                Self::Double | Self::Float => Value::Double(0.0),
                Self::Uint32 | Self::Uint64 => Value::Uint(0),
                _ => Value::Int(0),
            });
        };
        let fits = match (self, value) {
            (Self::Bool, Value::Bool(_))
            | (Self::Bytes, Value::Bytes(_))
            | (Self::String, Value::String(_))
            | (Self::Double, Value::Double(_))
            | (Self::Int64, Value::Int(_))
            | (Self::Uint64, Value::Uint(_)) => true,
            (Self::Int32, Value::Int(number)) => i32::try_from(*number).is_ok(),
            (Self::Uint32, Value::Uint(number)) => u32::try_from(*number).is_ok(),
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the message has no more digits"
            )]
            (Self::Float, Value::Double(number)) => {
                return Some(Value::Double(f64::from(*number as f32)));
            }
            _ => false,
        };
        fits.then(|| value.clone())
    }
}

fn nanos(seconds: Option<&Value<'_>>, nanos: Option<&Value<'_>>) -> Option<i128> {
    let number = |value: Option<&Value<'_>>| match value {
        None => Some(0),
        Some(Value::Int(number)) => Some(*number),
        Some(_) => None,
    };
    let nanos = i32::try_from(number(nanos)?).ok()?;
    Some(i128::from(number(seconds)?) * 1_000_000_000 + i128::from(nanos))
}

/// `google.protobuf.Value` with one of its fields.
fn of_value<'a>(name: &str, value: &Value<'a>) -> Option<Value<'a>> {
    match (name, value) {
        ("null_value", Value::Int(_)) => Some(Value::Null),
        ("number_value", Value::Double(_))
        | ("string_value", Value::String(_))
        | ("bool_value", Value::Bool(_)) => Some(value.clone()),
        ("struct_value", value) => json_map(value),
        ("list_value", value) => json_list(value),
        _ => None,
    }
}

fn json_map<'a>(value: &Value<'a>) -> Option<Value<'a>> {
    let Value::Map(map) = value else { return None };
    let entries = map.entries()?.into_iter().map(|(key, value)| match key {
        Value::String(_) => Some((key, json(&value)?)),
        _ => None,
    });
    let entries: Option<Vec<_>> = entries.collect();
    Some(Value::Map(Map::Values(entries?.into())))
}

fn json_list<'a>(value: &Value<'a>) -> Option<Value<'a>> {
    let Value::List(items) = value else {
        return None;
    };
    let items: Option<Vec<_>> = items.iter().map(|item| json(&item)).collect();
    items.map(list)
}

/// What is left of a value in JSON.
#[allow(clippy::cast_precision_loss, reason = "the range is looked at first")]
fn json<'a>(value: &Value<'a>) -> Option<Value<'a>> {
    Some(match value {
        Value::Null | Value::Bool(_) | Value::Double(_) | Value::String(_) => value.clone(),
        Value::Int(number) if number.unsigned_abs() <= MAX_EXACT => Value::Double(*number as f64),
        Value::Int(number) => Value::owned(number.to_string()),
        Value::Uint(number) if *number <= MAX_EXACT => Value::Double(*number as f64),
        Value::Uint(number) => Value::owned(number.to_string()),
        Value::Bytes(bytes) => Value::owned(STANDARD.encode(bytes)),
        Value::Duration(nanos) => Value::owned(time::json_duration(*nanos)),
        Value::Timestamp(nanos) => Value::owned(time::json_timestamp(*nanos)),
        Value::List(_) => json_list(value)?,
        Value::Map(_) => json_map(value)?,
        Value::Type(_) | Value::Message(_) => return None,
    })
}
