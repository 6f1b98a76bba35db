//! The mesh of `examples/mesh`, with one command: the control plane, four processes with a sidecar each, and a gateway.
//!
//! `--tour` edits one file after another and shows what changes; `--once` ends after that; `--any-port` takes free
//! ports in place of those of the example; `--envoy` has Envoy as every proxy.
#![allow(clippy::print_stdout, reason = "it talks to a person")]

mod processes;
mod service;
mod tour;

use std::net::SocketAddr;
use std::process::ExitCode;

use outrigger_xds_tests::example::{CONTROL_PLANE, Example, until_interrupted};
use outrigger_xds_tests::{Error, binaries};
use processes::{HTTP, HTTPS};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [service, name, address, next @ ..] if service == "service" => {
            serve(name, address, next.first())
        }
        flags => run(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe mesh failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(name: &str, address: &str, next: Option<&String>) -> Result<(), Error> {
    let next: Option<SocketAddr> = next.map(|next| next.parse()).transpose()?;
    Ok(service::serve(name, address.parse()?, next)?)
}

fn run(flags: &[String]) -> Result<(), Error> {
    const KNOWN: [&str; 4] = ["--tour", "--once", "--any-port", "--envoy"];
    if let Some(flag) = flags.iter().find(|flag| !KNOWN.contains(&flag.as_str())) {
        return Err(format!("{flag} is none of {}", KNOWN.join(" ")).into());
    }
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    println!(
        "{}",
        binaries::building("Outrigger, with its control plane,")
    );
    let (proxy, name) = if has("--envoy") {
        (binaries::envoy()?, "mesh-of-envoys")
    } else {
        (binaries::outrigger()?, "mesh")
    };
    let mut mesh = processes::new(has("--any-port"), name)?;
    println!("2. Starting the control plane, a, b, c and c-v2 with a sidecar each, and a gateway.");
    tour::first_certificate(&mesh)?;
    processes::start(&mut mesh, &proxy)?;
    println!("3. The first request:\n");
    tour::first_request(&mut mesh)?;
    tour::forbidden_request(&mut mesh)?;
    if has("--tour") {
        tour::edits(&mut mesh)?;
    }
    if has("--once") {
        println!("Done.");
        return Ok(());
    }
    hints(&mesh);
    until_interrupted()
}

fn hints(mesh: &Example) {
    let folder = mesh.folder.display();
    let steps = processes::example().join("steps");
    println!("It keeps running. Its files are in {folder}/mesh: edit them, and it follows. Try:");
    println!("    curl http://{}/", mesh.address(HTTP));
    println!(
        "    curl -k https://localhost:{}/",
        mesh.address(HTTPS).port()
    );
    println!(
        "    cp {}/canary.yaml {folder}/mesh/traffic.yaml",
        steps.display()
    );
    println!(
        "    {} status --state {folder}/state --against {}",
        mesh.control_plane().display(),
        mesh.address(CONTROL_PLANE)
    );
    println!("    tail -f {folder}/*/log");
    println!("Ctrl-C ends it.");
}
