//! The pages that show stats: text, JSON, HTML and Prometheus' text format.

pub mod html;
mod json;
mod prometheus;
mod text;

use std::cmp::Ordering;
use std::sync::Arc;

use super::group::{Flushed, Group, Kind, Unit};
use super::{Store, number};
use crate::matchers::Regex;

/// What to show, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Only stats that were ever written.
    pub used_only: bool,
    /// Only names that match somewhere.
    pub filter: Option<Regex>,
    /// Only names that do *not* match `filter`.
    pub invert_filter: bool,
    /// Which kinds of stats.
    pub types: Types,
    /// As what.
    pub format: Format,
    /// How to show histograms.
    pub buckets: Option<BucketMode>,
    /// Shows texts to Prometheus, as gauges with the value 0.
    pub text_readouts: bool,
}

/// Which kinds of stats to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is what it is called after")]
pub enum Types {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    TextReadouts,
}

/// The form of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is what it is called after")]
pub enum Format {
    #[default]
    Text,
    Json,
    Html,
    Prometheus,
}

/// How to show histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketMode {
    /// By quantiles.
    Summary,
    /// How many values lie below each bound.
    Cumulative,
    /// How many values lie between each bound and the one before.
    Disjoint,
    /// Every bucket that was recorded, and the quantiles.
    Detailed,
}

/// A page of stats. The error says why the request makes no sense.
pub fn render(store: &Store, request: &Request) -> Result<String, &'static str> {
    match request.format {
        Format::Text => Ok(text::render(store, request)),
        Format::Json => Ok(json::render(store, request)),
        Format::Html => Ok(html::render(store, request)),
        Format::Prometheus => prometheus::render(store, request),
    }
}

/// The stats that a request asks for, sorted by name; those that several groups hold under one name as one.
struct Selection {
    groups: Vec<Arc<Group>>,
    /// Sorted by name.
    stats: Vec<StatRef>,
    texts: Vec<(Arc<str>, String)>,
}

/// One stat, small: there may be a million of them.
#[derive(Clone, Copy)]
struct StatRef {
    group: u32,
    index: u16,
}

/// A stat as it is shown.
struct Stat<'a> {
    name: String,
    /// All groups that hold it: nearly always one.
    sources: &'a [StatRef],
    kind: Kind,
}

/// Quantiles that are shown, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];
/// The same as shares of all values.
const SHARES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];
/// `Unit::Percent` counts in parts of this.
const PERCENT_SCALE: f64 = 1_000_000.0;

impl Selection {
    fn new(store: &Store, request: &Request) -> Self {
        let groups = store.groups();
        let mut stats = Vec::new();
        let mut name = String::new();
        for (at, group) in groups.iter().enumerate() {
            for index in 0..group.len() {
                let (last, kind) = group.stat(index);
                if !request.types.contain(kind) || !group.exists(index) {
                    continue;
                }
                if request.used_only && !is_used(group, index, kind) {
                    continue;
                }
                if request.filter.is_some() {
                    name.clear();
                    name.push_str(group.prefix());
                    name.push_str(last);
                    if !request.names(&name) {
                        continue;
                    }
                }
                // Four billion groups do not fit into memory, and no group declares 65,536 stats.
                if let (Ok(group), Ok(index)) = (u32::try_from(at), u16::try_from(index)) {
                    stats.push(StatRef { group, index });
                }
            }
        }
        stats.sort_unstable_by(|a, b| compare(&groups, *a, *b));
        let mut texts = Vec::new();
        if matches!(request.types, Types::All | Types::TextReadouts) {
            texts = store.texts();
            texts.retain(|(name, text)| {
                request.names(name) && !(request.used_only && text.is_empty())
            });
            texts.sort_unstable();
        }
        Self {
            groups,
            stats,
            texts,
        }
    }

