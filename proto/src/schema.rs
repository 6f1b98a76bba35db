//! The descriptors of every message we know, as tables in the program's read-only data.
//!
//! Nothing is parsed or allocated: a page of the table is read from disk when it is looked at, and dropped by the
//! kernel when memory is short. The build writes the tables (`build/schema.rs`); the two files change together.
//!
//! Record layouts, little endian: message = name at u32, first field u32, first oneof u32, name length u16,
//! fields u16, oneofs u16, flags u16; field = number u32, name at u32, JSON name at u32, rules at u32, type u32,
//! rules length u16, oneof u16, name length u8, JSON name length u8, kind u8, flags u8; oneof = name at u32, name
//! length u16, required u16; enum = name at u32, first value u32, name length u16, values u16; value = number i32,
//! name at u32, name length u16, flags u16.

use std::cmp::Ordering;
use std::fmt;

static SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

const MESSAGES: usize = 2;
const FIELDS: usize = 3;
const ONEOFS: usize = 4;
const ENUMS: usize = 5;
const VALUES: usize = 6;
const RULES: usize = 7;
const STRINGS: usize = 8;

const MESSAGE_SIZE: u32 = 20;
const FIELD_SIZE: u32 = 28;
const ONEOF_SIZE: u32 = 8;
const ENUM_SIZE: u32 = 12;
const VALUE_SIZE: u32 = 12;

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message(u32);

/// A field of a message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field(u32);

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Enum(u32);

/// A value of an enum type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnumValue(u32);

/// A oneof of a message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Oneof(u32);

/// What a field holds: `FieldDescriptorProto.Type`, with the type it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "protobuf's own words")]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message(Message),
    Bytes,
    Uint32,
    Enum(Enum),
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

/// Messages of `google.protobuf` that JSON writes in a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WellKnown {
    /// An object with `@type`.
    Any,
    /// A string such as `1.5s`.
    Duration,
    /// A string such as `2026-01-02T03:04:05Z`.
    Timestamp,
    /// An object of any form.
    Struct,
    /// Any JSON value.
    Value,
    /// A list of any JSON values.
    ListValue,
    /// The wrapped scalar by itself.
    Wrapper,
    /// An object without fields.
    Empty,
}

impl Message {
    /// The message with this full name, such as `envoy.config.core.v3.Node`.
    #[must_use]
    pub fn by_name(full_name: &str) -> Option<Self> {
        find(u32_at(0), |number| Self(number).full_name().cmp(full_name)).map(Self)
    }

    /// Every message, ordered by name.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..u32_at(0)).map(Self)
    }

    /// Package and name, without a leading dot.
    #[must_use]
    pub fn full_name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at), u16_at(at + 12))
    }

    /// The fields, ordered by number.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        let at = self.at();
        let first = u32_at(at + 4);
        (first..first + u32::from(u16_at(at + 14))).map(Field)
    }

    /// The field with this number.
    #[must_use]
    pub fn field_by_number(self, number: u32) -> Option<Field> {
        let at = self.at();
        let first = u32_at(at + 4);
        let count = u32::from(u16_at(at + 14));
        find(count, |index| Field(first + index).number().cmp(&number))
            .map(|index| Field(first + index))
    }

    /// The field with this name, given as in the proto file or in lowerCamelCase.
    #[must_use]
    pub fn field_by_name(self, name: &str) -> Option<Field> {
        self.fields().find(|field| field.has_name(name))
    }

    /// The oneofs, in the order of the proto file; those of proto3 `optional` fields included.
    pub fn oneofs(self) -> impl ExactSizeIterator<Item = Oneof> {
        let at = self.at();
        let first = u32_at(at + 8);
        (first..first + u32::from(u16_at(at + 16))).map(Oneof)
    }

    /// Whether this is the entry of a `map` field: key 1, value 2.
    #[must_use]
    pub fn is_map_entry(self) -> bool {
        self.flags() & 1 != 0
    }

    /// Whether `validate.disabled` or `validate.ignored` turns the checks of this message off.
    #[must_use]
    pub fn is_unchecked(self) -> bool {
        self.flags() & 6 != 0
    }

    /// Which form of its own this message has in JSON.
    #[must_use]
    pub fn well_known(self) -> Option<WellKnown> {
        let at = self.at();
        let name = string_bytes(u32_at(at), u16_at(at + 12));
        Some(match name.strip_prefix(b"google.protobuf.")? {
            b"Any" => WellKnown::Any,
            b"Duration" => WellKnown::Duration,
            b"Timestamp" => WellKnown::Timestamp,
            b"Struct" => WellKnown::Struct,
            b"Value" => WellKnown::Value,
            b"ListValue" => WellKnown::ListValue,
            b"Empty" => WellKnown::Empty,
            b"DoubleValue" | b"FloatValue" | b"Int64Value" | b"UInt64Value" | b"Int32Value"
            | b"UInt32Value" | b"BoolValue" | b"StringValue" | b"BytesValue" => WellKnown::Wrapper,
            _ => return None,
        })
    }

    fn at(self) -> usize {
        record(MESSAGES, self.0, MESSAGE_SIZE)
    }

    fn flags(self) -> u16 {
        u16_at(self.at() + 18)
    }
}

