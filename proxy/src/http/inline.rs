//! Which repeated fields become one: Envoy keeps some names once per head and joins their values with a comma.

use crate::http::Known;

/// Whether a repeated request field of this name is joined to the first one.
pub(crate) fn merges_in_request(known: Known) -> bool {
    !matches!(
        known,
        Known::AccessControlAllowCredentials
            | Known::AccessControlAllowHeaders
            | Known::AccessControlAllowMethods
            | Known::AccessControlAllowOrigin
            | Known::AccessControlExposeHeaders
            | Known::AccessControlMaxAge
            | Known::Age
            | Known::Cookie
            | Known::Date
            | Known::EnvoyImmediateHealthCheckFail
            | Known::EnvoyOverloaded
            | Known::EnvoyRateLimited
            | Known::EnvoyUpstreamCanary
            | Known::EnvoyUpstreamHealthcheckedCluster
            | Known::EnvoyUpstreamServiceTime
            | Known::Etag
            | Known::Expires
            | Known::GrpcMessage
            | Known::GrpcStatus
            | Known::LastModified
            | Known::Location
            | Known::Server
            | Known::SetCookie
            | Known::Vary
    )
}

/// Whether a repeated response field of this name is joined to the first one.
pub(crate) fn merges_in_response(known: Known) -> bool {
    matches!(
        known,
        Known::AccessControlAllowCredentials
            | Known::AccessControlAllowHeaders
            | Known::AccessControlAllowMethods
            | Known::AccessControlAllowOrigin
            | Known::AccessControlExposeHeaders
            | Known::AccessControlMaxAge
            | Known::Age
            | Known::CacheControl
            | Known::Connection
            | Known::ContentEncoding
            | Known::ContentLength
            | Known::ContentType
            | Known::Date
            | Known::EnvoyAttemptCount
            | Known::EnvoyDecoratorOperation
            | Known::EnvoyImmediateHealthCheckFail
            | Known::EnvoyRateLimited
            | Known::EnvoyUpstreamCanary
            | Known::EnvoyUpstreamHealthcheckedCluster
            | Known::EnvoyUpstreamServiceTime
            | Known::Etag
            | Known::Expires
            | Known::GrpcMessage
            | Known::GrpcStatus
            | Known::KeepAlive
            | Known::LastModified
            | Known::Location
            | Known::ProxyConnection
            | Known::ProxyStatus
            | Known::RequestId
            | Known::Server
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Vary
            | Known::Via
    )
}
