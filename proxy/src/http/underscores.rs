//! What happens to names with underscores, in any version of HTTP.

use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::config::{ConfigPath, Rejected};

/// `HttpProtocolOptions.headers_with_underscores_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadersWithUnderscoresAction {
    /// They are headers like any other.
    #[default]
    Allow,
    /// A request with one is answered with 400.
    RejectRequest,
    /// They are dropped.
    DropHeader,
}

impl HeadersWithUnderscoresAction {
    /// Converts the field `headers_with_underscores_action` of `HttpProtocolOptions`, whose path is `path`.
    pub fn from_proto(value: i32, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use core::http_protocol_options::HeadersWithUnderscoresAction as Proto;
        Ok(
            match path.enumeration("headers_with_underscores_action", value)? {
                Proto::Allow => Self::Allow,
                Proto::RejectRequest => Self::RejectRequest,
                Proto::DropHeader => Self::DropHeader,
            },
        )
    }
}
