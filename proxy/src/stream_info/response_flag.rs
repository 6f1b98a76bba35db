//! Response flags: why a stream or a connection ended as it did.

macro_rules! response_flags {
    ($($variant:ident = $short:literal $long:literal;)*) => {
        /// One reason. Envoy's names: <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each variant is the flag it is called after")]
        pub enum ResponseFlag { $($variant),* }

        impl ResponseFlag {
            /// Every flag, in the order in which they are printed.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As `%RESPONSE_FLAGS%` prints it.
            pub fn short(self) -> &'static str {
                match self { $(Self::$variant => $short),* }
            }

            /// As `%RESPONSE_FLAGS_LONG%` prints it.
            pub fn long(self) -> &'static str {
                match self { $(Self::$variant => $long),* }
            }
        }
    };
}

response_flags! {
    FailedLocalHealthCheck = "LH" "FailedLocalHealthCheck";
    NoHealthyUpstream = "UH" "NoHealthyUpstream";
    UpstreamRequestTimeout = "UT" "UpstreamRequestTimeout";
    LocalReset = "LR" "LocalReset";
    UpstreamRemoteReset = "UR" "UpstreamRemoteReset";
    UpstreamConnectionFailure = "UF" "UpstreamConnectionFailure";
    UpstreamConnectionTermination = "UC" "UpstreamConnectionTermination";
    UpstreamOverflow = "UO" "UpstreamOverflow";
    NoRouteFound = "NR" "NoRouteFound";
    DelayInjected = "DI" "DelayInjected";
    FaultInjected = "FI" "FaultInjected";
    RateLimited = "RL" "RateLimited";
    UnauthorizedExternalService = "UAEX" "UnauthorizedExternalService";
    RateLimitServiceError = "RLSE" "RateLimitServiceError";
    DownstreamConnectionTermination = "DC" "DownstreamConnectionTermination";
    UpstreamRetryLimitExceeded = "URX" "UpstreamRetryLimitExceeded";
    StreamIdleTimeout = "SI" "StreamIdleTimeout";
    InvalidEnvoyRequestHeaders = "IH" "InvalidEnvoyRequestHeaders";
    DownstreamProtocolError = "DPE" "DownstreamProtocolError";
    UpstreamMaxStreamDurationReached = "UMSDR" "UpstreamMaxStreamDurationReached";
    ResponseFromCacheFilter = "RFCF" "ResponseFromCacheFilter";
    NoFilterConfigFound = "NFCF" "NoFilterConfigFound";
    DurationTimeout = "DT" "DurationTimeout";
    UpstreamProtocolError = "UPE" "UpstreamProtocolError";
    NoClusterFound = "NC" "NoClusterFound";
    OverloadManagerTerminated = "OM" "OverloadManagerTerminated";
    DnsResolutionFailed = "DF" "DnsResolutionFailed";
    DropOverload = "DO" "DropOverload";
    DownstreamRemoteReset = "DR" "DownstreamRemoteReset";
    UnconditionalDropOverload = "UDO" "UnconditionalDropOverload";
}

/// A set of flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseFlags(u64);

impl ResponseFlags {
    /// Adds one.
    pub fn set(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag as u8;
    }

    /// Takes one away, as a retry does with the flags of the attempt that it replaces.
    pub fn clear(&mut self, flag: ResponseFlag) {
        self.0 &= !(1 << flag as u8);
    }

    /// Whether it is in the set.
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags of the set, in the order in which they are printed.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        ResponseFlag::ALL
            .iter()
            .copied()
            .filter(move |flag| self.contains(*flag))
    }
}
