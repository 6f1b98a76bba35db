//! `strict_check_headers`: headers for the router that must be legal, or the request is answered with 400.

use crate::http::{Known, RequestHead};
use crate::route::RetryOn;

/// A header that can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrictHeader {
    name: Known,
    rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Integer,
    RetryOn,
    RetryGrpcOn,
}

impl StrictHeader {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [
        Self::new(Known::EnvoyUpstreamRqTimeoutMs, Rule::Integer),
        Self::new(Known::EnvoyUpstreamRqPerTryTimeoutMs, Rule::Integer),
        Self::new(Known::EnvoyMaxRetries, Rule::Integer),
        Self::new(Known::EnvoyRetryGrpcOn, Rule::RetryGrpcOn),
        Self::new(Known::EnvoyRetryOn, Rule::RetryOn),
    ];

    const fn new(name: Known, rule: Rule) -> Self {
        Self { name, rule }
    }

    /// The header called `name`, in any case.
    pub(super) fn find(name: &str) -> Option<Self> {
        let named = |header: &Self| header.name.as_str().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(named)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        self.name.as_str()
    }

    /// The value that is not legal, if there is one.
    pub(super) fn illegal(self, head: &RequestHead) -> Option<&[u8]> {
        let value = head.fields.get(self.name)?;
        let legal = match self.rule {
            Rule::Integer => {
                std::str::from_utf8(value).is_ok_and(|text| text.trim().parse::<u64>().is_ok())
            }
            Rule::RetryOn => RetryOn::parse_http(value).1,
            Rule::RetryGrpcOn => RetryOn::parse_grpc(value).1,
        };
        (!legal).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;

    #[test]
    fn what_cannot_be_read_is_not_legal() {
        for (name, value, legal) in [
            ("x-envoy-max-retries", "3", true),
            ("x-envoy-max-retries", "three", false),
            ("X-Envoy-Retry-On", "5xx, reset", true),
            ("x-envoy-retry-on", "5xx,what", false),
            ("x-envoy-retry-grpc-on", "cancelled", true),
            ("x-envoy-retry-grpc-on", "5xx", false),
            ("x-envoy-upstream-rq-timeout-ms", "-1", false),
        ] {
            let header = StrictHeader::find(name).unwrap();
            let mut head = RequestHead::new(Protocol::Http11, b"GET");
            assert_eq!(header.illegal(&head), None);
            head.fields.append(name, value);
            assert_eq!(header.illegal(&head).is_none(), legal, "{name}: {value}");
        }
        assert_eq!(StrictHeader::find("x-other"), None);
    }
}
