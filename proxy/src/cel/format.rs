//! `format` and `strings.quote`: values as text.

use super::number;
use super::strings::MAX_LEN;
use super::time;
use super::value::{Map, Value};

/// Digits after the point, where a clause names none.
const PRECISION: usize = 6;

/// The most digits that a clause may name.
const MAX_PRECISION: usize = 1000;

/// `format`: the template with its clauses filled in. None: there is no argument for one, or no such clause.
pub(super) fn format<'a>(template: &str, args: &[Value<'_>]) -> Option<Value<'a>> {
    let mut out = Vec::with_capacity(template.len());
    let mut args = args.iter();
    let mut rest = template;
    while let Some((text, clause)) = rest.split_once('%') {
        out.extend_from_slice(text.as_bytes());
        rest = match clause.strip_prefix('%') {
            Some(after) => {
                out.push(b'%');
                after
            }
            None => {
                let (precision, clause) = precision(clause)?;
                let mut chars = clause.chars();
                write_clause(chars.next()?, precision, args.next()?, &mut out)?;
                chars.as_str()
            }
        };
        if out.len() > MAX_LEN {
            return None;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    (out.len() <= MAX_LEN).then(|| Value::String(out.into()))
}

/// The digits after the point that `.3` asks for, and what follows.
fn precision(clause: &str) -> Option<(usize, &str)> {
    let Some(digits) = clause.strip_prefix('.') else {
        return Some((PRECISION, clause));
    };
    let end = digits.find(|char: char| !char.is_ascii_digit())?;
    let (digits, rest) = digits.split_at(end);
    let precision = digits.parse().ok()?;
    (precision <= MAX_PRECISION).then_some((precision, rest))
}

fn write_clause(
    clause: char,
    precision: usize,
    value: &Value<'_>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let text = match clause {
        's' => return write(value, out),
        'd' => match value {
            Value::Int(number) => number.to_string(),
            Value::Uint(number) => number.to_string(),
            Value::Double(number) => named(*number).unwrap_or_else(|| format!("{number:.6}")),
            _ => return None,
        },
        'f' => {
            let number = fraction(value)?;
            named(number).unwrap_or_else(|| format!("{number:.precision$}"))
        }
        'e' => {
            let number = fraction(value)?;
            named(number).unwrap_or_else(|| scientific(number, precision))
        }
        'b' => match value {
            Value::Bool(value) => u8::from(*value).to_string(),
            value => {
                let (sign, number) = whole(value)?;
                format!("{sign}{number:b}")
            }
        },
        'o' => {
            let (sign, number) = whole(value)?;
            format!("{sign}{number:o}")
        }
        'x' => hexadecimal(value)?,
        'X' => hexadecimal(value)?.to_ascii_uppercase(),
        _ => return None,
    };
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// The sign and the rest of a number without fraction.
fn whole(value: &Value<'_>) -> Option<(&'static str, u64)> {
    match value {
        Value::Int(number) => {
            let sign = if *number < 0 { "-" } else { "" };
            Some((sign, number.unsigned_abs()))
        }
        Value::Uint(number) => Some(("", *number)),
        _ => None,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the nearest fraction is what is asked for"
)]
fn fraction(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Uint(number) => Some(*number as f64),
        Value::Double(number) => Some(*number),
        Value::String(text) => match &**text {
            b"NaN" => Some(f64::NAN),
            b"Infinity" => Some(f64::INFINITY),
            b"-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// What has no digits.
fn named(number: f64) -> Option<String> {
    let name = match number {
        number if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return None,
    };
    Some(name.to_owned())
}

fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn hexadecimal(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(bytes) | Value::Bytes(bytes) => {
            Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        value => {
            let (sign, number) = whole(value)?;
            Some(format!("{sign}{number:x}"))
        }
    }
}

/// Any value as `%s` shows it.
fn write(value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    if out.len() > MAX_LEN {
        return None;
    }
    let text = match value {
        Value::String(bytes) | Value::Bytes(bytes) => {
            out.extend_from_slice(bytes);
            return Some(());
        }
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => named(*number).unwrap_or_else(|| number::short(*number)),
        Value::Duration(nanos) => time::json_duration(*nanos),
        Value::Timestamp(nanos) => time::json_timestamp(*nanos),
        Value::Type(name) => (*name).to_owned(),
        Value::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.extend_from_slice(b", ");
                }
                write(&item, out)?;
            }
            out.push(b']');
            return Some(());
        }
        Value::Map(map) => return write_map(map, out),
        Value::Message(_) => return None,
    };
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// A map in the order of its keys, as texts.
fn write_map(map: &Map<'_>, out: &mut Vec<u8>) -> Option<()> {
    let mut entries = Vec::new();
    for (key, value) in map.entries()? {
        let (mut name, mut text) = (Vec::new(), Vec::new());
        write(&key, &mut name)?;
        write(&value, &mut text)?;
        entries.push((name, text));
    }
    entries.sort_unstable();
    out.push(b'{');
    for (index, (name, text)) in entries.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(text);
    }
    out.push(b'}');
    Some(())
}

/// `strings.quote`: the text as it stands in an expression.
pub(super) fn quote<'a>(text: &[u8]) -> Option<Value<'a>> {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in String::from_utf8_lossy(text).chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char => out.push(char),
        }
    }
    out.push('"');
    (out.len() <= MAX_LEN).then(|| Value::owned(out))
}
