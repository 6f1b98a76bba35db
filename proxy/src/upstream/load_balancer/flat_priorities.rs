//! The priorities of several clusters as those of one: what an aggregate divides its requests among.

use std::rc::Rc;

use super::priority_load::{PriorityCounts, PriorityLoad};
use super::{LoadBalancerContext, MetadataMatch, OverrideHostSettings};
use crate::upstream::host::{Health, Host, WorkerHost};

/// Which share of the requests each priority of each member gets. Those without hosts are left out.
#[derive(Default)]
pub(in crate::upstream) struct FlatPriorities {
    load: PriorityLoad,
    counts: Vec<PriorityCounts>,
    places: Vec<Place>,
}

/// A priority of a member.
struct Place {
    member: usize,
    priority: usize,
    /// How much of its hosts may be missing, in percent, and whether their weights count for that.
    how: (u32, bool),
}

/// Where the host of a request is to be chosen.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) struct Chosen {
    /// The place of the member.
    pub(in crate::upstream) member: usize,
    priority: usize,
    health: Health,
}

/// What a member is asked for: a host of the priority that the aggregate has chosen.
pub(in crate::upstream) struct MemberChoice<'a> {
    cx: &'a dyn LoadBalancerContext,
    chosen: Chosen,
}

impl FlatPriorities {
    /// Adds the priorities of the member at this place. Nothing can be chosen before `divide`.
    pub(in crate::upstream) fn add(
        &mut self,
        member: usize,
        counts: &[PriorityCounts],
        how: (u32, bool),
    ) {
        for (priority, counts) in counts.iter().enumerate() {
            if !counts.is_empty() {
                self.counts.push(counts.clone());
                self.places.push(Place {
                    member,
                    priority,
                    how,
                });
            }
        }
    }

    /// Divides the requests among them. `panic_threshold` is in percent.
    pub(in crate::upstream) fn divide(&mut self, panic_threshold: u64) {
        let places = &self.places;
        let how = |at: usize| places.get(at).map_or((140, false), |place| place.how);
        self.load = PriorityLoad::of_counts(&self.counts, &how, panic_threshold);
    }

    /// Where a host is to be chosen; none: there are no hosts. `member_of` knows the last member that a host belongs to.
    pub(in crate::upstream) fn choose(
        &self,
        cx: &dyn LoadBalancerContext,
        member_of: &dyn Fn(&WorkerHost) -> Option<usize>,
    ) -> Option<Chosen> {
        let index_of = |host: &WorkerHost| {
            let member = member_of(host)?;
            let priority = usize::try_from(host.priority).ok()?;
            let is_it = |place: &Place| place.member == member && place.priority == priority;
            self.places.iter().position(is_it)
        };
        let (index, health) = match cx.avoided_priorities() {
            [] => self.load.choose(cx.random()),
            _ => self.load.choose_avoiding(cx, &index_of),
        };
        let place = self.places.get(index)?;
        Some(Chosen {
            member: place.member,
            priority: place.priority,
            health,
        })
    }
}

impl<'a> MemberChoice<'a> {
    /// Of what `cx` wants, what a member may know.
    pub(in crate::upstream) fn new(cx: &'a dyn LoadBalancerContext, chosen: Chosen) -> Self {
        Self { cx, chosen }
    }
}

impl LoadBalancerContext for MemberChoice<'_> {
    fn random(&self) -> u64 {
        self.cx.random()
    }
    fn hash_key(&self) -> Option<u64> {
        self.cx.hash_key()
    }
    fn metadata_match(&self) -> Option<&MetadataMatch> {
        self.cx.metadata_match()
    }
    fn next_wanted_host(&self, settings: &OverrideHostSettings) -> Option<Box<str>> {
        self.cx.next_wanted_host(settings)
    }
    fn should_select_another(&self, host: &Host) -> bool {
        self.cx.should_select_another(host)
    }
    fn given_priority(&self) -> Option<(usize, Health)> {
        Some((self.chosen.priority, self.chosen.health))
    }
    fn host_selection_retry_count(&self) -> u32 {
        self.cx.host_selection_retry_count()
    }
    fn avoided_priorities(&self) -> &[Rc<WorkerHost>] {
        &[]
    }
}
