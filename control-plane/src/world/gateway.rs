//! Gateways and their listeners.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    GatewayListeners, GatewayListenersTls, GatewayListenersTlsMode,
};

use super::ingress;
use super::{
    Gateway, GatewayListener, ListenerMode, Policies, Status, TlsSecret, identity, port_number,
};
use crate::model::{Key, Kind, Model};

/// The `controllerName` of the gateway classes that are ours.
pub(super) const CONTROLLER: &str = "outrigger.dev/gateway-controller";
/// The name of a gateway class that is ours without being written.
const CLASS: &str = "outrigger";

pub(super) fn resolve(
    model: &Model,
    trust_domain: &str,
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
    statuses: &mut Vec<Status>,
) -> BTreeMap<Key, Gateway> {
    for (key, stored) in &model.gateway_classes {
        if stored.object.spec.controller_name == CONTROLLER {
            let mut status = Status::new(Kind::GatewayClass, key, &stored.origin);
            status.holds("", "Accepted");
            statuses.push(status);
        }
    }
    let serving = ingress::serving(model);
    let mut gateways = BTreeMap::new();
    for (key, stored) in &model.gateways {
        let spec = &stored.object.spec;
        let mut status = Status::new(Kind::Gateway, key, &stored.origin);
        match model
            .gateway_classes
            .get(&Key::new("", &spec.gateway_class_name))
        {
            Some(class) if class.object.spec.controller_name == CONTROLLER => {}
            // Another controller's.
            Some(_) => continue,
            None if spec.gateway_class_name == CLASS => {}
            None => {
                let message = format!("there is no GatewayClass {}", spec.gateway_class_name);
                status.fails("", "Accepted", "InvalidParameters", message);
                statuses.push(status);
                continue;
            }
        }
        if spec.tls.is_some() || spec.allowed_listeners.is_some() || spec.infrastructure.is_some() {
            let message = "tls, allowedListeners and infrastructure of a Gateway are not supported";
            status.fails("", "Accepted", "InvalidParameters", message);
            statuses.push(status);
            continue;
        }
        status.holds("", "Accepted");
        let address = spec.addresses.as_deref().unwrap_or_default().first();
        if spec
            .addresses
            .as_ref()
            .is_some_and(|addresses| addresses.len() > 1)
        {
            let message = "only the first address is used";
            status.fails("spec.addresses", "Programmed", "AddressNotUsable", message);
        }
        let mut listeners = Vec::new();
        for listener in &spec.listeners {
            let about = format!("listener {}", listener.name);
            match resolve_listener(model, key, &spec.listeners, listener, secrets) {
                Ok(resolved) => {
                    status.holds(&about, "Accepted");
                    status.holds(&about, "ResolvedRefs");
                    listeners.push(resolved);
                }
                // The certificates are those of the Ingresses.
                Err(("ResolvedRefs", ..))
                    if serving.contains(key) && has_no_certificate(listener) =>
                {
                    status.holds(&about, "Accepted");
                    status.holds(&about, "ResolvedRefs");
                }
                Err((name, reason, message)) => status.fails(&about, name, reason, message),
            }
        }
        gateways.insert(
            key.clone(),
            Gateway {
                key: key.clone(),
                identity: identity(trust_domain, &key.namespace, &key.name),
                address: address
                    .and_then(|address| address.value.as_deref()?.parse().ok())
                    .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                listeners,
            },
        );
        statuses.push(status);
    }
    gateways
}

/// Adds `Programmed`, once the routes are attached.
pub(super) fn finish(gateways: &BTreeMap<Key, Gateway>, statuses: &mut [Status]) {
    for status in statuses
        .iter_mut()
        .filter(|status| status.kind == Kind::Gateway)
    {
        match gateways.get(&status.key) {
            Some(gateway) if !gateway.listeners.is_empty() => status.holds("", "Programmed"),
            _ => status.fails("", "Programmed", "Invalid", "no listener can be used"),
        }
    }
}

