//! Messages to JSON and YAML, in the canonical protobuf mapping with the field names of the proto files, as Envoy's
//! admin interface prints them.
//!
//! Fields come in the order of their numbers, fields with a default value are left out, maps are sorted by key. An
//! `Any` of a known type is expanded beside its `@type`; of any other type it keeps its bytes as base64 in `value`.

mod format;
mod time;

use std::borrow::Cow;

use prost::Name;

use crate::fields::{
    Values, collect, int32, joined, seconds_and_nanos, struct_fields, text, unpack,
};
use crate::schema::{Field, Kind, Message, WellKnown};
use crate::wire::{Malformed, WireField, WireReader, WireValue};
use crate::yaml::UnknownFields;
use crate::{any, base64};
use format::{Json, Sink, Yaml};
pub(crate) use time::duration;

/// What stands for the value of a sensitive string.
const REDACTED: &str = "[redacted]";
/// Protobuf decoders stop at this depth, and so does the printer.
const MAX_DEPTH: u32 = 100;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// One value a line, indented by one space, as Envoy's admin interface prints. YAML is always so.
    pub pretty: bool,
    /// Replaces strings and bytes of fields that the API marks as sensitive by `[redacted]` and leaves out their
    /// other values, inside `Any` and `TypedStruct` as well.
    pub redact: bool,
}

/// The bytes are no encoded message of the type they were said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// No such message is known.
    #[error("no message {0} is known")]
    UnknownType(String),
    /// A message is cut off, has fields of a wrong wire type, strings that are not UTF-8, or nests too deeply.
    #[error("the bytes are no encoded {0}")]
    Malformed(String),
}

/// The JSON of a message.
///
/// # Errors
/// The type is not one that the schema knows, or a nested `Any` aside, it nests more than 100 levels deep.
pub fn to_json<M: Name>(message: &M, style: Style) -> Result<String, JsonError> {
    encoded_to_json(&M::full_name(), &message.encode_to_vec(), style)
}

/// The YAML of a message. Strings are always quoted.
///
/// # Errors
/// As [`to_json`].
pub fn to_yaml<M: Name>(message: &M, style: Style) -> Result<String, JsonError> {
    encoded_to_yaml(&M::full_name(), &message.encode_to_vec(), style)
}

/// The JSON of an encoded message of the type `full_name`. Unlike [`to_json`] it has the fields that Rust types lack.
///
/// # Errors
/// The type is not known, or the bytes are not of that type.
pub fn encoded_to_json(full_name: &str, bytes: &[u8], style: Style) -> Result<String, JsonError> {
    let mut sink = Json::new(style.pretty);
    print(full_name, bytes, style, &mut sink)?;
    Ok(sink.finish())
}

/// The YAML of an encoded message of the type `full_name`.
///
/// # Errors
/// As [`encoded_to_json`].
pub fn encoded_to_yaml(full_name: &str, bytes: &[u8], style: Style) -> Result<String, JsonError> {
    let mut sink = Yaml::default();
    print(full_name, bytes, style, &mut sink)?;
    Ok(sink.finish())
}

fn print(
    full_name: &str,
    bytes: &[u8],
    style: Style,
    sink: &mut impl Sink,
) -> Result<(), JsonError> {
    let message =
        Message::by_name(full_name).ok_or_else(|| JsonError::UnknownType(full_name.to_owned()))?;
    let mut printer = Printer {
        sink,
        redact: style.redact,
        depth: 0,
    };
    printer
        .message(message, bytes, false)
        .map_err(|Malformed| JsonError::Malformed(full_name.to_owned()))
}

struct Printer<'s, S> {
    sink: &'s mut S,
    redact: bool,
    depth: u32,
}

type Printed = Result<(), Malformed>;

