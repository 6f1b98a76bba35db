//! `envoy.filters.network.ratelimit`: asks a service whether a connection may be made.
//! Type URLs: `envoy.extensions.filters.network.ratelimit.v3.RateLimit`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/rate_limit_filter>
//! Stats: `ratelimit.<stat_prefix>.{total,active,ok,error,over_limit,cx_closed,failure_mode_allowed}`.
//! Termination details: `ratelimit_close_over_limit`, `ratelimit_error_failure_mode_connection_close`.
//! Dynamic metadata: what the service says, in `envoy.filters.network.ratelimit`.
//! Deviations: none.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::network::ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::service::ratelimit::v3 as service_pb;
use outrigger_proto::rate_limit::RateLimitResponse;
use service_pb::rate_limit_response::Code;

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Fraction, Rejected, TypedConfig, json_object};
use crate::formatter::{FormatData, Formatter};
use crate::rate_limit::RateLimitService;
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::upstream::async_client::{AsyncClient, GrpcError};

/// Makes the filter.
pub struct Factory;

const NAME: &str = "envoy.filters.network.ratelimit";

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.ratelimit.v3.RateLimit"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(NetworkFilterConfig::Filter(Arc::new(Shared(Arc::new(
            config,
        )))))
    }
}

stats_group! {
    /// Connections and what the service said of them.
    pub struct Stats {
        gauge active;
        counter cx_closed;
        counter error;
        counter failure_mode_allowed;
        counter ok;
        counter over_limit;
        counter total;
    }
}

struct Config {
    domain: String,
    descriptors: Box<[Descriptor]>,
    service: RateLimitService,
    failure_mode_deny: bool,
    enabled: RuntimeFraction,
    enforcing: RuntimeFraction,
    stats: Stats,
}

/// Keys, and what gives their values.
type Descriptor = Box<[(String, Formatter)]>;

struct Shared(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RateLimit {
            stat_prefix,
            domain,
            descriptors,
            timeout,
            failure_mode_deny,
            rate_limit_service,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let domain = path.non_empty("domain", domain);
        let descriptors = match descriptors.is_empty() {
            true => Err(path.field("descriptors").reject("must not be empty")),
            false => path.each("descriptors", descriptors, |proto, path| {
                descriptor(proto, cx, path)
            }),
        };
        let service = RateLimitService::from_proto(rate_limit_service, timeout, cx, path);
        let scope = format!("ratelimit.{}.", prefix?);
        let runtime = &cx.server.runtime;
        let always = |key: &str| runtime.fraction(key, Fraction::ALWAYS);
        Ok(Self {
            domain: domain?,
            descriptors: descriptors?.into(),
            service: service?,
            failure_mode_deny,
            enabled: always("ratelimit.tcp_filter_enabled"),
            enforcing: always("ratelimit.tcp_filter_enforcing"),
            stats: Stats::new(&cx.server.stats.scope(&scope)),
        })
    }

    fn request(&self, data: &FormatData<'_>) -> service_pb::RateLimitRequest {
        let entry = |(key, format): &(String, Formatter)| {
            let mut value = Vec::new();
            format.render(data, &mut value);
            common::rate_limit_descriptor::Entry {
                key: key.clone(),
                value: match String::from_utf8_lossy(&value) {
                    Cow::Borrowed(text) => text.to_owned(),
                    Cow::Owned(text) => text,
                },
            }
        };
        let descriptors = self
            .descriptors
            .iter()
            .map(|entries| common::RateLimitDescriptor {
                entries: entries.iter().map(entry).collect(),
                ..Default::default()
            });
        service_pb::RateLimitRequest {
            domain: self.domain.clone(),
            descriptors: descriptors.collect(),
            hits_addend: 0,
        }
    }
}

