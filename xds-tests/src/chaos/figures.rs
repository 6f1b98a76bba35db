//! What came of a run, how it is shown, and how two proxies compare.
#![allow(
    clippy::cast_precision_loss,
    reason = "figures for people, of numbers that are small"
)]

use std::fmt::Write;
use std::time::Duration;

use super::load::Sample;
use super::upstreams::Arrival;
use super::{Behaviour, Schedule, UPSTREAMS};

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
    /// The share without an answer that is whole.
    pub broken: f64,
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
        (arrivals, cut, counts): (&[Vec<Arrival>], usize, Vec<(&'static str, u64)>),
    ) -> Self {
        let mut times: Vec<f64> = samples
            .iter()
            .map(|sample| sample.took.as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place in the list"
            )]
            let place = (times.len() as f64 * share) as usize;
            times[place.min(times.len() - 1)]
        };
        let share = |fits: fn(Option<u16>) -> bool| {
            let count = samples.iter().filter(|sample| fits(sample.status)).count();
            count as f64 / samples.len() as f64
        };
        let attempts: usize = arrivals.iter().map(Vec::len).sum();
        let troubled = |of: &[Behaviour]| {
            let all = arrivals.iter().flatten();
            all.filter(|(_, behaviour)| of.contains(behaviour)).count()
        };
        Self {
            proxy: proxy.to_owned(),
            seed,
            sent: samples.len(),
            cut,
            success: share(|status| status == Some(200)),
            broken: share(|status| status.is_none()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            spread: spread(schedule, took, arrivals),
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
            let inside = inside.filter(|(at, _)| slot.contains(at));
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
        "{:>4} {:10} {:>6} {:>4} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7} {:>8}",
        "seed",
        "proxy",
        "sent",
        "cut",
        "success%",
        "broken%",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "spread",
        "attempts"
    );
    for (title, _) in titles {
        let _ = write!(text, " {title:>9}");
    }
    text.push('\n');
    for one in all {
        let _ = write!(
            text,
            "{:>4} {:10} {:>6} {:>4} {:>8.3} {:>8.3} {:>6.1} {:>7.1} {:>7.1} {:>7.1} {:>7.4} {:>8.4}",
            one.seed,
            one.proxy,
            one.sent,
            one.cut,
            one.success * 100.0,
            one.broken * 100.0,
            one.p50,
            one.p90,
            one.p99,
            one.p999,
            one.spread,
            one.attempts
        );
        for count in one.troubled {
            let _ = write!(text, " {count:>6}");
        }
        for (_, count) in &one.counts {
            let _ = write!(text, " {count:>9}");
        }
        text.push('\n');
    }
    text
}

/// The medians of a proxy over all seeds, beside those of the first one.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// Shares of requests: the first proxy, the other.
    pub success: [f64; 2],
    /// In ms.
    pub p99: [f64; 2],
    /// See [`Figures::spread`].
    pub spread: [f64; 2],
}

impl Verdict {
    /// Compares two proxies.
    pub fn of(all: &[Figures], first: &str, other: &str) -> Self {
        let both = |value: fn(&Figures) -> f64| {
            [first, other].map(|proxy| {
                let of = all.iter().filter(|figures| figures.proxy == proxy);
                median(of.map(value).collect())
            })
        };
        Self {
            success: both(|figures| figures.success),
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
        if other > first.max(tolerance.p99_from) * tolerance.p99 {
            complaints.push(format!("p99: {other:.1} ms after {first:.1} ms"));
        }
        let [first, other] = self.spread;
        if other > first + tolerance.spread {
            complaints.push(format!("spread: {other:.4} after {first:.4}"));
        }
        complaints
    }
}

/// By how much a proxy may be behind another one.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// The share of requests that may fail more.
    pub success: f64,
    /// How many times the p99 may be as long.
    pub p99: f64,
    /// A p99 below this many ms counts as this long.
    pub p99_from: f64,
    /// By how much of a fair share the spread may be wider.
    pub spread: f64,
}

impl Tolerance {
    /// Of long runs: what two runs of the same proxy differ by.
    pub const LONG: Self = Self {
        success: 0.0005,
        p99: 1.1,
        p99_from: 0.0,
        spread: 0.005,
    };

    /// Of short runs on a busy machine. About one request in a hundred waits for an upstream that is lost, until the attempt
    /// ends after 0.8 s: on which side of that a p99 of few requests falls is chance.
    pub const SHORT: Self = Self {
        success: 0.005,
        p99: 1.4,
        p99_from: 800.0,
        spread: 0.05,
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
