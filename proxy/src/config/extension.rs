//! `TypedExtensionConfig` and `Any`: which factory a typed configuration belongs to.

use outrigger_proto::any::{self, AnyError};
use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::schema::Message;
use prost::bytes::Bytes;

use super::{ConfigPath, Rejected};

/// A typed configuration, taken out of its `Any` (and out of a `TypedStruct` within), checked against the API's rules.
///
/// The type name chooses the factory; the name of the extension is a label that control planes fill as they please.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedConfig {
    /// The full message name: `envoy.extensions.filters.http.router.v3.Router`.
    pub type_name: String,
    /// The encoded message.
    pub value: Bytes,
}

impl TypedConfig {
    /// Takes a message out of its `Any`, and reports what breaks the rules of the API.
    pub fn from_any(any: Any, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let (type_name, value) = match any::unpack_with(&any, path.unknown_fields()) {
            Ok(unpacked) => unpacked,
            // Nobody can take it; whoever asked says what can be taken.
            Err(AnyError::UnknownType(name)) => (name, Bytes::new()),
            Err(AnyError::NoType) => {
                return Err(path
                    .field("type_url")
                    .reject("is empty: an extension is chosen by the type of its configuration"));
            }
            Err(AnyError::Fields(errors)) => return Err(path.reject_fields(&errors)),
            Err(error) => return Err(path.reject(error.to_string())),
        };
        path.check(&type_name, &value)?;
        Ok(Self { type_name, value })
    }

    /// Takes a message of the type `full_name` out of an `Any` that may be empty: then it is the default message.
    pub fn from_any_or_default(
        any: Any,
        full_name: &str,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        if !any.type_url.is_empty() || !any.value.is_empty() {
            return Self::from_any(any, path);
        }
        path.check(full_name, &[])?;
        Ok(Self {
            type_name: full_name.to_owned(),
            value: Bytes::new(),
        })
    }

    /// Whether Envoy has this message. What it does not have may be passed over where that is asked for; what it has
    /// changes what Envoy does, and may not.
    pub fn is_known(&self) -> bool {
        Message::by_name(&self.type_name).is_some()
    }

    /// The typed configuration that the field `name` must hold.
    pub fn required(name: &str, any: Option<Any>, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        Self::from_any(path.required(name, any)?, &path.field(name))
    }

    /// The typed configuration that an extension must hold, and its path. The name of the extension is a label.
    pub fn of_extension<'p>(
        extension: TypedExtensionConfig,
        path: &'p ConfigPath<'p>,
    ) -> Result<(Self, ConfigPath<'p>), Rejected> {
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = extension;
        let config = Self::required("typed_config", typed_config, path)?;
        Ok((config, path.field("typed_config")))
    }

    /// The one of `factories` that takes this type; `type_names` are the types that a factory takes.
    pub fn factory<F: ?Sized>(
        &self,
        factories: &[&'static F],
        type_names: impl Fn(&'static F) -> &'static [&'static str],
        path: &ConfigPath<'_>,
    ) -> Result<&'static F, Rejected> {
        let takes = |factory: &&&'static F| type_names(factory).contains(&self.type_name.as_str());
        factories.iter().find(takes).copied().ok_or_else(|| {
            let supported: Vec<_> = factories
                .iter()
                .flat_map(|f| type_names(f))
                .copied()
                .collect();
            self.unknown(path, &supported)
        })
    }

    /// Decodes the message as `M`.
    pub fn decode<M: prost::Message + Default>(
        &self,
        path: &ConfigPath<'_>,
    ) -> Result<M, Rejected> {
        M::decode(self.value.clone())
            .map_err(|error| path.reject(format!("is not a valid {}: {error}", self.type_name)))
    }

    /// Reports that no extension of this kind has this type. `supported` are the types that exist.
    pub fn unknown(&self, path: &ConfigPath<'_>, supported: &[&str]) -> Rejected {
        path.reject(format!(
            "{} is not supported here; supported are {}",
            self.type_name,
            supported.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf::Struct;
    use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

    use super::*;
    use crate::config::ConfigReport;

    const ECHO: &str = "envoy.extensions.filters.network.echo.v3.Echo";

    fn errors(any: &str) -> Vec<String> {
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: any.as_bytes(),
        };
        let any: Any = load(&[source], UnknownFields::Refuse).unwrap();
        let report = ConfigReport::new();
        let _ = TypedConfig::from_any(any, &ConfigPath::root(&report, "filter"));
        report.take().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_typed_structs_are_what_they_describe() {
        for outer in ["udpa.type.v1", "xds.type.v3"] {
            let typed = |value: &str| {
                format!(
                    "{{'@type': type.googleapis.com/{outer}.TypedStruct, type_url: type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, value: {value}}}"
                )
            };
            assert!(errors(&typed("{stat_prefix: a, cluster: b}")).is_empty());
            let found = errors(&typed("{cluster: b, access_log: [{nam: x}]}"));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].starts_with("filter / access_log[0]: no such field"),
                "{found:?}"
            );
            let found = errors(&typed("{cluster: b, access_log: [{}]}"));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("filter / stat_prefix: "), "{found:?}");
        }
    }

    #[test]
    fn an_empty_any_is_refused_or_the_default_where_the_type_is_clear() {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "options");
        assert!(TypedConfig::from_any(Any::default(), &path).is_err());
        let config = TypedConfig::from_any_or_default(Any::default(), ECHO, &path).unwrap();
        assert_eq!((config.type_name.as_str(), config.value.len()), (ECHO, 0));
        assert!(config.is_known());
    }

    #[test]
    fn a_type_that_nobody_knows_is_left_to_who_asked() {
        let any = Any {
            type_url: "type.googleapis.com/some.Unknown".to_owned(),
            value: prost::Message::encode_to_vec(&Struct::default()),
        };
        let report = ConfigReport::new();
        let config = TypedConfig::from_any(any, &ConfigPath::root(&report, "filter")).unwrap();
        assert!(!config.is_known());
    }
}
