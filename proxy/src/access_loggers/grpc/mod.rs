//! `envoy.access_loggers.http_grpc` and `envoy.access_loggers.tcp_grpc`: entries go to an access log service.
//!
//! Type URLs: `envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig`,
//! `envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/access_loggers/grpc/v3/als.proto>
//! Stats: `access_logs.grpc_access_log.{logs_written,logs_dropped,grpc_entries_flushed,
//! grpc_entries_flush_failed}`.
//! Deviations: `grpc_stream_retry_policy` is refused; a stream that ended is opened anew by the next entries.
//! Deviations: objects of the filter state are sent as strings, since they have no other protobuf form.

mod entry;
mod exporter;
mod tag;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::ApiVersion;
use outrigger_proto::pb::envoy::data::accesslog::v3::{ConnectionProperties, TcpAccessLogEntry};
use outrigger_proto::pb::envoy::extensions::access_loggers::grpc::v3 as pb;
use prost::Message;

use self::entry::{CommonFields, HttpFields};
use self::exporter::{Entry, Exporter};
use self::tag::CustomTag;
use super::{AccessLogger, AccessLoggerConfig, AccessLoggerFactory};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::FormatData;
use crate::http::HeaderName;
use crate::server::{FactoryContext, Worker};
use crate::upstream::async_client::GrpcService;

/// `envoy.access_loggers.http_grpc`.
pub(super) struct HttpFactory;
/// `envoy.access_loggers.tcp_grpc`.
pub(super) struct TcpFactory;

/// What entries of both kinds are sent by.
#[derive(Debug)]
struct Settings {
    /// Tells apart who may share a stream: loggers of the same kind with the same configuration do.
    key: Box<[u8]>,
    log_name: String,
    service: GrpcService,
    /// The longest time that an entry waits. Default 1 s.
    buffer_flush_interval: Duration,
    /// Entries wait until they have that many bytes together. Default 16 KiB; zero: none waits.
    buffer_size_bytes: usize,
}

struct HttpGrpcLog {
    settings: Arc<Settings>,
    common: CommonFields,
    http: HttpFields,
}

struct TcpGrpcLog {
    settings: Arc<Settings>,
    common: CommonFields,
}

struct WorkerHttpGrpcLog {
    log: Arc<HttpGrpcLog>,
    exporter: Rc<Exporter>,
}

struct WorkerTcpGrpcLog {
    log: Arc<TcpGrpcLog>,
    exporter: Rc<Exporter>,
}

const BUFFER_FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const BUFFER_SIZE_BYTES: u32 = 16384;

impl AccessLoggerFactory for HttpFactory {
    fn name(&self) -> &'static str {
        "envoy.access_loggers.http_grpc"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
        let pb::HttpGrpcAccessLogConfig {
            common_config,
            additional_request_headers_to_log,
            additional_response_headers_to_log,
            additional_response_trailers_to_log,
        } = config.decode(path)?;
        let names = |names: Vec<String>| names.iter().map(HeaderName::new).collect();
        let http = HttpFields {
            request_headers: names(additional_request_headers_to_log),
            response_headers: names(additional_response_headers_to_log),
            response_trailers: names(additional_response_trailers_to_log),
        };
        let (settings, common) = convert(common_config, b'h', cx, path)?;
        Ok(Arc::new(HttpGrpcLog {
            settings,
            common,
            http,
        }))
    }
}

impl AccessLoggerFactory for TcpFactory {
    fn name(&self) -> &'static str {
        "envoy.access_loggers.tcp_grpc"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn AccessLoggerConfig>, Rejected> {
        let pb::TcpGrpcAccessLogConfig { common_config } = config.decode(path)?;
        let (settings, common) = convert(common_config, b't', cx, path)?;
        Ok(Arc::new(TcpGrpcLog { settings, common }))
    }
}

/// Converts what both kinds have in common; `kind` tells them apart.
fn convert(
    proto: Option<pb::CommonGrpcAccessLogConfig>,
    kind: u8,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<(Arc<Settings>, CommonFields), Rejected> {
    let proto = path.required("common_config", proto)?;
    let path = path.field("common_config");
    let mut key = vec![kind];
    key.extend(proto.encode_to_vec());
    let pb::CommonGrpcAccessLogConfig {
        log_name,
        grpc_service,
        transport_api_version,
        buffer_flush_interval,
        buffer_size_bytes,
        filter_state_objects_to_log,
        grpc_stream_retry_policy,
        custom_tags,
    } = proto;
    let log_name = path.non_empty("log_name", log_name);
    let service = path
        .required("grpc_service", grpc_service)
        .and_then(|service| {
            GrpcService::from_proto(service, cx.server, &path.field("grpc_service"))
        });
    let version = path
        .enumeration("transport_api_version", transport_api_version)
        .and_then(|version: ApiVersion| match version {
            ApiVersion::V3 => Ok(()),
            _ => Err(path
                .field("transport_api_version")
                .reject("must be V3: there is no other version any more")),
        });
    let interval = path.positive_duration("buffer_flush_interval", buffer_flush_interval);
    let retries = path.unsupported_if_set("grpc_stream_retry_policy", grpc_stream_retry_policy);
    let tags = path.each("custom_tags", custom_tags, |tag, path| {
        CustomTag::from_proto(tag, cx, path)
    });
    version?;
    retries?;
    let size = buffer_size_bytes.map_or(BUFFER_SIZE_BYTES, |size| size.value);
    let settings = Settings {
        key: key.into(),
        log_name: log_name?,
        service: service?,
        buffer_flush_interval: interval?.unwrap_or(BUFFER_FLUSH_INTERVAL),
        buffer_size_bytes: usize::try_from(size).unwrap_or(usize::MAX),
    };
    let common = CommonFields {
        filter_state: filter_state_objects_to_log.into(),
        tags: Vec::into(tags?),
    };
    Ok((Arc::new(settings), common))
}

impl AccessLoggerConfig for HttpGrpcLog {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn AccessLogger> {
        let exporter = Exporter::shared(&self.settings, worker);
        Box::new(WorkerHttpGrpcLog {
            log: self,
            exporter,
        })
    }
}

impl AccessLoggerConfig for TcpGrpcLog {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn AccessLogger> {
        let exporter = Exporter::shared(&self.settings, worker);
        Box::new(WorkerTcpGrpcLog {
            log: self,
            exporter,
        })
    }
}

impl AccessLogger for WorkerHttpGrpcLog {
    fn log(&self, data: &FormatData<'_>) {
        let HttpGrpcLog { common, http, .. } = &*self.log;
        let entry = || Entry::Http(http.entry(common.properties(data), data));
        self.exporter.log(entry);
    }
}

impl AccessLogger for WorkerTcpGrpcLog {
    fn log(&self, data: &FormatData<'_>) {
        self.exporter.log(|| {
            Entry::Tcp(TcpAccessLogEntry {
                common_properties: Some(self.log.common.properties(data)),
                connection_properties: Some(ConnectionProperties {
                    received_bytes: data.info.bytes_received,
                    sent_bytes: data.info.bytes_sent,
                }),
            })
        });
    }
}
