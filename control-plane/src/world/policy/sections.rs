//! The sections of policies: which are said, and which of a farther target are taken over.

use std::sync::Arc;
use std::time::Duration;

use super::{ApiKeys, CallLimits, ExtAuthz, Jwt, Policy};
use crate::model::{Compression, CorsSpec, Retries};

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
    pub(super) jwt: Option<Section<Arc<Jwt>>>,
    pub(super) api_keys: Option<Section<Arc<ApiKeys>>>,
    pub(super) basic_auth: Option<Section<Arc<str>>>,
    pub(super) ext_authz: Option<Section<Arc<ExtAuthz>>>,
    pub(super) rate_limits: Option<Section<Arc<CallLimits>>>,
    pub(super) cors: Option<Section<Arc<CorsSpec>>>,
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
        fill(
            "compression",
            (&mut self.compression, &other.compression),
            all,
        );
        fill("timeout", (&mut self.timeout, &other.timeout), all);
        fill("retries", (&mut self.retries, &other.retries), all);
        taken
    }

    /// How many are said.
    pub(super) fn count(&self) -> usize {
        // What is said twice is taken.
        self.clone().fill(self).len()
    }

    pub(super) fn policy(&self) -> Policy {
        let mut is_broken = false;
        Policy {
            jwt: on(&self.jwt, &mut is_broken),
            api_keys: on(&self.api_keys, &mut is_broken),
            basic_auth: on(&self.basic_auth, &mut is_broken),
            ext_authz: on(&self.ext_authz, &mut is_broken),
            rate_limits: on(&self.rate_limits, &mut is_broken),
            cors: on(&self.cors, &mut is_broken),
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
