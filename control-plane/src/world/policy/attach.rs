//! Which policy is for which listener, route and rule, and what their objects are told about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::provider::providers;
use super::resolve::Resolver;
use super::sections::Sections;
use super::{Place, Policies, Problem};
use crate::model::{GatewayPolicy, Key, Kind, Model, PolicyTarget, Stored};
use crate::world::route::created;
use crate::world::{Gateway, Route, Rule, Service, Status};

/// Resolves all policies and sets [`crate::world::GatewayListener::policies`].
pub(in crate::world) fn attach(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let providers = providers(model, services, statuses);
    let mut said = Said::default();
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
                    let without = used.without_limits(&place, &sections);
                    let taken = said.places.entry(place).or_default().fill(&sections);
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
                    program(
                        &mut status,
                        &about,
                        listeners,
                        is_taken,
                        (&broken, &without),
                    );
                }
            }
        }
        for (about, (listeners, without)) in used.rules.get(key).into_iter().flatten() {
            status.holds(about, "Accepted");
            let without = match sections.has_limits() {
                true => &without[..],
                false => &[],
            };
            program(&mut status, about, listeners, false, (&broken, without));
        }
        if stored.object.spec.target_refs.is_empty() && !used.rules.contains_key(key) {
            let message = "it has no `targetRefs`, and no rule of a gateway's route names it";
            status.fails("", "Programmed", "NoGateway", message);
        }
        said.policies.insert(key.clone(), sections);
        match resolver.missing.first() {
            None => status.holds("", "ResolvedRefs"),
            Some((reason, _)) => {
                let all: Vec<_> = resolver.missing.iter().map(|(_, text)| &**text).collect();
                status.fails("", "ResolvedRefs", reason, all.join("; "));
            }
        }
        statuses.push(status);
    }
    for gateway in gateways.values_mut() {
        said.apply(gateway);
    }
}

/// What all policies say: for their targets, and by themselves.
#[derive(Default)]
struct Said {
    places: BTreeMap<Place, Sections>,
    policies: BTreeMap<Key, Sections>,
}

/// Listeners, and routes that redirect.
type Listeners = (Vec<String>, Vec<String>);

/// Which listeners have which targets.
#[derive(Default)]
struct Used {
    places: BTreeMap<Place, Listeners>,
    /// By the policies that rules name: the rules.
    rules: BTreeMap<Key, BTreeMap<String, Listeners>>,
}

impl Used {
    fn of(gateways: &BTreeMap<Key, Gateway>) -> Self {
        let mut used = Self::default();
        for (key, gateway) in gateways {
            for listener in &gateway.listeners {
                let name = format!("{key}/{}", listener.name);
                let section = Some(listener.name.clone());
                let around = [
                    (Kind::Gateway, key.clone(), None),
                    (Kind::Gateway, key.clone(), section),
                ];
                for place in &around {
                    used.places
                        .entry(place.clone())
                        .or_default()
                        .0
                        .push(name.clone());
                }
                for route in &listener.routes {
                    used.add_route(&name, &around, route);
                }
            }
        }
        used
    }

    fn add_route(&mut self, listener: &str, around: &[Place], route: &Route) {
        let place = |section: Option<String>| (route.kind, route.key.clone(), section);
        let label = format!("{} {}", route.kind.name(), route.key.name);
        let mut places = vec![place(None)];
        for (index, rule) in route.rules.iter().enumerate() {
            let of_rule = rule.name.clone().map(|name| place(Some(name)));
            if rule.filters.redirect.is_some() {
                for place in around.iter().chain([&place(None)]).chain(&of_rule) {
                    let (_, redirecting) = self.places.entry(place.clone()).or_default();
                    if !redirecting.contains(&label) {
                        redirecting.push(label.clone());
                    }
                }
            }
            places.extend(of_rule);
            for policy in &rule.filters.policies {
                let about = match &rule.name {
                    Some(name) => format!("{label}/{name}"),
                    None => format!("{label} spec.rules[{index}]"),
                };
                let rules = self.rules.entry(policy.clone()).or_default();
                let (listeners, redirecting) = rules.entry(about).or_default();
                listeners.push(listener.to_owned());
                if rule.filters.redirect.is_some() && redirecting.is_empty() {
                    redirecting.push(label.clone());
                }
            }
        }
        for place in places {
            self.places
                .entry(place)
                .or_default()
                .0
                .push(listener.to_owned());
        }
    }

    /// The listeners that have this target.
    fn by(&self, place: &Place) -> &[String] {
        self.places
            .get(place)
            .map(|(listeners, _)| &**listeners)
            .unwrap_or_default()
    }

    /// The routes of a target whose redirects the limits of a policy do not count.
    fn without_limits(&self, place: &Place, sections: &Sections) -> Vec<String> {
        match self.places.get(place) {
            Some((_, redirecting)) if sections.has_limits() => redirecting.clone(),
            _ => Vec::new(),
        }
    }
}

/// Says whether a policy is in force for a target: some listener has it, nothing goes before the whole of it, and what it
/// refers to is there (`broken`). Limits are not, where requests are redirected (`without`).
fn program(
    status: &mut Status,
    about: &str,
    listeners: &[String],
    is_taken: bool,
    (broken, without): (&str, &[String]),
) {
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
        let mut message = format!("for {}", listeners.join(", "));
        if !without.is_empty() {
            message += "; `rateLimits` does not count what is redirected by ";
            message += &without.join(", ");
        }
        status.holds_with(about, NAME, message);
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

impl Said {
    fn apply(&self, gateway: &mut Gateway) {
        let of_gateway = (Kind::Gateway, gateway.key.clone(), None);
        let of_gateway = self.places.get(&of_gateway);
        for listener in &mut gateway.listeners {
            let of_listener = (
                Kind::Gateway,
                gateway.key.clone(),
                Some(listener.name.clone()),
            );
            let farther: Vec<_> = [self.places.get(&of_listener), of_gateway]
                .into_iter()
                .flatten()
                .collect();
            let policies = &mut listener.policies;
            policies.base = (!farther.is_empty()).then(|| join(&farther));
            for route in &listener.routes {
                let place =
                    |section: Option<&String>| (route.kind, route.key.clone(), section.cloned());
                let mut farther = farther.clone();
                if let Some(of_route) = self.places.get(&place(None)) {
                    farther.insert(0, of_route);
                    policies.routes.insert(place(None), join(&farther));
                }
                for rule in &route.rules {
                    self.apply_to_rule(rule, place(rule.name.as_ref()), &farther, policies);
                }
            }
        }
    }

    /// `farther` is what is said for all around the rule, the nearest first.
    fn apply_to_rule(
        &self,
        rule: &Rule,
        place: Place,
        farther: &[&Sections],
        policies: &mut Policies,
    ) {
        let mut all = Vec::new();
        if rule.name.is_some()
            && let Some(of_rule) = self.places.get(&place)
        {
            all.push(of_rule);
        }
        all.extend(farther);
        if rule.name.is_some() && all.len() > farther.len() {
            policies.routes.insert(place.clone(), join(&all));
        }
        let named = &rule.filters.policies;
        if !named.is_empty() {
            let nearer = named.iter().filter_map(|key| self.policies.get(key));
            let all: Vec<_> = nearer.chain(all).collect();
            policies.extended.insert((place, named.clone()), join(&all));
        }
    }
}

/// What holds where all of these are said, the nearest first.
fn join(nearest_first: &[&Sections]) -> Arc<super::Policy> {
    let mut all = Sections::default();
    for sections in nearest_first {
        all.fill(sections);
    }
    Arc::new(all.policy())
}
