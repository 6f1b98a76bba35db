//! Measures what filters of an API gateway cost: `bench-filters [--only WORD] [--seconds S] [--rounds N] NAME=PROGRAM…`, with Envoy
//! first, since the ratios are to the first.
//!
//! Each program runs with one worker on the last CPU; load, upstream and authorizer are this process, on the others. Each filter has a
//! listener of its own in one bootstrap, the same for all programs. Rounds of programs and filters take turns, and the
//! medians of the processor time for one request, and of its ratio within a round, count. Then each program gets 10,000 endpoints, one
//! of which changes its health every second: first as the control plane says, then as active health checks find. Fails if a goal is missed by any program but the first.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures, and stops when something is wrong"
)]

mod fleet;
mod hosts;
mod load;
mod scenario;
mod servers;
mod tokens;

use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries};
use tokio::task::LocalSet;
use tokio::time::sleep;

use self::hosts::Source;
use self::load::Load;
use self::scenario::{Goal, Scenario};
use self::servers::Servers;

/// Load before each measurement.
const WARM_UP: Duration = Duration::from_millis(300);
/// The name of the scenario without a filter, which others are compared with.
const NONE: &str = "no filter";

/// What is to be measured, and how.
struct Plan {
    programs: Vec<(String, String)>,
    only: String,
    round: Duration,
    rounds: usize,
    connections: usize,
}

fn main() -> Result<(), Error> {
    let plan = Plan::from_arguments()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, measure(&plan))
}

impl Plan {
    fn from_arguments() -> Result<Self, Error> {
        let mut plan = Self {
            programs: vec![],
            only: String::new(),
            round: Duration::from_millis(600),
            rounds: 5,
            connections: 64,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if let Some((name, path)) = argument.split_once('=') {
                plan.programs.push((name.to_owned(), path.to_owned()));
                continue;
            }
            let value = arguments
                .next()
                .ok_or(format!("{argument} needs a value"))?;
            match &*argument {
                "--only" => plan.only = value,
                "--seconds" => plan.round = Duration::from_secs_f64(value.parse()?),
                "--rounds" => plan.rounds = value.parse()?,
                "--connections" => plan.connections = value.parse()?,
                _ => return Err(format!("{argument} is not known").into()),
            }
        }
        if plan.programs.is_empty() {
            return Err("there is no NAME=PROGRAM".into());
        }
        Ok(plan)
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only) || name == NONE
    }
}

async fn measure(plan: &Plan) -> Result<(), Error> {
    let cpus = std::thread::available_parallelism()?.get();
    let last = (cpus - 1).to_string();
    let others = format!("0-{}", cpus.saturating_sub(2));
    let servers = Servers::start().await?;
    let scenarios: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| plan.wants(scenario.name))
        .collect();
    let bootstrap = scenario::bootstrap(&scenarios, &servers);
    let mut proxies = vec![];
    for (name, program) in &plan.programs {
        pin(&last)?;
        let folder = binaries::scratch(&format!("bench-filters-{name}"))?;
        proxies.push(Proxy::start(Path::new(program), &bootstrap, &folder).await?);
        pin(&others)?;
        for scenario in &scenarios {
            let address = proxies.last().unwrap().listener(scenario.name).unwrap();
            scenario.prove(address, &servers).await?;
        }
    }
    // Microseconds, by scenario and program, then by round.
    let mut figures = vec![vec![vec![]; proxies.len()]; scenarios.len()];
    for _ in 0..plan.rounds {
        for (scenario, figures) in scenarios.iter().zip(&mut figures) {
            for (proxy, figures) in proxies.iter().zip(figures) {
                figures.push(round(plan, proxy, scenario).await?);
            }
        }
    }
    drop(proxies);
    let mut missed = report(plan, &scenarios, &figures);
    for source in [Source::Eds, Source::Checks] {
        if plan.wants(source.name()) {
            missed += hosts::measure(source, &plan.programs, &last, &others).await?;
        }
    }
    if missed > 0 {
        return Err(format!("{missed} goals are missed").into());
    }
    Ok(())
}

/// Processor time and wall time for one request, in microseconds.
async fn round(plan: &Plan, proxy: &Proxy, scenario: &Scenario) -> Result<[f64; 2], Error> {
    let address = proxy.listener(scenario.name).unwrap();
    let id = proxy.id().ok_or("the process lives")?;
    let load = Load::start(address, Rc::clone(&scenario.requests), plan.connections);
    sleep(WARM_UP).await;
    let (before, count) = (processor(id)?, load.answered());
    let start = tokio::time::Instant::now();
    sleep(plan.round).await;
    let requests = (load.answered() - count) as f64;
    let figures = [
        (processor(id)? - before) * 1e6 / requests,
        start.elapsed().as_secs_f64() * 1e6 / requests,
    ];
    load.stop().await?;
    if requests < 10.0 {
        return Err(format!("{}: only {requests} requests", scenario.name).into());
    }
    Ok(figures)
}

/// Prints the medians. How many goals are missed.
fn report(plan: &Plan, scenarios: &[Scenario], figures: &[Vec<Vec<[f64; 2]>>]) -> usize {
    let mut missed = 0;
    println!("processor us for a request (requests per second)");
    for (scenario, of_programs) in scenarios.iter().zip(figures) {
        print!("  {:22}", scenario.name);
        for (place, (rounds, (name, _))) in of_programs.iter().zip(&plan.programs).enumerate() {
            let cpu = |rounds: &[[f64; 2]]| rounds.iter().map(|[cpu, _]| *cpu).collect::<Vec<_>>();
            // Within a round the machine has one pace, so what is compared is compared there.
            let (limit, unit, other) = match scenario.goal {
                Goal::OfTheFirst(most) => (most, "", &of_programs[0]),
                Goal::Beyond(most) => (most, " us more", &figures[0][place]),
            };
            let pairs = cpu(rounds).into_iter().zip(cpu(other));
            let value = median(pairs.map(|(this, other)| match scenario.goal {
                Goal::OfTheFirst(_) => this / other,
                Goal::Beyond(_) => this - other,
            }));
            let (wall, cpu) = (
                median(rounds.iter().map(|[_, wall]| *wall)),
                median(cpu(rounds)),
            );
            let is_missed = place > 0 && value > limit;
            missed += usize::from(is_missed);
            let mark = if is_missed { "!" } else { "" };
            print!(
                "  {name} {cpu:7.2} ({:6.0}) {value:5.2}{unit}{mark}",
                1e6 / wall
            );
        }
        println!();
    }
    missed
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Binds this thread, and what it starts from now on, to these CPUs.
fn pin(cpus: &str) -> Result<(), Error> {
    let status = Command::new("taskset")
        .args(["-cp", cpus, &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("taskset: {status}").into())
}

/// Seconds of processor time that the threads of a process have used, to the nanosecond.
fn processor(id: u32) -> Result<f64, Error> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ran = text.split_whitespace().next().ok_or("no time")?;
        nanoseconds += ran.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}
