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

            /// The names, by number.
            const NAMES: [&str; Self::COUNT] = [$($name),*];
            const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// The name in lower case.
            #[inline]
            pub fn as_str(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            /// Finds a lower-case name.
            #[inline]
            pub fn find(name: &[u8]) -> Option<Self> {
                let mut next = INDEX.first[bucket(name)];
                while next != 0 {
                    let number = usize::from(next) - 1;
                    if Self::NAMES[number].as_bytes() == name {
                        return Some(Self::ALL[number]);
                    }
                    next = INDEX.next[number];
                }
                None
            }
        }
    };
}

/// Finds names by their length and two of their bytes.
struct Index {
    /// By bucket: the number of its first name plus one, 0 for none.
    first: [u8; BUCKETS],
    /// By name: the same of the next name of its bucket.
    next: [u8; Known::COUNT],
}

const BUCKETS: usize = 256;

static INDEX: Index = Index::new();

impl Index {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "checked above, when it is compiled"
    )]
    const fn new() -> Self {
        assert!(Known::COUNT < u8::MAX as usize, "a number fits a byte");
        let mut index = Self {
            first: [0; BUCKETS],
            next: [0; Known::COUNT],
        };
        let mut number = 0;
        while number < Known::COUNT {
            let bucket = bucket(Known::NAMES[number].as_bytes());
            index.next[number] = index.first[bucket];
            index.first[bucket] = number as u8 + 1;
            number += 1;
        }
        index
    }
}

const fn bucket(name: &[u8]) -> usize {
    match name {
        [] => 0,
        [.., last] => {
            let middle = name[name.len() / 2];
            (name.len() * 10 + *last as usize * 13 + middle as usize * 5) % BUCKETS
        }
    }
}

known! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowHeaders = "access-control-allow-headers",
    AccessControlAllowMethods = "access-control-allow-methods",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlExposeHeaders = "access-control-expose-headers",
    AccessControlMaxAge = "access-control-max-age",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    Age = "age",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    Expires = "expires",
    GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    IfUnmodifiedSince = "if-unmodified-since",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    Origin = "origin",
    Pragma = "pragma",
    ProxyConnection = "proxy-connection",
    ProxyStatus = "proxy-status",
    Referer = "referer",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
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
    EnvoyOriginalHost = "x-envoy-original-host",
    EnvoyOriginalPath = "x-envoy-original-path",
    EnvoyOriginalUrl = "x-envoy-original-url",
    EnvoyOverloaded = "x-envoy-overloaded",
    EnvoyRateLimited = "x-envoy-ratelimited",
    EnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    EnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    EnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    EnvoyRetryOn = "x-envoy-retry-on",
    EnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    EnvoyUpstreamCanary = "x-envoy-upstream-canary",
    EnvoyUpstreamHealthcheckedCluster = "x-envoy-upstream-healthchecked-cluster",
    EnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    EnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    EnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    EnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    EnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    ForwardedClientCert = "x-forwarded-client-cert",
    ForwardedFor = "x-forwarded-for",
    ForwardedHost = "x-forwarded-host",
    ForwardedPort = "x-forwarded-port",
    ForwardedProto = "x-forwarded-proto",
    RequestId = "x-request-id",
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
        for known in Known::ALL {
            assert_eq!(Known::find(known.as_str().as_bytes()), Some(known));
        }
        assert_eq!(Known::find(b"x-request-ie"), None);
        assert_eq!(Known::find(b""), None);
    }
}
