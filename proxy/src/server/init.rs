//! What must be there before something may be used: a listener waits for its routes, a cluster for its hosts, the process for both.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The things that one component waits for, by name. All copies are one.
///
/// Source: Envoy's init manager, shown by `/init_dump`.
#[derive(Clone)]
pub struct InitManager(Arc<Inner>);

struct Inner {
    name: Box<str>,
    targets: Mutex<Targets>,
    /// How many are not ready.
    waiting: watch::Sender<usize>,
}

#[derive(Default)]
struct Targets {
    last: u64,
    unready: BTreeMap<u64, Box<str>>,
}

/// One thing that is waited for. Ready when it says so, or when it is dropped.
pub struct InitTarget {
    manager: Arc<Inner>,
    number: u64,
}

impl InitManager {
    /// A manager that waits for nothing yet.
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            targets: Mutex::default(),
            waiting: watch::Sender::new(0),
        }))
    }

    /// Whose manager it is.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Something more to wait for.
    #[must_use = "a target that is dropped is ready"]
    pub fn target(&self, name: impl Into<Box<str>>) -> InitTarget {
        let mut targets = self.0.targets.lock();
        targets.last += 1;
        let number = targets.last;
        targets.unready.insert(number, name.into());
        self.0.waiting.send_replace(targets.unready.len());
        InitTarget {
            manager: self.0.clone(),
            number,
        }
    }

    /// Whether nothing is waited for.
    pub fn is_ready(&self) -> bool {
        *self.0.waiting.borrow() == 0
    }

    /// Ends when nothing is waited for.
    pub async fn ready(&self) {
        let mut waiting = self.0.waiting.subscribe();
        // The sender is in `self`, so the wait cannot fail.
        let _ = waiting.wait_for(|count| *count == 0).await;
    }

    /// What is waited for, in the order in which it was asked for.
    pub fn unready(&self) -> Vec<String> {
        let targets = self.0.targets.lock();
        targets.unready.values().map(ToString::to_string).collect()
    }
}

impl InitTarget {
    /// It is there. To say so twice does no harm.
    pub fn ready(&self) {
        let mut targets = self.manager.targets.lock();
        if targets.unready.remove(&self.number).is_some() {
            self.manager.waiting.send_replace(targets.unready.len());
        }
    }
}

impl Drop for InitTarget {
    fn drop(&mut self) {
        self.ready();
    }
}

impl fmt::Debug for InitManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitManager")
            .field("name", &self.0.name)
            .field("unready", &self.unready())
            .finish()
    }
}

impl fmt::Debug for InitTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InitTarget").field(&self.number).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_ready_when_all_of_its_targets_are_ready_or_gone() {
        let manager = InitManager::new("listener a");
        assert!(manager.is_ready());
        let routes = manager.target("RdsRouteConfigSubscription init r");
        let secret = manager.target("SdsApi s");
        assert_eq!(
            manager.unready(),
            ["RdsRouteConfigSubscription init r", "SdsApi s"]
        );
        routes.ready();
        routes.ready();
        assert_eq!(manager.unready(), ["SdsApi s"]);
        drop(secret);
        assert!(manager.is_ready());
    }

    #[tokio::test(flavor = "local")]
    async fn who_waits_is_woken_by_the_last_target() {
        let manager = InitManager::new("server");
        let target = manager.target("cluster a");
        let waiting = {
            let manager = manager.clone();
            tokio::task::spawn_local(async move { manager.ready().await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        target.ready();
        waiting.await.unwrap();
    }
}
