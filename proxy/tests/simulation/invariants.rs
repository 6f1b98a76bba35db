//! What holds in every world at every time, and what holds when all is over.

use std::fmt;
use std::sync::Arc;

use outrigger::stats::Group;
use outrigger::upstream::{ClusterManager, HealthFlag, Host, HostStat};

use crate::hosts::Network;
use crate::scenario::Scenario;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The same attempt of a request has arrived more than once.
    SentTwice { id: u64, attempt: u64 },
    /// A host has got what no client has sent.
    NobodySent,
    /// More attempts than the route allows.
    TooManyAttempts { id: u64, attempts: u64 },
    /// A request has no answer.
    Unanswered { id: u64, why: &'static str },
    /// An answer that is not the one to this request.
    Foreign { id: u64, what: String },
    /// More of something than its limit.
    AboveLimit {
        what: &'static str,
        is: u64,
        limit: u64,
    },
    /// Less of something than there must be.
    TooFew {
        what: &'static str,
        is: u64,
        least: u64,
    },
    /// Two numbers that must be the same are not.
    Unequal {
        what: &'static str,
        left: u64,
        right: u64,
    },
    /// A gauge that must be back at zero is not.
    NotZero { what: String, is: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SentTwice { id, attempt } => {
                write!(f, "request {id} was sent twice as attempt {attempt}")
            }
            Self::NobodySent => write!(f, "a host has got what no client has sent"),
            Self::TooManyAttempts { id, attempts } => {
                write!(f, "request {id} was tried {attempts} times")
            }
            Self::Unanswered { id, why } => write!(f, "request {id} has no answer: {why}"),
            Self::Foreign { id, what } => write!(f, "request {id} is answered by {what}"),
            Self::AboveLimit { what, is, limit } => write!(f, "{what} is {is}, above {limit}"),
            Self::TooFew { what, is, least } => write!(f, "{what}: {is}, less than {least}"),
            Self::Unequal { what, left, right } => write!(f, "{what}: {left} and {right}"),
            Self::NotZero { what, is } => write!(f, "{what} is {is} at the end"),
        }
    }
}

/// One stat by its name, found once.
pub(crate) struct Stat {
    name: &'static str,
    at: Option<(Arc<Group>, usize)>,
}

/// The stats that the promises are about.
pub(crate) struct Watch {
    remaining: [(Stat, u64); 4],
    zero: Vec<Stat>,
}

const GAUGES: &[&str] = &[
    "cluster.c.upstream_rq_active",
    "cluster.c.upstream_rq_pending_active",
    "http.s.downstream_rq_active",
    "http.s.downstream_cx_active",
];

impl Stat {
    pub(crate) fn new(name: &'static str, groups: &[Arc<Group>]) -> Self {
        let at = groups.iter().find_map(|group| {
            let end = name.strip_prefix(group.prefix())?;
            let index = (0..group.len()).find(|index| group.stat(*index).0 == end)?;
            Some((group.clone(), index))
        });
        Self { name, at }
    }

    pub(crate) fn counter(&self) -> u64 {
        let found = self.at.as_ref();
        found.map_or(0, |(group, index)| group.counter(*index).value())
    }

    pub(crate) fn gauge(&self) -> u64 {
        let found = self.at.as_ref();
        found.map_or(0, |(group, index)| group.gauge(*index).value())
    }
}

impl Watch {
    pub(crate) fn new(scenario: &Scenario, groups: &[Arc<Group>]) -> Self {
        let breakers = &scenario.breakers;
        let remaining = |name, limit| {
            let stat = Stat::new(name, groups);
            assert!(stat.at.is_some(), "{name} is there");
            (stat, limit)
        };
        Self {
            remaining: [
                remaining(
                    "cluster.c.circuit_breakers.default.remaining_cx",
                    breakers.connections,
                ),
                remaining(
                    "cluster.c.circuit_breakers.default.remaining_pending",
                    breakers.pending,
                ),
                remaining(
                    "cluster.c.circuit_breakers.default.remaining_rq",
                    breakers.requests,
                ),
                remaining(
                    "cluster.c.circuit_breakers.default.remaining_retries",
                    breakers.retries,
                ),
            ],
            zero: GAUGES.iter().map(|name| Stat::new(name, groups)).collect(),
        }
    }

