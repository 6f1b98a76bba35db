//! `outrigger explain`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{Question, explain};
use crate::server::cli::Cli;
use crate::server::configuration;

/// Explains what becomes of a request under a configuration, without sending it.
#[derive(Debug, Clone, Parser)]
#[command(name = "outrigger explain", disable_version_flag = true)]
pub struct ExplainCli {
    /// Path to configuration file.
    #[arg(short = 'c', long)]
    config_path: Option<PathBuf>,
    /// Inline YAML configuration, merged into what --config-path holds. May be given several times.
    #[arg(long)]
    config_yaml: Vec<String>,
    /// Allow unknown fields in the configuration.
    #[arg(long)]
    allow_unknown_static_fields: bool,
    /// The request, a method and a URL: 'GET `https://shop.example/cart?x=1`'.
    #[arg(long)]
    request: String,
    /// A header of the request: 'name: value'. May be given several times.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// The name of the listener. Default: the one that listens on the port of the URL.
    #[arg(long)]
    listener: Option<String>,
    /// Who sends the request: IP or IP:PORT. Default: 127.0.0.1:40000.
    #[arg(long)]
    source: Option<String>,
    /// How the explanation is written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How an explanation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For tools.
    Json,
}

impl ExplainCli {
    /// Reads the arguments that follow `outrigger explain`.
    pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let name = OsString::from("outrigger explain");
        Self::try_parse_from(std::iter::once(name).chain(args))
    }

    /// The explanation, or all that is wrong with the question or the configuration.
    pub fn run(&self) -> Result<String, Vec<String>> {
        let question = self.question().map_err(|error| vec![error])?;
        let configuration = configuration(&self.server_cli()?)?;
        let explanation = explain(&configuration, &question)?;
        Ok(match self.format {
            Format::Text => explanation.to_string(),
            Format::Json => explanation.to_json(),
        })
    }

    fn question(&self) -> Result<Question, String> {
        let mut question = Question::parse(&self.request)?;
        for header in &self.headers {
            question.add_header(header)?;
        }
        question.listener = self.listener.clone();
        if let Some(source) = &self.source {
            question.set_source(source)?;
        }
        Ok(question)
    }

    /// The same configuration as the flags of a process that serves.
    fn server_cli(&self) -> Result<Cli, Vec<String>> {
        let mut args = vec![OsString::from("outrigger")];
        if let Some(path) = &self.config_path {
            args.extend(["-c".into(), path.into()]);
        }
        for yaml in &self.config_yaml {
            args.extend(["--config-yaml".into(), yaml.into()]);
        }
        if self.allow_unknown_static_fields {
            args.push("--allow-unknown-static-fields".into());
        }
        Cli::parse_args(args).map_err(|error| vec![error.to_string()])
    }
}
