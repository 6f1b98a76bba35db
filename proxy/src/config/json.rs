//! `google.protobuf.Struct` as JSON.

use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_proto::pb::google::protobuf::{Struct, value::Kind};
use serde_json::{Map, Number, Value};

/// The fields of a struct. What JSON cannot express (NaN, infinities) becomes null.
pub fn json_object(proto: Struct) -> Map<String, Value> {
    let fields = proto.fields.into_iter();
    fields
        .map(|(key, value)| (key, json_value(value.kind)))
        .collect()
}

/// A value. What JSON cannot express becomes null, and so does a value that is not there.
pub fn json_value(kind: Option<Kind>) -> Value {
    match kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(value)) => number(value),
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

/// The struct with these fields.
pub fn json_to_struct(fields: &Map<String, Value>) -> Struct {
    let fields = fields.iter();
    Struct {
        fields: fields
            .map(|(key, value)| (key.clone(), json_to_value(value)))
            .collect(),
    }
}

/// The value that this is in protobuf. Numbers that only an integer of 64 bits can hold are rounded.
pub fn json_to_value(value: &Value) -> wkt::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(wkt::ListValue {
            values: values.iter().map(json_to_value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(json_to_struct(fields)),
    };
    wkt::Value { kind: Some(kind) }
}

/// Whole numbers print without a fraction, as in protobuf's JSON.
#[allow(
    clippy::cast_possible_truncation,
    reason = "only whole numbers within 2^53 are cast, which every i64 holds"
)]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        Value::from(value as i64)
    } else {
        Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_numbers_of_a_struct_have_no_fraction() {
        let number = |value| wkt::Value {
            kind: Some(Kind::NumberValue(value)),
        };
        let proto = Struct {
            fields: [("a".into(), number(3.0)), ("b".into(), number(0.5))].into(),
        };
        assert_eq!(Value::Object(json_object(proto)), json!({"a": 3, "b": 0.5}));
    }

    #[test]
    fn what_json_holds_comes_back_from_a_struct() {
        let json = json!({"a": [1, "x", null], "b": {"c": true}, "d": 0.5});
        let fields = json.as_object().unwrap();
        assert_eq!(Value::Object(json_object(json_to_struct(fields))), json);
    }
}
