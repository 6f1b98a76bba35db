//! What codecs count, downstream below `http1.` and `http2.`, upstream below `cluster.<name>.http1.` and `.http2.`
//!
//! The groups come to be with the first connection that speaks the protocol.

crate::stats_group! {
    /// `http1.`
    pub struct Http1CodecStats {
        counter dropped_headers_with_underscores;
        counter metadata_not_supported_error;
        counter requests_rejected_with_underscores_in_headers;
        counter response_flood;
    }
}
