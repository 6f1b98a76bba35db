//! How much of its time a request used: histograms of clusters with `track_cluster_stats.timeout_budgets`.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Router;
use super::upstream_request::UpstreamRequest;
use crate::upstream::WorkerCluster;

impl Router {
    /// The response has ended, or the time was up.
    #[inline]
    pub(super) fn budget_of_whole(&self, cluster: &Rc<WorkerCluster>, now: Instant) {
        if let Some(stats) = &cluster.info().timeout_budget_stats
            && let Some(since) = self.request_complete
        {
            let used = percent(now - since, self.timeouts.global);
            stats.upstream_rq_timeout_budget_percent_used().record(used);
        }
    }

    /// An attempt has ended otherwise than by the time of the whole.
    #[inline]
    pub(super) fn budget_of_try(&self, attempt: &UpstreamRequest, now: Instant) {
        let Some(cluster) = &self.cluster else { return };
        if let Some(stats) = &cluster.info().timeout_budget_stats {
            let used = percent(now - attempt.began(), self.timeouts.per_try);
            stats
                .upstream_rq_timeout_budget_per_try_percent_used()
                .record(used);
        }
    }
}

/// The share of a limit; none of what has no limit.
fn percent(used: Duration, limit: Option<Duration>) -> u64 {
    let Some(limit) = limit.filter(|limit| limit.as_millis() > 0) else {
        return 0;
    };
    u64::try_from(used.as_millis() * 100 / limit.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_used_of_what_has_no_limit() {
        let ms = Duration::from_millis;
        assert_eq!(percent(ms(50), Some(ms(200))), 25);
        assert_eq!(percent(ms(300), Some(ms(200))), 150);
        assert_eq!(percent(ms(300), None), 0);
        assert_eq!(percent(ms(300), Some(ms(0))), 0);
    }
}
