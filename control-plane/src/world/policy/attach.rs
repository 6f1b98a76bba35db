//! Which policy is for which listener, route and rule, and what their objects are told about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Problem;
use super::provider::providers;
use super::resolve::Resolver;
use super::sections::Sections;
use crate::model::{GatewayPolicy, Key, Kind, Model, PolicyTarget, Stored};
use crate::world::route::created;
use crate::world::{Gateway, Service, Status};

/// Kind, key and section of a target.
type Place = (Kind, Key, Option<String>);

/// Resolves all policies and sets [`crate::world::GatewayListener::policies`].
pub(in crate::world) fn attach(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let providers = providers(model, services, statuses);
    let mut places: BTreeMap<Place, Sections> = BTreeMap::new();
    let used = Used::of(gateways);
    for (key, stored) in in_order(model) {
        let mut status = Status::new(Kind::GatewayPolicy, key, &stored.origin);
        let mut resolver = Resolver {
            model,
            services,
            providers: &providers,
            policy: key,
            missing: Vec::new(),
        };
        let sections = resolver.sections(&stored.object);
        let broken: Vec<_> = resolver.missing.iter().map(|(_, text)| &**text).collect();
        let broken = broken.join("; ");
        for target in &stored.object.spec.target_refs {
            let about = match &target.section_name {
                Some(section) => format!("{} {}/{section}", target.kind, target.name),
                None => format!("{} {}", target.kind, target.name),
            };
            match place(model, gateways, key, target) {
                Err((reason, message)) => {
                    status.fails(&about, "Accepted", reason, message);
                    status.fails(
                        &about,
                        "Programmed",
                        "NotAccepted",
                        "the target is not there",
                    );
                }
                Ok(place) => {
                    let listeners = used.by(&place);
                    let taken = places.entry(place).or_default().fill(&sections);
                    if taken.is_empty() {
                        status.holds(&about, "Accepted");
                    } else {
                        let message = format!(
                            "another GatewayPolicy for the same target goes before with {}",
                            taken.join(", ")
                        );
                        status.fails(&about, "Accepted", "Conflicted", message);
                    }
                    let is_taken = !taken.is_empty() && taken.len() == sections.count();
                    program(&mut status, &about, listeners, is_taken, &broken);
                }
            }
        }
        match resolver.missing.first() {
            None => status.holds("", "ResolvedRefs"),
            Some((reason, _)) => {
                let all: Vec<_> = resolver.missing.iter().map(|(_, text)| &**text).collect();
                status.fails("", "ResolvedRefs", reason, all.join("; "));
            }
        }
        statuses.push(status);
    }
    if !places.is_empty() {
        for gateway in gateways.values_mut() {
            apply(gateway, &places);
        }
    }
}

/// Which listeners have which targets.
struct Used(BTreeMap<Place, Vec<String>>);

impl Used {
    fn of(gateways: &BTreeMap<Key, Gateway>) -> Self {
        let mut used: BTreeMap<Place, Vec<String>> = BTreeMap::new();
        for (key, gateway) in gateways {
            for listener in &gateway.listeners {
                let name = format!("{key}/{}", listener.name);
                let section = Some(listener.name.clone());
                let mut places = vec![(Kind::Gateway, key.clone(), None)];
                places.push((Kind::Gateway, key.clone(), section));
                for route in &listener.routes {
                    let rules = route.rules.iter().filter_map(|rule| rule.name.clone());
                    let sections = [None].into_iter().chain(rules.map(Some));
                    places.extend(sections.map(|name| (route.kind, route.key.clone(), name)));
                }
                for place in places {
                    used.entry(place).or_default().push(name.clone());
                }
            }
        }
        Self(used)
    }