impl Field {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        u32_at(self.at())
    }

    /// The name in the proto file.
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at + 4), u16::from(SCHEMA[at + 24]))
    }

    /// The name in lowerCamelCase.
    #[must_use]
    pub fn json_name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at + 8), u16::from(SCHEMA[at + 25]))
    }

    /// What it holds; of a repeated field, each element.
    #[must_use]
    pub fn kind(self) -> Kind {
        let at = self.at();
        let type_index = u32_at(at + 16);
        match SCHEMA[at + 26] {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(Message(type_index)),
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(Enum(type_index)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            other => unreachable!("the build refuses the field type {other}"),
        }
    }

    /// Whether it is a list or a map.
    #[must_use]
    pub fn is_repeated(self) -> bool {
        self.flags() & 1 != 0
    }

    /// Whether "not set" and "set to the default" differ.
    #[must_use]
    pub fn has_presence(self) -> bool {
        self.flags() & 2 != 0
    }

    /// Whether the API calls it deprecated.
    #[must_use]
    pub fn is_deprecated(self) -> bool {
        self.flags() & 4 != 0
    }

    /// Whether Envoy refuses it unless a runtime key allows it (`envoy.annotations.disallowed_by_default`).
    #[must_use]
    pub fn is_disallowed(self) -> bool {
        self.flags() & 8 != 0
    }

    /// Whether the Rust type in [`crate::pb`] lacks this field. Its value is in the encoded bytes only, and
    /// [`crate::ours`] has a type to read it with.
    #[must_use]
    pub fn is_patched(self) -> bool {
        self.flags() & 16 != 0
    }

    /// Whether `udpa.annotations.sensitive` marks it as a secret.
    #[must_use]
    pub fn is_sensitive(self) -> bool {
        self.flags() & 64 != 0
    }

    /// The entry of a `map` field.
    #[must_use]
    pub fn map_entry(self) -> Option<Message> {
        match self.kind() {
            Kind::Message(entry) if self.is_repeated() && entry.is_map_entry() => Some(entry),
            _ => None,
        }
    }

    /// Its oneof, as an index into [`Message::oneofs`]; none for proto3 `optional`.
    #[must_use]
    pub fn oneof(self) -> Option<u16> {
        let oneof = u16_at(self.at() + 22);
        (oneof != u16::MAX && self.flags() & 32 == 0).then_some(oneof)
    }

    /// The encoded `validate.FieldRules`; empty if there are none.
    #[must_use]
    pub fn rules(self) -> &'static [u8] {
        let at = self.at();
        let start = section(RULES) + index(u32_at(at + 12));
        &SCHEMA[start..start + usize::from(u16_at(at + 20))]
    }

    /// Compares bytes, because this is asked for every field of every message that is loaded.
    fn has_name(self, name: &str) -> bool {
        let at = self.at();
        let is = |length: u8, start: usize| {
            usize::from(length) == name.len()
                && string_bytes(u32_at(start), u16::from(length)) == name.as_bytes()
        };
        is(SCHEMA[at + 24], at + 4) || is(SCHEMA[at + 25], at + 8)
    }

    fn at(self) -> usize {
        record(FIELDS, self.0, FIELD_SIZE)
    }

    fn flags(self) -> u8 {
        SCHEMA[self.at() + 27]
    }
}

