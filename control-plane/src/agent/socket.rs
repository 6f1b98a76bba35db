//! A UNIX socket to the control plane, for clients that cannot speak TLS to it (such as gRPC of Node).
//!
//! What comes on it goes to the control plane in TLS with the agent's certificate, and back, byte by byte. So the
//! control plane sees the identity of the workload, and whoever may open the socket (mode 0600) speaks in its name.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::Agent;
use crate::admin::client::{Client, ClientError};
use crate::spawn;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Time to connect to the control plane.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Agent {
    /// Makes the socket, in the place of one that an agent has left behind.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn listen(&self, path: &Path) -> Result<UnixListener, ClientError> {
        let bind = || -> io::Result<UnixListener> {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let new = path.with_file_name(format!(".{name}.new"));
            let _ = fs::remove_file(&new);
            let listener = UnixListener::bind(&new)?;
            fs::set_permissions(&new, Permissions::from_mode(0o600))?;
            fs::rename(new, path)?;
            Ok(listener)
        };
        bind().map_err(|error| super::at(path, error))
    }

    /// Takes connections to the control plane for ever.
    pub async fn forward(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let agent = Arc::clone(&self);
                    spawn(async move {
                        agent.relay(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "A connection cannot be accepted.");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn relay(&self, mut client: UnixStream) {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.server)).await;
        let mut server = match connect.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(server = self.server, %error, "The control plane cannot be reached.");
                return;
            }
        };
        let _ = server.set_nodelay(true);
        if self.roots.is_none() {
            // Either side may end at any time.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
        let secured = async {
            let config = self.own_tls()?;
            let mut config = Arc::unwrap_or_clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            Client::secure(&self.server, Arc::new(config), server).await
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, secured).await {
            Ok(Ok(mut server)) => {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
            Ok(Err(error)) => {
                tracing::warn!(server = self.server, %error, "TLS with the control plane has failed.");
            }
            Err(_) => {
                tracing::warn!(
                    server = self.server,
                    "TLS with the control plane takes too long."
                );
            }
        }
    }
}
