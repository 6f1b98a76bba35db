//! `/config_dump`.

use outrigger_proto::any::{pack, type_name};
use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::schema::Message as Schema;
use prost::Message;
use serde_json::{Map, Value, json};

use super::{Admin, ConfigDumps, Request, Response, json};
use crate::matchers::Regex;

/// Errors of this page come without a character set, in Envoy.
const PLAIN: &str = "text/plain";

/// What all resources have in common: their name is field 1.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The fields of a `FieldMask`, as lists of names.
struct Mask<'a> {
    paths: Vec<Vec<&'a str>>,
}

pub(super) fn show(admin: &Admin, request: &Request<'_>) -> Response {
    let query = &request.query;
    let names = match query.value("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => {
            let given = query.value("name_regex").unwrap_or_default();
            return refused(
                400,
                format!("Error while parsing name_regex from {given}: {error}"),
            );
        }
    };
    let mut dumps = admin.source.config_dump(query.has("include_eds"));
    if let Some(names) = &names {
        dumps.retain(|name| names.is_full_match(name.as_bytes()));
    }
    let resource = query.value("resource");
    let configs = match resource {
        Some(resource) => match dumps.entries(resource) {
            Ok(entries) => entries,
            Err(response) => return response,
        },
        None => dumps.pieces(),
    };
    match query.value("mask") {
        None => json::message(&pb::ConfigDump { configs }),
        Some(mask) => masked(&configs, mask, resource.is_some()),
    }
}

fn refused(status: u16, body: String) -> Response {
    Response {
        content_type: PLAIN,
        ..Response::error(status, body)
    }
}

/// The fields of each configuration that the mask names. Of whole pieces, those without any of the fields are left out;
/// entries of one resource must all have them.
fn masked(configs: &[Any], mask: &str, of_resource: bool) -> Response {
    let parsed = Mask::new(mask);
    let mut shown = Vec::new();
    for config in configs {
        let fits = parsed.fits(type_name(&config.type_url));
        if !fits && of_resource {
            return refused(
                400,
                format!("FieldMask {mask} could not be successfully used."),
            );
        }
        if fits {
            match json::value(config) {
                Ok(value) => shown.push(parsed.trim(&value)),
                Err(error) => return Response::error(500, error),
            }
        }
    }
    if shown.is_empty() && !of_resource {
        return refused(
            400,
            format!("FieldMask {mask} could not be successfully applied to any configs."),
        );
    }
    json::page(&json!({ "configs": shown }))
}

impl ConfigDumps {
    /// Every piece, in its order.
    fn pieces(&self) -> Vec<Any> {
        let mut pieces = vec![pack(&self.bootstrap), pack(&self.clusters)];
        pieces.extend(self.ecds_filters.as_ref().map(pack));
        pieces.extend(self.endpoints.as_ref().map(pack));
        pieces.extend([
            pack(&self.listeners),
            pack(&self.scoped_routes),
            pack(&self.routes),
            pack(&self.secrets),
        ]);
        pieces
    }

    /// The entries of the repeated field called `resource`.
    fn entries(&self, resource: &str) -> Result<Vec<Any>, Response> {
        let endpoints = self.endpoints.as_ref();
        let ecds = self.ecds_filters.as_ref();
        Ok(match resource {
            "static_clusters" => all(&self.clusters.static_clusters),
            "dynamic_active_clusters" => all(&self.clusters.dynamic_active_clusters),
            "dynamic_warming_clusters" => all(&self.clusters.dynamic_warming_clusters),
            "static_listeners" => all(&self.listeners.static_listeners),
            "dynamic_listeners" => all(&self.listeners.dynamic_listeners),
            "static_route_configs" => all(&self.routes.static_route_configs),
            "dynamic_route_configs" => all(&self.routes.dynamic_route_configs),
            "inline_scoped_route_configs" => all(&self.scoped_routes.inline_scoped_route_configs),
            "dynamic_scoped_route_configs" => all(&self.scoped_routes.dynamic_scoped_route_configs),
            "static_secrets" => all(&self.secrets.static_secrets),
            "dynamic_active_secrets" => all(&self.secrets.dynamic_active_secrets),
            "dynamic_warming_secrets" => all(&self.secrets.dynamic_warming_secrets),
            "static_endpoint_configs" if endpoints.is_some() => {
                endpoints.map_or_else(Vec::new, |e| all(&e.static_endpoint_configs))
            }
            "dynamic_endpoint_configs" if endpoints.is_some() => {
                endpoints.map_or_else(Vec::new, |e| all(&e.dynamic_endpoint_configs))
            }
            "ecds_filters" if ecds.is_some() => {
                ecds.map_or_else(Vec::new, |e| all(&e.ecds_filters))
            }
            "bootstrap" | "last_updated" | "version_info" => {
                return Err(refused(
                    400,
                    format!(
                        "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
                    ),
                ));
            }
            _ => return Err(refused(404, format!("{resource} not found in config dump"))),
        })
    }

