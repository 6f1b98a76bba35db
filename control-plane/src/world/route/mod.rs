//! The routes of all kinds in one form, and the listeners and services to which they are attached.

mod filters;
mod parent;
mod resolve;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::standard::httproutes::HttpRouteRulesMatches;

use super::{Gateway, Service, Status};
use crate::model::{CorsSpec, Key, Kind, Model};
pub(crate) use parent::{covers, intersect};
use parent::{to_gateway, to_service};
use resolve::resolve;
pub(super) use source::created;
pub(crate) use source::escape;
use source::sources;

/// A route of any kind. Matches of TLS and TCP routes are empty.
#[derive(Debug, PartialEq)]
pub struct Route {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// The host names; all if empty.
    pub hostnames: Vec<String>,
    /// The rules in their order.
    pub rules: Vec<Rule>,
    pub(super) created: Option<String>,
}

/// A rule of a route.
#[derive(Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// Any of them; everything if empty.
    pub matches: Vec<HttpRouteRulesMatches>,
    /// What happens to a request.
    pub filters: Filters,
    /// Where it goes.
    pub backends: Vec<Backend>,
    /// Time for the whole response.
    pub timeout: Option<Duration>,
    /// Time for one attempt.
    pub backend_timeout: Option<Duration>,
}

/// A service that gets a share.
#[derive(Debug, PartialEq)]
pub struct Backend {
    /// Service and port; none if the reference cannot be resolved: its share is answered with 500.
    pub target: Option<(Key, u16)>,
    /// Its share.
    pub weight: u32,
    /// What happens to its requests only.
    pub filters: Filters,
}

/// What happens to a request.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct Filters {
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub redirect: Option<Redirect>,
    pub rewrite_host: Option<String>,
    pub rewrite_path: Option<PathRewrite>,
    pub mirrors: Vec<MirrorTo>,
    pub cors: Option<Arc<CorsSpec>>,
    /// Policies of gateways that the rule names, all of which there are.
    pub policies: Vec<Key>,
    /// A filter is not there: nothing passes.
    pub is_unresolved: bool,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct HeaderChanges {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct Redirect {
    pub scheme: Option<&'static str>,
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub status: u16,
    pub path: Option<PathRewrite>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// In place of the whole.
    Full(String),
    /// In place of what the prefix match matched.
    Prefix(String),
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorTo {
    /// Service and port; none if the reference cannot be resolved: no copies.
    pub target: Option<(Key, u16)>,
    /// How many of `denominator`.
    pub numerator: u32,
    /// 100 if not given.
    pub denominator: u32,
}

/// Resolves all routes and attaches them. Those of a listener or service are sorted: the oldest first, then by name.
pub(super) fn attach(
    model: &Model,
    services: &mut BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let mut routes = Vec::new();
    for source in sources(model) {
        let mut status = Status::new(source.kind, source.key, source.origin);
        let Some(route) = resolve(model, services, &source, &mut status) else {
            statuses.push(status);
            continue;
        };
        routes.push((Arc::new(route), source.parents, status));
    }
    routes.sort_by(|(a, ..), (b, ..)| {
        let age = |route: &Route| (route.created.is_none(), route.created.clone());
        (age(a), &a.key).cmp(&(age(b), &b.key))
    });
    for (route, parents, mut status) in routes {
        if parents.is_empty() {
            status.fails(
                "",
                "Accepted",
                "NoMatchingParent",
                "there is no `parentRefs`",
            );
        }
        for parent in &parents {
            let namespace = parent.namespace.as_ref().unwrap_or(&route.key.namespace);
            let key = Key::new(namespace, &parent.name);
            let kind = parent.kind.as_deref().unwrap_or("Gateway");
            let about = format!("{kind} {key}");
            let result = match kind {
                "Gateway" => to_gateway(model, gateways, &key, parent, &route),
                "Service" => to_service(services, &key, parent, &route),
                _ => Err(("InvalidKind", "neither a Gateway nor a Service".to_owned())),
            };
            match result {
                Ok(()) => status.holds(&about, "Accepted"),
                Err((reason, message)) => status.fails(&about, "Accepted", reason, message),
            }
        }
        statuses.push(status);
    }
}
