//! Role-based access control: policies of permissions and principals, for the network filter and the HTTP filter.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/rbac/v3/rbac.proto>
//!
//! Policies are tried in the order of their names, as Envoy keeps them; the first that matches decides.

mod rule;

use outrigger_proto::pb::envoy::config::rbac::v3 as pb;
use outrigger_proto::pb::xds::r#type::matcher::v3::Matcher as PbMatcher;

pub use self::rule::{Rule, Subject};
use self::rule::{permission, principal};
use crate::cel::{self, Expression};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::matchers::{Matcher, MatchingData};
use crate::server::FactoryContext;

/// What decides: policies, or a matcher whose actions are decisions.
#[derive(Debug)]
pub enum Engine {
    /// `rules`.
    Rules(Rules),
    /// `matcher`.
    Matcher {
        /// Finds the action; without one, what is asked for is denied.
        matcher: Matcher<NamedAction>,
        /// One of the actions is `LOG`.
        logs: bool,
    },
}

/// A converted `Action`: what to do, and the name that stands for a policy.
#[derive(Debug)]
pub struct NamedAction {
    name: Box<str>,
    action: Action,
}

/// A converted `RBAC`.
#[derive(Debug)]
pub struct Rules {
    action: Action,
    policies: Box<[Policy]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Log,
}

#[derive(Debug)]
struct Policy {
    name: Box<str>,
    /// One of them must match.
    permissions: Box<[Rule]>,
    /// One of them must match.
    principals: Box<[Rule]>,
    /// It must hold as well.
    condition: Option<Box<Expression>>,
}

/// What policies say of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it may go on.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a str>,
    /// With the action `LOG`: whether it is to be logged.
    pub log: Option<bool>,
}

impl Engine {
    /// Converts what is given in either form; the matcher goes before the rules, which are left out then.
    /// `names`: how the fields are called. None: neither is given.
    pub fn from_proto(
        names: (&str, &str),
        rules: Option<pb::Rbac>,
        matcher: Option<PbMatcher>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let Some(matcher) = matcher else {
            let rules = path.optional(names.0, rules, Rules::from_proto)?;
            return Ok(rules.map(Self::Rules));
        };
        let mut logs = false;
        let matcher = Matcher::from_proto(matcher, cx, &path.field(names.1), |config, path| {
            let action = NamedAction::from_proto(&config, path)?;
            logs |= action.action == Action::Log;
            Ok(action)
        })?;
        Ok(Some(Self::Matcher { matcher, logs }))
    }

    /// Whether a request is looked at, which connections do not have. Policies may: then it is an empty one.
    pub fn needs_request(&self) -> bool {
        match self {
            Self::Rules(_) => false,
            Self::Matcher { matcher, .. } => matcher.needs_request(),
        }
    }

    /// What is decided.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let (matcher, logs) = match self {
            Self::Rules(rules) => return rules.decide(subject),
            Self::Matcher { matcher, logs } => (matcher, *logs),
        };
        let found = matcher.find(&MatchingData {
            connection: subject.connection,
            info: subject.info,
            request: Some(subject.head),
            response: None,
        });
        Decision {
            allowed: found.is_some_and(|found| found.action != Action::Deny),
            policy: found.map(|found| &*found.name),
            log: found
                .filter(|_| logs)
                .map(|found| found.action == Action::Log),
        }
    }
}

impl NamedAction {
    fn from_proto(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        const TYPE: &str = "envoy.config.rbac.v3.Action";
        if &*config.type_name != TYPE {
            return Err(config.unknown(path, &[TYPE]));
        }
        let pb::Action { name, action } = config.decode(path)?;
        let action = path.enumeration::<pb::rbac::Action>("action", action);
        Ok(Self {
            name: path.non_empty("name", name)?.into(),
            action: action?.into(),
        })
    }
}

impl From<pb::rbac::Action> for Action {
    fn from(proto: pb::rbac::Action) -> Self {
        match proto {
            pb::rbac::Action::Allow => Self::Allow,
            pb::rbac::Action::Deny => Self::Deny,
            pb::rbac::Action::Log => Self::Log,
        }
    }
}

impl Rules {
    /// Converts an `RBAC`.
    pub fn from_proto(proto: pb::Rbac, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Rbac {
            action,
            policies,
            // Harmless: Envoy has no audit logger, and reads nothing of it.
            audit_logging_options: _,
        } = proto;
        let action = path.enumeration::<pb::rbac::Action>("action", action);
        let mut sorted: Vec<_> = policies.into_iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut failed = None;
        let mut policies = Vec::with_capacity(sorted.len());
        for (name, policy) in sorted {
            let path = path.key("policies", &name);
            match Policy::from_proto(&name, policy, &path) {
                Ok(policy) => policies.push(policy),
                Err(rejected) => failed = Some(rejected),
            }
        }
        failed.map_or(Ok(()), Err)?;
        Ok(Self {
            action: action?.into(),
            policies: policies.into(),
        })
    }

    /// What the policies say.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let found = self.policies.iter().find(|policy| policy.matches(subject));
        let matched = found.is_some();
        Decision {
            allowed: match self.action {
                Action::Allow => matched,
                Action::Deny => !matched,
                Action::Log => true,
            },
            policy: found.map(|policy| &*policy.name),
            log: (self.action == Action::Log).then_some(matched),
        }
    }
}

impl Decision<'_> {
    /// What stands in `%RESPONSE_CODE_DETAILS%` or `%CONNECTION_TERMINATION_DETAILS%` of what is denied.
    pub fn details(&self) -> String {
        let policy = self.policy.unwrap_or("none");
        let policy: String = policy
            .chars()
            .map(|c| if c.is_ascii_whitespace() { '_' } else { c })
            .collect();
        format!("rbac_access_denied_matched_policy[{policy}]")
    }

    /// `allowed` or `denied`.
    pub fn result(&self) -> &'static str {
        if self.allowed { "allowed" } else { "denied" }
    }
}

impl Policy {
    fn from_proto(name: &str, proto: pb::Policy, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Policy {
            permissions,
            principals,
            condition,
            // Harmless: Envoy decides by `condition` alone.
            checked_condition: _,
            cel_config,
        } = proto;
        let options = cel::Options::from_proto(cel_config);
        let condition = path.optional("condition", condition, |condition, path| {
            // As in Envoy, a condition does not know what `xds.node` is.
            Expression::from_proto(&condition, options, None).map_err(|error| path.reject(error))
        });
        let permissions = path.each("permissions", permissions, permission);
        let principals = path.each("principals", principals, principal);
        Ok(Self {
            name: name.into(),
            permissions: permissions?.into(),
            principals: principals?.into(),
            condition: condition?.map(Box::new),
        })
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(subject));
        any(&self.permissions)
            && any(&self.principals)
            && self
                .condition
                .as_ref()
                .is_none_or(|condition| condition.matches(&subject.activation()))
    }
}

#[cfg(test)]
mod tests;
