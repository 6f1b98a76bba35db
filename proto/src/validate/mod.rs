//! What a configuration has to keep beyond its types: the rules that the API's proto files state
//! (`validate.rules`), fields that do not exist, and fields and enum values that Envoy has given up.
//!
//! The encoded bytes are checked, because the Rust types drop fields that they do not know. The rules lie in the
//! schema in their encoded form and are read in place. What is inside an `Any` is not looked at: whoever unpacks it
//! checks it, as Envoy does.

mod rules;

use std::fmt;

use crate::fields::{Values, collect, int32, joined, seconds_and_nanos, text, unpack};
use crate::schema::{Field, Kind, Message, Oneof, WellKnown};
use crate::wire::{Malformed, WireField, WireReader, WireValue};
use rules::{FieldRules, Scalar};

/// Protobuf decoders stop at this depth, and so does the check.
const MAX_DEPTH: usize = 100;

/// Something about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, such as `load_assignment.endpoints[0].priority`; empty for the message as a whole.
    pub path: String,
    /// What is the matter.
    pub problem: Problem,
}

/// What is the matter with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The bytes are no encoded message, or nest more than 100 levels deep.
    Malformed,
    /// The value breaks a rule of the API.
    Rule {
        /// The value as one would write it.
        value: String,
        /// What is legal.
        rule: String,
    },
    /// The field has to be set.
    Missing,
    /// None of the fields of a oneof is set, and one has to be.
    NoneOf(Vec<&'static str>),
    /// The message has no field with this number. Static configuration is refused, other configuration counted.
    UnknownField {
        /// The message.
        message: &'static str,
        /// The field's number.
        number: u32,
    },
    /// Envoy refuses this field or enum value unless the runtime key is true.
    Disallowed {
        /// Such as `envoy.deprecated_features:envoy.config.core.v3.Node.build_version`.
        runtime_key: String,
    },
    /// Envoy warns about this field or enum value, unless the runtime key is false: then it refuses it.
    Deprecated {
        /// Such as `envoy.deprecated_features:envoy.config.core.v3.Node.build_version`.
        runtime_key: String,
    },
    /// Envoy 1.40 has the field but the Rust types do not, so nobody sees it who does not read it with a type of
    /// [`crate::ours`].
    Patched,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        match &self.problem {
            Problem::Malformed => out.write_str("not an encoded message"),
            Problem::Rule { value, rule } => write!(out, "{value}: {rule}"),
            Problem::Missing => out.write_str("has to be set"),
            Problem::NoneOf(fields) => write!(out, "one of {} has to be set", fields.join(", ")),
            Problem::UnknownField { message, number } => {
                write!(out, "{message} has no field number {number}")
            }
            Problem::Disallowed { runtime_key } => write!(
                out,
                "is no longer supported; the runtime key {runtime_key} allows it"
            ),
            Problem::Deprecated { runtime_key } => write!(
                out,
                "is deprecated; the runtime key {runtime_key} decides whether it is allowed"
            ),
            Problem::Patched => out.write_str("is not supported yet"),
        }
    }
}

/// Checks an encoded message of the type `full_name` and everything in it but what is inside an `Any`.
///
/// A message of an unknown type is passed: there is nothing to hold it against.
#[must_use]
pub fn check(full_name: &str, bytes: &[u8]) -> Vec<Violation> {
    let mut checker = Checker {
        path: Vec::new(),
        depth: 0,
        found: Vec::new(),
    };
    if let Some(message) = Message::by_name(full_name) {
        checker.message(message, bytes);
    }
    checker.found
}

struct Checker {
    path: Vec<Step>,
    depth: usize,
    found: Vec<Violation>,
}

enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

impl Checker {
    fn message(&mut self, message: Message, bytes: &[u8]) {
        if self.depth == MAX_DEPTH {
            return self.report(Problem::Malformed);
        }
        self.depth += 1;
        if self.fields(message, bytes).is_err() {
            self.report(Problem::Malformed);
        }
        self.depth -= 1;
    }

