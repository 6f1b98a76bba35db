//! An example that runs: its processes, which end with it, and the folder with all that they write.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::{Error, binaries};

/// The port of the control plane, in every example.
pub const CONTROL_PLANE: u16 = 18000;

/// A control plane, its proxies, and what else the example is made of.
#[derive(Debug)]
pub struct Example {
    /// The input of the control plane, and a folder with a log for each process.
    pub folder: PathBuf,
    input: &'static str,
    control_plane: PathBuf,
    ports: BTreeMap<u16, u16>,
    running: Vec<(String, Child)>,
}

impl Drop for Example {
    fn drop(&mut self) {
        for (_, child) in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Example {
    /// Makes a folder of this name, with another one for the input in it. `ports` are those that the example's files name;
    /// others, which are free, stand for them if that is wished.
    pub fn new(
        name: &str,
        input: &'static str,
        ports: &[u16],
        any_port: bool,
    ) -> Result<Self, Error> {
        let folder = binaries::scratch(name)?;
        fs::create_dir(folder.join(input))?;
        Ok(Self {
            folder,
            input,
            control_plane: binaries::control_plane()?,
            ports: match any_port {
                true => free(ports)?,
                false => ports.iter().map(|port| (*port, *port)).collect(),
            },
            running: Vec::new(),
        })
    }

    /// Puts a file into the input, as a whole, with the ports of this run.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let mut text = text.to_owned();
        for (written, used) in &self.ports {
            text = text.replace(&written.to_string(), &used.to_string());
        }
        let new = self.folder.join(name);
        fs::write(&new, text)?;
        fs::rename(new, self.folder.join(self.input).join(name))?;
        Ok(())
    }

    /// Starts the control plane, and waits until it answers.
    pub fn start_control_plane(&mut self) -> Result<(), Error> {
        let mut command = Command::new(&self.control_plane);
        command.arg("run").arg(self.folder.join(self.input));
        command.arg("--state").arg(self.folder.join("state"));
        command.args(["--listen", &self.address(CONTROL_PLANE).to_string()]);
        self.run("control-plane", command)?;
        self.eventually("the control plane to answer", |it| {
            Ok(it.operator(&["status"]).is_ok().then_some(()))
        })
    }

    /// Enrols a node, and starts its proxy, Outrigger or Envoy. Both log below `name`.
    pub fn start_proxy(&mut self, node: &str, name: &str, proxy: &Path) -> Result<(), Error> {
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
        let bootstrap = directory.join("bootstrap.yaml");
        self.eventually("an agent to enrol", |_| {
            Ok(bootstrap.is_file().then_some(()))
        })?;
        let mut command = Command::new(proxy);
        command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c"]);
        command.arg(bootstrap);
        self.run(name, command)
    }

    /// Starts a process.
    pub fn run(&mut self, name: &str, mut command: Command) -> Result<(), Error> {
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

    /// What a command of the operator says.
    pub fn operator(&self, words: &[&str]) -> Result<String, Error> {
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
    pub fn control_plane(&self) -> &Path {
        &self.control_plane
    }

    /// Where what listens on a port of the example does.
    pub fn address(&self, port: u16) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[&port]).into()
    }

    /// What a process has logged.
    pub fn log(&self, name: &str) -> Result<String, Error> {
        Ok(fs::read_to_string(self.folder.join(name).join("log"))?)
    }

    /// Waits for something, a minute at most, as long as every process runs.
    pub fn eventually<T>(
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
}

/// Waits for Ctrl-C, or for a request to end.
pub fn until_interrupted() -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                stopped = tokio::signal::ctrl_c() => stopped?,
                _ = terminate.recv() => {}
            }
            Ok(())
        })
}

/// A free port for each; not of those that the kernel gives to clients, who might be faster.
fn free(ports: &[u16]) -> Result<BTreeMap<u16, u16>, Error> {
    let start = u16::try_from(std::process::id() % 400)? * 25 + 20_000;
    let mut held = Vec::new();
    for port in start..start + 200 {
        held.extend(TcpListener::bind(("127.0.0.1", port)));
        if held.len() == ports.len() {
            break;
        }
    }
    if held.len() < ports.len() {
        return Err(format!("there are no free ports from {start} on").into());
    }
    ports
        .iter()
        .zip(held)
        .map(|(port, listener)| Ok((*port, listener.local_addr()?.port())))
        .collect()
}
