//! Endpoints by DNS names: the control plane asks for their addresses and sends those, as endpoints like all others.
//!
//! The other way is a cluster of the type `STRICT_DNS`, which each proxy resolves by itself. It is not taken, since
//! endpoints by name and by address, with their weights, health and identities, are then in one cluster; a new
//! address is a push of endpoints, and no connection ends, where a cluster of another type is another cluster;
//! gRPC's own clients know no `STRICT_DNS`; one asks where a thousand would; and `status` says what cannot be
//! resolved. The price: the addresses are those that the control plane sees, and while it is down they are the last.
//!
//! A name is asked for again when its answer has expired, after a second at the earliest and half a minute at the
//! latest. While its servers do not answer, its last addresses stay; a name that has no addresses has no endpoints.

mod resolver;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use resolver::SystemResolver;

use crate::control::Control;
use crate::model::{Host, Model};

/// Questions under way at once.
const CONCURRENT: usize = 64;
/// Shortest and longest time until a name is asked for again.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time until a name is asked for again that could not be resolved.
const RETRY: Duration = Duration::from_secs(5);

/// What DNS says of the names in the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<String, Lookup>);

/// What DNS says of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Why they may be old, or why there are none.
    pub error: Option<String>,
}

impl Names {
    /// Names with what is known of them.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = (String, Lookup)>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The addresses of a host: itself, if it is one.
    #[must_use]
    pub fn addresses<'a>(&'a self, host: &'a Host) -> &'a [IpAddr] {
        match host {
            Host::Ip(address) => std::slice::from_ref(address),
            Host::Name(name) => self.0.get(name).map_or(&[], |lookup| &lookup.addresses),
        }
    }

    /// Why a host cannot be resolved. None, too, if nobody has asked yet.
    #[must_use]
    pub fn problem(&self, host: &Host) -> Option<String> {
        let Host::Name(name) = host else { return None };
        let lookup = self.0.get(name)?;
        match &lookup.error {
            Some(error) => Some(format!("{name}: {error}")),
            None if lookup.addresses.is_empty() => Some(format!("{name} has no address")),
            None => None,
        }
    }
}

/// The names that a model needs.
#[must_use]
pub fn wanted(model: &Model) -> BTreeSet<String> {
    let workloads = model.workloads.values();
    let mut hosts: Vec<Host> = workloads.map(|it| it.object.spec.address.clone()).collect();
    for slice in model.endpoint_slices.values() {
        let endpoints = slice.object.endpoints.iter();
        let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
        hosts.extend(addresses.filter_map(|address| address.parse().ok()));
    }
    let services = model.services.values();
    hosts.extend(services.filter_map(|service| external_name(&service.object)));
    hosts
        .into_iter()
        .filter_map(|host| match host {
            Host::Name(name) => Some(name),
            Host::Ip(_) => None,
        })
        .collect()
}

/// The name that a service of the type `ExternalName` stands for.
#[must_use]
pub fn external_name(service: &k8s_openapi::api::core::v1::Service) -> Option<Host> {
    let spec = service.spec.as_ref()?;
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    spec.external_name
        .as_ref()
        .filter(|_| is_external)?
        .parse()
        .ok()
}

/// The answer of a resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, of both families; none if the name has none.
    pub addresses: Vec<IpAddr>,
    /// How long that holds.
    pub ttl: Duration,
}

/// Asks for the addresses of names.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, or why nobody knows.
    fn resolve(&self, name: String) -> impl Future<Output = Result<Answer, String>> + Send;
}

/// Keeps the addresses of names.
#[derive(Debug)]
pub struct Resolver<R> {
    resolve: Arc<R>,
    due: Mutex<BTreeMap<String, Instant>>,
}

impl<R: Resolve> Resolver<R> {
    /// A resolver that knows nothing yet.
    #[must_use]
    pub fn new(resolve: R) -> Self {
        Self {
            resolve: Arc::new(resolve),
            due: Mutex::default(),
        }
    }

