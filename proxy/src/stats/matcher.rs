//! `stats_matcher`: which stats exist at all. It is asked when a group is registered, never when one counts.

use outrigger_proto::pb::envoy::config::metrics::v3 as pb;

use super::group::{Defs, Rejected};
use crate::config::{ConfigPath, Rejected as ConfigRejected};
use crate::matchers::StringMatcher;

/// Decides by full name. The default keeps everything.
#[derive(Debug, Clone, Default)]
pub(super) enum StatsMatcher {
    #[default]
    KeepAll,
    RejectAll,
    Exclude(Vec<StringMatcher>),
    Include(Vec<StringMatcher>),
}

impl StatsMatcher {
    pub(super) fn from_proto(
        proto: pb::StatsMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Self, ConfigRejected> {
        let pb::StatsMatcher { stats_matcher } = proto;
        use pb::stats_matcher::StatsMatcher as M;
        Ok(match stats_matcher {
            Some(M::RejectAll(true)) => Self::RejectAll,
            Some(M::RejectAll(false)) => Self::KeepAll,
            Some(M::ExclusionList(list)) => Self::Exclude(StringMatcher::list_from_proto(
                list,
                &path.field("exclusion_list"),
            )?),
            Some(M::InclusionList(list)) => Self::Include(StringMatcher::list_from_proto(
                list,
                &path.field("inclusion_list"),
            )?),
            None => {
                return Err(path.reject("needs one of reject_all, exclusion_list, inclusion_list"));
            }
        })
    }

    /// Whether the stat of this name must not exist.
    pub(super) fn rejects(&self, name: &str) -> bool {
        let any = |list: &[StringMatcher]| list.iter().any(|m| m.matches(name.as_bytes()));
        match self {
            Self::KeepAll => false,
            Self::RejectAll => true,
            Self::Exclude(list) => any(list),
            Self::Include(list) => !any(list),
        }
    }

    /// Which stats of a group must not exist.
    pub(super) fn rejected(&self, prefix: &str, defs: Defs) -> Rejected {
        if let Some(decided) = self.whole_group(prefix) {
            return decided;
        }
        let Defs::Static(defs) = defs else {
            return if self.rejects(prefix) {
                Rejected::All
            } else {
                Rejected::None
            };
        };
        let mut name = prefix.to_owned();
        let rejected: Box<[bool]> = defs
            .iter()
            .map(|def| {
                name.truncate(prefix.len());
                name.push_str(def.name);
                self.rejects(&name)
            })
            .collect();
        match (rejected.contains(&true), rejected.contains(&false)) {
            (false, _) => Rejected::None,
            (true, false) => Rejected::All,
            (true, true) => Rejected::Some(rejected),
        }
    }

    /// What is decided by the prefix of the group alone.
    fn whole_group(&self, group: &str) -> Option<Rejected> {
        let covers = |list: &[StringMatcher]| {
            let mut prefixes = list.iter().filter_map(StringMatcher::as_prefix);
            prefixes.any(|prefix| group.as_bytes().starts_with(prefix))
        };
        match self {
            Self::KeepAll => Some(Rejected::None),
            Self::RejectAll => Some(Rejected::All),
            Self::Exclude(list) => covers(list).then_some(Rejected::All),
            Self::Include(list) => covers(list).then_some(Rejected::None),
        }
    }
}