fn resolve_listener(
    model: &Model,
    gateway: &Key,
    all: &[GatewayListeners],
    listener: &GatewayListeners,
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
) -> Result<GatewayListener, (&'static str, &'static str, String)> {
    let family = |protocol: &str| match protocol {
        "HTTP" => Some(0),
        "HTTPS" | "TLS" => Some(1),
        "TCP" => Some(2),
        _ => None,
    };
    let port = port_number(listener.port)
        .ok_or_else(|| ("Accepted", "PortUnavailable", "no port".to_owned()))?;
    let mine = family(&listener.protocol).ok_or_else(|| {
        let message = format!("{} is not HTTP, HTTPS, TLS or TCP", listener.protocol);
        ("Accepted", "UnsupportedProtocol", message)
    })?;
    for other in all
        .iter()
        .filter(|other| other.port == listener.port && other.name != listener.name)
    {
        if family(&other.protocol) != Some(mine) {
            let message = format!("listener {} speaks {} there", other.name, other.protocol);
            return Err(("Accepted", "ProtocolConflict", message));
        }
        if other.hostname == listener.hostname {
            let message = format!("listener {} has the same port and host name", other.name);
            return Err(("Accepted", "HostnameConflict", message));
        }
    }
    let mode = match (listener.protocol.as_str(), &listener.tls) {
        ("HTTP", _) => ListenerMode::Http,
        ("TCP", _) => ListenerMode::Tcp,
        ("HTTPS", Some(tls)) => match tls.mode {
            Some(GatewayListenersTlsMode::Passthrough) => {
                let message = "HTTPS is terminated; use the protocol TLS".to_owned();
                return Err(("Accepted", "UnsupportedValue", message));
            }
            _ => ListenerMode::Https(certificates(model, gateway, tls, secrets)?),
        },
        (_, Some(tls)) => match tls.mode {
            Some(GatewayListenersTlsMode::Passthrough) => ListenerMode::Passthrough,
            _ => ListenerMode::TerminateTls(certificates(model, gateway, tls, secrets)?),
        },
        (_, None) => {
            return Err((
                "Accepted",
                "UnsupportedValue",
                "`tls` is missing".to_owned(),
            ));
        }
    };
    Ok(GatewayListener {
        name: listener.name.clone(),
        port,
        hostname: listener.hostname.clone(),
        mode,
        routes: Vec::new(),
        policies: Policies::default(),
    })
}

fn has_no_certificate(listener: &GatewayListeners) -> bool {
    let tls = listener.tls.as_ref();
    let references = tls.and_then(|tls| tls.certificate_refs.as_ref());
    listener.protocol == "HTTPS" && references.is_none_or(Vec::is_empty)
}

fn certificates(
    model: &Model,
    gateway: &Key,
    tls: &GatewayListenersTls,
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
) -> Result<Vec<Key>, (&'static str, &'static str, String)> {
    if tls
        .options
        .as_ref()
        .is_some_and(|options| !options.is_empty())
    {
        return Err((
            "Accepted",
            "UnsupportedValue",
            "`tls.options` are not supported".to_owned(),
        ));
    }
    let mut found = Vec::new();
    for reference in tls.certificate_refs.iter().flatten() {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if !group.is_empty() || kind != "Secret" {
            let message = format!("{group}/{kind} is no Secret");
            return Err(("ResolvedRefs", "InvalidCertificateRef", message));
        }
        let namespace = reference.namespace.as_ref().unwrap_or(&gateway.namespace);
        let key = Key::new(namespace, &reference.name);
        let from = (
            "gateway.networking.k8s.io",
            "Gateway",
            gateway.namespace.as_str(),
        );
        if !is_permitted(model, from, ("", "Secret", &key)) {
            let message =
                format!("no ReferenceGrant in {namespace} lets this Gateway use Secret {key}");
            return Err(("ResolvedRefs", "RefNotPermitted", message));
        }
        if !secrets.contains_key(&key) {
            let message = format!("there is no usable TLS Secret {key}");
            return Err(("ResolvedRefs", "InvalidCertificateRef", message));
        }
        found.push(key);
    }
    if found.is_empty() {
        let message = "`tls.certificateRefs` is missing".to_owned();
        return Err(("ResolvedRefs", "InvalidCertificateRef", message));
    }
    Ok(found)
}

/// Whether an object may refer to one of another namespace, which a `ReferenceGrant` there says.
pub(super) fn is_permitted(
    model: &Model,
    (from_group, from_kind, from_namespace): (&str, &str, &str),
    (to_group, to_kind, to): (&str, &str, &Key),
) -> bool {
    from_namespace == to.namespace
        || model
            .reference_grants
            .iter()
            .filter(|(grant, _)| grant.namespace == to.namespace)
            .any(|(_, grant)| {
                let spec = &grant.object.spec;
                let from = spec.from.iter().any(|from| {
                    from.group == from_group
                        && from.kind == from_kind
                        && from.namespace == from_namespace
                });
                let to = spec.to.iter().any(|allowed| {
                    allowed.group == to_group
                        && allowed.kind == to_kind
                        && allowed.name.as_ref().is_none_or(|name| *name == to.name)
                });
                from && to
            })
}
