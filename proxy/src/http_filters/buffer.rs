//! `envoy.filters.http.buffer`: holds a request back until all of it is there.
//!
//! Type URLs: `envoy.extensions.filters.http.buffer.v3.Buffer`, per route
//! `envoy.extensions.filters.http.buffer.v3.BufferPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/buffer_filter>
//! Stats: none. A request beyond the limit is answered with 413 by the stream, details `request_payload_too_large`.
//!
//! Deviations: none.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::buffer::v3 as pb;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    RouteFilterConfig, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead};
use crate::server::{FactoryContext, Worker};

/// Makes buffer filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.buffer"
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.buffer.v3.Buffer"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.buffer.v3.BufferPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let max_request_bytes = max_request_bytes(config.decode(path)?, path)?;
        Ok(Arc::new(Config { max_request_bytes }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::BufferPerRoute { r#override } = config.decode(path)?;
        Ok(Arc::new(match path.required("override", r#override)? {
            pb::buffer_per_route::Override::Disabled(true) => PerRoute::Disabled,
            pb::buffer_per_route::Override::Disabled(false) => {
                return Err(path.field("disabled").reject("must be true"));
            }
            pb::buffer_per_route::Override::Buffer(buffer) => {
                PerRoute::Limit(max_request_bytes(buffer, &path.field("buffer"))?)
            }
        }))
    }
}

/// What a route says in the place of the filter.
#[derive(Debug, Clone, Copy)]
enum PerRoute {
    Disabled,
    /// In bytes.
    Limit(u64),
}

struct Config {
    max_request_bytes: u64,
}

fn max_request_bytes(proto: pb::Buffer, path: &ConfigPath<'_>) -> Result<u64, Rejected> {
    let pb::Buffer { max_request_bytes } = proto;
    let most = path.required("max_request_bytes", max_request_bytes)?.value;
    path.in_range("max_request_bytes", most, 1..=u32::MAX)
        .map(u64::from)
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let max_request_bytes = self.max_request_bytes;
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Buffer {
                max_request_bytes,
                received: None,
            })
        })
    }
}

struct Buffer {
    max_request_bytes: u64,
    /// How much of the body is held back; none while nothing is.
    received: Option<u64>,
}

impl HttpFilter for Buffer {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        if end.is_end() {
            return HeadersStatus::Continue;
        }
        let limit = match cx.route_config::<PerRoute>() {
            Some(PerRoute::Disabled) => return HeadersStatus::Continue,
            Some(PerRoute::Limit(limit)) => *limit,
            None => self.max_request_bytes,
        };
        cx.set_buffer_limit(limit);
        self.received = Some(0);
        HeadersStatus::StopIteration
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(received) = &mut self.received else {
            return DataStatus::Continue;
        };
        *received += data.len() as u64;
        if end.is_end() {
            self.release(cx);
            return DataStatus::Continue;
        }
        // The stream answers with 413 when the limit is reached.
        DataStatus::StopIterationAndBuffer
    }

    fn decode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _trailers: &mut Fields,
    ) -> TrailersStatus {
        self.release(cx);
        TrailersStatus::Continue
    }
}

impl Buffer {
    /// The length is known now, and so the upstream may know it as well.
    fn release(&mut self, cx: &mut StreamContext<'_>) {
        let Some(received) = self.received.take() else {
            return;
        };
        if let Some(head) = &mut cx.request
            && !head.fields.contains(Known::ContentLength)
        {
            head.fields
                .append(Known::ContentLength, received.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf::UInt32Value;

    use super::super::test_support::{Harness, errors};
    use super::*;

    fn buffer(most: u32) -> pb::Buffer {
        pb::Buffer {
            max_request_bytes: Some(UInt32Value { value: most }),
        }
    }

    fn per_route(value: pb::buffer_per_route::Override) -> pb::BufferPerRoute {
        pb::BufferPerRoute {
            r#override: Some(value),
        }
    }

    #[test]
    fn a_request_is_held_back_until_it_is_whole_and_gets_its_length() {
        let harness = Harness::new(&buffer(1000));
        let mut stream = harness.stream();
        assert!(matches!(
            stream.decode_headers(false),
            HeadersStatus::StopIteration
        ));
        assert_eq!(stream.effects.buffer_limit, Some(1000));
        let status = stream.decode_data("hello ", false);
        assert!(matches!(status, DataStatus::StopIterationAndBuffer));
        assert!(matches!(
            stream.decode_data("world", true),
            DataStatus::Continue
        ));
        assert_eq!(stream.request.fields.get_str("content-length"), Some("11"));
    }

    #[test]
    fn a_length_that_is_there_stays() {
        let harness = Harness::new(&buffer(1000));
        let mut stream = harness.stream_with(&[("content-length", "5")]);
        let _ = stream.decode_headers(false);
        let _ = stream.decode_data("hello", true);
        let all: Vec<_> = stream.request.fields.get_all("content-length").collect();
        assert_eq!(all, [b"5"]);
    }

    #[test]
    fn trailers_release_the_request_too() {
        let harness = Harness::new(&buffer(1000));
        let mut stream = harness.stream();
        let _ = stream.decode_headers(false);
        let _ = stream.decode_data("hello", false);
        let status = stream.decode_trailers(&mut Fields::new());
        assert!(matches!(status, TrailersStatus::Continue));
        assert_eq!(stream.request.fields.get_str("content-length"), Some("5"));
    }

    #[test]
    fn a_request_without_body_passes() {
        let mut stream = Harness::new(&buffer(1000)).stream();
        assert!(stream.decode_headers(true).is_continue());
        assert_eq!(stream.effects.buffer_limit, None);
        assert!(!stream.request.fields.contains("content-length"));
    }

    #[test]
    fn a_route_may_switch_it_off_or_set_another_limit() {
        use pb::buffer_per_route::Override;
        let off = per_route(Override::Disabled(true));
        let mut stream = Harness::with_route(&buffer(1000), &off).stream();
        assert!(stream.decode_headers(false).is_continue());
        assert!(matches!(
            stream.decode_data("x", false),
            DataStatus::Continue
        ));
        assert!(matches!(
            stream.decode_data("x", true),
            DataStatus::Continue
        ));
        assert!(!stream.request.fields.contains("content-length"));
        let other = per_route(Override::Buffer(buffer(7)));
        let mut stream = Harness::with_route(&buffer(1000), &other).stream();
        let _ = stream.decode_headers(false);
        assert_eq!(stream.effects.buffer_limit, Some(7));
    }

    #[test]
    fn a_limit_is_required_and_longer_than_nothing() {
        use pb::buffer_per_route::Override;
        assert_eq!(
            errors(&pb::Buffer::default()),
            ["config / max_request_bytes: has to be set"]
        );
        assert_eq!(
            errors(&per_route(Override::Buffer(buffer(0)))),
            ["config / buffer / max_request_bytes: 0: has to be > 0"]
        );
        assert_eq!(
            errors(&per_route(Override::Disabled(false))),
            ["config / disabled: false: has to be true"]
        );
    }
}
