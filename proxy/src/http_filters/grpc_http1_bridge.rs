//! `envoy.filters.http.grpc_http1_bridge`: lets HTTP/1.1 clients call gRPC services: they get the status in the head.
//!
//! Type URL: `envoy.extensions.filters.http.grpc_http1_bridge.v3.Config`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_http1_bridge_filter>
//! Stats: none of its own.
//!
//! Deviations: `upgrade_protobuf_to_grpc` is refused; `cluster.<name>.grpc.…` is counted by `grpc_stats` alone.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::grpc_http1_bridge::v3 as pb;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};

/// Makes bridges.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.grpc_http1_bridge"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.grpc_http1_bridge.v3.Config"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::Config {
            upgrade_protobuf_to_grpc,
            ignore_query_parameters,
        } = config.decode(path)?;
        path.unsupported_if_set("upgrade_protobuf_to_grpc", upgrade_protobuf_to_grpc)?;
        Ok(Arc::new(Config {
            ignore_query_parameters,
        }))
    }
}

struct Config {
    /// The upstream does not see the query of a call. Default false.
    ignore_query_parameters: bool,
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let ignore_query_parameters = self.ignore_query_parameters;
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Bridge {
                ignore_query_parameters,
                held: None,
                bridges: false,
            })
        })
    }
}

struct Bridge {
    ignore_query_parameters: bool,
    bridges: bool,
    /// How many bytes of a response are held back.
    held: Option<u64>,
}

impl HttpFilter for Bridge {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        self.bridges = head.is_grpc() && cx.info.protocol.is_some_and(|p| p.is_http1());
        if self.bridges && self.ignore_query_parameters {
            let path = head.path().unwrap_or_default();
            if let Some(query) = path.iter().position(|b| *b == b'?') {
                let path = path[..query].to_vec();
                head.set_path(&path);
            }
        }
        HeadersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        _head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        if !self.bridges || end.is_end() {
            return HeadersStatus::Continue;
        }
        self.held = Some(0);
        HeadersStatus::StopIteration
    }

    fn encode_data(
        &mut self,
        _cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(held) = &mut self.held else {
            return DataStatus::Continue;
        };
        *held += data.len() as u64;
        if end.is_end() {
            return DataStatus::Continue;
        }
        // Beyond the limit of the connection it is 500.
        DataStatus::StopIterationAndBuffer
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        let (Some(held), Some(head)) = (self.held, cx.response.as_deref_mut()) else {
            return TrailersStatus::Continue;
        };
        if let Some(status) = trailers.get(Known::GrpcStatus) {
            if std::str::from_utf8(status)
                .ok()
                .and_then(|s| s.parse::<u64>().ok())
                != Some(0)
            {
                head.status = 503;
            }
            head.fields.set(Known::GrpcStatus, status);
        }
        if let Some(message) = trailers.get(Known::GrpcMessage) {
            head.fields.set(Known::GrpcMessage, message);
        }
        head.fields.set(Known::ContentLength, held.to_string());
        TrailersStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Harness;
    use super::*;

    #[test]
    fn the_status_of_the_trailers_stands_in_the_head() {
        let config = pb::Config {
            ignore_query_parameters: true,
            ..Default::default()
        };
        let harness = Harness::new(&config);
        for (status, code) in [("0", 200), ("5", 503), ("x", 503)] {
            let fields = [("content-type", "application/grpc"), (":path", "/s/m?a=b")];
            let mut stream = harness.stream_with(&fields);
            let _ = stream.decode_headers(false);
            assert_eq!(stream.request.path(), Some(&b"/s/m"[..]));
            assert!(matches!(
                stream.encode_headers(false),
                HeadersStatus::StopIteration
            ));
            let (held, _) = stream.encode_data("12345", false);
            assert!(matches!(held, DataStatus::StopIterationAndBuffer));
            let mut trailers = Fields::new();
            trailers.append("grpc-status", status);
            trailers.append("grpc-message", "hm");
            let _ = stream.encode_trailers(&mut trailers);
            let fields = &stream.response.fields;
            assert_eq!(
                (stream.response.status, fields.get_str("grpc-status")),
                (code, Some(status))
            );
            assert_eq!(fields.get_str("grpc-message"), Some("hm"));
            assert_eq!(fields.get_str("content-length"), Some("5"));
        }
    }

    #[test]
    fn other_requests_pass() {
        let mut stream = Harness::new(&pb::Config::default()).stream();
        let _ = stream.decode_headers(true);
        assert!(stream.encode_headers(false).is_continue());
    }
}
