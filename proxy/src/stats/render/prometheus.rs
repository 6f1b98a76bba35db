//! Prometheus' text format: names without their tags, the tags as labels.

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;

use super::{
    BucketMode, Kind, QUANTILES, Request, Selection, Stat, Store, counts, is_histogram, number,
    quantiles,
};
use crate::stats::tags::Extracted;

/// A stat with its labels.
struct Series<T> {
    /// The name without tags, and then the full name: by these it is sorted.
    extracted: String,
    name: String,
    labels: String,
    value: T,
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
        let series = collect(
            store,
            selection
                .stats(|k| k == kind)
                .map(|stat| (stat.name.clone(), stat)),
        );
        write_groups(&mut out, type_name, &series, |out, name, series| {
            let value = selection.value(&series.value);
            let _ = writeln!(out, "{name}{{{}}} {value}", series.labels);
        });
    }
    if request.text_readouts {
        let texts = selection.texts.iter();
        let series = collect(store, texts.map(|(name, text)| (name.to_string(), text)));
        write_groups(&mut out, "gauge", &series, |out, name, series| {
            let labels = with_label(&series.labels, "text_value", series.value);
            let _ = writeln!(out, "{name}{{{labels}}} 0");
        });
    }
    let series = collect(
        store,
        selection
            .stats(is_histogram)
            .map(|stat| (stat.name.clone(), stat)),
    );
    write_groups(&mut out, histogram_type, &series, |out, name, series| {
        if histogram_type == "summary" {
            write_summary(&selection, out, name, series);
        } else {
            write_histogram(store, &selection, out, name, series);
        }
    });
    Ok(out)
}

fn collect<T>(store: &Store, stats: impl Iterator<Item = (String, T)>) -> Vec<Series<T>> {
    let mut series: Vec<_> = stats
        .map(|(name, value)| {
            let Extracted {
                name: extracted,
                tags,
            } = store.config().tags.extract(&name);
            Series {
                extracted,
                name,
                labels: labels(&tags),
                value,
            }
        })
        .collect();
    series.sort_by(|a, b| {
        by_parts(&a.extracted, &b.extracted).then_with(|| by_parts(&a.name, &b.name))
    });
    series
}

/// Writes each series under a head that those with the same name share.
fn write_groups<T>(
    out: &mut String,
    type_name: &str,
    series: &[Series<T>],
    write: impl Fn(&mut String, &str, &Series<T>),
) {
    for group in series.chunk_by(|a, b| a.extracted == b.extracted) {
        let name = format!("envoy_{}", sanitized(&group[0].extracted));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# TYPE {name} {type_name}");
        group.iter().for_each(|series| write(out, &name, series));
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
    let bounds = store.config().histogram_buckets(&stat.name);
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
    for (percent, value) in QUANTILES.iter().zip(quantiles(&data, stat.scale())) {
        let labels = with_label(labels, "quantile", &number::shortest(percent / 100.0));
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

/// By the parts between dots.
fn by_parts(a: &str, b: &str) -> Ordering {
    a.split('.').cmp(b.split('.'))
}
