//! Role-based access control: policies of permissions and principals, for the network filter and the HTTP filter.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/rbac/v3/rbac.proto>
//!
//! Policies are tried in the order of their names, as Envoy keeps them; the first that matches decides.

mod rule;

use outrigger_proto::pb::envoy::config::rbac::v3 as pb;

pub use self::rule::{Rule, Subject};
use self::rule::{permission, principal};
use crate::config::{ConfigPath, Rejected};

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

impl Rules {
    /// Converts an `RBAC`.
    pub fn from_proto(proto: pb::Rbac, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Rbac {
            action,
            policies,
            audit_logging_options,
        } = proto;
        let audit = path.unsupported_if_set("audit_logging_options", audit_logging_options);
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
        audit?;
        failed.map_or(Ok(()), Err)?;
        Ok(Self {
            action: match action? {
                pb::rbac::Action::Allow => Action::Allow,
                pb::rbac::Action::Deny => Action::Deny,
                pb::rbac::Action::Log => Action::Log,
            },
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
            checked_condition,
            cel_config,
        } = proto;
        let refused = [
            path.unsupported_if_set("condition", condition),
            path.unsupported_if_set("checked_condition", checked_condition),
            path.unsupported_if_set("cel_config", cel_config),
        ];
        let permissions = path.each("permissions", permissions, permission);
        let principals = path.each("principals", principals, principal);
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(Self {
            name: name.into(),
            permissions: permissions?.into(),
            principals: principals?.into(),
        })
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(subject));
        any(&self.permissions) && any(&self.principals)
    }
}

#[cfg(test)]
mod tests;