    fn fields(&mut self, message: Message, bytes: &[u8]) -> Result<(), Malformed> {
        let found = collect(message, bytes)?;
        self.unknown_fields(message, bytes)?;
        let mut rest = found.as_slice();
        for field in message.fields() {
            let values = match rest.split_first() {
                Some((first, others)) if first.field == field => {
                    rest = others;
                    first.values.as_slice()
                }
                _ => &[],
            };
            if values.is_empty() && field.rules().is_empty() {
                continue;
            }
            self.path.push(Step::Field(field.name()));
            if is_set(field, values) {
                self.age(message, field, values);
            }
            self.field(field, values, message.is_unchecked())?;
            self.path.pop();
        }
        for (index, oneof) in message
            .oneofs()
            .enumerate()
            .filter(|(_, oneof)| oneof.is_required())
        {
            self.oneof(message, index, oneof, &found);
        }
        Ok(())
    }

    fn unknown_fields(&mut self, message: Message, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reported = Vec::new();
        for field in WireReader::new(bytes) {
            let WireField { number, .. } = field?;
            if message.field_by_number(number).is_none() && !reported.contains(&number) {
                reported.push(number);
                self.report(Problem::UnknownField {
                    message: message.full_name(),
                    number,
                });
            }
        }
        Ok(())
    }

