//! The secrets of the process by kind and name.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use outrigger_proto::pb::envoy::admin::v3::SecretsConfigDump;
use outrigger_proto::pb::envoy::admin::v3::secrets_config_dump::{DynamicSecret, StaticSecret};
use outrigger_proto::pb::envoy::config::core::v3::ConfigSource;
use outrigger_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use parking_lot::Mutex;

use super::cell::{CellStats, SecretCell};
use super::file;
use crate::config::{ConfigPath, Rejected, timestamp};
use crate::files::DirectoryWatcher;
use crate::server::FactoryContext;
use crate::xds::{FetchFailure, Interest, ResourceKind, Watcher, XdsSource};

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// A certificate with its key.
    TlsCertificate,
    /// How peers are validated.
    ValidationContext,
    /// Keys of session tickets.
    SessionTicketKeys,
    /// Anything else.
    Generic,
}

/// All secrets that are known or asked for.
#[derive(Default)]
pub struct SecretStore {
    statics: Mutex<HashMap<(SecretKind, String), Arc<SecretCell>>>,
    /// By name and where from, so that all who ask for the same share one.
    dynamic: Mutex<HashMap<(SecretKind, String, Vec<u8>), Weak<SecretCell>>>,
    directories: Arc<DirectoryWatcher>,
}

impl SecretKind {
    /// The kind of a secret that is there.
    pub fn of(secret: &pb::Secret) -> Option<Self> {
        Some(match secret.r#type.as_ref()? {
            pb::secret::Type::TlsCertificate(_) => Self::TlsCertificate,
            pb::secret::Type::ValidationContext(_) => Self::ValidationContext,
            pb::secret::Type::SessionTicketKeys(_) => Self::SessionTicketKeys,
            pb::secret::Type::GenericSecret(_) => Self::Generic,
        })
    }
}

impl SecretStore {
    /// Takes the secrets of `static_resources.secrets`.
    pub fn add_static(&self, secret: pb::Secret, path: &ConfigPath<'_>) -> Result<(), Rejected> {
        let Some(kind) = SecretKind::of(&secret) else {
            return Err(path.reject("is empty: one of tls_certificate, validation_context, session_ticket_keys, generic_secret"));
        };
        let name = secret.name.clone();
        let cell = SecretCell::fixed(kind, secret);
        let mut statics = self.statics.lock();
        if statics.insert((kind, name.clone()), cell).is_some() {
            return Err(path.field("name").reject(format!(
                "\"{name}\" is the name of an earlier secret already"
            )));
        }
        Ok(())
    }

    /// The secret that an `SdsSecretConfig` means: a static one, one of a file, or one that a server delivers. Who asks
    /// (`cx.init`) waits for it if it is not there.
    pub fn find(
        &self,
        kind: SecretKind,
        config: pb::SdsSecretConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<SecretCell>, Rejected> {
        let pb::SdsSecretConfig { name, sds_config } = config;
        let Some(source) = sds_config else {
            let found = self.statics.lock().get(&(kind, name.clone())).cloned();
            return found.ok_or_else(|| {
                path.field("name").reject(format!(
                    "\"{name}\" is not the name of a static secret of this kind"
                ))
            });
        };
        let key = (kind, name.clone(), prost::Message::encode_to_vec(&source));
        let known = self.dynamic.lock().get(&key).and_then(Weak::upgrade);
        let cell = match known {
            Some(cell) => cell,
            None => {
                let path = path.field("sds_config");
                let cell = self.subscribe(kind, &name, source, cx, &path)?;
                let mut dynamic = self.dynamic.lock();
                dynamic.retain(|_, cell| cell.strong_count() > 0);
                dynamic.insert(key, Arc::downgrade(&cell));
                cell
            }
        };
        if !cell.is_ready() {
            cell.hold(cx.init.target(format!("SdsApi {name}")));
        }
        Ok(cell)
    }

    /// A secret that begins to be delivered.
    fn subscribe(
        &self,
        kind: SecretKind,
        name: &str,
        source: ConfigSource,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<SecretCell>, Rejected> {
        let scope = cx.server.stats.scope("");
        let new = |source: Option<&XdsSource>| {
            let stats = CellStats::new(&scope, name, source);
            SecretCell::new(kind, name, self.directories.clone(), Some(stats))
        };
        let ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version: _,
            config_source_specifier,
        } = source.clone();
        match config_source_specifier {
            Some(ConfigSourceSpecifier::PathConfigSource(files)) => {
                let cell = new(None);
                let authorities = path.unsupported_if_set("authorities", authorities);
                let timeout = path.duration("initial_fetch_timeout", initial_fetch_timeout);
                file::follow(&cell, files, &self.directories, path)?;
                authorities?;
                give_up_after(&cell, timeout?.unwrap_or(INITIAL_FETCH_TIMEOUT));
                Ok(cell)
            }
            _ => {
                let source = XdsSource::from_proto(source, cx.server, path)?;
                let cell = new(Some(&source));
                let watcher: Arc<dyn Watcher + Send + Sync> = cell.clone();
                cell.keep_subscription(cx.server.xds.subscribe(
                    source,
                    ResourceKind::Secret,
                    Interest::name(name),
                    Arc::downgrade(&watcher),
                ));
                Ok(cell)
            }
        }
    }

    /// All secrets, for `/config_dump`, sorted by name; what is private is left out.
    pub fn dump(&self) -> SecretsConfigDump {
        let sorted = |mut cells: Vec<Arc<SecretCell>>| {
            cells.sort_by(|a, b| (&a.name, a.kind as u8).cmp(&(&b.name, b.kind as u8)));
            cells
        };
        let mut dump = SecretsConfigDump::default();
        let statics = self.statics.lock().values().cloned().collect();
        for cell in sorted(statics) {
            dump.static_secrets.push(StaticSecret {
                name: cell.name.to_string(),
                secret: Some(cell.shown().0),
                ..Default::default()
            });
        }
        let dynamic = self
            .dynamic
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for cell in sorted(dynamic) {
            let (secret, version_info, at) = cell.shown();
            let shown = DynamicSecret {
                name: cell.name.to_string(),
                version_info,
                last_updated: Some(timestamp(at)),
                secret: Some(secret),
                ..Default::default()
            };
            match cell.is_ready() {
                true => dump.dynamic_active_secrets.push(shown),
                false => dump.dynamic_warming_secrets.push(shown),
            }
        }
        dump
    }
}

/// Waits no longer than this for a secret of a file. Zero: for ever.
fn give_up_after(cell: &Arc<SecretCell>, timeout: Duration) {
    if cell.is_ready() || timeout.is_zero() {
        return;
    }
    let cell = Arc::downgrade(cell);
    let waits = std::thread::Builder::new().name("secret_wait".to_owned());
    let waits = waits.spawn(move || {
        std::thread::sleep(timeout);
        if let Some(cell) = cell.upgrade() {
            cell.on_fetch_failed(FetchFailure::Timeout);
        }
    });
    if let Err(error) = waits {
        tracing::warn!(%error, "A secret is waited for without a limit.");
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").finish_non_exhaustive()
    }
}

/// Envoy's default.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
