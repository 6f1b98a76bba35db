//! The secrets of the process by kind and name.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use outrigger_proto::pb::envoy::config::core::v3::ConfigSource;
use outrigger_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::file;
use crate::config::{ConfigPath, Rejected};

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
    provider: OnceLock<Box<dyn SecretProvider>>,
}

/// Delivers secrets that come from a management server.
pub trait SecretProvider: Send + Sync {
    /// Begins to deliver the secret of `cell` from `source` by [`SecretCell::update`], for as long as the cell lives.
    /// What is wrong with the source is reported on the path.
    fn subscribe(
        &self,
        cell: &Arc<SecretCell>,
        source: ConfigSource,
        path: &ConfigPath<'_>,
    ) -> Result<(), Rejected>;
}

/// Is told when a secret has changed.
pub trait SecretWatcher: Send + Sync {
    /// Builds anew what depends on the secret, which has its new value already. An error says why that cannot be; what was
    /// built before stays in use then.
    fn secret_changed(&self) -> Result<(), String>;
}

/// One secret.
pub struct SecretCell {
    /// Its name.
    pub name: Box<str>,
    /// What it is for.
    pub kind: SecretKind,
    value: Mutex<Option<Arc<pb::Secret>>>,
    watchers: Mutex<Vec<Weak<dyn SecretWatcher>>>,
    /// How often it was delivered.
    version: watch::Sender<u64>,
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
        let cell = SecretCell::new(kind, &name);
        *cell.value.lock() = Some(Arc::new(secret));
        let mut statics = self.statics.lock();
        if statics.insert((kind, name.clone()), cell).is_some() {
            return Err(path.field("name").reject(format!(
                "\"{name}\" is the name of an earlier secret already"
            )));
        }
        Ok(())
    }

    /// Who delivers secrets of management servers. The first one stays.
    pub fn set_provider(&self, provider: Box<dyn SecretProvider>) {
        let _ = self.provider.set(provider);
    }

    /// The secret that an `SdsSecretConfig` means: a static one, one of a file, or one that a server delivers.
    pub fn find(
        &self,
        kind: SecretKind,
        config: pb::SdsSecretConfig,
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
        if let Some(cell) = self.dynamic.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(cell);
        }
        let cell = SecretCell::new(kind, &name);
        let path = path.field("sds_config");
        if let Some(ConfigSourceSpecifier::PathConfigSource(files)) = source.config_source_specifier
        {
            file::follow(&cell, files, &path)?;
        } else if let Some(provider) = self.provider.get() {
            provider.subscribe(&cell, source, &path)?;
        } else {
            return Err(path.reject("is not supported: only path_config_source is"));
        }
        let mut dynamic = self.dynamic.lock();
        dynamic.retain(|_, cell| cell.strong_count() > 0);
        dynamic.insert(key, Arc::downgrade(&cell));
        Ok(cell)
    }
}

impl SecretCell {
    pub(crate) fn new(kind: SecretKind, name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            kind,
            value: Mutex::new(None),
            watchers: Mutex::new(Vec::new()),
            version: watch::channel(0).0,
        })
    }

    /// The secret; none: it was not delivered yet.
    pub fn get(&self) -> Option<Arc<pb::Secret>> {
        self.value.lock().clone()
    }

    /// Whether it was delivered.
    pub fn is_ready(&self) -> bool {
        self.value.lock().is_some()
    }

    /// Ends when the secret was delivered.
    pub async fn ready(&self) {
        let mut version = self.version.subscribe();
        while !self.is_ready() && version.changed().await.is_ok() {}
    }

    /// Tells `watcher` of changes for as long as it lives.
    pub fn watch(&self, watcher: Weak<dyn SecretWatcher>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Takes a new value. An error says who cannot use it and why; the old one stays then.
    pub fn update(&self, secret: pb::Secret) -> Result<(), String> {
        if SecretKind::of(&secret) != Some(self.kind) {
            return Err(format!(
                "secret \"{}\": is of another kind than asked for",
                self.name
            ));
        }
        let old = self.value.lock().replace(Arc::new(secret));
        let watchers = self.watchers.lock().clone();
        let told = || watchers.iter().filter_map(Weak::upgrade);
        let failed: Vec<String> = told()
            .filter_map(|watcher| watcher.secret_changed().err())
            .collect();
        if let Some(first) = failed.into_iter().next() {
            *self.value.lock() = old;
            // Those who could use the new value go back to the old one, which all can use.
            told().for_each(|watcher| drop(watcher.secret_changed()));
            return Err(first);
        }
        self.version.send_modify(|version| *version += 1);
        Ok(())
    }
}

impl fmt::Debug for SecretCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCell")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::config::ConfigReport;

    #[derive(Default)]
    struct Watcher {
        told: AtomicU32,
        refuses: AtomicBool,
    }

    impl SecretWatcher for Watcher {
        fn secret_changed(&self) -> Result<(), String> {
            self.told.fetch_add(1, Relaxed);
            match self.refuses.load(Relaxed) {
                true => Err("no good".to_owned()),
                false => Ok(()),
            }
        }
    }

    fn keys(name: &str) -> pb::Secret {
        pb::Secret {
            name: name.to_owned(),
            r#type: Some(pb::secret::Type::SessionTicketKeys(
                pb::TlsSessionTicketKeys::default(),
            )),
        }
    }

    #[tokio::test]
    async fn a_value_that_somebody_refuses_leaves_the_old_one_in_place() {
        let cell = SecretCell::new(SecretKind::SessionTicketKeys, "k");
        let watcher = Arc::new(Watcher::default());
        let dynamic: Arc<dyn SecretWatcher> = watcher.clone();
        cell.watch(Arc::downgrade(&dynamic));
        assert!(!cell.is_ready());
        cell.update(keys("first")).unwrap();
        cell.ready().await;
        watcher.refuses.store(true, Relaxed);
        assert_eq!(cell.update(keys("second")), Err("no good".to_owned()));
        assert_eq!(cell.get().unwrap().name, "first");
        assert_eq!(watcher.told.load(Relaxed), 3);
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let cell = SecretCell::new(SecretKind::TlsCertificate, "k");
        assert!(cell.update(keys("k")).unwrap_err().contains("another kind"));
        assert!(!cell.is_ready());
    }

    #[test]
    fn static_secrets_are_found_by_kind_and_name() {
        let store = SecretStore::default();
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "secret");
        store.add_static(keys("k"), &path).unwrap();
        let config = |name: &str| pb::SdsSecretConfig {
            name: name.to_owned(),
            sds_config: None,
        };
        assert!(
            store
                .find(SecretKind::SessionTicketKeys, config("k"), &path)
                .is_ok()
        );
        assert!(
            store
                .find(SecretKind::TlsCertificate, config("k"), &path)
                .is_err()
        );
        assert!(
            store
                .find(SecretKind::SessionTicketKeys, config("x"), &path)
                .is_err()
        );
        assert!(store.add_static(keys("k"), &path).is_err());
        assert_eq!(report.take().len(), 3);
    }
}
