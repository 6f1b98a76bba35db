//! `envoy.clusters.aggregate` on one worker: a cluster whose hosts are those of others.
//!
//! Type URLs: `envoy.extensions.clusters.aggregate.v3.ClusterConfig` in `cluster_type`, with `lb_policy: CLUSTER_PROVIDED`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/aggregate_cluster>
//! Stats: of requests those of the aggregate, of connections and hosts those of the member.
//!
//! The priorities of its members stand one after another, and requests are divided among them as among those of one cluster. The
//! member chooses the host, by its own policy. A member that is not there is passed over until it is, and so is one that is an
//! aggregate itself: it has no hosts of its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::host::WorkerHost;
use super::load_balancer::{FlatPriorities, LoadBalancerContext, MemberChoice};
use super::worker_cluster::WorkerCluster;
use crate::runtime::RuntimeInteger;

/// The members of an aggregate, and how requests are divided among their priorities.
pub(super) struct Aggregate {
    /// `upstream.healthy_panic_threshold`, over that of the aggregate, in percent.
    panic_threshold: RuntimeInteger,
    members: RefCell<Vec<Rc<WorkerCluster>>>,
    flat: RefCell<FlatPriorities>,
    /// The sum of the versions of the hosts that `flat` agrees with; none: it was never made for these members.
    seen: Cell<Option<u64>>,
}

impl Aggregate {
    pub(super) fn new(panic_threshold: RuntimeInteger) -> Self {
        Self {
            panic_threshold,
            members: RefCell::default(),
            flat: RefCell::default(),
            seen: Cell::new(None),
        }
    }

    pub(super) fn set_members(&self, members: Vec<Rc<WorkerCluster>>) {
        self.members.replace(members);
        self.seen.set(None);
    }

    /// A host of a member, or none if none may be used.
    pub(super) fn choose_host(&self, cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        self.catch_up();
        // Hosts that filters have chosen are looked for among those of the cluster itself, which has none.
        if cx.override_host().is_some_and(|wanted| wanted.strict) {
            return None;
        }
        let members = self.members.borrow();
        let index_of = |host: &WorkerHost| {
            let is_it = |member: &Rc<WorkerCluster>| Some(member.info().id) == host.cluster();
            members.iter().rposition(is_it)
        };
        let chosen = self.flat.borrow().choose(cx, &index_of)?;
        let member = members.get(chosen.member)?;
        member.choose_as_member(&MemberChoice::new(cx, chosen))
    }

    /// The member that a host belongs to.
    pub(super) fn owner(&self, host: &WorkerHost) -> Option<Rc<WorkerCluster>> {
        let members = self.members.borrow();
        let owner = members
            .iter()
            .find(|member| Some(member.info().id) == host.cluster());
        owner.cloned()
    }

    fn catch_up(&self) {
        let members = self.members.borrow();
        let version = members.iter().map(|member| member.hosts_version());
        let version = version.fold(0, u64::wrapping_add);
        if self.seen.get() == Some(version) {
            return;
        }
        let mut flat = FlatPriorities::default();
        for (at, member) in members.iter().enumerate() {
            member.catch_up();
            member.add_priorities(at, &mut flat);
        }
        flat.divide(self.panic_threshold.get().min(100));
        self.flat.replace(flat);
        self.seen.set(Some(version));
    }
}
