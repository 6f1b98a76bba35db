//! What a PROXY protocol header said, for whoever passes it on.

use std::fmt::Write as _;

use super::Address;
use crate::stream_info::FilterStateObject;

/// The name in the filter state of a connection under which [`ProxyProtocolData`] lies.
pub const PROXY_PROTOCOL_OPTIONS: &str = "envoy.network.proxy_protocol_options";

/// The addresses and the TLVs of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolData {
    /// Who sends.
    pub source: Address,
    /// Where it was sent to.
    pub destination: Address,
    /// Type and value of those TLVs that are to be passed on.
    pub tlvs: Vec<(u8, Box<[u8]>)>,
}

impl FilterStateObject for ProxyProtocolData {
    fn serialize_as_string(&self) -> Option<String> {
        let mut text = format!("{} {}", self.source, self.destination);
        for (kind, value) in &self.tlvs {
            // Writing to a string cannot fail.
            let _ = write!(text, " {kind}:{}", value.len());
        }
        Some(text)
    }
}