    /// Fields and enum values that the API is leaving behind, and those that the Rust types have not reached.
    fn age(&mut self, message: Message, field: Field, values: &[WireValue<'_>]) {
        let key = |name: String| format!("envoy.deprecated_features:{name}");
        let field_key = || key(format!("{}.{}", message.full_name(), field.name()));
        if field.is_disallowed() {
            self.report(Problem::Disallowed {
                runtime_key: field_key(),
            });
        } else if field.is_deprecated() {
            self.report(Problem::Deprecated {
                runtime_key: field_key(),
            });
        }
        if field.is_patched() && !TAKEN.contains(&(message.full_name(), field.name())) {
            self.report(Problem::Patched);
        }
        if let (Kind::Enum(kind), false) = (field.kind(), field.is_repeated())
            && let Some(value) = values
                .last()
                .and_then(|value| kind.value_by_number(int32(*value)?))
        {
            let scope = kind
                .full_name()
                .rsplit_once('.')
                .map_or("", |(scope, _)| scope);
            let value_key = || key(format!("{scope}.{}", value.name()));
            if value.is_disallowed() {
                self.report(Problem::Disallowed {
                    runtime_key: value_key(),
                });
            } else if value.is_deprecated() {
                self.report(Problem::Deprecated {
                    runtime_key: value_key(),
                });
            }
        }
    }

    fn field(
        &mut self,
        field: Field,
        values: &[WireValue<'_>],
        unchecked: bool,
    ) -> Result<(), Malformed> {
        let rules = FieldRules::new(if unchecked { &[] } else { field.rules() });
        if let Some(entry) = field.map_entry() {
            self.map(entry, values, rules)
        } else if field.is_repeated() {
            self.list(field, values, rules)
        } else if let Kind::Message(message) = field.kind() {
            if values.is_empty() {
                // In a oneof the rule means "not without a value", which no encoding can break.
                if rules.is_required() && field.oneof().is_none() {
                    self.report(Problem::Missing);
                }
                return Ok(());
            }
            self.value_message(message, &joined(values)?, rules)
        } else if let Some(value) = values.last() {
            self.rule(rules.broken_by(&scalar(field, *value)?));
            Ok(())
        } else {
            if !field.has_presence() {
                self.rule(rules.broken_by(&default(field)));
            }
            Ok(())
        }
    }

    /// A message that is set, by itself, in a list or in a map.
    fn value_message(
        &mut self,
        message: Message,
        bytes: &[u8],
        rules: FieldRules,
    ) -> Result<(), Malformed> {
        match message.well_known() {
            Some(WellKnown::Wrapper) => {
                let inner = message.field_by_number(1).ok_or(Malformed)?;
                let mut value = default(inner);
                for part in WireReader::new(bytes) {
                    if let WireField {
                        number: 1,
                        value: last,
                    } = part?
                    {
                        value = scalar(inner, last)?;
                    }
                }
                self.rule(rules.broken_by(&value));
            }
            Some(WellKnown::Duration) => {
                self.rule(rules.broken_by(&Scalar::Duration(seconds_and_nanos(bytes)?)))
            }
            Some(_) => {
                for part in WireReader::new(bytes) {
                    part?;
                }
            }
            None if rules.is_skipped() => {}
            None => self.message(message, bytes),
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: Field,
        values: &[WireValue<'_>],
        rules: FieldRules,
    ) -> Result<(), Malformed> {
        let elements = elements(field, values)?;
        let list_rules = rules.list();
        if elements.is_empty() && list_rules.ignore_empty {
            return Ok(());
        }
        self.rule(list_rules.broken_by_count(elements.len(), "elements"));
        let items = list_rules.items;
        for (index, element) in elements.iter().enumerate() {
            self.path.push(Step::Index(index));
            match (field.kind(), element) {
                (Kind::Message(message), WireValue::Bytes(bytes)) => {
                    self.value_message(message, bytes, items)?
                }
                _ => self.rule(items.broken_by(&scalar(field, *element)?)),
            }
            if list_rules.unique && elements[..index].contains(element) {
                let value = scalar(field, *element)?.to_string();
                self.report(Problem::Rule {
                    value,
                    rule: "appears twice, but all elements have to differ".to_owned(),
                });
            }
            self.path.pop();
        }
        Ok(())
    }

    fn map(
        &mut self,
        entry: Message,
        values: &[WireValue<'_>],
        rules: FieldRules,
    ) -> Result<(), Malformed> {
        let (Some(key_field), Some(value_field)) =
            (entry.field_by_number(1), entry.field_by_number(2))
        else {
            return Err(Malformed);
        };
        let map_rules = rules.map();
        self.rule(map_rules.broken_by_count(values.len(), "entries"));
        for value in values {
            let WireValue::Bytes(bytes) = value else {
                return Err(Malformed);
            };
            let (mut key, mut content) = (default(key_field), Vec::new());
            for part in WireReader::new(bytes) {
                match part? {
                    WireField { number: 1, value } => key = scalar(key_field, value)?,
                    WireField { number: 2, value } => content.push(value),
                    WireField { .. } => {}
                }
            }
            self.path.push(Step::Key(key.to_string()));
            self.rule(map_rules.keys.broken_by(&key));
            match (value_field.kind(), content.last()) {
                (Kind::Message(message), _) => {
                    self.value_message(message, &joined(&content)?, map_rules.items)?
                }
                (_, Some(value)) => {
                    self.rule(map_rules.items.broken_by(&scalar(value_field, *value)?))
                }
                (_, None) => self.rule(map_rules.items.broken_by(&default(value_field))),
            }
            self.path.pop();
        }
        Ok(())
    }

    fn oneof(&mut self, message: Message, index: usize, oneof: Oneof, found: &[Values<'_>]) {
        let belongs = |field: &Field| field.oneof().map(usize::from) == Some(index);
        if !message.is_unchecked() && !found.iter().any(|values| belongs(&values.field)) {
            let fields: Vec<_> = message.fields().filter(belongs).map(Field::name).collect();
            debug_assert!(!fields.is_empty(), "{oneof:?} has fields");
            self.report(Problem::NoneOf(fields));
        }
    }

    fn rule(&mut self, broken: Option<(String, String)>) {
        if let Some((value, rule)) = broken {
            self.report(Problem::Rule { value, rule });
        }
    }

    fn report(&mut self, problem: Problem) {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(key) => path.push_str(&format!("[{key}]")),
            }
        }
        self.found.push(Violation { path, problem });
    }
}

/// The elements of a list, packed ones unpacked.
fn elements<'a>(field: Field, values: &[WireValue<'a>]) -> Result<Vec<WireValue<'a>>, Malformed> {
    let may_be_packed = !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
    let mut elements = Vec::with_capacity(values.len());
    for value in values {
        match value {
            WireValue::Bytes(packed) if may_be_packed => {
                for element in unpack(field.kind(), packed) {
                    elements.push(element?);
                }
            }
            _ => elements.push(*value),
        }
    }
    Ok(elements)
}

fn is_set(field: Field, values: &[WireValue<'_>]) -> bool {
    let is_default = matches!(
        values.last(),
        None | Some(
            WireValue::Varint(0)
                | WireValue::Fixed64(0)
                | WireValue::Fixed32(0)
                | WireValue::Bytes([])
        )
    );
    !values.is_empty() && (field.has_presence() || field.is_repeated() || !is_default)
}

fn scalar(field: Field, value: WireValue<'_>) -> Result<Scalar<'_>, Malformed> {
    Ok(match (field.kind(), value) {
        (Kind::String, WireValue::Bytes(bytes)) => Scalar::Text(text(bytes)?),
        (Kind::Bytes, WireValue::Bytes(bytes)) => Scalar::Bytes(bytes),
        (Kind::Bool, WireValue::Varint(flag)) => Scalar::Bool(flag != 0),
        (Kind::Enum(kind), WireValue::Varint(_)) => {
            Scalar::Enum(kind, int32(value).ok_or(Malformed)?)
        }
        (Kind::Int32, WireValue::Varint(_)) => Scalar::Int(int32(value).ok_or(Malformed)?.into()),
        (Kind::Int64, WireValue::Varint(bits)) => Scalar::Int(bits.cast_signed().into()),
        (Kind::Uint32 | Kind::Uint64, WireValue::Varint(bits)) => Scalar::Int(bits.into()),
        (Kind::Sint32 | Kind::Sint64, WireValue::Varint(bits)) => {
            Scalar::Int(((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()).into())
        }
        (Kind::Fixed64, WireValue::Fixed64(bits)) => Scalar::Int(bits.into()),
        (Kind::Sfixed64, WireValue::Fixed64(bits)) => Scalar::Int(bits.cast_signed().into()),
        (Kind::Fixed32, WireValue::Fixed32(bits)) => Scalar::Int(bits.into()),
        (Kind::Sfixed32, WireValue::Fixed32(bits)) => Scalar::Int(bits.cast_signed().into()),
        (Kind::Double, WireValue::Fixed64(bits)) => Scalar::Float(f64::from_bits(bits)),
        (Kind::Float, WireValue::Fixed32(bits)) => Scalar::Float(f32::from_bits(bits).into()),
        _ => return Err(Malformed),
    })
}

/// The value of a scalar field that is not on the wire.
fn default(field: Field) -> Scalar<'static> {
    match field.kind() {
        Kind::String => Scalar::Text(""),
        Kind::Bytes => Scalar::Bytes(&[]),
        Kind::Bool => Scalar::Bool(false),
        Kind::Enum(kind) => Scalar::Enum(kind, 0),
        Kind::Double | Kind::Float => Scalar::Float(0.0),
        _ => Scalar::Int(0),
    }
}

/// Fields that the Rust types lack and that are read by the types of [`crate::ours`].
const TAKEN: &[(&str, &str)] = &[
    ("envoy.config.core.v3.HealthCheck", "name"),
    (
        "envoy.config.core.v3.HealthCheck.HttpHealthCheck",
        "use_alpn_protocol",
    ),
    (
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
        "realm",
    ),
    (
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute",
        "realm",
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "clear_route_cache_headers",
    ),
];

#[cfg(test)]
mod tests;
