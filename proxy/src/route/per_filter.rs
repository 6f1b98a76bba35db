//! `typed_per_filter_config` of table, virtual host, route and weighted cluster, merged into numbered slots.
//!
//! The names that a table mentions are numbered when it is built. Each route then has the slots that its levels mention, or
//! shares those of its virtual host or of the table where it mentions none itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;

use super::matcher::routes_in;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http_filters::{HttpFilterFactory, RouteFilterConfig};
use crate::server::FactoryContext;

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// The merged configurations of a route: only of the slots that one of its levels mentions, in ascending order.
#[derive(Clone)]
pub(super) struct FilterSlots(Arc<[FilterSlot]>);

#[derive(Clone)]
struct FilterSlot {
    slot: u32,
    config: Option<RouteFilterConfig>,
    disabled: Option<bool>,
}

/// Converts the configurations of all levels of one table.
pub(super) struct PerFilter<'a> {
    names: Box<[Box<str>]>,
    factories: &'a [&'a dyn HttpFilterFactory],
    pub(super) cx: &'a FactoryContext<'a>,
}

/// What one level says, by slot.
#[derive(Default)]
pub(super) struct FilterLevel(Vec<(usize, Entry)>);

struct Entry {
    /// The position of its factory, and what that factory made of it.
    config: Option<(usize, RouteFilterConfig)>,
    disabled: bool,
}

/// Every filter name that a route configuration mentions.
pub(super) fn filter_names(table: &pb::RouteConfiguration) -> BTreeSet<Box<str>> {
    let in_matcher = |host: &pb::VirtualHost| host.matcher.iter().flat_map(routes_in).collect();
    let matched: Vec<Vec<pb::Route>> = table.virtual_hosts.iter().map(in_matcher).collect();
    let mut names = BTreeSet::new();
    names.extend(table.typed_per_filter_config.keys());
    for (at, host) in table.virtual_hosts.iter().enumerate() {
        names.extend(host.typed_per_filter_config.keys());
        for route in host.routes.iter().chain(&matched[at]) {
            names.extend(route.typed_per_filter_config.keys());
            let Some(pb::route::Action::Route(action)) = &route.action else {
                continue;
            };
            if let Some(pb::route_action::ClusterSpecifier::WeightedClusters(weighted)) =
                &action.cluster_specifier
            {
                for cluster in &weighted.clusters {
                    names.extend(cluster.typed_per_filter_config.keys());
                }
            }
        }
    }
    names.into_iter().map(|name| name.as_str().into()).collect()
}

