//! The rules of `validate/validate.proto`, read from their encoding. A test holds that the schema uses no other rule.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use parking_lot::Mutex;
use regex::Regex;

use crate::fields::seconds_and_nanos;
use crate::json;
use crate::schema::Enum;
use crate::wire::{WireField, WireReader, WireValue};

/// A value to hold against rules.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Enum(Enum, i32),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Seconds and nanoseconds.
    Duration((i64, i32)),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Enum(kind, number) => match kind.value_by_number(*number) {
                Some(value) => out.write_str(value.name()),
                None => write!(out, "{number}"),
            },
            Self::Text(text) if text.len() > 120 => {
                let start: String = text.chars().take(100).collect();
                write!(out, "{start:?}… ({} bytes)", text.len())
            }
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Bytes(bytes) => write!(out, "{} bytes", bytes.len()),
            Self::Duration(time) => out.write_str(&json::duration(*time)),
        }
    }
}

/// An encoded `validate.FieldRules`.
#[derive(Clone, Copy)]
pub(super) struct FieldRules(&'static [u8]);

/// What lists and maps have to keep.
pub(super) struct CollectionRules {
    min: Option<u64>,
    max: Option<u64>,
    pub(super) unique: bool,
    pub(super) ignore_empty: bool,
    pub(super) keys: FieldRules,
    /// For the elements of a list and the values of a map.
    pub(super) items: FieldRules,
}

/// The fields of `validate.FieldRules`.
mod number {
    pub(super) const FLOAT: u32 = 1;
    pub(super) const DOUBLE: u32 = 2;
    pub(super) const INT64: u32 = 4;
    pub(super) const SINT32: u32 = 7;
    pub(super) const SINT64: u32 = 8;
    pub(super) const FIXED32: u32 = 9;
    pub(super) const SFIXED64: u32 = 12;
    pub(super) const BOOL: u32 = 13;
    pub(super) const STRING: u32 = 14;
    pub(super) const BYTES: u32 = 15;
    pub(super) const ENUM: u32 = 16;
    pub(super) const MESSAGE: u32 = 17;
    pub(super) const REPEATED: u32 = 18;
    pub(super) const MAP: u32 = 19;
    pub(super) const ANY: u32 = 20;
    pub(super) const DURATION: u32 = 21;
}

type Broken = Option<String>;

impl FieldRules {
    pub(super) fn new(encoded: &'static [u8]) -> Self {
        Self(encoded)
    }

    /// Whether a message has to be set.
    pub(super) fn is_required(self) -> bool {
        is_true(self.of(number::MESSAGE), 2)
            || is_true(self.of(number::ANY), 1)
            || is_true(self.of(number::DURATION), 1)
    }

    /// Whether the content of a message is not checked.
    pub(super) fn is_skipped(self) -> bool {
        is_true(self.of(number::MESSAGE), 1)
    }

    pub(super) fn list(self) -> CollectionRules {
        let rules = self.of(number::REPEATED);
        CollectionRules {
            min: unsigned(rules, 1),
            max: unsigned(rules, 2),
            unique: is_true(rules, 3),
            ignore_empty: is_true(rules, 5),
            keys: Self(&[]),
            items: Self(bytes(rules, 4).unwrap_or_default()),
        }
    }

    pub(super) fn map(self) -> CollectionRules {
        let rules = self.of(number::MAP);
        CollectionRules {
            min: unsigned(rules, 1),
            max: unsigned(rules, 2),
            unique: false,
            ignore_empty: is_true(rules, 6),
            keys: Self(bytes(rules, 4).unwrap_or_default()),
            items: Self(bytes(rules, 5).unwrap_or_default()),
        }
    }

    /// The value and the rule that it breaks; none if it keeps all.
    pub(super) fn broken_by(self, value: &Scalar<'_>) -> Option<(String, String)> {
        if self.0.is_empty() {
            return None;
        }
        let rule = match *value {
            Scalar::Int(number) => self.integer(number),
            Scalar::Float(number) => self.float(number),
            Scalar::Bool(flag) => is_true_or_false(self.of(number::BOOL), flag),
            Scalar::Enum(kind, number) => enumeration(self.of(number::ENUM), kind, number),
            Scalar::Text(text) => string(self.of(number::STRING), text),
            Scalar::Bytes(content) => byte_string(self.of(number::BYTES), content),
            Scalar::Duration(time) => duration(self.of(number::DURATION), time),
        };
        rule.map(|rule| (value.to_string(), rule))
    }

    fn of(self, number: u32) -> &'static [u8] {
        bytes(self.0, number).unwrap_or_default()
    }

    fn integer(self, value: i128) -> Broken {
        for field in WireReader::new(self.0).flatten() {
            let WireValue::Bytes(rules) = field.value else {
                continue;
            };
            let operand: fn(u32, WireValue<'_>) -> Option<i128> = match field.number {
                3..=12 => integer_operand,
                _ => continue,
            };
            if value == 0 && is_true(rules, 8) {
                return None;
            }
            return Bounds::read(rules, 1, |operand_value| {
                operand(field.number, operand_value)
            })
            .broken_by(value);
        }
        None
    }

    fn float(self, value: f64) -> Broken {
        for (kind, rules) in [
            (number::FLOAT, self.of(number::FLOAT)),
            (number::DOUBLE, self.of(number::DOUBLE)),
        ] {
            if rules.is_empty() || (value == 0.0 && is_true(rules, 8)) {
                continue;
            }
            let operand = |operand| match (kind, operand) {
                (number::FLOAT, WireValue::Fixed32(bits)) => Some(f64::from(f32::from_bits(bits))),
                (number::DOUBLE, WireValue::Fixed64(bits)) => Some(f64::from_bits(bits)),
                _ => None,
            };
            return Bounds::read(rules, 1, operand).broken_by(value);
        }
        None
    }
}

