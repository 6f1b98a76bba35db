//! Configuration texts to messages, as Envoy reads them: YAML, JSON, the protobuf text format and encoded messages.
//!
//! JSON follows the canonical protobuf mapping with the liberties that Envoy takes: names in snake_case and
//! lowerCamelCase side by side, enum values by name in any case or by number, numbers and booleans in quotes, one
//! element for a list of one, and `null` for "not set". Every error of a text is reported, each with file, line and
//! path, except after a syntax error.
//!
//! Deviations: Envoy's YAML parser takes four things that YAML does not allow: a comment right after a closing quote
//! (`"a"#b`), lines of a quoted scalar or of a flow collection (`{…}`, `[…]`) that are not indented more than the block it
//! stands in, and a stray `%` where a directive may be.
//! They are syntax errors here. `google.protobuf.FieldMask`, which no configuration uses, is not known.

mod encode;
mod locate;
mod node;
mod put;
mod read_json;
mod read_struct;
mod read_yaml;
mod scalar;
mod text_format;

use std::fmt;
use std::path::Path;

use prost::Name;

use crate::pb::envoy::config::bootstrap::v3::Bootstrap;
use crate::schema::Message;
use crate::wire::Malformed;
use encode::Options;
use node::SyntaxError;

/// How a configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML; only the first document of a file is read.
    Yaml,
    /// JSON.
    Json,
    /// An encoded message.
    Binary,
    /// The protobuf text format.
    Text,
}

impl Format {
    /// The format of a file by the end of its name: `.pb`, `.pb_text`, `.yaml` and `.yml` in any case; JSON else.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        let is = |name: &str| extension.eq_ignore_ascii_case(name);
        if is("yaml") || is("yml") {
            Self::Yaml
        } else if is("pb") {
            Self::Binary
        } else if is("pb_text") {
            Self::Text
        } else {
            Self::Json
        }
    }
}

/// One configuration, whole or in part.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What to call it in errors: the file name, or for example `--config-yaml`.
    pub name: &'a str,
    /// How it is written.
    pub format: Format,
    /// The content.
    pub bytes: &'a [u8],
}

/// What to do with fields and enum names that no message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are errors. Envoy's default for static configuration.
    #[default]
    Refuse,
    /// They are left out: `--allow-unknown-static-fields`.
    Ignore,
}

/// What is wrong, for those who treat errors differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is not YAML, JSON, or an encoded message.
    Syntax,
    /// A value has the wrong type or is out of the type's range, or a value is missing.
    Type,
    /// A field or an enum name does not exist.
    UnknownField,
    /// An `@type` names no message that is known.
    UnknownType,
}

/// One error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// The name of the source.
    pub file: String,
    /// The line, from 1; 0 where lines mean nothing.
    pub line: u32,
    /// The field, such as `static_resources.listeners[0].address`; empty for the whole.
    pub path: String,
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// What is wrong, and what is legal.
    pub reason: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            path,
            kind: _,
            reason,
        } = self;
        out.write_str(file)?;
        if *line > 0 {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if !path.is_empty() {
            write!(out, "{path}: ")?;
        }
        out.write_str(reason)
    }
}

