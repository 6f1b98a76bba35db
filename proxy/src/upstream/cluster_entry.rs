//! What the cluster manager keeps of each name: the version in use, and the one that warms.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;

use super::discovery::dns::DnsDiscovery;
use super::discovery::eds::EdsDiscovery;
use super::health_check::HealthChecker;
use super::lazy_cluster::LazyCluster;
use super::outlier_detection::OutlierDetector;
use crate::server::InitManager;

/// How many clusters there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterTally {
    /// In use.
    pub active: usize,
    /// Not yet in use, since something is missing.
    pub warming: usize,
    /// Of these, those that management servers may be reached by: their hosts do not come from one.
    pub warming_primary: usize,
}

/// One name. A new version takes over when it is warm.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Managed>,
    pub(super) warming: Option<Managed>,
    /// The last update, if it was refused.
    pub(super) refused: Option<Box<UpdateFailureState>>,
}

pub(super) struct Managed {
    pub(super) cluster: Arc<LazyCluster>,
    /// Finds hosts for as long as the cluster lives.
    pub(super) discovery: Discovery,
    /// Checks the hosts, if they are checked.
    pub(super) health_checker: Option<Rc<HealthChecker>>,
    /// Ejects hosts, if it is to.
    pub(super) _outliers: Option<Rc<OutlierDetector>>,
    /// What it waits for before it is used.
    pub(super) waits: Option<Waits>,
    /// What it was made of; none: the bootstrap.
    pub(super) accepted: Option<Accepted>,
}

pub(super) struct Waits {
    pub(super) hosts_found: Cell<bool>,
    pub(super) init: InitManager,
    /// Whether each host has been checked once, or need not be.
    pub(super) checked: Cell<bool>,
}

/// How a cluster finds its hosts.
pub(super) enum Discovery {
    /// They are configured.
    Static,
    Dns {
        _resolving: DnsDiscovery,
    },
    Eds(Rc<EdsDiscovery>),
    /// They are those of other clusters.
    Members,
}

/// A configuration that was accepted while the process runs.
pub(super) struct Accepted {
    /// The encoded cluster, as it came.
    pub(super) body: Arc<[u8]>,
    pub(super) version: Arc<str>,
    pub(super) at: SystemTime,
}

impl Entry {
    pub(super) fn tally(&self) -> ClusterTally {
        let primary = |managed: &&Managed| match &managed.discovery {
            Discovery::Static | Discovery::Dns { .. } => true,
            Discovery::Eds(eds) => eds.is_primary(),
            Discovery::Members => false,
        };
        ClusterTally {
            active: usize::from(self.active.is_some()),
            warming: usize::from(self.warming.is_some()),
            warming_primary: usize::from(self.warming.as_ref().filter(primary).is_some()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_none() && self.warming.is_none() && self.refused.is_none()
    }

    /// The version that is warming, if it is this one.
    pub(super) fn warming_as(&self, cluster: &Arc<LazyCluster>) -> Option<&Managed> {
        let is_this = |warming: &&Managed| Arc::ptr_eq(&warming.cluster, cluster);
        self.warming.as_ref().filter(is_this)
    }
}

impl ClusterTally {
    pub(super) fn count(&mut self, before: Self, after: Self) {
        self.active = self.active + after.active - before.active;
        self.warming = self.warming + after.warming - before.warming;
        self.warming_primary =
            self.warming_primary + after.warming_primary - before.warming_primary;
    }
}
