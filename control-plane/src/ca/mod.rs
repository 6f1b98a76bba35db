//! The mesh's own certificate authority: a root, an intermediate that issues, and short-lived SVIDs (SPIFFE X.509).
//!
//! All keys are ECDSA P-256. Everything is kept in a directory of the mode 0700, each file with the mode 0600:
//! `current/` has `root.pem`, `root.key`, `intermediate.pem` and `intermediate.key`. Who brings an authority of their
//! own puts the first and the last two there; the root's key is never read. `svids/` keeps what was issued, so that
//! a restart issues nothing anew.
//!
//! The root changes in three steps, each of which has to have reached every proxy before the next: [`Step::Prepare`]
//! makes all trust a new root, [`Step::Switch`] issues under it, [`Step::Finish`] ends the trust in the old one.

mod files;
mod issue;
mod token;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::translate::Secrets;
use crate::world::TlsSecret;

use issue::Issuer;
pub use issue::{Svid, requested_identities, svid_of_certificate, validity_of};
pub use token::{TokenError, Tokens};

/// Why the authority cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A certificate or key.
    #[error("{0}")]
    Certificate(String),
    /// A request to sign that is none, or not a good one.
    #[error("the certificate request: {0}")]
    Request(String),
}

/// A step of a change of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A new root is trusted beside the old one.
    Prepare,
    /// Certificates are issued under the new root.
    Switch,
    /// The old root is not trusted any more.
    Finish,
}

/// The certificate authority.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    trust_domain: String,
    ttl: Duration,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    current: Issuer,
    next: Option<Issuer>,
    /// The root that was current before.
    previous: Option<String>,
    svids: BTreeMap<String, Svid>,
}

impl Authority {
    /// Opens the authority of a directory, or makes one. Certificates live for `ttl` and are renewed at its half.
    ///
    /// # Errors
    /// A file cannot be read or written, or is not what it should be.
    pub fn open(directory: &Path, trust_domain: &str, ttl: Duration) -> Result<Self, CaError> {
        files::make_directory(directory)?;
        let current = directory.join("current");
        let issuer = if current.join("intermediate.pem").exists() {
            Issuer::read(&current)?
        } else {
            let issuer = Issuer::generate(trust_domain)?;
            issuer.write(&current)?;
            issuer
        };
        let next = directory.join("next");
        let next = next
            .join("intermediate.pem")
            .exists()
            .then(|| Issuer::read(&next))
            .transpose()?;
        let previous = directory.join("previous.pem");
        let previous = previous
            .exists()
            .then(|| files::read(&previous))
            .transpose()?;
        let svids = files::make_directory(&directory.join("svids"))
            .map(|()| issue::read_all(&directory.join("svids"), &issuer))?;
        Ok(Self {
            directory: directory.to_owned(),
            trust_domain: trust_domain.to_owned(),
            ttl,
            state: Mutex::new(State {
                current: issuer,
                next,
                previous,
                svids,
            }),
            generation: watch::Sender::new(0),
        })
    }

    /// The first part of every identity.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// How long certificates live.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Counts the changes of certificates and roots.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// A certificate for the control plane's own server.
    ///
    /// # Errors
    /// The key or the certificate cannot be made.
    pub fn server_certificate(&self, names: &[String]) -> Result<Svid, CaError> {
        let identity = format!("spiffe://{}/control-plane", self.trust_domain);
        self.state.lock().current.issue(&identity, names, self.ttl)
    }

    /// Signs a request for an identity. The names in it are not read.
    ///
    /// # Errors
    /// It is no request, or not signed by the key in it.
    pub fn sign(&self, request: &str, identity: &str) -> Result<String, CaError> {
        self.sign_for(request, identity, self.ttl)
    }

    /// [`Self::sign`] for a certificate that lives so long.
    ///
    /// # Errors
    /// As of [`Self::sign`].
    pub fn sign_for(
        &self,
        request: &str,
        identity: &str,
        ttl: Duration,
    ) -> Result<String, CaError> {
        let span = tracing::debug_span!("sign_certificate", identity, ttl = ttl.as_secs());
        let _entered = span.enter();
        self.state.lock().current.sign(request, identity, ttl)
    }

    /// Issues anew what has lived for half of its time, and forgets what nobody asked for since. Says whether
    /// something was issued.
    ///
    /// # Errors
    /// A certificate cannot be issued or kept.
    pub fn renew(&self, now: SystemTime) -> Result<bool, CaError> {
        let mut state = self.state.lock();
        let due: Vec<_> = state
            .svids
            .iter()
            .filter(|(_, svid)| svid.is_due(now))
            .map(|(identity, _)| identity.clone())
            .collect();
        for identity in &due {
            self.issue(&mut state, identity)?;
        }
        drop(state);
        if !due.is_empty() {
            tracing::info!(count = due.len(), "Certificates were renewed.");
            self.generation.send_modify(|generation| *generation += 1);
        }
        Ok(!due.is_empty())
    }

