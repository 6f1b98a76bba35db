//! What the filter, and a route, say.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3::HttpStatus;
use pb::rate_limit::XRateLimitHeadersRfcVersion;
use pb::rate_limit_per_route::{OverrideOptions, VhRateLimitsOptions};

use crate::config::{ConfigPath, Fraction, Rejected};
use crate::rate_limit::RateLimitService;
use crate::route::{HeaderParser, RateLimit, RateLimitPlace, SelectedRoute};
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, Worker};
use crate::stats::Counter;
use crate::upstream::async_client::AsyncClient;
use crate::upstream::{ClusterId, WorkerCluster};

/// A `RateLimit`.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) domain: Box<str>,
    pub(super) stage: u32,
    pub(super) request_type: RequestType,
    pub(super) service: RateLimitService,
    /// Default: always, unless the runtime key `ratelimit.http_filter_enabled` says otherwise.
    pub(super) enabled: RuntimeFraction,
    /// Default: always, unless the runtime key `ratelimit.http_filter_enforcing` says otherwise.
    pub(super) enforced: RuntimeFraction,
    pub(super) failure: FailureMode,
    pub(super) status_on_error: u16,
    pub(super) rate_limited_status: u16,
    /// `RESOURCE_EXHAUSTED` rather than `UNAVAILABLE` for gRPC.
    pub(super) as_resource_exhausted: bool,
    pub(super) x_ratelimit_headers: bool,
    pub(super) x_envoy_ratelimited: bool,
    pub(super) retry_after: bool,
    pub(super) response_headers: Option<HeaderParser>,
    pub(super) rate_limits: Box<[RateLimit]>,
    /// Where metadata of the service go to.
    pub(super) metadata_namespace: Box<str>,
    /// `ratelimit.` or `ratelimit.<stat_prefix>.`
    stat_prefix: Box<str>,
}

/// Which requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestType {
    Both,
    /// Those with `x-envoy-internal: true`.
    Internal,
    External,
}

/// What becomes of a request when the service does not answer.
#[derive(Debug)]
pub(super) enum FailureMode {
    Allow,
    Deny,
    /// This share of them is denied.
    DenySome(RuntimeFraction),
}

/// A `RateLimitPerRoute`.
#[derive(Debug)]
pub(super) struct OfRoute {
    vh_rate_limits: VhRateLimitsOptions,
    rate_limits: Box<[RateLimit]>,
    pub(super) domain: Box<str>,
}

impl Config {
    pub(super) fn from_proto(
        proto: pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RateLimit {
            domain,
            stage,
            request_type,
            timeout,
            failure_mode_deny,
            rate_limited_as_resource_exhausted,
            rate_limit_service,
            enable_x_ratelimit_headers,
            disable_x_envoy_ratelimited_header,
            rate_limited_status,
            response_headers_to_add,
            status_on_error,
            stat_prefix,
            filter_enabled,
            filter_enforced,
            failure_mode_deny_percent,
            rate_limits,
            metadata_namespace,
            enable_retry_after_header,
        } = proto;
        let domain = path.non_empty("domain", domain);
        let stage = path.in_range("stage", stage, 0..=10);
        let request_type = match request_type.as_str() {
            "" | "both" => Ok(RequestType::Both),
            "internal" => Ok(RequestType::Internal),
            "external" => Ok(RequestType::External),
            other => Err(path.field("request_type").reject(format!(
                "\"{other}\": must be one of internal, external, both"
            ))),
        };
        let service = RateLimitService::from_proto(rate_limit_service, timeout, cx, path);
        let runtime = &cx.server.runtime;
        let fraction = |name: &str, proto| {
            path.optional(name, proto, |proto, path| {
                RuntimeFraction::from_proto(proto, runtime, path)
            })
        };
        let enabled = fraction("filter_enabled", filter_enabled);
        let enforced = fraction("filter_enforced", filter_enforced);
        let deny_some = fraction("failure_mode_deny_percent", failure_mode_deny_percent);
        let response_headers = HeaderParser::from_proto(
            ("response_headers_to_add", response_headers_to_add),
            ("", Vec::new()),
            cx,
            path,
        );
        let x_ratelimit = path.enumeration::<XRateLimitHeadersRfcVersion>(
            "enable_x_ratelimit_headers",
            enable_x_ratelimit_headers,
        );
        let rate_limits = rules(rate_limits, cx, path);
        let always = |key: &str| runtime.fraction(key, Fraction::ALWAYS);
        Ok(Self {
            domain: domain?.into(),
            stage: stage?,
            request_type: request_type?,
            service: service?,
            enabled: enabled?.unwrap_or_else(|| always("ratelimit.http_filter_enabled")),
            enforced: enforced?.unwrap_or_else(|| always("ratelimit.http_filter_enforcing")),
            failure: match (deny_some?, failure_mode_deny) {
                (Some(share), _) => FailureMode::DenySome(share),
                (None, true) => FailureMode::Deny,
                (None, false) => FailureMode::Allow,
            },
            status_on_error: status(status_on_error, 100..=511, 500),
            rate_limited_status: status(rate_limited_status, 400..=599, 429),
            as_resource_exhausted: rate_limited_as_resource_exhausted,
            x_ratelimit_headers: x_ratelimit? == XRateLimitHeadersRfcVersion::DraftVersion03,
            x_envoy_ratelimited: !disable_x_envoy_ratelimited_header,
            retry_after: enable_retry_after_header,
            response_headers: response_headers?,
            rate_limits: rate_limits?,
            metadata_namespace: match metadata_namespace.is_empty() {
                true => super::NAME.into(),
                false => metadata_namespace.into(),
            },
            stat_prefix: match stat_prefix.is_empty() {
                true => "ratelimit.".into(),
                false => format!("ratelimit.{stat_prefix}.").into(),
            },
        })
    }

