//! Endpoints that registered themselves. Who is not heard of within its time is forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::{Health, Key};
use crate::telemetry::Cause;
use crate::world::{Endpoint, Registered};

/// The registered endpoints.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<BTreeMap<(Key, String), Entry>>,
    changed: Notify,
    /// The call that has changed something.
    cause: Mutex<Cause>,
}

#[derive(Debug)]
struct Entry {
    registered: Registered,
    owner: Option<String>,
    ttl: Duration,
    expires: Instant,
}

/// What a process says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Registration {
    /// The service's port that it serves.
    pub port: u16,
    /// Where it serves it.
    pub address: SocketAddr,
    /// Its share beside the others, 1 to 128. Default 1.
    pub weight: Option<u32>,
    /// Whether it takes requests.
    #[serde(default)]
    pub health: Health,
    /// After how many seconds without a word it is forgotten, 1 to 3600. Default 30.
    pub ttl_seconds: Option<u64>,
    /// Whether a sidecar stands before it that takes mTLS. Default false.
    #[serde(default)]
    pub sidecar: bool,
}

/// Why a registration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
pub enum RegistryError {
    /// A value out of its range.
    #[error("weight is not in 1..=128, or ttlSeconds not in 1..=3600")]
    Range,
    /// Another identity has it.
    #[error("this instance belongs to another identity")]
    NotYours,
    /// There is none of this name.
    #[error("there is no such instance")]
    Unknown,
    /// There are too many.
    #[error("too many instances are registered")]
    Full,
}

/// How many endpoints may register.
const MAX_ENTRIES: usize = 100_000;

impl Registry {
    /// Adds an endpoint, or replaces what it said before.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn register(
        &self,
        service: Key,
        instance: &str,
        registration: &Registration,
        owner: Option<String>,
    ) -> Result<(), RegistryError> {
        let span = tracing::debug_span!("registration", call = "register", %service, instance);
        let _entered = span.enter();
        let weight = registration.weight.unwrap_or(1);
        let ttl = registration.ttl_seconds.unwrap_or(30);
        if !(1..=128).contains(&weight) || !(1..=3600).contains(&ttl) {
            return Err(RegistryError::Range);
        }
        let ttl = Duration::from_secs(ttl);
        let registered = Registered {
            service: service.clone(),
            port: registration.port,
            endpoint: Endpoint {
                address: registration.address,
                health: registration.health.into(),
                weight,
                identity: owner.clone().filter(|_| registration.sidecar),
            },
        };
        let mut entries = self.entries.lock();
        let key = (service, instance.to_owned());
        let known = entries.get(&key);
        if known.is_some_and(|known| known.owner != owner) {
            return Err(RegistryError::NotYours);
        }
        if known.is_none() && entries.len() >= MAX_ENTRIES {
            return Err(RegistryError::Full);
        }
        let is_same = known.is_some_and(|known| known.registered == registered);
        entries.insert(
            key,
            Entry {
                registered,
                owner,
                ttl,
                expires: Instant::now() + ttl,
            },
        );
        drop(entries);
        if !is_same {
            self.note_change();
        }
        Ok(())
    }

    /// Notes that an endpoint is still there.
    ///
    /// # Errors
    /// It is not, or belongs to another.
    pub fn heartbeat(
        &self,
        service: &Key,
        instance: &str,
        owner: Option<&str>,
    ) -> Result<(), RegistryError> {
        let span = tracing::debug_span!("registration", call = "heartbeat", %service, instance);
        let _entered = span.enter();
        self.prolong(service, instance, owner)
    }

    fn prolong(
        &self,
        service: &Key,
        instance: &str,
        owner: Option<&str>,
    ) -> Result<(), RegistryError> {
        let mut entries = self.entries.lock();
        let entry = entries
            .get_mut(&(service.clone(), instance.to_owned()))
            .ok_or(RegistryError::Unknown)?;
        if entry.owner.as_deref() != owner {
            return Err(RegistryError::NotYours);
        }
        entry.expires = Instant::now() + entry.ttl;
        Ok(())
    }

    /// Takes an endpoint away.
    ///
    /// # Errors
    /// It is not there, or belongs to another.
    pub fn deregister(
        &self,
        service: &Key,
        instance: &str,
        owner: Option<&str>,
    ) -> Result<(), RegistryError> {
        let span = tracing::debug_span!("registration", call = "deregister", %service, instance);
        let _entered = span.enter();
        self.prolong(service, instance, owner)?;
        self.entries
            .lock()
            .remove(&(service.clone(), instance.to_owned()));
        self.note_change();
        Ok(())
    }

    fn note_change(&self) {
        *self.cause.lock() = Cause::current();
        self.changed.notify_one();
    }

    /// The last call that changed something since this was asked for.
    #[must_use]
    pub fn take_cause(&self) -> Cause {
        std::mem::take(&mut *self.cause.lock())
    }

    /// All endpoints.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Registered> {
        self.entries
            .lock()
            .values()
            .map(|entry| entry.registered.clone())
            .collect()
    }

    /// Waits for a change, which may be that an endpoint's time is over.
    pub async fn changed(&self) {
        loop {
            let soonest = self
                .entries
                .lock()
                .values()
                .map(|entry| entry.expires)
                .min();
            let expiry = async {
                match soonest {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => return,
                () = expiry => {
                    let now = Instant::now();
                    let mut entries = self.entries.lock();
                    let before = entries.len();
                    entries.retain(|_, entry| entry.expires > now);
                    if entries.len() < before {
                        return;
                    }
                }
                // A new endpoint may have less time than the one that is waited for.
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        serde_json::from_str(r#"{"port": 80, "address": "127.0.0.1:9000", "ttlSeconds": 5}"#)
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_forgotten_when_its_time_is_over_and_not_while_it_is_heard_of() {
        let registry = Registry::default();
        let service = Key::new("default", "a");
        registry
            .register(service.clone(), "1", &registration(), None)
            .unwrap();
        registry.changed().await;
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(4)).await;
            registry.heartbeat(&service, "1", None).unwrap();
        }
        assert_eq!(registry.endpoints().len(), 1);
        registry.changed().await;
        assert_eq!(registry.endpoints().len(), 0);
        assert_eq!(
            registry.heartbeat(&service, "1", None),
            Err(RegistryError::Unknown)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_changes_an_endpoint_of_another() {
        let registry = Registry::default();
        let service = Key::new("default", "a");
        let one = Some("spiffe://m/1".to_owned());
        registry
            .register(service.clone(), "1", &registration(), one.clone())
            .unwrap();
        let two = Some("spiffe://m/2");
        let taken = registry.register(
            service.clone(),
            "1",
            &registration(),
            two.map(str::to_owned),
        );
        assert_eq!(taken, Err(RegistryError::NotYours));
        assert_eq!(
            registry.deregister(&service, "1", two),
            Err(RegistryError::NotYours)
        );
        assert_eq!(registry.deregister(&service, "1", one.as_deref()), Ok(()));
    }
}
