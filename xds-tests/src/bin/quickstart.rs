//! The quickstart: a small backend, Outrigger on `examples/quickstart/envoy.yaml`, and a request through it.
//!
//! `--once` ends after the request; `--any-port` takes free ports in place of those of the example.
#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::net::SocketAddr;
use std::process::ExitCode;

use outrigger_xds_tests::backend::{Act, Backend, Kind, Response, Script};
use outrigger_xds_tests::client::{self, Protocol, Request, Step};
use outrigger_xds_tests::message::text;
use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries};
use tokio::task::LocalSet;

/// The ports in the example.
const BACKEND: u16 = 18080;
const LISTENER: u16 = 10000;
const ADMIN: u16 = 9901;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match LocalSet::new().block_on(&runtime, run(has("--once"), has("--any-port"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe quickstart failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(once: bool, any_port: bool) -> Result<(), Error> {
    println!("{}", binaries::building("Outrigger"));
    let binary = binaries::outrigger()?;

    let port = if any_port { 0 } else { BACKEND };
    let backend = Backend::start_at(Kind::Http1(vec![greeting()]), port)
        .await
        .map_err(|error| format!("port {port} of the backend: {error}"))?;
    println!("2. A backend listens on {}.", backend.address());

    let example = binaries::workspace().join("examples/quickstart/envoy.yaml");
    let mut yaml = std::fs::read_to_string(&example)?;
    if any_port {
        let replace = |yaml: &str, from: u16, to: u16| {
            yaml.replace(&format!("port_value: {from}"), &format!("port_value: {to}"))
        };
        yaml = replace(&yaml, BACKEND, backend.address().port());
        yaml = replace(&yaml, LISTENER, 0);
        yaml = replace(&yaml, ADMIN, 0);
    }
    let scratch = binaries::scratch("quickstart")?;
    let mut proxy = Proxy::start(&binary, &yaml, &scratch).await?;
    let address = proxy
        .listener("ingress")
        .ok_or("the proxy has no listener called ingress")?;
    println!(
        "3. Outrigger runs on {} and listens on {address}.",
        example.display()
    );

    println!("4. A request through it:\n");
    let status = send(address).await?;
    if status != 200 {
        return Err(format!("the answer was {status}").into());
    }
    if once {
        println!("\nDone.");
        return Ok(());
    }
    println!("\nIt keeps running. Try:");
    println!("    curl -v http://{address}/anything");
    println!(
        "    curl http://{}/stats?filter=downstream_rq",
        proxy.admin_address()
    );
    println!("Ctrl-C ends it.");
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        ended = proxy.ended() => return Err(format!("the proxy ended: {}", ended?).into()),
    }
    Ok(())
}

fn greeting() -> Script {
    let response = Response {
        status: 200,
        fields: vec![("content-type".into(), "text/plain".into())],
        body: b"Hello from the backend.\n".to_vec(),
        trailers: vec![],
        chunked: false,
    };
    Script {
        early: false,
        acts: vec![Act::Respond(response)],
    }
}

/// Sends a request, prints it and its response, and gives the status.
async fn send(address: SocketAddr) -> Result<u16, Error> {
    let request = Request {
        method: "GET".into(),
        path: "/hello".into(),
        authority: address.to_string(),
        fields: vec![("user-agent".into(), "quickstart".into())],
        body: None,
        trailers: vec![],
        chunked: false,
    };
    println!("   > GET /hello HTTP/1.1\n   > host: {address}\n   >");
    let transcript = client::play(address, Protocol::Http1, &[Step::Request(request)]).await;
    let response = transcript.messages.last().ok_or("there was no answer")?;
    println!("   < {}", response.line);
    for (name, value) in &response.fields {
        println!("   < {name}: {value}");
    }
    println!("   <\n   < {}", text(response.body.trim_ascii_end()));
    Ok(response.status)
}