/// Loads a bootstrap. Later sources are merged into earlier ones as protobuf's `MergeFrom` does: single values
/// replace, messages merge, lists are appended, map entries replace those with the same key.
///
/// # Errors
/// Every error of every source.
pub fn load_bootstrap(
    sources: &[Source<'_>],
    unknown: UnknownFields,
) -> Result<Bootstrap, Vec<LoadError>> {
    load(sources, unknown)
}

/// Loads a message, merged from `sources` as [`load_bootstrap`] says.
///
/// # Errors
/// Every error of every source.
pub fn load<M: Name + Default>(
    sources: &[Source<'_>],
    unknown: UnknownFields,
) -> Result<M, Vec<LoadError>> {
    let bytes = encode(&M::full_name(), sources, unknown)?;
    M::decode(bytes.as_slice()).map_err(|error| {
        let file = sources
            .iter()
            .map(|source| source.name)
            .collect::<Vec<_>>()
            .join(", ");
        vec![LoadError {
            file,
            line: 0,
            path: String::new(),
            kind: ErrorKind::Syntax,
            reason: format!("not a {}: {error}", M::full_name()),
        }]
    })
}

/// Encodes a message of the type `full_name`, merged from `sources` as [`load_bootstrap`] says. The bytes hold
/// fields that the Rust types lack ([`crate::ours`]) too.
///
/// # Errors
/// Every error of every source. An encoded source is passed on as it is.
pub fn encode(
    full_name: &str,
    sources: &[Source<'_>],
    unknown: UnknownFields,
) -> Result<Vec<u8>, Vec<LoadError>> {
    let mut errors = Vec::new();
    let mut out = Vec::new();
    let message = Message::by_name(full_name);
    for source in sources {
        match message {
            // One encoding after the other is the encoding of the merged message.
            Some(message) => out.extend(encode_source(message, source, unknown, &mut errors)),
            None => errors.push(error(
                source,
                0,
                ErrorKind::UnknownType,
                format!("no message {full_name} is known"),
            )),
        }
    }
    if errors.is_empty() {
        Ok(out)
    } else {
        Err(errors)
    }
}

/// File and line of a field of a message that was loaded from `sources`: of the field itself, or of the nearest thing
/// around it that is written down. None if the path is no path, or if lines mean nothing in these formats.
///
/// This reads the sources again. It is for errors that are found later, such as those of [`crate::validate`], whose
/// paths have this form: `static_resources.clusters[0].metadata.filter_metadata["envoy.lb"]`. What is inside an `Any`
/// follows without a word for the `Any` itself.
#[must_use]
pub fn locate(full_name: &str, sources: &[Source<'_>], path: &str) -> Option<(String, u32)> {
    locate::locate(Message::by_name(full_name)?, sources, path)
}

/// Encodes a message from an encoded `google.protobuf.Struct`. Errors name the file `TypedStruct`.
pub(crate) fn encode_struct(
    message: Message,
    structure: &[u8],
    unknown: UnknownFields,
) -> Result<Result<Vec<u8>, Vec<LoadError>>, Malformed> {
    let document = read_struct::read(structure)?;
    let mut errors = Vec::new();
    let out = encode::encode(
        &document,
        message,
        Options {
            file: "TypedStruct",
            unknown,
        },
        &mut errors,
    );
    Ok(if errors.is_empty() {
        Ok(out)
    } else {
        Err(errors)
    })
}

fn encode_source(
    message: Message,
    source: &Source<'_>,
    unknown: UnknownFields,
    errors: &mut Vec<LoadError>,
) -> Vec<u8> {
    if source.format == Format::Binary {
        return source.bytes.to_vec();
    }
    let text = match std::str::from_utf8(source.bytes) {
        Ok(text) => text,
        Err(wrong) => {
            let lines = source.bytes[..wrong.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            let line = u32::try_from(lines + 1).unwrap_or(u32::MAX);
            errors.push(error(
                source,
                line,
                ErrorKind::Syntax,
                "not UTF-8".to_owned(),
            ));
            return Vec::new();
        }
    };
    let document = match source.format {
        Format::Yaml => read_yaml::read(text),
        Format::Text => return text_format::encode(text, message, source.name, errors),
        Format::Json | Format::Binary => read_json::read(text),
    };
    match document {
        Ok(document) => encode::encode(
            &document,
            message,
            Options {
                file: source.name,
                unknown,
            },
            errors,
        ),
        Err(SyntaxError { line, reason }) => {
            errors.push(error(source, line, ErrorKind::Syntax, reason));
            Vec::new()
        }
    }
}

fn error(source: &Source<'_>, line: u32, kind: ErrorKind, reason: String) -> LoadError {
    LoadError {
        file: source.name.to_owned(),
        line,
        path: String::new(),
        kind,
        reason,
    }
}

#[cfg(test)]
mod tests;