    /// Gives all rules for a request on this route to `take`, those for ended streams among them.
    pub(super) fn each_rule<'a>(
        &'a self,
        route: &'a SelectedRoute,
        of_route: Option<&'a OfRoute>,
        mut take: impl FnMut(&'a RateLimit),
    ) {
        let Some(action) = route.route().forward() else {
            return;
        };
        let own = of_route.map(|route| &*route.rate_limits);
        if let Some(rules) = own.filter(|rules| !rules.is_empty()) {
            return rules.iter().for_each(take);
        }
        if !self.rate_limits.is_empty() {
            return self.rate_limits.iter().for_each(take);
        }
        let staged = |rule: &&RateLimit| rule.stage == self.stage;
        action
            .rate_limits()
            .iter()
            .filter(staged)
            .for_each(&mut take);
        let with_host = action.include_vh_rate_limits()
            || match of_route.map(|route| route.vh_rate_limits) {
                Some(VhRateLimitsOptions::Include) => true,
                Some(VhRateLimitsOptions::Ignore) => false,
                Some(VhRateLimitsOptions::Override) | None => action.rate_limits().is_empty(),
            };
        if with_host {
            let rules = route.virtual_host().rate_limits();
            rules.iter().filter(staged).for_each(take);
        }
    }
}

impl OfRoute {
    pub(super) fn from_proto(
        proto: pb::RateLimitPerRoute,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RateLimitPerRoute {
            vh_rate_limits,
            override_option,
            rate_limits,
            domain,
        } = proto;
        let vh_rate_limits = path.enumeration("vh_rate_limits", vh_rate_limits);
        // Harmless: Envoy does not read it either.
        let option = path.enumeration::<OverrideOptions>("override_option", override_option);
        let rate_limits = rules(rate_limits, cx, path);
        option?;
        Ok(Self {
            vh_rate_limits: vh_rate_limits?,
            rate_limits: rate_limits?,
            domain: domain.into(),
        })
    }
}

fn rules(
    protos: Vec<outrigger_proto::pb::envoy::config::route::v3::RateLimit>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Box<[RateLimit]>, Rejected> {
    let rules = path.each("rate_limits", protos, |rule, path| {
        RateLimit::of_filter(rule, RateLimitPlace::GlobalFilter, cx, path)
    });
    rules.map(Into::into)
}

/// A status of this range; any other stands for `default`.
fn status(proto: Option<HttpStatus>, range: std::ops::RangeInclusive<u16>, default: u16) -> u16 {
    let code = proto.map_or(0, |HttpStatus { code }| code);
    u16::try_from(code)
        .ok()
        .filter(|code| range.contains(code))
        .unwrap_or(default)
}

/// What the filter has on one worker.
pub(super) struct WorkerState {
    pub(super) config: Arc<Config>,
    pub(super) worker: Rc<Worker>,
    client: OnceCell<AsyncClient>,
    stats: RefCell<HashMap<ClusterId, Rc<[OnceCell<Counter>; 4]>>>,
}

/// What is counted below the cluster that a request was to go to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stat {
    Ok,
    Error,
    OverLimit,
    FailureModeAllowed,
}

const STATS: [&str; 4] = ["ok", "error", "over_limit", "failure_mode_allowed"];

impl WorkerState {
    pub(super) fn new(config: Arc<Config>, worker: &Rc<Worker>) -> Self {
        Self {
            config,
            worker: worker.clone(),
            client: OnceCell::new(),
            stats: RefCell::default(),
        }
    }

    pub(super) fn client(&self) -> &AsyncClient {
        self.client
            .get_or_init(|| AsyncClient::new(self.worker.clone()))
    }

    /// Adds one. As in Envoy a counter is there from its first event on.
    pub(super) fn count(&self, cluster: &WorkerCluster, stat: Stat) {
        let info = cluster.info();
        let counters = self.stats.borrow_mut().entry(info.id).or_default().clone();
        let at = stat as usize;
        let made = || {
            let prefix = &self.config.stat_prefix;
            info.scope.counter(&format!("{prefix}{}", STATS[at]))
        };
        counters[at].get_or_init(made).inc();
    }
}
