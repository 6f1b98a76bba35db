//! Plays chaos to proxies, one after the other: `chaos [--seeds 5] [--first 1] [--seconds 60] [--rate 300] NAME=PROGRAM…`, with
//! Envoy first, since the others are compared with the first. Ends with 1 when one of them is worse.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures, and stops when something is wrong"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::chaos::{Size, Tolerance, Verdict, play, table};

fn main() -> Result<ExitCode, Error> {
    let (mut seeds, mut first) = (5, 1);
    let mut size = Size {
        seconds: 60,
        rate: 300,
    };
    let mut programs: Vec<(String, PathBuf)> = vec![];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if let Some((name, path)) = argument.split_once('=') {
            programs.push((name.to_owned(), path.into()));
            continue;
        }
        let value = arguments.next().ok_or("a flag has a value")?.parse()?;
        match argument.as_str() {
            "--seeds" => seeds = value,
            "--first" => first = value,
            "--seconds" => size.seconds = value,
            "--rate" => size.rate = value,
            _ => return Err(format!("{argument} is not NAME=PROGRAM").into()),
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
            let figures = play(name, program, seed, size)?;
            println!("{}", table(std::slice::from_ref(&figures)));
            all.push(figures);
        }
    }
    println!("{}", table(&all));
    let mut code = ExitCode::SUCCESS;
    let mut names = programs.iter().map(|(name, _)| name);
    let envoy = names.next().ok_or("no program")?;
    for name in names {
        let verdict = Verdict::of(&all, envoy, name);
        println!("{name} after {envoy}, medians: {verdict:?}");
        for complaint in verdict.complaints(&Tolerance::LONG) {
            println!("worse: {complaint}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
