//! `lb_subset_config`, old and typed, becomes settings.

use std::collections::BTreeSet;

use outrigger_proto::pb::envoy::config::cluster::v3::cluster as legacy;
use outrigger_proto::pb::envoy::config::cluster::v3::cluster::lb_subset_config as legacy_subset;
use outrigger_proto::pb::envoy::extensions::load_balancing_policies::subset::v3 as pb;
use outrigger_proto::pb::google::protobuf::Struct;

use super::metadata_match::{Criteria, over};
use crate::config::{ConfigPath, Rejected, json_object};

/// How the hosts of a cluster fall into subsets, and who takes requests that belong to none.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSettings {
    pub(super) fallback: Fallback,
    /// What hosts of the default subset have.
    pub(super) default_subset: Criteria,
    pub(super) selectors: Box<[Selector]>,
    /// Whether the weights of localities count within a subset.
    pub(super) locality_weight_aware: bool,
    /// Whether a locality that has few hosts in a subset counts less there.
    pub(super) scale_locality_weight: bool,
    /// Whether all hosts take what the fallback cannot take.
    pub(super) panic_mode_any: bool,
    /// Whether each value of a list counts on its own.
    pub(super) list_as_any: bool,
    /// Whether `fallback_list` of the request says what is tried in turn.
    pub(super) fallback_list: bool,
    /// Whether a request may name more keys than a selector has.
    pub(super) allow_redundant_keys: bool,
}

/// `fallback_policy` of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    Nobody,
    AnyEndpoint,
    DefaultSubset,
}

/// Each combination of values of its keys makes a subset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) keys: BTreeSet<Box<str>>,
    pub(super) fallback: SelectorFallback,
    /// Only the first host of a subset takes part, well or not.
    pub(super) single_host: bool,
}

/// `fallback_policy` of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SelectorFallback {
    /// That of the cluster.
    NotDefined,
    Nobody,
    AnyEndpoint,
    DefaultSubset,
    /// Another selector, with these keys of the request alone.
    Keys(BTreeSet<Box<str>>),
}

impl SubsetSettings {
    /// None where there are no selectors: then there are no subsets.
    pub(super) fn from_legacy(
        proto: legacy::LbSubsetConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let legacy::LbSubsetConfig {
            fallback_policy,
            default_subset,
            subset_selectors,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
        } = proto;
        let selectors = path.each("subset_selectors", subset_selectors, |selector, path| {
            let legacy_subset::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector;
            let fields = (keys, fallback_policy, fallback_keys_subset);
            Selector::new(fields, single_host_per_subset, path)
        });
        let fallbacks = fallbacks(fallback_policy, metadata_fallback_policy, path);
        let (selectors, (fallback, fallback_list)) = (selectors?, fallbacks?);
        Ok((!selectors.is_empty()).then(|| Self {
            fallback,
            default_subset: subset(default_subset),
            selectors: selectors.into(),
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            fallback_list,
            allow_redundant_keys: false,
        }))
    }

    /// All but `subset_lb_policy`, which is the caller's.
    pub(super) fn from_proto(proto: pb::Subset, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Subset {
            fallback_policy,
            default_subset,
            subset_selectors,
            allow_redundant_keys,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
            subset_lb_policy: _,
        } = proto;
        let selectors = path.each("subset_selectors", subset_selectors, |selector, path| {
            let pb::subset::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector;
            let fields = (keys, fallback_policy, fallback_keys_subset);
            Selector::new(fields, single_host_per_subset, path)
        });
        let fallbacks = fallbacks(fallback_policy, metadata_fallback_policy, path);
        let (selectors, (fallback, fallback_list)) = (selectors?, fallbacks?);
        Ok(Self {
            fallback,
            default_subset: subset(default_subset),
            selectors: selectors.into(),
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            fallback_list,
            allow_redundant_keys,
        })
    }
}

/// The enumerations of the old and the typed configuration have the same numbers.
fn fallbacks(
    policy: i32,
    metadata_policy: i32,
    path: &ConfigPath<'_>,
) -> Result<(Fallback, bool), Rejected> {
    use legacy_subset::{LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy};
    let policy = path.enumeration("fallback_policy", policy);
    let metadata = path
        .enumeration::<LbSubsetMetadataFallbackPolicy>("metadata_fallback_policy", metadata_policy);
    let fallback = match policy? {
        LbSubsetFallbackPolicy::NoFallback => Fallback::Nobody,
        LbSubsetFallbackPolicy::AnyEndpoint => Fallback::AnyEndpoint,
        LbSubsetFallbackPolicy::DefaultSubset => Fallback::DefaultSubset,
    };
    let listed = metadata? == LbSubsetMetadataFallbackPolicy::FallbackList;
    Ok((fallback, listed))
}

fn subset(proto: Option<Struct>) -> Criteria {
    let values = proto.map(json_object).unwrap_or_default();
    over(std::iter::empty(), &values)
}

impl Selector {
    fn new(
        (keys, policy, fallback_keys): (Vec<String>, i32, Vec<String>),
        single_host: bool,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use legacy_subset::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
        let policy: Policy = path.enumeration("fallback_policy", policy)?;
        let set = |keys: Vec<String>| -> BTreeSet<Box<str>> {
            keys.into_iter().map(String::into_boxed_str).collect()
        };
        let (keys, fallback_keys) = (set(keys), set(fallback_keys));
        let wrong = |text: &str| path.field("fallback_keys_subset").reject(text);
        let fallback = match policy {
            Policy::KeysSubset if fallback_keys.is_empty() => {
                return Err(wrong("cannot be empty with KEYS_SUBSET"));
            }
            Policy::KeysSubset if !fallback_keys.is_subset(&keys) => {
                return Err(wrong("must be a subset of keys"));
            }
            Policy::KeysSubset if fallback_keys == keys => {
                return Err(wrong("cannot be equal to keys"));
            }
            Policy::KeysSubset => SelectorFallback::Keys(fallback_keys),
            _ if !fallback_keys.is_empty() => {
                return Err(wrong("can be set only with KEYS_SUBSET"));
            }
            Policy::NotDefined => SelectorFallback::NotDefined,
            Policy::NoFallback => SelectorFallback::Nobody,
            Policy::AnyEndpoint => SelectorFallback::AnyEndpoint,
            Policy::DefaultSubset => SelectorFallback::DefaultSubset,
        };
        Ok(Self {
            keys,
            fallback,
            single_host,
        })
    }
}
