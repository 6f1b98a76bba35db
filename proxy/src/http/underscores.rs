//! What happens to names with underscores, in any version of HTTP.

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
