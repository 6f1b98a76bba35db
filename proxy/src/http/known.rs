//! Header names that the proxy itself reads or writes: their look-up in a head takes one step.

macro_rules! known {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A header name known at compile time.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each variant is the header it is called after")]
        pub enum Known { $($variant),* }

        impl Known {
            /// How many there are.
            pub const COUNT: usize = [$($name),*].len();

            /// The name in lower case.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Finds a lower-case name.
            pub fn find(name: &[u8]) -> Option<Self> {
                match name { $(n if n == $name.as_bytes() => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

known! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlRequestMethod = "access-control-request-method",
    AccessControlRequestHeaders = "access-control-request-headers",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    EnvoyAttemptCount = "x-envoy-attempt-count",
    EnvoyDecoratorOperation = "x-envoy-decorator-operation",
    EnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    EnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    EnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    EnvoyExternalAddress = "x-envoy-external-address",
    EnvoyForceTrace = "x-envoy-force-trace",
    EnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    EnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    EnvoyInternal = "x-envoy-internal",
    EnvoyIpTags = "x-envoy-ip-tags",
    EnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    EnvoyMaxRetries = "x-envoy-max-retries",
    EnvoyOriginalPath = "x-envoy-original-path",
    EnvoyOriginalHost = "x-envoy-original-host",
    EnvoyOriginalUrl = "x-envoy-original-url",
    EnvoyOverloaded = "x-envoy-overloaded",
    EnvoyRateLimited = "x-envoy-ratelimited",
    EnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    EnvoyRetryOn = "x-envoy-retry-on",
    EnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    EnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    EnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    EnvoyUpstreamCanary = "x-envoy-upstream-canary",
    EnvoyUpstreamHealthcheckedCluster = "x-envoy-upstream-healthchecked-cluster",
    EnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    EnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    EnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    EnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    EnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    Expect = "expect",
    ForwardedClientCert = "x-forwarded-client-cert",
    ForwardedFor = "x-forwarded-for",
    ForwardedHost = "x-forwarded-host",
    ForwardedPort = "x-forwarded-port",
    ForwardedProto = "x-forwarded-proto",
    GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    KeepAlive = "keep-alive",
    Location = "location",
    Origin = "origin",
    ProxyConnection = "proxy-connection",
    ProxyStatus = "proxy-status",
    Referer = "referer",
    RequestId = "x-request-id",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Via = "via",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_found_by_its_text_and_by_nothing_else() {
        assert_eq!(Known::find(b"x-request-id"), Some(Known::RequestId));
        assert_eq!(
            Known::find(Known::Via.as_str().as_bytes()),
            Some(Known::Via)
        );
        assert_eq!(Known::find(b"x-request-ie"), None);
        assert_eq!(Known::find(b""), None);
    }
}
