//! Generic matchers: `xds.type.matcher.v3.Matcher`, a list of predicates or a map, nested at will, with actions at its ends.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/matching/matching_api>
//!
//! Type URLs of inputs: `envoy.type.matcher.v3.{HttpRequestHeaderMatchInput,HttpRequestQueryParamMatchInput,
//! HttpResponseHeaderMatchInput,HttpResponseStatusCodeMatchInput,HttpResponseStatusCodeClassMatchInput}` and, of
//! `envoy.extensions.matching.common_inputs.network.v3`, `{SourceIPInput,SourcePortInput,DirectSourceIPInput,SourceTypeInput,
//! DestinationIPInput,DestinationPortInput,ServerNameInput,TransportProtocolInput,ApplicationProtocolInput,FilterStateInput,
//! DynamicMetadataInput}`, and `envoy.extensions.matching.common_inputs.ssl.v3.{UriSanInput,DnsSanInput,SubjectInput}`.
//! Type URLs of matchers: `envoy.extensions.matching.input_matchers.{ip,metadata,runtime_fraction}.v3`, and
//! `xds.type.matcher.v3.CelMatcher` with its input `HttpAttributesCelMatchInput`.
//!
//! Deviations: consistent hashing and maps by address or domain (`custom_match` of a tree) are refused.

mod condition;
mod input;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use outrigger_proto::pb::xds::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::xds::r#type::matcher::v3 as pb;
use pb::matcher::matcher_list::{FieldMatcher, Predicate as PbPredicate, predicate};
use pb::matcher::matcher_tree::{MatchMap, TreeType};
use pb::matcher::{MatcherList, MatcherTree, MatcherType, OnMatch as PbOnMatch, on_match};

pub use input::{DataInput, MatchingData};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::FactoryContext;
use condition::Condition;
use input::Input;

/// A matcher with actions of the type `A`.
#[derive(Debug)]
pub struct Matcher<A> {
    kind: Kind<A>,
    on_no_match: Option<OnMatch<A>>,
}

#[derive(Debug)]
enum Kind<A> {
    /// Nothing: only `on_no_match` counts.
    Nothing,
    /// The first whose predicate holds.
    List(Box<[(Predicate, OnMatch<A>)]>),
    /// The entry that is the input.
    Exact(Input, HashMap<Box<[u8]>, OnMatch<A>>),
    /// The longest entry that the input begins with.
    Prefix(Input, BTreeMap<Box<[u8]>, OnMatch<A>>),
}

#[derive(Debug)]
struct OnMatch<A> {
    then: Then<A>,
    /// The action is left out, and the search goes on.
    keep_matching: bool,
}

#[derive(Debug)]
enum Then<A> {
    Action(A),
    Matcher(Box<Matcher<A>>),
}

#[derive(Debug)]
enum Predicate {
    Single(Input, Condition),
    All(Box<[Predicate]>),
    Any(Box<[Predicate]>),
    Not(Box<Predicate>),
}

/// How deep matchers and predicates may nest.
const DEPTH: usize = 32;

