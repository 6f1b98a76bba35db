//! The API gateway of `examples/api-gateway`, with one command: the control plane, a gateway, two versions of a service,
//! and who signs tokens.
//!
//! `--tour` shows what it does and fails where it does not; `--once` ends after that; `--any-port` takes free ports in
//! place of those of the example; `--envoy` has Envoy as the gateway.
#![allow(clippy::print_stdout, reason = "it talks to a person")]

mod issuer;
mod orders;
mod processes;
mod server;
mod tour;

use std::process::ExitCode;

use outrigger_xds_tests::{Error, binaries};
use processes::{CONTROL_PLANE, Gateway, HTTP, ISSUER};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let flags: Vec<_> = std::env::args().skip(1).collect();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe API gateway failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &[String]) -> Result<(), Error> {
    const KNOWN: [&str; 4] = ["--tour", "--once", "--any-port", "--envoy"];
    if let Some(flag) = flags.iter().find(|flag| !KNOWN.contains(&flag.as_str())) {
        return Err(format!("{flag} is none of {}", KNOWN.join(" ")).into());
    }
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    println!(
        "1. Building Outrigger and its control plane (the first time this takes some minutes)."
    );
    let (proxy, name) = if has("--envoy") {
        (binaries::envoy()?, "api-gateway-of-envoy")
    } else {
        (binaries::outrigger()?, "api-gateway")
    };
    let mut gateway = Gateway::new(has("--any-port"), name)?;
    println!("2. Starting the control plane, a gateway, orders and orders-next, and the issuer.");
    gateway.start(&proxy)?;
    tour::first_request(&mut gateway)?;
    if has("--tour") {
        tour::all(&mut gateway)?;
    }
    if has("--once") {
        println!("Done.");
        return Ok(());
    }
    hints(&gateway);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                stopped = tokio::signal::ctrl_c() => stopped?,
                _ = terminate.recv() => {}
            }
            Ok(())
        })
}

fn hints(gateway: &Gateway) {
    let folder = gateway.folder.display();
    println!("It keeps running. It follows every change of {folder}/input/gateway.yaml. Try:");
    println!(
        "    TOKEN=$(curl -s 'http://{}/token?user=ann')",
        gateway.address(ISSUER)
    );
    println!(
        "    curl -i -H \"authorization: Bearer $TOKEN\" http://{}/orders",
        gateway.address(HTTP)
    );
    println!(
        "    {} status --state {folder}/state --against {}",
        gateway.control_plane().display(),
        gateway.address(CONTROL_PLANE)
    );
    println!("Ctrl-C ends it.");
}
