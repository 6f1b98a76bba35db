//! A tree to the encoded message that it describes.

use super::node::{Document, Entry, Node, NodeId, Value, first_repeated};
use super::put::{put_default, put_int, put_nonzero, put_scalar};
use super::{ErrorKind, LoadError, UnknownFields, scalar};
use crate::schema::{Enum, Field, Kind, Message, WellKnown};
use crate::wire;

/// Protobuf's own limit for nested JSON.
const MAX_DEPTH: usize = 100;
/// Values read in all, aliases counted each time, so that aliases of aliases cannot exhaust the memory.
const MAX_VALUES: u32 = 10_000_000;
/// Errors reported of one text; nobody reads more.
const MAX_ERRORS: usize = 1_000;

/// Encodes the root of `document` as a `message`. The bytes are of use only if `errors` got none.
pub(crate) fn encode(
    document: &Document<'_>,
    message: Message,
    options: Options<'_>,
    errors: &mut Vec<LoadError>,
) -> Vec<u8> {
    let mut encoder = Encoder {
        document,
        options,
        path: Vec::new(),
        depth: 0,
        values: 0,
        errors,
    };
    let mut out = Vec::new();
    let root = document.node(document.root);
    match &root.value {
        Value::Map(_) => encoder.message(document.root, message, &mut out),
        other => encoder.fail(
            root.line,
            ErrorKind::Type,
            format!("expected an object, found {}", other.describe()),
        ),
    }
    out
}

/// Where a text comes from and how to treat it.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a> {
    pub(crate) file: &'a str,
    pub(crate) unknown: UnknownFields,
}

struct Encoder<'d, 'a, 'e> {
    document: &'d Document<'a>,
    options: Options<'d>,
    path: Vec<Step<'d>>,
    depth: usize,
    values: u32,
    errors: &'e mut Vec<LoadError>,
}

