//! A configured list of HTTP filters: of a connection manager, of an upgrade, of upstream attempts.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_filter::ConfigType;

use super::discovery::{DynamicFilter, WorkerDynamicFilter};
use super::{FACTORIES, HttpFilter, HttpFilterConfig, HttpFilterFactory, WorkerHttpFilter};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::explain::FilterVerdict;
use crate::http_connection_manager::filter_chain::Filters;
use crate::route::{RouteTable, SelectedRoute};
use crate::server::{FactoryContext, Worker};

/// The filters of a list up to its terminal one.
#[derive(Default)]
pub struct ChainConfig {
    entries: Vec<Entry>,
}

struct Entry {
    name: Box<str>,
    config: EntryConfig,
    /// Off unless a route switches it on.
    disabled: bool,
}

/// Where the configuration of a filter comes from.
enum EntryConfig {
    /// It stands in the list.
    Fixed(Arc<dyn HttpFilterConfig>),
    /// ECDS.
    Dynamic(Arc<DynamicFilter>),
}

enum EntryFilter {
    Fixed(Box<dyn WorkerHttpFilter>),
    Dynamic(WorkerDynamicFilter),
}

/// A [`ChainConfig`] on one worker, with its filters mapped onto the numbers of one route table.
#[derive(Default)]
pub struct WorkerChain {
    entries: Rc<ChainEntries>,
    /// The number of each entry's name in the table.
    slots: Box<[Option<usize>]>,
}

/// What a [`WorkerChain`] makes filters of, whatever the table.
#[derive(Default)]
pub struct ChainEntries(Box<[WorkerEntry]>);

struct WorkerEntry {
    name: Rc<str>,
    filter: EntryFilter,
    disabled: bool,
    /// See [`HttpFilterConfig::is_idle`].
    is_idle: bool,
}

impl ChainConfig {
    /// Converts a list whose last entry is of the type `terminal`; gives its configuration beside the chain.
    pub fn from_proto(
        list: Vec<pb::HttpFilter>,
        terminal: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, TypedConfig), Rejected> {
        Self::convert("http_filters", list, Place::Downstream(terminal), cx, path)
    }

    /// Converts a list of upstream filters, which ends in the upstream codec. `path` is that of the message that has it as
    /// `field`.
    pub fn upstream_from_proto(
        field: &'static str,
        list: Vec<pb::HttpFilter>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let (chain, codec) = Self::convert(field, list, Place::Upstream, cx, path)?;
        let UpstreamCodec {} = codec.decode(path)?;
        Ok(chain)
    }

    fn convert(
        field: &'static str,
        list: Vec<pb::HttpFilter>,
        place: Place<'_>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, TypedConfig), Rejected> {
        let mut entries = Vec::new();
        let mut rejected = None;
        let mut end = None;
        let last = list.len().saturating_sub(1);
        for (index, filter) in list.into_iter().enumerate() {
            let name = filter.name.clone();
            let path = path.key(field, &name);
            match Self::entry(filter, place, cx, &path) {
                Ok(Some(Converted::Terminal(_))) if index != last => {
                    rejected =
                        Some(path.reject("is a terminal filter and must be the last of its list"));
                }
                Ok(Some(Converted::Terminal(config))) => end = Some(config),
                Ok(Some(Converted::Entry(entry))) => entries.push(entry),
                Ok(None) => {}
                Err(error) => rejected = Some(error),
            }
        }
        if let Some(rejected) = rejected {
            return Err(rejected);
        }
        let end = end.ok_or_else(|| {
            path.field(field).reject(format!(
                "must end with a filter of type {}",
                place.terminal()
            ))
        })?;
        Ok((Self { entries }, end))
    }

    /// A chain of one filter, for tests of chains.
    #[cfg(test)]
    pub(crate) fn of(config: Arc<dyn HttpFilterConfig>) -> Self {
        Self::of_named([("x", config)])
    }

    /// A chain of these filters, for tests of chains.
    #[cfg(test)]
    pub(crate) fn of_named<const N: usize>(
        filters: [(&str, Arc<dyn HttpFilterConfig>); N],
    ) -> Self {
        let entry = |(name, config): (&str, _)| Entry {
            name: name.into(),
            config: EntryConfig::Fixed(config),
            disabled: false,
        };
        Self {
            entries: filters.into_iter().map(entry).collect(),
        }
    }

