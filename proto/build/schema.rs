//! Writes the schema: descriptors and rules as tables that are read in place. `src/schema.rs` reads it and says what
//! each record holds; the two change together.

use std::collections::HashMap;
use std::error::Error;

use crate::descriptor::{EnumType, FileSet, MessageType, Oneof};

const VALIDATE_RULES: u32 = 1071;
const VALIDATE_MESSAGE_DISABLED: u32 = 1071;
const VALIDATE_MESSAGE_IGNORED: u32 = 1072;
const VALIDATE_ONEOF_REQUIRED: u32 = 1071;
/// `google.protobuf.FieldOptions.deprecated`; `EnumValueOptions.deprecated` is 1.
const FIELD_DEPRECATED: u32 = 3;
const VALUE_DEPRECATED: u32 = 1;
const MESSAGE_MAP_ENTRY: u32 = 7;
/// `envoy.annotations.disallowed_by_default` of fields, and `disallowed_by_default_enum` of enum values.
const FIELD_DISALLOWED: u32 = 189_503_207;
/// `udpa.annotations.sensitive`.
const FIELD_SENSITIVE: u32 = 76_569_463;
const VALUE_DISALLOWED: u32 = 70_100_853;

const TYPE_MESSAGE: i32 = 11;
const TYPE_ENUM: i32 = 14;
const NONE: u16 = u16::MAX;

struct Message<'a> {
    name: String,
    proto3: bool,
    message: &'a MessageType,
}

#[derive(Default)]
struct Tables {
    strings: Vec<u8>,
    known_strings: HashMap<String, u32>,
    rules: Vec<u8>,
    known_rules: HashMap<Vec<u8>, u32>,
    messages: Vec<u8>,
    fields: Vec<u8>,
    field_count: u32,
    oneofs: Vec<u8>,
    oneof_count: u32,
    enums: Vec<u8>,
    values: Vec<u8>,
    value_count: u32,
}

/// The whole schema, encoded.
pub(crate) fn build(set: &FileSet) -> Result<Vec<u8>, Box<dyn Error>> {
    let (messages, enums) = collect(set);
    let message_index: HashMap<&str, u32> =
        index(messages.iter().map(|message| message.name.as_str()))?;
    let enum_index: HashMap<&str, u32> = index(enums.iter().map(|(name, _)| name.as_str()))?;
    let mut tables = Tables::default();
    for message in &messages {
        tables.add_message(message, &message_index, &enum_index)?;
    }
    for (name, kind) in &enums {
        tables.add_enum(name, kind)?;
    }
    tables.finish(u32::try_from(messages.len())?, u32::try_from(enums.len())?)
}

fn index<'a>(
    names: impl Iterator<Item = &'a str>,
) -> Result<HashMap<&'a str, u32>, Box<dyn Error>> {
    names
        .enumerate()
        .map(|(index, name)| Ok((name, u32::try_from(index)?)))
        .collect()
}

/// All messages and enums, sorted by name.
fn collect(set: &FileSet) -> (Vec<Message<'_>>, Vec<(String, &EnumType)>) {
    fn visit<'a>(
        name: String,
        proto3: bool,
        message: &'a MessageType,
        messages: &mut Vec<Message<'a>>,
        enums: &mut Vec<(String, &'a EnumType)>,
    ) {
        for nested in &message.nested {
            visit(
                format!("{name}.{}", nested.name),
                proto3,
                nested,
                messages,
                enums,
            );
        }
        enums.extend(
            message
                .enums
                .iter()
                .map(|kind| (format!("{name}.{}", kind.name), kind)),
        );
        messages.push(Message {
            name,
            proto3,
            message,
        });
    }
    let (mut messages, mut enums) = (Vec::new(), Vec::new());
    for file in &set.file {
        for message in &file.messages {
            visit(
                file.qualify(&message.name),
                file.syntax == "proto3",
                message,
                &mut messages,
                &mut enums,
            );
        }
        enums.extend(
            file.enums
                .iter()
                .map(|kind| (file.qualify(&kind.name), kind)),
        );
    }
    messages.sort_by(|left, right| left.name.cmp(&right.name));
    messages.dedup_by(|left, right| left.name == right.name);
    enums.sort_by(|left, right| left.0.cmp(&right.0));
    enums.dedup_by(|left, right| left.0 == right.0);
    (messages, enums)
}

