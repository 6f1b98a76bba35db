//! What a connection is set up with.

use std::rc::Rc;

use super::head::HeadRules;
use super::options::{ClientHttp2Settings, Http2ProtocolOptions, Http2Settings};
use crate::http::HeadersWithUnderscoresAction;

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We answer requests.
    Server,
    /// We send them.
    Client,
}

/// What a connection is set up with.
#[derive(Debug)]
pub struct ConnectionConfig {
    pub(super) role: Role,
    pub(super) options: Http2ProtocolOptions,
    pub(super) rules: HeadRules,
    /// A message that breaks the rules ends its stream only.
    pub(super) keeps_on_bad_message: bool,
    /// Bytes that may wait on a stream before its owner has to wait.
    pub(super) buffer_limit: usize,
}

impl ConnectionConfig {
    /// For a connection whose streams clients open. `buffer_limit`: bytes per stream that may wait to be sent.
    pub fn for_server(settings: &Http2Settings, buffer_limit: usize) -> Rc<Self> {
        let options = settings.options.clone();
        Rc::new(Self {
            role: Role::Server,
            rules: HeadRules {
                max_bytes: kibibytes(settings.max_request_headers_kb),
                max_count: count(settings.max_headers_count),
                underscores: settings.headers_with_underscores_action,
                refuses_obs_text: options.disallow_obs_text,
            },
            keeps_on_bad_message: options
                .override_stream_error_on_invalid_http_message
                .unwrap_or(settings.stream_error_on_invalid_http_message),
            buffer_limit,
            options,
        })
    }

    /// For a connection whose streams we open.
    pub fn for_client(settings: &ClientHttp2Settings) -> Rc<Self> {
        let options = settings.options.clone();
        Rc::new(Self {
            role: Role::Client,
            rules: HeadRules {
                max_bytes: kibibytes(settings.max_response_headers_kb),
                max_count: count(settings.max_headers_count),
                underscores: HeadersWithUnderscoresAction::Allow,
                refuses_obs_text: options.disallow_obs_text,
            },
            keeps_on_bad_message: options
                .override_stream_error_on_invalid_http_message
                .unwrap_or(false),
            buffer_limit: settings.buffer_limit,
            options,
        })
    }
}

fn kibibytes(count: u32) -> usize {
    usize::try_from(count)
        .unwrap_or(usize::MAX)
        .saturating_mul(1024)
}

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
