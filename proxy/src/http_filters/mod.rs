//! HTTP filters: the trait, its statuses, and the list of those that exist.
//!
//! A filter is worker-local and sees one stream. Its methods are synchronous; one that must wait returns `Wait` with a future
//! that owns what it needs, and is called again at `resume_*` when that future has ended. The other direction of the stream
//! runs on meanwhile.

mod admission_control;
mod api_key_auth;
mod bandwidth_limit;
mod basic_auth;
mod buffer;
pub mod chain_config;
mod compressor;
mod context;
pub mod core_retry_policy;
mod cors;
mod credential_injector;
mod csrf;
mod custom_response;
mod decompressor;
mod discovery;
mod ext_authz;
mod fault;
mod grpc_http1_bridge;
mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod header_to_metadata;
pub(crate) mod headers;
mod health_check;
#[cfg(test)]
mod idle_tests;
mod json_to_metadata;
mod jwt_authn;
mod local_ratelimit;
mod mutation_rules;
mod on_demand;
mod query;
mod ratelimit;
mod rbac;
pub mod router;
mod set_filter_state;
mod set_metadata;
mod stateful_session;
mod status;
#[cfg(test)]
mod test_support;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

pub use crate::LocalBoxFuture;
pub use context::{Effects, Injected, StreamContext};
pub use discovery::ExtensionConfigs;
pub use status::{DataStatus, HeadersStatus, LocalReply, Recreate, TrailersStatus};

use bytes::{Bytes, BytesMut};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::StreamInfo;

/// Every HTTP filter that can be configured, other than the terminal router.
pub static FACTORIES: &[&dyn HttpFilterFactory] = &[
    &admission_control::Factory,
    &bandwidth_limit::Factory,
    &api_key_auth::Factory,
    &basic_auth::Factory,
    &buffer::Factory,
    &compressor::Factory,
    &cors::Factory,
    &credential_injector::Factory,
    &custom_response::Factory,
    &csrf::Factory,
    &ext_authz::Factory,
    &decompressor::Factory,
    &fault::Factory,
    &grpc_http1_bridge::Factory,
    &grpc_stats::Factory,
    &grpc_web::Factory,
    &header_mutation::Factory,
    &header_to_metadata::Factory,
    &health_check::Factory,
    &json_to_metadata::Factory,
    &jwt_authn::Factory,
    &local_ratelimit::Factory,
    &on_demand::Factory,
    &ratelimit::Factory,
    &rbac::Factory,
    &set_filter_state::Factory,
    &set_metadata::Factory,
    &stateful_session::Factory,
];

/// One filter on one stream.
///
/// Data methods may change `data` in place; what is in it when they return `Continue` goes on to the next filter.
#[allow(unused_variables, reason = "a default ignores what it is given")]
pub trait HttpFilter {
    /// Which of the methods below do something. A method that is not named here is never called.
    fn interests(&self) -> Interests;

    /// The request head came.
    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        HeadersStatus::Continue
    }

    /// A piece of the request body came.
    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        DataStatus::Continue
    }

    /// The request trailers came.
    fn decode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        TrailersStatus::Continue
    }

    /// An informational response (1xx other than 101) passes.
    fn encode_1xx(&mut self, cx: &mut StreamContext<'_>, head: &mut ResponseHead) {}

    /// The response head passes, also that of a local reply.
    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        HeadersStatus::Continue
    }

    /// A piece of the response body passes.
    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        DataStatus::Continue
    }

    /// The response trailers pass.
    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        TrailersStatus::Continue
    }

    /// The future of a `Wait` that `decode_headers` (or this) returned has ended.
    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        HeadersStatus::Continue
    }

    /// The future of a `Wait` that `decode_data` (or this) returned has ended. `buffered` is what this filter held back,
    /// the data of that call included; what is in it at `Continue` goes on. `end`: the body ends with it.
    fn resume_decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        DataStatus::Continue
    }

    /// The future of a `Wait` that `decode_trailers` (or this) returned has ended.
    fn resume_decode_trailers(&mut self, cx: &mut StreamContext<'_>) -> TrailersStatus {
        TrailersStatus::Continue
    }

    /// As `resume_decode`, after `encode_headers`.
    fn resume_encode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
    ) -> HeadersStatus {
        HeadersStatus::Continue
    }

    /// As `resume_decode_data`, after `encode_data`.
    fn resume_encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        buffered: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        DataStatus::Continue
    }

    /// The stream has ended, for whatever reason. Called once, last; nothing can be sent any more.
    fn on_stream_complete(&mut self, info: &mut StreamInfo) {}

    /// There is no route for the request of its `HeadersStatus::Recreate`, and the response goes on.
    fn on_recreate_refused(&mut self) {}
}

