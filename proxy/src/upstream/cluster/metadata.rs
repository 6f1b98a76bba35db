//! `envoy.config.core.v3.Metadata` becomes values by namespace.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::google::protobuf as wkt;
use serde_json::{Map, Number, Value};

use crate::stream_info::DynamicMetadata;

/// Converts the message. Typed metadata are for extensions of Envoy that are not here; nothing reads them.
pub(super) fn metadata_from_proto(proto: core::Metadata) -> DynamicMetadata {
    let core::Metadata {
        filter_metadata,
        typed_filter_metadata: _,
    } = proto;
    let mut metadata = DynamicMetadata::default();
    for (namespace, values) in filter_metadata {
        metadata.merge(&namespace, object(values));
    }
    metadata
}

fn object(proto: wkt::Struct) -> Map<String, Value> {
    proto
        .fields
        .into_iter()
        .map(|(key, proto)| (key, value(proto)))
        .collect()
}

fn value(proto: wkt::Value) -> Value {
    use wkt::value::Kind;
    match proto.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::NumberValue(value)) => {
            Number::from_f64(value).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StructValue(value)) => Value::Object(object(value)),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value).collect(),
    }
}
