//! The references of routes, resolved.

use std::collections::BTreeMap;

use gateway_api::apis::standard::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters, HttpRouteRulesMatches,
    HttpRouteRulesMatchesPathType,
};

use super::source::{Source, reshape};
use super::{Backend, PathRewrite, Route, Rule};
use crate::model::{Key, Kind, Model, parse_duration};
use crate::world::gateway::is_permitted;
use crate::world::{Service, Status, port_number};

pub(super) fn resolve(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    source: &Source<'_>,
    status: &mut Status,
) -> Option<Route> {
    let written = match &source.rules {
        Ok(rules) => rules,
        Err(message) => {
            status.fails("", "Accepted", "UnsupportedValue", message.clone());
            return None;
        }
    };
    let mut resolver = Resolver {
        model,
        services,
        kind: source.kind,
        namespace: &source.key.namespace,
        missing: Vec::new(),
    };
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        match resolver.rule(rule) {
            Ok(rule) => rules.push(rule),
            Err(message) => {
                let about = format!("spec.rules[{index}]");
                status.fails(&about, "Accepted", "UnsupportedValue", message);
                return None;
            }
        }
    }
    if let Some((reason, _)) = resolver.missing.first() {
        let all: Vec<_> = resolver
            .missing
            .iter()
            .map(|(_, message)| message.as_str())
            .collect();
        status.fails("", "ResolvedRefs", reason, all.join("; "));
    } else {
        status.holds("", "ResolvedRefs");
    }
    Some(Route {
        kind: source.kind,
        key: source.key.clone(),
        hostnames: source.hostnames.clone(),
        rules,
        created: source.created.clone(),
    })
}

pub(super) struct Resolver<'a> {
    pub(super) model: &'a Model,
    services: &'a BTreeMap<Key, Service>,
    kind: Kind,
    pub(super) namespace: &'a str,
    /// References that lead nowhere: reason and message.
    pub(super) missing: Vec<(&'static str, String)>,
}

impl Resolver<'_> {
    fn rule(&mut self, rule: &HttpRouteRules) -> Result<Rule, String> {
        let filters = self.filters(rule.filters.as_deref().unwrap_or_default())?;
        let is_prefix = |found: &HttpRouteRulesMatches| {
            found.path.as_ref().is_none_or(|path| {
                matches!(
                    path.r#type,
                    None | Some(HttpRouteRulesMatchesPathType::PathPrefix)
                )
            })
        };
        let matches = rule.matches.clone().unwrap_or_default();
        let redirect_path = filters
            .redirect
            .as_ref()
            .and_then(|redirect| redirect.path.as_ref());
        if matches!(
            filters.rewrite_path.as_ref().or(redirect_path),
            Some(PathRewrite::Prefix(_))
        ) && !matches.iter().all(is_prefix)
        {
            return Err("ReplacePrefixMatch needs matches of the type PathPrefix".to_owned());
        }
        let mut backends = Vec::new();
        for backend in rule.backend_refs.iter().flatten() {
            backends.push(self.backend(backend)?);
        }
        let timeouts = rule.timeouts.as_ref();
        let parse = |text: Option<&String>| text.map(|text| parse_duration(text)).transpose();
        Ok(Rule {
            name: rule.name.clone(),
            matches,
            filters,
            backends,
            timeout: parse(timeouts.and_then(|timeouts| timeouts.request.as_ref()))?,
            backend_timeout: parse(
                timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()),
            )?,
        })
    }

    fn backend(&mut self, backend: &HttpRouteRulesBackendRefs) -> Result<Backend, String> {
        let filters: Vec<HttpRouteRulesFilters> = reshape(&backend.filters)?;
        let filters = self.filters(&filters)?;
        if filters.redirect.is_some()
            || filters.rewrite_path.is_some()
            || !filters.mirrors.is_empty()
            || filters.cors.is_some()
            || !filters.policies.is_empty()
            || filters.is_unresolved
        {
            return Err(
                "of a backend's filters, only those of headers and of the host name are supported"
                    .to_owned(),
            );
        }
        Ok(Backend {
            target: self.target(
                backend.group.as_deref(),
                backend.kind.as_deref(),
                backend.namespace.as_deref(),
                &backend.name,
                backend.port,
            ),
            weight: u32::try_from(backend.weight.unwrap_or(1)).unwrap_or_default(),
            filters,
        })
    }

    pub(super) fn target(
        &mut self,
        group: Option<&str>,
        kind: Option<&str>,
        namespace: Option<&str>,
        name: &str,
        port: Option<i32>,
    ) -> Option<(Key, u16)> {
        let (group, kind) = (group.unwrap_or_default(), kind.unwrap_or("Service"));
        if !group.is_empty() || kind != "Service" {
            self.missing
                .push(("InvalidKind", format!("{group}/{kind} is no Service")));
            return None;
        }
        let key = Key::new(namespace.unwrap_or(self.namespace), name);
        let from = (
            "gateway.networking.k8s.io",
            self.kind.name(),
            self.namespace,
        );
        if !is_permitted(self.model, from, ("", "Service", &key)) {
            let message = format!(
                "no ReferenceGrant in {} permits Service {key}",
                key.namespace
            );
            self.missing.push(("RefNotPermitted", message));
            return None;
        }
        let Some(service) = self.services.get(&key) else {
            self.missing
                .push(("BackendNotFound", format!("there is no Service {key}")));
            return None;
        };
        let port = port.and_then(port_number);
        match port.filter(|port| service.port(*port).is_some()) {
            Some(port) => Some((key, port)),
            None => {
                let message = match port {
                    Some(port) => format!("Service {key} has no port {port}"),
                    None => format!("the reference to Service {key} has no port"),
                };
                self.missing.push(("BackendNotFound", message));
                None
            }
        }
    }
}
