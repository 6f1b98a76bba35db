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

/// A set of flags that remembers in which order they came, since that is the order in which they are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseFlags {
    bits: u64,
    /// The first flags, each as its number plus one.
    order: [u8; 7],
}

impl ResponseFlags {
    /// Adds one.
    pub fn set(&mut self, flag: ResponseFlag) {
        if self.contains(flag) {
            return;
        }
        self.bits |= 1 << flag as u8;
        if let Some(slot) = self.order.iter_mut().find(|slot| **slot == 0) {
            *slot = flag as u8 + 1;
        }
    }

    /// Takes one away, as a retry does with the flags of the attempt that it replaces.
    pub fn clear(&mut self, flag: ResponseFlag) {
        self.bits &= !(1 << flag as u8);
        if let Some(at) = self.order.iter().position(|slot| *slot == flag as u8 + 1) {
            self.order.copy_within(at + 1.., at);
            self.order[6] = 0;
        }
    }

    /// Whether it is in the set.
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.bits & (1 << flag as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The flags of the set in the order in which they came; of more than seven, those after the seventh by their number.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let ordered = self.order.into_iter().filter_map(|slot| {
            ResponseFlag::ALL
                .get(usize::from(slot.checked_sub(1)?))
                .copied()
        });
        let rest = ResponseFlag::ALL
            .iter()
            .copied()
            .filter(move |flag| self.contains(*flag) && !self.order.contains(&(*flag as u8 + 1)));
        ordered.chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_printed_in_the_order_in_which_they_came() {
        let mut flags = ResponseFlags::default();
        for flag in [
            ResponseFlag::UpstreamRetryLimitExceeded,
            ResponseFlag::UpstreamConnectionFailure,
            ResponseFlag::UpstreamRetryLimitExceeded,
        ] {
            flags.set(flag);
        }
        assert_eq!(
            flags.iter().map(ResponseFlag::short).collect::<Vec<_>>(),
            ["URX", "UF"]
        );
        flags.clear(ResponseFlag::UpstreamRetryLimitExceeded);
        flags.set(ResponseFlag::DelayInjected);
        assert_eq!(
            flags.iter().map(ResponseFlag::short).collect::<Vec<_>>(),
            ["UF", "DI"]
        );
    }

    #[test]
    fn more_flags_than_are_remembered_in_order_are_all_there() {
        let mut flags = ResponseFlags::default();
        ResponseFlag::ALL.iter().for_each(|flag| flags.set(*flag));
        assert_eq!(flags.iter().count(), ResponseFlag::ALL.len());
    }
}
