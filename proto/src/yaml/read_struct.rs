//! An encoded `google.protobuf.Struct` to a tree.

use std::borrow::Cow;

use super::node::{Document, Entry, NodeId, Value};
use super::read_yaml::last_of_equal_keys;
use crate::fields::{struct_fields, text};
use crate::wire::{Malformed, WireField, WireReader, WireValue};

/// Deeper nesting is refused, so that a message cannot exhaust the stack. Protobuf decoders stop at the same depth.
const MAX_DEPTH: u32 = 100;

/// Reads an encoded `Struct`.
pub(crate) fn read(structure: &[u8]) -> Result<Document<'_>, Malformed> {
    let mut document = Document::new();
    document.root = read_struct(&mut document, structure, 0)?;
    Ok(document)
}

fn read_struct<'a>(
    document: &mut Document<'a>,
    bytes: &'a [u8],
    depth: u32,
) -> Result<NodeId, Malformed> {
    let mut entries = Vec::new();
    for field in struct_fields(bytes) {
        let (key, value) = field?;
        let value = read_value(document, value, depth + 1)?;
        entries.push(Entry {
            line: 0,
            key: Cow::Borrowed(key),
            value,
        });
    }
    add(document, Value::Map(last_of_equal_keys(entries)))
}

fn read_value<'a>(
    document: &mut Document<'a>,
    bytes: &'a [u8],
    depth: u32,
) -> Result<NodeId, Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    let mut last = None;
    for field in WireReader::new(bytes) {
        last = Some(field?);
    }
    let value = match last {
        None | Some(WireField { number: 1, .. }) => Value::Null,
        Some(WireField {
            number: 2,
            value: WireValue::Fixed64(bits),
        }) => Value::Number(Cow::Owned(number(f64::from_bits(bits)))),
        Some(WireField {
            number: 3,
            value: WireValue::Bytes(bytes),
        }) => Value::Text(Cow::Borrowed(text(bytes)?)),
        Some(WireField {
            number: 4,
            value: WireValue::Varint(flag),
        }) => Value::Bool(flag != 0),
        Some(WireField {
            number: 5,
            value: WireValue::Bytes(bytes),
        }) => return read_struct(document, bytes, depth),
        Some(WireField {
            number: 6,
            value: WireValue::Bytes(bytes),
        }) => {
            let mut items = Vec::new();
            for field in WireReader::new(bytes) {
                if let WireField {
                    number: 1,
                    value: WireValue::Bytes(item),
                } = field?
                {
                    items.push(read_value(document, item, depth + 1)?);
                }
            }
            Value::List(items)
        }
        Some(_) => return Err(Malformed),
    };
    add(document, value)
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "Infinity".to_owned()
        } else {
            "-Infinity".to_owned()
        }
    } else {
        value.to_string()
    }
}

fn add<'a>(document: &mut Document<'a>, value: Value<'a>) -> Result<NodeId, Malformed> {
    document.add(0, value).ok_or(Malformed)
}
