//! Plays chaos to proxies: `chaos [--seeds 5] [--first 1] [--seconds 60] [--rate 500] [--http 1|2] [--in-turn] NAME=PROGRAM…`,
//! with Envoy first, since the others are compared with the first. A seed is played to all of them at the same time, or in turn.
//! Ends with 1 when one of them is worse.
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
        rate: 500,
        protocol: Protocol::Http1,
    };
    let mut programs: Vec<(String, PathBuf)> = vec![];
    let mut in_turn = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if let Some((name, path)) = argument.split_once('=') {
            programs.push((name.to_owned(), path.into()));
            continue;
        }
        if argument == "--in-turn" {
            in_turn = true;
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
        let figures = in_time(|| match in_turn {
            true => one_after_the_other(&programs, seed, size),
            false => side_by_side(&programs, seed, size),
        })?;
        println!("{}{}", table(&figures), autopsies(&figures));
        all.extend(figures);
    }
    println!("{}", table(&all));
    let mut code = ExitCode::SUCCESS;
    let mut names = programs.iter().map(|(name, _)| name);
    let envoy = names.next().ok_or("no program")?;
    for name in names {
        let verdict = Verdict::of(&all, envoy, name);
        println!("{name} after {envoy}: {verdict}");
        for complaint in verdict.complaints(&Tolerance::LONG) {
            println!("worse: {complaint}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// A seed through all programs at the same time, so that what else the machine does troubles all of them.
fn side_by_side(
    programs: &[(String, PathBuf)],
    seed: u64,
    size: Size,
) -> Result<Vec<Figures>, String> {
    let play = |(name, program): &(String, PathBuf)| {
        play(name, program, seed, size).map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = programs
            .iter()
            .map(|program| scope.spawn(move || play(program)))
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// The same with the machine to itself. Who goes first changes.
fn one_after_the_other(
    programs: &[(String, PathBuf)],
    seed: u64,
    size: Size,
) -> Result<Vec<Figures>, String> {
    let mut order: Vec<_> = programs.iter().collect();
    if seed.is_multiple_of(2) {
        order.reverse();
    }
    let play = |(name, program): &(String, PathBuf)| {
        play(name, program, seed, size).map_err(|error| error.to_string())
    };
    order.into_iter().map(play).collect()
}

/// What is played again, a few times, when the machine was so busy that it measured itself.
fn in_time(play: impl Fn() -> Result<Vec<Figures>, String>) -> Result<Vec<Figures>, String> {
    let mut figures = play()?;
    for _ in 0..3 {
        let late = figures.iter().map(|one| one.late).fold(0.0, f64::max);
        if late < LATE {
            break;
        }
        println!("once more, since requests were sent {late:.0} ms late");
        figures = play()?;
    }
    Ok(figures)
}

/// In ms: more than a request in a hundred was sent later than that.
const LATE: f64 = 50.0;
