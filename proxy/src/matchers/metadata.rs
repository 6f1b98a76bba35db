//! `envoy.type.matcher.v3.MetadataMatcher`, and `envoy.type.metadata.v3.MetadataKey`.

use outrigger_proto::pb::envoy::r#type::matcher::v3 as pb;
use outrigger_proto::pb::envoy::r#type::metadata::v3 as key_pb;
use serde_json::Value;

use super::ValueMatcher;
use crate::config::{ConfigPath, Rejected};
use crate::stream_info::DynamicMetadata;

/// Where a value stands in metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPath {
    namespace: Box<str>,
    keys: Box<[Box<str>]>,
}

/// A condition on a value of metadata.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    path: MetadataPath,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataPath {
    /// Converts a `MetadataKey`.
    pub fn from_proto(proto: key_pb::MetadataKey, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use key_pb::metadata_key::{PathSegment, path_segment::Segment};
        let key_pb::MetadataKey { key, path: keys } = proto;
        let namespace = path.non_empty("key", key);
        if keys.is_empty() {
            return Err(path.field("path").reject("must not be empty"));
        }
        let keys = path.each(
            "path",
            keys,
            |PathSegment { segment }, path| match segment {
                Some(Segment::Key(key)) => path.non_empty("key", key).map(Into::into),
                Some(Segment::Index(_)) => Err(path.field("index").reject("is not supported")),
                None => Err(path.field("key").reject("is required")),
            },
        );
        Ok(Self {
            namespace: namespace?.into(),
            keys: keys?.into(),
        })
    }

    /// The value there.
    pub fn find<'a>(&'a self, metadata: &'a DynamicMetadata) -> Option<&'a Value> {
        metadata.value(&self.namespace, self.keys.iter().map(|key| &**key))
    }

    /// Puts a value there. What stands at its first key is replaced.
    pub fn set(&self, metadata: &mut DynamicMetadata, value: Value) {
        let object = |key: &str, value| serde_json::Map::from_iter([(key.to_owned(), value)]);
        if let Some((first, rest)) = self.keys.split_first() {
            let nested = rest.iter().rev();
            let value = nested.fold(value, |value, key| object(key, value).into());
            metadata.merge(&self.namespace, object(first, value));
        }
    }
}

impl MetadataMatcher {
    /// Converts a `MetadataMatcher`.
    pub fn from_proto(proto: pb::MetadataMatcher, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use pb::metadata_matcher::{PathSegment, path_segment::Segment};
        let pb::MetadataMatcher {
            filter,
            path: keys,
            value,
            invert,
        } = proto;
        let namespace = path.non_empty("filter", filter);
        if keys.is_empty() {
            return Err(path.field("path").reject("must not be empty"));
        }
        let keys = path.each(
            "path",
            keys,
            |PathSegment { segment }, path| match segment {
                Some(Segment::Key(key)) => path.non_empty("key", key).map(Into::into),
                None => Err(path.field("key").reject("is required")),
            },
        );
        let value = path
            .required("value", value)
            .and_then(|value| ValueMatcher::from_proto(value, &path.field("value")));
        Ok(Self {
            path: MetadataPath {
                namespace: namespace?.into(),
                keys: keys?.into(),
            },
            value: value?,
            invert,
        })
    }

    /// Whether the value in `metadata` meets the condition.
    pub fn matches(&self, metadata: &DynamicMetadata) -> bool {
        self.value.matches(self.path.find(metadata)) != self.invert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_value_is_found_and_the_result_can_be_inverted() {
        let mut metadata = DynamicMetadata::default();
        let values = serde_json::json!({"a": {"b": true}});
        metadata.merge("ns", values.as_object().unwrap().clone());
        let matcher = |keys: &[&str], invert| MetadataMatcher {
            path: MetadataPath {
                namespace: "ns".into(),
                keys: keys.iter().map(|key| (*key).into()).collect(),
            },
            value: ValueMatcher::Bool(true),
            invert,
        };
        assert!(matcher(&["a", "b"], false).matches(&metadata));
        assert!(!matcher(&["a", "b"], true).matches(&metadata));
        assert!(!matcher(&["a", "c"], false).matches(&metadata));
        assert!(matcher(&["a", "c"], true).matches(&metadata));
    }
}