impl Tables {
    fn add_message(
        &mut self,
        message: &Message<'_>,
        messages: &HashMap<&str, u32>,
        enums: &HashMap<&str, u32>,
    ) -> Result<(), Box<dyn Error>> {
        let options = &message.message.options;
        let flags = flag(1, is_true(options, MESSAGE_MAP_ENTRY))
            | flag(2, is_true(options, VALIDATE_MESSAGE_DISABLED))
            | flag(4, is_true(options, VALIDATE_MESSAGE_IGNORED));
        let name = self.string(&message.name)?;
        push_u32(
            &mut self.messages,
            &[name, self.field_count, self.oneof_count],
        );
        push_u16(
            &mut self.messages,
            &[
                u16::try_from(message.name.len())?,
                u16::try_from(message.message.fields.len())?,
            ],
        );
        push_u16(
            &mut self.messages,
            &[
                u16::try_from(message.message.oneofs.len())?,
                u16::from(flags),
            ],
        );
        for Oneof { name, options } in &message.message.oneofs {
            let at = self.string(name)?;
            push_u32(&mut self.oneofs, &[at]);
            push_u16(
                &mut self.oneofs,
                &[
                    u16::try_from(name.len())?,
                    u16::from(is_true(options, VALIDATE_ONEOF_REQUIRED)),
                ],
            );
            self.oneof_count += 1;
        }
        let mut fields: Vec<_> = message.message.fields.iter().collect();
        fields.sort_by_key(|field| field.number);
        for field in fields {
            let type_name = field.type_name.trim_start_matches('.');
            let type_index = match field.kind {
                TYPE_MESSAGE => *messages
                    .get(type_name)
                    .ok_or_else(|| format!("no message {type_name}"))?,
                TYPE_ENUM => *enums
                    .get(type_name)
                    .ok_or_else(|| format!("no enum {type_name}"))?,
                _ => 0,
            };
            let rules = rules_of(&field.options)?;
            let presence = !message.proto3
                || field.proto3_optional
                || field.oneof.is_some()
                || field.kind == TYPE_MESSAGE;
            let flags = flag(1, field.label == 3)
                | flag(2, presence && field.label != 3)
                | flag(4, is_true(&field.options, FIELD_DEPRECATED))
                | flag(8, is_true(&field.options, FIELD_DISALLOWED))
                | flag(16, field.patched)
                | flag(32, field.proto3_optional)
                | flag(64, is_true(&field.options, FIELD_SENSITIVE));
            let record = [
                u32::try_from(field.number)?,
                self.string(&field.name)?,
                self.string(&field.json_name)?,
                self.rules(&rules)?,
                type_index,
            ];
            push_u32(&mut self.fields, &record);
            let oneof = field.oneof.map_or(Ok(NONE), u16::try_from)?;
            push_u16(&mut self.fields, &[u16::try_from(rules.len())?, oneof]);
            let lengths = [
                u8::try_from(field.name.len())?,
                u8::try_from(field.json_name.len())?,
            ];
            self.fields.extend_from_slice(&[
                lengths[0],
                lengths[1],
                u8::try_from(field.kind)?,
                flags,
            ]);
            self.field_count += 1;
        }
        Ok(())
    }

