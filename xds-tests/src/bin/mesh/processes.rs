//! The processes of the example, which end with it, and the folder with all they write.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::{Error, binaries};
use tokio::time::Instant;

/// The ports in the example.
pub(crate) const CONTROL_PLANE: u16 = 18000;
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

/// All that runs.
pub(crate) struct Mesh {
    /// `mesh/` with the input, and a folder with a log for each process.
    pub(crate) folder: PathBuf,
    control_plane: PathBuf,
    ports: BTreeMap<u16, u16>,
    running: Vec<(String, Child)>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for (_, child) in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Mesh {
    /// Copies the input, onto free ports if that is wished.
    pub(crate) fn new(any_port: bool, name: &str) -> Result<Self, Error> {
        let folder = binaries::scratch(name)?;
        let mesh = Self {
            folder,
            control_plane: binaries::control_plane()?,
            ports: if any_port {
                free()?
            } else {
                PORTS.map(|port| (port, port)).into()
            },
            running: Vec::new(),
        };
        fs::create_dir(mesh.folder.join("mesh"))?;
        for entry in fs::read_dir(example().join("mesh"))? {
            let name = entry?.file_name();
            let text = fs::read_to_string(example().join("mesh").join(&name))?;
            mesh.write(&name.to_string_lossy(), &text)?;
        }
        Ok(mesh)
    }

    /// Starts the processes and waits for the control plane. `proxy` is Outrigger or Envoy.
    pub(crate) fn start(&mut self, proxy: &Path) -> Result<(), Error> {
        let this = std::env::current_exe()?;
        for (name, port, next) in SERVICES {
            let mut command = Command::new(&this);
            command.args(["service", name, &self.address(port).to_string()]);
            command.args(next.map(|next| self.address(next).to_string()));
            self.run(&format!("service-{name}"), command)?;
        }
        let mut command = Command::new(&self.control_plane);
        command.arg("run").arg(self.folder.join("mesh"));
        command.arg("--state").arg(self.folder.join("state"));
        command.args(["--listen", &self.address(CONTROL_PLANE).to_string()]);
        self.run("control-plane", command)?;
        self.eventually("the control plane to answer", |mesh| {
            Ok(mesh.operator(&["status"]).is_ok().then_some(()))
        })?;
        for (node, name) in PROXIES {
            let token = self.operator(&["token", node])?;
            let directory = self.folder.join(name);
            let mut command = Command::new(&self.control_plane);
            command.args(["agent", node, "--token", token.trim()]);
            command.args(["--server", &self.address(CONTROL_PLANE).to_string()]);
            command
                .arg("--roots")
                .arg(self.folder.join("state/roots.pem"));
            command.arg("--directory").arg(&directory);
            self.run(&format!("{name}-agent"), command)?;
            self.eventually("an agent to enrol", |_| {
                Ok(directory.join("bootstrap.yaml").is_file().then_some(()))
            })?;
            let mut command = Command::new(proxy);
            command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c"]);
            command.arg(directory.join("bootstrap.yaml"));
            self.run(name, command)?;
        }
        Ok(())
    }

    /// What a command of the operator says.
    pub(crate) fn operator(&self, words: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.control_plane)
            .args(words)
            .arg("--state")
            .arg(self.folder.join("state"))
            .args(["--against", &self.address(CONTROL_PLANE).to_string()])
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The program of the control plane.
    pub(crate) fn control_plane(&self) -> &Path {
        &self.control_plane
    }

    /// Where what listens on a port of the example does.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[&port]).into()
    }

    /// Puts a file into the input, as a whole, with the ports of this run.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let mut text = text.to_owned();
        for (written, used) in &self.ports {
            text = text.replace(&written.to_string(), &used.to_string());
        }
        let new = self.folder.join(name);
        fs::write(&new, text)?;
        fs::rename(new, self.folder.join("mesh").join(name))?;
        Ok(())
    }

    /// What a process has logged.
    pub(crate) fn log(&self, name: &str) -> Result<String, Error> {
        Ok(fs::read_to_string(self.folder.join(name).join("log"))?)
    }

    /// Waits for something, a minute at most, as long as every process runs.
    pub(crate) fn eventually<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut(&Self) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = check(self)? {
                return Ok(found);
            }
            for (name, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    return Err(format!("{name} ended with {status}").into());
                }
            }
            if Instant::now() > end {
                return Err(format!("a minute was not enough for {what}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn run(&mut self, name: &str, mut command: Command) -> Result<(), Error> {
        fs::create_dir_all(self.folder.join(name))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(name).join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }
}

/// The folder of the example.
pub(crate) fn example() -> PathBuf {
    binaries::workspace().join("examples/mesh")
}

/// A free port for each; not of those that the kernel gives to clients, who might be faster.
fn free() -> Result<BTreeMap<u16, u16>, Error> {
    let start = u16::try_from(std::process::id() % 400)? * 25 + 20_000;
    let mut held = Vec::new();
    for port in start..start + 200 {
        held.extend(TcpListener::bind(("127.0.0.1", port)));
        if held.len() == PORTS.len() {
            break;
        }
    }
    if held.len() < PORTS.len() {
        return Err(format!("there are no free ports from {start} on").into());
    }
    PORTS
        .into_iter()
        .zip(held)
        .map(|(port, listener)| Ok((port, listener.local_addr()?.port())))
        .collect()
}
