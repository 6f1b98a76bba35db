//! `metadata_match`: what a route asks of the metadata of hosts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outrigger_proto::pb::envoy::config::core::v3::Metadata;
use serde_json::{Map, Number, Value};

use crate::matchers::metadata_from_proto;

/// Names and values below `envoy.lb` that the metadata of a host must have. Sorted by name; a name comes once.
#[derive(Debug)]
pub struct MetadataMatch {
    /// Never the same for two of them, so that load balancers can remember what they found for one; 0: not worth it.
    pub(super) id: u64,
    pub(super) criteria: Criteria,
}

/// Names and values, sorted by name.
pub(super) type Criteria = Box<[(Box<str>, Value)]>;

/// The namespace of metadata that load balancers read.
pub const LB_NAMESPACE: &str = "envoy.lb";

impl MetadataMatch {
    /// Converts `metadata_match`, over what a `parent` asks for already. None if it says nothing about `envoy.lb`.
    pub fn from_proto(proto: Option<Metadata>, parent: Option<&Self>) -> Option<Self> {
        let metadata = metadata_from_proto(proto?);
        let values = metadata.get(LB_NAMESPACE)?;
        Some(Self {
            id: next_id(),
            criteria: merged(parent, values),
        })
    }

    /// For one request: what its metadata say counts more than what its route says.
    pub fn for_request(values: &Map<String, Value>, route: Option<&Self>) -> Self {
        Self {
            id: 0,
            criteria: merged(route, values),
        }
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn merged(parent: Option<&MetadataMatch>, values: &Map<String, Value>) -> Criteria {
    let parents = parent.map_or(&[][..], |parent| &parent.criteria);
    over(parents.iter().map(|(name, value)| (&**name, value)), values)
}

/// `values` over `below`, sorted.
pub(super) fn over<'a>(
    below: impl Iterator<Item = (&'a str, &'a Value)>,
    values: &'a Map<String, Value>,
) -> Criteria {
    let own = values.iter().map(|(name, value)| (name.as_str(), value));
    let kept = below.filter(|(name, _)| !values.contains_key(*name));
    let mut all: Vec<_> = kept
        .chain(own)
        .map(|(name, value)| (name.into(), canonical(value)))
        .collect();
    all.sort_by(|(a, _): &(Box<str>, Value), (b, _)| a.cmp(b));
    all.into()
}

/// The value with every number as a double, which is what numbers of metadata are.
pub(super) fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) => number
            .as_f64()
            .and_then(Number::from_f64)
            .map_or(Value::Null, Value::Number),
        Value::Array(values) => values.iter().map(canonical).collect(),
        Value::Object(values) => values
            .iter()
            .map(|(name, value)| (name.clone(), canonical(value)))
            .collect(),
        other => other.clone(),
    }
}
