//! The JSON interface.
//!
//! | Path | Who | What |
//! |---|---|---|
//! | `GET /healthz`, `GET /readyz` | anyone | whether it runs; whether an input is in force |
//! | `POST /v1/enroll` | who has a join token | a first certificate |
//! | `POST /v1/renew` | who has a certificate | the next one |
//! | `PUT`, `POST`, `DELETE /v1/registry/NAMESPACE/SERVICE/INSTANCE` | who has a certificate, or the operator | register, heartbeat, deregister |
//! | `GET /metrics`, `GET /v1/status`, `GET /v1/config?node=ID` | the operator | |
//! | `POST /v1/diff`, `POST /v1/tokens`, `POST /v1/rotate` | the operator | |
//!
//! The operator has the token in the file `operator-token` of the state directory: `Authorization: Bearer TOKEN`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use outrigger_proto::json::{Style, encoded_to_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::metrics;
use crate::cache::{ResourceType, Snapshot};
use crate::control::Control;
use crate::model::{self, Key};
use crate::registry::{Registration, RegistryError};
use crate::server::Peer;
use crate::translate::{Role, Secrets, Translator};
use crate::world::{Found, World};

/// Largest body that is read: an input to compare with.
const MAX_BODY: usize = 64 << 20;

/// The interface.
#[derive(Debug)]
pub struct Api {
    control: Arc<Control>,
    operator_token: String,
}

/// A request for a join token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenRequest {
    /// For whom: a node's ID, such as `sidecar/default/a`.
    pub node: String,
    /// For how many seconds, 1 to 86400.
    pub ttl_seconds: u64,
}

/// A request for a certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignRequest {
    /// The join token; not needed by who has a certificate.
    pub token: Option<String>,
    /// A PKCS #10 request in PEM. The names in it are not read.
    pub request: String,
}

/// A certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The identity.
    pub identity: String,
    /// The certificate and its chain in PEM.
    pub certificate: String,
    /// The roots that the mesh trusts, in PEM.
    pub roots: String,
}

/// What would change for a proxy.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The node's ID.
    pub node: String,
    /// The type, such as `clusters`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The resource.
    pub name: String,
    /// Its JSON before; none if it is new.
    pub before: Option<Json>,
    /// Its JSON after; none if it goes.
    pub after: Option<Json>,
}