/// The methods of a filter that do something, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interests(u8);

impl Interests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `decode_headers`.
    pub const DECODE_HEADERS: Self = Self(1);
    /// `decode_data`.
    pub const DECODE_DATA: Self = Self(2);
    /// `decode_trailers`.
    pub const DECODE_TRAILERS: Self = Self(4);
    /// `encode_headers` and `encode_1xx`.
    pub const ENCODE_HEADERS: Self = Self(8);
    /// `encode_data`.
    pub const ENCODE_DATA: Self = Self(16);
    /// `encode_trailers`.
    pub const ENCODE_TRAILERS: Self = Self(32);
    /// `on_stream_complete`.
    pub const COMPLETE: Self = Self(64);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Makes filters out of configuration. One per extension, listed in [`FACTORIES`].
pub trait HttpFilterFactory: Sync {
    /// The canonical name: `envoy.filters.http.cors`.
    fn name(&self) -> &'static str;

    /// The messages that choose this factory when they stand in `HttpFilter.typed_config`.
    fn type_names(&self) -> &'static [&'static str];

    /// The messages that may stand in `typed_per_filter_config`.
    fn per_route_type_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the filter may stand in a list of upstream filters. Default false.
    fn supports_upstream(&self) -> bool {
        false
    }

    /// Converts the configuration of the filter.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the name that every conversion has"
    )]
    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected>;

    /// As `from_proto`, for filters to which it matters how their configuration is called: by default it does not.
    fn named_from_proto(
        &self,
        _name: &str,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        self.from_proto(config, cx, path)
    }

    /// Converts a per-route configuration. Only called for `per_route_type_names`.
    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        Err(config.unknown(path, self.per_route_type_names()))
    }

    /// Merges the configurations of virtual host, route and weighted cluster, given from the least to the most specific
    /// (at least one). The most specific one counts, unless the filter says otherwise.
    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        configs
            .last()
            .cloned()
            .expect("the caller has at least one")
    }
}

/// A per-route configuration of some filter; the filter knows its type.
pub type RouteFilterConfig = Arc<dyn Any + Send + Sync>;

/// A configured filter. Shared by all workers.
pub trait HttpFilterConfig: Send + Sync {
    /// Makes what one worker needs to start the filter on its streams: called once per worker, not per stream.
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter>;

    /// Whether the filter can do nothing on a stream for which no route configures it. Default false.
    ///
    /// True only if then, whatever the message and the runtime: every method returns `Continue` and changes nothing, no stat is
    /// counted, and the filter stays as `new_stream` has made it. Such a filter is made only once a table configures it, which may
    /// be in the middle of a stream; it has not seen then what passed before.
    fn is_idle(&self) -> bool {
        false
    }
}

/// A configured filter on one worker.
pub trait WorkerHttpFilter {
    /// The filter for a new stream.
    fn new_stream(&self) -> Box<dyn HttpFilter>;
}

impl<F: Fn() -> Box<dyn HttpFilter>> WorkerHttpFilter for F {
    fn new_stream(&self) -> Box<dyn HttpFilter> {
        self()
    }
}
