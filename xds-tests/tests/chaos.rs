//! Chaos, in short: a seed of `just chaos` in HTTP/1 and one in HTTP/2, through Outrigger and Envoy side by side.
//!
//! This proves that whatever befalls upstreams, no request is lost, answered by something else, or sent twice as the same attempt,
//! that faults are noticed, and that most requests get past them. It compares the proxies only where the machine kept up, and
//! coarsely: in twenty seconds, chance decides which of them meets more silence. That Outrigger is no worse than Envoy
//! is what `just chaos` proves, with a release build, five seeds of a minute each, and a machine that does nothing else.
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

/// Where chance could decide, it has to do so twice.
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
        complaints.extend(worse(&all));
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
fn worse(all: &[Figures]) -> Vec<String> {
    let [envoy, outrigger] = all else {
        return vec!["two have played".into()];
    };
    let mut complaints = vec![];
    // Who is late by a tenth of a second has time limits of 0.8 s that mean little.
    let busy = outrigger.late.max(envoy.late) > 100.0;
    let floor = if busy { 0.5 } else { 0.97 };
    if outrigger.success < floor.min(envoy.success) {
        complaints.push(format!("success: {:.4}", outrigger.success));
    }
    if outrigger.broken > envoy.broken && !busy {
        complaints.push(format!("{} without a whole answer", outrigger.broken));
    }
    // An even share is 1. Retries of a few hundred requests make it uneven, an upstream that gets nothing by more.
    if outrigger.spread > envoy.spread.max(0.1) * 2.0 && !busy {
        complaints.push(format!("spread: {:.3}", outrigger.spread));
    }
    complaints
}