    /// What holds at every time.
    pub(crate) fn always(&self, scenario: &Scenario, network: &Network) -> Result<(), Violation> {
        if network.foreign.get() {
            return Err(Violation::NobodySent);
        }
        if let Some(twice) = network.twice.get() {
            let (id, attempt) = (twice.id, twice.attempt);
            return Err(Violation::SentTwice { id, attempt });
        }
        for (stat, limit) in &self.remaining {
            // A retry budget has no fixed limit of its own.
            if scenario.breakers.budget && stat.name.ends_with("retries") {
                continue;
            }
            not_above(stat.name, stat.gauge(), *limit)?;
        }
        // A pool without a connection may open one whatever the limit says, each host has a pool, and a health check has a
        // connection of its own.
        let per_host = 1 + u64::from(scenario.health_checks);
        let connections = scenario.breakers.connections + per_host * network.host_count();
        not_above(
            "the open connections",
            network.connections.get(),
            connections,
        )?;
        let most = network.most_in_flight.get();
        not_above("the requests at hosts", most, scenario.breakers.requests)
    }

    /// Outlier detection keeps its cap. Where hosts come and go, those that are left may be more of them than it allows.
    pub(crate) fn ejected(
        &self,
        scenario: &Scenario,
        manager: &ClusterManager,
    ) -> Result<(), Violation> {
        let Some(cap) = scenario.ejection_cap.filter(|_| !scenario.dns) else {
            return Ok(());
        };
        for cluster in manager.clusters() {
            let set = cluster.hosts.load();
            let is_ejected = |host: &&Arc<Host>| host.health.has(HealthFlag::FailedOutlierCheck);
            let (ejected, all) = (set.hosts().filter(is_ejected).count(), set.hosts().count());
            not_above("the ejected hosts", ejected as u64, all as u64 * cap / 100)?;
        }
        Ok(())
    }

    /// What holds when no request is under way any more.
    pub(crate) fn at_rest(
        &self,
        scenario: &Scenario,
        manager: &ClusterManager,
    ) -> Result<(), Violation> {
        for stat in &self.zero {
            zero(stat.name, stat.gauge())?;
        }
        for (stat, limit) in &self.remaining {
            if stat.name.ends_with("remaining_cx")
                || (scenario.breakers.budget && stat.name.ends_with("retries"))
            {
                continue;
            }
            zero(
                &format!("what is missing of {}", stat.name),
                limit.abs_diff(stat.gauge()),
            )?;
        }
        for cluster in manager.clusters() {
            for host in cluster.hosts.load().hosts() {
                let what = format!("rq_active of {:?}", host.address);
                zero(&what, host.stats.get(HostStat::RqActive))?;
            }
        }
        Ok(())
    }

    /// What holds when no connection is left either.
    pub(crate) fn at_the_end(
        &self,
        manager: &ClusterManager,
        groups: &[Arc<Group>],
    ) -> Result<(), Violation> {
        let active = Stat::new("cluster.c.upstream_cx_active", groups);
        zero(active.name, active.gauge())?;
        let (remaining, limit) = &self.remaining[0];
        zero(remaining.name, limit.abs_diff(remaining.gauge()))?;
        for cluster in manager.clusters() {
            for host in cluster.hosts.load().hosts() {
                let what = format!("cx_active of {:?}", host.address);
                zero(&what, host.stats.get(HostStat::CxActive))?;
            }
        }
        let connections = |end: &str| match end {
            "total" => Stat::new("cluster.c.upstream_cx_total", groups).counter(),
            _ => Stat::new("cluster.c.upstream_cx_destroy", groups).counter(),
        };
        equal(
            "connections made and destroyed",
            connections("total"),
            connections("destroy"),
        )
    }
}

fn not_above(what: &'static str, is: u64, limit: u64) -> Result<(), Violation> {
    match is > limit {
        true => Err(Violation::AboveLimit { what, is, limit }),
        false => Ok(()),
    }
}

fn zero(what: &str, is: u64) -> Result<(), Violation> {
    match is {
        0 => Ok(()),
        _ => Err(Violation::NotZero {
            what: what.to_owned(),
            is,
        }),
    }
}

pub(crate) fn equal(what: &'static str, left: u64, right: u64) -> Result<(), Violation> {
    match left == right {
        true => Ok(()),
        false => Err(Violation::Unequal { what, left, right }),
    }
}

pub(crate) fn at_least(what: &'static str, is: u64, least: u64) -> Result<(), Violation> {
    match is < least {
        true => Err(Violation::TooFew { what, is, least }),
        false => Ok(()),
    }
}
