//! `outrigger-control-plane`: see `--help`, and the library for how it works.

#![allow(
    clippy::print_stdout,
    reason = "a program of the command line answers there"
)]

mod flags;
mod remote;
mod serve;

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use http::Method;
use outrigger_control_plane::admin::client::Client;
use outrigger_control_plane::agent::Agent;
use outrigger_control_plane::model;
use outrigger_control_plane::telemetry::{LogFormat, Telemetry};
use outrigger_control_plane::world::World;
use serde_json::{Value as Json, json};

use flags::{AgentFlags, Command, Flags, LogLines};
use remote::{call, diff_text, object_text, show, status_text, texts};
use serve::run;

/// Large meshes are many small allocations, which it makes faster and packs closer than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(observed(flags)) {
        Ok(code) => code,
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "outrigger-control-plane: {error}");
    ExitCode::FAILURE
}

/// Does what is asked, with logs and traces of it.
async fn observed(flags: Flags) -> Result<ExitCode, Box<dyn Error>> {
    let collector = match &flags.command {
        Command::Run(run) => run.tracing.collector()?,
        _ => None,
    };
    let format = match flags.log_format {
        LogLines::Text => LogFormat::Text,
        LogLines::Json => LogFormat::Json,
    };
    let telemetry = Telemetry::start(&flags.log, format, collector.as_ref())?;
    let done = command(flags.command, &telemetry).await;
    telemetry.end().await;
    done
}

async fn command(command: Command, telemetry: &Telemetry) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run(flags) => run(*flags, telemetry).await?,
        Command::Validate { directory, json } => return Ok(validate(&directory, json)),
        Command::Status(remote) => {
            let text = call(&remote, Method::GET, "/v1/status", None).await?;
            show(&remote, &text, status_text)?;
        }
        Command::Metrics(remote) => {
            print!("{}", call(&remote, Method::GET, "/metrics", None).await?)
        }
        Command::Get { node, remote } => {
            let path = format!("/v1/config?node={node}");
            let text = call(&remote, Method::GET, &path, None).await?;
            let json: Json = serde_json::from_str(&text)?;
            println!("{}", serde_json::to_string_pretty(&json)?);
        }
        Command::Diff { directory, remote } => {
            let files = texts(&directory, &directory)?;
            let text = call(&remote, Method::POST, "/v1/diff", Some(&json!(files))).await?;
            show(&remote, &text, diff_text)?;
        }
        Command::Token { node, ttl, remote } => {
            let request = json!({"node": node, "ttlSeconds": ttl});
            let text = call(&remote, Method::POST, "/v1/tokens", Some(&request)).await?;
            show(&remote, &text, |json| {
                json["token"].as_str().unwrap_or_default().to_owned() + "\n"
            })?;
        }
        Command::Rotate(remote) => {
            let text = call(&remote, Method::POST, "/v1/rotate", None).await?;
            show(&remote, &text, |json| format!("{} is done\n", json["step"]))?;
        }
        Command::Agent(flags) => agent(flags).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn validate(directory: &Path, json: bool) -> ExitCode {
    match model::load(directory) {
        Err(errors) if json => {
            println!("{}", json!({"errors": errors}));
            ExitCode::FAILURE
        }
        Err(errors) => {
            for error in errors {
                println!("{error}");
            }
            ExitCode::FAILURE
        }
        Ok(model) => {
            let world = World::build(&model, "mesh.local", &[], None);
            let failed: Vec<_> = world
                .statuses
                .iter()
                .filter(|status| status.has_failed())
                .collect();
            if json {
                println!("{}", json!({"errors": [], "objects": world.statuses}));
            } else {
                for status in &failed {
                    print!("{}", object_text(&json!(status)));
                }
                println!(
                    "{} objects, {} with a problem",
                    world.statuses.len(),
                    failed.len()
                );
            }
            if failed.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn agent(flags: AgentFlags) -> Result<(), Box<dyn Error>> {
    let roots = flags.roots.as_deref().map(Client::file).transpose()?;
    let agent = Arc::new(Agent {
        server: flags.server,
        roots: roots.filter(|_| !flags.insecure_plaintext),
        token: flags.token,
        directory: std::path::absolute(flags.directory)?,
        node: flags.node,
        admin: flags.admin,
        socket: flags.socket.map(std::path::absolute).transpose()?,
    });
    agent.enroll().await?;
    let listener = match &agent.socket {
        Some(path) => Some(agent.listen(path)?),
        None => None,
    };
    let forward = async {
        match listener {
            Some(listener) => Arc::clone(&agent).forward(listener).await,
            None if agent.roots.is_some() => std::future::pending().await,
            None => {}
        }
    };
    let renew = async {
        match &agent.roots {
            Some(_) => agent.renew().await,
            None => std::future::pending().await,
        }
    };
    if !flags.once {
        tokio::select! {
            () = forward => {}
            () = renew => {}
        }
    }
    Ok(())
}
