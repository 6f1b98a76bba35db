//! The admin interface, as the bootstrap has it: its address, its socket, its pages.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use tokio::net::{TcpListener, UnixListener};
use tracing::info;

use super::{FactoryContext, InitManager, ServerContext, Worker};
use crate::access_loggers::{AccessLog, AccessLogs};
use crate::admin::{Admin, AdminConfig, AdminSource};
use crate::config::{ConfigPath, Rejected};
use crate::listener::{ListenAddress, listen_alone};
use crate::net::{Address, SocketOption};

/// A converted `admin`.
#[derive(Debug)]
pub(super) struct AdminSetup {
    config: AdminConfig,
    logs: Vec<AccessLog>,
    /// None: there is no admin interface.
    address: Option<ListenAddress>,
    options: Vec<SocketOption>,
}

impl AdminSetup {
    /// Converts the bootstrap's `admin`.
    pub(super) fn from_proto(
        proto: pb::Admin,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let mut config = AdminConfig::from_proto(proto, path)?;
        let address = path.optional("address", config.address.take(), ListenAddress::from_proto);
        let options = path.each(
            "socket_options",
            std::mem::take(&mut config.socket_options),
            SocketOption::from_proto,
        );
        let logs = access_logs(&mut config, server, path);
        Ok(Self {
            config,
            logs: logs?,
            address: address?,
            options: options?.into_iter().flatten().collect(),
        })
    }

    /// Binds the address, writes it to `address_path`, and serves the pages over `source`.
    pub(super) fn start(
        self,
        source: Rc<dyn AdminSource>,
        main: &Rc<Worker>,
        address_path: Option<&Path>,
    ) -> Result<(), String> {
        let Some(address) = self.address else {
            return Ok(());
        };
        let listening = listen_alone(&address, self.options);
        let (socket, bound) = listening
            .map_err(|error| format!("admin: cannot bind '{}': {error}", address.address))?;
        info!(address = %bound, "The admin interface listens.");
        if let Some(path) = address_path {
            fs::write(path, bound.to_string()).map_err(|error| {
                format!(
                    "the admin address cannot be written to {}: {error}",
                    path.display()
                )
            })?;
        }
        let logs = AccessLogs::on_worker(&self.logs, main);
        let admin = Rc::new(Admin::new(source, &self.config).with_access_log(logs));
        let registered = match bound {
            Address::Ip(_) => TcpListener::from_std(socket.into())
                .map(|listener| drop(tokio::task::spawn_local(admin.serve_tcp(listener, bound)))),
            Address::Pipe(_) => UnixListener::from_std(socket.into())
                .map(|listener| drop(tokio::task::spawn_local(admin.serve_unix(listener, bound)))),
        };
        registered.map_err(|error| format!("the admin socket cannot be registered: {error}"))
    }
}

/// The logs of `access_log`, and the one of the deprecated `access_log_path`.
fn access_logs(
    config: &mut AdminConfig,
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<Vec<AccessLog>, Rejected> {
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("admin"),
    };
    let protos = std::mem::take(&mut config.access_log);
    let logs = path.each("access_log", protos, |log, path| {
        AccessLog::from_proto(log, &cx, path)
    });
    let file = std::mem::take(&mut config.access_log_path);
    if !file.is_empty() {
        let log = AccessLog::to_file(&file, &cx, &path.field("access_log_path"));
        return logs.and_then(|mut logs| {
            logs.push(log?);
            Ok(logs)
        });
    }
    logs
}
