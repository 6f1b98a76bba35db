//! `envoy.filters.http.rbac`: answers 403 to what its policies do not allow.
//! Type URLs: `envoy.extensions.filters.http.rbac.v3.RBAC`, per route `envoy.extensions.filters.http.rbac.v3.RBACPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter>
//! Stats: `<prefix>rbac.<rules_stat_prefix>{allowed,denied}`, `<prefix>rbac.<shadow_rules_stat_prefix>{shadow_allowed,shadow_denied}`.
//! Details: `rbac_access_denied_matched_policy[<policy>]`. Dynamic metadata: `envoy.filters.http.rbac`, and `access_log_hint` in
//! `envoy.common` for the action `LOG`.
//! Deviations: `matcher`, `shadow_matcher`, conditions in CEL, audit loggers, matcher and URI template permissions, custom
//! principals and stats per rule are refused.

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
use crate::rbac::{Decision, Rules, Subject};
use crate::server::{FactoryContext, Worker};
use crate::stats::Scope;
use crate::stats_group;

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
        let policy = Policies::from_proto(config.decode(path)?, path)?;
        Ok(Arc::new(Config {
            stats: policy.stats(cx.scope),
            policy,
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::RbacPerRoute { rbac } = config.decode(path)?;
        let policy = path.optional("rbac", rbac, Policies::from_proto)?;
        Ok(Arc::new(policy.unwrap_or_default()))
    }
}

stats_group! {
    /// What was enforced.
    pub(super) struct RuleStats {
        counter allowed;
        counter denied;
        counter logged;
        counter not_logged;
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
    stats: (RuleStats, ShadowStats),
}

/// What is enforced and what is only counted; of the filter or of a route.
#[derive(Debug, Default)]
struct Policies {
    rules: Option<Rules>,
    rules_stat_prefix: Box<str>,
    shadow_rules: Option<Rules>,
    shadow_rules_stat_prefix: Box<str>,
}

impl Policies {
    fn from_proto(proto: pb::Rbac, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Rbac {
            rules,
            rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = proto;
        let refused = [
            path.unsupported_if_set("matcher", matcher),
            path.unsupported_if_set("shadow_matcher", shadow_matcher),
            path.unsupported_if_set("track_per_rule_stats", track_per_rule_stats),
        ];
        let rules = path.optional("rules", rules, Rules::from_proto);
        let shadow = path.optional("shadow_rules", shadow_rules, Rules::from_proto);
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(Self {
            rules: rules?,
            rules_stat_prefix: rules_stat_prefix.into(),
            shadow_rules: shadow?,
            shadow_rules_stat_prefix: shadow_rules_stat_prefix.into(),
        })
    }

    fn stats(&self, scope: &Scope) -> (RuleStats, ShadowStats) {
        let rbac = scope.scope("rbac.");
        (
            RuleStats::new(&rbac.scope(&self.rules_stat_prefix)),
            ShadowStats::new(&rbac.scope(&self.shadow_rules_stat_prefix)),
        )
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(RbacFilter {
                config: config.clone(),
            })
        })
    }
}

struct RbacFilter {
    config: Rc<Arc<Config>>,
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
        let (stats, shadow_stats) = &self.config.stats;
        let policy = cx.route_config::<Policies>().unwrap_or(&self.config.policy);
        let mut found = Map::new();
        let mut note = |prefix: &str, kind: &str, decision: &Decision<'_>| {
            if let Some(policy) = decision.policy {
                let key = format!("{prefix}{kind}_effective_policy_id");
                found.insert(key, Value::String(policy.to_owned()));
            }
            let key = format!("{prefix}{kind}_engine_result");
            found.insert(key, Value::String(decision.result().to_owned()));
        };
        let info = &*cx.info;
        let subject = Subject {
            connection: &info.connection,
            head,
            remote: info.remote_address(),
            metadata: &info.dynamic_metadata,
            route_metadata: info
                .route
                .as_ref()
                .and_then(|selected| selected.route().metadata()),
            filter_state: Some(&info.filter_state),
        };
        if let Some(rules) = &policy.shadow_rules {
            let decision = rules.decide(&subject);
            match decision.allowed {
                true => shadow_stats.shadow_allowed().inc(),
                false => shadow_stats.shadow_denied().inc(),
            }
            note(&policy.shadow_rules_stat_prefix, "shadow", &decision);
        }
        let mut log = None;
        let mut denied = None;
        if let Some(rules) = &policy.rules {
            let decision = rules.decide(&subject);
            log = decision.log;
            match decision.allowed {
                true => stats.allowed().inc(),
                false => {
                    stats.denied().inc();
                    denied = Some(decision.details());
                }
            }
            note(&policy.rules_stat_prefix, "enforced", &decision);
        }
        match log {
            Some(true) => stats.logged().inc(),
            Some(false) => stats.not_logged().inc(),
            None => {}
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

const NAME: &str = "envoy.filters.http.rbac";