impl CollectionRules {
    /// The rule on the number of elements that is broken.
    pub(super) fn broken_by_count(&self, count: usize, what: &str) -> Option<(String, String)> {
        let number = u64::try_from(count).unwrap_or(u64::MAX);
        if count == 0 && self.ignore_empty {
            return None;
        }
        let rule = match (self.min, self.max) {
            (Some(min), _) if number < min => format!("has to have at least {min} {what}"),
            (_, Some(max)) if number > max => format!("has to have at most {max} {what}"),
            _ => return None,
        };
        Some((format!("{count} {what}"), rule))
    }
}

/// `const`, `lt`, `lte`, `gt`, `gte`, `in` and `not_in`, which numbers and durations have in this order.
struct Bounds<T> {
    exactly: Option<T>,
    below: Option<T>,
    at_most: Option<T>,
    above: Option<T>,
    at_least: Option<T>,
    one_of: Vec<T>,
    none_of: Vec<T>,
}

impl<T: PartialOrd + Copy + fmt::Display> Bounds<T> {
    fn read(
        rules: &'static [u8],
        first: u32,
        operand: impl Fn(WireValue<'static>) -> Option<T>,
    ) -> Self {
        let mut bounds = Self {
            exactly: None,
            below: None,
            at_most: None,
            above: None,
            at_least: None,
            one_of: Vec::new(),
            none_of: Vec::new(),
        };
        for WireField { number, value } in WireReader::new(rules).flatten() {
            let value = operand(value);
            match number.wrapping_sub(first) {
                0 => bounds.exactly = value,
                1 => bounds.below = value,
                2 => bounds.at_most = value,
                3 => bounds.above = value,
                4 => bounds.at_least = value,
                5 => bounds.one_of.extend(value),
                6 => bounds.none_of.extend(value),
                _ => {}
            }
        }
        bounds
    }

    fn broken_by(&self, value: T) -> Broken {
        let kept = self.exactly.is_none_or(|exactly| value == exactly)
            && self.below.is_none_or(|below| value < below)
            && self.at_most.is_none_or(|at_most| value <= at_most)
            && self.above.is_none_or(|above| value > above)
            && self.at_least.is_none_or(|at_least| value >= at_least)
            && (self.one_of.is_empty() || self.one_of.contains(&value))
            && !self.none_of.contains(&value);
        (!kept).then(|| self.to_string())
    }
}

impl<T: fmt::Display> fmt::Display for Bounds<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "has to be ";
        let single = [
            ("", &self.exactly),
            ("> ", &self.above),
            (">= ", &self.at_least),
            ("< ", &self.below),
            ("<= ", &self.at_most),
        ];
        for (sign, bound) in single {
            if let Some(bound) = bound {
                write!(out, "{separator}{sign}{bound}")?;
                separator = " and ";
            }
        }
        for (words, list) in [("one of ", &self.one_of), ("none of ", &self.none_of)] {
            if !list.is_empty() {
                let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                write!(out, "{separator}{words}{}", list.join(", "))?;
                separator = " and ";
            }
        }
        Ok(())
    }
}

