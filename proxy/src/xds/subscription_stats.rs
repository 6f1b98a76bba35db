//! What every subscription counts.
//!
//! Deviations: an update of an incremental stream that is refused is one `update_attempt`; Envoy counts two where it could decode all of it.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;

use super::{FetchFailure, XdsSource};
use crate::stats::{Scope, TextReadout};
use crate::stats_group;
use crate::xx_hash::xx_hash64;

stats_group! {
    struct Counted {
        counter init_fetch_timeout;
        counter update_attempt;
        counter update_failure;
        counter update_rejected;
        counter update_success;
        gauge update_time;
        gauge version;
        histogram update_duration (Milliseconds);
    }
}

/// The stats of a subscription, under a prefix such as `listener_manager.lds.`. Its watcher keeps them.
#[derive(Debug)]
pub struct SubscriptionStats {
    counted: Counted,
    version_text: TextReadout,
}

impl SubscriptionStats {
    /// For a subscription that begins to ask.
    pub fn new(scope: &Scope, source: &XdsSource) -> Self {
        let stats = Self::of_file(scope);
        if !source.is_file() {
            stats.counted.update_attempt().inc();
        }
        stats
    }

    /// For a subscription to a file, which is read and not asked.
    pub fn of_file(scope: &Scope) -> Self {
        Self {
            counted: Counted::new(scope),
            version_text: scope.text_readout("version_text"),
        }
    }

    /// Takes an update and counts it, by whether it was taken whole. `version` is what it came with.
    pub fn count<E>(
        &self,
        version: &Arc<str>,
        take: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let began = Instant::now();
        let result = take();
        let counted = &self.counted;
        counted.update_attempt().inc();
        if result.is_err() {
            counted.update_rejected().inc();
            return result;
        }
        counted.update_success().inc();
        counted.version().set(xx_hash64(version.as_bytes(), 0));
        self.version_text.set(&**version);
        let milliseconds =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        counted.update_time().set(milliseconds(now));
        counted
            .update_duration()
            .record(milliseconds(began.elapsed()));
        result
    }

    /// Counts that nothing came.
    pub fn failed(&self, why: FetchFailure) {
        self.counted.update_attempt().inc();
        match why {
            FetchFailure::Timeout => self.counted.init_fetch_timeout().inc(),
            FetchFailure::ConnectionFailure => self.counted.update_failure().inc(),
        }
    }
}
