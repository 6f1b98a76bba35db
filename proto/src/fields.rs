//! Fields of an encoded message, gathered by the schema.

use std::borrow::Cow;

use crate::schema::{Field, Kind, Message};
use crate::wire::{Malformed, WireField, WireReader, WireValue};

/// The values of one field, in the order of the wire.
pub(crate) struct Values<'a> {
    pub(crate) field: Field,
    pub(crate) values: Vec<WireValue<'a>>,
}

/// The values of every known field, by number.
pub(crate) fn collect(message: Message, bytes: &[u8]) -> Result<Vec<Values<'_>>, Malformed> {
    let mut found: Vec<Values<'_>> = Vec::new();
    for field in WireReader::new(bytes) {
        let WireField { number, value } = field?;
        if let Some(last) = found
            .last_mut()
            .filter(|last| last.field.number() == number)
        {
            last.values.push(value);
        } else if let Some(known) = found
            .iter_mut()
            .find(|known| known.field.number() == number)
        {
            known.values.push(value);
        } else if let Some(field) = message.field_by_number(number) {
            found.push(Values {
                field,
                values: vec![value],
            });
        }
    }
    found.sort_by_key(|values| values.field.number());
    Ok(found)
}

/// A message that is on the wire in several parts is the message of all parts together.
pub(crate) fn joined<'a>(values: &[WireValue<'a>]) -> Result<Cow<'a, [u8]>, Malformed> {
    let mut all = Cow::Borrowed(&[][..]);
    for value in values {
        let WireValue::Bytes(bytes) = value else {
            return Err(Malformed);
        };
        if all.is_empty() {
            all = Cow::Borrowed(*bytes);
        } else {
            all.to_mut().extend_from_slice(bytes);
        }
    }
    Ok(all)
}

/// The elements of a packed list.
pub(crate) fn unpack(
    kind: Kind,
    mut packed: &[u8],
) -> impl Iterator<Item = Result<WireValue<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if packed.is_empty() {
            return None;
        }
        let value = match kind {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => packed
                .split_first_chunk()
                .map(|(bytes, rest)| (WireValue::Fixed64(u64::from_le_bytes(*bytes)), rest)),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => packed
                .split_first_chunk()
                .map(|(bytes, rest)| (WireValue::Fixed32(u32::from_le_bytes(*bytes)), rest)),
            _ => {
                let mut rest = packed;
                crate::wire::varint(&mut rest).map(|value| (WireValue::Varint(value), rest))
            }
        };
        let Some((value, rest)) = value else {
            packed = &[];
            return Some(Err(Malformed));
        };
        packed = rest;
        Some(Ok(value))
    })
}

/// Negative 32-bit values are ten bytes on the wire; the low half counts.
pub(crate) fn int32(value: WireValue<'_>) -> Option<i32> {
    match value {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "protobuf decoders take the low half"
        )]
        WireValue::Varint(bits) => Some((bits as u32).cast_signed()),
        _ => None,
    }
}

/// The fields of an encoded `Struct` in their order: each name with its encoded value.
pub(crate) fn struct_fields(
    structure: &[u8],
) -> impl Iterator<Item = Result<(&str, &[u8]), Malformed>> {
    WireReader::new(structure).filter_map(|field| match field {
        Ok(WireField {
            number: 1,
            value: WireValue::Bytes(entry),
        }) => Some(struct_field(entry)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

fn struct_field(entry: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut key, mut value) = ("", &[][..]);
    for part in WireReader::new(entry) {
        match part? {
            WireField {
                number: 1,
                value: WireValue::Bytes(bytes),
            } => key = text(bytes)?,
            WireField {
                number: 2,
                value: WireValue::Bytes(bytes),
            } => value = bytes,
            WireField { .. } => {}
        }
    }
    Ok((key, value))
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

pub(crate) fn seconds_and_nanos(bytes: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in WireReader::new(bytes) {
        match field? {
            WireField {
                number: 1,
                value: WireValue::Varint(bits),
            } => seconds = bits.cast_signed(),
            WireField { number: 2, value } => nanos = int32(value).ok_or(Malformed)?,
            WireField { .. } => {}
        }
    }
    Ok((seconds, nanos))
}
