//! Chaos, in short: a seed of `just chaos` in HTTP/1 and one in HTTP/2, through Outrigger and Envoy at the same time.
//!
//! This proves that, whatever befalls upstreams, no request is answered by what belongs to another one, and no attempt reaches
//! upstreams twice; that faults are noticed by retries, health checks and outlier detection; and that nearly all requests get past
//! them, the load spread among those that are well. These are floors, far below what is measured, lower where the machine did not
//! keep up, and missed only if they are missed twice. That Outrigger is no worse than Envoy is what `just chaos` proves, with a
//! release build and five seeds of a minute each; in twenty seconds on a busy machine, chance would decide.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a story that shows its figures"
)]

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::chaos::{Figures, Protocol, Size, autopsies, play, table};

#[test]
fn upstreams_in_trouble_cost_few_requests_of_http1() {
    check(1, Protocol::Http1);
}

#[test]
fn upstreams_in_trouble_cost_few_requests_of_http2() {
    check(2, Protocol::Http2);
}

/// Floors have to be missed twice.
fn check(seed: u64, protocol: Protocol) {
    let size = Size {
        seconds: 20,
        rate: 150,
        protocol,
    };
    let mut complaints = vec![];
    for _ in 0..2 {
        let all = both(seed, size);
        println!("{}{}", table(&all), autopsies(&all));
        complaints = all.iter().flat_map(wrong).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        complaints.extend(all.iter().flat_map(missed));
        if complaints.is_empty() {
            return;
        }
    }
    panic!("twice: {complaints:#?}");
}

/// Envoy and Outrigger at the same time, so that what else the machine does troubles both.
fn both(seed: u64, size: Size) -> Vec<Figures> {
    let programs = [
        ("envoy", binaries::envoy().unwrap()),
        ("outrigger", binaries::outrigger().unwrap()),
    ];
    let running = programs.map(|(name, program)| {
        std::thread::spawn(move || {
            play(name, &program, seed, size).map_err(|error| error.to_string())
        })
    });
    let played = running.into_iter().map(|one| one.join().unwrap().unwrap());
    played.collect()
}

/// What is wrong whatever the machine does.
fn wrong(figures: &Figures) -> Vec<String> {
    let mut complaints = vec![];
    let mut complain = |what: &str, is: bool| {
        if is {
            complaints.push(format!("{}: {what}", figures.proxy));
        }
    };
    complain("an answer that is another's", figures.foreign > 0);
    complain("an attempt that came twice", figures.doubled > 0);
    let count = |name: &str| {
        figures
            .counts
            .iter()
            .find(|(title, _)| *title == name)
            .unwrap()
            .1
    };
    complain("nothing is tried again", count("retries") == 0);
    complain("no attempt to connect fails", count("cx fail") == 0);
    complain("no health check fails", count("hc fail") == 0);
    complain("nobody is ejected", count("ejected") == 0);
    complaints
}

/// What chance may bring about once, on a machine that is busy.
fn missed(figures: &Figures) -> Vec<String> {
    // Who is late by a tenth of a second has time limits of 0.8 s that mean less, and who is late by a second none at all.
    let (success, broken, spread) = match figures.late {
        0.0..100.0 => (0.95, 0.01, 0.5),
        100.0..1_000.0 => (0.5, 0.2, 2.0),
        _ => (0.0, 1.0, f64::INFINITY),
    };
    let mut complaints = vec![];
    let mut complain = |what: &str, is: f64| {
        complaints.push(format!("{}: {what} {is:.4}", figures.proxy));
    };
    if figures.success < success {
        complain("success", figures.success);
    }
    let without = count_as_float(figures.broken) / count_as_float(figures.sent);
    if without > broken {
        complain("the share without a whole answer is", without);
    }
    // An even share is 1: this is how far shares are from it.
    if figures.spread > spread {
        complain("spread", figures.spread);
    }
    complaints
}

fn count_as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
