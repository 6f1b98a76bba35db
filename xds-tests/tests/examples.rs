//! Every example is a configuration that Outrigger and Envoy load.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_xds_tests::binaries;

/// Each folder of `examples/`.
fn stories() -> Vec<PathBuf> {
    let mut folders: Vec<_> = std::fs::read_dir(binaries::workspace().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("envoy.yaml").is_file())
        .collect();
    folders.sort();
    folders
}

/// The folders whose YAML the program refuses, with what it says.
fn refused(binary: &Path) -> Vec<String> {
    let mut refused = Vec::new();
    for story in stories() {
        let output = Command::new(binary)
            .args([
                "--mode",
                "validate",
                "--use-dynamic-base-id",
                "-l",
                "error",
                "-c",
            ])
            .arg(story.join("envoy.yaml"))
            .output()
            .unwrap();
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            refused.push(format!("{}: {reason}", story.display()));
        }
    }
    refused
}

#[test]
fn every_example_is_loaded_by_outrigger() {
    assert_eq!(
        refused(&binaries::outrigger().unwrap()),
        Vec::<String>::new()
    );
}

#[test]
fn every_example_is_loaded_by_envoy() {
    assert_eq!(refused(&binaries::envoy().unwrap()), Vec::<String>::new());
}

#[test]
fn every_example_has_a_page_that_starts_it() {
    assert!(stories().len() >= 7);
    for story in stories() {
        let page = std::fs::read_to_string(story.join("README.md")).unwrap();
        let name = story.file_name().unwrap().to_string_lossy().into_owned();
        let started = page.contains(&format!("outrigger -c examples/{name}/envoy.yaml"))
            || name == "quickstart";
        assert!(started, "{name}");
    }
}
