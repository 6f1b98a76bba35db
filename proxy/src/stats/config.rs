//! `envoy.config.metrics.v3.StatsConfig`.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/metrics/v3/stats.proto>

use outrigger_proto::pb::envoy::config::metrics::v3 as pb;

use super::matcher::StatsMatcher;
use super::tags::{TagExtractor, TagProducer};
use crate::config::{ConfigPath, Rejected};
use crate::matchers::StringMatcher;

/// Upper bounds of the buckets in which histograms are shown, unless a rule says otherwise.
const DEFAULT_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// How stats are tagged, which exist, and how histograms are shown. The default is Envoy's: every stat, all default tags.
#[derive(Debug, Clone, Default)]
pub struct StatsConfig {
    /// What tells tags from the rest of a name.
    pub(super) tags: TagProducer,
    pub(super) matcher: StatsMatcher,
    buckets: Vec<HistogramBuckets>,
}

#[derive(Debug, Clone)]
struct HistogramBuckets {
    matcher: StringMatcher,
    /// Sorted.
    bounds: Box<[f64]>,
}

impl StatsConfig {
    /// Converts the bootstrap's `stats_config`.
    pub fn from_proto(proto: pb::StatsConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::StatsConfig {
            stats_tags,
            use_all_default_tags,
            stats_matcher,
            histogram_bucket_settings,
            allow_default_tag_overrides,
        } = proto;
        let tags = tags_from_proto(
            stats_tags,
            use_all_default_tags.is_none_or(|v| v.value),
            allow_default_tag_overrides.is_some_and(|v| v.value),
            path,
        );
        let matcher = path.optional("stats_matcher", stats_matcher, StatsMatcher::from_proto);
        let buckets = path.each(
            "histogram_bucket_settings",
            histogram_bucket_settings,
            HistogramBuckets::from_proto,
        );
        Ok(Self {
            tags: tags?,
            matcher: matcher?.unwrap_or_default(),
            buckets: buckets?,
        })
    }

    /// The upper bounds in which the histogram `name` is shown, rising.
    pub fn histogram_buckets(&self, name: &str) -> &[f64] {
        let mut rules = self.buckets.iter();
        rules
            .find(|rule| rule.matcher.matches(name.as_bytes()))
            .map_or(&DEFAULT_BUCKETS, |rule| &rule.bounds)
    }
}

impl HistogramBuckets {
    fn from_proto(
        proto: pb::HistogramBucketSettings,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        // `bins` sizes a table of Envoy's histograms beforehand; ours grow by themselves.
        let pb::HistogramBucketSettings {
            r#match,
            buckets,
            bins: _,
        } = proto;
        let matcher = path
            .required("match", r#match)
            .and_then(|matcher| StringMatcher::from_proto(matcher, &path.field("match")));
        let mut bounds = path.each("buckets", buckets, |bound, path| {
            if bound > 0.0 && bound.is_finite() {
                Ok(bound)
            } else {
                Err(path.reject(format!("{bound} is not greater than 0")))
            }
        })?;
        bounds.sort_by(f64::total_cmp);
        if bounds.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(path.field("buckets").reject("holds a bound twice"));
        }
        Ok(Self {
            matcher: matcher?,
            bounds: if bounds.is_empty() {
                DEFAULT_BUCKETS.into()
            } else {
                bounds.into()
            },
        })
    }
}