    /// Every stat of the kinds that `wanted` admits, in order.
    fn stats(&self, wanted: impl Fn(Kind) -> bool) -> impl Iterator<Item = Stat<'_>> {
        self.stats
            .chunk_by(|a, b| compare(&self.groups, *a, *b) == Ordering::Equal)
            .filter_map(move |sources| {
                let (group, (last, kind)) = self.of(sources[0]);
                wanted(kind).then(|| Stat {
                    name: format!("{}{last}", group.prefix()),
                    sources,
                    kind,
                })
            })
    }

    fn of(&self, stat: StatRef) -> (&Group, (&'static str, Kind)) {
        let group = &self.groups[stat.group as usize];
        (group, group.stat(usize::from(stat.index)))
    }

    /// The value of a counter or a gauge.
    fn value(&self, stat: &Stat<'_>) -> u64 {
        let sources = stat.sources.iter();
        sources.fold(0, |sum: u64, source| {
            let group = &self.groups[source.group as usize];
            sum.wrapping_add(group.counter(usize::from(source.index)).value())
        })
    }

    /// A histogram as of the last flush.
    fn histogram(&self, stat: &Stat<'_>) -> Flushed {
        let sources = stat.sources.iter();
        let all = sources.filter_map(|source| {
            self.groups[source.group as usize].flushed(usize::from(source.index))
        });
        all.reduce(|mut sum, other| {
            sum.cumulative.merge(&other.cumulative);
            sum.interval.merge(&other.interval);
            sum
        })
        .unwrap_or_default()
    }
}

impl Request {
    fn names(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.is_partial_match(name.as_bytes()) != self.invert_filter)
    }
}

impl Types {
    fn contain(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Counters => kind == Kind::Counter,
            Self::Gauges => kind == Kind::Gauge,
            Self::Histograms => is_histogram(kind),
            Self::TextReadouts => false,
        }
    }
}

impl Stat<'_> {
    /// What to divide recorded values by.
    fn scale(&self) -> f64 {
        match self.kind {
            Kind::Histogram(Unit::Percent) => PERCENT_SCALE,
            _ => 1.0,
        }
    }
}

fn is_histogram(kind: Kind) -> bool {
    matches!(kind, Kind::Histogram(_))
}

/// A histogram is used once a flush has seen a value.
fn is_used(group: &Group, index: usize, kind: Kind) -> bool {
    match kind {
        Kind::Histogram(_) => group.flushed(index).is_some(),
        Kind::Counter | Kind::Gauge => group.counter(index).is_used(),
    }
}

/// By full name, without putting the names together.
fn compare(groups: &[Arc<Group>], a: StatRef, b: StatRef) -> Ordering {
    let name = |stat: StatRef| {
        let group = &groups[stat.group as usize];
        let (last, _) = group.stat(usize::from(stat.index));
        (group.prefix().as_bytes(), last.as_bytes())
    };
    let ((a_prefix, a_last), (b_prefix, b_last)) = (name(a), name(b));
    if a_prefix == b_prefix {
        return a_last.cmp(b_last);
    }
    let shared = a_prefix.len().min(b_prefix.len());
    a_prefix[..shared].cmp(&b_prefix[..shared]).then_with(|| {
        let a = a_prefix[shared..].iter().chain(a_last);
        a.cmp(b_prefix[shared..].iter().chain(b_last))
    })
}

/// The quantiles that are shown.
fn quantiles(data: &super::HistogramData, scale: f64) -> Vec<f64> {
    data.quantiles(&SHARES).map(|value| value / scale).collect()
}

/// How many values lie up to each bound, or between each bound and the one before.
fn counts(data: &super::HistogramData, bounds: &[f64], scale: f64, mode: BucketMode) -> Vec<u64> {
    let mut before = 0;
    let up_to = bounds.iter().map(|bound| data.count_up_to(bound * scale));
    up_to
        .map(|count| match mode {
            BucketMode::Disjoint => count - std::mem::replace(&mut before, count),
            _ => count,
        })
        .collect()
}

