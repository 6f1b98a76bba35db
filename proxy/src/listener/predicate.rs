//! `filter_disabled`: which connections a listener filter leaves alone.

use std::ops::Range;

use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};

use crate::config::{ConfigPath, Rejected};
use crate::stream_info::ConnectionInfo;

/// A condition on a connection, as far as earlier listener filters know it.
#[derive(Debug)]
pub enum Predicate {
    /// One of them holds.
    Or(Vec<Predicate>),
    /// All of them hold.
    And(Vec<Predicate>),
    /// It does not hold.
    Not(Box<Predicate>),
    /// Always.
    Any,
    /// The destination port lies in the range.
    DestinationPort(Range<u32>),
}

impl Predicate {
    /// Converts a `ListenerFilterChainMatchPredicate`.
    pub fn from_proto(
        proto: pb::ListenerFilterChainMatchPredicate,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ListenerFilterChainMatchPredicate { rule } = proto;
        match path.required("rule", rule)? {
            Rule::OrMatch(set) => Self::set(set, &path.field("or_match")).map(Self::Or),
            Rule::AndMatch(set) => Self::set(set, &path.field("and_match")).map(Self::And),
            Rule::NotMatch(rule) => Self::from_proto(*rule, &path.field("not_match"))
                .map(|predicate| Self::Not(Box::new(predicate))),
            Rule::AnyMatch(true) => Ok(Self::Any),
            Rule::AnyMatch(false) => Err(path.field("any_match").reject("must be true")),
            Rule::DestinationPortRange(range) => {
                let bound = |value: i32| u32::try_from(value).ok();
                let path = path.field("destination_port_range");
                match (bound(range.start), bound(range.end)) {
                    (Some(start), Some(end)) if start < end => {
                        Ok(Self::DestinationPort(start..end))
                    }
                    _ => Err(path.reject(format!(
                        "{}..{} is no range: start must not be negative, and less than end",
                        range.start, range.end
                    ))),
                }
            }
        }
    }

    /// Whether the condition holds.
    pub fn matches(&self, connection: &ConnectionInfo) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(connection)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(connection)),
            Self::Not(rule) => !rule.matches(connection),
            Self::Any => true,
            Self::DestinationPort(range) => connection
                .local_address
                .port()
                .is_some_and(|port| range.contains(&u32::from(port))),
        }
    }

    fn set(set: MatchSet, path: &ConfigPath<'_>) -> Result<Vec<Self>, Rejected> {
        let MatchSet { rules } = set;
        if rules.len() < 2 {
            return Err(path.field("rules").reject("needs two rules at least"));
        }
        path.each("rules", rules, Self::from_proto)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use outrigger_proto::pb::envoy::r#type::v3::Int32Range;

    use super::*;
    use crate::config::ConfigReport;

    fn ports(start: i32, end: i32) -> pb::ListenerFilterChainMatchPredicate {
        pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(Int32Range { start, end })),
        }
    }

    fn holds(proto: pb::ListenerFilterChainMatchPredicate, port: u16) -> bool {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "filter_disabled");
        let predicate = Predicate::from_proto(proto, &path).unwrap();
        let address = SocketAddr::from(([1, 1, 1, 1], port));
        predicate.matches(&ConnectionInfo::between(address.into(), address.into()))
    }

    #[test]
    fn port_ranges_end_before_their_end_and_combine() {
        assert!(holds(ports(80, 81), 80));
        assert!(!holds(ports(80, 81), 81));
        let either = || pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet {
                rules: vec![ports(80, 81), ports(90, 91)],
            })),
        };
        assert!(holds(either(), 90));
        let neither = pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::NotMatch(Box::new(either()))),
        };
        assert!(!holds(neither.clone(), 90));
        assert!(holds(neither, 85));
    }
}