/// Status, type and text of an answer.
type Answer = (StatusCode, &'static str, String);

impl Api {
    /// The interface of a control plane.
    #[must_use]
    pub fn new(control: Arc<Control>, operator_token: String) -> Self {
        Self {
            control,
            operator_token,
        }
    }

    /// The operator's token.
    pub(super) fn operator_token(&self) -> &str {
        &self.operator_token
    }

    /// Answers a request.
    pub async fn handle(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        match (&head.method, path.as_str()) {
            (&Method::GET, "/healthz") => return plain("ok\n"),
            (&Method::GET, "/readyz") => {
                return if self.control.input_state().accepted > 0 {
                    plain("ok\n")
                } else {
                    error(StatusCode::SERVICE_UNAVAILABLE, "no input is in force")
                };
            }
            _ => {}
        }
        let is_operator = self.is_operator(&head.headers);
        let body = match Limited::new(body, if is_operator { MAX_BODY } else { 1 << 16 })
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(_) => return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        };
        match (&head.method, path.as_str()) {
            (&Method::POST, "/v1/enroll") => return self.enroll(&body, peer),
            (&Method::POST, "/v1/renew") => return self.renew(&body, peer),
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/v1/registry/") {
            return self.registry(&head.method, rest, &body, peer, is_operator);
        }
        if !is_operator {
            return error(StatusCode::UNAUTHORIZED, "the operator's token is needed");
        }
        match (&head.method, path.as_str()) {
            (&Method::GET, "/metrics") => (
                StatusCode::OK,
                "text/plain; version=0.0.4",
                metrics::text(&self.control),
            ),
            (&Method::GET, "/v1/status") => self.status(),
            (&Method::GET, "/v1/config") => self.config(head.uri.query().unwrap_or_default()),
            (&Method::POST, "/v1/diff") => self.diff(&body),
            (&Method::POST, "/v1/tokens") => self.token(&body),
            (&Method::POST, "/v1/rotate") => self.rotate(),
            _ => error(StatusCode::NOT_FOUND, "there is no such path"),
        }
    }

    fn is_operator(&self, headers: &http::HeaderMap) -> bool {
        let given = headers
            .get(http::header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(
            given.as_bytes(),
            self.operator_token.as_bytes(),
        )
        .is_ok()
    }

    fn status(&self) -> Answer {
        let translator = self.translator();
        let world = translator.world();
        ok(&json!({
            "trustDomain": world.trust_domain,
            "input": self.control.input_state(),
            "proxies": self.control.proxies(),
            "objects": world.statuses,
        }))
    }

    fn config(&self, query: &str) -> Answer {
        let node = query
            .strip_prefix("node=")
            .unwrap_or_default()
            .replace("%2F", "/");
        let Some(role) = Role::from_node_id(&node) else {
            return error(
                StatusCode::BAD_REQUEST,
                "?node=KIND/NAMESPACE/NAME is needed, with the kind sidecar, gateway or grpc",
            );
        };
        if role.identity(self.translator().world()).is_none() {
            return error(
                StatusCode::NOT_FOUND,
                "there is no such workload or gateway",
            );
        }
        let snapshot = self.control.snapshot(&role);
        let mut types = json!({});
        for kind in ResourceType::ALL {
            let resources: Vec<_> = snapshot
                .of(kind)
                .values()
                .map(|resource| {
                    json!({
                        "name": *resource.name,
                        "version": *resource.version,
                        "resource": shown(kind, &resource.body.value),
                    })
                })
                .collect();
            types[kind.word()] = json!(resources);
        }
        ok(&types)
    }

    /// What another input would change, for each proxy.
    fn diff(&self, body: &[u8]) -> Answer {
        let files: BTreeMap<String, String> = match serde_json::from_slice(body) {
            Ok(files) => files,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        };
        let texts = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        let model = match model::load_texts(texts) {
            Ok(model) => model,
            Err(errors) => {
                return (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    JSON,
                    json!({"errors": errors}).to_string(),
                );
            }
        };
        let before = self.translator();
        let found = Found {
            registered: &self.control.registry.endpoints(),
            names: &self.control.names(),
        };
        let trust_domain = self.control.authority.trust_domain();
        let world = World::build_with(&model, trust_domain, found, Some(before.world()));
        let after = Translator::new(Arc::new(world), Some(&before));
        let mut roles = roles(before.world());
        roles.extend(self::roles(after.world()));
        let connected = self.control.proxies();
        let grpc = connected
            .iter()
            .filter_map(|proxy| Role::of_node(&proxy.node, &proxy.agent))
            .filter(|role| matches!(role, Role::Grpc(_)));
        roles.extend(grpc);
        let known = Known(&*self.control.authority, before.world());
        let mut changes = Vec::new();
        for role in roles {
            let (old, new) = (
                before.snapshot(&role, &known),
                after.snapshot(&role, &known),
            );
            compare(&role, &old, &new, &mut changes);
        }
        ok(&json!({"changes": changes, "objects": after.world().statuses}))
    }

    fn token(&self, body: &[u8]) -> Answer {
        let request: TokenRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        };
        if !(1..=86_400).contains(&request.ttl_seconds) {
            return error(StatusCode::BAD_REQUEST, "ttlSeconds is not in 1..=86400");
        }
        let translator = self.translator();
        let role = Role::from_node_id(&request.node);
        let Some(identity) = role
            .as_ref()
            .and_then(|role| role.identity(translator.world()))
        else {
            return error(
                StatusCode::NOT_FOUND,
                "there is no such workload or gateway",
            );
        };
        match self
            .control
            .tokens
            .create(identity, Duration::from_secs(request.ttl_seconds))
        {
            Ok(token) => {
                tracing::info!(target: "audit", identity, "A join token was made.");
                ok(&json!({"token": token, "identity": identity}))
            }
            Err(wrong) => error(StatusCode::INTERNAL_SERVER_ERROR, &wrong.to_string()),
        }
    }

    fn enroll(&self, body: &[u8], peer: &Peer) -> Answer {
        let request: SignRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        };
        let token = request.token.as_deref().unwrap_or_default();
        match self.control.tokens.redeem(token, SystemTime::now()) {
            Ok(identity) => self.sign(&request.request, identity, peer),
            Err(reason) => {
                tracing::warn!(target: "audit", address = peer.address, %reason, "A join token was refused.");
                error(StatusCode::FORBIDDEN, &reason.to_string())
            }
        }
    }

    fn renew(&self, body: &[u8], peer: &Peer) -> Answer {
        let request: SignRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        };
        let Some(identity) = peer.identity.clone() else {
            return error(
                StatusCode::UNAUTHORIZED,
                "a certificate of the mesh is needed",
            );
        };
        // A certificate of something that is not in the input any more is not renewed.
        let translator = self.translator();
        if !translator.world().has_identity(&identity) {
            return error(
                StatusCode::FORBIDDEN,
                "no workload or gateway has this identity",
            );
        }
        self.sign(&request.request, identity, peer)
    }

    fn sign(&self, request: &str, identity: String, peer: &Peer) -> Answer {
        match self.control.authority.sign(request, &identity) {
            Ok(certificate) => {
                self.control.metrics.signed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: "audit", identity, address = peer.address, "A certificate was signed.");
                let roots = self.control.authority.roots().to_string();
                ok(&json!(Signed {
                    identity,
                    certificate,
                    roots,
                }))
            }
            Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        }
    }

    fn rotate(&self) -> Answer {
        let behind: Vec<_> = self
            .control
            .proxies()
            .into_iter()
            .filter(|proxy| proxy.types.iter().any(|progress| progress.waiting))
            .map(|proxy| proxy.node)
            .collect();
        if !behind.is_empty() {
            let message = format!(
                "not yet: {} have not accepted what they were sent",
                behind.join(", ")
            );
            return error(StatusCode::CONFLICT, &message);
        }
        match self.control.authority.rotate() {
            Ok(step) => {
                tracing::info!(target: "audit", ?step, "The root changes.");
                ok(&json!({"step": step}))
            }
            Err(wrong) => error(StatusCode::INTERNAL_SERVER_ERROR, &wrong.to_string()),
        }
    }

    fn registry(
        &self,
        method: &Method,
        path: &str,
        body: &[u8],
        peer: &Peer,
        is_operator: bool,
    ) -> Answer {
        if !is_operator && peer.identity.is_none() && !self.control.is_insecure {
            return error(
                StatusCode::UNAUTHORIZED,
                "a certificate of the mesh or the operator's token is needed",
            );
        }
        let [namespace, service, instance] = path.split('/').collect::<Vec<_>>()[..] else {
            return error(
                StatusCode::NOT_FOUND,
                "/v1/registry/NAMESPACE/SERVICE/INSTANCE is needed",
            );
        };
        let service = Key::new(namespace, service);
        let owner = peer.identity.clone();
        let registry = &self.control.registry;
        let result = match *method {
            Method::PUT => match serde_json::from_slice::<Registration>(body) {
                Ok(registration) => registry.register(service, instance, &registration, owner),
                Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong.to_string()),
            },
            Method::POST => registry.heartbeat(&service, instance, owner.as_deref()),
            Method::DELETE => registry.deregister(&service, instance, owner.as_deref()),
            _ => {
                return error(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "PUT, POST or DELETE is needed",
                );
            }
        };
        match result {
            Ok(()) => ok(&json!({})),
            Err(reason) => {
                let status = match reason {
                    RegistryError::Range => StatusCode::BAD_REQUEST,
                    RegistryError::NotYours => StatusCode::FORBIDDEN,
                    RegistryError::Unknown => StatusCode::NOT_FOUND,
                    RegistryError::Full => StatusCode::INSUFFICIENT_STORAGE,
                };
                error(status, &reason.to_string())
            }
        }
    }

    fn translator(&self) -> Arc<Translator> {
        Arc::clone(&self.control.worlds().borrow())
    }
}

