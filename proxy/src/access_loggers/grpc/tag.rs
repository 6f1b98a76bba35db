//! `envoy.type.tracing.v3.CustomTag`: what else an entry says.

use outrigger_proto::pb::envoy::r#type::metadata::v3 as metadata;
use outrigger_proto::pb::envoy::r#type::tracing::v3 as pb;
use pb::custom_tag::Type;

use crate::config::{ConfigPath, Rejected};
use crate::formatter::{FormatData, Formatter, NamedRoute as _};
use crate::http::HeaderName;
use crate::server::FactoryContext;
use crate::stream_info::DynamicMetadata;

/// A name with where its value comes from.
pub(super) struct CustomTag {
    pub(super) name: String,
    value: TagValue,
}

enum TagValue {
    /// Of a literal, or of the environment when the configuration was loaded.
    Fixed(String),
    RequestHeader(HeaderName, String),
    Metadata {
        of: MetadataOf,
        namespace: String,
        path: Vec<String>,
        default: String,
    },
    Formatted(Formatter),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetadataOf {
    Request,
    Route,
    Cluster,
    Host,
}

impl CustomTag {
    pub(super) fn from_proto(
        proto: pb::CustomTag,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CustomTag { tag, r#type } = proto;
        let name = path.non_empty("tag", tag);
        let value = match path.required("type", r#type)? {
            Type::Literal(pb::custom_tag::Literal { value }) => Ok(TagValue::Fixed(value)),
            Type::Environment(pb::custom_tag::Environment {
                name,
                default_value,
            }) => {
                let found = std::env::var_os(&name);
                let found = found.map(|value| value.to_string_lossy().into_owned());
                Ok(TagValue::Fixed(found.unwrap_or(default_value)))
            }
            Type::RequestHeader(pb::custom_tag::Header {
                name,
                default_value,
            }) => Ok(TagValue::RequestHeader(
                HeaderName::new(name),
                default_value,
            )),
            Type::Metadata(metadata) => metadata_value(metadata, &path.field("metadata")),
            Type::Value(text) => Formatter::parse_omitting_empty(&text, cx, &path.field("value"))
                .map(TagValue::Formatted),
        };
        Ok(Self {
            name: name?,
            value: value?,
        })
    }

    /// The value for a stream; none: the tag is left out.
    pub(super) fn value(&self, data: &FormatData<'_>) -> Option<String> {
        let text = match &self.value {
            TagValue::Fixed(text) => text.clone(),
            TagValue::RequestHeader(name, default) => data
                .request
                .and_then(|head| head.fields.get(name))
                .map_or_else(
                    || default.clone(),
                    |value| String::from_utf8_lossy(value).into_owned(),
                ),
            TagValue::Metadata {
                of,
                namespace,
                path,
                default,
            } => of
                .find(data, |metadata| {
                    let path = path.iter().map(String::as_str);
                    metadata.value(namespace, path).and_then(text_of)
                })
                .unwrap_or_else(|| default.clone()),
            TagValue::Formatted(formatter) => {
                let mut out = Vec::new();
                formatter.render(data, &mut out);
                String::from_utf8_lossy(&out).into_owned()
            }
        };
        (!text.is_empty()).then_some(text)
    }
}

fn metadata_value(
    proto: pb::custom_tag::Metadata,
    path: &ConfigPath<'_>,
) -> Result<TagValue, Rejected> {
    use metadata::metadata_key::path_segment::Segment;
    use metadata::metadata_kind::Kind;
    let pb::custom_tag::Metadata {
        kind,
        metadata_key,
        default_value,
    } = proto;
    let kind = path.required("kind", kind);
    let key = path.required("metadata_key", metadata_key);
    let of = match path.field("kind").required("kind", kind?.kind)? {
        Kind::Request(metadata::metadata_kind::Request {}) => MetadataOf::Request,
        Kind::Route(metadata::metadata_kind::Route {}) => MetadataOf::Route,
        Kind::Cluster(metadata::metadata_kind::Cluster {}) => MetadataOf::Cluster,
        Kind::Host(metadata::metadata_kind::Host {}) => MetadataOf::Host,
    };
    let metadata::MetadataKey { key, path: steps } = key?;
    let path = path.field("metadata_key");
    let namespace = path.non_empty("key", key);
    let steps = path.each("path", steps, |step, path| {
        match path.required("segment", step.segment)? {
            Segment::Key(key) => path.non_empty("key", key),
            Segment::Index(_) => Err(path.field("index").reject("is not supported; key is")),
        }
    });
    Ok(TagValue::Metadata {
        of,
        namespace: namespace?,
        path: steps?,
        default: default_value,
    })
}

impl MetadataOf {
    fn find(
        self,
        data: &FormatData<'_>,
        value: impl Fn(&DynamicMetadata) -> Option<String>,
    ) -> Option<String> {
        let info = data.info;
        match self {
            Self::Request => value(&info.dynamic_metadata),
            Self::Route => value(info.route.as_ref()?.route_metadata()?),
            Self::Cluster => value(&info.cluster.as_ref()?.info().metadata),
            Self::Host => value(&info.upstream.as_ref()?.host.as_ref()?.metadata),
        }
    }
}

/// Strings as they are, all else as JSON; null is nothing.
fn text_of(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