#[derive(Clone, Copy)]
enum Step<'d> {
    Field(&'d str),
    Index(usize),
    Key(&'d str),
}

impl<'d, 'a> Encoder<'d, 'a, '_> {
    /// Writes what stands inside a message of this type.
    fn message(&mut self, id: NodeId, message: Message, out: &mut Vec<u8>) {
        let node = self.document.node(id);
        if !self.descend(node.line) {
            return;
        }
        match (message.well_known(), &node.value) {
            (Some(WellKnown::Any), _) => self.any(node, out),
            (Some(WellKnown::Value), _) => self.value(id, out),
            (Some(WellKnown::Struct), _) => self.structure(node, out),
            (Some(WellKnown::ListValue), Value::List(items)) => self.list_value(items, out),
            (Some(WellKnown::Duration), Value::Text(text)) => {
                self.time(node.line, scalar::duration(text), out)
            }
            (Some(WellKnown::Timestamp), Value::Text(text)) => {
                self.time(node.line, scalar::timestamp(text), out)
            }
            (Some(WellKnown::Duration), Value::Number(text)) => {
                let reason = format!("expected a duration, found the number {text}; write {text}s");
                self.fail(node.line, ErrorKind::Type, reason);
            }
            (Some(WellKnown::Wrapper), value) if !matches!(value, Value::Map(_)) => {
                if let Some(inner) = message.field_by_number(1) {
                    self.singular(id, inner, out);
                }
            }
            (_, Value::Map(entries)) => self.fields(entries, message, None, out),
            (known, other) => {
                let wanted = match known {
                    Some(WellKnown::Duration) => "a duration such as 0.25s".to_owned(),
                    Some(WellKnown::Timestamp) => "a time such as 2026-01-02T03:04:05Z".to_owned(),
                    _ => format!("an object ({})", message.full_name()),
                };
                self.fail(
                    node.line,
                    ErrorKind::Type,
                    format!("expected {wanted}, found {}", other.describe()),
                );
            }
        }
        self.depth -= 1;
    }

    fn fields(
        &mut self,
        entries: &'d [Entry<'a>],
        message: Message,
        skip: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let mut oneofs: Vec<(u16, &str)> = Vec::new();
        for entry in entries {
            if skip == Some(entry.key.as_ref()) {
                continue;
            }
            let Some(field) = message.field_by_name(&entry.key) else {
                self.unknown_field(entry, message);
                continue;
            };
            self.path.push(Step::Field(&entry.key));
            let is_null = matches!(self.document.node(entry.value).value, Value::Null);
            if let Some(oneof) = field.oneof().filter(|_| !is_null) {
                if let Some((_, other)) = oneofs.iter().find(|(set, _)| *set == oneof) {
                    let reason = format!("cannot be set together with {other:?}");
                    self.fail(entry.line, ErrorKind::Type, reason);
                }
                oneofs.push((oneof, &entry.key));
            }
            self.field(entry.value, field, out);
            self.path.pop();
        }
    }

    fn field(&mut self, id: NodeId, field: Field, out: &mut Vec<u8>) {
        let node = self.document.node(id);
        if let Some(entry) = field.map_entry() {
            self.map(node, field, entry, out);
        } else if !field.is_repeated() {
            self.singular(id, field, out);
        } else if let Value::List(items) = &node.value {
            self.list(items, field, out);
        } else {
            // Protobuf takes a single element for a list of one.
            self.singular(id, field, out);
        }
    }

    fn list(&mut self, items: &'d [NodeId], field: Field, out: &mut Vec<u8>) {
        let keeps_lists = matches!(field.kind(), Kind::Message(message) if matches!(message.well_known(), Some(WellKnown::Value | WellKnown::ListValue)));
        for (index, item) in items.iter().enumerate() {
            let node = self.document.node(*item);
            if !self.count(node.line) {
                return;
            }
            self.path.push(Step::Index(index));
            match &node.value {
                // Protobuf flattens a list inside a list, and reads null as an empty element.
                Value::List(inner) if !keeps_lists && self.depth < MAX_DEPTH => {
                    self.depth += 1;
                    self.list(inner, field, out);
                    self.depth -= 1;
                }
                Value::Null if !keeps_lists => put_default(field, out),
                _ => self.singular(*item, field, out),
            }
            self.path.pop();
        }
    }

    /// The entries of an object, each key once. Null has none; anything else is an error.
    fn entries(&mut self, node: &'d Node<'a>) -> Option<&'d [Entry<'a>]> {
        match &node.value {
            Value::Map(entries) => {
                self.refuse_repeated(entries);
                Some(entries)
            }
            Value::Null => None,
            other => {
                let found = other.describe();
                let message = format!("expected an object, found {found}");
                self.fail(node.line, ErrorKind::Type, message);
                None
            }
        }
    }

    fn map(&mut self, node: &'d Node<'a>, field: Field, entry: Message, out: &mut Vec<u8>) {
        let Some(entries) = self.entries(node) else {
            return;
        };
        let (Some(key_field), Some(value_field)) =
            (entry.field_by_number(1), entry.field_by_number(2))
        else {
            return;
        };
        for Entry { line, key, value } in entries {
            self.path.push(Step::Key(key));
            let start = wire::begin_field(out, field.number());
            if let Err(reason) = put_scalar(&Value::Text(key.clone()), key_field, out) {
                self.fail(*line, ErrorKind::Type, reason);
            }
            self.singular(*value, value_field, out);
            wire::end_field(out, start);
            self.path.pop();
        }
    }

    fn singular(&mut self, id: NodeId, field: Field, out: &mut Vec<u8>) {
        let node = self.document.node(id);
        if !self.count(node.line) {
            return;
        }
        match field.kind() {
            Kind::Message(message) => {
                if matches!(node.value, Value::Null)
                    && message.well_known() != Some(WellKnown::Value)
                {
                    return;
                }
                let start = wire::begin_field(out, field.number());
                self.message(id, message, out);
                wire::end_field(out, start);
            }
            _ if matches!(node.value, Value::Null) => {}
            Kind::Enum(kind) => self.enumeration(node, kind, field, out),
            _ => {
                if let Err(reason) = put_scalar(&node.value, field, out) {
                    self.fail(node.line, ErrorKind::Type, reason);
                }
            }
        }
    }

    fn enumeration(&mut self, node: &Node<'_>, kind: Enum, field: Field, out: &mut Vec<u8>) {
        let number = match &node.value {
            Value::Text(text) => match kind.value_by_name(text) {
                Some(value) => Ok(i128::from(value.number())),
                None => scalar::integer(text.trim_ascii(), i32::MIN.into(), i32::MAX.into())
                    .map_err(|_| (ErrorKind::UnknownField, text.to_string())),
            },
            Value::Number(text) => scalar::integer(text, i32::MIN.into(), i32::MAX.into())
                .map_err(|_| (ErrorKind::Type, text.to_string())),
            other => Err((ErrorKind::Type, other.describe())),
        };
        match number {
            Ok(number) => put_int(out, field, number),
            Err((ErrorKind::UnknownField, _)) if self.options.unknown == UnknownFields::Ignore => {}
            Err((error, found)) => {
                let names: Vec<_> = kind.values().map(|value| value.name()).collect();
                self.fail(
                    node.line,
                    error,
                    format!(
                        "{found} is no {}; one of {}",
                        kind.full_name(),
                        names.join(", ")
                    ),
                );
            }
        }
    }

    fn any(&mut self, node: &'d Node<'a>, out: &mut Vec<u8>) {
        let Value::Map(entries) = &node.value else {
            return self.fail(
                node.line,
                ErrorKind::Type,
                format!(
                    "expected an object with \"@type\", found {}",
                    node.value.describe()
                ),
            );
        };
        let Some(entry) = entries.iter().find(|entry| entry.key == "@type") else {
            if !entries.is_empty() {
                self.fail(
                    node.line,
                    ErrorKind::Type,
                    "\"@type\" is missing; it says which message this is".to_owned(),
                );
            }
            return;
        };
        let Value::Text(url) = &self.document.node(entry.value).value else {
            return self.fail(
                entry.line,
                ErrorKind::Type,
                "\"@type\" has to be a string".to_owned(),
            );
        };
        let Some((_, name)) = url
            .rsplit_once('/')
            .filter(|(host, name)| !host.is_empty() && !name.is_empty())
        else {
            let reason = format!(
                "\"@type\" is {url:?}; it has to be a URL such as type.googleapis.com/envoy.config.core.v3.Node"
            );
            return self.fail(entry.line, ErrorKind::UnknownType, reason);
        };
        let Some(message) = Message::by_name(name) else {
            return self.fail(
                entry.line,
                ErrorKind::UnknownType,
                format!("\"@type\" is {url:?}; no such message is known"),
            );
        };
        wire::put_bytes_field(out, 1, url.as_bytes());
        let start = wire::begin_field(out, 2);
        if message
            .well_known()
            .is_some_and(|known| known != WellKnown::Empty)
        {
            for entry in entries.iter().filter(|entry| entry.key != "@type") {
                if entry.key == "value" {
                    self.path.push(Step::Field("value"));
                    self.message(entry.value, message, out);
                    self.path.pop();
                } else {
                    self.unknown_field(entry, message);
                }
            }
        } else {
            self.fields(entries, message, Some("@type"), out);
        }
        wire::end_field(out, start);
    }

    fn structure(&mut self, node: &'d Node<'a>, out: &mut Vec<u8>) {
        let Some(entries) = self.entries(node) else {
            return;
        };
        for entry in entries {
            self.path.push(Step::Key(&entry.key));
            let start = wire::begin_field(out, 1);
            wire::put_bytes_field(out, 1, entry.key.as_bytes());
            self.value_field(2, entry.value, out);
            wire::end_field(out, start);
            self.path.pop();
        }
    }

    fn list_value(&mut self, items: &'d [NodeId], out: &mut Vec<u8>) {
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            self.value_field(1, *item, out);
            self.path.pop();
        }
    }

    fn value_field(&mut self, number: u32, id: NodeId, out: &mut Vec<u8>) {
        let start = wire::begin_field(out, number);
        let line = self.document.node(id).line;
        if self.count(line) && self.descend(line) {
            self.value(id, out);
            self.depth -= 1;
        }
        wire::end_field(out, start);
    }

    /// Writes what stands inside a `google.protobuf.Value`.
    fn value(&mut self, id: NodeId, out: &mut Vec<u8>) {
        let node = self.document.node(id);
        match &node.value {
            Value::Null => wire::put_varint_field(out, 1, 0),
            Value::Number(text) => match scalar::float(text) {
                Some(number) => wire::put_fixed64_field(out, 2, number.to_bits()),
                None => self.fail(node.line, ErrorKind::Type, format!("{text} is no number")),
            },
            Value::Text(text) => wire::put_bytes_field(out, 3, text.as_bytes()),
            Value::Bool(value) => wire::put_varint_field(out, 4, u64::from(*value)),
            Value::Map(_) => {
                let start = wire::begin_field(out, 5);
                self.structure(node, out);
                wire::end_field(out, start);
            }
            Value::List(items) => {
                let start = wire::begin_field(out, 6);
                self.list_value(items, out);
                wire::end_field(out, start);
            }
        }
    }

    fn time(&mut self, line: u32, time: Result<(i64, i32), String>, out: &mut Vec<u8>) {
        match time {
            Ok((seconds, nanos)) => {
                put_nonzero(out, 1, seconds.cast_unsigned());
                put_nonzero(out, 2, i64::from(nanos).cast_unsigned());
            }
            Err(reason) => self.fail(line, ErrorKind::Type, reason),
        }
    }

    /// Keys of a map have to differ. (Of two equal fields of a message the later one is merged into the earlier one, and
    /// YAML has dropped all equal keys but the last before this.)
    fn refuse_repeated(&mut self, entries: &[Entry<'_>]) {
        if let Some(entry) = first_repeated(entries) {
            let reason = format!("the key {:?} is there twice", entry.key);
            self.fail(entry.line, ErrorKind::Type, reason);
        }
    }

    fn unknown_field(&mut self, entry: &Entry<'_>, message: Message) {
        if self.options.unknown == UnknownFields::Ignore {
            return;
        }
        let mut reason = format!("no such field {:?} in {}", entry.key, message.full_name());
        if let Some(near) = nearest(&entry.key, message) {
            reason.push_str(&format!("; did you mean {near:?}?"));
        }
        self.fail(entry.line, ErrorKind::UnknownField, reason);
    }

    /// Counts one value. Reports once when there are too many, and refuses the rest.
    fn count(&mut self, line: u32) -> bool {
        if self.values == MAX_VALUES {
            self.fail(
                line,
                ErrorKind::Type,
                format!("more than {MAX_VALUES} values, aliases counted each time"),
            );
        }
        self.values = self.values.saturating_add(1).min(MAX_VALUES + 1);
        self.values <= MAX_VALUES
    }

    /// Goes one level deeper, if there is one; whoever calls it comes back up.
    fn descend(&mut self, line: u32) -> bool {
        if self.depth == MAX_DEPTH {
            self.fail(
                line,
                ErrorKind::Type,
                format!("nested more than {MAX_DEPTH} levels deep"),
            );
            return false;
        }
        self.depth += 1;
        true
    }

    fn fail(&mut self, line: u32, kind: ErrorKind, reason: String) {
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        let path = render(&self.path);
        self.errors.push(LoadError {
            file: self.options.file.to_owned(),
            line,
            path,
            kind,
            reason,
        });
    }
}

fn render(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.push_str(&format!(".{name}")),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) => text.push_str(&format!("[{key:?}]")),
        }
    }
    text
}

/// The field whose name needs the fewest changes to become `name`, if two are enough.
pub(super) fn nearest(name: &str, message: Message) -> Option<&'static str> {
    message
        .fields()
        .map(|field| (distance(name, field.name()), field.name()))
        .filter(|(distance, candidate)| {
            *distance <= 2 && *distance < candidate.len().min(name.len())
        })
        .min()
        .map(|(_, name)| name)
}

fn distance(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > 2 || left.len() > 200 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.bytes().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(from != to))
                .min(above + 1)
                .min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}
