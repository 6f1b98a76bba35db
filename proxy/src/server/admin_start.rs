//! The admin interface, as the bootstrap has it: its address, its socket, its pages.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::accesslog::v3::{AccessLog as AccessLogProto, access_log};
use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use tokio::net::{TcpListener, UnixListener};
use tracing::info;

use super::{FactoryContext, ServerContext};
use crate::access_loggers::AccessLog;
use crate::admin::{Admin, AdminConfig, AdminSource};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::listener::{ListenAddress, listen_alone};
use crate::net::{Address, SocketOption};

/// A converted `admin`.
#[derive(Debug)]
pub(super) struct AdminSetup {
    config: AdminConfig,
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
        let logs = path.each(
            "access_log",
            std::mem::take(&mut config.access_log),
            |log, path| check_access_log(log, server, path),
        );
        logs?;
        Ok(Self {
            config,
            address: address?,
            options: options?.into_iter().flatten().collect(),
        })
    }

    /// Binds the address, writes it to `address_path`, and serves the pages over `source`.
    pub(super) fn start(
        self,
        source: Rc<dyn AdminSource>,
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
        let admin = Rc::new(Admin::new(source, &self.config));
        let registered = match bound {
            Address::Ip(_) => TcpListener::from_std(socket.into())
                .map(|listener| drop(tokio::task::spawn_local(admin.serve_tcp(listener)))),
            Address::Pipe(_) => UnixListener::from_std(socket.into())
                .map(|listener| drop(tokio::task::spawn_local(admin.serve_unix(listener)))),
        };
        registered.map_err(|error| format!("the admin socket cannot be registered: {error}"))
    }
}

/// What control planes configure is a file that nobody keeps; a log with entries is not written yet.
fn check_access_log(
    proto: AccessLogProto,
    server: &Arc<ServerContext>,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let any = proto.config_type.clone();
    let scope = server.stats.scope("");
    let cx = FactoryContext {
        server,
        scope: &scope,
    };
    AccessLog::from_proto(proto, &cx, path)?;
    let any = any.map(|access_log::ConfigType::TypedConfig(any)| any);
    let config = TypedConfig::required("typed_config", any, path)?;
    let discards = config.type_name == "envoy.extensions.access_loggers.file.v3.FileAccessLog"
        && config.decode::<FileAccessLog>(path)?.path == "/dev/null";
    if discards {
        Ok(())
    } else {
        Err(path.reject(
            "is not supported for the admin interface; legal is a file logger to /dev/null",
        ))
    }
}
