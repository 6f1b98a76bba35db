//! What routes are attached to.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom,
};
use gateway_api::apis::standard::httproutes::HttpRouteParentRefs;

use super::{Route, Rule};
use crate::model::{Key, Kind, Model};
use crate::world::{Gateway, ListenerMode, Service, port_number};

pub(super) fn to_service(
    services: &mut BTreeMap<Key, Service>,
    key: &Key,
    parent: &HttpRouteParentRefs,
    route: &Arc<Route>,
) -> Result<(), (&'static str, String)> {
    if route.rules.iter().any(|rule| rule.filters.cors.is_some()) {
        let message = "the filter CORS is for routes of gateways, where browsers call";
        return Err(("UnsupportedValue", message.to_owned()));
    }
    let has_policy = |rule: &Rule| !rule.filters.policies.is_empty() || rule.filters.is_unresolved;
    if route.rules.iter().any(has_policy) {
        let message = "the filter ExtensionRef is for routes of gateways, which have policies";
        return Err(("UnsupportedValue", message.to_owned()));
    }
    if key.namespace != route.key.namespace {
        let message = "a route of a Service has to be in its namespace".to_owned();
        return Err(("NotAllowedByListeners", message));
    }
    let service = services
        .get_mut(key)
        .ok_or_else(|| ("NoMatchingParent", format!("there is no Service {key}")))?;
    if !matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute) {
        let message = "a Service takes HTTPRoute and GRPCRoute".to_owned();
        return Err(("NotAllowedByListeners", message));
    }
    if parent.port.is_some() || parent.section_name.is_some() {
        let message = "`port` and `sectionName` of a Service are not supported".to_owned();
        return Err(("UnsupportedValue", message));
    }
    service.routes.push(Arc::clone(route));
    Ok(())
}

pub(super) fn to_gateway(
    model: &Model,
    gateways: &mut BTreeMap<Key, Gateway>,
    key: &Key,
    parent: &HttpRouteParentRefs,
    route: &Arc<Route>,
) -> Result<(), (&'static str, String)> {
    let (gateway, written) = gateways
        .get_mut(key)
        .zip(model.gateways.get(key))
        .ok_or_else(|| {
            (
                "NoMatchingParent",
                format!("there is no Gateway {key} of ours"),
            )
        })?;
    let mut refusal = None;
    let mut is_attached = false;
    for listener in &mut gateway.listeners {
        let is_named = parent
            .section_name
            .as_ref()
            .is_none_or(|name| *name == listener.name);
        let is_port = parent
            .port
            .and_then(port_number)
            .is_none_or(|port| port == listener.port);
        if !is_named
            || !is_port
            || (parent.port.is_some() && parent.port.and_then(port_number).is_none())
        {
            continue;
        }
        let fits = match listener.mode {
            ListenerMode::Http | ListenerMode::Https(_) => {
                matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute)
            }
            ListenerMode::Passthrough => route.kind == Kind::TlsRoute,
            ListenerMode::TerminateTls(_) | ListenerMode::Tcp => route.kind == Kind::TcpRoute,
        };
        let spec = written
            .object
            .spec
            .listeners
            .iter()
            .find(|spec| spec.name == listener.name);
        let allowed = spec.and_then(|spec| spec.allowed_routes.as_ref());
        if let Err(message) = allows(allowed, key, route).and_then(|()| {
            if fits {
                Ok(())
            } else {
                Err(format!("it takes no {}", route.kind.name()))
            }
        }) {
            refusal = Some((
                "NotAllowedByListeners",
                format!("listener {}: {message}", listener.name),
            ));
            continue;
        }
        let meets = route.hostnames.is_empty()
            || route
                .hostnames
                .iter()
                .any(|hostname| intersect(listener.hostname.as_deref(), hostname).is_some());
        if !meets {
            let message = format!("listener {} has no host name of the route", listener.name);
            refusal = Some(("NoMatchingListenerHostname", message));
            continue;
        }
        listener.routes.push(Arc::clone(route));
        is_attached = true;
    }
    match (is_attached, refusal) {
        (true, _) => Ok(()),
        (false, Some(refusal)) => Err(refusal),
        (false, None) => Err((
            "NoMatchingParent",
            "no listener of this name and port can be used".to_owned(),
        )),
    }
}

fn allows(
    allowed: Option<&GatewayListenersAllowedRoutes>,
    gateway: &Key,
    route: &Route,
) -> Result<(), String> {
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => {}
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Selector) => {
            return Err("allowedRoutes.namespaces.from: Selector is not supported".to_owned());
        }
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Same) | None => {
            if gateway.namespace != route.key.namespace {
                return Err(format!(
                    "it takes routes of the namespace {} only",
                    gateway.namespace
                ));
            }
        }
    }
    let kinds = allowed
        .and_then(|allowed| allowed.kinds.as_deref())
        .unwrap_or_default();
    if kinds.is_empty() || kinds.iter().any(|kind| kind.kind == route.kind.name()) {
        Ok(())
    } else {
        Err(format!("it takes no {}", route.kind.name()))
    }
}

/// The host names that both take: the longer of the two, if one covers the other.
#[must_use]
pub(crate) fn intersect(listener: Option<&str>, route: &str) -> Option<String> {
    let Some(listener) = listener else {
        return Some(route.to_owned());
    };
    if listener == route || covers(listener, route) {
        Some(route.to_owned())
    } else if covers(route, listener) {
        Some(listener.to_owned())
    } else {
        None
    }
}

/// Whether a host name with `*.` covers another, with `*.` or without.
pub(crate) fn covers(wildcard: &str, hostname: &str) -> bool {
    wildcard.strip_prefix('*').is_some_and(|suffix| {
        let rest = hostname.strip_prefix('*').unwrap_or(hostname);
        rest.len() >= suffix.len() && rest.ends_with(suffix) && hostname != suffix
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_meet_where_one_covers_the_other() {
        for (listener, route, met) in [
            (None, "a.b", Some("a.b")),
            (Some("a.b"), "a.b", Some("a.b")),
            (Some("*.b"), "a.b", Some("a.b")),
            (Some("a.b"), "*.b", Some("a.b")),
            (Some("*.b"), "x.a.b", Some("x.a.b")),
            (Some("*.b"), "b", None),
            (Some("*.b"), "*.a.b", Some("*.a.b")),
            (Some("*.a.b"), "*.b", Some("*.a.b")),
            (Some("a.b"), "c.b", None),
            (Some("*.b"), "ab", None),
        ] {
            assert_eq!(
                intersect(listener, route).as_deref(),
                met,
                "{listener:?} {route}"
            );
        }
    }
}
