//! Everything between a client and its upstreams in a simulated world: connection manager, route, router with retries, load
//! balancing, pools, circuit breakers, health checks, outlier detection and discovery are the real ones; clients and hosts speak HTTP/1 or HTTP/2;
//! the network, the hosts, DNS, the clock and chance are made by a seed. A seed is replayed by `SEED=7 cargo test -p outrigger --test simulation`; `SEEDS=n` runs that many.
//!
//! That the promises are watched is shown by breaking them: three faults are in the code itself ([`outrigger::planted`]), the others
//! are made by another configuration than the one that the promises know.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test, whose numbers are small"
)]

mod clients;
#[path = "../data_path/mod.rs"]
mod data_path;
mod hosts;
mod invariants;
mod scenario;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use invariants::Violation;
#[cfg(debug_assertions)]
use outrigger::planted::Fault;
use scenario::{Plant, Scenario};
use world::{Summary, run};

/// Virtual seconds under load, at least.
const SECONDS: u64 = 60;
/// Requests, at least.
const REQUESTS: u64 = 2_000;

#[test]
fn a_thousand_worlds_keep_every_promise() {
    let first = variable("SEED").unwrap_or(1);
    let count = match variable("SEED") {
        Some(_) => 1,
        None => variable("SEEDS").unwrap_or(1_000),
    };
    let next = AtomicU64::new(first);
    let totals: Vec<(Summary, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut total = Summary::default();
            let mut broken = Vec::new();
            loop {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= first + count || broken.len() > 3 {
                    return (total, broken);
                }
                match judged(seed) {
                    Ok(summary) => total.add(&summary),
                    Err(why) => broken.push(format!("seed {seed}: {why}")),
                }
            }
        };
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut total = Summary::default();
    let mut broken = Vec::new();
    for (summary, why) in totals {
        total.add(&summary);
        broken.extend(why);
    }
    println!("{total:?}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // A world in which nothing happens keeps every promise, too.
    if count >= 100 {
        total.assert_eventful();
    }
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    for seed in [3, 4, 5, 6] {
        let [first, second] = [(); 2].map(|()| run(&Scenario::of(seed), None));
        assert_eq!(
            first.unwrap().trace,
            second.unwrap().trace,
            "of the seed {seed}"
        );
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_router_that_sends_a_request_twice_is_found_within_twenty_worlds() {
    let found = planted(Plant::Code(Fault::DoubleSend));
    assert!(matches!(found, Violation::SentTwice { .. }), "{found}");
}

#[cfg(debug_assertions)]
#[test]
fn an_attempt_that_leaks_its_counts_is_found_within_twenty_worlds() {
    let found = planted(Plant::Code(Fault::LeakedCounter));
    assert!(matches!(found, Violation::NotZero { .. }), "{found}");
}

#[cfg(debug_assertions)]
#[test]
fn outlier_detection_that_breaks_its_cap_is_found_within_twenty_worlds() {
    let found = planted(Plant::Code(Fault::CapBreach));
    assert!(is_above(&found, "the ejected hosts"), "{found}");
}

#[test]
fn a_circuit_breaker_that_lets_too_much_through_is_found() {
    let found = planted(Plant::OpenBreaker);
    let of = "cluster.c.circuit_breakers.default.remaining_rq";
    assert!(
        is_above(&found, of) || is_above(&found, "the requests at hosts"),
        "{found}"
    );
}

#[test]
fn a_retry_too_many_is_found() {
    let found = planted(Plant::TooManyRetries);
    assert!(
        matches!(found, Violation::TooManyAttempts { .. }),
        "{found}"
    );
}

#[test]
fn an_answer_that_does_not_come_is_found() {
    let found = planted(Plant::NoTimeout);
    assert!(matches!(found, Violation::Unanswered { .. }), "{found}");
}

fn is_above(found: &Violation, of: &str) -> bool {
    matches!(found, Violation::AboveLimit { what, .. } if *what == of)
}

/// What is found in the first of some worlds in which something is found, with this fault in it.
fn planted(plant: Plant) -> Violation {
    (1..=20)
        .find_map(|seed| run(&Scenario::of(seed), Some(plant)).err())
        .expect("the fault is found in one of twenty worlds")
}

fn judged(seed: u64) -> Result<Summary, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&Scenario::of(seed), None)));
    let summary = outcome
        .map_err(|_| "a panic; see above".to_owned())?
        .map_err(|violation| violation.to_string())?;
    assert!(summary.virtual_seconds >= SECONDS && summary.requests >= REQUESTS);
    Ok(summary)
}

fn variable(name: &str) -> Option<u64> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test has no command line of its own"
    )]
    std::env::var(name).ok()?.parse().ok()
}
