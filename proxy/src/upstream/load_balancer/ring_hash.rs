//! `RING_HASH`: hosts have many places on a ring, and a request goes to the next one.
//!
//! Stats: `cluster.<name>.ring_hash_lb.{size, min_hashes_per_host, max_hashes_per_host}`.

use std::fmt::Write;

use super::hashing::{Entry, Owners};
use super::murmur::murmur_hash2;
use crate::stats::Scope;
use crate::xx_hash::xx_hash64;

crate::stats_group! {
    /// What the ring of the lowest priority looks like.
    pub(super) struct RingHashStats {
        gauge max_hashes_per_host;
        gauge min_hashes_per_host;
        gauge size;
    }
}

/// What gives hosts their places. The hash of a request is always xxHash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the API's own names")]
pub enum HashFunction {
    XxHash,
    MurmurHash2,
}

/// Places and who has them, sorted.
pub(super) struct Ring {
    places: Box<[u64]>,
    owners: Owners,
    /// The gauges are there as long as the ring.
    _stats: RingHashStats,
}

impl Ring {
    /// A ring of at least and at most so many places. Each host has as many as its weight says.
    pub(super) fn new(
        entries: &[Entry],
        (minimum, maximum): (u64, u64),
        function: HashFunction,
        scope: &Scope,
    ) -> Self {
        let stats = RingHashStats::new(&scope.scope("ring_hash_lb."));
        let least = entries
            .iter()
            .fold(1.0, |least: f64, e| least.min(e.weight));
        if entries.is_empty() {
            return Self {
                places: Box::default(),
                owners: Owners::new(std::iter::empty(), 0),
                _stats: stats,
            };
        }
        #[allow(clippy::cast_precision_loss, reason = "ring sizes are at most 8388608")]
        let (minimum, maximum) = (minimum as f64, maximum as f64);
        // The host of the least weight gets a whole number of places, unless the ring would be too large.
        let scale = ((least * minimum).ceil() / least).min(maximum);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive, and no more than the maximum"
        )]
        let size = scale.ceil() as u64;
        let (mut fewest, mut most) = (size, 0);
        let mut ring = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let (mut placed, mut target) = (0.0, 0.0);
        let mut text = String::new();
        for (owner, entry) in (0_u32..).zip(entries) {
            target += scale * entry.weight;
            let mut count = 0_u64;
            while placed < target {
                text.clear();
                // Writing to a string cannot fail.
                let _ = write!(text, "{}_{count}", entry.key);
                let place = match function {
                    HashFunction::XxHash => xx_hash64(text.as_bytes(), 0),
                    HashFunction::MurmurHash2 => murmur_hash2(text.as_bytes()),
                };
                ring.push((place, owner));
                count += 1;
                placed += 1.0;
            }
            fewest = fewest.min(count);
            most = most.max(count);
        }
        ring.sort_by_key(|(place, _)| *place);
        stats.size().set(size);
        stats.min_hashes_per_host().set(fewest);
        stats.max_hashes_per_host().set(most);
        Self {
            places: ring.iter().map(|(place, _)| *place).collect(),
            owners: Owners::new(ring.iter().map(|(_, owner)| *owner), entries.len()),
            _stats: stats,
        }
    }

    /// The host whose place is at `hash` or comes next. Each further attempt takes one place more.
    pub(super) fn owner(&self, hash: u64, attempt: u32) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let next = self.places.partition_point(|place| *place < hash);
        let at = if next == self.places.len() { 0 } else { next };
        let attempt = usize::try_from(attempt).unwrap_or(0);
        self.owners.get((at + attempt) % self.places.len())
    }
}
