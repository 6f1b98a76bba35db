//! go-control-plane's own integration test, with Outrigger for the proxy; with Envoy once, to prove the harness.
//!
//! The version is pinned in `xds-tests/go-control-plane`. Each run has a network namespace of its own: `unshare` must be allowed to
//! make one, which takes root or unprivileged user namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect, and tells what it plays"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use outrigger_xds_tests::binaries;

const MODULE: &str = "github.com/envoyproxy/go-control-plane";

/// The built test, and the bootstraps beside its source.
fn tools() -> &'static (PathBuf, PathBuf) {
    static TOOLS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let module = binaries::workspace().join("xds-tests/go-control-plane");
        let test = binaries::scratch("go-control-plane").unwrap().join("test");
        let main = format!("{MODULE}/pkg/test/main");
        go(&module, &["build", "-o", test.to_str().unwrap(), &main]);
        let folder = go(&module, &["list", "-m", "-f", "{{.Dir}}", MODULE]);
        (test, Path::new(folder.trim()).join("sample"))
    })
}

fn go(module: &Path, arguments: &[&str]) -> String {
    let output = binaries::fetching(Command::new("go").args(arguments).current_dir(module))
        .expect("Go is installed: this story builds go-control-plane's test");
    assert!(output.status.success(), "go {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A command in a new network namespace.
fn isolated(arguments: &[&str]) -> Output {
    let flags = [
        ["--net"].as_slice(),
        &["--user", "--map-root-user", "--net"],
    ];
    let allowed = flags.iter().find(|flags| {
        let probe = Command::new("unshare").args(**flags).arg("true").output();
        probe.is_ok_and(|output| output.status.success())
    });
    let allowed = allowed.expect("network namespaces can be made: the ports of the test are fixed");
    let mut command = Command::new("unshare");
    command.args(*allowed).arg("--").args(arguments);
    command.output().unwrap()
}

fn passes(mode: &str, proxy: &Path) {
    let (test, samples) = tools();
    let side = proxy.file_name().unwrap().to_string_lossy();
    let folder = binaries::scratch(&format!("go-control-plane-{mode}-{side}")).unwrap();
    let output = isolated(&[
        env!("CARGO_BIN_EXE_go-control-plane"),
        mode,
        proxy.to_str().unwrap(),
        test.to_str().unwrap(),
        samples.to_str().unwrap(),
        folder.to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{mode}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn outrigger_passes(mode: &str) {
    passes(mode, &binaries::outrigger().unwrap());
}

#[test]
fn the_harness_passes_with_envoy() {
    passes("ads", &binaries::envoy().unwrap());
}

#[test]
#[ignore = "proves the harness in every mode; minutes of other people's software"]
fn the_harness_passes_with_envoy_in_every_mode() {
    for mode in [
        "xds",
        "mux",
        "rest",
        "delta",
        "delta-ads",
        "ads-tls",
        "delta-tls",
    ] {
        passes(mode, &binaries::envoy().unwrap());
    }
}

#[test]
fn ads() {
    outrigger_passes("ads");
}

#[test]
fn xds() {
    outrigger_passes("xds");
}

#[test]
fn mux() {
    outrigger_passes("mux");
}

#[test]
fn rest() {
    outrigger_passes("rest");
}

#[test]
fn delta() {
    outrigger_passes("delta");
}

#[test]
fn delta_ads() {
    outrigger_passes("delta-ads");
}

#[test]
fn ads_tls() {
    outrigger_passes("ads-tls");
}

#[test]
fn xds_tls() {
    outrigger_passes("xds-tls");
}

#[test]
fn mux_tls() {
    outrigger_passes("mux-tls");
}

#[test]
fn rest_tls() {
    outrigger_passes("rest-tls");
}

#[test]
fn delta_tls() {
    outrigger_passes("delta-tls");
}

#[test]
fn delta_ads_tls() {
    outrigger_passes("delta-ads-tls");
}

#[test]
fn ads_over_tls() {
    outrigger_passes("ads-tls");
}

#[test]
fn delta_over_tls() {
    outrigger_passes("delta-tls");
}
