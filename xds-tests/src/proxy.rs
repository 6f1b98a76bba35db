//! A proxy process on a bootstrap: started, awaited, asked, killed on drop.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::Error;

/// The time in which a proxy must be ready; Envoy on a busy machine is slow to start.
const START: Duration = Duration::from_secs(60);

/// The time in which an admin interface must have answered: a page of stats may have megabytes.
const ADMIN: Duration = Duration::from_secs(30);

/// How the error of a proxy begins that ended by itself instead of starting: it refused its configuration.
pub const ENDED: &str = "ended with";

/// A running Envoy or Outrigger. Killed on drop.
pub struct Proxy {
    child: Child,
    admin: SocketAddr,
    output: PathBuf,
    listeners: HashMap<String, SocketAddr>,
}

impl Proxy {
    /// Starts `binary` on `bootstrap`, and waits until it is ready. The bootstrap must have an admin address
    /// (port 0 will do). Configuration and output are left in `folder`.
    pub async fn start(binary: &Path, bootstrap: &str, folder: &Path) -> Result<Self, Error> {
        Self::start_with(binary, bootstrap, folder, &[]).await
    }

    /// The same with more flags.
    pub async fn start_with(
        binary: &Path,
        bootstrap: &str,
        folder: &Path,
        flags: &[&str],
    ) -> Result<Self, Error> {
        let mut proxy = Self::launch(binary, bootstrap, folder, flags).await?;
        proxy.wait_ready().await?;
        let (_, page) = admin_get(proxy.admin, "/listeners").await?;
        proxy.listeners = parse_listeners(&page);
        Ok(proxy)
    }

    /// Starts `binary`, and waits until its admin interface answers: it may still wait for its configuration.
    pub async fn launch(
        binary: &Path,
        bootstrap: &str,
        folder: &Path,
        flags: &[&str],
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)?;
        let config = folder.join("envoy.yaml");
        let admin_path = folder.join("admin-address");
        let output = folder.join("output.txt");
        std::fs::write(&config, bootstrap)?;
        let _ = std::fs::remove_file(&admin_path);
        let sink = File::create(&output)?;
        let mut child = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_path)
            .args([
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "--disable-hot-restart",
            ])
            .args(["--file-flush-interval-msec", "50", "-l", "warning"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(sink.try_clone()?)
            .stderr(sink)
            .kill_on_drop(true)
            .spawn()?;
        let admin = match wait_admin(&mut child, &admin_path).await {
            Ok(admin) => admin,
            Err(error) => return Err(format!("{error}: {}", last_words(&output)).into()),
        };
        Ok(Self {
            child,
            admin,
            output,
            listeners: HashMap::new(),
        })
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while !matches!(admin_get(self.admin, "/ready").await, Ok((200, _))) {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{ENDED} {status}: {}", last_words(&self.output)).into());
            }
            if Instant::now() > deadline {
                return Err(format!("not ready in time: {}", last_words(&self.output)).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The address that a listener has by now.
    pub async fn listener_by_now(&self, name: &str) -> Option<SocketAddr> {
        let (_, page) = admin_get(self.admin, "/listeners").await.ok()?;
        parse_listeners(&page).remove(name)
    }

    /// Everything that it wrote, for whoever looks into a failure.
    pub fn last_words(&self) -> String {
        last_words(&self.output)
    }

    /// The process, while it lives.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The address that the listener `name` was bound to.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.get(name).copied()
    }

    /// The address of the admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64, Error> {
        let id = self.child.id().ok_or("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        let id = self.child.id().ok_or("the process has ended")?;
        let status = std::process::Command::new("kill")
            .arg(format!("-{name}"))
            .arg(id.to_string())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("kill -{name} {id}: {status}").into())
        }
    }

    /// What it said last, when the process has ended.
    pub fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!(
            "the proxy ended ({status}): {}",
            last_words(&self.output)
        ))
    }

    /// Waits for the end of the process, however long that takes.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus, Error> {
        Ok(self.child.wait().await?)
    }
}

async fn wait_admin(child: &mut Child, admin_path: &Path) -> Result<SocketAddr, Error> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(format!("{ENDED} {status}").into());
        }
        if Instant::now() > deadline {
            return Err("not ready in time".into());
        }
        if let Ok(address) = std::fs::read_to_string(admin_path)
            && let Ok(address) = address.trim().parse()
            && admin_get(address, "/ready").await.is_ok()
        {
            return Ok(address);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// One GET to an admin interface, over a connection of its own.
pub async fn admin_get(address: SocketAddr, path: &str) -> Result<(u16, String), Error> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let mut reader = crate::http1::Reader::new(&*bytes);
        let mut message = reader
            .head()
            .await
            .map_err(|stop| format!("admin {path}: {stop:?}"))?;
        let framing = crate::http1::response_framing(&message, false);
        reader.body(framing, &mut message).await;
        Ok::<_, Error>((
            message.status,
            String::from_utf8_lossy(&message.body).into_owned(),
        ))
    };
    let said = timeout(ADMIN, exchange).await;
    said.map_err(|_| format!("admin {path}: no answer"))?
}

/// Lines of `name::address:port`.
fn parse_listeners(page: &str) -> HashMap<String, SocketAddr> {
    page.lines()
        .filter_map(|line| {
            let (name, address) = line.split_once("::")?;
            Some((name.to_owned(), address.trim().parse().ok()?))
        })
        .collect()
}

/// The last lines that the process wrote, cut short; start-up errors are among them.
fn last_words(output: &Path) -> String {
    let all = std::fs::read(output).unwrap_or_default();
    let all = String::from_utf8_lossy(&all);
    let lines: Vec<String> = all
        .lines()
        .map(|line| line.chars().take(700).collect())
        .collect();
    lines[lines.len().saturating_sub(6)..].join("\n    ")
}