impl Oneof {
    /// The name in the proto file.
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = record(ONEOFS, self.0, ONEOF_SIZE);
        string(u32_at(at), u16_at(at + 4))
    }

    /// Whether one of its fields has to be set.
    #[must_use]
    pub fn is_required(self) -> bool {
        u16_at(record(ONEOFS, self.0, ONEOF_SIZE) + 6) != 0
    }
}

impl Enum {
    /// The enum with this full name, such as `envoy.config.core.v3.RequestMethod`.
    #[must_use]
    pub fn by_name(full_name: &str) -> Option<Self> {
        find(u32_at(4), |number| Self(number).full_name().cmp(full_name)).map(Self)
    }

    /// Package and name, without a leading dot.
    #[must_use]
    pub fn full_name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at), u16_at(at + 8))
    }

    /// The values, in the order of the proto file.
    pub fn values(self) -> impl ExactSizeIterator<Item = EnumValue> {
        let at = self.at();
        let first = u32_at(at + 4);
        (first..first + u32::from(u16_at(at + 10))).map(EnumValue)
    }

    /// The first value with this number.
    #[must_use]
    pub fn value_by_number(self, number: i32) -> Option<EnumValue> {
        self.values().find(|value| value.number() == number)
    }

    /// The value with this name; case counts only where two names differ in nothing else.
    #[must_use]
    pub fn value_by_name(self, name: &str) -> Option<EnumValue> {
        let exact = self.values().find(|value| value.name() == name);
        exact.or_else(|| {
            self.values()
                .find(|value| value.name().eq_ignore_ascii_case(name))
        })
    }

    fn at(self) -> usize {
        record(ENUMS, self.0, ENUM_SIZE)
    }
}

impl EnumValue {
    /// The name in the proto file.
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at + 4), u16_at(at + 8))
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from_le_bytes(array(self.at()))
    }

    /// Whether the API calls it deprecated.
    #[must_use]
    pub fn is_deprecated(self) -> bool {
        u16_at(self.at() + 10) & 4 != 0
    }

    /// Whether Envoy refuses it unless a runtime key allows it (`envoy.annotations.disallowed_by_default_enum`).
    #[must_use]
    pub fn is_disallowed(self) -> bool {
        u16_at(self.at() + 10) & 8 != 0
    }

    fn at(self) -> usize {
        record(VALUES, self.0, VALUE_SIZE)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.full_name())
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Debug for Enum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.full_name())
    }
}

impl fmt::Debug for EnumValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Debug for Oneof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Which of `count` ordered records is the wanted one.
fn find(count: u32, order: impl Fn(u32) -> Ordering) -> Option<u32> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = u32::midpoint(low, high);
        match order(middle) {
            Ordering::Equal => return Some(middle),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    None
}

fn record(kind: usize, number: u32, size: u32) -> usize {
    section(kind) + index(number * size)
}

fn section(kind: usize) -> usize {
    index(u32_at(kind * 4))
}

#[allow(clippy::expect_used, reason = "the build wrote the tables")]
fn string(at: u32, length: u16) -> &'static str {
    std::str::from_utf8(string_bytes(at, length)).expect("the build writes names from strings")
}

fn string_bytes(at: u32, length: u16) -> &'static [u8] {
    let start = section(STRINGS) + index(at);
    &SCHEMA[start..start + usize::from(length)]
}

fn u32_at(at: usize) -> u32 {
    u32::from_le_bytes(array(at))
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes(array(at))
}

#[allow(clippy::expect_used, reason = "the build wrote the tables")]
fn array<const N: usize>(at: usize) -> [u8; N] {
    *SCHEMA[at..]
        .first_chunk()
        .expect("the build writes whole records")
}

#[allow(clippy::expect_used, reason = "the build wrote the tables")]
fn index(value: u32) -> usize {
    usize::try_from(value).expect("a table of this program fits its address space")
}
