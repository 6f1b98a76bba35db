//! `MAGLEV`: a table whose places hosts take in turn, each by a permutation of its own.
//!
//! Docs: <https://research.google/pubs/maglev-a-fast-and-reliable-software-network-load-balancer/>
//! Stats: `cluster.<name>.maglev_lb.{min_entries_per_host, max_entries_per_host}`.

use super::hashing::{Entry, Owners};
use crate::stats::Scope;
use crate::xx_hash::xx_hash64;

crate::stats_group! {
    /// What the table of the lowest priority looks like.
    pub(super) struct MaglevStats {
        gauge max_entries_per_host;
        gauge min_entries_per_host;
    }
}

/// Who has which place.
pub(super) struct Maglev {
    size: u64,
    /// Empty without hosts.
    owners: Owners,
    /// The gauges are there as long as the table.
    _stats: MaglevStats,
}

/// A host while the table is filled.
struct Turn {
    offset: u64,
    skip: u64,
    weight: f64,
    /// It takes a place when its weight, once for each round, has reached this.
    target: f64,
    /// Which place of its permutation comes next.
    next: u64,
    count: u64,
}

const FREE: u32 = u32::MAX;

impl Maglev {
    /// A table of this size, a prime number. `entries` are sorted by their keys.
    pub(super) fn new(entries: &[Entry], size: u64, scope: &Scope) -> Self {
        let stats = MaglevStats::new(&scope.scope("maglev_lb."));
        if entries.is_empty() {
            return Self {
                size,
                owners: Owners::new(std::iter::empty(), 0),
                _stats: stats,
            };
        }
        let mut turns: Vec<_> = entries
            .iter()
            .map(|entry| Turn {
                offset: xx_hash64(entry.key.as_bytes(), 0) % size,
                skip: xx_hash64(entry.key.as_bytes(), 1) % (size - 1).max(1) + 1,
                weight: entry.weight,
                target: 0.0,
                next: 0,
                count: 0,
            })
            .collect();
        let owners = fill(&mut turns, size);
        let fewest = turns.iter().map(|turn| turn.count).min();
        let most = turns.iter().map(|turn| turn.count).max();
        stats.min_entries_per_host().set(fewest.unwrap_or_default());
        stats.max_entries_per_host().set(most.unwrap_or_default());
        Self {
            size,
            owners: Owners::new(owners.into_iter(), entries.len()),
            _stats: stats,
        }
    }

    /// The host at the place of `hash`. Each further attempt looks at quite another place.
    pub(super) fn owner(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = match attempt {
            0 => hash,
            attempt => hash ^ 0_u64.wrapping_sub(attempt.into()),
        };
        self.owners.get(usize::try_from(hash % self.size).ok()?)
    }
}

/// Hosts take places, round by round, until there are none left.
fn fill(turns: &mut [Turn], size: u64) -> Vec<u32> {
    let heaviest = turns
        .iter()
        .fold(0.0, |most: f64, turn| most.max(turn.weight));
    let mut owners = vec![FREE; usize::try_from(size).unwrap_or(0)];
    let mut left = owners.len();
    let mut round = 0.0;
    while left > 0 {
        round += 1.0;
        for (owner, turn) in (0_u32..).zip(turns.iter_mut()) {
            if left == 0 {
                break;
            }
            // The heaviest has its turn in every round, one of half its weight in every other.
            if round * turn.weight < turn.target {
                continue;
            }
            turn.target += heaviest;
            loop {
                let place = (turn.offset + turn.skip * turn.next) % size;
                turn.next += 1;
                let place = usize::try_from(place).unwrap_or(0);
                if owners[place] == FREE {
                    owners[place] = owner;
                    break;
                }
            }
            turn.count += 1;
            left -= 1;
        }
    }
    owners
}
