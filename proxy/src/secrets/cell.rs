//! One secret under its name.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificate::TlsCertificate;
use super::resolve::{directories, resolved};
use super::store::SecretKind;
use crate::config::{ConfigPath, ConfigReport};
use crate::files::{DirectoryListener, DirectoryWatcher};
use crate::server::InitTarget;
use crate::stats::Scope;
use crate::stats_group;
use crate::xds::{FetchFailure, Refused, Subscription, Update, Watcher};

stats_group! {
    /// `sds.<name>.`
    struct SdsStats {
        counter init_fetch_timeout;
        counter key_rotation_failed;
        counter update_attempt;
        counter update_failure;
        counter update_rejected;
        counter update_success;
    }
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
    /// As it came, with the names of its files.
    source: Mutex<Option<pb::Secret>>,
    /// With the content of its files.
    value: Mutex<Option<Arc<pb::Secret>>>,
    /// Held while a new value is tried.
    updating: Mutex<()>,
    watchers: Mutex<Vec<Weak<dyn SecretWatcher>>>,
    /// How often it was delivered.
    version: watch::Sender<u64>,
    /// Who waits for the first value.
    waiting: Mutex<Vec<InitTarget>>,
    /// No first value is waited for any more.
    given_up: AtomicBool,
    stats: Option<SdsStats>,
    directories: Arc<DirectoryWatcher>,
    /// Told of changes of the files that the secret names.
    files: Arc<dyn DirectoryListener>,
    /// Where the secret comes from, kept for as long as it is wanted.
    origin: OnceLock<Origin>,
}

/// Where a secret comes from.
enum Origin {
    /// Told of changes of the file that the secret stands in.
    File {
        _file: Arc<dyn DirectoryListener>,
    },
    Server {
        _subscription: Subscription,
    },
}

