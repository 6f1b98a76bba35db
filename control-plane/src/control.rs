//! The state of a running control plane, and who is connected to it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::ca::{Authority, Tokens};
use crate::cache::{ResourceType, Snapshot};
use crate::dns::Names;
use crate::model::{InputError, Key, Model};
use crate::ratelimit::Limiter;
use crate::registry::Registry;
use crate::server::session::Progress;
use crate::telemetry::{Cause, SpanCounts};
use crate::translate::{Role, Translator};
use crate::world::{Found, Registered, World};

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    /// The certificate authority.
    pub authority: Arc<Authority>,
    /// The join tokens.
    pub tokens: Tokens,
    /// What registered itself.
    pub registry: Registry,
    /// What is counted.
    pub metrics: Metrics,
    /// The limits of the rate limit service, and what is counted.
    pub limits: Arc<Limiter>,
    /// Whether proxies are believed without a certificate.
    pub is_insecure: bool,
    world: watch::Sender<Arc<Translator>>,
    model: Mutex<Arc<Model>>,
    names: Mutex<Arc<Names>>,
    built: Mutex<Option<Built>>,
    /// What made the world in force.
    cause: Mutex<Cause>,
    input: Mutex<Input>,
    proxies: Mutex<BTreeMap<u64, Proxy>>,
    next_proxy: AtomicU64,
}

/// What the world in force was made of.
#[derive(Debug)]
struct Built {
    model: Arc<Model>,
    names: Arc<Names>,
    registered: Vec<Registered>,
}

/// What became of the input.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Input {
    /// How often it was taken over.
    pub accepted: u64,
    /// Seconds since 1970 at which it was taken over last.
    pub accepted_at: u64,
    /// How often it was refused.
    pub refused: u64,
    /// Why it was refused last; empty if what is in the directory is in force.
    pub errors: Vec<InputError>,
}

/// What is counted, since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Responses, by the type's place.
    pub pushes: [AtomicU64; ResourceType::COUNT],
    /// Resources in them.
    pub resources: [AtomicU64; ResourceType::COUNT],
    /// Pushes that were refused.
    pub refusals: [AtomicU64; ResourceType::COUNT],
    /// Streams that were not let in, for their identity.
    pub denied: AtomicU64,
    /// Names of secrets of others that were asked for.
    pub stolen: AtomicU64,
    /// Certificates signed by request.
    pub signed: AtomicU64,
    /// Spans.
    pub spans: Arc<SpanCounts>,
}

/// A connected proxy.
#[derive(Clone, Debug, Serialize)]
pub struct Proxy {
    /// The node's ID.
    pub node: String,
    /// What it is, such as `envoy`.
    pub agent: String,
    /// The identity in its certificate.
    pub identity: Option<String>,
    /// From where it has connected.
    pub address: String,
    /// `delta` or `sotw`.
    pub variant: &'static str,
    /// Seconds since 1970 at which it connected.
    pub since: u64,
    /// Whether this is a stream of one type, one of several of the proxy.
    #[serde(skip)]
    pub is_part: bool,
    /// How far it is.
    pub types: Vec<Progress>,
}

/// The place of a proxy among those that are connected, while this lives.
#[derive(Debug)]
pub struct Connected {
    control: Arc<Control>,
    id: u64,
}

impl Control {
    /// A control plane with nothing in it.
    #[must_use]
    pub fn new(authority: Arc<Authority>, tokens: Tokens, is_insecure: bool) -> Self {
        let model = Arc::new(Model::default());
        let world = World::build(&model, authority.trust_domain(), &[], None);
        Self {
            authority,
            tokens,
            registry: Registry::default(),
            metrics: Metrics::default(),
            limits: Arc::default(),
            is_insecure,
            world: watch::Sender::new(Arc::new(Translator::new(Arc::new(world), None))),
            model: Mutex::new(model),
            names: Mutex::default(),
            built: Mutex::default(),
            cause: Mutex::default(),
            input: Mutex::default(),
            proxies: Mutex::default(),
            next_proxy: AtomicU64::new(1),
        }
    }

    /// Takes over an input as a whole, or notes why it cannot be: then the last good one stays in force.
    pub fn input(&self, loaded: Result<Model, Vec<InputError>>) {
        match loaded {
            Ok(model) => {
                let of_policies: Vec<_> = model
                    .gateway_policies
                    .iter()
                    .filter_map(|(key, stored)| stored.object.spec.counted(key))
                    .collect();
                let limits = model.rate_limits.values();
                let limits = limits.map(|stored| &stored.object.spec);
                self.limits.set(limits.chain(&of_policies));
                *self.model.lock() = Arc::new(model);
                self.rebuild();
                let mut input = self.input.lock();
                input.accepted += 1;
                input.accepted_at = now();
                input.errors.clear();
                tracing::info!(target: "audit", number = input.accepted, "The input was taken over.");
            }
            Err(errors) => {
                for error in &errors {
                    tracing::error!("{error}");
                }
                let mut input = self.input.lock();
                input.refused += 1;
                input.errors = errors;
                tracing::warn!(target: "audit", "The input was refused; the last good one stays in force.");
            }
        }
    }

