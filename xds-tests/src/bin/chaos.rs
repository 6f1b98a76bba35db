//! Plays chaos to proxies, one after the other: `chaos [--seeds 5] [--first 1] [--seconds 60] [--rate 600] [--http 1|2] NAME=PROGRAM…`, with
//! Envoy first, since the others are compared with the first. Ends with 1 when one of them is worse.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures, and stops when something is wrong"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::chaos::{
    Figures, Protocol, Size, Tolerance, Verdict, autopsies, play, table,
};

fn main() -> Result<ExitCode, Error> {
    let (mut seeds, mut first) = (5, 1);
    let mut size = Size {
        seconds: 60,
        rate: 600,
        protocol: Protocol::Http1,
    };
    let mut programs: Vec<(String, PathBuf)> = vec![];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if let Some((name, path)) = argument.split_once('=') {
            programs.push((name.to_owned(), path.into()));
            continue;
        }
        let value: u64 = arguments.next().ok_or("a flag has a value")?.parse()?;
        match argument.as_str() {
            "--seeds" => seeds = value,
            "--first" => first = value,
            "--seconds" => size.seconds = value,
            "--rate" => size.rate = value,
            "--http" if value == 1 => size.protocol = Protocol::Http1,
            "--http" if value == 2 => size.protocol = Protocol::Http2,
            _ => return Err(format!("{argument} {value} is not NAME=PROGRAM, and no flag").into()),
        }
    }
    let mut all = vec![];
    for seed in first..first + seeds {
        // Who goes first changes, so that a machine that slows down is unfair to both.
        let mut order: Vec<_> = programs.iter().collect();
        if seed.is_multiple_of(2) {
            order.reverse();
        }
        for (name, program) in order {
            let figures = in_time(|| play(name, program, seed, size))?;
            let one = std::slice::from_ref(&figures);
            println!("{}{}", table(one), autopsies(one));
            all.push(figures);
        }
    }
    println!("{}", table(&all));
    let mut code = ExitCode::SUCCESS;
    let mut names = programs.iter().map(|(name, _)| name);
    let envoy = names.next().ok_or("no program")?;
    for name in names {
        let verdict = Verdict::of(&all, envoy, name);
        println!("{name} after {envoy}: {verdict:?}");
        for complaint in verdict.complaints(&Tolerance::LONG) {
            println!("worse: {complaint}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What is played again, a few times, when the machine was so busy that it measured itself.
fn in_time(play: impl Fn() -> Result<Figures, Error>) -> Result<Figures, Error> {
    let mut figures = play()?;
    for _ in 0..3 {
        if figures.late < LATE {
            break;
        }
        println!(
            "once more, since requests were sent {:.0} ms late",
            figures.late
        );
        figures = play()?;
    }
    Ok(figures)
}

/// In ms: more than a request in a hundred was sent later than that.
const LATE: f64 = 50.0;
