//! `envoy.access_loggers.file`, `envoy.access_loggers.stdout` and `envoy.access_loggers.stderr`.
//!
//! Type URLs: `envoy.extensions.access_loggers.file.v3.FileAccessLog`,
//! `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`, `envoy.extensions.access_loggers.stream.v3.StderrAccessLog`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/access_loggers/file/v3/file.proto>
//! Deviations: none.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3::SubstitutionFormatString as PbFormat;
use outrigger_proto::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use outrigger_proto::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};

use super::{AccessLogger, AccessLoggerConfig, AccessLoggerFactory, Destination, LogFile};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{DEFAULT_FORMAT, FormatData, Formatter, SubstitutionFormatString};
use crate::server::{FactoryContext, Worker};

/// `envoy.access_loggers.file`.
pub(super) struct FileFactory;
/// `envoy.access_loggers.stdout`.
pub(super) struct StdoutFactory;
/// `envoy.access_loggers.stderr`.
pub(super) struct StderrFactory;

struct FileLog {
    format: SubstitutionFormatString,
    file: Arc<LogFile>,
}

struct WorkerFileLog {
    log: Arc<FileLog>,
    shard: usize,
}

impl AccessLoggerFactory for FileFactory {
    fn name(&self) -> &'static str {
        "envoy.access_loggers.file"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.access_loggers.file.v3.FileAccessLog"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
        let FileAccessLog {
            path: file,
            access_log_format,
        } = config.decode(path)?;
        #[allow(deprecated, reason = "old configurations use them")]
        let format = match access_log_format {
            None => default_format(cx, path),
            Some(AccessLogFormat::Format(text)) if text.is_empty() => default_format(cx, path),
            Some(AccessLogFormat::Format(text)) => {
                Formatter::parse(&text, cx, &path.field("format"))
                    .map(SubstitutionFormatString::text)
            }
            Some(AccessLogFormat::JsonFormat(format)) => {
                SubstitutionFormatString::json(format, cx, &path.field("json_format"))
            }
            Some(AccessLogFormat::TypedJsonFormat(format)) => {
                SubstitutionFormatString::json(format, cx, &path.field("typed_json_format"))
            }
            Some(AccessLogFormat::LogFormat(format)) => {
                SubstitutionFormatString::from_proto(format, cx, &path.field("log_format"))
            }
        };
        let destination = path
            .non_empty("path", file)
            .map(|file| match file.as_str() {
                "/dev/stdout" => Destination::Stdout,
                "/dev/stderr" => Destination::Stderr,
                _ => Destination::File(file.into()),
            });
        open(destination?, format?, cx, &path.field("path"))
    }
}

impl AccessLoggerFactory for StdoutFactory {
    fn name(&self) -> &'static str {
        "envoy.access_loggers.stdout"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
        let StdoutAccessLog { access_log_format } = config.decode(path)?;
        let format = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(f)| f);
        stream(Destination::Stdout, format, cx, path)
    }
}

impl AccessLoggerFactory for StderrFactory {
    fn name(&self) -> &'static str {
        "envoy.access_loggers.stderr"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.access_loggers.stream.v3.StderrAccessLog"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
        let StderrAccessLog { access_log_format } = config.decode(path)?;
        let format = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(f)| f);
        stream(Destination::Stderr, format, cx, path)
    }
}

fn stream(
    destination: Destination,
    format: Option<PbFormat>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
    let format = match format {
        Some(format) => {
            SubstitutionFormatString::from_proto(format, cx, &path.field("log_format"))?
        }
        None => default_format(cx, path)?,
    };
    open(destination, format, cx, path)
}

/// A file in the default format.
pub(super) fn default_file(
    name: &str,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
    let format = default_format(cx, path)?;
    open(Destination::File(name.into()), format, cx, path)
}

fn default_format(
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<SubstitutionFormatString, Rejected> {
    Formatter::parse(DEFAULT_FORMAT, cx, path).map(SubstitutionFormatString::text)
}

fn open(
    destination: Destination,
    format: SubstitutionFormatString,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
    let file = cx.server.access_logs.open(&destination).map_err(|error| {
        let name = match &destination {
            Destination::File(name) => name,
            Destination::Stdout => "/dev/stdout",
            Destination::Stderr => "/dev/stderr",
        };
        path.reject(format!("unable to open file '{name}': {error}"))
    })?;
    Ok(Arc::new(FileLog { format, file }))
}

impl AccessLoggerConfig for FileLog {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn AccessLogger> {
        Box::new(WorkerFileLog {
            log: self,
            shard: worker.shard,
        })
    }
}

impl AccessLogger for WorkerFileLog {
    fn log(&self, data: &FormatData<'_>) {
        self.log
            .file
            .append(self.shard, |out| self.log.format.render(data, out));
    }
}
