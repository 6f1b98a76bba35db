//! Runs go-control-plane's integration test with a proxy, in a network namespace of its own, since its ports are fixed.
//!
//!     unshare --net -- go-control-plane MODE PROXY TEST SAMPLES FOLDER
//!
//! MODE is `ads`, `xds`, `mux`, `rest`, `delta` or `delta-ads`, or one of those with `-tls`; PROXY the proxy's program, TEST the built test,
//! SAMPLES the folder with the bootstraps of its module, FOLDER where configuration and output are left. The story
//! `go_control_plane` does all this.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of the stories, whose output and panics their reader sees"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::backend::{Act, Backend, Kind, Response, Script};
use outrigger_xds_tests::proxy::Proxy;
use tokio::process::Command;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// What the test expects of its upstream.
const GREETING: &str = "Hi, there!\n";
/// The test takes 9 s with Envoy, and gives up after some more.
const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, proxy, test, samples, folder] = arguments.as_slice() else {
        return Err("go-control-plane MODE PROXY TEST SAMPLES FOLDER".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let paths = [proxy, test, samples, folder].map(Path::new);
    LocalSet::new().block_on(&runtime, run(mode, paths))
}

async fn run(mode: &str, [proxy, test, samples, folder]: [&Path; 4]) -> Result<(), Error> {
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .await?;
    if !up.success() {
        return Err("the loopback interface of the namespace cannot be brought up".into());
    }
    let response = Response {
        status: 200,
        fields: vec![],
        body: GREETING.into(),
        trailers: vec![],
        chunked: false,
    };
    let script = Script {
        early: false,
        acts: vec![Act::Respond(response)],
    };
    let _upstream = Backend::start_at(Kind::Http1(vec![script]), 18080).await?;
    let mut mode = mode;
    let mut flags = vec![];
    if let Some(plain) = mode.strip_suffix("-tls") {
        mode = plain;
        flags.push("-tls");
    }
    if mode == "mux" {
        mode = "xds";
        flags.push("-mux");
    }
    let bootstrap = std::fs::read_to_string(samples.join(format!("bootstrap-{mode}.yaml")))?;
    let mut proxy = Proxy::launch(proxy, &bootstrap, folder, &["--drain-time-s", "1"]).await?;
    let child = Command::new(test)
        .arg(format!("--xds={mode}"))
        .arg(format!("--runtimes={}", if mode == "ads" { 2 } else { 1 }))
        // Its requests have 100 ms. All of a batch have to succeed once: ten batches are more patient than its five.
        .args(["-r=10", "-delay=300ms"])
        .args(["-debug", &format!("-message={GREETING}")])
        .args(flags)
        .current_dir(samples.parent().unwrap_or(samples))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, child).await??;
    if let Some(obituary) = proxy.obituary() {
        return Err(obituary.into());
    }
    if output.status.success() {
        return Ok(());
    }
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    println!("the proxy said: {}", proxy.last_words());
    Err(format!("{mode}: {}", output.status).into())
}
