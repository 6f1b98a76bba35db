//! Why an attempt failed, and what the client is told: the one place where errors become flags, statuses and details.

use std::borrow::Cow;
use std::rc::Rc;

use crate::http_filters::LocalReply;
use crate::stream_info::ResponseFlag;
use crate::upstream::WorkerCluster;
use crate::upstream::pool::{ConnectError, ResetReason};

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The stream broke off, or there never was one.
    Reset(ResetReason),
    /// `per_try_timeout` elapsed.
    PerTryTimeout,
    /// `per_try_idle_timeout` elapsed.
    PerTryIdleTimeout,
    /// `RouteAction.timeout` elapsed.
    RouteTimeout,
    /// The cluster's `max_stream_duration` elapsed.
    MaxStreamDuration,
}

impl Failure {
    /// The response flag.
    pub(crate) fn flag(&self) -> ResponseFlag {
        match self {
            Self::Reset(reason) => match reason {
                ResetReason::LocalReset => ResponseFlag::LocalReset,
                ResetReason::RemoteReset | ResetReason::RemoteRefusedStream => {
                    ResponseFlag::UpstreamRemoteReset
                }
                ResetReason::ConnectionFailure(_) => ResponseFlag::UpstreamConnectionFailure,
                ResetReason::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
                ResetReason::Overflow => ResponseFlag::UpstreamOverflow,
                ResetReason::ProtocolError(_) => ResponseFlag::UpstreamProtocolError,
            },
            Self::PerTryTimeout | Self::PerTryIdleTimeout | Self::RouteTimeout => {
                ResponseFlag::UpstreamRequestTimeout
            }
            Self::MaxStreamDuration => ResponseFlag::UpstreamMaxStreamDurationReached,
        }
    }

    /// Whether a limit of the pool was reached.
    pub(crate) fn is_overflow(&self) -> bool {
        matches!(self, Self::Reset(ResetReason::Overflow))
    }

    /// Whether time was up for the attempt or the whole.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::PerTryTimeout | Self::PerTryIdleTimeout | Self::RouteTimeout => true,
            Self::Reset(_) | Self::MaxStreamDuration => false,
        }
    }

    /// The answer to a client that has not got a head yet. `informed`: it has got a 1xx.
    pub(crate) fn reply(&self, retried: bool, informed: bool) -> LocalReply {
        match self {
            Self::Reset(reason) => {
                let status = if matches!(reason, ResetReason::ProtocolError(_)) {
                    502
                } else {
                    503
                };
                let latest = if retried {
                    "retried and the latest "
                } else {
                    ""
                };
                let body = format!(
                    "upstream connect error or disconnect/reset before headers. {latest}reset reason: {}",
                    self.reason_text()
                );
                let details = if informed {
                    "upstream_reset_after_response_started"
                } else {
                    "upstream_reset_before_response_started"
                };
                LocalReply::new(status, self.details(details)).with_body(body)
            }
            Self::PerTryTimeout => LocalReply::new(504, "upstream_per_try_timeout")
                .with_body("upstream request timeout"),
            Self::PerTryIdleTimeout => LocalReply::new(504, "upstream_per_try_idle_timeout")
                .with_body("upstream request timeout"),
            Self::RouteTimeout => {
                LocalReply::new(504, "response_timeout").with_body("upstream request timeout")
            }
            Self::MaxStreamDuration => LocalReply::new(504, "upstream_max_stream_duration_reached")
                .with_body("upstream max stream duration reached"),
        }
    }

    /// `%RESPONSE_CODE_DETAILS%` when the head was sent already.
    pub(crate) fn details_after_response(&self) -> Cow<'static, str> {
        match self {
            Self::Reset(_) => self.details("upstream_reset_after_response_started").into(),
            Self::PerTryTimeout => "upstream_per_try_timeout".into(),
            Self::PerTryIdleTimeout => "upstream_per_try_idle_timeout".into(),
            Self::RouteTimeout => "response_timeout".into(),
            Self::MaxStreamDuration => "upstream_max_stream_duration_reached".into(),
        }
    }

    /// Counts the failure in the cluster.
    pub(crate) fn count(&self, cluster: &Rc<WorkerCluster>) {
        if *self == Self::MaxStreamDuration {
            cluster
                .info()
                .stats
                .upstream_rq_max_duration_reached()
                .inc();
        }
    }

    /// What the transport says, as `%UPSTREAM_TRANSPORT_FAILURE_REASON%` prints it.
    pub(crate) fn transport_failure(&self) -> Option<&str> {
        match self {
            Self::Reset(ResetReason::ConnectionFailure(
                ConnectError::Failed(text) | ConnectError::Local(text),
            )) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn reason_text(&self) -> &'static str {
        match self {
            Self::Reset(reason) => match reason {
                ResetReason::LocalReset => "local reset",
                ResetReason::RemoteReset => "remote reset",
                ResetReason::RemoteRefusedStream => "remote refused stream reset",
                ResetReason::ConnectionFailure(ConnectError::Timeout) => "connection timeout",
                ResetReason::ConnectionFailure(ConnectError::Failed(_)) => {
                    "remote connection failure"
                }
                ResetReason::ConnectionFailure(ConnectError::Local(_)) => {
                    "local connection failure"
                }
                ResetReason::ConnectionTermination => "connection termination",
                ResetReason::Overflow => "overflow",
                ResetReason::ProtocolError(_) => "protocol error",
            },
            Self::PerTryTimeout
            | Self::PerTryIdleTimeout
            | Self::RouteTimeout
            | Self::MaxStreamDuration => "local reset",
        }
    }

    /// `prefix{reason}` or `prefix{reason|transport failure}`; spaces become underscores.
    fn details(&self, prefix: &str) -> String {
        let mut details = format!("{prefix}{{{}", self.reason_text());
        if let Some(transport) = self.transport_failure() {
            details.push('|');
            details.push_str(transport);
        }
        details.push('}');
        details.replace(' ', "_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_told_as_envoy_tells_it() {
        let failure = Failure::Reset(ResetReason::ConnectionFailure(ConnectError::Failed(
            "delayed connect error: Connection refused".into(),
        )));
        let reply = failure.reply(false, false);
        assert_eq!((reply.status, failure.flag().short()), (503, "UF"));
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
    }
}
