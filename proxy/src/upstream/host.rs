//! One endpoint of a cluster.

use std::ops::Deref;
use std::sync::Arc;

use crate::net::Address;
use crate::stream_info::DynamicMetadata;

/// A host, shared by all workers.
#[derive(Debug)]
pub struct Host {
    /// Where to connect to.
    pub address: Address,
    /// `Endpoint.hostname`; empty if there is none.
    pub hostname: Box<str>,
    /// `LbEndpoint.metadata`.
    pub metadata: DynamicMetadata,
}

/// A host as one worker sees it, with this worker's pools.
#[derive(Debug)]
pub struct WorkerHost {
    host: Arc<Host>,
}

impl WorkerHost {
    /// The host with empty pools.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

impl Deref for WorkerHost {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}
