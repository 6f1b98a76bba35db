//! `TypedExtensionConfig` and `Any`: which factory a typed configuration belongs to.

use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::validate::{Problem, check};
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
        let (type_name, value) =
            outrigger_proto::any::unpack(&any).map_err(|error| path.reject(error.to_string()))?;
        let mut rejected = None;
        for violation in check(&type_name, &value) {
            // What is merely old is taken, as Envoy does.
            if !matches!(violation.problem, Problem::Deprecated { .. }) {
                rejected = Some(path.reject(violation.to_string()));
            }
        }
        match rejected {
            Some(rejected) => Err(rejected),
            None => Ok(Self { type_name, value }),
        }
    }

    /// The typed configuration that the field `name` must hold.
    pub fn required(name: &str, any: Option<Any>, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        Self::from_any(path.required(name, any)?, &path.field(name))
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
