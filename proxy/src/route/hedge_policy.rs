//! `HedgePolicy`: whether a slow attempt goes on beside its retry.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_routing#arch-overview-http-routing-hedging>

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use crate::config::{ConfigPath, Fraction, Rejected};

/// Whether a slow attempt goes on beside its retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HedgePolicy {
    /// When `per_try_timeout` elapses, another attempt starts and the first one goes on; the first good answer counts.
    pub hedge_on_per_try_timeout: bool,
}

impl HedgePolicy {
    pub(super) fn from_proto(
        proto: pb::HedgePolicy,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HedgePolicy {
            initial_requests,
            additional_request_chance,
            hedge_on_per_try_timeout,
        } = proto;
        // Envoy checks both and uses neither.
        let initial = initial_requests.map_or(Ok(1), |initial| {
            path.in_range("initial_requests", initial.value, 1..=u32::MAX)
        });
        let chance = path.optional(
            "additional_request_chance",
            additional_request_chance,
            Fraction::from_proto,
        );
        initial?;
        chance?;
        Ok(Self {
            hedge_on_per_try_timeout,
        })
    }
}
