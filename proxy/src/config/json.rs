//! `google.protobuf.Struct` as JSON.

use outrigger_proto::pb::google::protobuf::{Struct, value::Kind};
use serde_json::{Map, Value};

/// The fields of a struct. What JSON cannot express (NaN, infinities) becomes null.
pub fn json_object(proto: Struct) -> Map<String, Value> {
    let fields = proto.fields.into_iter();
    fields
        .map(|(key, value)| (key, json_value(value.kind)))
        .collect()
}

fn json_value(kind: Option<Kind>) -> Value {
    match kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => {
            serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StructValue(object)) => Value::Object(json_object(object)),
        Some(Kind::ListValue(list)) => list
            .values
            .into_iter()
            .map(|value| json_value(value.kind))
            .collect(),
    }
}
