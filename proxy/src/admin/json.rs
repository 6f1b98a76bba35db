//! JSON pages.

use outrigger_proto::json::{self, Style};
use outrigger_proto::schema::{Field, Kind, Message, WellKnown};
use prost::Name;
use serde_json::{Map, Value};

use super::{JSON, Response};

/// Envoy's style: one space for each level.
pub(super) const STYLE: Style = Style {
    pretty: true,
    redact: true,
};

/// A page with a message.
pub(super) fn message<M: Name>(message: &M) -> Response {
    match json::to_json(message, STYLE) {
        Ok(json) => Response::new(JSON, with_line_end(json)),
        Err(error) => Response::error(500, error.to_string()),
    }
}

/// A page with a message, where plain fields show their default values too.
pub(super) fn message_with_defaults<M: Name>(message: &M) -> Response {
    match value(message) {
        Ok(mut value) => {
            add_defaults(&mut value, Message::by_name(&M::full_name()));
            page(&value)
        }
        Err(error) => Response::error(500, error),
    }
}

/// A page with a value.
pub(super) fn page(value: &Value) -> Response {
    // Two spaces a level, of which one is taken away: no text in JSON holds a line break.
    let wide = format!("{value:#}");
    let mut out = String::with_capacity(wide.len());
    for line in wide.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        out.push_str(&line[indent / 2..]);
        out.push('\n');
    }
    Response::new(JSON, out)
}

/// A message as a JSON value.
pub(super) fn value<M: Name>(message: &M) -> Result<Value, String> {
    let text = json::to_json(message, STYLE).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn with_line_end(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Adds the plain fields that are left out because they hold their default.
fn add_defaults(value: &mut Value, message: Option<Message>) {
    let (Value::Object(object), Some(message)) = (value, message) else {
        return;
    };
    if message.well_known().is_some() {
        return;
    }
    for field in message.fields() {
        match object.get_mut(field.name()) {
            Some(Value::Array(items)) => {
                let inner = inner(field);
                items.iter_mut().for_each(|item| add_defaults(item, inner));
            }
            Some(present) => add_defaults(present, inner(field)),
            None => insert_default(object, field),
        }
    }
}

fn inner(field: Field) -> Option<Message> {
    match field.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn insert_default(object: &mut Map<String, Value>, field: Field) {
    if field.oneof().is_some() || field.is_deprecated() {
        return;
    }
    let value = if field.map_entry().is_some() {
        Value::Object(Map::new())
    } else if field.is_repeated() {
        Value::Array(Vec::new())
    } else {
        match field.kind() {
            Kind::Message(_) => return,
            _ if field.has_presence() => return,
            Kind::Bool => Value::Bool(false),
            Kind::String | Kind::Bytes => Value::String(String::new()),
            Kind::Int64 | Kind::Uint64 | Kind::Fixed64 | Kind::Sfixed64 | Kind::Sint64 => {
                Value::String("0".to_owned())
            }
            Kind::Enum(of) => of
                .value_by_number(0)
                .map_or(Value::Null, |value| Value::String(value.name().to_owned())),
            Kind::Double
            | Kind::Float
            | Kind::Int32
            | Kind::Fixed32
            | Kind::Uint32
            | Kind::Sfixed32
            | Kind::Sint32 => Value::from(0),
        }
    };
    object.insert(field.name().to_owned(), value);
}

/// The message inside a field, unless JSON writes it in a form of its own.
pub(super) fn plain_message(field: Field) -> Option<Message> {
    inner(field).filter(|message| message.well_known() != Some(WellKnown::Any))
}
