//! `/stats` as text.

use std::fmt::Write;

use super::{
    BucketMode, Flushed, QUANTILES, Request, Selection, Stat, Store, counts, is_histogram, number,
    quantiles, quoted,
};
use crate::stats::HistogramData;

pub(super) fn render(store: &Store, request: &Request) -> String {
    let selection = Selection::new(store, request);
    let mut out = String::new();
    // Writing to a string cannot fail.
    for (name, text) in &selection.texts {
        let _ = writeln!(out, "{name}: {}", quoted(text));
    }
    for stat in selection.stats(|kind| !is_histogram(kind)) {
        let _ = writeln!(out, "{}: {}", stat.name, selection.value(&stat));
    }
    for stat in selection.stats(is_histogram) {
        let flushed = selection.histogram(&stat);
        let line = match request.buckets {
            None | Some(BucketMode::Summary) => format!(": {}", summary(&stat, &flushed)),
            Some(BucketMode::Detailed) => format!(
                ":\n  totals={}\n  intervals={}\n  summary={}",
                recorded(&stat, &flushed.cumulative),
                recorded(&stat, &flushed.interval),
                summary(&stat, &flushed)
            ),
            Some(mode) => format!(": {}", buckets(store, &stat, &flushed, mode)),
        };
        let _ = writeln!(out, "{}{line}", stat.name);
    }
    out
}

fn summary(stat: &Stat<'_>, flushed: &Flushed) -> String {
    if flushed.cumulative.is_empty() {
        return "No recorded values".to_owned();
    }
    let interval = quantiles(&flushed.interval, stat.scale());
    let cumulative = quantiles(&flushed.cumulative, stat.scale());
    let parts: Vec<_> = QUANTILES
        .iter()
        .zip(interval.into_iter().zip(cumulative))
        .map(|(percent, (interval, cumulative))| {
            format!(
                "P{percent}({},{})",
                number::shortest(interval),
                number::shortest(cumulative)
            )
        })
        .collect();
    parts.join(" ")
}

fn buckets(store: &Store, stat: &Stat<'_>, flushed: &Flushed, mode: BucketMode) -> String {
    let bounds = store.config().histogram_buckets(&stat.name);
    let interval = counts(&flushed.interval, bounds, stat.scale(), mode);
    let cumulative = counts(&flushed.cumulative, bounds, stat.scale(), mode);
    let parts: Vec<_> = bounds
        .iter()
        .zip(interval.into_iter().zip(cumulative))
        .map(|(bound, (interval, cumulative))| {
            format!("B{}({interval},{cumulative})", number::general(*bound, 6))
        })
        .collect();
    parts.join(" ")
}

fn recorded(stat: &Stat<'_>, data: &HistogramData) -> String {
    let parts: Vec<_> = data
        .buckets()
        .map(|bucket| {
            format!(
                "{},{}:{}",
                number::shortest(bucket.lower / stat.scale()),
                number::shortest(bucket.width / stat.scale()),
                bucket.count
            )
        })
        .collect();
    parts.join(", ")
}
