//! One secret under its name.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use outrigger_proto::any::pack;
use outrigger_proto::json::{Style, to_json};
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
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
use crate::xds::{
    FetchFailure, Refused, Subscription, SubscriptionStats, Update, Watcher, XdsSource,
};

stats_group! {
    /// `sds.<name>.`
    struct SdsStats {
        counter key_rotation_failed;
    }
}

/// What is counted of a secret that is delivered.
pub(super) struct CellStats {
    scope: Scope,
    sds: SdsStats,
    subscription: SubscriptionStats,
}

impl CellStats {
    /// In the scope of the process. `source`: who is asked; none reads a file.
    pub(super) fn new(scope: &Scope, name: &str, source: Option<&XdsSource>) -> Self {
        let scope = scope.scope(&format!("sds.{name}."));
        Self {
            sds: SdsStats::new(&scope),
            subscription: match source {
                Some(source) => SubscriptionStats::new(&scope, source),
                None => SubscriptionStats::of_file(&scope),
            },
            scope,
        }
    }
}

/// Which version of a secret is in use.
#[derive(Debug, Clone)]
pub(super) struct TakenVersion {
    version: Arc<str>,
    at: SystemTime,
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
    stats: Option<CellStats>,
    /// None: it is static, or was not delivered yet.
    taken: Mutex<Option<TakenVersion>>,
    began: SystemTime,
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
        stats: Option<CellStats>,
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
            stats,
            taken: Mutex::new(None),
            began: SystemTime::now(),
            directories,
            files: Arc::new(NamedFiles(cell.clone())),
            origin: OnceLock::new(),
        })
    }

    /// A static secret, whose files are read by whoever uses it.
    pub(super) fn fixed(kind: SecretKind, secret: pb::Secret) -> Arc<Self> {
        let cell = Self::new(kind, &secret.name, Arc::default(), None);
        *cell.source.lock() = Some(secret.clone());
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
    pub fn update(&self, secret: pb::Secret, version: &Arc<str>) -> Result<(), String> {
        let taken = match &self.stats {
            Some(stats) => stats.subscription.count(version, || self.take(secret)),
            None => self.take(secret),
        };
        match &taken {
            Ok(()) => {
                *self.taken.lock() = Some(TakenVersion {
                    version: version.clone(),
                    at: SystemTime::now(),
                });
                self.waiting.lock().clear();
                info!(secret = %self.name, "A secret was taken.");
            }
            Err(error) => self.warn(error),
        }
        taken
    }

    /// The source has the secret in no form that can be read.
    pub(super) fn failed(&self, error: &str) {
        if let Some(stats) = &self.stats {
            stats.subscription.failed(FetchFailure::ConnectionFailure);
        }
        self.warn(error);
    }

    /// As it came, without what is private, with its version and when it was taken. Not delivered yet: only its name.
    pub(super) fn shown(&self) -> (Any, String, SystemTime) {
        let named = || pb::Secret {
            name: self.name.to_string(),
            ..Default::default()
        };
        let secret = self.source.lock().clone();
        let secret = secret.map_or_else(named, |secret| redacted(&secret).unwrap_or_else(named));
        match &*self.taken.lock() {
            Some(TakenVersion { version, at }) => (pack(&secret), version.to_string(), *at),
            None => (pack(&secret), "uninitialized".to_owned(), self.began),
        }
    }

    fn warn(&self, error: &str) {
        warn!(secret = %self.name, %error, "A secret cannot be used; what was there before stays.");
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
                if let Some(stats) = &self.stats {
                    stats.sds.key_rotation_failed().inc();
                }
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
                Ok(secret) => self.update(secret, update.version),
                Err(_) => {
                    let errors: Vec<_> = report.take().iter().map(ToString::to_string).collect();
                    let errors = errors.join("\n");
                    self.warn(&errors);
                    match &self.stats {
                        Some(stats) => stats.subscription.count(update.version, || Err(errors)),
                        None => Err(errors),
                    }
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

    fn stats_scope(&self) -> Option<Scope> {
        self.stats.as_ref().map(|stats| stats.scope.clone())
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        if self.is_ready() {
            return;
        }
        if let Some(stats) = &self.stats {
            stats.subscription.failed(why);
        }
        self.given_up.store(true, Relaxed);
        self.waiting.lock().clear();
    }
}

/// The secret with `[redacted]` in the place of all that is private, be it text or the name of a file.
fn redacted(secret: &pb::Secret) -> Option<pb::Secret> {
    let style = Style {
        pretty: false,
        redact: true,
    };
    let text = to_json(secret, style).ok()?;
    let source = Source {
        name: "secret",
        format: Format::Json,
        bytes: text.as_bytes(),
    };
    load(&[source], UnknownFields::Ignore).ok()
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
