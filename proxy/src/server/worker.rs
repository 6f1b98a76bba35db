//! What belongs to one worker thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::ServerContext;
use crate::overload::StreamAccounts;
use crate::upstream::WorkerClusters;

/// One worker: its clusters and pools, its random numbers. Everything on its thread holds it as `Rc`.
#[derive(Debug)]
pub struct Worker {
    /// 0-based; main, which counts among none, has 0 as well.
    pub index: usize,
    /// The part of stats and log buffers that only this thread writes: 0 for main, one higher than the index for workers.
    pub shard: usize,
    /// The services of the process.
    pub server: Arc<ServerContext>,
    /// This worker's view of the clusters, with its own pools and load balancers.
    pub clusters: WorkerClusters,
    /// This worker's random numbers.
    pub random: Random,
    /// What its streams hold. None: the overload manager resets no streams.
    pub accounts: Option<Rc<StreamAccounts>>,
}

/// A fast generator, seeded per worker (or by a test). Not for secrets.
#[derive(Debug)]
pub struct Random {
    state: Cell<u64>,
}

impl Worker {
    /// A worker over the clusters that main publishes.
    pub fn new(
        index: usize,
        server: Arc<ServerContext>,
        clusters: WorkerClusters,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            shard: index + 1,
            accounts: server.overload.resets.accounts(),
            server,
            clusters,
            random: Random::new(seed),
        })
    }

    /// Main in the place of a worker, for what runs there as it does on workers: loggers, the asynchronous client.
    pub fn on_main(server: Arc<ServerContext>, clusters: WorkerClusters, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            index: 0,
            shard: 0,
            accounts: None,
            server,
            clusters,
            random: Random::new(seed),
        })
    }
}

impl Random {
    /// A generator whose sequence is fixed by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Cell::new(seed),
        }
    }

    /// The next number (SplitMix64: every value of 64 bits is as likely).
    #[inline]
    pub fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
