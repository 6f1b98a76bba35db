//! `envoy.filters.http.rbac`: answers 403 to what its policies do not allow.
//! Type URLs: `envoy.extensions.filters.http.rbac.v3.RBAC`, per route `envoy.extensions.filters.http.rbac.v3.RBACPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter>
//! Stats: `<prefix>rbac.<rules_stat_prefix>{allowed,denied}`, `<prefix>rbac.<shadow_rules_stat_prefix>{shadow_allowed,shadow_denied}`.
//! Details: `rbac_access_denied_matched_policy[<policy>]`. Dynamic metadata: `envoy.filters.http.rbac`, and `access_log_hint` in
//! `envoy.common` for the action `LOG`.
//! Stats with `track_per_rule_stats`: `<prefix>rbac.<rules_stat_prefix>policy.<policy>.{allowed,denied}`, and likewise those of
//! the shadow rules.
//! Deviations: none. As in Envoy, which has no audit logger, nothing comes of `audit_logging_options`, nor of `checked_condition`.
//! No filter of this proxy resolves upstreams ahead, and so permissions of the kind `upstream_ip_port` hold for no request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::rbac::v3 as pb;
use serde_json::{Map, Value};

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, RequestHead};
use crate::rbac::{Decision, Engine, Subject};
use crate::server::{FactoryContext, Worker};
use crate::stats::{Counter, Scope};
use crate::stats_group;
use crate::stream_info::DynamicMetadata;

/// Makes RBAC filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.rbac.v3.RBAC"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.rbac.v3.RBACPerRoute"]
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let policy = Policies::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(Config {
            stats: Stats::new(&policy, cx.scope),
            policy,
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::RbacPerRoute { rbac } = config.decode(path)?;
        let policy = path.optional("rbac", rbac, |rbac, path| {
            Policies::from_proto(rbac, cx, path)
        })?;
        Ok(Arc::new(policy.unwrap_or_default()))
    }
}

stats_group! {
    /// What was enforced.
    pub(super) struct RuleStats {
        counter allowed;
        counter denied;
    }
}

stats_group! {
    /// What would have been.
    pub(super) struct ShadowStats {
        counter shadow_allowed;
        counter shadow_denied;
    }
}

struct Config {
    policy: Policies,
    stats: Stats,
}

/// Where decisions are counted: with the filter, also those of routes.
struct Stats {
    enforced: RuleStats,
    shadow: ShadowStats,
    /// Of `policy.`
    enforced_rules: Scope,
    shadow_rules: Scope,
}

/// What is enforced and what is only counted; of the filter or of a route.
#[derive(Debug, Default)]
struct Policies {
    enforced: Option<Engine>,
    rules_stat_prefix: Box<str>,
    shadow: Option<Engine>,
    shadow_rules_stat_prefix: Box<str>,
    track_per_rule_stats: bool,
}

impl Policies {
    fn from_proto(
        proto: pb::Rbac,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Rbac {
            rules,
            rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = proto;
        let enforced = Engine::from_proto(("rules", "matcher"), rules, matcher, cx, path);
        let names = ("shadow_rules", "shadow_matcher");
        let shadow = Engine::from_proto(names, shadow_rules, shadow_matcher, cx, path);
        Ok(Self {
            enforced: enforced?,
            rules_stat_prefix: rules_stat_prefix.into(),
            shadow: shadow?,
            shadow_rules_stat_prefix: shadow_rules_stat_prefix.into(),
            track_per_rule_stats,
        })
    }
}

impl Stats {
    fn new(policy: &Policies, scope: &Scope) -> Self {
        let rbac = scope.scope("rbac.");
        let enforced = rbac.scope(&dotted(&policy.rules_stat_prefix));
        let shadow = rbac.scope(&dotted(&policy.shadow_rules_stat_prefix));
        Self {
            enforced: RuleStats::new(&enforced),
            shadow: ShadowStats::new(&shadow),
            enforced_rules: enforced.scope("policy."),
            shadow_rules: shadow.scope("policy."),
        }
    }
}

/// A prefix that ends with a dot, if there is one.
fn dotted(prefix: &str) -> String {
    match prefix.is_empty() || prefix.ends_with('.') {
        true => prefix.to_owned(),
        false => format!("{prefix}."),
    }
}

/// The counters of single policies on one worker, made when first needed: routes may bring any.
type RuleCounters = RefCell<HashMap<(&'static str, Box<str>), Counter>>;

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        let counters = Rc::new(RuleCounters::default());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(RbacFilter {
                config: config.clone(),
                counters: counters.clone(),
            })
        })
    }

    fn is_idle(&self) -> bool {
        let Policies {
            enforced, shadow, ..
        } = &self.policy;
        enforced.is_none() && shadow.is_none()
    }
}