    /// The listeners that have this target.
    fn by(&self, place: &Place) -> &[String] {
        self.0.get(place).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Says whether a policy is in force for a target: some listener has it, nothing goes before the whole of it, and what it
/// refers to is there.
fn program(status: &mut Status, about: &str, listeners: &[String], is_taken: bool, broken: &str) {
    const NAME: &str = "Programmed";
    if listeners.is_empty() {
        let message = "no listener of a gateway has the target";
        status.fails(about, NAME, "NoGateway", message);
    } else if is_taken {
        let message = "another GatewayPolicy goes before with all that it says";
        status.fails(about, NAME, "Conflicted", message);
    } else if !broken.is_empty() {
        let message = format!("requests are answered with 500: {broken}");
        status.fails(about, NAME, "ResolvedRefs", message);
    } else {
        status.holds_with(about, NAME, format!("for {}", listeners.join(", ")));
    }
}

/// The oldest first, then by namespace and name.
fn in_order(model: &Model) -> Vec<(&Key, &Stored<GatewayPolicy>)> {
    let mut all: Vec<_> = model.gateway_policies.iter().collect();
    all.sort_by_key(|(_, stored)| {
        let created = created(&stored.object.metadata);
        (created.is_none(), created)
    });
    all
}

fn place(
    model: &Model,
    gateways: &BTreeMap<Key, Gateway>,
    policy: &Key,
    target: &PolicyTarget,
) -> Result<Place, Problem> {
    let key = Key::new(&policy.namespace, &target.name);
    let not_found = |what: String| ("TargetNotFound", format!("there is no {what}"));
    let named = |names: Vec<&str>| match target.section_name.as_deref() {
        Some(section) if !names.contains(&section) => {
            Err(not_found(format!("{section} in {} {key}", target.kind)))
        }
        _ => Ok(()),
    };
    let unknown = || not_found(format!("{} {key}", target.kind));
    let kind = match target.kind.as_str() {
        "Gateway" => {
            let gateway = gateways.get(&key).ok_or_else(unknown)?;
            named(gateway.listeners.iter().map(|one| &*one.name).collect())?;
            Kind::Gateway
        }
        "HTTPRoute" => {
            let route = model.http_routes.get(&key).ok_or_else(unknown)?;
            let rules = route.object.spec.rules.iter().flatten();
            named(rules.filter_map(|rule| rule.name.as_deref()).collect())?;
            Kind::HttpRoute
        }
        "GRPCRoute" => {
            let route = model.grpc_routes.get(&key).ok_or_else(unknown)?;
            let rules = route.object.spec.rules.iter().flatten();
            named(rules.filter_map(|rule| rule.name.as_deref()).collect())?;
            Kind::GrpcRoute
        }
        _ => {
            model.ingresses.get(&key).ok_or_else(unknown)?;
            Kind::Ingress
        }
    };
    Ok((kind, key, target.section_name.clone()))
}

fn apply(gateway: &mut Gateway, places: &BTreeMap<Place, Sections>) {
    let of_gateway = places.get(&(Kind::Gateway, gateway.key.clone(), None));
    for listener in &mut gateway.listeners {
        let of_listener = (
            Kind::Gateway,
            gateway.key.clone(),
            Some(listener.name.clone()),
        );
        let farther: Vec<_> = [places.get(&of_listener), of_gateway]
            .into_iter()
            .flatten()
            .collect();
        let join = |nearer: &[&Sections]| {
            let mut all = Sections::default();
            for sections in nearer.iter().chain(&farther) {
                all.fill(sections);
            }
            Arc::new(all.policy())
        };
        listener.policies.base = (!farther.is_empty()).then(|| join(&[]));
        for route in &listener.routes {
            let place =
                |section: Option<&String>| (route.kind, route.key.clone(), section.cloned());
            let of_route = places.get(&place(None));
            if let Some(of_route) = of_route {
                let policies = &mut listener.policies.routes;
                policies.insert(place(None), join(&[of_route]));
            }
            for name in route.rules.iter().filter_map(|rule| rule.name.as_ref()) {
                let place = place(Some(name));
                if let Some(of_rule) = places.get(&place) {
                    let mut nearer = vec![of_rule];
                    nearer.extend(of_route);
                    listener.policies.routes.insert(place, join(&nearer));
                }
            }
        }
    }
}