impl SecretCell {
    /// A secret that was not delivered yet. `stats`: where its deliveries are counted.
    pub(super) fn new(
        kind: SecretKind,
        name: &str,
        directories: Arc<DirectoryWatcher>,
        stats: Option<&Scope>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|cell| Self {
            name: name.into(),
            kind,
            source: Mutex::new(None),
            value: Mutex::new(None),
            updating: Mutex::new(()),
            watchers: Mutex::new(Vec::new()),
            version: watch::channel(0).0,
            waiting: Mutex::new(Vec::new()),
            given_up: AtomicBool::new(false),
            stats: stats.map(|scope| SdsStats::new(&scope.scope(&format!("sds.{name}.")))),
            directories,
            files: Arc::new(NamedFiles(cell.clone())),
            origin: OnceLock::new(),
        })
    }

    /// A static secret, whose files are read by whoever uses it.
    pub(super) fn fixed(kind: SecretKind, secret: pb::Secret) -> Arc<Self> {
        let cell = Self::new(kind, &secret.name, Arc::default(), None);
        *cell.value.lock() = Some(Arc::new(secret));
        cell
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

    /// Makes who owns `target` wait for the first value, or until that is not waited for any more.
    pub(super) fn hold(&self, target: InitTarget) {
        let mut waiting = self.waiting.lock();
        if !self.is_ready() && !self.given_up.load(Relaxed) {
            waiting.push(target);
        }
    }

    /// Tells `watcher` of changes for as long as it lives.
    pub fn watch(&self, watcher: Weak<dyn SecretWatcher>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Keeps who reads the secret from its file.
    pub(super) fn keep(&self, file: Arc<dyn DirectoryListener>) {
        let _ = self.origin.set(Origin::File { _file: file });
    }

    /// Keeps the subscription that brings the secret.
    pub(super) fn keep_subscription(&self, subscription: Subscription) {
        let _ = self.origin.set(Origin::Server {
            _subscription: subscription,
        });
    }

    /// Takes a new value. An error says who cannot use it and why; the old one stays then.
    pub fn update(&self, secret: pb::Secret) -> Result<(), String> {
        let taken = self.take(secret);
        self.count(SdsStats::update_attempt);
        match &taken {
            Ok(()) => {
                self.count(SdsStats::update_success);
                self.waiting.lock().clear();
                info!(secret = %self.name, "A secret was taken.");
            }
            Err(error) => {
                self.count(SdsStats::update_rejected);
                self.warn(error);
            }
        }
        taken
    }

    /// The source has the secret in no form that can be read.
    pub(super) fn failed(&self, error: &str) {
        self.count(SdsStats::update_attempt);
        self.count(SdsStats::update_failure);
        self.warn(error);
    }

    fn warn(&self, error: &str) {
        warn!(secret = %self.name, %error, "A secret cannot be used; what was there before stays.");
    }

    fn count(&self, counter: fn(&SdsStats) -> crate::stats::CounterRef<'_>) {
        if let Some(stats) = &self.stats {
            counter(stats).inc();
        }
    }

    fn take(&self, secret: pb::Secret) -> Result<(), String> {
        let _one_at_a_time = self.updating.lock();
        if SecretKind::of(&secret) != Some(self.kind) {
            return Err(format!(
                "secret \"{}\": is of another kind than asked for",
                self.name
            ));
        }
        // Watched before they are read, so that no change is missed.
        for directory in directories(&secret) {
            let watched = self.directories.watch(&directory, &self.files);
            watched.map_err(|error| {
                let directory = directory.display();
                format!(
                    "secret \"{}\": \"{directory}\" cannot be watched: {error}",
                    self.name
                )
            })?;
        }
        let value = self.read(&secret)?;
        self.replace(value)?;
        *self.source.lock() = Some(secret);
        Ok(())
    }

    /// The files of the secret have changed, or others beside them.
    fn rotate(&self) {
        let _one_at_a_time = self.updating.lock();
        let Some(source) = self.source.lock().clone() else {
            return;
        };
        let rotated = match self.read(&source) {
            Ok(value) if self.get().is_some_and(|old| *old == value) => return,
            Ok(value) => self.replace(value),
            Err(error) => Err(error),
        };
        match rotated {
            Ok(()) => info!(secret = %self.name, "The files of a secret were read again."),
            Err(error) => {
                self.count(SdsStats::key_rotation_failed);
                self.warn(&error);
            }
        }
    }

    /// The secret with its files, if it can be one.
    fn read(&self, secret: &pb::Secret) -> Result<pb::Secret, String> {
        let named = |error: String| format!("secret \"{}\": {error}", self.name);
        let value = resolved(secret).map_err(named)?;
        if let Some(pb::secret::Type::TlsCertificate(certificate)) = &value.r#type {
            let report = ConfigReport::new();
            let name = format!("secret \"{}\"", self.name);
            let path = ConfigPath::root(&report, &name);
            if TlsCertificate::from_proto(certificate.clone(), &path).is_err() {
                let errors: Vec<_> = report.take().iter().map(ToString::to_string).collect();
                return Err(errors.join("; "));
            }
        }
        Ok(value)
    }

    /// Puts a value in the place of the old one, unless somebody cannot use it.
    fn replace(&self, value: pb::Secret) -> Result<(), String> {
        let old = self.value.lock().replace(Arc::new(value));
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

impl Watcher for SecretCell {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let report = ConfigReport::new().with_unknown_fields(true);
        let named = format!("secret \"{}\"", self.name);
        let path = ConfigPath::root(&report, &named);
        // A server that takes a secret away changes nothing, as in Envoy.
        let own = update
            .sent
            .iter()
            .filter(|resource| *resource.name == *self.name);
        let mut refused = Vec::new();
        for resource in own {
            let taken = match resource.decode::<pb::Secret>(&path) {
                Ok(secret) => self.update(secret),
                Err(_) => {
                    let errors: Vec<_> = report.take().iter().map(ToString::to_string).collect();
                    self.failed(&errors.join("; "));
                    Err(errors.join("\n"))
                }
            };
            if let Err(reason) = taken {
                refused.push(Refused {
                    name: resource.name.clone(),
                    reason,
                });
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        if self.is_ready() {
            return;
        }
        match why {
            FetchFailure::Timeout => self.count(SdsStats::init_fetch_timeout),
            FetchFailure::ConnectionFailure => self.count(SdsStats::update_failure),
        }
        self.given_up.store(true, Relaxed);
        self.waiting.lock().clear();
    }
}

/// Tells a secret that its files may have changed.
struct NamedFiles(Weak<SecretCell>);

impl DirectoryListener for NamedFiles {
    fn directory_changed(&self) {
        if let Some(cell) = self.0.upgrade() {
            cell.rotate();
        }
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
