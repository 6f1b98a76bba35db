//! The quickstart of the README does what it says.

use std::process::Command;

#[test]
fn quickstart_shows_a_response_of_its_backend() {
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(["--once", "--any-port"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("< HTTP/1.1 200 OK"), "{shown}");
    assert!(shown.contains("< Hello from the backend."), "{shown}");
}