    fn entry(
        filter: pb::HttpFilter,
        place: Place<'_>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Converted>, Rejected> {
        let pb::HttpFilter {
            name,
            is_optional,
            disabled,
            config_type,
        } = filter;
        if name.is_empty() {
            return Err(path.field("name").reject("must not be empty"));
        }
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(source)) => {
                let upstream = matches!(place, Place::Upstream);
                let path = path.field("config_discovery");
                let filter = DynamicFilter::from_proto(&name, source, upstream, cx, &path)?;
                return Ok(Some(Converted::Entry(Entry {
                    name: name.into(),
                    config: EntryConfig::Dynamic(filter),
                    disabled,
                })));
            }
            None => {
                return Err(path
                    .field("typed_config")
                    .reject("is required: a filter is chosen by the type of its configuration"));
            }
        };
        let config = TypedConfig::from_any(any, &path.field("typed_config"))?;
        if config.type_name == place.terminal() {
            if disabled {
                return Err(path
                    .field("disabled")
                    .reject("a terminal filter cannot be disabled"));
            }
            return Ok(Some(Converted::Terminal(config)));
        }
        let Some(factory) = place
            .factories()
            .find(|f| f.type_names().contains(&config.type_name.as_str()))
        else {
            // Envoy has what it knows, optional or not: to leave that out would change what happens to requests.
            if is_optional && !config.is_known() {
                tracing::warn!(
                    filter = name,
                    r#type = config.type_name,
                    "Skipping an optional HTTP filter that is not supported."
                );
                return Ok(None);
            }
            let mut supported: Vec<_> = place
                .factories()
                .flat_map(|f| f.type_names())
                .copied()
                .collect();
            supported.push(place.terminal());
            return Err(config.unknown(&path.field("typed_config"), &supported));
        };
        let path = path.field("typed_config");
        let config = factory.named_from_proto(&name, &config, cx, &path)?;
        Ok(Some(Converted::Entry(Entry {
            name: name.into(),
            config: EntryConfig::Fixed(config),
            disabled,
        })))
    }

    /// The chain on a worker, for streams routed by `table`.
    pub fn on_worker(&self, worker: &Rc<Worker>, table: Option<&RouteTable>) -> WorkerChain {
        let entries = self.entries.iter().map(|entry| WorkerEntry {
            name: (*entry.name).into(),
            filter: match &entry.config {
                EntryConfig::Fixed(config) => EntryFilter::Fixed(config.clone().on_worker(worker)),
                EntryConfig::Dynamic(filter) => EntryFilter::Dynamic(filter.on_worker(worker)),
            },
            disabled: entry.disabled,
            is_idle: match &entry.config {
                EntryConfig::Fixed(config) => config.is_idle(),
                // The configuration may change, and a stream keeps the one that it began with.
                EntryConfig::Dynamic(_) => false,
            },
        });
        WorkerChain::new(Rc::new(ChainEntries(entries.collect())), table)
    }
}

impl ChainEntries {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of an entry's name in a table.
    pub fn number(&self, entry: usize, table: &RouteTable) -> Option<usize> {
        table.filter_slot(&self.0.get(entry)?.name)
    }

    /// The filter of an entry for one stream.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    pub fn new_filter(&self, entry: usize) -> Box<dyn HttpFilter> {
        self.0[entry].new_stream()
    }
}

impl WorkerEntry {
    #[inline]
    fn new_stream(&self) -> Box<dyn HttpFilter> {
        match &self.filter {
            EntryFilter::Fixed(filter) => filter.new_stream(),
            EntryFilter::Dynamic(filter) => filter.new_stream(),
        }
    }
}

impl WorkerChain {
    fn new(entries: Rc<ChainEntries>, table: Option<&RouteTable>) -> Self {
        let slot = |entry: &WorkerEntry| table.and_then(|table| table.filter_slot(&entry.name));
        Self {
            slots: entries.0.iter().map(slot).collect(),
            entries,
        }
    }

    /// The same filters, for streams routed by another table.
    pub fn for_table(&self, table: Option<&RouteTable>) -> Self {
        Self::new(self.entries.clone(), table)
    }

    /// The filters of a new stream: those that its route leaves on.
    pub fn new_stream(&self, route: Option<&SelectedRoute>) -> Filters {
        if self.is_empty() {
            return Filters::default();
        }
        let mut filters = Filters::with_room(&self.entries);
        for (index, (entry, slot)) in self.entries.0.iter().zip(&self.slots).enumerate() {
            if disabled_by(route, *slot).unwrap_or(entry.disabled) {
                continue;
            }
            if entry.is_idle && slot.is_none() {
                filters.push_idle(index);
            } else {
                filters.push(entry.new_stream(), index, *slot);
            }
        }
        filters
    }

    /// Which of its filters a stream would have.
    pub fn verdicts(&self, route: Option<&SelectedRoute>) -> Vec<FilterVerdict> {
        let verdict = |(entry, slot): (&WorkerEntry, &Option<usize>)| {
            let by_route = disabled_by(route, *slot);
            FilterVerdict {
                name: entry.name.clone(),
                on: !by_route.unwrap_or(entry.disabled),
                by_route: by_route.is_some(),
            }
        };
        self.entries
            .0
            .iter()
            .zip(&self.slots)
            .map(verdict)
            .collect()
    }

    /// Whether it has no filters.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whether the route switches the filter with this number off or on; none: it says nothing.
#[inline]
fn disabled_by(route: Option<&SelectedRoute>, slot: Option<usize>) -> Option<bool> {
    route
        .zip(slot)
        .and_then(|(route, slot)| route.filter_disabled(slot))
}

/// Where a list stands: that decides how it ends and what may be in it.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// Between a client and the filter of this type.
    Downstream(&'a str),
    /// Between the router and an upstream.
    Upstream,
}

impl<'a> Place<'a> {
    fn terminal(self) -> &'a str {
        match self {
            Self::Downstream(terminal) => terminal,
            Self::Upstream => "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        }
    }

    fn factories(self) -> impl Iterator<Item = &'static &'static dyn HttpFilterFactory> {
        FACTORIES.iter().filter(move |factory| {
            matches!(self, Self::Downstream(_)) || factory.supports_upstream()
        })
    }
}

impl fmt::Debug for ChainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|entry| &entry.name))
            .finish()
    }
}

enum Converted {
    Entry(Entry),
    Terminal(TypedConfig),
}
