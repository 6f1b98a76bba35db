//! `envoy.service.status.v3.ClientStatusDiscoveryService`: what became of each resource of each kind. Envoy has no such service.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/status/v3/csds.proto>

use std::collections::HashMap;

use outrigger_proto::pb::envoy::admin::v3::{self as admin_pb, ClientResourceStatus};
use outrigger_proto::pb::envoy::service::status::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use pb::client_config::GenericXdsConfig;
use prost::Message;

use super::{Admin, ConfigDumps};
use crate::config::timestamp;
use crate::xds::{ResourceKind, ResourceStatus};

/// What all resources but one have in common: their name, or that of what they belong to, is field 1.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// A gRPC status: its code, and what is wrong.
pub(super) type Status = (u8, String);

const INVALID_ARGUMENT: u8 = 3;

impl Admin {
    /// Answers a `ClientStatusRequest`.
    pub(super) fn client_status(&self, request: &[u8]) -> Result<pb::ClientStatusResponse, Status> {
        let request = pb::ClientStatusRequest::decode(request)
            .map_err(|error| (INVALID_ARGUMENT, error.to_string()))?;
        let pb::ClientStatusRequest {
            node_matchers,
            // Who asks makes no difference.
            node: _,
            exclude_resource_contents,
        } = request;
        if !node_matchers.is_empty() {
            let reason = "node_matchers are for management servers; here is one node only";
            return Err((INVALID_ARGUMENT, reason.to_owned()));
        }
        let dumps = self.source.config_dump(true);
        let mut configs = fixed(&dumps);
        let contents = Contents::new(dumps);
        let statuses = self.source.resource_statuses().into_iter();
        configs.extend(statuses.map(|status| contents.config(status)));
        if exclude_resource_contents {
            for config in &mut configs {
                config.xds_config = None;
                if let Some(error) = &mut config.error_state {
                    error.failed_configuration = None;
                }
            }
        }
        Ok(pb::ClientStatusResponse {
            config: vec![pb::ClientConfig {
                node: Some(self.source.node()),
                generic_xds_configs: configs,
                ..Default::default()
            }],
        })
    }
}

/// Resources of the bootstrap, kind by kind.
fn fixed(dumps: &ConfigDumps) -> Vec<GenericXdsConfig> {
    let mut configs = Vec::new();
    let mut add = |kind: ResourceKind, resource: &Option<Any>, last_updated| {
        configs.push(GenericXdsConfig {
            type_url: kind.type_url(),
            name: resource.as_ref().map(name_of).unwrap_or_default(),
            xds_config: resource.clone(),
            last_updated,
            is_static_resource: true,
            ..Default::default()
        });
    };
    for known in &dumps.listeners.static_listeners {
        add(ResourceKind::Listener, &known.listener, known.last_updated);
    }
    for known in &dumps.clusters.static_clusters {
        add(ResourceKind::Cluster, &known.cluster, known.last_updated);
    }
    for known in &dumps.routes.static_route_configs {
        let kind = ResourceKind::RouteConfiguration;
        add(kind, &known.route_config, known.last_updated);
    }
    for scopes in &dumps.scoped_routes.inline_scoped_route_configs {
        for scope in &scopes.scoped_route_configs {
            let scope = Some(scope.clone());
            add(ResourceKind::ScopedRoute, &scope, scopes.last_updated);
        }
    }
    let endpoints = dumps.endpoints.iter();
    for known in endpoints.flat_map(|endpoints| &endpoints.static_endpoint_configs) {
        let kind = ResourceKind::Endpoints;
        add(kind, &known.endpoint_config, known.last_updated);
    }
    for known in &dumps.secrets.static_secrets {
        add(ResourceKind::Secret, &known.secret, known.last_updated);
    }
    configs
}

/// What is in force, or about to be, and what was refused; by kind and name.
struct Contents {
    accepted: HashMap<(ResourceKind, String), Any>,
    refused: HashMap<(ResourceKind, String), Any>,
}

impl Contents {
    fn new(dumps: ConfigDumps) -> Self {
        let mut contents = Self {
            accepted: HashMap::new(),
            refused: HashMap::new(),
        };
        // Of what is warm and what warms the newest counts: it is added last.
        let clusters = dumps.clusters.dynamic_active_clusters.into_iter();
        for known in clusters.chain(dumps.clusters.dynamic_warming_clusters) {
            let kind = ResourceKind::Cluster;
            contents.add(kind, known.cluster);
            contents.add_refused(kind, known.error_state);
        }
        for known in dumps.listeners.dynamic_listeners {
            let kind = ResourceKind::Listener;
            for state in [known.active_state, known.warming_state] {
                contents.add(kind, state.and_then(|state| state.listener));
            }
            contents.add_refused(kind, known.error_state);
        }
        for known in dumps.routes.dynamic_route_configs {
            contents.add(ResourceKind::RouteConfiguration, known.route_config);
        }
        for scopes in dumps.scoped_routes.dynamic_scoped_route_configs {
            for scope in scopes.scoped_route_configs {
                contents.add(ResourceKind::ScopedRoute, Some(scope));
            }
        }
        let endpoints = dumps.endpoints.unwrap_or_default();
        for known in endpoints.dynamic_endpoint_configs {
            contents.add(ResourceKind::Endpoints, known.endpoint_config);
        }
        for known in endpoints.static_endpoint_configs {
            contents.add(ResourceKind::Endpoints, known.endpoint_config);
        }
        let secrets = dumps.secrets;
        for known in secrets.dynamic_active_secrets {
            contents.add(ResourceKind::Secret, known.secret);
        }
        let filters = dumps.ecds_filters.unwrap_or_default();
        for known in filters.ecds_filters {
            contents.add(ResourceKind::ExtensionConfig, known.ecds_filter);
        }
        contents
    }

    fn add(&mut self, kind: ResourceKind, resource: Option<Any>) {
        if let Some(resource) = resource {
            self.accepted.insert((kind, name_of(&resource)), resource);
        }
    }

    fn add_refused(&mut self, kind: ResourceKind, error: Option<admin_pb::UpdateFailureState>) {
        if let Some(resource) = error.and_then(|error| error.failed_configuration) {
            self.refused.insert((kind, name_of(&resource)), resource);
        }
    }

    /// What is told of one resource.
    fn config(&self, status: ResourceStatus) -> GenericXdsConfig {
        let ResourceStatus {
            kind,
            name,
            version,
            updated,
            status,
            error,
            body,
        } = status;
        let key = (kind, name.to_string());
        let refused = || self.refused.get(&key).cloned();
        // What was never taken has no content.
        let accepted = updated.and_then(|_| body.or_else(|| self.accepted.get(&key).cloned()));
        GenericXdsConfig {
            type_url: kind.type_url(),
            version_info: version.to_string(),
            xds_config: accepted,
            last_updated: updated.map(timestamp),
            client_status: status.into(),
            error_state: error.map(|error| admin_pb::UpdateFailureState {
                failed_configuration: match status {
                    ClientResourceStatus::Nacked => {
                        error.failed_configuration.clone().or_else(refused)
                    }
                    _ => None,
                },
                ..error
            }),
            name: key.1,
            ..Default::default()
        }
    }
}

fn name_of(resource: &Any) -> String {
    Named::decode(&*resource.value).unwrap_or_default().name
}
