//! The subsets of a cluster on one worker: load balancers that are made when the first request wants them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::LoadBalancerContext;
use super::host_balancer::HostBalancer;
use super::metadata_match::MetadataMatch;
use super::subset::{Choice, Subset, SubsetTable};
use super::subset_config::{Fallback, SubsetSettings};
use crate::upstream::cluster::ClusterInfo;
use crate::upstream::host::WorkerHost;

/// The subsets of a cluster on one worker.
pub(super) struct WorkerSubsets {
    table: Arc<SubsetTable>,
    /// Those that requests have asked for.
    balancers: Vec<Option<HostBalancer>>,
    /// Where requests with these criteria look, by number of the criteria.
    pub(super) known: HashMap<u64, Rc<[Choice]>>,
}

/// That many criteria are remembered; those of routes that are gone are among them.
const KNOWN: usize = 4096;

impl WorkerSubsets {
    pub(super) fn new(table: Arc<SubsetTable>) -> Self {
        Self {
            balancers: table.subsets.iter().map(|_| None).collect(),
            table,
            known: HashMap::new(),
        }
    }

    /// A host for a request. `all` are the hosts of the cluster, by priority.
    pub(super) fn choose_host(
        &mut self,
        info: &ClusterInfo,
        all: &HostBalancer,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        let settings = info.settings.load_balancer.subset.as_deref()?;
        let choices = self.choices(settings, cx.metadata_match());
        choices
            .iter()
            .find_map(|choice| self.choose(*choice, (info, settings), all, cx))
    }

    fn choices(
        &mut self,
        settings: &SubsetSettings,
        asked: Option<&MetadataMatch>,
    ) -> Rc<[Choice]> {
        let id = asked.map_or(u64::MAX, |asked| asked.id);
        if let Some(known) = self.known.get(&id) {
            return known.clone();
        }
        let choices: Rc<[Choice]> = self.table.resolve(settings, asked).into();
        if id != 0 {
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert(id, choices.clone());
        }
        choices
    }

    fn choose(
        &mut self,
        choice: Choice,
        (info, settings): (&ClusterInfo, &SubsetSettings),
        all: &HostBalancer,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        let stats = &info.update_stats;
        let own = match choice {
            Choice::Subset(at) => {
                stats.lb_subsets_selected().inc();
                return self.of_subset(at, info, all, cx);
            }
            Choice::OfSelector(subset) => return self.of_subset(subset?, info, all, cx),
            Choice::Fallback => match settings.fallback {
                Fallback::Nobody => return None,
                Fallback::AnyEndpoint => self.table.any,
                Fallback::DefaultSubset => self.table.default,
            },
        };
        if let Some(host) = self.of_subset(own?, info, all, cx) {
            stats.lb_subsets_fallback().inc();
            return Some(host);
        }
        let any = self.table.any.filter(|_| settings.panic_mode_any)?;
        let host = self.of_subset(any, info, all, cx)?;
        stats.lb_subsets_fallback_panic().inc();
        Some(host)
    }

    fn of_subset(
        &mut self,
        at: usize,
        info: &ClusterInfo,
        all: &HostBalancer,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        match self.table.subsets.get(at)? {
            Subset::Single(hosts) => {
                let first = hosts.iter().enumerate();
                let mut first = first.filter_map(|(priority, index)| Some((priority, (*index)?)));
                let (priority, index) = first.next()?;
                all.host(priority, index).cloned()
            }
            Subset::Hosts { set, indexes } => self
                .balancers
                .get_mut(at)?
                .get_or_insert_with(|| {
                    let hosts = indexes.iter().enumerate().map(|(priority, indexes)| {
                        let hosts = indexes.iter();
                        hosts
                            .filter_map(|at| all.host(priority, *at))
                            .cloned()
                            .collect()
                    });
                    HostBalancer::new(info, set, hosts.collect(), all.panic_threshold())
                })
                .choose_host(info, cx),
        }
    }
}
