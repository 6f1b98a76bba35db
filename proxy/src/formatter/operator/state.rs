//! What filters left behind: metadata and filter state.

use std::borrow::Cow;

use serde_json::Value;

use super::{FormatData, NamedCluster, NamedRoute, json, limit, upstream_of};
use crate::stream_info::DynamicMetadata;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum MetadataSource {
    Dynamic,
    Cluster,
    Route,
    VirtualHost,
    UpstreamHost,
    Listener,
    /// Filter chains keep no metadata yet.
    FilterChain,
}

#[derive(Debug, PartialEq)]
pub(in crate::formatter) enum FilterStateForm {
    Plain,
    Typed,
    Field(Box<str>),
}

/// A value of metadata: a whole namespace, or what a path leads to.
pub(super) enum MetadataValue<'a> {
    All(&'a serde_json::Map<String, Value>),
    Value(&'a Value),
}

pub(super) enum StateValue<'a> {
    Text(Cow<'a, str>),
    Json(Value),
}

pub(super) fn write_metadata(
    value: &MetadataValue<'_>,
    max: Option<usize>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    match value {
        MetadataValue::Value(Value::Null) => return false,
        MetadataValue::Value(Value::String(text)) => out.extend_from_slice(text.as_bytes()),
        MetadataValue::Value(value) => json::write_value(value, out),
        MetadataValue::All(map) => json::write_map(map, out),
    }
    limit(start, max, out);
    true
}

pub(super) fn write_state(value: &StateValue<'_>, max: Option<usize>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    match value {
        StateValue::Text(text) => out.extend_from_slice(text.as_bytes()),
        StateValue::Json(value) => json::write_value(value, out),
    }
    limit(start, max, out);
    true
}

impl MetadataSource {
    pub(super) fn with(
        self,
        data: &FormatData<'_>,
        read: impl FnOnce(&DynamicMetadata) -> bool,
    ) -> bool {
        let info = data.info;
        let metadata = match self {
            Self::Dynamic => Some(&info.dynamic_metadata),
            Self::Cluster => info.cluster.as_ref().and_then(|c| c.cluster_metadata()),
            Self::Route => info.route.as_ref().and_then(|r| r.route_metadata()),
            Self::VirtualHost => info.route.as_ref().and_then(|r| r.virtual_host_metadata()),
            Self::UpstreamHost => upstream_of(data)
                .and_then(|upstream| upstream.host.as_ref())
                .map(|host| &host.metadata),
            Self::Listener => Some(&info.connection.listener.metadata),
            Self::FilterChain => None,
        };
        metadata.is_some_and(read)
    }
}
