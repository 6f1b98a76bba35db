//! Equality, order and arithmetic.

use std::cmp::Ordering;

use super::strings::join;
use super::time;
use super::value::{List, Map, Value};

/// `<` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `+` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Comparison {
    pub(super) fn parse(function: &str) -> Option<Self> {
        Some(match function {
            "_<_" => Self::Less,
            "_<=_" => Self::LessOrEqual,
            "_>_" => Self::Greater,
            "_>=_" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// None: the two have no order.
    pub(super) fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
        let order = order(left, right)?;
        // What is not a number comes neither before nor after one.
        Some(order.is_some_and(|order| match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }))
    }
}

fn order(left: &Value<'_>, right: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) | (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => {
            Some(a.cmp(b))
        }
        _ => return numbers(left, right),
    })
}

/// How two numbers compare; none: one is no number at all.
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Option<Ordering>> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    #[allow(
        clippy::cast_precision_loss,
        reason = "beside a fraction, numbers that large compare as fractions do"
    )]
    let fraction = |value: &Value<'_>| match value {
        Value::Double(number) => Some(*number),
        other => whole(other).map(|number| number as f64),
    };
    match (whole(left), whole(right)) {
        (Some(a), Some(b)) => Some(Some(a.cmp(&b))),
        _ => Some(fraction(left)?.partial_cmp(&fraction(right)?)),
    }
}

/// Whether two values are the same; those of different types are not.
pub(super) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Message(a), Value::Message(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b))
        }
        (Value::Map(a), Value::Map(b)) => equal_maps(a, b),
        _ => order(left, right) == Some(Some(Ordering::Equal)),
    }
}

fn equal_maps(left: &Map<'_>, right: &Map<'_>) -> bool {
    match (left, right) {
        (Map::Values(a), Map::Values(b)) => {
            let has = |(key, value): &(Value<'_>, Value<'_>)| {
                b.iter().any(|(k, v)| equal(key, k) && equal(value, v))
            };
            a.len() == b.len() && a.iter().all(has)
        }
        (Map::Json(a), Map::Json(b)) => a == b,
        (Map::Values(values), Map::Json(json)) | (Map::Json(json), Map::Values(values)) => {
            let has = |(key, value): &(Value<'_>, Value<'_>)| match key {
                Value::String(key) => std::str::from_utf8(key)
                    .ok()
                    .and_then(|key| json.get(key))
                    .is_some_and(|known| equal(&Value::json(known), value)),
                _ => false,
            };
            values.len() == json.len() && values.iter().all(has)
        }
        _ => false,
    }
}

/// Whether a list has a value.
pub(super) fn contains(list: &List<'_>, item: &Value<'_>) -> bool {
    list.iter().any(|known| equal(&known, item))
}

/// `-value`.
pub(super) fn negate(value: &Value<'_>) -> Option<Value<'static>> {
    match value {
        Value::Int(number) => number.checked_neg().map(Value::Int),
        Value::Double(number) => Some(Value::Double(-number)),
        _ => None,
    }
}

impl Arithmetic {
    pub(super) fn parse(function: &str) -> Option<Self> {
        Some(match function {
            "_+_" => Self::Add,
            "_-_" => Self::Subtract,
            "_*_" => Self::Multiply,
            "_/_" => Self::Divide,
            "_%_" => Self::Modulo,
            _ => return None,
        })
    }

    /// None: the two cannot be reckoned with, or what comes out has no place.
    pub(super) fn apply<'a>(
        self,
        left: Value<'a>,
        right: Value<'a>,
        joins_strings: bool,
    ) -> Option<Value<'a>> {
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => self.ints(a, b).map(Value::Int),
            (Value::Uint(a), Value::Uint(b)) => self.uints(a, b).map(Value::Uint),
            (Value::Double(a), Value::Double(b)) => self.doubles(a, b).map(Value::Double),
            (Value::String(a), Value::String(b)) if self == Self::Add && joins_strings => {
                join([&*a, &*b]).map(|text| Value::String(text.into()))
            }
            (Value::Bytes(a), Value::Bytes(b)) if self == Self::Add && joins_strings => {
                join([&*a, &*b]).map(|bytes| Value::Bytes(bytes.into()))
            }
            (Value::Duration(a), Value::Duration(b)) => self
                .times(a, b)
                .and_then(time::duration)
                .map(Value::Duration),
            (Value::Timestamp(a), Value::Duration(b)) => self
                .times(a, b)
                .and_then(time::timestamp)
                .map(Value::Timestamp),
            (Value::Duration(a), Value::Timestamp(b)) if self == Self::Add => {
                time::timestamp(a + b).map(Value::Timestamp)
            }
            (Value::Timestamp(a), Value::Timestamp(b)) if self == Self::Subtract => {
                time::duration(a - b).map(Value::Duration)
            }
            _ => None,
        }
    }

    fn ints(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Subtract => a.checked_sub(b),
            Self::Multiply => a.checked_mul(b),
            Self::Divide => a.checked_div(b),
            Self::Modulo => a.checked_rem(b),
        }
    }

    fn uints(self, a: u64, b: u64) -> Option<u64> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Subtract => a.checked_sub(b),
            Self::Multiply => a.checked_mul(b),
            Self::Divide => a.checked_div(b),
            Self::Modulo => a.checked_rem(b),
        }
    }

    fn doubles(self, a: f64, b: f64) -> Option<f64> {
        match self {
            Self::Add => Some(a + b),
            Self::Subtract => Some(a - b),
            Self::Multiply => Some(a * b),
            Self::Divide => Some(a / b),
            Self::Modulo => None,
        }
    }

    fn times(self, a: i128, b: i128) -> Option<i128> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Subtract => a.checked_sub(b),
            Self::Multiply | Self::Divide | Self::Modulo => None,
        }
    }
}
