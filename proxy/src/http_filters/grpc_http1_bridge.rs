//! `envoy.filters.http.grpc_http1_bridge`: lets HTTP/1.1 clients call gRPC services: they get the status in the head.
//!
//! Type URL: `envoy.extensions.filters.http.grpc_http1_bridge.v3.Config`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_http1_bridge_filter>
//! Stats: none of its own.
//!
//! Deviations: `cluster.<name>.grpc.…` is counted by `grpc_stats` alone.

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
        Ok(Arc::new(Config {
            upgrade_protobuf_to_grpc,
            ignore_query_parameters,
        }))
    }
}

#[derive(Clone, Copy)]
struct Config {
    /// A message without a frame becomes a call. Default false.
    upgrade_protobuf_to_grpc: bool,
    /// The upstream does not see the query of a call. Default false.
    ignore_query_parameters: bool,
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = *self;
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Bridge {
                config,
                held: None,
                bridges: false,
                frames: None,
                unframed: 0,
            })
        })
    }
}

const PROTOBUF: &str = "application/x-protobuf";
/// The bytes before a message of gRPC.
const FRAME_HEADER: usize = 5;

struct Bridge {
    config: Config,
    bridges: bool,
    /// The bytes that the message of the request has so far; none: it is in a frame already.
    frames: Option<u64>,
    /// How many bytes of the frame of the response were taken away.
    unframed: usize,
    /// How many bytes of a response are held back.
    held: Option<u64>,
}

impl HttpFilter for Bridge {
    fn interests(&self) -> Interests {
        let decode = if self.config.upgrade_protobuf_to_grpc {
            Interests::DECODE_HEADERS.and(Interests::DECODE_DATA)
        } else {
            Interests::DECODE_HEADERS
        };
        decode
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
        let content_type = head.fields.get(Known::ContentType);
        let upgrades =
            self.config.upgrade_protobuf_to_grpc && content_type == Some(PROTOBUF.as_bytes());
        let is_http1 = cx.info.protocol.is_some_and(|p| p.is_http1());
        self.bridges = is_http1 && (upgrades || head.is_grpc());
        if upgrades {
            self.frames = Some(0);
            head.fields.set(Known::ContentType, "application/grpc");
            // The frame makes it longer.
            head.fields.remove(Known::ContentLength);
            cx.clear_route_cache();
        }
        if self.bridges && self.config.ignore_query_parameters {
            let path = head.path().unwrap_or_default();
            if let Some(query) = path.iter().position(|b| *b == b'?') {
                let path = path[..query].to_vec();
                head.set_path(&path);
            }
        }
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(length) = &mut self.frames else {
            return DataStatus::Continue;
        };
        *length += data.len() as u64;
        if !end.is_end() {
            // Beyond the limit of the connection it is 413.
            return DataStatus::StopIterationAndBuffer;
        }
        // What is held back is never longer than a frame can say.
        let length = u32::try_from(*length).unwrap_or(u32::MAX);
        let mut frame = vec![0];
        frame.extend_from_slice(&length.to_be_bytes());
        cx.inject_data(frame.into(), EndStream::No);
        DataStatus::Continue
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
        if self.frames.is_some() {
            let frame = FRAME_HEADER.saturating_sub(self.unframed).min(data.len());
            let _ = data.split_to(frame);
            self.unframed += frame;
        }
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
        if self.frames.is_some() {
            head.fields.set(Known::ContentType, PROTOBUF);
        }
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
    fn a_message_without_a_frame_gets_one_and_its_answer_loses_its_own() {
        let config = pb::Config {
            upgrade_protobuf_to_grpc: true,
            ..Default::default()
        };
        let mut stream = Harness::new(&config)
            .stream_with(&[("content-type", PROTOBUF), ("content-length", "3")]);
        assert!(stream.decode_headers(false).is_continue());
        let fields = &stream.request.fields;
        assert_eq!(fields.get_str("content-type"), Some("application/grpc"));
        assert_eq!(fields.get("content-length"), None);
        let status = stream.decode_data("ab", false);
        assert!(matches!(status, DataStatus::StopIterationAndBuffer));
        let status = stream.decode_data("c", true);
        assert!(matches!(status, DataStatus::Continue));
        assert_eq!(stream.take_injected(), b"\0\0\0\0\x03");
        let _ = stream.encode_headers(false);
        let (_, data) = stream.encode_data("\0\0\0", false);
        assert_eq!(data, "");
        let (_, data) = stream.encode_data("\0\x02de", false);
        assert_eq!(data, "de");
        let mut trailers = Fields::new();
        trailers.append("grpc-status", "0");
        let _ = stream.encode_trailers(&mut trailers);
        let fields = &stream.response.fields;
        assert_eq!(fields.get_str("content-length"), Some("2"));
        assert_eq!(fields.get_str("content-type"), Some(PROTOBUF));
    }

    #[test]
    fn other_requests_pass() {
        let mut stream = Harness::new(&pb::Config::default()).stream();
        let _ = stream.decode_headers(true);
        assert!(stream.encode_headers(false).is_continue());
    }
}
