//! `envoy.filters.network.ext_authz`: asks a service whether a connection may go on, and closes it if not.
//! Type URLs: `envoy.extensions.filters.network.ext_authz.v3.ExtAuthz`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/ext_authz_filter>
//! Stats: `ext_authz.<stat_prefix>.`: `active`, `cx_closed`, `denied`, `disabled`, `error`, `failure_mode_allowed`, `ok`, `total`.
//! Termination details: `ext_authz_close`. Dynamic metadata: what the service says, in `envoy.filters.network.ext_authz`.
//! The service is asked when the first bytes come.
//! Deviations: `send_tls_alert_on_denial` and `shadow_mode` are refused; typed metadata is not kept, and so none is sent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use outrigger_proto::pb::envoy::extensions::filters::network::ext_authz::v3 as pb;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_object};
use crate::ext_authz::{
    GrpcAuthorizer, destination, labels, metadata_context, source, tls_session,
};
use crate::matchers::MetadataMatcher;
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::ConnectionInfo;
use crate::upstream::async_client::{AsyncClient, GrpcError};

/// Makes filters that ask a service.
pub struct Factory;

const NAME: &str = "envoy.filters.network.ext_authz";

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(NetworkFilterConfig::Filter(Arc::new(Shared(Arc::new(
            config,
        )))))
    }
}

stats_group! {
    /// What the filter decides.
    pub struct Stats {
        gauge active;
        counter cx_closed;
        counter denied;
        counter disabled;
        counter error;
        counter failure_mode_allowed;
        counter ok;
        counter total;
    }
}

struct Config {
    service: GrpcAuthorizer,
    failure_mode_allow: bool,
    include_peer_certificate: bool,
    include_tls_session: bool,
    filter_enabled_metadata: Option<MetadataMatcher>,
    destination_labels: HashMap<String, String>,
    metadata_context_namespaces: Vec<Box<str>>,
    stats: Stats,
}

struct Shared(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::ExtAuthz,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ExtAuthz {
            stat_prefix,
            grpc_service,
            failure_mode_allow,
            include_peer_certificate,
            // There is one version.
            transport_api_version: _,
            filter_enabled_metadata,
            bootstrap_metadata_labels_key,
            include_tls_session,
            send_tls_alert_on_denial,
            metadata_context_namespaces,
            // Harmless: no filter of this proxy keeps typed metadata.
            typed_metadata_context_namespaces: _,
            shadow_mode,
        } = proto;
        let alert = path.unsupported_if_set("send_tls_alert_on_denial", send_tls_alert_on_denial);
        let shadow = path.unsupported_if_set("shadow_mode", shadow_mode);
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let service = path.required("grpc_service", grpc_service);
        let service = service.and_then(|service| {
            GrpcAuthorizer::from_proto(service, cx.server, &path.field("grpc_service"))
        });
        let enabled = path.optional(
            "filter_enabled_metadata",
            filter_enabled_metadata,
            MetadataMatcher::from_proto,
        );
        alert?;
        shadow?;
        let prefix = prefix?;
        let scope = format!("ext_authz.{}.", prefix.trim_end_matches('.'));
        Ok(Self {
            service: service?,
            failure_mode_allow,
            include_peer_certificate,
            include_tls_session,
            filter_enabled_metadata: enabled?,
            destination_labels: labels(&cx.server.local_info, &bootstrap_metadata_labels_key),
            metadata_context_namespaces: metadata_context_namespaces
                .into_iter()
                .map(Into::into)
                .collect(),
            stats: Stats::new(&cx.server.stats.scope(&scope)),
        })
    }

    fn question(&self, connection: &ConnectionInfo) -> auth::CheckRequest {
        let metadata = connection.dynamic_metadata.borrow();
        auth::CheckRequest {
            attributes: Some(auth::AttributeContext {
                source: Some(source(connection, self.include_peer_certificate, "")),
                destination: Some(destination(connection, &self.destination_labels)),
                metadata_context: Some(metadata_context(
                    &self.metadata_context_namespaces,
                    &[&metadata],
                )),
                tls_session: self.include_tls_session.then(|| tls_session(connection)),
                ..auth::AttributeContext::default()
            }),
        }
    }
}

impl FilterConfig for Shared {
    fn new_connection(&self, worker: &Rc<Worker>) -> Box<dyn NetworkFilter> {
        Box::new(ExtAuthz {
            config: self.0.clone(),
            worker: worker.clone(),
            phase: Phase::Start,
        })
    }
}

type Answer = Rc<RefCell<Option<Result<auth::CheckResponse, GrpcError>>>>;

struct ExtAuthz {
    config: Arc<Config>,
    worker: Rc<Worker>,
    phase: Phase,
}

enum Phase {
    /// Nothing has come yet.
    Start,
    Asking(Answer, Active),
    Done,
}

/// Counts the connections whose answer is waited for.
struct Active(Arc<Config>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.stats.active().dec();
    }
}

impl NetworkFilter for ExtAuthz {
    fn wants_data(&self) -> bool {
        true
    }

    fn on_data(&mut self, cx: &ConnectionInfo, _: &mut BytesMut, _: bool) -> NetworkStatus {
        if !matches!(self.phase, Phase::Start) {
            return NetworkStatus::Continue;
        }
        let config = self.config.clone();
        let matcher = config.filter_enabled_metadata.as_ref();
        if matcher.is_some_and(|matcher| !matcher.matches(&cx.dynamic_metadata.borrow())) {
            // With each piece, as the metadata may come later.
            config.stats.disabled().inc();
            return NetworkStatus::Continue;
        }
        config.stats.total().inc();
        config.stats.active().inc();
        let client = AsyncClient::new(self.worker.clone());
        let checking = config.service.check(&client, &config.question(cx));
        let answer = Answer::default();
        self.phase = Phase::Asking(answer.clone(), Active(config));
        NetworkStatus::Wait(Box::pin(async move {
            let found = checking.await;
            *answer.borrow_mut() = Some(found);
        }))
    }

    fn resume(&mut self, cx: &ConnectionInfo) -> NetworkStatus {
        let Phase::Asking(answer, _active) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return NetworkStatus::Continue;
        };
        let stats = &self.config.stats;
        let allowed = match answer.borrow_mut().take() {
            Some(Ok(response)) => {
                if let Some(metadata) = response.dynamic_metadata {
                    let values = json_object(metadata);
                    if !values.is_empty() {
                        cx.dynamic_metadata.borrow_mut().merge(NAME, values);
                    }
                }
                let ok = response.status.is_none_or(|status| status.code == 0);
                match ok {
                    true => stats.ok().inc(),
                    false => stats.denied().inc(),
                }
                ok
            }
            Some(Err(_)) | None => {
                stats.error().inc();
                if self.config.failure_mode_allow {
                    stats.failure_mode_allowed().inc();
                }
                self.config.failure_mode_allow
            }
        };
        if allowed {
            return NetworkStatus::Continue;
        }
        stats.cx_closed().inc();
        NetworkStatus::Close("ext_authz_close")
    }
}
