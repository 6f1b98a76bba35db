//! Scalars to the wire.

use super::node::Value;
use super::scalar;
use crate::schema::{Field, Kind};
use crate::{base64, wire};

pub(super) fn put_nonzero(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        wire::put_varint_field(out, number, value);
    }
}

/// An element of a list that is written as null.
pub(super) fn put_default(field: Field, out: &mut Vec<u8>) {
    match field.kind() {
        Kind::Message(_) | Kind::String | Kind::Bytes => {
            wire::put_bytes_field(out, field.number(), &[])
        }
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
            wire::put_fixed64_field(out, field.number(), 0)
        }
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
            wire::put_fixed32_field(out, field.number(), 0)
        }
        _ => wire::put_varint_field(out, field.number(), 0),
    }
}

pub(super) fn put_scalar(value: &Value<'_>, field: Field, out: &mut Vec<u8>) -> Result<(), String> {
    let expected = |wanted: &str| format!("expected {wanted}, found {}", value.describe());
    match (field.kind(), value) {
        (Kind::String, Value::Text(text)) => {
            if !text.is_empty() || field.has_presence() || field.is_repeated() {
                wire::put_bytes_field(out, field.number(), text.as_bytes());
            }
        }
        (Kind::String, Value::Number(_) | Value::Bool(_)) => {
            return Err(format!("{}; put it in quotes", expected("a string")));
        }
        (Kind::String, _) => return Err(expected("a string")),
        (Kind::Bytes, Value::Text(text)) => {
            let bytes = base64::decode(text).ok_or_else(|| expected("base64"))?;
            if !bytes.is_empty() || field.has_presence() || field.is_repeated() {
                wire::put_bytes_field(out, field.number(), &bytes);
            }
        }
        (Kind::Bytes, _) => return Err(expected("a string of base64")),
        (Kind::Bool, Value::Bool(flag)) => put_int(out, field, i128::from(*flag)),
        (Kind::Bool, Value::Text(text)) => {
            let flag = scalar::boolean(text).ok_or_else(|| expected("true or false"))?;
            put_int(out, field, i128::from(flag));
        }
        (Kind::Bool, _) => return Err(expected("true or false")),
        (Kind::Double | Kind::Float, Value::Number(text) | Value::Text(text)) => {
            put_float(text, field, out).ok_or_else(|| expected("a number"))?
        }
        (_, Value::Number(text) | Value::Text(text)) => {
            let (min, max) = range(field.kind());
            put_int(out, field, scalar::integer(text, min, max)?);
        }
        _ => return Err(expected("a number")),
    }
    Ok(())
}

fn range(kind: Kind) -> (i128, i128) {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => (i32::MIN.into(), i32::MAX.into()),
        Kind::Uint32 | Kind::Fixed32 => (0, u32::MAX.into()),
        Kind::Uint64 | Kind::Fixed64 => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

fn put_float(text: &str, field: Field, out: &mut Vec<u8>) -> Option<()> {
    let value = scalar::float(text)?;
    let keep = value != 0.0 || field.has_presence() || field.is_repeated();
    if field.kind() == Kind::Double {
        if keep {
            wire::put_fixed64_field(out, field.number(), value.to_bits());
        }
        return Some(());
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a float field rounds; what overflows is refused below"
    )]
    let single = value as f32;
    if value.is_finite() && !single.is_finite() {
        return None;
    }
    if keep {
        wire::put_fixed32_field(out, field.number(), single.to_bits());
    }
    Some(())
}

/// Writes an integer that is in the range of the field. A default is written only where it differs from "not set".
pub(super) fn put_int(out: &mut Vec<u8>, field: Field, value: i128) {
    if value == 0 && !field.has_presence() && !field.is_repeated() {
        return;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "two's complement of a value in range is the wire form"
    )]
    let bits = value as u64;
    let number = field.number();
    match field.kind() {
        Kind::Fixed64 | Kind::Sfixed64 => wire::put_fixed64_field(out, number, bits),
        Kind::Fixed32 | Kind::Sfixed32 => {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the value fits 32 bits, so its low half says all"
            )]
            let low = bits as u32;
            wire::put_fixed32_field(out, number, low);
        }
        Kind::Sint32 | Kind::Sint64 => {
            let signed = bits.cast_signed();
            wire::put_varint_field(
                out,
                number,
                ((signed << 1) ^ (signed >> 63)).cast_unsigned(),
            );
        }
        _ => wire::put_varint_field(out, number, bits),
    }
}
