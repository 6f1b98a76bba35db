//! Routes of all kinds as HTTP routes.

use gateway_api::apis::standard::grpcroutes::{GrpcRoute, GrpcRouteRulesMatches};
use gateway_api::apis::standard::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Key, Kind, Model, Origin};

/// A route of any kind as an HTTP route.
pub(super) struct Source<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a Key,
    pub(super) origin: &'a Origin,
    pub(super) created: Option<String>,
    pub(super) hostnames: Vec<String>,
    pub(super) parents: Vec<HttpRouteParentRefs>,
    pub(super) rules: Result<Vec<HttpRouteRules>, String>,
}

pub(super) fn sources(model: &Model) -> impl Iterator<Item = Source<'_>> {
    let http = model.http_routes.iter().map(|(key, stored)| Source {
        kind: Kind::HttpRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone().unwrap_or_default(),
        parents: stored.object.spec.parent_refs.clone().unwrap_or_default(),
        rules: Ok(stored.object.spec.rules.clone().unwrap_or_default()),
    });
    let grpc = model.grpc_routes.iter().map(|(key, stored)| Source {
        kind: Kind::GrpcRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone().unwrap_or_default(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: grpc_rules(&stored.object),
    });
    let tls = model.tls_routes.iter().map(|(key, stored)| Source {
        kind: Kind::TlsRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: reshape(&stored.object.spec.rules),
    });
    let tcp = model.tcp_routes.iter().map(|(key, stored)| Source {
        kind: Kind::TcpRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: Vec::new(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: reshape(&stored.object.spec.rules),
    });
    http.chain(grpc).chain(tls).chain(tcp)
}

pub(in crate::world) fn created(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<String> {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.to_string())
}

/// The same fields as another type: the Gateway API has a type of its own for each place.
pub(super) fn reshape<T: DeserializeOwned + Default>(value: &impl Serialize) -> Result<T, String> {
    let value = serde_json::to_value(value).map_err(|error| error.to_string())?;
    if value.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn grpc_rules(route: &GrpcRoute) -> Result<Vec<HttpRouteRules>, String> {
    let mut rules = Vec::new();
    for rule in route.spec.rules.iter().flatten() {
        rules.push(HttpRouteRules {
            backend_refs: Some(reshape(&rule.backend_refs)?),
            filters: Some(reshape(&rule.filters)?),
            matches: Some(
                rule.matches
                    .iter()
                    .flatten()
                    .map(grpc_match)
                    .collect::<Result<_, _>>()?,
            ),
            name: rule.name.clone(),
            timeouts: None,
        });
    }
    Ok(rules)
}

/// A gRPC call is a POST to `/service/method`.
fn grpc_match(found: &GrpcRouteRulesMatches) -> Result<HttpRouteRulesMatches, String> {
    let path = match &found.method {
        None => None,
        Some(method) => {
            let is_regex = method
                .r#type
                .as_ref()
                .is_some_and(|kind| format!("{kind:?}") == "RegularExpression");
            let (kind, value) = match (&method.service, &method.method, is_regex) {
                (None, None, _) => {
                    return Err("a method match needs `service` or `method`".to_owned());
                }
                (Some(service), Some(method), false) => (
                    HttpRouteRulesMatchesPathType::Exact,
                    format!("/{service}/{method}"),
                ),
                (Some(service), None, false) => (
                    HttpRouteRulesMatchesPathType::PathPrefix,
                    format!("/{service}"),
                ),
                (None, Some(method), false) => (
                    HttpRouteRulesMatchesPathType::RegularExpression,
                    format!("/[^/]+/{}", escape(method)),
                ),
                (service, method, true) => {
                    let any = "[^/]+".to_owned();
                    let service = service.as_ref().unwrap_or(&any);
                    let method = method.as_ref().unwrap_or(&any);
                    (
                        HttpRouteRulesMatchesPathType::RegularExpression,
                        format!("/{service}/{method}"),
                    )
                }
            };
            Some(HttpRouteRulesMatchesPath {
                r#type: Some(kind),
                value: Some(value),
            })
        }
    };
    Ok(HttpRouteRulesMatches {
        headers: Some(reshape(&found.headers)?),
        method: None,
        path,
        query_params: None,
    })
}

/// A text as a regular expression that matches only it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
