//! The route look-up with its reasons, for people who wonder about it.

use super::domains::without_port;
use super::table::RouteTable;
use super::{SelectedRoute, Selection};
use crate::http::RequestHead;
use crate::stream_info::StreamInfo;

/// What a look-up has found, and why not something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLookup {
    /// What [`RouteTable::select`] says.
    pub selection: Selection,
    /// The virtual host; none: no domain matches.
    pub virtual_host: Option<u32>,
    /// Without one: the virtual host that the authority would belong to without its port.
    pub virtual_host_without_port: Option<u32>,
    /// The routes of the virtual host (or those that its matcher leaves) before the one that is taken, or all of them, with what each lacks.
    pub lost: Vec<(u32, Unmet)>,
}

/// The first condition of a `RouteMatch` that a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// The path specifier.
    Path,
    /// Another field; of a list, the entry at this place.
    Criterion {
        /// Its name in the API.
        field: &'static str,
        /// The place in the list; none: it is no list.
        index: Option<usize>,
    },
}

impl RouteTable {
    /// Looks a route up, and says why those before it are not taken. `random` is as for [`select`](Self::select).
    pub fn explain(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> RouteLookup {
        let selection = self.select(head, info, random);
        let virtual_host = self.virtual_host_of(head.authority());
        let taken = match selection {
            Selection::Route(index) => index.route,
            Selection::RequireTls => 0,
            Selection::None => u32::MAX,
        };
        let lost = virtual_host.map(|host| {
            let path = head.path().map(|_| self.path_to_match(head));
            let host = &self.virtual_hosts[host as usize];
            let unmet = |number| Some((number, host.unmet(number, head, path, info, random)?));
            let candidates = host.candidates(head, info);
            let before = candidates.start..candidates.end.min(taken);
            before.filter_map(unmet).collect()
        });
        let authority = head.authority().map(without_port);
        RouteLookup {
            selection,
            virtual_host,
            virtual_host_without_port: match virtual_host {
                Some(_) => None,
                None => self.virtual_host_of(authority),
            },
            lost: lost.unwrap_or_default(),
        }
    }
}

impl SelectedRoute {
    /// The weights of `weighted_clusters` that are in force, in order; empty where there are none.
    pub fn weights(&self) -> Vec<u64> {
        match self.route().forward().map(|action| &action.cluster) {
            Some(super::ClusterSpecifier::Weighted(weighted)) => weighted.weights(),
            _ => Vec::new(),
        }
    }
}