fn descriptor(
    proto: common::RateLimitDescriptor,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Descriptor, Rejected> {
    let common::RateLimitDescriptor {
        entries,
        // Harmless: Envoy tells the service keys and values only.
        limit: _,
        hits_addend: _,
        is_negative_hits: _,
    } = proto;
    if entries.is_empty() {
        return Err(path.field("entries").reject("must not be empty"));
    }
    let entries = path.each("entries", entries, |entry, path| {
        let common::rate_limit_descriptor::Entry { key, value } = entry;
        let key = path.non_empty("key", key);
        let value = Formatter::parse(&value, cx, &path.field("value"));
        Ok((key?, value?))
    });
    entries.map(Into::into)
}

impl FilterConfig for Shared {
    fn new_connection(&self, worker: &Rc<Worker>) -> Box<dyn NetworkFilter> {
        Box::new(RateLimit {
            config: self.0.clone(),
            worker: worker.clone(),
            info: None,
            client: OnceCell::new(),
            answer: Rc::default(),
            active: false,
        })
    }

    fn new_filter(&self, worker: &Rc<Worker>, info: &Rc<ConnectionInfo>) -> Box<dyn NetworkFilter> {
        Box::new(RateLimit {
            config: self.0.clone(),
            worker: worker.clone(),
            info: Some(info.clone()),
            client: OnceCell::new(),
            answer: Rc::default(),
            active: false,
        })
    }
}

type Answer = Result<RateLimitResponse, GrpcError>;

struct RateLimit {
    config: Arc<Config>,
    worker: Rc<Worker>,
    /// None: nothing is known of the connection, and nobody is asked.
    info: Option<Rc<ConnectionInfo>>,
    client: OnceCell<AsyncClient>,
    answer: Rc<RefCell<Option<Answer>>>,
    active: bool,
}

impl NetworkFilter for RateLimit {
    fn on_new_connection(&mut self, _: &ConnectionInfo) -> NetworkStatus {
        let config = &*self.config;
        let random = &self.worker.random;
        let Some(info) = &self.info else {
            return NetworkStatus::Continue;
        };
        if !config.enabled.contains(random.next()) {
            return NetworkStatus::Continue;
        }
        config.stats.active().inc();
        config.stats.total().inc();
        self.active = true;
        let client = self
            .client
            .get_or_init(|| AsyncClient::new(self.worker.clone()));
        let info = StreamInfo::new(info.clone(), 0, None);
        let data = FormatData::of_request(&info, None);
        let call = config.service.ask(client, &config.request(&data), &data);
        let answer = self.answer.clone();
        NetworkStatus::Wait(Box::pin(async move {
            let came = call.await;
            answer.replace(Some(came));
        }))
    }

    fn resume(&mut self, info: &ConnectionInfo) -> NetworkStatus {
        self.rest();
        let stats = &self.config.stats;
        let answer = match self.answer.take() {
            Some(Ok(answer)) => answer,
            Some(Err(_)) | None => {
                stats.error().inc();
                if !self.config.failure_mode_deny {
                    stats.failure_mode_allowed().inc();
                    return NetworkStatus::Continue;
                }
                stats.cx_closed().inc();
                return NetworkStatus::Close("ratelimit_error_failure_mode_connection_close");
            }
        };
        let metadata = answer.dynamic_metadata.map(json_object).unwrap_or_default();
        if !metadata.is_empty() {
            info.dynamic_metadata.borrow_mut().merge(NAME, metadata);
        }
        if answer.overall_code != i32::from(Code::OverLimit) {
            stats.ok().inc();
            return NetworkStatus::Continue;
        }
        stats.over_limit().inc();
        if !self.config.enforcing.contains(self.worker.random.next()) {
            return NetworkStatus::Continue;
        }
        stats.cx_closed().inc();
        NetworkStatus::Close("ratelimit_close_over_limit")
    }
}

impl RateLimit {
    /// No answer is waited for any more.
    fn rest(&mut self) {
        if std::mem::take(&mut self.active) {
            self.config.stats.active().dec();
        }
    }
}

impl Drop for RateLimit {
    fn drop(&mut self) {
        self.rest();
    }
}
