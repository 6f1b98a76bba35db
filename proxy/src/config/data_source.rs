//! `DataSource`: bytes inline, in a file or in the environment.

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier;

use super::{ConfigPath, Rejected};

/// Reads a `DataSource`, once, when the configuration is loaded.
pub fn data_source(proto: core::DataSource, path: &ConfigPath<'_>) -> Result<Bytes, Rejected> {
    let core::DataSource {
        watched_directory,
        specifier,
    } = proto;
    path.unsupported_if_set("watched_directory", watched_directory)?;
    match specifier {
        Some(Specifier::Filename(name)) => std::fs::read(&name).map(Bytes::from).map_err(|error| {
            path.field("filename")
                .reject(format!("cannot read {name:?}: {error}"))
        }),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.into()),
        Some(Specifier::InlineString(text)) => Ok(text.into()),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var_os(&name)
            .map(|value| Bytes::from(value.into_encoded_bytes()))
            .ok_or_else(|| {
                path.field("environment_variable")
                    .reject(format!("{name:?} is not set"))
            }),
        None => Err(path.reject(
            "is empty: one of filename, inline_bytes, inline_string, environment_variable",
        )),
    }
}
