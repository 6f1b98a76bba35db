//! `envoy.config.common.mutation_rules.v3.HeaderMutationRules`: which fields a service may change.

use outrigger_proto::pb::envoy::config::common::mutation_rules::v3 as pb;
use outrigger_proto::pb::google::protobuf::BoolValue;

use crate::config::{ConfigPath, Rejected};
use crate::matchers::Regex;

/// Converted rules.
#[derive(Debug)]
pub(super) struct MutationRules {
    allow_all_routing: bool,
    allow_envoy: bool,
    disallow_system: bool,
    disallow_all: bool,
    allow: Option<Regex>,
    disallow: Option<Regex>,
    disallow_is_error: bool,
}

/// What is to be done to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Set,
    Append,
    Remove,
}

/// What the rules say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Allowed,
    /// It is left out.
    Ignored,
    /// All that the service said counts for nothing.
    Failed,
}

impl MutationRules {
    pub(super) fn from_proto(
        proto: pb::HeaderMutationRules,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HeaderMutationRules {
            allow_all_routing,
            allow_envoy,
            disallow_system,
            disallow_all,
            allow_expression,
            disallow_expression,
            disallow_is_error,
        } = proto;
        let is = |value: Option<BoolValue>| value.is_some_and(|value| value.value);
        let allow = path.optional("allow_expression", allow_expression, Regex::from_proto);
        let name = "disallow_expression";
        let disallow = path.optional(name, disallow_expression, Regex::from_proto);
        Ok(Self {
            allow_all_routing: is(allow_all_routing),
            allow_envoy: is(allow_envoy),
            disallow_system: is(disallow_system),
            disallow_all: is(disallow_all),
            allow: allow?,
            disallow: disallow?,
            disallow_is_error: is(disallow_is_error),
        })
    }

    /// Whether the field may be changed so. `name` is in lower case.
    pub(super) fn check(&self, operation: Operation, name: &[u8], value: &[u8]) -> Check {
        let legal = operation == Operation::Remove || value_is_legal(name, value);
        match self.allows(operation, name) && legal {
            true => Check::Allowed,
            false if self.disallow_is_error => Check::Failed,
            false => Check::Ignored,
        }
    }

    fn allows(&self, operation: Operation, name: &[u8]) -> bool {
        let system = name.starts_with(b":");
        match operation {
            // A request without them would be none.
            Operation::Remove if system || name == b"host" => return false,
            Operation::Append if system => return false,
            _ => {}
        }
        let matches = |regex: &Option<Regex>| {
            let regex = regex.as_ref();
            regex.is_some_and(|regex| regex.is_full_match(name))
        };
        if matches(&self.disallow) {
            return false;
        }
        if matches(&self.allow) {
            return true;
        }
        let routing = matches!(name, b"host" | b":authority" | b":scheme" | b":method");
        !(self.disallow_all
            || (routing && !self.allow_all_routing)
            || (system && self.disallow_system)
            || (name.starts_with(b"x-envoy") && !self.allow_envoy))
    }
}

fn value_is_legal(name: &[u8], value: &[u8]) -> bool {
    match name {
        b":scheme" => matches!(value, b"http" | b"https"),
        b":authority" | b"host" => value.iter().all(u8::is_ascii_graphic),
        b":status" => value.len() == 3 && (b'2'..=b'9').contains(&value[0]),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;
    use crate::config::ConfigReport;

    fn rules(change: impl FnOnce(&mut pb::HeaderMutationRules)) -> MutationRules {
        let mut proto = pb::HeaderMutationRules::default();
        change(&mut proto);
        let report = ConfigReport::new();
        MutationRules::from_proto(proto, &ConfigPath::root(&report, "rules")).unwrap()
    }

    fn regex(regex: &str) -> Option<RegexMatcher> {
        Some(RegexMatcher {
            regex: regex.to_owned(),
            ..Default::default()
        })
    }

    fn yes() -> Option<BoolValue> {
        Some(BoolValue { value: true })
    }

    #[test]
    fn by_default_routing_and_what_is_the_proxys_own_stay() {
        let rules = rules(|_| {});
        let set = |name: &str| rules.check(Operation::Set, name.as_bytes(), b"http");
        for name in ["x-a", ":path", "cookie"] {
            assert_eq!(set(name), Check::Allowed, "{name}");
        }
        for name in ["host", ":authority", ":scheme", ":method", "x-envoy-a"] {
            assert_eq!(set(name), Check::Ignored, "{name}");
        }
        let remove = |name: &str| rules.check(Operation::Remove, name.as_bytes(), b"");
        assert_eq!(remove("x-a"), Check::Allowed);
        assert_eq!(
            (remove(":path"), remove("host")),
            (Check::Ignored, Check::Ignored)
        );
        let append = rules.check(Operation::Append, b":path", b"/a");
        assert_eq!(append, Check::Ignored);
    }

    #[test]
    fn expressions_go_before_the_rest_and_the_forbidding_one_first() {
        let rules = rules(|proto| {
            proto.disallow_all = yes();
            proto.disallow_is_error = yes();
            proto.allow_expression = regex("x-.*");
            proto.disallow_expression = regex("x-no");
        });
        let set = |name: &str| rules.check(Operation::Set, name.as_bytes(), b"");
        assert_eq!(set("x-envoy-a"), Check::Allowed);
        assert_eq!(set("x-no"), Check::Failed);
        assert_eq!(set("a"), Check::Failed);
    }

    #[test]
    fn what_is_allowed_must_still_be_legal() {
        let rules = rules(|proto| proto.allow_all_routing = yes());
        let set = |name: &str, value: &str| {
            rules.check(Operation::Set, name.as_bytes(), value.as_bytes())
        };
        assert_eq!(set(":scheme", "ftp"), Check::Ignored);
        assert_eq!(set(":scheme", "https"), Check::Allowed);
        assert_eq!(set("host", "a b"), Check::Ignored);
    }
}
