//! `/stats?format=json`.

use std::fmt::Write;

use super::{
    BucketMode, Flushed, QUANTILES, Request, Selection, Stat, Store, counts, is_histogram, number,
    quantiles, quoted,
};
use crate::stats::HistogramData;

pub(super) fn render(store: &Store, request: &Request) -> String {
    let selection = Selection::new(store, request);
    let mut out = String::from(r#"{"stats":["#);
    let start = out.len();
    let separate = |out: &mut String| {
        if out.len() > start {
            out.push(',');
        }
    };
    // Writing to a string cannot fail.
    for (name, text) in &selection.texts {
        separate(&mut out);
        let _ = write!(
            out,
            r#"{{"name":{},"value":{}}}"#,
            quoted(name),
            quoted(text)
        );
    }
    for stat in selection.stats(|kind| !is_histogram(kind)) {
        separate(&mut out);
        let value = selection.value(&stat);
        let _ = write!(out, r#"{{"name":{},"value":{value}}}"#, quoted(&stat.name));
    }
    let histograms: Vec<_> = selection
        .stats(is_histogram)
        .map(|stat| histogram(store, request, &stat, &selection.histogram(&stat)))
        .collect();
    if !histograms.is_empty() {
        separate(&mut out);
        out.push_str(&wrapped(request, &histograms.join(",")));
    }
    out.push_str("]}");
    out
}

/// The list of histograms, with what they have in common.
fn wrapped(request: &Request, histograms: &str) -> String {
    let percents: Vec<_> = QUANTILES.iter().map(|q| number::json(*q)).collect();
    let percents = percents.join(",");
    match request.buckets {
        None | Some(BucketMode::Summary) => format!(
            r#"{{"histograms":{{"supported_quantiles":[{percents}],"computed_quantiles":[{histograms}]}}}}"#
        ),
        Some(BucketMode::Detailed) => format!(
            r#"{{"histograms":{{"supported_percentiles":[{percents}],"details":[{histograms}]}}}}"#
        ),
        Some(BucketMode::Cumulative | BucketMode::Disjoint) => {
            format!(r#"{{"histograms":[{histograms}]}}"#)
        }
    }
}

fn histogram(store: &Store, request: &Request, stat: &Stat<'_>, flushed: &Flushed) -> String {
    let name = quoted(&stat.name);
    match request.buckets {
        None | Some(BucketMode::Summary) => {
            format!(r#"{{"name":{name},"values":[{}]}}"#, summary(stat, flushed))
        }
        Some(BucketMode::Detailed) => format!(
            r#"{{"name":{name},"totals":[{}],"intervals":[{}],"percentiles":[{}]}}"#,
            recorded(stat, &flushed.cumulative),
            recorded(stat, &flushed.interval),
            summary(stat, flushed)
        ),
        Some(mode) => format!(
            r#"{{"name":{name},"buckets":[{}]}}"#,
            buckets(store, stat, flushed, mode)
        ),
    }
}

fn summary(stat: &Stat<'_>, flushed: &Flushed) -> String {
    let interval = quantiles(&flushed.interval, stat.scale());
    let cumulative = quantiles(&flushed.cumulative, stat.scale());
    let values: Vec<_> = cumulative
        .into_iter()
        .zip(interval)
        .map(|(cumulative, interval)| {
            format!(
                r#"{{"cumulative":{},"interval":{}}}"#,
                number::json(cumulative),
                number::json(interval)
            )
        })
        .collect();
    values.join(",")
}

fn buckets(store: &Store, stat: &Stat<'_>, flushed: &Flushed, mode: BucketMode) -> String {
    let bounds = store.config().histogram_buckets(&stat.name);
    let interval = counts(&flushed.interval, bounds, stat.scale(), mode);
    let cumulative = counts(&flushed.cumulative, bounds, stat.scale(), mode);
    let parts: Vec<_> = bounds
        .iter()
        .zip(interval.into_iter().zip(cumulative))
        .map(|(bound, (interval, cumulative))| {
            format!(
                r#"{{"upper_bound":{},"interval":{interval},"cumulative":{cumulative}}}"#,
                number::json(*bound)
            )
        })
        .collect();
    parts.join(",")
}

fn recorded(stat: &Stat<'_>, data: &HistogramData) -> String {
    let parts: Vec<_> = data
        .buckets()
        .map(|bucket| {
            format!(
                r#"{{"lower_bound":{},"width":{},"count":{}}}"#,
                number::json(bucket.lower / stat.scale()),
                number::json(bucket.width / stat.scale()),
                bucket.count
            )
        })
        .collect();
    parts.join(",")
}