    fn add_enum(&mut self, name: &str, kind: &EnumType) -> Result<(), Box<dyn Error>> {
        let at = self.string(name)?;
        push_u32(&mut self.enums, &[at, self.value_count]);
        push_u16(
            &mut self.enums,
            &[
                u16::try_from(name.len())?,
                u16::try_from(kind.values.len())?,
            ],
        );
        for value in &kind.values {
            let at = self.string(&value.name)?;
            self.values.extend_from_slice(&value.number.to_le_bytes());
            push_u32(&mut self.values, &[at]);
            let flags = flag(4, is_true(&value.options, VALUE_DEPRECATED))
                | flag(8, is_true(&value.options, VALUE_DISALLOWED));
            push_u16(
                &mut self.values,
                &[u16::try_from(value.name.len())?, u16::from(flags)],
            );
            self.value_count += 1;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<u32, Box<dyn Error>> {
        if let Some(at) = self.known_strings.get(text) {
            return Ok(*at);
        }
        let at = u32::try_from(self.strings.len())?;
        self.strings.extend_from_slice(text.as_bytes());
        self.known_strings.insert(text.to_owned(), at);
        Ok(at)
    }

    fn rules(&mut self, rules: &[u8]) -> Result<u32, Box<dyn Error>> {
        if let Some(at) = self.known_rules.get(rules) {
            return Ok(*at);
        }
        let at = u32::try_from(self.rules.len())?;
        self.rules.extend_from_slice(rules);
        self.known_rules.insert(rules.to_vec(), at);
        Ok(at)
    }

    fn finish(self, messages: u32, enums: u32) -> Result<Vec<u8>, Box<dyn Error>> {
        let sections = [
            self.messages,
            self.fields,
            self.oneofs,
            self.enums,
            self.values,
            self.rules,
            self.strings,
        ];
        let mut out = Vec::new();
        push_u32(&mut out, &[messages, enums]);
        let mut at = u32::try_from(4 * (2 + sections.len()))?;
        for section in &sections {
            push_u32(&mut out, &[at]);
            at += u32::try_from(section.len())?;
        }
        sections
            .iter()
            .for_each(|section| out.extend_from_slice(section));
        Ok(out)
    }
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

fn push_u32(out: &mut Vec<u8>, values: &[u32]) {
    values
        .iter()
        .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn push_u16(out: &mut Vec<u8>, values: &[u16]) {
    values
        .iter()
        .for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn is_true(options: &[u8], number: u32) -> bool {
    value_of(options, number).is_some_and(|value| value == [1])
}

/// `validate.FieldRules` of a field. Options given one by one come as several encodings, which are joined here, so that
/// readers find each kind of rule once.
fn rules_of(options: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut kinds: Vec<(u64, Vec<u8>)> = Vec::new();
    for (number, part) in messages_in(options) {
        if number != u64::from(VALIDATE_RULES) {
            continue;
        }
        for (kind, rules) in messages_in(part) {
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, joined)) => joined.extend_from_slice(rules),
                None => kinds.push((kind, rules.to_vec())),
            }
        }
    }
    let mut out = Vec::new();
    for (kind, rules) in kinds {
        prost::encoding::encode_varint(kind << 3 | 2, &mut out);
        prost::encoding::encode_varint(u64::try_from(rules.len())?, &mut out);
        out.extend_from_slice(&rules);
    }
    Ok(out)
}

/// The length-delimited fields of an encoded message, with their numbers.
fn messages_in(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let length = match tag & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => Some(8),
            2 => varint(&mut message).and_then(|length| usize::try_from(length).ok()),
            5 => Some(4),
            _ => None,
        };
        let Some((value, rest)) = length.and_then(|length| message.split_at_checked(length)) else {
            break;
        };
        message = rest;
        if tag & 7 == 2 {
            found.push((tag >> 3, value));
        }
    }
    found
}

/// The bytes of the last field `number` of an encoded message; of a varint its encoding.
fn value_of(mut message: &[u8], number: u32) -> Option<&[u8]> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let length = match tag & 7 {
            0 => {
                let before = message;
                varint(&mut message)?;
                let value = &before[..before.len() - message.len()];
                if tag >> 3 == u64::from(number) {
                    found = Some(value);
                }
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return found,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        if tag >> 3 == u64::from(number) {
            found = Some(value);
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
