//! Command operators: `%RESPONSE_CODE%` and its kin, for access logs, header values and local replies.
//!
//! A format is parsed once, into a list of operators; to render it appends to a buffer and parses nothing.
//! Extensions: `envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery`,
//! `envoy.extensions.formatter.metadata.v3.Metadata` and `envoy.extensions.formatter.cel.v3.Cel`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>
//!
//! Deviations: operators of traces print `-` until there is tracing; `%…TLS_SESSION_ID%` always does.
//! Deviations: `%DOWNSTREAM_CX_RTT%` prints 0, and `%METADATA(LISTENER_FILTER_CHAIN:…)%` finds nothing.
//! Deviations: a `COALESCE` cannot stand in a `COALESCE`, and a `%CEL(…)%` in one does not know `xds.node`.

mod command;
mod format_string;
mod json;
mod operator;
mod query;
mod subject;
mod time;

pub use format_string::SubstitutionFormatString;
pub(crate) use operator::{completed, grpc_status, request_size, response_size, stream_id};
pub use subject::{NamedCluster, NamedRoute};

use command::Extensions;
use operator::Operator;

use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, RequestHead, ResponseHead};
use crate::server::{FactoryContext, LocalInfo};
use crate::stream_info::StreamInfo;

/// Envoy's format of an access log that names none.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A text with command operators, parsed once.
#[derive(Debug)]
pub struct Formatter {
    operators: Box<[Operator]>,
    omit_empty_values: bool,
}

/// What a formatter may print.
#[derive(Debug, Clone, Copy)]
pub struct FormatData<'a> {
    /// All that is known about the stream.
    pub info: &'a StreamInfo,
    /// The request head.
    pub request: Option<&'a RequestHead>,
    /// The response head.
    pub response: Option<&'a ResponseHead>,
    /// The request trailers.
    pub request_trailers: Option<&'a Fields>,
    /// The response trailers.
    pub response_trailers: Option<&'a Fields>,
    /// The body of the local reply that is being made: `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a [u8],
    /// `%ACCESS_LOG_TYPE%`.
    pub log_type: &'static str,
}

impl<'a> FormatData<'a> {
    /// What is known while a request is on its way: there is no response yet.
    pub fn of_request(info: &'a StreamInfo, request: Option<&'a RequestHead>) -> Self {
        Self {
            info,
            request,
            response: None,
            request_trailers: None,
            response_trailers: None,
            local_reply_body: b"",
            log_type: "",
        }
    }
}

impl Formatter {
    /// Parses a text with command operators.
    pub fn parse(
        text: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::new(text, Extensions::of(cx), false).map_err(|message| path.reject(message))
    }

    /// As `parse`, for values of headers: what is missing prints as nothing.
    pub fn parse_omitting_empty(
        text: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::new(text, Extensions::of(cx), true).map_err(|message| path.reject(message))
    }

    /// As `parse_omitting_empty`, of a proxy of its own node.
    pub fn parse_of_node(
        text: &str,
        local_info: &LocalInfo,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let extensions = Extensions {
            local_info: Some(local_info),
            ..Extensions::default()
        };
        Self::new(text, extensions, true).map_err(|message| path.reject(message))
    }

    /// Parses a text with command operators and says what is wrong with it: for tests and fuzzers.
    pub fn try_parse(text: &str) -> Result<Self, String> {
        Self::new(text, Extensions::default(), false)
    }

    /// Appends the text with all operators replaced. What is missing prints as `-`.
    pub fn render(&self, data: &FormatData<'_>, out: &mut Vec<u8>) {
        for operator in &self.operators {
            if !operator.write(data, out) && !self.omit_empty_values {
                out.push(b'-');
            }
        }
    }

    /// The text itself, if it holds no operator.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.operators {
            [Operator::Literal(text)] => Some(text),
            _ => None,
        }
    }

    fn new(
        text: &str,
        extensions: Extensions<'_>,
        omit_empty_values: bool,
    ) -> Result<Self, String> {
        Ok(Self {
            operators: command::parse(text, extensions)?.into(),
            omit_empty_values,
        })
    }

    /// Appends a value of JSON: of one operator whatever it is, of several a string.
    fn render_json(&self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        if let [operator] = &*self.operators {
            return operator.write_json(data, out);
        }
        out.push(b'"');
        for operator in &self.operators {
            let start = out.len();
            if operator.write(data, out) {
                // Each by itself: bytes that are no UTF-8 change the escapes of their own value only.
                json::escape_from(start, out);
            } else if !self.omit_empty_values {
                out.push(b'-');
            }
        }
        out.push(b'"');
        true
    }
}

#[cfg(test)]
mod tests;