    /// Asks for what is due of the names of a model, for `patience` at most. What is known now.
    pub async fn refresh(&self, model: &Model, known: &Names, patience: Duration) -> Names {
        let wanted = wanted(model);
        let end = Instant::now() + patience;
        let mut next = Names(BTreeMap::new());
        let mut due = Vec::new();
        {
            let mut times = self.due.lock();
            times.retain(|name, _| wanted.contains(name));
            for name in wanted {
                if let Some(lookup) = known.0.get(&name) {
                    next.0.insert(name.clone(), lookup.clone());
                }
                if times.get(&name).is_none_or(|at| *at <= Instant::now()) {
                    due.push(name);
                }
            }
        }
        let mut running = JoinSet::new();
        let mut due = due.into_iter();
        loop {
            while running.len() < CONCURRENT
                && let Some(name) = due.next()
            {
                let resolve = Arc::clone(&self.resolve);
                running.spawn(async move { (resolve.resolve(name.clone()).await, name) });
            }
            let Ok(Some(answered)) = tokio::time::timeout_at(end, running.join_next()).await else {
                // What has not answered is asked for again at the next turn.
                return next;
            };
            if let Ok((answer, name)) = answered {
                self.take(&mut next, name, answer);
            }
        }
    }

    fn take(&self, names: &mut Names, name: String, answer: Result<Answer, String>) {
        let pause = match &answer {
            Ok(answer) => answer.ttl.clamp(BOUNDS.0, BOUNDS.1),
            Err(_) => RETRY,
        };
        self.due.lock().insert(name.clone(), Instant::now() + pause);
        let lookup = names.0.entry(name).or_default();
        match answer {
            Ok(answer) => {
                lookup.addresses = answer.addresses;
                lookup.addresses.sort_unstable();
                lookup.addresses.dedup();
                lookup.error = None;
            }
            Err(error) => lookup.error = Some(error),
        }
    }

    /// Keeps the names of the input in force resolved, for ever.
    pub async fn follow(&self, control: &Control) {
        let mut worlds = control.worlds();
        loop {
            let known = control.names();
            let next = self.refresh(&control.model(), &known, RETRY).await;
            if next != *known {
                control.set_names(next);
            }
            worlds.borrow_and_update();
            // A new input may have new names.
            let _ = tokio::time::timeout(Duration::from_millis(500), worlds.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load_texts;

    /// Answers with the numbers it is given, in turn.
    struct Script(Mutex<Vec<Result<u8, String>>>);

    impl Resolve for Script {
        async fn resolve(&self, _: String) -> Result<Answer, String> {
            let address = self.0.lock().remove(0)?;
            Ok(Answer {
                addresses: vec![IpAddr::from([127, 0, 0, address])],
                ttl: Duration::from_secs(10),
            })
        }
    }

    fn model() -> Model {
        let text = "apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: a}
spec: {address: db.example, sidecar: false}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b}
addressType: FQDN
endpoints: [{addresses: [Slice.example.]}]
ports: []
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec: {type: ExternalName, externalName: other.example}
";
        load_texts([("a.yaml", text)]).unwrap()
    }

    #[test]
    fn names_come_from_workloads_slices_and_external_names() {
        let wanted: Vec<_> = wanted(&model()).into_iter().collect();
        assert_eq!(wanted, ["db.example", "other.example", "slice.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_stay_while_nobody_answers_and_change_when_they_have_expired() {
        let mut model = model();
        model.endpoint_slices.clear();
        model.services.clear();
        let host = Host::Name("db.example".to_owned());
        let script = vec![Ok(1), Err("timeout".to_owned()), Ok(2)];
        let resolver = Resolver::new(Script(Mutex::new(script)));
        let mut names = Names::default();
        let mut seen = Vec::new();
        for seconds in [0, 9, 1, 4, 1] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            names = resolver.refresh(&model, &names, RETRY).await;
            let last = names.addresses(&host).first().map(ToString::to_string);
            seen.push((last.unwrap(), names.problem(&host)));
        }
        let timeout = Some("db.example: timeout".to_owned());
        let expected = [
            ("127.0.0.1", None),
            ("127.0.0.1", None),
            ("127.0.0.1", timeout.clone()),
            ("127.0.0.1", timeout),
            ("127.0.0.2", None),
        ];
        assert_eq!(seen, expected.map(|(at, problem)| (at.to_owned(), problem)));
    }
}
