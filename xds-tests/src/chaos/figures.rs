//! What came of a run, how it is shown, and how two proxies compare.
#![allow(
    clippy::cast_precision_loss,
    reason = "figures for people, of numbers that are small"
)]

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::time::Duration;

use super::load::{End, Sample};
use super::upstreams::Arrival;
use super::{Autopsy, Behaviour, Schedule, UPSTREAMS};

/// How long an upstream must have been well until its share of the load counts: all ejections have ended, all checks have
/// succeeded.
const SETTLED: Duration = Duration::from_secs(4);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Which proxy.
    pub proxy: String,
    /// Which seed.
    pub seed: u64,
    /// How many requests, without those that were cut.
    pub sent: usize,
    /// How many were answered by an upstream that broke off in the middle: nobody can make up for that.
    pub cut: usize,
    /// The share of them that was answered by 200, with the right body.
    pub success: f64,
    /// How many have no answer that is whole.
    pub broken: usize,
    /// How many were answered by something that is not theirs.
    pub foreign: usize,
    /// How many attempts came to upstreams more than once.
    pub doubled: usize,
    /// What became of those that failed.
    pub failures: Vec<Autopsy>,
    /// By how much a request in a hundred was sent too late, in ms: the machine was busy.
    pub late: f64,
    /// The median of all requests, in ms.
    pub p50: f64,
    /// In ms; failed requests count.
    pub p90: f64,
    /// In ms; failed requests count.
    pub p99: f64,
    /// In ms; failed requests count.
    pub p999: f64,
    /// How far the load of upstreams that are well for some time is from an even one: the standard deviation of their shares,
    /// where 1 is an even share.
    pub spread: f64,
    /// How many attempts a request needed.
    pub attempts: f64,
    /// How many of them came to an upstream that was slow, that failed, that reset, that was silent or behind a blackhole.
    pub troubled: [usize; 4],
    /// Stats of the cluster.
    pub counts: Vec<(&'static str, u64)>,
}

impl Figures {
    pub(super) fn of(
        (proxy, seed): (&str, u64),
        schedule: &Schedule,
        took: Duration,
        samples: &[Sample],
        seen: Seen,
    ) -> Self {
        let Seen {
            arrivals,
            cut,
            counts,
            failures,
        } = seen;
        let times = Times::of(samples.iter().map(|sample| sample.took));
        let at = |share| times.at(share);
        let count = |end| samples.iter().filter(|sample| sample.end == end).count();
        let attempts: usize = arrivals.iter().map(Vec::len).sum();
        let troubled = |of: &[Behaviour]| {
            let all = arrivals.iter().flatten();
            all.filter(|arrival| of.contains(&arrival.behaviour))
                .count()
        };
        let mut once = HashSet::new();
        let doubled = arrivals.iter().flatten();
        let doubled = doubled.filter(|arrival| !once.insert((arrival.id, arrival.attempt)));
        Self {
            proxy: proxy.to_owned(),
            seed,
            sent: samples.len(),
            cut,
            success: count(End::Status(200)) as f64 / samples.len() as f64,
            broken: count(End::Broken),
            foreign: count(End::Foreign),
            doubled: doubled.count(),
            failures,
            late: Times::of(samples.iter().map(|sample| sample.late)).at(0.99),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            spread: spread(schedule, took, &arrivals),
            attempts: attempts as f64 / samples.len() as f64,
            troubled: [
                troubled(&[Behaviour::Slow]),
                troubled(&[Behaviour::Failing]),
                troubled(&[Behaviour::Resetting]),
                troubled(&[Behaviour::Silent, Behaviour::Blackhole]),
            ],
            counts,
        }
    }
}

/// What upstreams and the proxy tell of a run.
pub(super) struct Seen {
    pub(super) arrivals: Vec<Vec<Arrival>>,
    pub(super) cut: usize,
    pub(super) counts: Vec<(&'static str, u64)>,
    pub(super) failures: Vec<Autopsy>,
}

/// Times in order, in ms.
struct Times(Vec<f64>);

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The time that this share of them does not exceed.
    fn at(&self, share: f64) -> f64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in the list"
        )]
        let place = (self.0.len() as f64 * share) as usize;
        self.0[place.min(self.0.len() - 1)]
    }
}

/// See [`Figures::spread`].
fn spread(schedule: &Schedule, took: Duration, arrivals: &[Vec<Arrival>]) -> f64 {
    let well = schedule.well(took);
    let slot = |number: u64| Duration::from_secs(number)..Duration::from_secs(number + 1);
    let (mut got, mut fair) = ([0.0; UPSTREAMS], [0.0; UPSTREAMS]);
    for slot in (0..took.as_secs()).map(slot) {
        let settled: Vec<usize> = (0..UPSTREAMS)
            .filter(|upstream| {
                let covers = |(from, to): &(Duration, Duration)| {
                    // Nobody has to settle in the beginning.
                    let settled = *from == Duration::ZERO || *from + SETTLED <= slot.start;
                    settled && *to >= slot.end
                };
                well[*upstream].iter().any(covers)
            })
            .collect();
        let count = |upstream: &usize| {
            let inside = arrivals[*upstream].iter();
            let inside = inside.filter(|arrival| slot.contains(&arrival.at));
            inside.count() as f64
        };
        let counts: Vec<f64> = settled.iter().map(count).collect();
        let even = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
        for (upstream, count) in settled.into_iter().zip(counts) {
            got[upstream] += count;
            fair[upstream] += even;
        }
    }
    let shares: Vec<f64> = (got.iter().zip(&fair))
        .filter(|(_, fair)| **fair > 0.0)
        .map(|(got, fair)| got / fair)
        .collect();
    let squares: f64 = shares.iter().map(|share| (share - 1.0).powi(2)).sum();
    (squares / shares.len().max(1) as f64).sqrt()
}

