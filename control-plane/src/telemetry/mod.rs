//! Logs and traces of the control plane itself.
//!
//! Logs go to stderr, as text or as one JSON object per line. Spans, with the events in them, go to a collector of
//! OpenTelemetry over OTLP/gRPC, if there is one: its queue is bounded, and a collector that is away or slow costs spans,
//! which are counted ([`SpanCounts`]), and nothing else. Spans are of the level `debug`: without a collector, and with
//! logs of `info`, none is made.
//!
//! | Span | What it lasts |
//! |---|---|
//! | `request` | a request to the API or a call of gRPC, until its head is answered; continues a W3C `traceparent` |
//! | `change` | from a directory that has changed to its being in force or refused |
//! | `read_files` | reading and checking the files |
//! | `build_world` | resolving what they refer to |
//! | `snapshot`, `patch_snapshot` | making what a proxy is to have, anew or from what it had |
//! | `push` | from a response on a stream to its ACK or NACK |
//! | `registration` | a registration, heartbeat or deregistration |
//! | `sign_certificate`, `issue_certificate` | a certificate by request, or with its key |
//! | `rate_limit` | a question to the rate limit service |
//!
//! A push is part of the trace of what caused it: of a changed file, or of the call that registered an endpoint.

mod context;
mod export;

use std::io::IsTerminal;
use std::sync::Arc;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use thiserror::Error;
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use context::{Cause, continue_trace};
pub use export::SpanCounts;

use export::Export;

/// What a line of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Words for people.
    #[default]
    Text,
    /// An object: `timestamp`, `level`, `target`, `message`, and the fields.
    Json,
}

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Such as `http://127.0.0.1:4317`, or `https://` with roots.
    pub endpoint: String,
    /// The roots of its certificate, in PEM. `https` needs them.
    pub roots: Option<String>,
    /// Which part of the traces that begin here is kept, 0 to 1. What continues a trace does as its caller has decided.
    pub ratio: f64,
    /// The `service.name` of all spans.
    pub service: String,
}

/// Why neither logs nor traces can be written.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter of the log is none.
    #[error("--log: {0}")]
    Filter(String),
    /// The collector's address cannot be used.
    #[error("--tracing-otlp: {0}")]
    Collector(String),
    /// Somebody else writes logs already.
    #[error("logs are written already: {0}")]
    Taken(String),
}

/// What writes spans, until its [end](Self::end).
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
}

impl Telemetry {
    /// Writes logs as `filter` says, and spans to a collector, from now on. To be called in tokio's runtime.
    ///
    /// # Errors
    /// See [`TelemetryError`].
    pub fn start(
        filter: &str,
        format: LogFormat,
        collector: Option<&Collector>,
    ) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(filter)
            .map_err(|error| TelemetryError::Filter(error.to_string()))?;
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal());
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Text => lines.with_filter(filter).boxed(),
            LogFormat::Json => lines
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_filter(filter)
                .boxed(),
        };
        let mut layers = vec![lines];
        let export = collector.map(Export::start).transpose()?;
        if let Some(export) = &export {
            let traces = tracing_opentelemetry::layer()
                .with_tracer(export.provider.tracer(env!("CARGO_PKG_NAME")))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false);
            // Ours only: what the exporter itself logs would lead to more of it.
            let ours = Targets::new()
                .with_target("outrigger_control_plane", LevelFilter::DEBUG)
                .with_target("audit", LevelFilter::INFO);
            layers.push(traces.with_filter(ours).boxed());
        }
        tracing_subscriber::registry()
            .with(layers)
            .try_init()
            .map_err(|error| TelemetryError::Taken(error.to_string()))?;
        Ok(Self { export })
    }

    /// What became of the spans.
    #[must_use]
    pub fn counts(&self) -> Arc<SpanCounts> {
        let counts = self
            .export
            .as_ref()
            .map(|export| Arc::clone(&export.counts));
        counts.unwrap_or_default()
    }

    /// Sends what is in the queue, for two seconds at most.
    pub async fn end(self) {
        if let Some(export) = self.export {
            export.end().await;
        }
    }
}

impl Collector {
    fn exporter(&self) -> Result<opentelemetry_otlp::SpanExporter, TelemetryError> {
        let mut builder = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&self.endpoint)
            .with_timeout(export::TIMEOUT);
        match (self.endpoint.starts_with("https:"), &self.roots) {
            (true, Some(roots)) => {
                let roots = Certificate::from_pem(roots);
                builder = builder.with_tls_config(ClientTlsConfig::new().ca_certificate(roots));
            }
            (true, None) => {
                let text = "https needs --tracing-otlp-roots";
                return Err(TelemetryError::Collector(text.to_owned()));
            }
            (false, _) => {}
        }
        builder
            .build()
            .map_err(|error| TelemetryError::Collector(error.to_string()))
    }

    fn resource(&self) -> Resource {
        Resource::builder_empty()
            .with_service_name(self.service.clone())
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build()
    }

    fn provider(&self, queue: export::Queue) -> SdkTracerProvider {
        let ratio = Sampler::TraceIdRatioBased(self.ratio);
        SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(self.resource())
            .with_span_processor(queue)
            .build()
    }
}
