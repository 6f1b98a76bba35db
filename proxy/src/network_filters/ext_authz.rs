//! `envoy.filters.network.ext_authz`: asks a service whether a connection may go on, and closes it if not.
//! Type URLs: `envoy.extensions.filters.network.ext_authz.v3.ExtAuthz`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/ext_authz_filter>
//! Stats: `ext_authz.<stat_prefix>.`: `active`, `cx_closed`, `denied`, `disabled`, `error`, `failure_mode_allowed`, `ok`, `total`.
//! Details: `ext_authz_denied`, `ext_authz_error`, with the flag `UAEX`. Dynamic metadata: what the service says, in
//! `envoy.filters.network.ext_authz`, and how long it took in milliseconds (`ext_authz_duration`) if it allows.
//! Filter state: `envoy.filters.network.ext_authz` with `shadow_mode`.
//! The service is asked when the first bytes come.
//! Deviations: with `send_tls_alert_on_denial` a connection is closed without the alert, which the TLS library cannot send.
//! Deviations: typed metadata is not kept, and so none is sent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use auth::check_response::HttpResponse;
use bytes::BytesMut;
use outrigger_proto::pb::envoy::extensions::filters::network::ext_authz::v3 as pb;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_object};
use crate::ext_authz::{
    GrpcAuthorizer, destination, labels, metadata_context, source, tls_session,
};
use crate::formatter::FormatData;
use crate::matchers::MetadataMatcher;
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::{ConnectionInfo, FilterStateObject, ResponseFlag, StreamInfo};
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
    shadow_mode: bool,
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
            // Harmless: see the deviations.
            send_tls_alert_on_denial: _,
            metadata_context_namespaces,
            // Harmless: no filter of this proxy keeps typed metadata.
            typed_metadata_context_namespaces: _,
            shadow_mode,
        } = proto;
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
            shadow_mode,
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
            info: None,
            phase: Phase::Start,
        })
    }

    fn new_filter(&self, worker: &Rc<Worker>, info: &Rc<ConnectionInfo>) -> Box<dyn NetworkFilter> {
        Box::new(ExtAuthz {
            config: self.0.clone(),
            worker: worker.clone(),
            info: Some(info.clone()),
            phase: Phase::Start,
        })
    }
}

type Answer = Rc<RefCell<Option<Result<auth::CheckResponse, GrpcError>>>>;

struct ExtAuthz {
    config: Arc<Config>,
    worker: Rc<Worker>,
    /// None: nothing is known of the connection, and nobody is asked.
    info: Option<Rc<ConnectionInfo>>,
    phase: Phase,
}

enum Phase {
    /// Nothing has come yet.
    Start,
    Asking(Answer, Active, Instant),
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
        let (Phase::Start, Some(info)) = (&self.phase, &self.info) else {
            return NetworkStatus::Continue;
        };
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
        let stream = StreamInfo::new(info.clone(), 0, None);
        let data = FormatData::of_request(&stream, None);
        let checking = config.service.check(&client, &config.question(cx), &data);
        let answer = Answer::default();
        self.phase = Phase::Asking(answer.clone(), Active(config), Instant::now());
        NetworkStatus::Wait(Box::pin(async move {
            let found = checking.await;
            *answer.borrow_mut() = Some(found);
        }))
    }

    fn resume(&mut self, cx: &ConnectionInfo) -> NetworkStatus {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        let Phase::Asking(answer, _active, start) = phase else {
            return NetworkStatus::Continue;
        };
        let decision = match answer.borrow_mut().take() {
            Some(Ok(response)) => Decision::of_response(response, start.elapsed(), cx),
            Some(Err(_)) | None => Decision::ERROR,
        };
        let stats = &self.config.stats;
        let is_error = decision.check_result == ERROR;
        match decision.check_result {
            OK => stats.ok().inc(),
            ERROR => stats.error().inc(),
            _ => stats.denied().inc(),
        }
        if self.config.shadow_mode {
            let mut state = cx.filter_state.borrow_mut();
            state.set(NAME, Rc::new(decision));
            return NetworkStatus::Continue;
        }
        if decision.check_result == OK {
            return NetworkStatus::Continue;
        }
        if is_error && self.config.failure_mode_allow {
            stats.failure_mode_allowed().inc();
            return NetworkStatus::Continue;
        }
        stats.cx_closed().inc();
        let details = match is_error {
            true => "ext_authz_error",
            false => "ext_authz_denied",
        };
        let flag = ResponseFlag::UnauthorizedExternalService;
        cx.closed_by_filter.set(Some((flag, details)));
        NetworkStatus::Close("")
    }
}

/// What the service decides; with `shadow_mode` an object of the filter state.
struct Decision {
    check_result: &'static str,
    /// Of a denial.
    status_code: Option<u64>,
}

const OK: &str = "OK";
const DENIED: &str = "DENIED";
const ERROR: &str = "ERROR";

impl Decision {
    const ERROR: Self = Self {
        check_result: ERROR,
        status_code: None,
    };

    /// Reads an answer, and takes over its metadata.
    fn of_response(response: auth::CheckResponse, took: Duration, cx: &ConnectionInfo) -> Self {
        let auth::CheckResponse {
            status,
            dynamic_metadata,
            http_response,
        } = response;
        let is_ok = status.is_none_or(|status| status.code == 0);
        let mut values = dynamic_metadata.map(json_object).unwrap_or_default();
        if is_ok {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            values.insert("ext_authz_duration".to_owned(), Value::from(millis));
        }
        if !values.is_empty() {
            cx.dynamic_metadata.borrow_mut().merge(NAME, values);
        }
        if is_ok {
            return Self {
                check_result: OK,
                status_code: None,
            };
        }
        let own = match http_response {
            Some(HttpResponse::DeniedResponse(denied)) => denied.status,
            _ => None,
        };
        let own = own.and_then(|status| u64::try_from(status.code).ok());
        Self {
            check_result: DENIED,
            status_code: Some(own.filter(|code| *code > 0).unwrap_or(403)),
        }
    }

    /// As JSON with these names.
    fn to_json(&self, check_result: &str, status_code: &str) -> Value {
        let mut decision = Map::new();
        decision.insert(check_result.to_owned(), self.check_result.into());
        if let Some(code) = self.status_code {
            decision.insert(status_code.to_owned(), code.into());
        }
        Value::Object(decision)
    }
}

impl FilterStateObject for Decision {
    fn serialize_as_string(&self) -> Option<String> {
        Some(self.to_json("check_result", "status_code").to_string())
    }

    fn serialize_as_json(&self) -> Option<Value> {
        Some(self.to_json("checkResult", "statusCode"))
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "check_result" => Some(self.check_result.to_owned()),
            "status_code" => self.status_code.map(|code| code.to_string()),
            _ => None,
        }
    }
}