/// All runs, for people.
pub fn table(all: &[Figures]) -> String {
    let mut text = String::new();
    let titles = all.first().map_or(&[][..], |first| &first.counts);
    let _ = write!(
        text,
        "{:>4} {:10} {:>6} {:>4} {:>6} {:>6} {:>7} {:>7} {:>8} {:>6} {:>7} {:>7} {:>7} {:>5} {:>7} {:>8}",
        "seed",
        "proxy",
        "sent",
        "cut",
        "failed",
        "broken",
        "foreign",
        "doubled",
        "success%",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "late",
        "spread",
        "attempts"
    );
    for title in ["slow", "failing", "reset", "silent"] {
        let _ = write!(text, " {title:>7}");
    }
    for (title, _) in titles {
        let _ = write!(text, " {title:>9}");
    }
    text.push('\n');
    for one in all {
        let _ = write!(
            text,
            "{:>4} {:10} {:>6} {:>4} {:>6} {:>6} {:>7} {:>7} {:>8.3} {:>6.1} {:>7.1} {:>7.1} {:>7.1} {:>5.1} {:>7.4} {:>8.4}",
            one.seed,
            one.proxy,
            one.sent,
            one.cut,
            one.failures.len(),
            one.broken,
            one.foreign,
            one.doubled,
            one.success * 100.0,
            one.p50,
            one.p90,
            one.p99,
            one.p999,
            one.late,
            one.spread,
            one.attempts
        );
        for count in one.troubled {
            let _ = write!(text, " {count:>7}");
        }
        for (_, count) in &one.counts {
            let _ = write!(text, " {count:>9}");
        }
        text.push('\n');
    }
    text
}

/// Each request that failed, for people.
pub fn autopsies(all: &[Figures]) -> String {
    let mut text = String::new();
    for one in all {
        for failure in &one.failures {
            let _ = writeln!(text, "{:>4} {:10} {failure}", one.seed, one.proxy);
        }
    }
    text
}

/// What came of two proxies over all seeds, the first one and the other.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// The median share of requests that succeeded.
    pub success: [f64; 2],
    /// How many requests of all seeds failed.
    pub failed: [usize; 2],
    /// How many requests of all seeds were sent.
    pub sent: [usize; 2],
    /// The median, in ms.
    pub p99: [f64; 2],
    /// The median; see [`Figures::spread`].
    pub spread: [f64; 2],
}

impl Verdict {
    /// Compares two proxies.
    pub fn of(all: &[Figures], first: &str, other: &str) -> Self {
        let of = |proxy| all.iter().filter(move |figures| figures.proxy == proxy);
        let both = |value: fn(&Figures) -> f64| {
            [first, other].map(|proxy| median(of(proxy).map(value).collect()))
        };
        let sums = |value: fn(&Figures) -> usize| {
            [first, other].map(|proxy| of(proxy).map(value).sum::<usize>())
        };
        Self {
            success: both(|figures| figures.success),
            failed: sums(|figures| figures.failures.len()),
            sent: sums(|figures| figures.sent),
            p99: both(|figures| figures.p99),
            spread: both(|figures| figures.spread),
        }
    }

    /// What of it is worse than it may be.
    pub fn complaints(&self, tolerance: &Tolerance) -> Vec<String> {
        let mut complaints = vec![];
        let [first, other] = self.success;
        if other + tolerance.success < first {
            complaints.push(format!("success: {other:.5} after {first:.5}"));
        }
        let [first, other] = self.p99;
        if other > first * tolerance.p99 {
            complaints.push(format!("p99: {other:.1} ms after {first:.1} ms"));
        }
        let [first, other] = self.spread;
        if other > first + tolerance.spread {
            complaints.push(format!("spread: {other:.4} after {first:.4}"));
        }
        complaints
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            success: [success, other_success],
            failed: [failed, other_failed],
            sent: [sent, other_sent],
            p99: [p99, other_p99],
            spread: [spread, other_spread],
        } = self;
        let percent = |share: f64| 100.0 * share;
        write!(
            f,
            "median success {:.3}% after {:.3}%, {other_failed} of {other_sent} failed after {failed} of {sent}, \
             median p99 {other_p99:.1} ms after {p99:.1} ms, median spread {other_spread:.4} after {spread:.4}",
            percent(*other_success),
            percent(*success),
        )
    }
}

/// By how much a proxy may be behind another one.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// The share of requests that may fail more.
    pub success: f64,
    /// How many times the p99 may be as long.
    pub p99: f64,
    /// By how much of a fair share the spread may be wider.
    pub spread: f64,
}

impl Tolerance {
    /// Of five seeds, a minute each: what two runs of the same proxy differ by.
    pub const LONG: Self = Self {
        success: 0.0001,
        p99: 1.1,
        spread: 0.005,
    };
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}
