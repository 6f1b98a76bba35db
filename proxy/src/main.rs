//! The `outrigger` binary.

use std::io::Write;
use std::process::ExitCode;

use outrigger::explain::cli::ExplainCli;
use outrigger::server::cli::{Cli, version};
use outrigger::server::run;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory that is not used any more goes back to the system after a second, by a thread of the allocator's own.
#[allow(
    unsafe_code,
    reason = "the allocator reads its options from a symbol of this name"
)]
#[allow(non_upper_case_globals, reason = "the symbol's name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static malloc_conf: &[u8] =
    b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,metadata_thp:disabled\0";

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "explain")
    {
        return explain();
    }
    let cli = match Cli::parse_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no error; anything else is, with Envoy's exit code.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let mut out = std::io::stdout();
    // Nobody reads what cannot be written.
    if cli.version {
        let _ = writeln!(out, "\noutrigger  version: {}\n", version());
        return ExitCode::SUCCESS;
    }
    if cli.hot_restart_version {
        let _ = writeln!(out, "0");
        return ExitCode::SUCCESS;
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `outrigger explain`.
fn explain() -> ExitCode {
    let cli = match ExplainCli::parse_args(std::env::args_os().skip(2)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match cli.run() {
        Ok(explanation) => {
            let _ = writeln!(std::io::stdout(), "{explanation}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in errors {
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            ExitCode::FAILURE
        }
    }
}
