//! `JwtProvider`s, each with its keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Keys, Problem, Provider, port_of};
use crate::model::{JwtProvider, Key, Kind, Model, key_set, uri_endpoint};
use crate::world::backend_tls::system_roots;
use crate::world::{Service, Status};

pub(super) fn providers(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    statuses: &mut Vec<Status>,
) -> BTreeMap<Key, Arc<Provider>> {
    let mut found = BTreeMap::new();
    for (key, stored) in &model.jwt_providers {
        let mut status = Status::new(Kind::JwtProvider, key, &stored.origin);
        status.holds("", "Accepted");
        match keys(model, services, key, &stored.object) {
            Ok(keys) => {
                status.holds("", "ResolvedRefs");
                let spec = stored.object.spec.clone();
                found.insert(key.clone(), Arc::new(Provider { spec, keys }));
            }
            Err((reason, message)) => status.fails("", "ResolvedRefs", reason, message),
        }
        statuses.push(status);
    }
    found
}

fn keys(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    key: &Key,
    provider: &JwtProvider,
) -> Result<Keys, Problem> {
    let spec = &provider.spec.jwks;
    if let Some(inline) = &spec.inline {
        return Ok(Keys::Inline(inline.clone()));
    }
    if let Some(reference) = &spec.config_map {
        let name = Key::new(&key.namespace, &reference.name);
        let field = reference.key.as_deref().unwrap_or("jwks.json");
        let bad = |what: String| ("InvalidJwks", format!("ConfigMap {name}{what}"));
        let stored = model.config_maps.get(&name);
        let stored = stored.ok_or_else(|| bad(" is not there".to_owned()))?;
        let data = stored.object.data.as_ref();
        let text = data
            .and_then(|data| data.get(field))
            .ok_or_else(|| bad(format!(" has no key {field}")))?;
        key_set(text).map_err(|reason| bad(format!(": {field} {reason}")))?;
        return Ok(Keys::Inline(text.clone()));
    }
    if let Some(reference) = &spec.service {
        let target = (Key::new(&key.namespace, &reference.name), reference.port);
        port_of(services, &target)?;
        return Ok(Keys::Service(target.0, target.1));
    }
    let uri = spec.uri.as_deref().unwrap_or_default();
    let (host, port, is_tls) = uri_endpoint(uri).map_err(|reason| ("InvalidJwks", reason))?;
    let no_roots = || {
        let message = "the control plane's machine has no file of well-known roots";
        ("InvalidJwks", message.to_owned())
    };
    let roots = match is_tls {
        true => Some(system_roots().ok_or_else(no_roots)?),
        false => None,
    };
    Ok(Keys::Host { host, port, roots })
}