    /// Drops the resources whose name does not pass.
    fn retain(&mut self, passes: impl Fn(&str) -> bool) {
        let any = |config: &Option<Any>| {
            let named = config
                .as_ref()
                .and_then(|any| Named::decode(&*any.value).ok());
            passes(&named.unwrap_or_default().name)
        };
        self.clusters.static_clusters.retain(|c| any(&c.cluster));
        self.clusters
            .dynamic_active_clusters
            .retain(|c| any(&c.cluster));
        self.clusters
            .dynamic_warming_clusters
            .retain(|c| any(&c.cluster));
        self.listeners.static_listeners.retain(|l| any(&l.listener));
        self.listeners.dynamic_listeners.retain(|l| passes(&l.name));
        self.routes
            .static_route_configs
            .retain(|r| any(&r.route_config));
        self.routes
            .dynamic_route_configs
            .retain(|r| any(&r.route_config));
        let scoped = &mut self.scoped_routes;
        scoped
            .inline_scoped_route_configs
            .retain(|s| passes(&s.name));
        scoped
            .dynamic_scoped_route_configs
            .retain(|s| passes(&s.name));
        self.secrets.static_secrets.retain(|s| passes(&s.name));
        self.secrets
            .dynamic_active_secrets
            .retain(|s| passes(&s.name));
        self.secrets
            .dynamic_warming_secrets
            .retain(|s| passes(&s.name));
        if let Some(endpoints) = &mut self.endpoints {
            endpoints
                .static_endpoint_configs
                .retain(|e| any(&e.endpoint_config));
            endpoints
                .dynamic_endpoint_configs
                .retain(|e| any(&e.endpoint_config));
        }
        if let Some(filters) = &mut self.ecds_filters {
            filters.ecds_filters.retain(|f| any(&f.ecds_filter));
        }
    }
}

fn all<M: prost::Name>(entries: &[M]) -> Vec<Any> {
    entries.iter().map(pack).collect()
}

impl<'a> Mask<'a> {
    fn new(mask: &'a str) -> Self {
        let paths = mask.split(',').filter(|path| !path.is_empty());
        Self {
            paths: paths.map(|path| path.split('.').collect()).collect(),
        }
    }

    /// Whether a message of this type has one of the fields.
    fn fits(&self, type_name: &str) -> bool {
        Schema::by_name(type_name)
            .is_some_and(|schema| self.paths.iter().any(|path| has_field(schema, path)))
    }

    fn trim(&self, value: &Value) -> Value {
        let paths: Vec<&[&str]> = self.paths.iter().map(Vec::as_slice).collect();
        trim(value, &paths)
    }
}

/// Whether a path leads to a field, and through no repeated one. What lies in an `Any` is not known beforehand.
fn has_field(schema: Schema, path: &[&str]) -> bool {
    let Some((first, others)) = path.split_first() else {
        return true;
    };
    schema.field_by_name(first).is_some_and(|field| {
        others.is_empty()
            || !field.is_repeated()
                && match field.kind() {
                    outrigger_proto::schema::Kind::Message(_) => {
                        json::plain_message(field).is_none_or(|inner| has_field(inner, others))
                    }
                    _ => false,
                }
    })
}

/// Keeps the fields that the paths name, and the types of what is in an `Any`.
fn trim(value: &Value, paths: &[&[&str]]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| trim(item, paths)).collect(),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let inner: Vec<&[&str]> = paths
                    .iter()
                    .filter(|path| path.first() == Some(&name.as_str()))
                    .map(|path| &path[1..])
                    .collect();
                if name == "@type" || inner.iter().any(|path| path.is_empty()) {
                    kept.insert(name.clone(), field.clone());
                } else if !inner.is_empty() {
                    kept.insert(name.clone(), trim(field, &inner));
                }
            }
            Value::Object(kept)
        }
        plain => plain.clone(),
    }
}
