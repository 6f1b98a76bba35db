//! The differential story: the same bootstrap and the same traffic for Envoy and Outrigger, side by side.
//!
//! A case is one behaviour ([`case`]). The runner compares what the client, the backends and the access log saw on
//! either side ([`outrigger_xds_tests::observation`]), and fails a case whose promises do not hold on Envoy's side. A case that
//! fails beside others is played once more by itself; how it failed at first is printed.
//!
//! `cargo test -p outrigger-xds-tests --test differential -- WORD...` runs the cases whose name has one of the words;
//! `--list` lists them; `--show` prints what Envoy shows in each case; `--filters` counts the cases of each HTTP filter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a story reports to people and must stop loudly"
)]
#![allow(clippy::too_many_lines, reason = "a table of cases may be long")]
#![allow(
    unreachable_pub,
    reason = "a program exports nothing; `pub` marks what other files use"
)]

mod access_log;
mod admin;
mod aggregates;
mod attacks;
mod attempts;
mod bootstrap;
mod bridges;
mod case;
mod clients;
mod compression;
mod credentials;
mod custom_responses;
mod descriptors;
mod early_replies;
mod ejection_log;
mod expressions;
mod ext_authz;
mod failing;
mod filters;
mod frames;
mod framing;
mod global_limits;
mod hashing;
mod hcm;
mod health_checks;
mod hedging;
mod http2;
mod http2_options;
mod http2_upstream;
mod jwt;
mod late_tables;
mod local_limits;
mod malformed;
mod matching;
mod names;
mod network;
mod outliers;
mod overload;
mod overload_resets;
mod overload_resources;
mod overload_tcp;
mod rbac;
mod redirects;
mod retries;
mod rewriting;
mod router;
mod routing;
mod runner;
mod scopes;
mod sessions;
mod slow_start;
mod sockets;
mod subsets;
mod throttles;
mod tokens;
mod upgrades;
mod upstream;
mod upstream_log;
mod zones;

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;
use std::rc::Rc;

use outrigger_xds_tests::{Error, binaries};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::case::Case;
use crate::runner::{Binaries, Outcome, Run, run_theme};