    /// Takes the next step of a change of the root.
    ///
    /// # Errors
    /// A file cannot be written, or a certificate cannot be issued.
    pub fn rotate(&self) -> Result<Step, CaError> {
        let mut state = self.state.lock();
        let step = if state.previous.is_some() {
            files::remove(&self.directory.join("previous.pem"))?;
            state.previous = None;
            Step::Finish
        } else if let Some(next) = state.next.take() {
            files::write(
                &self.directory.join("previous.pem"),
                &state.current.root_pem,
            )?;
            next.write(&self.directory.join("current"))?;
            files::remove_directory(&self.directory.join("next"))?;
            state.previous = Some(std::mem::replace(&mut state.current, next).root_pem);
            let identities: Vec<_> = state.svids.keys().cloned().collect();
            for identity in identities {
                self.issue(&mut state, &identity)?;
            }
            Step::Switch
        } else {
            let next = Issuer::generate(&self.trust_domain)?;
            next.write(&self.directory.join("next"))?;
            state.next = Some(next);
            Step::Prepare
        };
        drop(state);
        tracing::info!(?step, "The root changes.");
        self.generation.send_modify(|generation| *generation += 1);
        Ok(step)
    }

    fn issue(&self, state: &mut State, identity: &str) -> Result<(), CaError> {
        let span = tracing::debug_span!("issue_certificate", identity, ttl = self.ttl.as_secs());
        let _entered = span.enter();
        let svid = state.current.issue(identity, &[], self.ttl)?;
        svid.write(&self.directory.join("svids"), identity)?;
        state.svids.insert(identity.to_owned(), svid);
        Ok(())
    }
}

impl Secrets for Authority {
    fn svid(&self, identity: &str) -> Option<Arc<TlsSecret>> {
        let mut state = self.state.lock();
        if !state.svids.contains_key(identity)
            && let Err(error) = self.issue(&mut state, identity)
        {
            tracing::error!(identity, %error, "A certificate cannot be issued.");
        }
        state
            .svids
            .get(identity)
            .map(|svid| Arc::clone(&svid.secret))
    }

    fn roots(&self) -> Arc<str> {
        let state = self.state.lock();
        let mut roots = state.current.root_pem.clone();
        if let Some(next) = &state.next {
            roots.push_str(&next.root_pem);
        }
        if let Some(previous) = &state.previous {
            roots.push_str(previous);
        }
        roots.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("outrigger-ca-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_restart_issues_nothing_anew() {
        let path = directory("restart");
        let ttl = Duration::from_secs(3600);
        let first = Authority::open(&path, "mesh.test", ttl).unwrap();
        let (svid, roots) = (
            first.svid("spiffe://mesh.test/ns/a/sa/b").unwrap(),
            first.roots(),
        );
        let again = Authority::open(&path, "mesh.test", ttl).unwrap();
        assert_eq!(again.svid("spiffe://mesh.test/ns/a/sa/b").unwrap(), svid);
        assert_eq!(again.roots(), roots);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let path = directory("mode");
        let authority = Authority::open(&path, "mesh.test", Duration::from_secs(60)).unwrap();
        authority.svid("spiffe://mesh.test/ns/a/sa/b").unwrap();
        let mut files = vec![
            path.join("current/root.key"),
            path.join("current/intermediate.key"),
        ];
        files.extend(
            std::fs::read_dir(path.join("svids"))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        assert_eq!(files.len(), 3);
        for file in files {
            assert_eq!(
                std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o600,
                "{file:?}"
            );
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_not_before() {
        let path = directory("renew");
        let authority = Authority::open(&path, "mesh.test", Duration::from_secs(1000)).unwrap();
        let first = authority.svid("spiffe://mesh.test/ns/a/sa/b").unwrap();
        let now = SystemTime::now();
        assert!(!authority.renew(now + Duration::from_secs(400)).unwrap());
        assert!(authority.renew(now + Duration::from_secs(510)).unwrap());
        assert_ne!(
            authority.svid("spiffe://mesh.test/ns/a/sa/b").unwrap(),
            first
        );
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_roots_overlap_while_they_change() {
        let path = directory("rotate");
        let authority = Authority::open(&path, "mesh.test", Duration::from_secs(1000)).unwrap();
        let count = |roots: &str| roots.matches("BEGIN CERTIFICATE").count();
        let identity = "spiffe://mesh.test/ns/a/sa/b";
        let (first, old) = (authority.svid(identity).unwrap(), authority.roots());
        assert_eq!(authority.rotate().unwrap(), Step::Prepare);
        assert_eq!(
            authority.svid(identity).unwrap(),
            first,
            "still under the old root"
        );
        assert_eq!(count(&authority.roots()), 2);
        assert_eq!(authority.rotate().unwrap(), Step::Switch);
        assert_ne!(authority.svid(identity).unwrap(), first);
        assert_eq!(count(&authority.roots()), 2);
        drop(authority);
        let authority = Authority::open(&path, "mesh.test", Duration::from_secs(1000)).unwrap();
        assert_eq!(count(&authority.roots()), 2, "a restart is no step");
        assert_eq!(authority.rotate().unwrap(), Step::Finish);
        assert_eq!(count(&authority.roots()), 1);
        assert_ne!(authority.roots(), old);
        std::fs::remove_dir_all(path).unwrap();
    }
}
