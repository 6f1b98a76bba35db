//! `envoy.filters.http.grpc_stats`: counts calls and messages of gRPC, per cluster, service and method.
//!
//! Type URL: `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_stats_filter>
//! Stats: `cluster.<name>.grpc.[<service>.<method>.]{<status>,success,failure,total,request_message_count,`
//! `response_message_count,upstream_rq_time}`. Filter state: `envoy.filters.http.grpc_stats`.
//!
//! Deviations: calls of the Connect protocol are not counted.
//! Deviations: a worker counts the first 1000 methods of a cluster under their names, and all others without; Envoy all.

mod messages;
mod stats;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3::GrpcMethodList;
use outrigger_proto::pb::envoy::config::core::v3::grpc_method_list::Service;
use outrigger_proto::pb::envoy::extensions::filters::http::grpc_stats::v3 as pb;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::{FilterStateObject, StreamInfo};

use messages::{FrameCounter, MessageCounts};
use stats::{MethodStats, Shared};

/// Makes gRPC stats filters.
pub(super) struct Factory;

const FILTER_STATE: &str = "envoy.filters.http.grpc_stats";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.grpc_stats"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        use pb::filter_config::PerMethodStatSpecifier;
        let pb::FilterConfig {
            emit_filter_state,
            enable_upstream_stats,
            replace_dots_in_grpc_service_name,
            per_method_stat_specifier,
        } = config.decode(path)?;
        let methods = match per_method_stat_specifier {
            None => Methods::None,
            Some(PerMethodStatSpecifier::StatsForAllMethods(all)) if all.value => Methods::All {
                replace_dots: replace_dots_in_grpc_service_name,
            },
            Some(PerMethodStatSpecifier::StatsForAllMethods(_)) => Methods::None,
            Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => Methods::Listed(
                listed(list, &path.field("individual_method_stats_allowlist"))?,
            ),
        };
        Ok(Arc::new(Config {
            emit_filter_state,
            enable_upstream_stats,
            methods,
        }))
    }
}

fn listed(
    list: GrpcMethodList,
    path: &ConfigPath<'_>,
) -> Result<HashMap<Box<str>, HashSet<Box<str>>>, Rejected> {
    let GrpcMethodList { services } = list;
    let services = path.each("services", services, |service, path| {
        let Service { name, method_names } = service;
        let name = path.non_empty("name", name);
        if method_names.is_empty() {
            return Err(path.field("method_names").reject("must not be empty"));
        }
        Ok((name?, method_names))
    })?;
    let mut out = HashMap::<Box<str>, HashSet<Box<str>>>::new();
    for (name, methods) in services {
        let listed = out.entry(name.into()).or_default();
        listed.extend(methods.into_iter().map(Box::from));
    }
    Ok(out)
}

struct Config {
    emit_filter_state: bool,
    enable_upstream_stats: bool,
    methods: Methods,
}

/// Which methods are counted by name.
enum Methods {
    None,
    All {
        /// Writes the dots of service names as underscores.
        replace_dots: bool,
    },
    /// By service.
    Listed(HashMap<Box<str>, HashSet<Box<str>>>),
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let shared = Rc::new(Shared {
            config: self,
            clusters: RefCell::default(),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(GrpcStats {
                shared: shared.clone(),
                stats: None,
                is_grpc: false,
                is_grpc_response: false,
                counts: Rc::default(),
                request: FrameCounter::default(),
                response: FrameCounter::default(),
                emitted: false,
            })
        })
    }
}

struct GrpcStats {
    shared: Rc<Shared>,
    /// None: the call is not counted.
    stats: Option<Rc<MethodStats>>,
    is_grpc: bool,
    is_grpc_response: bool,
    counts: Rc<MessageCounts>,
    request: FrameCounter,
    response: FrameCounter,
    /// Whether the counts stand in the filter state.
    emitted: bool,
}

impl HttpFilter for GrpcStats {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.is_grpc = head.is_grpc();
        if self.is_grpc {
            self.stats = self.shared.stats(cx, head);
        }
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        if self.is_grpc {
            let messages = self.request.inspect(data);
            if messages > 0 {
                self.emit(cx.info);
                if let Some(stats) = &self.stats {
                    stats.count(
                        &stats.request_message_count,
                        "request_message_count",
                        messages,
                    );
                }
            }
        }
        DataStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        let status = head.fields.get(Known::GrpcStatus);
        self.is_grpc_response = if end.is_end() {
            status.is_some()
        } else {
            head.status == 200 && head.is_grpc()
        };
        if let Some(stats) = &self.stats {
            if let Some(status) = status {
                stats.charge_status(status);
            }
            if end.is_end() && self.shared.config.enable_upstream_stats {
                stats.charge_time(cx.info);
            }
        }
        HeadersStatus::Continue
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        _: EndStream,
    ) -> DataStatus {
        if self.is_grpc_response {
            let messages = self.response.inspect(data);
            if messages > 0 {
                self.emit(cx.info);
                if let Some(stats) = &self.stats {
                    stats.count(
                        &stats.response_message_count,
                        "response_message_count",
                        messages,
                    );
                }
            }
        }
        DataStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if let Some(stats) = &self.stats {
            if let Some(status) = trailers.get(Known::GrpcStatus) {
                stats.charge_status(status);
            }
            if self.shared.config.enable_upstream_stats {
                stats.charge_time(cx.info);
            }
        }
        TrailersStatus::Continue
    }
}

impl GrpcStats {
    fn emit(&mut self, info: &mut StreamInfo) {
        if !self.shared.config.emit_filter_state {
            return;
        }
        self.counts.request.set(self.request.frames);
        self.counts.response.set(self.response.frames);
        if !self.emitted {
            self.emitted = true;
            let object: Rc<dyn FilterStateObject> = Rc::new(self.counts.clone());
            info.filter_state.set(FILTER_STATE, object);
        }
    }
}

#[cfg(test)]
mod tests;
