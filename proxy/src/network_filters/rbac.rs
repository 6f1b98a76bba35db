//! `envoy.filters.network.rbac`: closes connections that its policies do not allow.
//! Type URLs: `envoy.extensions.filters.network.rbac.v3.RBAC`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/rbac_filter>
//! Stats: `<stat_prefix>rbac.{allowed,denied}`, `<stat_prefix>rbac.<shadow_rules_stat_prefix>{shadow_allowed,shadow_denied}`.
//! Termination details: `rbac_access_denied_matched_policy[<policy>]`. Dynamic metadata: `envoy.filters.network.rbac` of shadow rules.
//! Deviations: matchers cannot look at dynamic metadata.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use outrigger_proto::pb::envoy::extensions::filters::network::rbac::v3 as pb;
use pb::rbac::EnforcementType;
use serde_json::{Map, Value};

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{Protocol, RequestHead};
use crate::rbac::{Decision, Engine, Subject};
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes RBAC filters.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.rbac.v3.RBAC"]
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
    /// What was enforced.
    pub struct RuleStats {
        counter allowed;
        counter denied;
    }
}

stats_group! {
    /// What would have been.
    pub struct ShadowStats {
        counter shadow_allowed;
        counter shadow_denied;
    }
}

struct Config {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
    shadow_rules_stat_prefix: Box<str>,
    /// How long what is denied is kept waiting before it is closed.
    delay_deny: Option<Duration>,
    /// Every piece of data is judged, not only the first.
    continuous: bool,
    stats: RuleStats,
    shadow_stats: ShadowStats,
}

struct Shared(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::Rbac,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Rbac {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            stat_prefix,
            enforcement_type,
            delay_deny,
        } = proto;
        let engine = |names: (&str, &str), rules, matcher| {
            let engine = Engine::from_proto(names, rules, matcher, cx, path)?;
            match engine {
                Some(engine) if engine.needs_request() => Err(path
                    .field(names.1)
                    .reject("looks at a request, of which a connection knows nothing")),
                engine => Ok(engine),
            }
        };
        let enforced = engine(("rules", "matcher"), rules, matcher);
        let shadow = engine(
            ("shadow_rules", "shadow_matcher"),
            shadow_rules,
            shadow_matcher,
        );
        let delay_deny = path.duration("delay_deny", delay_deny);
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let kind = path.enumeration::<EnforcementType>("enforcement_type", enforcement_type);
        let scope = cx.server.stats.scope(&format!("{}rbac.", dotted(prefix?)));
        let shadow_prefix = match shadow_rules_stat_prefix.is_empty() {
            true => String::new(),
            false => dotted(shadow_rules_stat_prefix.clone()),
        };
        Ok(Self {
            enforced: enforced?,
            shadow: shadow?,
            delay_deny: delay_deny?.filter(|delay| !delay.is_zero()),
            continuous: kind? == EnforcementType::Continuous,
            stats: RuleStats::new(&scope),
            shadow_stats: ShadowStats::new(&scope.scope(&shadow_prefix)),
            shadow_rules_stat_prefix: shadow_rules_stat_prefix.into(),
        })
    }
}

/// A prefix that ends with a dot.
fn dotted(prefix: String) -> String {
    match prefix.ends_with('.') {
        true => prefix,
        false => format!("{prefix}."),
    }
}

impl FilterConfig for Shared {
    fn new_connection(&self, _: &Rc<Worker>) -> Box<dyn NetworkFilter> {
        Box::new(RbacFilter {
            config: self.0.clone(),
            judged: false,
        })
    }
}

struct RbacFilter {
    config: Arc<Config>,
    judged: bool,
}

impl RbacFilter {
    /// None: the connection goes on.
    fn judge(&self, info: &ConnectionInfo) -> Option<String> {
        let config = &*self.config;
        let head = RequestHead::new(Protocol::Http11, b"");
        let metadata = info.dynamic_metadata.borrow().clone();
        let subject = Subject {
            connection: info,
            head: &head,
            remote: &info.remote_address,
            metadata: &metadata,
            route_metadata: None,
            filter_state: None,
            info: None,
        };
        let mut found = Map::new();
        if let Some(engine) = &config.shadow {
            let decision = engine.decide(&subject);
            match decision.allowed {
                true => config.shadow_stats.shadow_allowed().inc(),
                false => config.shadow_stats.shadow_denied().inc(),
            }
            note(&mut found, &config.shadow_rules_stat_prefix, &decision);
        }
        let mut denied = None;
        if let Some(engine) = &config.enforced {
            let decision = engine.decide(&subject);
            if let Some(log) = decision.log {
                let hint = [("access_log_hint".to_owned(), Value::Bool(log))];
                let mut metadata = info.dynamic_metadata.borrow_mut();
                metadata.merge("envoy.common", hint.into_iter().collect());
            }
            match decision.allowed {
                true => config.stats.allowed().inc(),
                false => {
                    config.stats.denied().inc();
                    denied = Some(decision.details());
                }
            }
        }
        if !found.is_empty() {
            info.dynamic_metadata.borrow_mut().merge(NAME, found);
        }
        denied
    }
}

fn note(found: &mut Map<String, Value>, prefix: &str, decision: &Decision<'_>) {
    if let Some(policy) = decision.policy {
        let key = format!("{prefix}shadow_effective_policy_id");
        found.insert(key, Value::String(policy.to_owned()));
    }
    let key = format!("{prefix}shadow_engine_result");
    found.insert(key, Value::String(decision.result().to_owned()));
}

impl NetworkFilter for RbacFilter {
    fn wants_data(&self) -> bool {
        true
    }

    /// Judges with the first bytes: then TLS has told who the client is.
    fn on_data(&mut self, info: &ConnectionInfo, _: &mut BytesMut, _: bool) -> NetworkStatus {
        if self.judged && !self.config.continuous {
            return NetworkStatus::Continue;
        }
        self.judged = true;
        match self.judge(info) {
            None => NetworkStatus::Continue,
            Some(details) => {
                info.termination_details.replace(Some(details.into()));
                match self.config.delay_deny {
                    None => NetworkStatus::Close(""),
                    Some(delay) => NetworkStatus::Wait(Box::pin(tokio::time::sleep(delay))),
                }
            }
        }
    }

    /// The delay of a denial is over.
    fn resume(&mut self, _: &ConnectionInfo) -> NetworkStatus {
        NetworkStatus::Close("")
    }
}

const NAME: &str = "envoy.filters.network.rbac";
