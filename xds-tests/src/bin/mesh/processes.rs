//! What the example is made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_xds_tests::example::{CONTROL_PLANE, Example};
use outrigger_xds_tests::{Error, binaries};

/// The ports in the example.
pub(crate) const HTTP: u16 = 10080;
pub(crate) const HTTPS: u16 = 10443;
const PORTS: [u16; 13] = [
    CONTROL_PLANE,
    HTTP,
    HTTPS,
    18081,
    18082,
    18083,
    18084,
    18091,
    18092,
    18093,
    18094,
    18102,
    18103,
];
/// Name, its port, and the port at which it calls the next one.
const SERVICES: [(&str, u16, Option<u16>); 4] = [
    ("a", 18081, Some(18102)),
    ("b", 18082, Some(18103)),
    ("c", 18083, None),
    ("c-v2", 18084, None),
];
/// Nodes, and the folder of each.
const PROXIES: [(&str, &str); 5] = [
    ("sidecar/default/a", "sidecar-a"),
    ("sidecar/default/b", "sidecar-b"),
    ("sidecar/default/c", "sidecar-c"),
    ("sidecar/default/c-v2", "sidecar-c-v2"),
    ("gateway/default/edge", "gateway"),
];

/// Copies the input, onto free ports if that is wished.
pub(crate) fn new(any_port: bool, name: &str) -> Result<Example, Error> {
    let mesh = Example::new(name, "mesh", &PORTS, any_port)?;
    for entry in fs::read_dir(example().join("mesh"))? {
        let name = entry?.file_name();
        let text = fs::read_to_string(example().join("mesh").join(&name))?;
        mesh.write(&name.to_string_lossy(), &text)?;
    }
    Ok(mesh)
}

/// Starts the processes and waits for the control plane. `proxy` is Outrigger or Envoy.
pub(crate) fn start(mesh: &mut Example, proxy: &Path) -> Result<(), Error> {
    let this = std::env::current_exe()?;
    for (name, port, next) in SERVICES {
        let mut command = Command::new(&this);
        command.args(["service", name, &mesh.address(port).to_string()]);
        command.args(next.map(|next| mesh.address(next).to_string()));
        mesh.run(&format!("service-{name}"), command)?;
    }
    mesh.start_control_plane()?;
    for (node, name) in PROXIES {
        mesh.start_proxy(node, name, proxy)?;
    }
    Ok(())
}

/// The folder of the example.
pub(crate) fn example() -> PathBuf {
    binaries::workspace().join("examples/mesh")
}