fn tags_from_proto(
    specifiers: Vec<pb::TagSpecifier>,
    use_defaults: bool,
    override_defaults: bool,
    path: &ConfigPath<'_>,
) -> Result<TagProducer, Rejected> {
    use pb::tag_specifier::TagValue;
    let mut fixed = Vec::new();
    let mut custom = Vec::new();
    path.each("stats_tags", specifiers, |specifier, path| {
        let pb::TagSpecifier {
            tag_name,
            tag_value,
        } = specifier;
        match tag_value {
            Some(TagValue::FixedValue(value)) => {
                fixed.push((tag_name.into(), value.into()));
            }
            Some(TagValue::Regex(regex)) if !regex.is_empty() => {
                let extractor = TagExtractor::custom(&tag_name, &regex).map_err(|error| {
                    path.field("regex")
                        .reject(format!("\"{regex}\" cannot extract tags: {error}"))
                })?;
                custom.push(extractor);
            }
            Some(TagValue::Regex(_)) | None => {
                let before = custom.len();
                custom.extend(TagExtractor::defaults().filter(|e| e.tag_name() == tag_name));
                if custom.len() == before {
                    return Err(path.reject(format!(
                        "has neither regex nor fixed_value, and \"{tag_name}\" is no default tag"
                    )));
                }
            }
        }
        Ok(())
    })?;
    let overridden = |default: &TagExtractor| {
        override_defaults && custom.iter().any(|c| c.tag_name() == default.tag_name())
    };
    let defaults: Vec<_> = TagExtractor::defaults()
        .filter(|default| use_defaults && !overridden(default))
        .collect();
    Ok(TagProducer::new(
        fixed,
        defaults.into_iter().chain(custom).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::r#type::matcher::v3::{
        ListStringMatcher, RegexMatcher, StringMatcher as PbMatcher, string_matcher::MatchPattern,
    };
    use outrigger_proto::pb::google::protobuf::BoolValue;

    use super::super::Store;
    use super::*;
    use crate::config::ConfigReport;

    fn convert(proto: pb::StatsConfig) -> Result<StatsConfig, Vec<String>> {
        let report = ConfigReport::new();
        StatsConfig::from_proto(proto, &ConfigPath::root(&report, "stats_config"))
            .map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    fn matcher(pattern: MatchPattern) -> PbMatcher {
        PbMatcher {
            ignore_case: false,
            match_pattern: Some(pattern),
        }
    }

    fn tag(name: &str, regex: &str) -> pb::TagSpecifier {
        pb::TagSpecifier {
            tag_name: name.into(),
            tag_value: Some(pb::tag_specifier::TagValue::Regex(regex.into())),
        }
    }

    fn tags_of(config: &StatsConfig, name: &str) -> (String, Vec<(String, String)>) {
        let extracted = config.tags.extract(name);
        let tags = extracted.tags.iter();
        (
            extracted.name.clone(),
            tags.map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        )
    }

    fn store_with(list: fn(ListStringMatcher) -> pb::stats_matcher::StatsMatcher) -> Store {
        let patterns = vec![
            matcher(MatchPattern::Prefix("keep.".into())),
            matcher(MatchPattern::Suffix(".hits".into())),
        ];
        let config = convert(pb::StatsConfig {
            stats_matcher: Some(pb::StatsMatcher {
                stats_matcher: Some(list(ListStringMatcher { patterns })),
            }),
            ..Default::default()
        });
        let store = Store::new(0);
        store.configure(config.unwrap());
        store
    }

    crate::stats_group! {
        struct Example { counter hits; counter misses; histogram ms (Milliseconds); }
    }

    #[test]
    fn an_inclusion_list_keeps_other_stats_from_existing() {
        let store = store_with(pb::stats_matcher::StatsMatcher::InclusionList);
        let partly = Example::new(&store.scope("x."));
        partly.hits().inc();
        partly.ms().record(1);
        let wholly = Example::new(&store.scope("keep."));
        wholly.misses().inc();
        wholly.ms().record(1);
        let dropped = store.scope("y.").counter("misses");
        dropped.inc();
        assert_eq!(partly.hits().value(), 1);
        assert_eq!(partly.ms().snapshot().count(), 0);
        assert_eq!(wholly.misses().value(), 1);
        assert_eq!(wholly.ms().snapshot().count(), 1);
        assert_eq!(dropped.value(), 0);
    }

    #[test]
    fn an_exclusion_list_drops_what_it_matches() {
        let store = store_with(pb::stats_matcher::StatsMatcher::ExclusionList);
        let partly = Example::new(&store.scope("x."));
        let existing: Vec<_> = store.groups();
        assert_eq!(
            (0..3).map(|i| existing[0].exists(i)).collect::<Vec<_>>(),
            [false, true, true]
        );
        partly.misses().inc();
        assert_eq!(partly.misses().value(), 1);
        let wholly = Example::new(&store.scope("keep."));
        wholly.misses().inc();
        assert_eq!(wholly.misses().value(), 0);
    }

    #[test]
    fn the_tags_that_istio_sends_are_extracted() {
        let config = convert(pb::StatsConfig {
            use_all_default_tags: Some(BoolValue { value: false }),
            stats_tags: vec![
                tag(
                    "cluster_name",
                    r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)",
                ),
                tag("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
                tag("response_code", r"(response_code=\.=(.+?);\.;)|_rq(_(\.d{3}))$"),
                tag(
                    "http_conn_manager_listener_prefix",
                    r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
                ),
                tag(
                    "listener_address",
                    r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
                ),
            ],
            ..Default::default()
        })
        .unwrap();
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = pairs.iter();
            owned.map(|(n, v)| ((*n).into(), (*v).into())).collect()
        };
        assert_eq!(
            tags_of(&config, "cluster.a.ns.svc.cluster.local.upstream_rq_total"),
            (
                "cluster.upstream_rq_total".into(),
                pairs(&[("cluster_name", "a.ns.svc.cluster.local")])
            )
        );
        assert_eq!(
            tags_of(
                &config,
                "listener.0.0.0.0_80.http.0.0.0.0_80.downstream_rq_2xx"
            ),
            (
                "listener.http.downstream_rq_2xx".into(),
                pairs(&[
                    ("http_conn_manager_listener_prefix", "0.0.0.0_80"),
                    ("listener_address", "0.0.0.0_80")
                ])
            )
        );
        assert_eq!(
            tags_of(&config, "x.response_code=.=200;.;y"),
            ("x.y".into(), pairs(&[("response_code", "200")]))
        );
    }

    #[test]
    fn of_two_tags_with_one_name_the_default_wins_unless_overrides_are_allowed() {
        let config = |overrides| {
            convert(pb::StatsConfig {
                stats_tags: vec![tag("envoy.cluster_name", r"^cluster\.((.+)\.)upstream")],
                allow_default_tag_overrides: Some(BoolValue { value: overrides }),
                ..Default::default()
            })
            .unwrap()
        };
        let value = |config: &StatsConfig| tags_of(config, "cluster.a.b.upstream_x").1[0].1.clone();
        assert_eq!(value(&config(false)), "a");
        assert_eq!(value(&config(true)), "a.b");
    }

    #[test]
    fn every_error_of_a_stats_config_is_found() {
        let errors = convert(pb::StatsConfig {
            stats_tags: vec![
                tag("a", "("),
                tag("nope", ""),
                tag("b", "(?<=x)(y)"),
                tag("c", "no_group"),
            ],
            stats_matcher: Some(pb::StatsMatcher {
                stats_matcher: None,
            }),
            histogram_bucket_settings: vec![pb::HistogramBucketSettings {
                r#match: Some(matcher(MatchPattern::SafeRegex(RegexMatcher {
                    regex: "[".into(),
                    engine_type: None,
                }))),
                buckets: vec![-1.0],
                bins: None,
            }],
            ..Default::default()
        })
        .unwrap_err();
        let paths: Vec<_> = errors
            .iter()
            .map(|e| e.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "stats_config / stats_tags[0] / regex",
                "stats_config / stats_tags[1]",
                "stats_config / stats_tags[2] / regex",
                "stats_config / stats_tags[3] / regex",
                "stats_config / stats_matcher",
                "stats_config / histogram_bucket_settings[0] / match / safe_regex / regex",
                "stats_config / histogram_bucket_settings[0] / buckets[0]",
            ]
        );
    }

    #[test]
    fn the_first_rule_that_matches_sets_the_buckets() {
        let config = convert(pb::StatsConfig {
            histogram_bucket_settings: vec![pb::HistogramBucketSettings {
                r#match: Some(matcher(MatchPattern::Suffix("_ms".into()))),
                buckets: vec![10.0, 1.0],
                bins: None,
            }],
            ..Default::default()
        })
        .unwrap();
        assert_eq!(config.histogram_buckets("x_ms"), [1.0, 10.0]);
        assert_eq!(config.histogram_buckets("x").len(), 19);
    }
}
