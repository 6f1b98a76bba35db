//! Access logs: what is written about a stream when it has ended, where to, and which streams are left out.
//!
//! An [`AccessLog`] is a filter and a logger, both converted once and shared; a worker makes [`AccessLogs`] of a list of them.

mod file;
mod filter;
mod grpc;
mod manager;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::accesslog::v3::{AccessLog as Pb, access_log::ConfigType};

pub use filter::AccessLogFilter;
pub use manager::{AccessLogManager, Destination, LogFile};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::FormatData;
use crate::server::{FactoryContext, Worker};

/// Every access logger that can be configured.
pub static FACTORIES: &[&dyn AccessLoggerFactory] = &[
    &file::FileFactory,
    &file::StdoutFactory,
    &file::StderrFactory,
    &grpc::HttpFactory,
    &grpc::TcpFactory,
];

/// Makes access loggers out of configuration. One per extension, listed in [`FACTORIES`].
pub trait AccessLoggerFactory: Sync {
    /// The canonical name: `envoy.access_loggers.file`.
    fn name(&self) -> &'static str;

    /// The messages that choose this factory.
    fn type_names(&self) -> &'static [&'static str];

    /// Converts the configuration.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the name that every conversion has"
    )]
    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected>;
}

/// A configured logger, shared by all workers.
pub trait AccessLoggerConfig: Send + Sync {
    /// Makes this worker's instance: called once per worker.
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn AccessLogger>;
}

/// A logger on one worker.
pub trait AccessLogger {
    /// Writes an entry. Never blocks.
    fn log(&self, data: &FormatData<'_>);
}

/// One entry of a list of access logs: which streams it wants, and who writes them.
#[derive(Clone)]
pub struct AccessLog {
    filter: Option<Arc<AccessLogFilter>>,
    logger: Arc<dyn AccessLoggerConfig>,
}

/// A list of access logs on one worker.
pub struct AccessLogs {
    worker: Rc<Worker>,
    entries: Box<[(Option<Arc<AccessLogFilter>>, Box<dyn AccessLogger>)]>,
}

impl AccessLog {
    /// Converts an entry of `access_log`.
    pub fn from_proto(
        proto: Pb,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        // The name is a label: the type of the configuration chooses the logger.
        let Pb {
            name: _,
            filter,
            config_type,
        } = proto;
        let filter = path.optional("filter", filter, |filter, path| {
            AccessLogFilter::from_proto(filter, cx, path)
        });
        let any = config_type.map(|ConfigType::TypedConfig(any)| any);
        let config = TypedConfig::required("typed_config", any, path)?;
        let path = path.field("typed_config");
        let factory = config.factory(FACTORIES, |factory| factory.type_names(), &path)?;
        let logger = factory.from_proto(&config, cx, &path);
        Ok(Self {
            filter: filter?.map(Arc::new),
            logger: logger?,
        })
    }

    /// A log of every stream to a file, in the default format.
    pub fn to_file(
        name: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self {
            filter: None,
            logger: file::default_file(name, cx, path)?,
        })
    }
}

impl AccessLogs {
    /// Makes this worker's loggers of a list.
    pub fn on_worker(logs: &[AccessLog], worker: &Rc<Worker>) -> Self {
        Self {
            worker: worker.clone(),
            entries: logs
                .iter()
                .map(|log| (log.filter.clone(), log.logger.clone().on_worker(worker)))
                .collect(),
        }
    }

    /// Whether there is nothing to log to.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes an entry to every log whose filter lets it pass.
    pub fn log(&self, data: &FormatData<'_>) {
        for (filter, logger) in &self.entries {
            if filter
                .as_ref()
                .is_none_or(|filter| filter.evaluate(data, &self.worker.random))
            {
                logger.log(data);
            }
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AccessLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogs")
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
