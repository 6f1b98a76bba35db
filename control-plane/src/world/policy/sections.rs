//! The sections of policies: which are said, and which of a farther target are taken over.

use std::sync::Arc;
use std::time::Duration;

use super::{ApiKeys, CallLimits, ExtAuthz, Jwt, Policy};
use crate::model::{
    AddressesSpec, BandwidthSpec, Compression, CorsSpec, CsrfSpec, ErrorAnswer, Retries,
};

/// A section of a policy, as far as it could be resolved.
#[derive(Clone, Debug)]
pub(super) enum Section<T> {
    Off,
    On(T),
    Broken,
}

/// The sections that are said for a target.
#[derive(Clone, Debug, Default)]
pub(super) struct Sections {
    pub(super) addresses: Option<Section<Arc<AddressesSpec>>>,
    pub(super) jwt: Option<Section<Arc<Jwt>>>,
    pub(super) api_keys: Option<Section<Arc<ApiKeys>>>,
    pub(super) basic_auth: Option<Section<Arc<str>>>,
    pub(super) ext_authz: Option<Section<Arc<ExtAuthz>>>,
    pub(super) rate_limits: Option<Section<Arc<CallLimits>>>,
    pub(super) cors: Option<Section<Arc<CorsSpec>>>,
    pub(super) csrf: Option<Section<Arc<CsrfSpec>>>,
    pub(super) errors: Option<Arc<[ErrorAnswer]>>,
    pub(super) bandwidth: Option<Section<Arc<BandwidthSpec>>>,
    pub(super) max_body_bytes: Option<u32>,
    pub(super) trusted_hops: Option<u32>,
    pub(super) compression: Option<Vec<Compression>>,
    pub(super) timeout: Option<Duration>,
    pub(super) retries: Option<Retries>,
}

impl Sections {
    /// Takes over what is not said here; the names of what is, too.
    pub(super) fn fill(&mut self, other: &Self) -> Vec<&'static str> {
        fn fill<T: Clone>(
            name: &'static str,
            (mine, other): (&mut Option<T>, &Option<T>),
            taken: &mut Vec<&'static str>,
        ) {
            match (&mine, other) {
                (Some(_), Some(_)) => taken.push(name),
                (None, Some(other)) => *mine = Some(other.clone()),
                (_, None) => {}
            }
        }
        let mut taken = Vec::new();
        let all = &mut taken;
        fill("addresses", (&mut self.addresses, &other.addresses), all);
        fill("jwt", (&mut self.jwt, &other.jwt), all);
        fill("apiKeys", (&mut self.api_keys, &other.api_keys), all);
        fill("basicAuth", (&mut self.basic_auth, &other.basic_auth), all);
        fill("extAuthz", (&mut self.ext_authz, &other.ext_authz), all);
        fill(
            "rateLimits",
            (&mut self.rate_limits, &other.rate_limits),
            all,
        );
        fill("cors", (&mut self.cors, &other.cors), all);
        fill("csrf", (&mut self.csrf, &other.csrf), all);
        fill("errors", (&mut self.errors, &other.errors), all);
        fill("bandwidth", (&mut self.bandwidth, &other.bandwidth), all);
        let bytes = (&mut self.max_body_bytes, &other.max_body_bytes);
        fill("maxBodyBytes", bytes, all);
        let hops = (&mut self.trusted_hops, &other.trusted_hops);
        fill("trustedHops", hops, all);
        fill(
            "compression",
            (&mut self.compression, &other.compression),
            all,
        );
        fill("timeout", (&mut self.timeout, &other.timeout), all);
        fill("retries", (&mut self.retries, &other.retries), all);
        taken
    }

    /// Whether there is something to count.
    pub(super) fn has_limits(&self) -> bool {
        matches!(&self.rate_limits, Some(Section::On(all)) if !all.limits.is_empty())
    }

    /// How many are said.
    pub(super) fn count(&self) -> usize {
        // What is said twice is taken.
        self.clone().fill(self).len()
    }

    pub(super) fn policy(&self) -> Policy {
        let mut is_broken = false;
        Policy {
            addresses: on(&self.addresses, &mut is_broken),
            jwt: on(&self.jwt, &mut is_broken),
            api_keys: on(&self.api_keys, &mut is_broken),
            basic_auth: on(&self.basic_auth, &mut is_broken),
            ext_authz: on(&self.ext_authz, &mut is_broken),
            rate_limits: on(&self.rate_limits, &mut is_broken),
            cors: on(&self.cors, &mut is_broken),
            csrf: on(&self.csrf, &mut is_broken),
            errors: self.errors.clone().unwrap_or_default(),
            bandwidth: on(&self.bandwidth, &mut is_broken),
            max_body_bytes: self.max_body_bytes.filter(|bytes| *bytes > 0),
            trusted_hops: self.trusted_hops.unwrap_or_default(),
            compression: self.compression.clone().unwrap_or_default(),
            timeout: self.timeout,
            retries: self.retries.clone(),
            is_broken,
        }
    }
}

fn on<T: Clone>(section: &Option<Section<T>>, is_broken: &mut bool) -> Option<T> {
    match section {
        Some(Section::On(value)) => Some(value.clone()),
        Some(Section::Broken) => {
            *is_broken = true;
            None
        }
        Some(Section::Off) | None => None,
    }
}
