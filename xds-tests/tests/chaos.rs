//! Chaos, in short: two of the seeds that `just chaos` plays, with Envoy beside Outrigger.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a story that shows its figures"
)]

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::chaos::{Size, Tolerance, Verdict, play, table};

const SIZE: Size = Size {
    seconds: 25,
    rate: 200,
};

#[test]
fn upstreams_in_trouble_cost_no_more_than_behind_envoy() {
    let programs = [
        ("envoy", binaries::envoy().unwrap()),
        ("outrigger", binaries::outrigger().unwrap()),
    ];
    let mut all = vec![];
    for seed in [1, 2] {
        for (name, program) in &programs {
            all.push(play(name, program, seed, SIZE).unwrap());
        }
    }
    println!("{}", table(&all));
    let complaints = Verdict::of(&all, "envoy", "outrigger").complaints(&Tolerance::SHORT);
    assert!(complaints.is_empty(), "{complaints:#?}\n{}", table(&all));
    for figures in &all {
        assert!(
            figures.success > 0.97,
            "retries help everybody\n{}",
            table(&all)
        );
    }
}
