//! The functions of the language.

use std::borrow::Cow;

use super::Options;
use super::strings::StringFunction;
use super::time::{self, Part};
use super::value::{List, Map, Value};
use crate::matchers::Regex;

/// A function, found by its name and how many arguments it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    ToInt,
    ToUint,
    ToDouble,
    ToBool,
    ToBytes,
    ToText,
    ToDuration,
    ToTimestamp,
    Dyn,
    Type,
    Time(Part),
    /// `re.extract`: the first match of a pattern, rewritten.
    Extract,
    /// `re.capture`: the first group of a pattern that matches the whole text.
    Capture,
    /// `re.captureN`: all its groups.
    CaptureAll,
    /// `strings.quote`
    Quote,
    Text(StringFunction),
}

impl Function {
    /// `is_method`: whether the first argument stands before the name.
    pub(super) fn find(
        name: &str,
        is_method: bool,
        count: usize,
        options: Options,
    ) -> Option<Self> {
        Some(match (name, is_method, count) {
            ("size", _, 1) => Self::Size,
            ("matches", _, 2) => Self::Matches,
            ("contains", true, 2) => Self::Contains,
            ("startsWith", true, 2) => Self::StartsWith,
            ("endsWith", true, 2) => Self::EndsWith,
            ("int", false, 1) => Self::ToInt,
            ("uint", false, 1) => Self::ToUint,
            ("double", false, 1) => Self::ToDouble,
            ("bool", false, 1) => Self::ToBool,
            ("bytes", false, 1) => Self::ToBytes,
            ("duration", false, 1) => Self::ToDuration,
            ("timestamp", false, 1) => Self::ToTimestamp,
            ("dyn", false, 1) => Self::Dyn,
            ("type", false, 1) => Self::Type,
            ("string", false, 1) if options.string_conversion => Self::ToText,
            // Behind the name `re`, which is nothing by itself.
            ("extract", true, 4) => Self::Extract,
            ("capture", true, 3) => Self::Capture,
            ("captureN", true, 3) => Self::CaptureAll,
            // Behind the name `strings`.
            ("quote", true, 2) if options.string_functions => Self::Quote,
            (_, true, 1 | 2) if Part::parse(name).is_some() => Self::Time(Part::parse(name)?),
            (_, true, _) if options.string_functions => {
                Self::Text(StringFunction::find(name, count)?)
            }
            _ => return None,
        })
    }

    /// None: the arguments are of the wrong types, or nothing comes of them.
    pub(super) fn call<'a>(self, args: &[Value<'a>]) -> Option<Value<'a>> {
        match (self, args) {
            (Self::Size, [value]) => size(value),
            (Self::Contains, [Value::String(text), Value::String(part)]) => {
                Some(Value::Bool(memchr::memmem::find(text, part).is_some()))
            }
            (Self::StartsWith, [Value::String(text), Value::String(part)]) => {
                Some(Value::Bool(text.starts_with(part)))
            }
            (Self::EndsWith, [Value::String(text), Value::String(part)]) => {
                Some(Value::Bool(text.ends_with(part)))
            }
            (Self::Matches, [Value::String(text), pattern]) => {
                Some(Value::Bool(regex(pattern)?.is_partial_match(text)))
            }
            (Self::ToInt, [value]) => to_int(value).map(Value::Int),
            (Self::ToUint, [value]) => to_uint(value).map(Value::Uint),
            (Self::ToDouble, [value]) => to_double(value).map(Value::Double),
            (Self::ToBool, [value]) => match value {
                Value::Bool(value) => Some(Value::Bool(*value)),
                value => match utf8(value)? {
                    "1" | "t" | "true" | "TRUE" | "True" => Some(Value::Bool(true)),
                    "0" | "f" | "false" | "FALSE" | "False" => Some(Value::Bool(false)),
                    _ => None,
                },
            },
            (Self::ToBytes, [Value::String(bytes) | Value::Bytes(bytes)]) => {
                Some(Value::Bytes(bytes.clone()))
            }
            (Self::ToText, [value]) => to_text(value),
            (Self::ToDuration, [Value::Duration(nanos)]) => Some(Value::Duration(*nanos)),
            (Self::ToDuration, [value]) => time::parse_duration(utf8(value)?).map(Value::Duration),
            (Self::ToTimestamp, [Value::Timestamp(nanos)]) => Some(Value::Timestamp(*nanos)),
            (Self::ToTimestamp, [Value::Int(seconds)]) => {
                time::timestamp(i128::from(*seconds) * 1_000_000_000).map(Value::Timestamp)
            }
            (Self::ToTimestamp, [value]) => {
                time::parse_timestamp(utf8(value)?).map(Value::Timestamp)
            }
            (Self::Dyn, [value]) => Some(value.clone()),
            (Self::Type, [value]) => Some(Value::Type(value.type_name())),
            (Self::Time(part), [Value::Timestamp(nanos)]) => {
                part.of_timestamp(*nanos, None).map(Value::Int)
            }
            (Self::Time(part), [Value::Timestamp(nanos), zone]) => {
                part.of_timestamp(*nanos, Some(utf8(zone)?)).map(Value::Int)
            }
            (Self::Time(part), [Value::Duration(nanos)]) => {
                part.of_duration(*nanos).map(Value::Int)
            }
            (Self::Text(function), args) => function.call(args),
            _ => None,
        }
    }

    /// The name before the functions of a library, which is the first argument and has no value.
    pub(super) fn library(self) -> Option<&'static str> {
        match self {
            Self::Extract | Self::Capture | Self::CaptureAll => Some("re"),
            Self::Quote => Some("strings"),
            _ => None,
        }
    }

    /// As `call`, without the name of the library.
    pub(super) fn call_of_library<'a>(self, args: &[Value<'a>]) -> Option<Value<'a>> {
        match (self, args) {
            (Self::Quote, [Value::String(text)]) => super::format::quote(text),
            (Self::Extract, [Value::String(text), pattern, Value::String(rewrite)]) => {
                extract(text, &regex(pattern)?, rewrite)
            }
            (Self::Capture, [Value::String(text), pattern]) => {
                let regex = regex(pattern)?;
                let groups = regex.full_captures(text)?;
                let group = groups.get(1)?.as_bytes().to_vec();
                (regex.group_count() == 1).then_some(Value::String(group.into()))
            }
            (Self::CaptureAll, [Value::String(text), pattern]) => {
                let regex = regex(pattern)?;
                let groups = regex.full_captures(text)?;
                let names = regex.as_bytes_regex().capture_names().enumerate().skip(1);
                let entries = names.map(|(number, name)| {
                    let group = groups
                        .get(number)
                        .map_or(&b""[..], |group| group.as_bytes());
                    let name = name.map_or_else(|| number.to_string(), str::to_owned);
                    (Value::owned(name), Value::String(group.to_vec().into()))
                });
                Some(Value::Map(Map::Values(entries.collect())))
            }
            _ => None,
        }
    }
}

