//! What is kept of a cluster that is not made: its accepted bytes, those of its endpoints, and what it shares.

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message;
use tracing::error;

use super::super::cluster::{ClusterSettings, LoadAssignment, UpstreamTransport};
use super::super::discovery::eds::next_hosts;
use super::super::priority_set::PrioritySet;
use crate::config::{ConfigPath, ConfigReport};
use crate::matchers::metadata_from_proto;
use crate::stream_info::DynamicMetadata;

/// What a cluster is made of, as far as it is its own.
pub(in crate::upstream) struct ColdState {
    /// The encoded cluster.
    pub(in crate::upstream) body: Arc<[u8]>,
    pub(in crate::upstream) settings: Arc<ClusterSettings>,
    /// `alt_stat_name`; empty: the name.
    pub(in crate::upstream) alt_stat_name: Box<str>,
    pub(in crate::upstream) has_metadata: bool,
    pub(in crate::upstream) timeout_budgets: bool,
    pub(in crate::upstream) request_response_sizes: bool,
    /// None: connections are plain. It holds subscriptions to secrets, which are there before any stream is.
    pub(in crate::upstream) transport: Option<Box<UpstreamTransport>>,
    /// The encoded assignment in force.
    pub(in crate::upstream) assignment: Option<Arc<[u8]>>,
    /// As many priorities there have been: each stays, without hosts if need be.
    pub(in crate::upstream) priorities: usize,
}

impl ColdState {
    /// What is kept of a converted cluster.
    pub(in crate::upstream) fn new(body: Arc<[u8]>, settings: Arc<ClusterSettings>) -> Self {
        Self {
            body,
            settings,
            alt_stat_name: Box::default(),
            has_metadata: false,
            timeout_budgets: false,
            request_response_sizes: false,
            transport: None,
            assignment: None,
            priorities: 0,
        }
    }

    pub(super) fn metadata(&self) -> DynamicMetadata {
        if !self.has_metadata {
            return DynamicMetadata::default();
        }
        let decoded = pb::Cluster::decode(&*self.body);
        let metadata = decoded.ok().and_then(|proto| proto.metadata);
        metadata.map(metadata_from_proto).unwrap_or_default()
    }

    pub(super) fn assignment(&self) -> Option<LoadAssignment> {
        let body = self.assignment.as_deref()?;
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "endpoints");
        let assignment = ClusterLoadAssignment::decode(body).ok().and_then(|proto| {
            let name = proto.cluster_name.clone();
            LoadAssignment::from_eds(proto, &name, &path).ok()
        });
        if assignment.is_none() {
            // It was converted when it came.
            error!(errors = ?report.take(), "An accepted assignment cannot be read again.");
        }
        assignment
    }

    /// The hosts as they were assigned last.
    pub(super) fn hosts(&self, workers: usize) -> PrioritySet {
        let mut set = match self.assignment() {
            Some(assignment) => next_hosts(assignment, &PrioritySet::default(), None, workers).0,
            None => PrioritySet::default(),
        };
        set.keep_priorities(self.priorities);
        set
    }
}