struct RbacFilter {
    config: Rc<Arc<Config>>,
    counters: Rc<RuleCounters>,
}

impl HttpFilter for RbacFilter {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let stats = &self.config.stats;
        let policy = cx.route_config::<Policies>().unwrap_or(&self.config.policy);
        let mut found = Map::new();
        let info = &*cx.info;
        let empty = DynamicMetadata::default();
        let subject = Subject {
            connection: &info.connection,
            head,
            remote: info.remote_address(),
            metadata: &info.dynamic_metadata,
            route_metadata: info
                .route
                .as_ref()
                .map(|selected| selected.route().metadata().unwrap_or(&empty)),
            filter_state: Some(&info.filter_state),
            info: Some(info),
        };
        if let Some(engine) = &policy.shadow {
            let decision = engine.decide(&subject);
            match decision.allowed {
                true => stats.shadow.shadow_allowed().inc(),
                false => stats.shadow.shadow_denied().inc(),
            }
            if policy.track_per_rule_stats {
                let names = ["shadow_denied", "shadow_allowed"];
                self.count_rule(&stats.shadow_rules, names, &decision);
            }
            let prefix = &policy.shadow_rules_stat_prefix;
            note(&mut found, prefix, "shadow", &decision);
        }
        let mut log = None;
        let mut denied = None;
        if let Some(engine) = &policy.enforced {
            let decision = engine.decide(&subject);
            log = decision.log;
            match decision.allowed {
                true => stats.enforced.allowed().inc(),
                false => {
                    stats.enforced.denied().inc();
                    denied = Some(decision.details());
                }
            }
            if policy.track_per_rule_stats {
                self.count_rule(&stats.enforced_rules, ["denied", "allowed"], &decision);
            }
            note(&mut found, &policy.rules_stat_prefix, "enforced", &decision);
        }
        if !found.is_empty() {
            cx.info.dynamic_metadata.merge(NAME, found);
        }
        if let Some(log) = log {
            let hint = [("access_log_hint".to_owned(), Value::Bool(log))];
            let hint = hint.into_iter().collect();
            cx.info.dynamic_metadata.merge("envoy.common", hint);
        }
        match denied {
            None => HeadersStatus::Continue,
            Some(details) => HeadersStatus::LocalReply(
                LocalReply::new(403, details).with_body("RBAC: access denied"),
            ),
        }
    }
}

impl RbacFilter {
    /// Counts what a policy has decided, under one of these names for denied and allowed.
    fn count_rule(&self, scope: &Scope, names: [&'static str; 2], decision: &Decision<'_>) {
        let Some(policy) = decision.policy else {
            return;
        };
        let name = names[usize::from(decision.allowed)];
        let mut counters = self.counters.borrow_mut();
        counters
            .entry((name, policy.into()))
            .or_insert_with(|| scope.scope(&format!("{policy}.")).counter(name))
            .inc();
    }
}

/// Says what was decided in the metadata of the stream.
fn note(found: &mut Map<String, Value>, prefix: &str, kind: &str, decision: &Decision<'_>) {
    if let Some(policy) = decision.policy {
        let key = format!("{prefix}{kind}_effective_policy_id");
        found.insert(key, Value::String(policy.to_owned()));
    }
    let key = format!("{prefix}{kind}_engine_result");
    found.insert(key, Value::String(decision.result().to_owned()));
}

const NAME: &str = "envoy.filters.http.rbac";
