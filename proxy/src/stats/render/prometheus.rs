//! Prometheus' text format: names without their tags, the tags as labels.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::{
    BucketMode, Kind, Request, SHARES, Selection, Stat, Store, counts, is_histogram, number,
    quantiles,
};
use crate::stats::tags::Extracted;

/// A stat with its labels.
struct Series<T> {
    /// The full name: by it the series of one metric are sorted.
    name: String,
    labels: String,
    value: T,
}

/// What has one name without tags, and so one head.
struct Metric<T> {
    extracted: String,
    series: Vec<Series<T>>,
}

pub(super) fn render(store: &Store, request: &Request) -> Result<String, &'static str> {
    let histogram_type = match request.buckets {
        None | Some(BucketMode::Cumulative) => "histogram",
        Some(BucketMode::Summary) => "summary",
        Some(BucketMode::Disjoint | BucketMode::Detailed) => {
            return Err("unsupported prometheus histogram bucket mode");
        }
    };
    let selection = Selection::new(store, request);
    let mut out = String::new();
    for (kind, type_name) in [(Kind::Counter, "counter"), (Kind::Gauge, "gauge")] {
        let metrics = collect(store, selection.stats(|k| k == kind).map(Stat::named));
        write_metrics(&mut out, type_name, &metrics, |out, name, series| {
            let value = selection.value(&series.value);
            let _ = writeln!(out, "{name}{{{}}} {value}", series.labels);
        });
    }
    if request.text_readouts {
        let texts = selection.texts.iter();
        let metrics = collect(store, texts.map(|(name, text)| (name.to_string(), text)));
        write_metrics(&mut out, "gauge", &metrics, |out, name, series| {
            let labels = with_label(&series.labels, "text_value", series.value);
            let _ = writeln!(out, "{name}{{{labels}}} 0");
        });
    }
    let metrics = collect(store, selection.stats(is_histogram).map(Stat::named));
    write_metrics(&mut out, histogram_type, &metrics, |out, name, series| {
        if histogram_type == "summary" {
            write_summary(&selection, out, name, series);
        } else {
            write_histogram(store, &selection, out, name, series);
        }
    });
    Ok(out)
}

fn collect<T>(store: &Store, stats: impl Iterator<Item = (String, T)>) -> Vec<Metric<T>> {
    let mut by_name: HashMap<String, Vec<Series<T>>> = HashMap::new();
    for (name, value) in stats {
        let Extracted {
            name: extracted,
            tags,
        } = store.config().tags.extract(&name);
        by_name.entry(extracted).or_default().push(Series {
            name,
            labels: labels(&tags),
            value,
        });
    }
    let mut metrics: Vec<_> = by_name
        .into_iter()
        .map(|(extracted, series)| Metric { extracted, series })
        .collect();
    metrics.sort_unstable_by(|a, b| by_parts(&a.extracted, &b.extracted));
    for metric in &mut metrics {
        metric.series.sort_by(|a, b| by_parts(&a.name, &b.name));
    }
    metrics
}

/// Writes each series under the head of its metric.
fn write_metrics<T>(
    out: &mut String,
    type_name: &str,
    metrics: &[Metric<T>],
    write: impl Fn(&mut String, &str, &Series<T>),
) {
    for Metric { extracted, series } in metrics {
        let name = format!("envoy_{}", sanitized(extracted));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# TYPE {name} {type_name}");
        series.iter().for_each(|series| write(out, &name, series));
    }
}

impl<'a> Stat<'a> {
    /// Takes the name out of a stat.
    fn named(mut self) -> (String, Self) {
        (std::mem::take(&mut self.name), self)
    }
}

fn write_histogram(
    store: &Store,
    selection: &Selection,
    out: &mut String,
    name: &str,
    series: &Series<Stat<'_>>,
) {
    let (stat, labels) = (&series.value, &series.labels);
    let data = selection.histogram(stat).cumulative;
    let bounds = store.config().histogram_buckets(&series.name);
    let counts = counts(&data, bounds, stat.scale(), BucketMode::Cumulative);
    for (bound, count) in bounds.iter().zip(counts) {
        let labels = with_label(labels, "le", &number::general(*bound, 32));
        let _ = writeln!(out, "{name}_bucket{{{labels}}} {count}");
    }
    let infinite = with_label(labels, "le", "+Inf");
    let _ = writeln!(out, "{name}_bucket{{{infinite}}} {}", data.count());
    write_totals(out, name, labels, &data, stat.scale());
}

fn write_summary(selection: &Selection, out: &mut String, name: &str, series: &Series<Stat<'_>>) {
    let (stat, labels) = (&series.value, &series.labels);
    let data = selection.histogram(stat).cumulative;
    for (share, value) in SHARES.iter().zip(quantiles(&data, stat.scale())) {
        let labels = with_label(labels, "quantile", &number::shortest(*share));
        let value = number::general(value, 32);
        let _ = writeln!(out, "{name}{{{labels}}} {value}");
    }
    write_totals(out, name, labels, &data, stat.scale());
}

fn write_totals(
    out: &mut String,
    name: &str,
    labels: &str,
    data: &crate::stats::HistogramData,
    scale: f64,
) {
    let sum = number::general(data.sum() / scale, 32);
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {}", data.count());
}

fn labels(tags: &[(Arc<str>, Arc<str>)]) -> String {
    let mut out = String::new();
    for (name, value) in tags {
        if !out.is_empty() {
            out.push(',');
        }
        let _ = write!(out, "{}=\"{}\"", sanitized(name), escaped(value));
    }
    out
}

fn with_label(labels: &str, name: &str, value: &str) -> String {
    let comma = if labels.is_empty() { "" } else { "," };
    format!("{labels}{comma}{name}=\"{}\"", escaped(value))
}

fn sanitized(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars()
        .map(|c| if keep(c) { c } else { '_' })
        .collect()
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

/// By the parts between dots: a dot comes before all else.
fn by_parts(a: &str, b: &str) -> Ordering {
    let shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let next = |name: &str| {
        let byte = name.as_bytes().get(shared).copied();
        byte.map(|byte| if byte == b'.' { 0 } else { byte })
    };
    next(a).cmp(&next(b))
}
