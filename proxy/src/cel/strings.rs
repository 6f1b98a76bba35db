//! Functions that make strings of strings, or of other values: only where `enable_string_functions` allows them.

use super::functions::list;
use super::value::Value;

/// How long a string may be that an expression makes, in bytes.
pub(super) const MAX_LEN: usize = 1 << 20;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StringFunction {
    LowerAscii,
    UpperAscii,
    Trim,
    Reverse,
    Replace,
    Split,
    Join,
    Substring,
    CharAt,
    IndexOf,
    LastIndexOf,
    Format,
}

impl StringFunction {
    /// The function of this name with as many arguments, the string itself among them.
    pub(super) fn find(name: &str, count: usize) -> Option<Self> {
        Some(match (name, count) {
            ("lowerAscii", 1) => Self::LowerAscii,
            ("upperAscii", 1) => Self::UpperAscii,
            ("trim", 1) => Self::Trim,
            ("reverse", 1) => Self::Reverse,
            ("replace", 3 | 4) => Self::Replace,
            ("split", 2 | 3) => Self::Split,
            ("join", 1 | 2) => Self::Join,
            ("substring", 2 | 3) => Self::Substring,
            ("charAt", 2) => Self::CharAt,
            ("indexOf", 2 | 3) => Self::IndexOf,
            ("lastIndexOf", 2 | 3) => Self::LastIndexOf,
            ("format", 2) => Self::Format,
            _ => return None,
        })
    }

    pub(super) fn call<'a>(self, args: &[Value<'a>]) -> Option<Value<'a>> {
        if self == Self::Join {
            return join_list(args);
        }
        let (Value::String(text), args) = args.split_first()? else {
            return None;
        };
        let text = std::str::from_utf8(text).ok()?;
        let string = |at: usize| match args.get(at)? {
            Value::String(text) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        let number = |at: usize| match args.get(at)? {
            Value::Int(number) => Some(*number),
            _ => None,
        };
        // How many of something; below zero: all.
        let limit = |at: usize| match args.get(at) {
            None => Some(usize::MAX),
            Some(_) => number(at).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        Some(match self {
            Self::LowerAscii => Value::owned(text.to_ascii_lowercase()),
            Self::UpperAscii => Value::owned(text.to_ascii_uppercase()),
            Self::Trim => Value::owned(text.trim().to_owned()),
            Self::Reverse => Value::owned(text.chars().rev().collect()),
            Self::Replace => replace(text, string(0)?, string(1)?, limit(2)?)?,
            Self::Split => {
                let parts = split(text, string(0)?, limit(1)?);
                list(parts.into_iter().map(Value::owned).collect())
            }
            Self::Substring => {
                let from = usize::try_from(number(0)?).ok()?;
                let chars = text.chars().count();
                let to = match args.get(1) {
                    None => chars,
                    Some(_) => usize::try_from(number(1)?).ok()?,
                };
                if from > to || to > chars {
                    return None;
                }
                Value::owned(text.chars().skip(from).take(to - from).collect())
            }
            Self::CharAt => {
                let at = usize::try_from(number(0)?).ok()?;
                let char = text.chars().nth(at);
                if char.is_none() && at != text.chars().count() {
                    return None;
                }
                Value::owned(char.map(String::from).unwrap_or_default())
            }
            Self::IndexOf | Self::LastIndexOf => {
                let from = match args.get(1) {
                    None => None,
                    Some(_) => Some(usize::try_from(number(1)?).ok()?),
                };
                index_of(text, string(0)?, from, self == Self::LastIndexOf)?
            }
            Self::Format => {
                let Value::List(values) = args.first()? else {
                    return None;
                };
                let values: Vec<_> = values.iter().collect();
                super::format::format(text, &values)?
            }
            Self::Join => return None,
        })
    }
}

/// The parts one after the other, unless that is too long.
pub(super) fn join<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for part in parts {
        if out.len() + part.len() > MAX_LEN {
            return None;
        }
        out.extend_from_slice(part);
    }
    Some(out)
}

fn join_list<'a>(args: &[Value<'a>]) -> Option<Value<'a>> {
    let (items, separator) = match args {
        [Value::List(items)] => (items, &b""[..]),
        [Value::List(items), Value::String(separator)] => (items, &**separator),
        _ => return None,
    };
    let mut out = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Value::String(item) = item else {
            return None;
        };
        if index > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(&item);
        if out.len() > MAX_LEN {
            return None;
        }
    }
    Some(Value::String(out.into()))
}

fn replace<'a>(text: &str, old: &str, new: &str, limit: usize) -> Option<Value<'a>> {
    let count = text.matches(old).count().min(limit);
    let grown = text.len() + count * new.len();
    (grown <= MAX_LEN).then(|| Value::owned(text.replacen(old, new, limit)))
}

fn split(text: &str, separator: &str, limit: usize) -> Vec<String> {
    if limit == 0 {
        return Vec::new();
    }
    if separator.is_empty() {
        let mut chars = text.chars();
        let mut parts: Vec<String> = chars.by_ref().take(limit - 1).map(String::from).collect();
        let rest = chars.as_str();
        if !rest.is_empty() {
            parts.push(rest.to_owned());
        }
        return parts;
    }
    text.splitn(limit, separator).map(str::to_owned).collect()
}

/// Where a part stands, in characters; -1: nowhere.
fn index_of<'a>(text: &str, part: &str, from: Option<usize>, last: bool) -> Option<Value<'a>> {
    let chars = text.chars().count();
    if from.is_some_and(|from| from > chars) {
        return None;
    }
    let byte_of = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
    let found = if last {
        let end = from.map_or(text.len(), |from| {
            let end = byte_of(from).saturating_add(part.len()).min(text.len());
            (end..=text.len())
                .find(|end| text.is_char_boundary(*end))
                .unwrap_or(text.len())
        });
        text.get(..end)?.rfind(part)
    } else {
        let start = from.map_or(0, byte_of);
        text.get(start..)?.find(part).map(|at| at + start)
    };
    let index = match found {
        Some(byte) => i64::try_from(text.get(..byte)?.chars().count()).ok()?,
        None => -1,
    };
    Some(Value::Int(index))
}
