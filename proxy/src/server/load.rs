//! The bootstrap as it is written: from files and flags to the message, checked.

use std::fs;

use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::yaml::{Format, Source, UnknownFields, encode, locate};
use prost::{Message, Name};

use super::cli::Cli;
use crate::config::{ConfigPath, ConfigReport, Rejected};

/// A bootstrap, with the texts that it was made from.
pub(super) struct LoadedBootstrap {
    /// The message.
    pub(super) proto: pb::Bootstrap,
    /// Its encoding, which holds fields that the Rust types lack as well.
    pub(super) bytes: Vec<u8>,
    /// `--config-path` in errors.
    name: String,
    texts: Vec<Text>,
}

struct Text {
    name: String,
    format: Format,
    bytes: Vec<u8>,
}

impl Text {
    fn source(&self) -> Source<'_> {
        let Self {
            name,
            format,
            bytes,
        } = self;
        Source {
            name,
            format: *format,
            bytes,
        }
    }
}

impl LoadedBootstrap {
    /// Reads the file, and merges everything inline into it.
    pub(super) fn load(cli: &Cli) -> Result<Self, Vec<String>> {
        Self::from_texts(cli, texts(cli)?)
    }

    fn from_texts(cli: &Cli, texts: Vec<Text>) -> Result<Self, Vec<String>> {
        let name = cli.config_name().to_string();
        let unknown = if cli.allow_unknown_static_fields {
            UnknownFields::Ignore
        } else {
            UnknownFields::Refuse
        };
        let bytes = encode(&pb::Bootstrap::full_name(), &sources(&texts), unknown)
            .map_err(|errors| listed(&name, errors.iter().map(ToString::to_string).collect()))?;
        let proto = pb::Bootstrap::decode(bytes.as_slice())
            .map_err(|error| listed(&name, vec![format!("this is no bootstrap: {error}")]))?;
        Ok(Self {
            proto,
            bytes,
            name,
            texts,
        })
    }

    /// Takes one text for the whole bootstrap.
    pub(super) fn from_bytes(cli: &Cli, format: Format, bytes: &[u8]) -> Result<Self, Vec<String>> {
        let text = Text {
            name: "bootstrap".to_owned(),
            format,
            bytes: bytes.to_vec(),
        };
        Self::from_texts(cli, vec![text])
    }

    /// Reports what breaks the rules of the API.
    pub(super) fn check(&self, path: &ConfigPath<'_>) -> Result<(), Rejected> {
        path.check(&pb::Bootstrap::full_name(), &self.bytes)
    }

    /// What the report holds, each with file and line where they can be found.
    pub(super) fn errors(&self, report: &ConfigReport) -> Vec<String> {
        let sources = sources(&self.texts);
        let full_name = pb::Bootstrap::full_name();
        let errors = report.take().into_iter().enumerate().map(|(index, error)| {
            let place = (index < MOST_LOCATED)
                .then(|| locate(&full_name, &sources, &error.place))
                .flatten();
            match place {
                Some((file, line)) => format!("{file}:{line}: {error}"),
                None => error.to_string(),
            }
        });
        listed(&self.name, errors.collect())
    }
}

fn texts(cli: &Cli) -> Result<Vec<Text>, Vec<String>> {
    let mut texts = Vec::new();
    if let Some(path) = &cli.config_path {
        let bytes = fs::read(path)
            .map_err(|error| vec![format!("unable to read file: {}: {error}", path.display())])?;
        texts.push(Text {
            name: path.display().to_string(),
            format: Format::of_path(path),
            bytes,
        });
    }
    for yaml in cli.config_yaml.iter().filter(|yaml| !yaml.is_empty()) {
        texts.push(Text {
            name: "--config-yaml".to_owned(),
            format: Format::Yaml,
            bytes: yaml.clone().into_bytes(),
        });
    }
    if texts.is_empty() {
        return Err(vec![
            "there is no configuration: give --config-path, --config-yaml, or both".to_owned(),
        ]);
    }
    Ok(texts)
}

fn sources(texts: &[Text]) -> Vec<Source<'_>> {
    texts.iter().map(Text::source).collect()
}

fn listed(name: &str, errors: Vec<String>) -> Vec<String> {
    let count = errors.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let mut lines = vec![format!(
        "error initializing configuration '{name}': {count} {noun} found"
    )];
    lines.extend(errors);
    lines
}

/// To find a line means to read everything again.
const MOST_LOCATED: usize = 100;

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn load(args: &[&str]) -> Result<LoadedBootstrap, Vec<String>> {
        let args = std::iter::once("outrigger").chain(args.iter().copied());
        LoadedBootstrap::load(&Cli::parse_args(args.map(OsString::from)).unwrap())
    }

    #[test]
    fn what_breaks_a_rule_is_shown_with_its_line() {
        let yaml =
            "admin:\n  address:\n    socket_address:\n      address: a\n      port_value: 70000\n";
        let loaded = load(&["--config-yaml", yaml]).unwrap();
        let report = ConfigReport::new();
        assert!(
            loaded
                .check(&ConfigPath::root(&report, "bootstrap"))
                .is_err()
        );
        let errors = loaded.errors(&report);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[1].starts_with(
                "--config-yaml:5: bootstrap / admin / address / socket_address / port_value: 70000"
            ),
            "{errors:?}"
        );
    }

    #[test]
    fn unknown_fields_are_errors_unless_the_flag_allows_them() {
        let yaml = "node: {id: a, nam: b}";
        let errors = load(&["--config-yaml", yaml]).err().unwrap();
        assert!(errors[1].contains("no such field \"nam\""), "{errors:?}");
        assert!(load(&["--config-yaml", yaml, "--allow-unknown-static-fields"]).is_ok());
    }
}