/// Converts the actions of a matcher.
type MakeAction<'a, A> = &'a mut dyn FnMut(TypedConfig, &ConfigPath<'_>) -> Result<A, Rejected>;

impl<A> Matcher<A> {
    /// Converts a `Matcher`, its actions by `action`.
    pub fn from_proto(
        proto: pb::Matcher,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
        mut action: impl FnMut(TypedConfig, &ConfigPath<'_>) -> Result<A, Rejected>,
    ) -> Result<Self, Rejected> {
        Self::convert(proto, cx, path, &mut action, 0)
    }

    /// Whether a request or a response is looked at somewhere.
    pub fn needs_request(&self) -> bool {
        let of_matches = match &self.kind {
            Kind::Nothing => false,
            Kind::List(entries) => entries
                .iter()
                .any(|(predicate, on_match)| predicate.needs_request() || on_match.needs_request()),
            Kind::Exact(input, map) => {
                input.needs_request() || map.values().any(OnMatch::needs_request)
            }
            Kind::Prefix(input, map) => {
                input.needs_request() || map.values().any(OnMatch::needs_request)
            }
        };
        of_matches
            || self
                .on_no_match
                .as_ref()
                .is_some_and(OnMatch::needs_request)
    }

    /// The action that `data` leads to.
    pub fn find(&self, data: &MatchingData<'_>) -> Option<&A> {
        let found = match &self.kind {
            Kind::Nothing => None,
            Kind::List(entries) => entries
                .iter()
                .filter(|(predicate, _)| predicate.holds(data))
                .find_map(|(_, on_match)| on_match.find(data)),
            Kind::Exact(input, map) => input
                .text(data)
                .and_then(|text| map.get(&*text)?.find(data)),
            Kind::Prefix(input, map) => input.text(data).and_then(|text| {
                let mut prefixes = (0..=text.len())
                    .rev()
                    .filter_map(|end| map.get(&text[..end]));
                prefixes.find_map(|on_match| on_match.find(data))
            }),
        };
        found.or_else(|| self.on_no_match.as_ref()?.find(data))
    }

    fn convert(
        proto: pb::Matcher,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
        action: MakeAction<'_, A>,
        depth: usize,
    ) -> Result<Self, Rejected> {
        if depth > DEPTH {
            return Err(path.reject(format!("nests more than {DEPTH} times")));
        }
        let pb::Matcher {
            on_no_match,
            matcher_type,
        } = proto;
        let kind = match matcher_type {
            None => Ok(Kind::Nothing),
            Some(MatcherType::MatcherList(MatcherList { matchers })) => {
                let path = path.field("matcher_list");
                let entries = path.each("matchers", matchers, |entry, path| {
                    let FieldMatcher {
                        predicate,
                        on_match,
                    } = entry;
                    let predicate = path
                        .required("predicate", predicate)
                        .and_then(|p| Predicate::convert(p, cx, &path.field("predicate"), depth));
                    let on_match = path.required("on_match", on_match).and_then(|on_match| {
                        OnMatch::convert(on_match, cx, &path.field("on_match"), action, depth)
                    });
                    Ok((predicate?, on_match?))
                });
                entries.map(|entries| Kind::List(entries.into()))
            }
            Some(MatcherType::MatcherTree(tree)) => {
                Self::tree(tree, cx, &path.field("matcher_tree"), action, depth)
            }
        };
        let on_no_match = on_no_match.map(|on_match| {
            OnMatch::convert(*on_match, cx, &path.field("on_no_match"), action, depth)
        });
        Ok(Self {
            kind: kind?,
            on_no_match: on_no_match.transpose()?,
        })
    }

    fn tree(
        proto: MatcherTree,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
        action: MakeAction<'_, A>,
        depth: usize,
    ) -> Result<Kind<A>, Rejected> {
        let MatcherTree { input, tree_type } = proto;
        let input = path
            .required("input", input)
            .and_then(|input| Input::from_proto(input, &path.field("input")));
        let mut entries = |MatchMap { map }: MatchMap, name: &str| {
            let mut map: Vec<_> = map.into_iter().collect();
            map.sort_by(|(a, _), (b, _)| a.cmp(b));
            if map.is_empty() {
                let _ = path.field(name).field("map").reject("must not be empty");
            }
            let entries = map.into_iter().map(|(key, on_match)| {
                let path = path.field(name);
                let on_match =
                    OnMatch::convert(on_match, cx, &path.key("map", &key), action, depth);
                Ok((Box::from(key.into_bytes()), on_match?))
            });
            entries.collect::<Vec<Result<_, Rejected>>>()
        };
        match tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                let entries: Result<_, _> = entries(map, "exact_match_map").into_iter().collect();
                Ok(Kind::Exact(input?, entries?))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let entries: Result<_, _> = entries(map, "prefix_match_map").into_iter().collect();
                Ok(Kind::Prefix(input?, entries?))
            }
            Some(TreeType::CustomMatch(_)) => Err(path
                .field("custom_match")
                .reject("is not supported; supported are exact_match_map and prefix_match_map")),
            None => {
                Err(path.reject("needs one of exact_match_map, prefix_match_map, custom_match"))
            }
        }
    }
}