fn integer_operand(kind: u32, operand: WireValue<'_>) -> Option<i128> {
    Some(match (kind, operand) {
        (number::SINT32 | number::SINT64, WireValue::Varint(bits)) => {
            ((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()).into()
        }
        // Signed types are 3 and 4; a negative 32-bit operand is ten bytes long, too.
        (3..=number::INT64, WireValue::Varint(bits)) => bits.cast_signed().into(),
        (_, WireValue::Varint(bits)) => bits.into(),
        (number::FIXED32, WireValue::Fixed32(bits)) => bits.into(),
        (_, WireValue::Fixed32(bits)) => bits.cast_signed().into(),
        (number::SFIXED64, WireValue::Fixed64(bits)) => bits.cast_signed().into(),
        (_, WireValue::Fixed64(bits)) => bits.into(),
        (_, WireValue::Bytes(_)) => return None,
    })
}

fn is_true_or_false(rules: &'static [u8], value: bool) -> Broken {
    let wanted = unsigned(rules, 1)? != 0;
    (value != wanted).then(|| format!("has to be {wanted}"))
}

fn enumeration(rules: &'static [u8], kind: Enum, number: i32) -> Broken {
    if is_true(rules, 2) && kind.value_by_number(number).is_none() {
        let values: Vec<_> = kind
            .values()
            .map(|value| format!("{} ({})", value.name(), value.number()))
            .collect();
        return Some(format!("has to be one of {}", values.join(", ")));
    }
    let operand = |value| match value {
        WireValue::Varint(bits) => i32::try_from(bits.cast_signed()).ok(),
        _ => None,
    };
    let mut bounds: Bounds<i32> = Bounds::read(&[], 1, operand);
    for WireField { number, value } in WireReader::new(rules).flatten() {
        match number {
            1 => bounds.exactly = operand(value),
            3 => bounds.one_of.extend(operand(value)),
            4 => bounds.none_of.extend(operand(value)),
            _ => {}
        }
    }
    let named = |number: &i32| {
        kind.value_by_number(*number)
            .map_or(number.to_string(), |value| value.name().to_owned())
    };
    let list = |numbers: &[i32]| numbers.iter().map(named).collect::<Vec<_>>().join(", ");
    bounds.broken_by(number)?;
    Some(if bounds.none_of.is_empty() {
        let allowed: Vec<_> = bounds.exactly.into_iter().chain(bounds.one_of).collect();
        format!("has to be one of {}", list(&allowed))
    } else {
        format!("has to be none of {}", list(&bounds.none_of))
    })
}

fn string(rules: &'static [u8], value: &str) -> Broken {
    if value.is_empty() && is_true(rules, 26) {
        return None;
    }
    let (mut one_of, mut well_known, mut strict) = (Vec::new(), 0, true);
    let characters = || u64::try_from(value.chars().count()).unwrap_or(u64::MAX);
    let bytes = u64::try_from(value.len()).unwrap_or(u64::MAX);
    for WireField {
        number,
        value: operand,
    } in WireReader::new(rules).flatten()
    {
        let broken = match (number, operand) {
            (2, WireValue::Varint(1)) => value.is_empty().then(|| "must not be empty".to_owned()),
            (2, WireValue::Varint(min)) => {
                (characters() < min).then(|| format!("has to have at least {min} characters"))
            }
            (3, WireValue::Varint(max)) => {
                (characters() > max).then(|| format!("has to have at most {max} characters"))
            }
            (4, WireValue::Varint(min)) => {
                (bytes < min).then(|| format!("has to have at least {min} bytes"))
            }
            (5, WireValue::Varint(max)) => {
                (bytes > max).then(|| format!("has to have at most {max} bytes"))
            }
            (6, WireValue::Bytes(operand)) => (!matches_pattern(operand, value))
                .then(|| format!("has to match {}", lossy(operand))),
            (7, WireValue::Bytes(operand)) => (!value.as_bytes().starts_with(operand))
                .then(|| format!("has to begin with {:?}", lossy(operand))),
            (8, WireValue::Bytes(operand)) => (!value.as_bytes().ends_with(operand))
                .then(|| format!("has to end in {:?}", lossy(operand))),
            (10, WireValue::Bytes(operand)) => {
                one_of.push(lossy(operand));
                None
            }
            (24, WireValue::Varint(kind)) => {
                well_known = kind;
                None
            }
            (25, WireValue::Varint(flag)) => {
                strict = flag != 0;
                None
            }
            _ => None,
        };
        if broken.is_some() {
            return broken;
        }
    }
    if !one_of.is_empty() && !one_of.iter().any(|allowed| allowed == value) {
        return Some(format!(
            "has to be one of {}",
            one_of
                .iter()
                .map(|allowed| format!("{allowed:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    header(well_known, strict, value)
}

/// `well_known_regex`: 1 is a header name, 2 a header value. Both are the same when not strict.
fn header(kind: u64, strict: bool, value: &str) -> Broken {
    let bytes = value.as_bytes();
    match (kind, strict) {
        (1 | 2, false) => bytes
            .iter()
            .any(|byte| matches!(byte, 0 | b'\n' | b'\r'))
            .then(|| "must not have line breaks or NUL".to_owned()),
        (1, true) => {
            let name = bytes.strip_prefix(b":").unwrap_or(bytes);
            let is_legal =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(byte);
            (name.is_empty() || !name.iter().all(is_legal))
                .then(|| "has to be a header name".to_owned())
        }
        (2, true) => bytes
            .iter()
            .any(|byte| matches!(byte, 0..=8 | 10..=31 | 127))
            .then(|| "has to be a header value".to_owned()),
        _ => None,
    }
}

fn byte_string(rules: &'static [u8], value: &[u8]) -> Broken {
    let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
    match (unsigned(rules, 2), unsigned(rules, 3)) {
        (Some(min), _) if length < min => Some(format!("has to have at least {min} bytes")),
        (_, Some(max)) if length > max => Some(format!("has to have at most {max} bytes")),
        _ => None,
    }
}

fn duration(rules: &'static [u8], (seconds, nanos): (i64, i32)) -> Broken {
    let operand = |operand| match operand {
        WireValue::Bytes(bytes) => seconds_and_nanos(bytes).ok().map(Nanos::from),
        _ => None,
    };
    Bounds::read(rules, 2, operand).broken_by(Nanos::from((seconds, nanos)))
}

/// A duration that compares and prints.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Nanos(i128);

impl From<(i64, i32)> for Nanos {
    fn from((seconds, nanos): (i64, i32)) -> Self {
        Self(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let parts = (
            i64::try_from(seconds).unwrap_or(i64::MAX),
            i32::try_from(nanos).unwrap_or_default(),
        );
        out.write_str(&json::duration(parts))
    }
}

/// The whole value has to match. A pattern is compiled when it is met first; the API has about ten.
#[allow(clippy::expect_used, reason = "patterns come from the build")]
fn matches_pattern(pattern: &'static [u8], value: &str) -> bool {
    static COMPILED: LazyLock<Mutex<HashMap<&'static [u8], Regex>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock();
    let regex = compiled.entry(pattern).or_insert_with(|| {
        Regex::new(&format!(r"\A(?:{})\z", lossy(pattern)))
            .expect("a test compiles every pattern of the schema")
    });
    regex.is_match(value)
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn is_true(rules: &[u8], number: u32) -> bool {
    unsigned(rules, number).is_some_and(|flag| flag != 0)
}

fn unsigned(rules: &[u8], number: u32) -> Option<u64> {
    WireReader::new(rules)
        .flatten()
        .find(|field| field.number == number)
        .and_then(|field| match field.value {
            WireValue::Varint(value) => Some(value),
            _ => None,
        })
}

fn bytes(rules: &'static [u8], number: u32) -> Option<&'static [u8]> {
    WireReader::new(rules)
        .flatten()
        .find(|field| field.number == number)
        .and_then(|field| match field.value {
            WireValue::Bytes(value) => Some(value),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Message;

    /// Rules by the field of `validate.FieldRules` that this file reads.
    fn is_implemented(kind: u32, rule: u32) -> bool {
        match kind {
            1..=12 => (1..=8).contains(&rule),
            number::BOOL => rule == 1,
            number::STRING => matches!(rule, 2..=8 | 10 | 24..=26),
            number::BYTES => matches!(rule, 2 | 3),
            number::ENUM => matches!(rule, 1..=4),
            number::MESSAGE => matches!(rule, 1 | 2),
            number::REPEATED => matches!(rule, 1..=5),
            number::MAP => matches!(rule, 1 | 2 | 4..=6),
            number::ANY => rule == 1,
            number::DURATION => matches!(rule, 1..=8),
            _ => false,
        }
    }

    fn assert_implemented(name: &str, rules: &'static [u8]) {
        for WireField {
            number: kind,
            value,
        } in WireReader::new(rules).map(|field| field.expect("well formed"))
        {
            let WireValue::Bytes(inner) = value else {
                panic!("{name}: {kind} is no message")
            };
            for rule in WireReader::new(inner).map(|field| field.expect("well formed")) {
                assert!(
                    is_implemented(kind, rule.number),
                    "{name}: rule {} of {kind}",
                    rule.number
                );
                if let (number::STRING, 6, WireValue::Bytes(pattern)) =
                    (kind, rule.number, rule.value)
                {
                    matches_pattern(pattern, "");
                }
                if let (number::REPEATED, 4, WireValue::Bytes(items))
                | (number::MAP, 4 | 5, WireValue::Bytes(items)) = (kind, rule.number, rule.value)
                {
                    assert_implemented(name, items);
                }
            }
        }
    }

    #[test]
    fn every_rule_of_the_schema_is_implemented() {
        let mut with_rules = 0;
        for message in Message::all() {
            for field in message.fields() {
                assert_implemented(&format!("{message:?}.{field:?}"), field.rules());
                with_rules += usize::from(!field.rules().is_empty());
            }
        }
        assert!(with_rules > 1000, "{with_rules}");
    }
}
