//! Why requests failed: what the proxy wrote of each, and where its attempts went.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::Behaviour;
use super::load::{End, Sample};
use super::upstreams::Arrival;

/// What is known of a request that was not answered by 200.
#[derive(Debug, Clone)]
pub struct Autopsy {
    /// Its number, from 0.
    pub number: u64,
    /// How it ended for its client.
    pub end: String,
    /// What the proxy has logged; empty: nothing.
    pub log: String,
    /// The attempts that came to an upstream: when, which upstream, and how that behaved.
    pub attempts: Vec<(Duration, usize, Behaviour)>,
}

impl fmt::Display for Autopsy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {};", self.number, self.end, self.log)?;
        for (at, upstream, behaviour) in &self.attempts {
            write!(f, " {:.3} s {behaviour:?} {upstream}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// One of each request that failed. `log`: one line for each, which begins with its number.
pub(super) fn of_all(samples: &[Sample], arrivals: &[Vec<Arrival>], log: &str) -> Vec<Autopsy> {
    let lines: HashMap<u64, &str> = (log.lines())
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(number, rest)| Some((number.parse().ok()?, rest)))
        .collect();
    let failed = samples.iter().filter(|s| s.end != End::Status(200));
    let one = |sample: &Sample| {
        let mut attempts: Vec<_> = (arrivals.iter().enumerate())
            .flat_map(|(upstream, all)| all.iter().map(move |arrival| (upstream, arrival)))
            .filter(|(_, arrival)| arrival.id == sample.number)
            .map(|(upstream, arrival)| (arrival.at, upstream, arrival.behaviour))
            .collect();
        attempts.sort_by_key(|(at, ..)| *at);
        Autopsy {
            number: sample.number,
            end: format!("{:?} in {} ms", sample.end, sample.took.as_millis()),
            log: lines
                .get(&sample.number)
                .copied()
                .unwrap_or_default()
                .into(),
            attempts,
        }
    };
    failed.map(one).collect()
}
