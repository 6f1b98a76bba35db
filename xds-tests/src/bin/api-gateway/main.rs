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
use std::sync::Arc;

use issuer::Issuer;
use outrigger_xds_tests::example::{CONTROL_PLANE, Example, until_interrupted};
use outrigger_xds_tests::{Error, binaries};
use processes::{HTTP, ISSUER};

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
        "{}",
        binaries::building("Outrigger, with its control plane,")
    );
    let (proxy, name) = if has("--envoy") {
        (binaries::envoy()?, "api-gateway-of-envoy")
    } else {
        (binaries::outrigger()?, "api-gateway")
    };
    let issuer = Arc::new(Issuer::new("example")?);
    let mut gateway = processes::new(has("--any-port"), name)?;
    println!("2. Starting the control plane, a gateway, orders and orders-next, and the issuer.");
    processes::start(&mut gateway, &issuer, &proxy)?;
    tour::first_request(&mut gateway, &issuer)?;
    if has("--tour") {
        tour::all(&mut gateway, &issuer)?;
    }
    if has("--once") {
        println!("Done.");
        return Ok(());
    }
    hints(&gateway);
    until_interrupted()
}

fn hints(gateway: &Example) {
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
