//! The processes of the example, which end with it, and the folder with all they write.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::{Error, binaries};
use tokio::time::Instant;

use crate::issuer::Issuer;
use crate::orders;

/// The ports in the example.
pub(crate) const CONTROL_PLANE: u16 = 18000;
pub(crate) const HTTP: u16 = 10080;
pub(crate) const ISSUER: u16 = 18090;
const ORDERS: u16 = 18081;
const ORDERS_NEXT: u16 = 18082;
const PORTS: [u16; 5] = [CONTROL_PLANE, HTTP, ISSUER, ORDERS, ORDERS_NEXT];
const FILE: &str = "gateway.yaml";

/// All that runs.
pub(crate) struct Gateway {
    /// `input/` with the file, and a folder with a log for each process.
    pub(crate) folder: PathBuf,
    /// Who signs tokens.
    pub(crate) issuer: Arc<Issuer>,
    control_plane: PathBuf,
    ports: BTreeMap<u16, u16>,
    running: Vec<(String, Child)>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for (_, child) in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Gateway {
    /// Copies the input, onto free ports if that is wished.
    pub(crate) fn new(any_port: bool, name: &str) -> Result<Self, Error> {
        let gateway = Self {
            folder: binaries::scratch(name)?,
            issuer: Arc::new(Issuer::new("example")?),
            control_plane: binaries::control_plane()?,
            ports: if any_port {
                free()?
            } else {
                PORTS.map(|port| (port, port)).into()
            },
            running: Vec::new(),
        };
        fs::create_dir(gateway.folder.join("input"))?;
        let example = binaries::workspace().join("examples/api-gateway");
        let mut text = fs::read_to_string(example.join(FILE))?;
        for (written, used) in &gateway.ports {
            text = text.replace(&written.to_string(), &used.to_string());
        }
        fs::write(gateway.folder.join("input").join(FILE), text)?;
        Ok(gateway)
    }

    /// Starts what serves, and waits for the control plane. `proxy` is Outrigger or Envoy.
    pub(crate) fn start(&mut self, proxy: &Path) -> Result<(), Error> {
        orders::start("orders", self.address(ORDERS))?;
        orders::start("orders-next", self.address(ORDERS_NEXT))?;
        self.issuer.start(self.address(ISSUER))?;
        let listen = self.address(CONTROL_PLANE).to_string();
        let mut command = Command::new(&self.control_plane);
        command.arg("run").arg(self.folder.join("input"));
        command.arg("--state").arg(self.folder.join("state"));
        command.args(["--listen", &listen]);
        self.run("control-plane", command)?;
        self.eventually("the control plane to answer", |it| {
            Ok(it.operator(&["status"]).is_ok().then_some(()))
        })?;
        let token = self.operator(&["token", "gateway/default/api"])?;
        let directory = self.folder.join("gateway");
        let mut command = Command::new(&self.control_plane);
        command.args(["agent", "gateway/default/api", "--token", token.trim()]);
        command.args(["--server", &listen]);
        command
            .arg("--roots")
            .arg(self.folder.join("state/roots.pem"));
        command.arg("--directory").arg(&directory);
        self.run("agent", command)?;
        let bootstrap = directory.join("bootstrap.yaml");
        self.eventually("the agent to enrol", |_| {
            Ok(bootstrap.is_file().then_some(()))
        })?;
        let mut command = Command::new(proxy);
        command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c"]);
        command.arg(bootstrap);
        self.run("gateway", command)
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
        let folder = self.folder.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let log = File::create(folder.join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }
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
