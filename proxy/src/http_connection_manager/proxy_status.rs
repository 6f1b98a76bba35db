//! `proxy_status_config`: the response header `proxy-status` (RFC 9209), which says why the proxy answered as it did.

use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_connection_manager::{ProxyStatusConfig as Proto, proxy_status_config::ProxyName};

use crate::http::{Known, ResponseHead};
use crate::server::FactoryContext;
use crate::stream_info::{ResponseFlag, StreamInfo};

/// What is said in the header.
#[derive(Debug)]
pub(super) struct ProxyStatusConfig {
    /// The first word. Default: `server_name`.
    name: Box<str>,
    details: bool,
    termination_details: bool,
    flags: bool,
    /// The status becomes the one that the RFC recommends for the error.
    recommended_code: bool,
}

impl ProxyStatusConfig {
    /// Converts the message.
    pub(super) fn from_proto(proto: Proto, server_name: &str, cx: &FactoryContext<'_>) -> Self {
        let Proto {
            remove_details,
            remove_connection_termination_details,
            remove_response_flags,
            set_recommended_response_code,
            proxy_name,
        } = proto;
        Self {
            name: match proxy_name {
                Some(ProxyName::LiteralProxyName(name)) => name.into(),
                Some(ProxyName::UseNodeId(true)) => cx.server.local_info.node_id.clone().into(),
                Some(ProxyName::UseNodeId(false)) | None => server_name.into(),
            },
            details: !remove_details,
            termination_details: !remove_connection_termination_details,
            flags: !remove_response_flags,
            recommended_code: set_recommended_response_code,
        }
    }

    /// Adds the header to a response whose stream has failed.
    pub(super) fn apply(&self, head: &mut ResponseHead, info: &StreamInfo) {
        let Some((error, code)) = error_of(info) else {
            return;
        };
        let mut value = format!("{}; error={error}", self.name);
        if let Some(details) = info
            .response_code_details
            .as_deref()
            .filter(|_| self.details)
        {
            value.push_str("; details=\"");
            value.push_str(details);
            if let Some(termination) = info
                .connection_termination_details
                .as_deref()
                .filter(|_| self.termination_details)
            {
                value.push_str("; ");
                value.push_str(termination);
            }
            if self.flags && !info.response_flags.is_empty() {
                value.push_str("; ");
                for (index, flag) in info.response_flags.iter().enumerate() {
                    if index > 0 {
                        value.push(',');
                    }
                    value.push_str(flag.short());
                }
            }
            value.push('"');
        }
        head.fields.append_to(Known::ProxyStatus, b", ", value);
        if let Some(code) = code.filter(|_| self.recommended_code) {
            head.status = code;
        }
    }
}

/// The error of a stream by its flags, the first of Envoy's list that is set, with the recommended status.
fn error_of(info: &StreamInfo) -> Option<(&'static str, Option<u16>)> {
    ERRORS
        .iter()
        .find(|(flag, ..)| info.response_flags.contains(*flag))
        .map(|(_, error, code)| (*error, *code))
}

const ERRORS: &[(ResponseFlag, &str, Option<u16>)] = &[
    (
        ResponseFlag::FailedLocalHealthCheck,
        "destination_unavailable",
        Some(503),
    ),
    (
        ResponseFlag::NoHealthyUpstream,
        "destination_unavailable",
        Some(503),
    ),
    (
        ResponseFlag::UpstreamRequestTimeout,
        "http_response_timeout",
        Some(504),
    ),
    (ResponseFlag::LocalReset, "connection_timeout", Some(504)),
    (
        ResponseFlag::UpstreamRemoteReset,
        "connection_terminated",
        Some(502),
    ),
    (
        ResponseFlag::UpstreamConnectionFailure,
        "connection_refused",
        Some(502),
    ),
    (
        ResponseFlag::UpstreamConnectionTermination,
        "connection_terminated",
        Some(502),
    ),
    (
        ResponseFlag::UpstreamOverflow,
        "connection_limit_reached",
        Some(503),
    ),
    (
        ResponseFlag::NoRouteFound,
        "destination_not_found",
        Some(500),
    ),
    (
        ResponseFlag::RateLimited,
        "connection_limit_reached",
        Some(503),
    ),
    (
        ResponseFlag::RateLimitServiceError,
        "connection_limit_reached",
        Some(503),
    ),
    (
        ResponseFlag::UpstreamRetryLimitExceeded,
        "destination_unavailable",
        Some(503),
    ),
    (
        ResponseFlag::StreamIdleTimeout,
        "http_response_timeout",
        Some(504),
    ),
    (
        ResponseFlag::InvalidEnvoyRequestHeaders,
        "http_request_error",
        None,
    ),
    (
        ResponseFlag::DownstreamProtocolError,
        "http_request_error",
        None,
    ),
    (
        ResponseFlag::UpstreamMaxStreamDurationReached,
        "http_response_timeout",
        Some(504),
    ),
    (
        ResponseFlag::NoFilterConfigFound,
        "proxy_configuration_error",
        Some(500),
    ),
    (
        ResponseFlag::UpstreamProtocolError,
        "http_protocol_error",
        Some(502),
    ),
    (
        ResponseFlag::NoClusterFound,
        "destination_unavailable",
        Some(503),
    ),
    (ResponseFlag::DnsResolutionFailed, "dns_error", Some(502)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;
    use crate::stream_info::ConnectionInfo;
    use std::rc::Rc;

    fn apply(config: &ProxyStatusConfig, flags: &[ResponseFlag]) -> (u16, Option<String>) {
        let address = Address::Ip(([127, 0, 0, 1], 1).into());
        let connection = Rc::new(ConnectionInfo::between(address.clone(), address));
        let mut info = StreamInfo::new(connection, 1, None);
        info.details("why");
        flags.iter().for_each(|flag| info.response_flags.set(*flag));
        let mut head = ResponseHead::new(599);
        config.apply(&mut head, &info);
        let value = head.fields.get_str(Known::ProxyStatus).map(str::to_owned);
        (head.status, value)
    }

    #[tokio::test]
    async fn an_error_is_told_with_details_and_flags_and_its_recommended_status() {
        let mut config = ProxyStatusConfig {
            name: "p".into(),
            details: true,
            termination_details: true,
            flags: true,
            recommended_code: false,
        };
        let flags = [
            ResponseFlag::UpstreamConnectionFailure,
            ResponseFlag::UpstreamRetryLimitExceeded,
        ];
        let value = "p; error=connection_refused; details=\"why; UF,URX\"";
        assert_eq!(apply(&config, &flags), (599, Some(value.to_owned())));
        config.recommended_code = true;
        config.details = false;
        let value = "p; error=connection_refused".to_owned();
        assert_eq!(apply(&config, &flags), (502, Some(value)));
        assert_eq!(apply(&config, &[]), (599, None));
    }
}