/// A text in JSON, with its quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::StatsConfig;

    crate::stats_group! {
        /// Some stats of a cluster.
        struct Cluster {
            counter upstream_rq_total;
            gauge upstream_cx_active;
            histogram upstream_rq_time (Milliseconds);
            histogram load (Percent);
        }
    }

    /// What Envoy was asked, too: its answers are in the tests below.
    fn sample() -> (Store, Vec<Box<dyn std::any::Any>>) {
        let store = Store::new(0);
        store.configure(StatsConfig::default());
        let scope = store.scope("cluster.self.");
        let cluster = Cluster::new(&scope);
        cluster.upstream_rq_total().add(3);
        cluster.upstream_cx_active().set(1);
        (0..21).for_each(|_| cluster.upstream_rq_time().record(1));
        scope.counter("upstream_rq_200").add(2);
        scope.counter("upstream_rq_503").add(1);
        let server = store.scope("server.");
        server.gauge("uptime").get().set(5);
        let text = server.text_readout("note");
        text.set("a \"b\"");
        (
            store,
            vec![
                Box::new(cluster),
                Box::new(scope),
                Box::new(server),
                Box::new(text),
            ],
        )
    }

    fn page(store: &Store, request: Request) -> String {
        render(store, &request).unwrap()
    }

    const P: &str = "P0(1.0045454545454546,1.0045454545454546) P25(1.0272727272727273,1.0272727272727273) \
        P50(1.05,1.05) P75(1.0727272727272728,1.0727272727272728) P90(1.0863636363636364,1.0863636363636364) \
        P95(1.0909090909090908,1.0909090909090908) P99(1.0954545454545455,1.0954545454545455) \
        P99.5(1.0954545454545455,1.0954545454545455) P99.9(1.0954545454545455,1.0954545454545455) \
        P100(1.0954545454545455,1.0954545454545455)";

    #[test]
    fn text_lists_texts_then_numbers_then_histograms_by_name() {
        let (store, _owners) = sample();
        store.flush();
        assert_eq!(
            page(&store, Request::default()),
            format!(
                "server.note: \"a \\\"b\\\"\"\n\
                 cluster.self.upstream_cx_active: 1\n\
                 cluster.self.upstream_rq_200: 2\n\
                 cluster.self.upstream_rq_503: 1\n\
                 cluster.self.upstream_rq_total: 3\n\
                 server.uptime: 5\n\
                 cluster.self.load: No recorded values\n\
                 cluster.self.upstream_rq_time: {P}\n"
            )
        );
    }

    #[test]
    fn an_interval_without_values_is_nan_and_without_flush_there_are_none() {
        let (store, _owners) = sample();
        let request = || Request {
            filter: Some(Regex::new("rq_time").unwrap()),
            ..Request::default()
        };
        let before = page(&store, request());
        assert_eq!(
            before,
            "cluster.self.upstream_rq_time: No recorded values\n"
        );
        store.flush();
        store.flush();
        assert!(page(&store, request()).contains(" P50(nan,1.05) "));
    }

    #[test]
    fn filters_choose_by_name_kind_and_use() {
        let (store, _owners) = sample();
        let names = |request: Request| {
            let page = page(&store, request);
            let names = page.lines().map(|line| line.split(": ").next().unwrap());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            names(Request {
                types: Types::Gauges,
                ..Request::default()
            }),
            ["cluster.self.upstream_cx_active", "server.uptime"]
        );
        assert_eq!(
            names(Request {
                filter: Some(Regex::new("cluster|note").unwrap()),
                invert_filter: true,
                ..Request::default()
            }),
            ["server.uptime"]
        );
        assert!(
            !names(Request {
                used_only: true,
                ..Request::default()
            })
            .contains(&"cluster.self.load".to_owned())
        );
    }

    #[test]
    fn text_shows_buckets_as_asked() {
        let (store, _owners) = sample();
        store.flush();
        let show = |buckets| {
            page(
                &store,
                Request {
                    filter: Some(Regex::new("rq_time").unwrap()),
                    buckets: Some(buckets),
                    ..Request::default()
                },
            )
        };
        assert!(show(BucketMode::Cumulative).starts_with(
            "cluster.self.upstream_rq_time: B0.5(0,0) B1(21,21) B5(21,21) B10(21,21) "
        ));
        assert!(show(BucketMode::Cumulative).ends_with(" B1.8e+06(21,21) B3.6e+06(21,21)\n"));
        assert!(
            show(BucketMode::Disjoint)
                .starts_with("cluster.self.upstream_rq_time: B0.5(0,0) B1(21,21) B5(0,0) ")
        );
        assert_eq!(
            show(BucketMode::Detailed),
            format!(
                "cluster.self.upstream_rq_time:\n  totals=1,0.1:21\n  intervals=1,0.1:21\n  summary={P}\n"
            )
        );
    }

    #[test]
    fn json_is_what_envoy_gives() {
        let (store, _owners) = sample();
        store.flush();
        let show = |filter: &str, buckets| {
            page(
                &store,
                Request {
                    filter: Some(Regex::new(filter).unwrap()),
                    format: Format::Json,
                    buckets,
                    ..Request::default()
                },
            )
        };
        assert_eq!(
            show("note|uptime", None),
            r#"{"stats":[{"name":"server.note","value":"a \"b\""},{"name":"server.uptime","value":5}]}"#
        );
        let summary = show("load", None);
        assert!(summary.starts_with(
            r#"{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"cluster.self.load","values":[{"cumulative":null,"interval":null},"#
        ));
        assert!(summary.ends_with("]}]}}]}"));
        assert!(show("rq_time", Some(BucketMode::Cumulative)).starts_with(
            r#"{"stats":[{"histograms":[{"name":"cluster.self.upstream_rq_time","buckets":[{"upper_bound":0.5,"interval":0,"cumulative":0},{"upper_bound":1,"interval":21,"cumulative":21},"#
        ));
        assert!(show("rq_time", Some(BucketMode::Detailed)).contains(
            r#""details":[{"name":"cluster.self.upstream_rq_time","totals":[{"lower_bound":1,"width":0.1,"count":21}],"intervals":[{"lower_bound":1,"width":0.1,"count":21}],"percentiles":[{"cumulative":1.0045454545454546,"interval":1.0045454545454546},"#
        ));
        for page in [show("x^", None), show("x^", Some(BucketMode::Disjoint))] {
            assert_eq!(page, r#"{"stats":[]}"#);
        }
        for buckets in [None, Some(BucketMode::Detailed), Some(BucketMode::Disjoint)] {
            serde_json::from_str::<serde_json::Value>(&show(".", buckets)).unwrap();
        }
    }

    #[test]
    fn prometheus_groups_by_the_name_without_tags() {
        let (store, _owners) = sample();
        store.flush();
        let show = |buckets, text_readouts| {
            page(
                &store,
                Request {
                    format: Format::Prometheus,
                    used_only: true,
                    buckets,
                    text_readouts,
                    ..Request::default()
                },
            )
        };
        let full = show(None, true);
        assert!(
            full.starts_with(
                r#"# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="self"} 2
envoy_cluster_upstream_rq{envoy_response_code="503",envoy_cluster_name="self"} 1
# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="self"} 3
# TYPE envoy_cluster_upstream_cx_active gauge
envoy_cluster_upstream_cx_active{envoy_cluster_name="self"} 1
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 5
# TYPE envoy_server_note gauge
envoy_server_note{text_value="a \"b\""} 0
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="self",le="0.5"} 0
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="self",le="1"} 21
"#
            ),
            "{full}"
        );
        assert!(full.ends_with(
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="self",le="3600000"} 21
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="self",le="+Inf"} 21
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="self"} 22
envoy_cluster_upstream_rq_time_count{envoy_cluster_name="self"} 21
"#
        ));
        assert!(!show(None, false).contains("note"));
        assert!(show(Some(BucketMode::Summary), false).contains(
            r#"# TYPE envoy_cluster_upstream_rq_time summary
envoy_cluster_upstream_rq_time{envoy_cluster_name="self",quantile="0"} 1.0045454545454546"#
        ));
        assert!(show(Some(BucketMode::Summary), false).contains(",quantile=\"0.999\"} "));
        let refused = render(
            &store,
            &Request {
                format: Format::Prometheus,
                buckets: Some(BucketMode::Disjoint),
                ..Request::default()
            },
        );
        assert_eq!(refused, Err("unsupported prometheus histogram bucket mode"));
    }

    #[test]
    fn html_escapes_what_names_and_texts_bring() {
        let store = Store::new(0);
        let scope = store.scope("cluster.<b>.");
        scope.counter("x").inc();
        let page = page(
            &store,
            Request {
                format: Format::Html,
                ..Request::default()
            },
        );
        assert!(page.contains("cluster.&lt;b&gt;.x: 1"));
    }

    #[test]
    fn percents_are_shown_as_shares_of_one() {
        let (store, owners) = sample();
        let cluster = owners[0].downcast_ref::<Cluster>().unwrap();
        cluster.load().record(500_000);
        store.flush();
        let page = page(
            &store,
            Request {
                filter: Some(Regex::new("load").unwrap()),
                ..Request::default()
            },
        );
        assert!(page.contains("P50(0.505,0.505)"), "{page}");
    }
}