impl<'a> PerFilter<'a> {
    /// Numbers every filter name that `table` mentions.
    pub(super) fn new(
        table: &pb::RouteConfiguration,
        factories: &'a [&'a dyn HttpFilterFactory],
        cx: &'a FactoryContext<'a>,
    ) -> Self {
        Self::with_names(filter_names(table), factories, cx)
    }

    /// Numbers these names, among which all of the table are.
    pub(super) fn with_names(
        names: BTreeSet<Box<str>>,
        factories: &'a [&'a dyn HttpFilterFactory],
        cx: &'a FactoryContext<'a>,
    ) -> Self {
        Self {
            names: names.into_iter().collect(),
            factories,
            cx,
        }
    }

    /// The names by slot.
    pub(super) fn into_names(self) -> Box<[Box<str>]> {
        self.names
    }

    /// Converts what one level says.
    pub(super) fn level(
        &self,
        configs: HashMap<String, Any>,
        path: &ConfigPath<'_>,
    ) -> Result<FilterLevel, Rejected> {
        let mut failed = None;
        let mut level = Vec::new();
        // In the order of the names, for the errors' sake and for `get`.
        for (name, any) in configs.into_iter().collect::<BTreeMap<_, _>>() {
            let entry = self.entry(any, &path.key("typed_per_filter_config", &name));
            let slot = self.names.binary_search_by(|known| (**known).cmp(&name));
            match (entry, slot) {
                (Ok(entry), Ok(slot)) => level.push((slot, entry)),
                (Err(rejected), _) => failed = Some(rejected),
                (Ok(_), Err(_)) => debug_assert!(false, "all names of the table have a number"),
            }
        }
        failed.map_or(Ok(FilterLevel(level)), Err)
    }

    /// Merges levels, from the least to the most specific.
    pub(super) fn resolve(&self, levels: &[&FilterLevel]) -> FilterSlots {
        let mentioned: BTreeSet<usize> = levels
            .iter()
            .flat_map(|level| level.0.iter().map(|(slot, _)| *slot))
            .collect();
        let slots = mentioned.into_iter().filter_map(|slot| {
            let entries = || levels.iter().filter_map(|level| level.get(slot));
            let configs: Vec<_> = entries().filter_map(|e| e.config.as_ref()).collect();
            // Configurations of one name that belong to several extensions cannot be merged: the most specific one decides.
            let config = configs.last().map(|(factory, _)| {
                let same: Vec<_> = configs
                    .iter()
                    .filter(|(other, _)| other == factory)
                    .map(|(_, config)| config.clone())
                    .collect();
                self.factories[*factory].merge(&same)
            });
            Some(FilterSlot {
                slot: u32::try_from(slot).ok()?,
                config,
                disabled: entries().next_back().map(|entry| entry.disabled),
            })
        });
        FilterSlots(slots.collect())
    }

    fn entry(&self, any: Any, path: &ConfigPath<'_>) -> Result<Entry, Rejected> {
        let typed = TypedConfig::from_any(any, path)?;
        if typed.type_name != FILTER_CONFIG {
            return Ok(Entry {
                config: Some(self.convert(&typed, path)?),
                disabled: false,
            });
        }
        let pb::FilterConfig {
            config,
            is_optional,
            disabled,
        } = typed.decode(path)?;
        if disabled {
            // Envoy reads nothing but that either.
            return Ok(Entry {
                config: None,
                disabled: true,
            });
        }
        let config = path.required("config", config)?;
        if config.type_url.is_empty() {
            return Ok(Entry {
                config: None,
                disabled: false,
            });
        }
        let path = path.field("config");
        let typed = TypedConfig::from_any(config, &path)?;
        let config = if is_optional && !typed.is_known() {
            None
        } else {
            Some(self.convert(&typed, &path)?)
        };
        Ok(Entry {
            config,
            disabled: false,
        })
    }

    fn convert(
        &self,
        typed: &TypedConfig,
        path: &ConfigPath<'_>,
    ) -> Result<(usize, RouteFilterConfig), Rejected> {
        let Some(factory) = self.factory(typed) else {
            let supported: Vec<_> = self
                .factories
                .iter()
                .flat_map(|factory| factory.per_route_type_names())
                .copied()
                .collect();
            return Err(typed.unknown(path, &supported));
        };
        let config = self.factories[factory].per_route_from_proto(typed, self.cx, path)?;
        Ok((factory, config))
    }

    fn factory(&self, typed: &TypedConfig) -> Option<usize> {
        self.factories.iter().position(|factory| {
            factory
                .per_route_type_names()
                .contains(&typed.type_name.as_str())
        })
    }
}

impl FilterLevel {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, slot: usize) -> Option<&Entry> {
        let at = self.0.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        Some(&self.0[at].1)
    }
}

impl FilterSlots {
    pub(super) fn config(&self, slot: usize) -> Option<&RouteFilterConfig> {
        self.find(slot)?.config.as_ref()
    }

    pub(super) fn disabled(&self, slot: usize) -> Option<bool> {
        self.find(slot)?.disabled
    }

    fn find(&self, slot: usize) -> Option<&FilterSlot> {
        let at = self.0.binary_search_by_key(&slot, |s| s.slot as usize);
        Some(&self.0[at.ok()?])
    }
}

impl fmt::Debug for FilterSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.0.len())
    }
}