fn utf8<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::String(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn regex(pattern: &Value<'_>) -> Option<Regex> {
    Regex::new(utf8(pattern)?).ok()
}

fn size(value: &Value<'_>) -> Option<Value<'static>> {
    let size = match value {
        Value::String(text) => String::from_utf8_lossy(text).chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        _ => return None,
    };
    i64::try_from(size).ok().map(Value::Int)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the range is looked at first, and fractions are cut off"
)]
fn to_int(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Uint(number) => i64::try_from(*number).ok(),
        Value::Double(number) => {
            let fits = *number > i64::MIN as f64 && *number < i64::MAX as f64;
            fits.then_some(*number as i64)
        }
        Value::Timestamp(nanos) => i64::try_from(nanos.div_euclid(1_000_000_000)).ok(),
        value => utf8(value)?.trim().parse().ok(),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the range is looked at first, and fractions are cut off"
)]
fn to_uint(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Uint(number) => Some(*number),
        Value::Double(number) => {
            let fits = *number >= 0.0 && *number < u64::MAX as f64;
            fits.then_some(*number as u64)
        }
        value => utf8(value)?.trim().parse().ok(),
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the nearest fraction is what is asked for"
)]
fn to_double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Uint(number) => Some(*number as f64),
        Value::Double(number) => Some(*number),
        value => utf8(value)?.trim().parse().ok(),
    }
}

fn to_text<'a>(value: &Value<'a>) -> Option<Value<'a>> {
    Some(Value::owned(match value {
        Value::String(text) => return Some(Value::String(text.clone())),
        Value::Bytes(bytes) => {
            std::str::from_utf8(bytes).ok()?;
            return Some(Value::String(bytes.clone()));
        }
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Duration(nanos) => time::json_duration(*nanos),
        Value::Timestamp(nanos) => time::json_timestamp(*nanos),
        Value::Null | Value::Type(_) | Value::List(_) | Value::Map(_) | Value::Message(_) => {
            return None;
        }
    }))
}

/// The first match of a pattern, with `\1` in its rewritten form for its first group.
fn extract<'a>(text: &[u8], regex: &Regex, rewrite: &[u8]) -> Option<Value<'a>> {
    let groups = regex.captures(text)?;
    let mut out = Vec::new();
    let mut bytes = rewrite.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        match bytes.next()? {
            b'\\' => out.push(b'\\'),
            digit if digit.is_ascii_digit() => {
                let number = usize::from(digit - b'0');
                if number > regex.group_count() {
                    return None;
                }
                let group = groups.get(number);
                out.extend_from_slice(group.map_or(&b""[..], |group| group.as_bytes()));
            }
            _ => return None,
        }
        if out.len() > super::strings::MAX_LEN {
            return None;
        }
    }
    Some(Value::String(Cow::Owned(out)))
}

/// The values of a list, for functions that make one.
pub(super) fn list<'a>(items: Vec<Value<'a>>) -> Value<'a> {
    Value::List(List::Values(items.into()))
}
