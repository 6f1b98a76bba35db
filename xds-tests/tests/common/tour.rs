//! A program that starts an example, shows what it does, and fails where that is not what the example's page says.

use std::process::Command;

/// Runs a tour to its end; what it shows has all of these promises.
pub fn tour(program: &str, more: &[&str], promises: &[&str]) {
    let output = Command::new(program)
        .args(["--tour", "--once", "--any-port"])
        .args(more)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for promise in promises {
        assert!(shown.contains(promise), "{promise}: {shown}");
    }
}
