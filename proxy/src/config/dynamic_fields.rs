//! Fields that no message has, in configuration that comes while the process runs: a newer server may send them.
//!
//! Stats: `server.dynamic_unknown_fields`.

use std::collections::HashSet;
use std::fmt;
use std::sync::OnceLock;

use outrigger_proto::yaml::UnknownFields;
use parking_lot::Mutex;
use tracing::warn;

use crate::server::ServerStatsGroup;
use crate::stats::Store;

/// What becomes of such fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DynamicFieldPolicy {
    /// They are left out; each is warned of and counted once.
    #[default]
    Warn,
    /// They are left out: `--ignore-unknown-dynamic-fields`.
    Ignore,
    /// What has them is refused: `--reject-unknown-dynamic-fields`.
    Reject,
}

/// The policy of the process, and what was warned of.
#[derive(Default)]
pub struct DynamicFields {
    chosen: OnceLock<(DynamicFieldPolicy, ServerStatsGroup)>,
    warned: Mutex<HashSet<String>>,
}

/// So many different ones are warned of; what comes after them is left out in silence.
const MAX_WARNED: usize = 1024;

impl DynamicFields {
    /// Sets the policy, once. Before, and without it, it is [`DynamicFieldPolicy::Warn`].
    pub fn choose(&self, policy: DynamicFieldPolicy, stats: &Store) {
        let group = ServerStatsGroup::new(&stats.scope("server."));
        // A second choice changes nothing.
        let _ = self.chosen.set((policy, group));
    }

    /// The policy.
    pub fn policy(&self) -> DynamicFieldPolicy {
        self.chosen
            .get()
            .map(|(policy, _)| *policy)
            .unwrap_or_default()
    }

    /// What a text with such fields is loaded with. Where they are warned of, one that was refused is loaded again, with
    /// [`note`](Self::note) and [`UnknownFields::Ignore`].
    pub fn first_try(&self) -> UnknownFields {
        match self.policy() {
            DynamicFieldPolicy::Ignore => UnknownFields::Ignore,
            DynamicFieldPolicy::Warn | DynamicFieldPolicy::Reject => UnknownFields::Refuse,
        }
    }

    /// A field was left out.
    pub fn note(&self, description: &str) {
        if self.policy() == DynamicFieldPolicy::Ignore {
            return;
        }
        let mut warned = self.warned.lock();
        if warned.len() >= MAX_WARNED || !warned.insert(description.to_owned()) {
            return;
        }
        drop(warned);
        warn!("An unknown field of the dynamic configuration is left out: {description}");
        if let Some((_, stats)) = self.chosen.get() {
            stats.dynamic_unknown_fields().inc();
        }
    }
}

impl fmt::Debug for DynamicFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamicFields")
            .field(&self.policy())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
    use prost::Message;

    use super::*;
    use crate::config::{ConfigPath, ConfigReport};
    use crate::server::{LocalInfo, ServerContext};

    /// What checks of a cluster with a field of the future say, and how much was counted.
    fn check(policy: DynamicFieldPolicy, times: usize) -> (bool, u64) {
        let server = ServerContext::new(1, LocalInfo::default());
        server.unknown_fields.choose(policy, &server.stats);
        let mut bytes = Cluster::default().encode_to_vec();
        // Field 3999, varint 1.
        bytes.extend([0xf8, 0xf9, 0x01, 0x01]);
        let mut taken = true;
        for _ in 0..times {
            let report = ConfigReport::of_resource(&server);
            let path = ConfigPath::root(&report, "cluster \"a\"");
            let _ = path.check("envoy.config.cluster.v3.Cluster", &bytes);
            taken &= !report.text().contains("3999");
        }
        let stats = ServerStatsGroup::new(&server.stats.scope("server."));
        (taken, stats.dynamic_unknown_fields().value())
    }

    #[test]
    fn an_unknown_field_is_counted_once_unless_it_is_ignored_or_refused() {
        assert_eq!(check(DynamicFieldPolicy::Warn, 3), (true, 1));
        assert_eq!(check(DynamicFieldPolicy::Ignore, 1), (true, 0));
        assert_eq!(check(DynamicFieldPolicy::Reject, 1), (false, 0));
    }
}