impl<A> OnMatch<A> {
    fn convert(
        proto: PbOnMatch,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
        action: MakeAction<'_, A>,
        depth: usize,
    ) -> Result<Self, Rejected> {
        let PbOnMatch {
            keep_matching,
            on_match,
        } = proto;
        let then = match on_match {
            Some(on_match::OnMatch::Matcher(matcher)) => {
                Matcher::convert(*matcher, cx, &path.field("matcher"), action, depth + 1)
                    .map(|matcher| Then::Matcher(Box::new(matcher)))
            }
            Some(on_match::OnMatch::Action(config)) => {
                let path = path.field("action");
                extension(config, &path)
                    .and_then(|config| action(config, &path.field("typed_config")))
                    .map(Then::Action)
            }
            None => Err(path.reject("needs one of matcher, action")),
        };
        Ok(Self {
            then: then?,
            keep_matching,
        })
    }

    fn needs_request(&self) -> bool {
        match &self.then {
            Then::Action(_) => false,
            Then::Matcher(matcher) => matcher.needs_request(),
        }
    }

    fn find(&self, data: &MatchingData<'_>) -> Option<&A> {
        let found = match &self.then {
            Then::Action(action) => Some(action),
            Then::Matcher(matcher) => matcher.find(data),
        };
        found.filter(|_| !self.keep_matching)
    }
}

impl Predicate {
    fn convert(
        proto: PbPredicate,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
        depth: usize,
    ) -> Result<Self, Rejected> {
        if depth > DEPTH {
            return Err(path.reject(format!("nests more than {DEPTH} times")));
        }
        let list = |field: &str, list: predicate::PredicateList| {
            let path = path.field(field);
            if list.predicate.len() < 2 {
                return Err(path.field("predicate").reject("needs two entries at least"));
            }
            let each =
                |predicate, path: &ConfigPath<'_>| Self::convert(predicate, cx, path, depth + 1);
            path.each("predicate", list.predicate, each).map(Box::from)
        };
        match proto.match_type {
            Some(predicate::MatchType::SinglePredicate(single)) => {
                let path = path.field("single_predicate");
                let predicate::SinglePredicate { input, matcher } = single;
                let input = path
                    .required("input", input)
                    .and_then(|input| Input::from_proto(input, &path.field("input")));
                let condition = Condition::from_proto(matcher, cx, &path);
                Ok(Self::Single(input?, condition?))
            }
            Some(predicate::MatchType::OrMatcher(or)) => list("or_matcher", or).map(Self::Any),
            Some(predicate::MatchType::AndMatcher(and)) => list("and_matcher", and).map(Self::All),
            Some(predicate::MatchType::NotMatcher(not)) => {
                Self::convert(*not, cx, &path.field("not_matcher"), depth + 1)
                    .map(|not| Self::Not(Box::new(not)))
            }
            None => {
                Err(path
                    .reject("needs one of single_predicate, or_matcher, and_matcher, not_matcher"))
            }
        }
    }

    fn needs_request(&self) -> bool {
        match self {
            Self::Single(input, _) => input.needs_request(),
            Self::All(predicates) | Self::Any(predicates) => {
                predicates.iter().any(Self::needs_request)
            }
            Self::Not(predicate) => predicate.needs_request(),
        }
    }

    fn holds(&self, data: &MatchingData<'_>) -> bool {
        match self {
            Self::Single(input, condition) => condition.holds(input, data),
            Self::All(predicates) => predicates.iter().all(|p| p.holds(data)),
            Self::Any(predicates) => predicates.iter().any(|p| p.holds(data)),
            Self::Not(predicate) => !predicate.holds(data),
        }
    }
}

/// The configuration of an extension of a matcher; its name is a label.
fn extension(proto: TypedExtensionConfig, path: &ConfigPath<'_>) -> Result<TypedConfig, Rejected> {
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = proto;
    TypedConfig::required("typed_config", typed_config, path)
}