/// Secrets without making any: a comparison issues nothing.
struct Known<'a>(&'a dyn Secrets, &'a World);

impl Secrets for Known<'_> {
    fn svid(&self, identity: &str) -> Option<Arc<crate::world::TlsSecret>> {
        let known = self.1.has_identity(identity);
        known.then(|| self.0.svid(identity)).flatten()
    }

    fn roots(&self) -> Arc<str> {
        self.0.roots()
    }
}

fn roles(world: &World) -> BTreeSet<Role> {
    let sidecars = world.workloads.keys().cloned().map(Role::Sidecar);
    let gateways = world.gateways.keys().cloned().map(Role::Gateway);
    sidecars.chain(gateways).collect()
}

fn compare(role: &Role, before: &Snapshot, after: &Snapshot, changes: &mut Vec<Change>) {
    let node = match role {
        Role::Sidecar(key) => format!("sidecar/{key}"),
        Role::Gateway(key) => format!("gateway/{key}"),
        Role::Grpc(key) => format!("grpc/{key}"),
    };
    for kind in ResourceType::ALL {
        let (old, new) = (before.of(kind), after.of(kind));
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (old, new) = (old.get(name), new.get(name));
            if old.map(|old| &old.version) == new.map(|new| &new.version) {
                continue;
            }
            changes.push(Change {
                node: node.clone(),
                kind: kind.word().to_owned(),
                name: name.to_string(),
                before: old.map(|old| shown(kind, &old.body.value)),
                after: new.map(|new| shown(kind, &new.body.value)),
            });
        }
    }
}

/// The JSON of a resource, without its secrets.
fn shown(kind: ResourceType, bytes: &[u8]) -> Json {
    let style = Style {
        pretty: false,
        redact: true,
    };
    encoded_to_json(kind.message(), bytes, style)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

const JSON: &str = "application/json";

fn ok(json: &Json) -> Answer {
    (StatusCode::OK, JSON, json.to_string())
}

fn plain(text: &str) -> Answer {
    (StatusCode::OK, "text/plain", text.to_owned())
}

fn error(status: StatusCode, reason: &str) -> Answer {
    (status, JSON, json!({"error": reason}).to_string())
}
