//! `GatewayPolicy` and `JwtProvider`: what gateways ask of requests, every reference resolved.
//!
//! A section that refers to what cannot be used lets nothing pass: requests that it is for are answered with 500.

mod attach;
mod provider;
mod resolve;
mod sections;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Protocol, Route, Rule, Service};
use crate::model::{
    AddressesSpec, ApiKeysSpec, BandwidthSpec, CallLimit, Claims, Compression, CorsSpec, CsrfSpec,
    ErrorAnswer, ExtAuthzSpec, JwtProviderSpec, Key, Kind, Retries,
};
pub(super) use attach::attach;

/// What holds for a request at a gateway. A part that nobody asked for is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Something that it needs is not there: nothing passes.
    pub is_broken: bool,
    /// From which addresses one may call.
    pub addresses: Option<Arc<AddressesSpec>>,
    /// Which tokens are needed.
    pub jwt: Option<Arc<Jwt>>,
    /// Which API keys are.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Which users may call, as lines of `htpasswd -s`.
    pub basic_auth: Option<Arc<str>>,
    /// Who else is asked.
    pub ext_authz: Option<Arc<ExtAuthz>>,
    /// How often one may call.
    pub rate_limits: Option<Arc<CallLimits>>,
    /// Which pages of other origins may call.
    pub cors: Option<Arc<CorsSpec>>,
    /// From pages of which hosts a browser may send what changes something.
    pub csrf: Option<Arc<CsrfSpec>>,
    /// What stands in for answers that say what went wrong.
    pub errors: Arc<[ErrorAnswer]>,
    /// How fast bodies go.
    pub bandwidth: Option<Arc<BandwidthSpec>>,
    /// How many bytes the body of a request may have.
    pub max_body_bytes: Option<u32>,
    /// How many trusted proxies are in front.
    pub trusted_hops: u32,
    /// How answers are compressed.
    pub compression: Vec<Compression>,
    /// Time for a whole response, where the route says nothing.
    pub timeout: Option<Duration>,
    /// When and how often a request is sent again.
    pub retries: Option<Retries>,
}

/// Which tokens are needed.
#[derive(Debug, PartialEq)]
pub struct Jwt {
    /// All providers that are named, each of which can be used.
    pub providers: BTreeMap<Key, Arc<Provider>>,
    /// What holds for the paths of no rule.
    pub otherwise: Demand,
    /// Paths for which something else holds. The first one goes.
    pub rules: Vec<(Vec<String>, Demand)>,
}

/// Which tokens a request needs, and what they have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which tokens.
    pub tokens: Requirement,
    /// For each claim one of these values.
    pub claims: Claims,
}

/// Which tokens a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// None.
    Nothing,
    /// One of any of these providers.
    Any(Vec<Key>, Missing),
    /// One of each of these providers.
    All(Vec<Key>, Missing),
}

/// What becomes of a request without any token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is denied.
    Denied,
    /// It passes.
    Allowed,
}

/// Who signs tokens.
#[derive(Debug, PartialEq)]
pub struct Provider {
    /// What is written.
    pub spec: JwtProviderSpec,
    /// Its keys.
    pub keys: Keys,
}

/// Where the keys of a provider are.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    /// Here.
    Inline(String),
    /// At the URI of the provider, at a port of a service.
    Service(Key, u16),
    /// At the URI of the provider.
    Host {
        /// A name or an address.
        host: String,
        /// Its port.
        port: u16,
        /// The roots by which it is known, in PEM; none without TLS.
        roots: Option<Arc<str>>,
    },
}

/// Which API keys are good.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiKeys {
    /// What is written.
    pub spec: ApiKeysSpec,
    /// The clients, each once, and their keys.
    pub clients: BTreeMap<String, String>,
}

/// Who is asked whether a request may pass.
#[derive(Debug, PartialEq, Eq)]
pub struct ExtAuthz {
    /// The policy that says so.
    pub policy: Key,
    /// What is written.
    pub spec: ExtAuthzSpec,
    /// Who is asked.
    pub target: (Key, u16),
}

/// How often one may call.
#[derive(Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// The policy that says so.
    pub policy: Key,
    /// The limits.
    pub limits: Vec<CallLimit>,
}

/// The policies of a listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// For what nothing else is said.
    pub base: Option<Arc<Policy>>,
    routes: BTreeMap<Place, Arc<Policy>>,
    /// For rules that name policies themselves, by their place and these policies.
    extended: BTreeMap<(Place, Vec<Key>), Arc<Policy>>,
}

/// Kind, key and section of a target.
type Place = (Kind, Key, Option<String>);

impl Policies {
    /// What holds for a rule of a route.
    #[must_use]
    pub fn of(&self, route: &Route, rule: &Rule) -> Option<&Arc<Policy>> {
        let place = |section: Option<String>| (route.kind, route.key.clone(), section);
        if !rule.filters.policies.is_empty() {
            let named = (place(rule.name.clone()), rule.filters.policies.clone());
            return self.extended.get(&named);
        }
        if self.routes.is_empty() {
            return self.base.as_ref();
        }
        let named = rule.name.clone();
        named
            .and_then(|name| self.routes.get(&place(Some(name))))
            .or_else(|| self.routes.get(&place(None)))
            .or(self.base.as_ref())
    }
}

/// Why something does not hold.
type Problem = (&'static str, String);

/// What is spoken at a port of a service.
fn port_of(services: &BTreeMap<Key, Service>, target: &(Key, u16)) -> Result<Protocol, Problem> {
    let (key, number) = target;
    let not_found = |message: String| ("BackendNotFound", message);
    let service = services
        .get(key)
        .ok_or_else(|| not_found(format!("there is no Service {key}")))?;
    let port = service
        .port(*number)
        .ok_or_else(|| not_found(format!("Service {key} has no port {number}")))?;
    Ok(port.protocol)
}