    /// Makes the next world, from the input in force, the registry and DNS.
    pub fn rebuild(&self) {
        let span = tracing::debug_span!(
            "build_world",
            changed = tracing::field::Empty,
            services = tracing::field::Empty,
            workloads = tracing::field::Empty,
            gateways = tracing::field::Empty,
        );
        let called = self.registry.take_cause();
        if tracing::Span::current().is_none() {
            called.lead_to(&span);
        }
        let _entered = span.enter();
        *self.cause.lock() = Cause::of(&span);
        let next = Built {
            model: self.model(),
            names: self.names(),
            registered: self.registry.endpoints(),
        };
        let mut built = self.built.lock();
        let only_registered = built.as_ref().and_then(|built| next.only_registered(built));
        match &only_registered {
            Some(services) => span.record("changed", services.len()),
            None => span.record("changed", "all"),
        };
        self.world.send_modify(|translator| {
            let previous = Arc::clone(translator);
            let found = Found {
                registered: &next.registered,
                names: &next.names,
            };
            let before = previous.world();
            let world = match &only_registered {
                Some(services) => before.with_registered(&next.model, found, services),
                None => {
                    let trust_domain = self.authority.trust_domain();
                    World::build_with(&next.model, trust_domain, found, Some(before))
                }
            };
            span.record("services", world.services.len());
            span.record("workloads", world.workloads.len());
            span.record("gateways", world.gateways.len());
            *translator = Arc::new(Translator::new(Arc::new(world), Some(&previous)));
        });
        *built = Some(next);
    }

    /// The input in force.
    #[must_use]
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(&self.model.lock())
    }

    /// The addresses of the names in the input.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.lock())
    }

    /// Takes over other addresses of names.
    pub fn set_names(&self, names: Names) {
        *self.names.lock() = Arc::new(names);
        self.rebuild();
    }

    /// What is in force, now and later.
    #[must_use]
    pub fn worlds(&self) -> watch::Receiver<Arc<Translator>> {
        self.world.subscribe()
    }

    /// The span in which the world in force was made.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause.lock().clone()
    }

    /// What a proxy is to have now.
    #[must_use]
    pub fn snapshot(&self, role: &Role) -> Snapshot {
        let translator = Arc::clone(&self.world.borrow());
        translator.snapshot(role, &*self.authority)
    }

    /// The same from what a proxy had of an earlier world, which is replaced.
    pub fn refresh(
        &self,
        role: &Role,
        had: &mut Option<(Arc<World>, Arc<Snapshot>)>,
    ) -> Arc<Snapshot> {
        let translator = Arc::clone(&self.world.borrow());
        let snapshot = match had {
            Some((before, snapshot)) => {
                translator.refresh(role, &*self.authority, (before, snapshot))
            }
            None => Arc::new(translator.snapshot(role, &*self.authority)),
        };
        *had = Some((Arc::clone(translator.world()), Arc::clone(&snapshot)));
        snapshot
    }

    /// What became of the input.
    #[must_use]
    pub fn input_state(&self) -> Input {
        self.input.lock().clone()
    }

    /// Who is connected. The streams of a proxy that has one per type, or per resource, are one proxy.
    #[must_use]
    pub fn proxies(&self) -> Vec<Proxy> {
        let mut whole: Vec<Proxy> = Vec::new();
        let mut parts: BTreeMap<(String, Option<String>), Proxy> = BTreeMap::new();
        for proxy in self.proxies.lock().values() {
            if !proxy.is_part {
                whole.push(proxy.clone());
                continue;
            }
            let key = (proxy.node.clone(), proxy.identity.clone());
            match parts.entry(key) {
                Entry::Vacant(place) => drop(place.insert(proxy.clone())),
                Entry::Occupied(mut place) => place.get_mut().join(&proxy.types),
            }
        }
        whole.extend(parts.into_values());
        whole
    }

    /// Notes a proxy.
    #[must_use]
    pub fn connect(self: &Arc<Self>, proxy: Proxy) -> Connected {
        let id = self.next_proxy.fetch_add(1, Ordering::Relaxed);
        tracing::info!(node = proxy.node, identity = ?proxy.identity, address = proxy.address, "A proxy has connected.");
        self.proxies.lock().insert(id, proxy);
        Connected {
            control: Arc::clone(self),
            id,
        }
    }
}

impl Built {
    /// The services whose registered endpoints differ, if nothing else does.
    fn only_registered(&self, before: &Self) -> Option<BTreeSet<Key>> {
        if !Arc::ptr_eq(&self.model, &before.model) || !Arc::ptr_eq(&self.names, &before.names) {
            return None;
        }
        let (now, then) = (by_service(&self.registered), by_service(&before.registered));
        let differs = |key: &&&Key| now.get(**key) != then.get(**key);
        let keys = now.keys().chain(then.keys());
        Some(keys.filter(differs).map(|key| Key::clone(key)).collect())
    }
}

fn by_service(registered: &[Registered]) -> BTreeMap<&Key, Vec<&Registered>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for endpoint in registered {
        found.entry(&endpoint.service).or_default().push(endpoint);
    }
    found
}

impl Proxy {
    /// Adds what another stream has.
    fn join(&mut self, types: &[Progress]) {
        for other in types {
            match self.types.iter_mut().find(|known| known.kind == other.kind) {
                None => self.types.push(other.clone()),
                Some(known) => {
                    known.sent += other.sent;
                    known.waiting |= other.waiting;
                    known.accepted = known.accepted.take().or_else(|| other.accepted.clone());
                    known.refused = known.refused.take().or_else(|| other.refused.clone());
                }
            }
        }
    }
}

impl Connected {
    /// Notes how far the proxy is.
    pub fn progress(&self, types: Vec<Progress>) {
        if let Some(proxy) = self.control.proxies.lock().get_mut(&self.id) {
            proxy.types = types;
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let proxy = self.control.proxies.lock().remove(&self.id);
        let node = proxy.map(|proxy| proxy.node);
        tracing::info!(?node, "A proxy has gone.");
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