/// A file of cases.
type Theme = (&'static str, fn() -> Vec<Case>);

const THEMES: &[Theme] = &[
    ("routing", routing::cases),
    ("matching", matching::cases),
    ("rewriting", rewriting::cases),
    ("hcm", hcm::cases),
    ("clients", clients::cases),
    ("malformed", malformed::cases),
    ("framing", framing::cases),
    ("upgrades", upgrades::cases),
    ("local_limits", local_limits::cases),
    ("global_limits", global_limits::cases),
    ("throttles", throttles::cases),
    ("router", router::cases),
    ("retries", retries::cases),
    ("attempts", attempts::cases),
    ("hedging", hedging::cases),
    ("redirects", redirects::cases),
    ("upstream_log", upstream_log::cases),
    ("upstream", upstream::cases),
    ("aggregates", aggregates::cases),
    ("health_checks", health_checks::cases),
    ("outliers", outliers::cases),
    ("failing", failing::cases),
    ("outlier_log", failing::log),
    ("early_replies", early_replies::cases),
    ("ejection_log", ejection_log::cases),
    ("slow_start", slow_start::cases),
    ("overload_requests", overload::requests),
    ("overload_keepalive", overload::keepalive),
    ("overload_connections", overload::connections),
    ("overload_accept", overload::accept),
    ("overload_decode", overload::decode),
    ("overload_codec", overload::codec),
    ("overload_abort", overload::abort),
    ("overload_go_away", overload::go_away),
    ("overload_go_away_and_close", overload::go_away_and_close),
    ("overload_tcp_data", overload_tcp::data),
    ("overload_tcp_connect", overload_tcp::connect),
    ("overload_connection_count", overload_resources::connections),
    ("overload_heap", overload_resources::heap),
    ("overload_cgroup_memory", overload_resources::cgroup_memory),
    (
        "overload_no_cgroup_memory",
        overload_resources::enough_cgroup_memory,
    ),
    ("overload_cpu", overload_resources::cpu),
    ("overload_container_cpu", overload_resources::container_cpu),
    ("overload_reset_request", overload_resets::request),
    ("overload_reset_response", overload_resets::response),
    ("overload_reset_small", overload_resets::small),
    ("overload_reset_weak", overload_resets::weak),
    ("overload_flush", overload::flush),
    ("overload_handshake", overload::handshake),
    ("overload_pools", overload::pools),
    ("overload_router", overload::router),
    ("overload_timeouts", overload::timeouts),
    ("overload_scaled", overload::scaled),
    ("filters", filters::cases),
    ("descriptors", descriptors::cases),
    ("compression", compression::cases),
    ("sessions", sessions::cases),
    ("bridges", bridges::cases),
    ("custom_responses", custom_responses::cases),
    ("jwt", jwt::cases),
    ("credentials", credentials::cases),
    ("ext_authz", ext_authz::cases),
    ("expressions", expressions::cases),
    ("hashing", hashing::cases),
    ("subsets", subsets::cases),
    ("zones", zones::cases),
    ("zones_panicking", zones::panicking),
    ("scopes", scopes::cases),
    ("late_tables", late_tables::cases),
    ("network", network::cases),
    ("rbac", rbac::cases),
    ("sockets", sockets::cases),
    ("http2", http2::cases),
    ("frames", frames::cases),
    ("attacks", attacks::cases),
    ("http2_options", http2_options::cases),
    ("http2_upstream", http2_upstream::cases),
    ("access_log", access_log::cases),
    ("admin", admin::cases),
];

#[derive(Default)]
struct Options {
    show: bool,
    list: bool,
    filters: bool,
    exact: bool,
    words: Vec<String>,
    skip: Vec<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--show" => options.show = true,
                "--list" => options.list = true,
                "--filters" => options.filters = true,
                "--exact" => options.exact = true,
                "--skip" => options.skip.extend(args.next()),
                "--format" | "--test-threads" | "--color" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                word => options.words.push(word.to_owned()),
            }
        }
        options
    }

    fn take(&self, name: &str) -> bool {
        let wanted = |word: &String| {
            if self.exact {
                name == word
            } else {
                name.contains(word.as_str())
            }
        };
        (self.words.is_empty() || self.words.iter().any(wanted)) && !self.skip.iter().any(wanted)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.filters {
        count_filters();
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match LocalSet::new().block_on(&runtime, tell(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("the story cannot be told: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints how many cases have each HTTP filter in their configuration.
fn count_filters() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in THEMES.iter().flat_map(|(_, cases)| cases()) {
        let text = format!("{case:?}").replace("envoy.extensions.filters.http.", "@http/");
        let names = text.split("@http/").skip(1);
        let names: HashSet<_> = names.filter_map(|rest| rest.split('.').next()).collect();
        for name in names {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    for (name, count) in counts {
        println!("{name} {count}");
    }
}

/// The test name of a case: theme and title in one word each.
fn name_of(theme: &str, case: &Case) -> String {
    let title: String = case
        .title
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{theme}::{title}")
}

async fn tell(options: &Options) -> Result<bool, Error> {
    let start = Instant::now();
    let mut all = 0;
    let mut taken = Vec::new();
    let mut names = HashSet::new();
    for (theme, cases) in THEMES {
        let mut mine = Vec::new();
        for case in cases() {
            let name = name_of(theme, &case);
            all += 1;
            if !names.insert(name.clone()) {
                return Err(format!("two cases are called {name}").into());
            }
            if options.take(&name) {
                mine.push((name, Rc::new(case)));
            }
        }
        taken.push((*theme, mine));
    }
    let count: usize = taken.iter().map(|(_, cases)| cases.len()).sum();
    if options.list {
        for (name, _) in taken.iter().flat_map(|(_, cases)| cases) {
            println!("{name}: test");
        }
        return Ok(true);
    }
    println!("\nrunning {count} tests");
    let mut tally = Tally {
        show: options.show,
        ..Tally::default()
    };
    if count > 0 {
        let binaries = Binaries {
            envoy: binaries::envoy()?,
            outrigger: binaries::outrigger()?,
        };
        let scratch = binaries::scratch("differential")?;
        for (theme, cases) in taken.iter().filter(|(_, cases)| !cases.is_empty()) {
            tell_theme(theme, cases, &binaries, &scratch, &mut tally).await?;
        }
    }
    tally.print(all - count, start);
    Ok(tally.failed.is_empty())
}

async fn tell_theme(
    theme: &str,
    cases: &[(String, Rc<Case>)],
    binaries: &Binaries,
    scratch: &std::path::Path,
    tally: &mut Tally,
) -> Result<(), Error> {
    let mut runs = Vec::new();
    for (number, (_, case)) in cases.iter().enumerate() {
        for protocol in case.downstream.protocols() {
            runs.push((
                number,
                Run {
                    case: case.clone(),
                    protocol: *protocol,
                },
            ));
        }
    }
    let only: Vec<_> = runs.iter().map(|(_, run)| run.clone()).collect();
    let outcomes = run_theme(theme, &only, binaries, scratch).await?;
    let mut outcomes = runs.iter().zip(outcomes).peekable();
    for (number, (name, _)) in cases.iter().enumerate() {
        let mut lines = Vec::new();
        let mut deviates = None;
        let mut alone = Vec::new();
        while let Some(((_, run), outcome)) = outcomes.next_if(|((owner, _), _)| *owner == number) {
            let (outcome, envoy) = outcome;
            if tally.show {
                println!("---- {name} over {:?}\n{}", run.protocol, envoy.join("\n"));
            }
            match outcome {
                Outcome::Passed => {}
                Outcome::PassedAlone(difference) => alone.extend(difference),
                Outcome::Deviates(reason) => deviates = Some(reason),
                Outcome::Failed(difference) => {
                    lines.push(format!("over {:?}:", run.protocol));
                    lines.extend(difference.into_iter().map(|line| format!("  {line}")));
                }
            }
        }
        if !alone.is_empty() {
            println!(
                "---- {name} passes by itself; beside others:\n{}",
                alone.join("\n")
            );
        }
        tally.add(name, deviates, lines);
    }
    Ok(())
}

/// What is told at the end, in the words of libtest.
#[derive(Default)]
struct Tally {
    show: bool,
    passed: usize,
    failed: Vec<(String, Vec<String>)>,
}

impl Tally {
    fn add(&mut self, name: &str, deviates: Option<&str>, lines: Vec<String>) {
        if !lines.is_empty() {
            println!("test {name} ... FAILED");
            self.failed.push((name.to_owned(), lines));
            return;
        }
        self.passed += 1;
        match deviates {
            Some(reason) => println!("test {name} ... ok, deviates: {reason}"),
            None => println!("test {name} ... ok"),
        }
    }

    fn print(&self, filtered: usize, start: Instant) {
        if !self.failed.is_empty() {
            println!("\nfailures (- Envoy, + Outrigger):");
        }
        for (name, lines) in &self.failed {
            println!("\n---- {name} ----\n{}", lines.join("\n"));
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
            if self.failed.is_empty() {
                "ok"
            } else {
                "FAILED"
            },
            self.passed,
            self.failed.len(),
            start.elapsed().as_secs_f64()
        );
    }
}