impl<S: Sink> Printer<'_, S> {
    /// Prints a message in whatever form JSON has for it.
    fn message(&mut self, message: Message, bytes: &[u8], hidden: bool) -> Printed {
        if self.depth == MAX_DEPTH {
            return Err(Malformed);
        }
        self.depth += 1;
        match message.well_known() {
            Some(WellKnown::Any) => self.any(bytes, hidden)?,
            Some(WellKnown::Struct) => self.structure(bytes, hidden)?,
            Some(WellKnown::Value) => self.value(bytes, hidden)?,
            Some(WellKnown::ListValue) => self.list_value(bytes, hidden)?,
            Some(WellKnown::Duration) => self.sink.string(&duration(seconds_and_nanos(bytes)?)),
            Some(WellKnown::Timestamp) => self
                .sink
                .string(&time::timestamp(seconds_and_nanos(bytes)?)),
            Some(WellKnown::Wrapper) => self.wrapper(message, bytes, hidden)?,
            Some(WellKnown::Empty) | None => {
                self.sink.begin_object();
                self.fields(message, bytes, hidden)?;
                self.sink.end_object();
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn fields(&mut self, message: Message, bytes: &[u8], hidden: bool) -> Printed {
        for Values { field, values } in collect(message, bytes)? {
            let hidden = hidden || (self.redact && field.is_sensitive());
            if let Some(entry) = field.map_entry() {
                self.map(field, entry, &values, hidden)?;
            } else if field.is_repeated() {
                self.list(field, &values, hidden)?;
            } else if let Kind::Message(inner) = field.kind() {
                self.sink.key(field.name());
                self.message(inner, &joined(&values)?, hidden)?;
            } else if let Some(value) = values.last()
                && (field.has_presence() || !is_default(*value))
                && (!hidden || is_text(field))
            {
                self.sink.key(field.name());
                self.scalar(field, *value, hidden)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, field: Field, values: &[WireValue<'_>], hidden: bool) -> Printed {
        if hidden && !is_text(field) && !matches!(field.kind(), Kind::Message(_)) {
            return Ok(());
        }
        self.sink.key(field.name());
        self.sink.begin_list();
        for value in values {
            match (field.kind(), value) {
                (Kind::Message(inner), WireValue::Bytes(bytes)) => {
                    self.sink.item();
                    self.message(inner, bytes, hidden)?;
                }
                (Kind::String | Kind::Bytes, _) => {
                    self.sink.item();
                    self.scalar(field, *value, hidden)?;
                }
                (_, WireValue::Bytes(packed)) => {
                    for value in unpack(field.kind(), packed) {
                        self.sink.item();
                        self.scalar(field, value?, hidden)?;
                    }
                }
                _ => {
                    self.sink.item();
                    self.scalar(field, *value, hidden)?;
                }
            }
        }
        self.sink.end_list();
        Ok(())
    }

    fn map(
        &mut self,
        field: Field,
        entry: Message,
        values: &[WireValue<'_>],
        hidden: bool,
    ) -> Printed {
        let (Some(key_field), Some(value_field)) =
            (entry.field_by_number(1), entry.field_by_number(2))
        else {
            return Err(Malformed);
        };
        let mut entries = std::collections::BTreeMap::new();
        for value in values {
            let WireValue::Bytes(bytes) = value else {
                return Err(Malformed);
            };
            let (mut key, mut content) = (None, Vec::new());
            for part in WireReader::new(bytes) {
                match part? {
                    WireField { number: 1, value } => key = Some(value),
                    WireField { number: 2, value } => content.push(value),
                    WireField { .. } => {}
                }
            }
            let key = key.map_or(Ok(Cow::Borrowed("")), |key| scalar_text(key_field, key))?;
            entries.insert(key, content);
        }
        self.sink.key(field.name());
        self.sink.begin_object();
        for (key, content) in entries {
            self.sink.key(&key);
            match (value_field.kind(), content.last()) {
                (Kind::Message(inner), _) => self.message(inner, &joined(&content)?, hidden)?,
                (_, Some(value)) => self.scalar(value_field, *value, hidden)?,
                (Kind::String | Kind::Bytes, None) => {
                    self.scalar(value_field, WireValue::Bytes(&[]), hidden)?
                }
                (Kind::Double | Kind::Fixed64 | Kind::Sfixed64, None) => {
                    self.scalar(value_field, WireValue::Fixed64(0), hidden)?
                }
                (Kind::Float | Kind::Fixed32 | Kind::Sfixed32, None) => {
                    self.scalar(value_field, WireValue::Fixed32(0), hidden)?
                }
                (_, None) => self.scalar(value_field, WireValue::Varint(0), hidden)?,
            }
        }
        self.sink.end_object();
        Ok(())
    }

    fn scalar(&mut self, field: Field, value: WireValue<'_>, hidden: bool) -> Printed {
        let text = scalar_text(field, value)?;
        match field.kind() {
            Kind::String if hidden => self.sink.string(REDACTED),
            Kind::Bytes if hidden => self.sink.string(&base64::encode(REDACTED.as_bytes())),
            Kind::String
            | Kind::Bytes
            | Kind::Int64
            | Kind::Uint64
            | Kind::Sint64
            | Kind::Fixed64
            | Kind::Sfixed64 => self.sink.string(&text),
            Kind::Enum(kind) => {
                match int32(value).and_then(|number| kind.value_by_number(number)) {
                    Some(value) => self.sink.string(value.name()),
                    None => self.sink.raw(&text),
                }
            }
            Kind::Double | Kind::Float if text.parse::<f64>().is_ok_and(f64::is_finite) => {
                self.sink.raw(&text)
            }
            Kind::Double | Kind::Float => self.sink.string(&text),
            _ => self.sink.raw(&text),
        }
        Ok(())
    }

    fn any(&mut self, bytes: &[u8], hidden: bool) -> Printed {
        let (mut url, mut value) = ("", &[][..]);
        for field in WireReader::new(bytes) {
            match field? {
                WireField {
                    number: 1,
                    value: WireValue::Bytes(bytes),
                } => url = text(bytes)?,
                WireField {
                    number: 2,
                    value: WireValue::Bytes(bytes),
                } => value = bytes,
                WireField { .. } => {}
            }
        }
        self.sink.begin_object();
        if !url.is_empty() {
            self.sink.key("@type");
            self.sink.string(url);
        }
        // A broken value must not spoil the rest, so it is tried before anything of it is printed.
        let known = Message::by_name(any::type_name(url))
            .filter(|message| self.is_printable(*message, value));
        match known {
            None if value.is_empty() => {}
            None => {
                self.sink.key("value");
                let shown = if hidden { REDACTED.as_bytes() } else { value };
                self.sink.string(&base64::encode(shown));
            }
            Some(message)
                if message
                    .well_known()
                    .is_some_and(|known| known != WellKnown::Empty) =>
            {
                self.sink.key("value");
                self.message(message, value, hidden)?;
            }
            Some(message)
                if self.redact
                    && matches!(
                        message.full_name(),
                        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct"
                    ) =>
            {
                self.typed_struct(message, value, hidden)?;
            }
            Some(message) => self.fields(message, value, hidden)?,
        }
        self.sink.end_object();
        Ok(())
    }

    fn is_printable(&self, message: Message, bytes: &[u8]) -> bool {
        let mut printer = Printer {
            sink: &mut format::Nothing,
            redact: false,
            depth: self.depth,
        };
        printer.message(message, bytes, false).is_ok()
    }

    /// Prints the message that a `TypedStruct` describes as its value, so that sensitive fields are known as such.
    fn typed_struct(&mut self, message: Message, bytes: &[u8], hidden: bool) -> Printed {
        let (url, structure) = any::typed_struct(bytes)?;
        let inner = any::type_name(url);
        let described = Message::by_name(inner)
            .zip(any::from_struct(inner, &structure, UnknownFields::Ignore).ok());
        let Some((described, encoded)) = described else {
            return self.fields(message, bytes, hidden);
        };
        self.sink.key("type_url");
        self.sink.string(url);
        self.sink.key("value");
        self.message(described, &encoded, hidden)
    }

    fn structure(&mut self, bytes: &[u8], hidden: bool) -> Printed {
        let entries: std::collections::BTreeMap<_, _> =
            struct_fields(bytes).collect::<Result<_, _>>()?;
        self.sink.begin_object();
        for (key, value) in entries {
            self.sink.key(key);
            self.nested_value(value, hidden)?;
        }
        self.sink.end_object();
        Ok(())
    }

    fn list_value(&mut self, bytes: &[u8], hidden: bool) -> Printed {
        self.sink.begin_list();
        for field in WireReader::new(bytes) {
            if let WireField {
                number: 1,
                value: WireValue::Bytes(item),
            } = field?
            {
                self.sink.item();
                self.nested_value(item, hidden)?;
            }
        }
        self.sink.end_list();
        Ok(())
    }

    fn nested_value(&mut self, bytes: &[u8], hidden: bool) -> Printed {
        if self.depth == MAX_DEPTH {
            return Err(Malformed);
        }
        self.depth += 1;
        self.value(bytes, hidden)?;
        self.depth -= 1;
        Ok(())
    }

    fn value(&mut self, bytes: &[u8], hidden: bool) -> Printed {
        let mut last = None;
        for field in WireReader::new(bytes) {
            last = Some(field?);
        }
        match last {
            None | Some(WireField { number: 1, .. }) => self.sink.raw("null"),
            Some(WireField {
                number: 2,
                value: WireValue::Fixed64(_),
            }) if hidden => self.sink.raw("0"),
            Some(WireField {
                number: 2,
                value: WireValue::Fixed64(bits),
            }) => {
                let value = f64::from_bits(bits);
                if value.is_finite() {
                    self.sink.raw(&double(value))
                } else {
                    self.sink.string(&double(value))
                }
            }
            Some(WireField {
                number: 3,
                value: WireValue::Bytes(_),
            }) if hidden => self.sink.string(REDACTED),
            Some(WireField {
                number: 3,
                value: WireValue::Bytes(bytes),
            }) => self.sink.string(text(bytes)?),
            Some(WireField {
                number: 4,
                value: WireValue::Varint(flag),
            }) => self.sink.raw(if flag != 0 && !hidden {
                "true"
            } else {
                "false"
            }),
            Some(WireField {
                number: 5,
                value: WireValue::Bytes(bytes),
            }) => self.structure(bytes, hidden)?,
            Some(WireField {
                number: 6,
                value: WireValue::Bytes(bytes),
            }) => self.list_value(bytes, hidden)?,
            Some(_) => return Err(Malformed),
        }
        Ok(())
    }

    fn wrapper(&mut self, message: Message, bytes: &[u8], hidden: bool) -> Printed {
        let field = message.field_by_number(1).ok_or(Malformed)?;
        let mut value = match field.kind() {
            Kind::Double => WireValue::Fixed64(0),
            Kind::Float => WireValue::Fixed32(0),
            Kind::String | Kind::Bytes => WireValue::Bytes(&[]),
            _ => WireValue::Varint(0),
        };
        for part in WireReader::new(bytes) {
            if let WireField {
                number: 1,
                value: last,
            } = part?
            {
                value = if hidden && !is_text(field) {
                    value
                } else {
                    last
                };
            }
        }
        self.scalar(field, value, hidden)
    }
}

fn scalar_text<'a>(field: Field, value: WireValue<'a>) -> Result<Cow<'a, str>, Malformed> {
    Ok(Cow::Owned(match (field.kind(), value) {
        (Kind::String, WireValue::Bytes(bytes)) => return text(bytes).map(Cow::Borrowed),
        (Kind::Bytes, WireValue::Bytes(bytes)) => base64::encode(bytes),
        (Kind::Bool, WireValue::Varint(flag)) => (flag != 0).to_string(),
        (Kind::Int32 | Kind::Enum(_), WireValue::Varint(_)) => {
            int32(value).ok_or(Malformed)?.to_string()
        }
        (Kind::Int64, WireValue::Varint(bits)) => bits.cast_signed().to_string(),
        (Kind::Uint32 | Kind::Uint64, WireValue::Varint(bits)) => bits.to_string(),
        (Kind::Sint32 | Kind::Sint64, WireValue::Varint(bits)) => {
            ((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()).to_string()
        }
        (Kind::Fixed64, WireValue::Fixed64(bits)) => bits.to_string(),
        (Kind::Sfixed64, WireValue::Fixed64(bits)) => bits.cast_signed().to_string(),
        (Kind::Fixed32, WireValue::Fixed32(bits)) => bits.to_string(),
        (Kind::Sfixed32, WireValue::Fixed32(bits)) => bits.cast_signed().to_string(),
        (Kind::Double, WireValue::Fixed64(bits)) => double(f64::from_bits(bits)),
        (Kind::Float, WireValue::Fixed32(bits)) => float(f32::from_bits(bits)),
        _ => return Err(Malformed),
    }))
}

fn double(value: f64) -> String {
    special(value).unwrap_or_else(|| {
        if is_plain(value) {
            value.to_string()
        } else {
            format!("{value:e}")
        }
    })
}

fn float(value: f32) -> String {
    let wide = f64::from(value);
    special(wide).unwrap_or_else(|| {
        if is_plain(wide) {
            value.to_string()
        } else {
            format!("{value:e}")
        }
    })
}

fn special(value: f64) -> Option<String> {
    if value.is_nan() {
        return Some("NaN".to_owned());
    }
    value.is_infinite().then(|| {
        if value > 0.0 {
            "Infinity".to_owned()
        } else {
            "-Infinity".to_owned()
        }
    })
}

/// Whether the digits are few enough to be written without an exponent.
fn is_plain(value: f64) -> bool {
    value == 0.0 || (1e-5..1e15).contains(&value.abs())
}

fn is_default(value: WireValue<'_>) -> bool {
    matches!(
        value,
        WireValue::Varint(0)
            | WireValue::Fixed64(0)
            | WireValue::Fixed32(0)
            | WireValue::Bytes(&[])
    )
}

fn is_text(field: Field) -> bool {
    matches!(field.kind(), Kind::String | Kind::Bytes)
}

#[cfg(test)]
mod tests;
