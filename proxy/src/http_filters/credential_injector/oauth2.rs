//! A token that an authorization server gives for the credentials of the client (RFC 6749, section 4.4), kept fresh by main.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use outrigger_proto::ours::outrigger::patch::envoy::extensions::http::injected_credentials::oauth2::v3 as patch;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::http::injected_credentials::oauth2::v3 as pb;
use pb::o_auth2::{AuthType, ClientCredentials, EndpointParameter, FlowType};
use serde_json::Value;
use tokio::time::sleep;

use super::secret_text;
use crate::config::{ConfigPath, Rejected};
use crate::http::{HeaderName, Known, Protocol, RequestHead};
use crate::secrets::{SecretCell, SecretKind};
use crate::server::{FactoryContext, Worker};
use crate::upstream::ClusterId;
use crate::upstream::async_client::{AsyncClient, ClientError, RequestOptions};

pub(super) const TYPE_NAME: &str = "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2";

crate::stats_group! {
    /// How the token is come by.
    struct Stats {
        counter token_fetch_failed_on_bad_response_code;
        counter token_fetch_failed_on_bad_token;
        counter token_fetch_failed_on_client_secret;
        counter token_fetch_failed_on_cluster_not_found;
        counter token_fetch_failed_on_stream_reset;
        counter token_fetched;
        counter token_requested;
    }
}

/// A converted `OAuth2`.
pub(super) struct OAuth2Credential {
    header: HeaderName,
    endpoint: Endpoint,
    client_id: Box<str>,
    /// None: the client is known by its certificate.
    client_secret: Option<Arc<SecretCell>>,
    scopes: Vec<String>,
    parameters: Vec<(String, String)>,
    retry_interval: Duration,
    stats: Stats,
    /// None: there is no token (yet).
    value: ArcSwapOption<Box<[u8]>>,
}

struct Endpoint {
    cluster: ClusterId,
    authority: Box<str>,
    path: Box<str>,
    timeout: Option<Duration>,
}

impl OAuth2Credential {
    pub(super) fn from_proto(
        proto: pb::OAuth2,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let pb::OAuth2 {
            token_endpoint,
            scopes,
            token_fetch_retry_interval,
            endpoint_params,
            flow_type,
        } = proto;
        let endpoint = path.required("token_endpoint", token_endpoint);
        let endpoint =
            endpoint.and_then(|uri| Endpoint::from_proto(uri, cx, &path.field("token_endpoint")));
        let interval = path.duration("token_fetch_retry_interval", token_fetch_retry_interval);
        let FlowType::ClientCredentials(flow) = path.required("flow_type", flow_type)?;
        let path = path.field("client_credentials");
        let ClientCredentials {
            client_id,
            client_secret,
            auth_type,
        } = flow;
        let client_id = path.non_empty("client_id", client_id);
        let secret = match auth_type == i32::from(patch::o_auth2::AuthType::TlsClientAuth) {
            true => Ok(None),
            false => {
                // As in Envoy, the secret goes in the body of the request with either of the others.
                path.enumeration::<AuthType>("auth_type", auth_type)?;
                let secret = path.required("client_secret", client_secret)?;
                let path = path.field("client_secret");
                let secrets = &cx.server.secrets;
                secrets
                    .find(SecretKind::Generic, secret, cx, &path)
                    .map(Some)
            }
        };
        let parameters = endpoint_params.into_iter();
        let credential = Arc::new(Self {
            header: HeaderName::new("authorization"),
            endpoint: endpoint?,
            client_id: client_id?.into(),
            client_secret: secret?,
            scopes,
            parameters: parameters
                .map(|EndpointParameter { name, value }| (name, value))
                .collect(),
            retry_interval: interval?.unwrap_or(RETRY_INTERVAL),
            stats: Stats::new(&cx.scope.scope("credential_injector.oauth2.")),
            value: ArcSwapOption::empty(),
        });
        let weak = Arc::downgrade(&credential);
        cx.server.main.run(move |main: &Rc<Worker>| {
            let client = AsyncClient::new(main.clone());
            tokio::task::spawn_local(keep_fresh(weak, client));
        });
        Ok(credential)
    }

    pub(super) fn field(&self) -> (&HeaderName, Option<Arc<Box<[u8]>>>) {
        (&self.header, self.value.load_full())
    }

    /// Asks for a token; gives the time until the next one is to be asked for.
    async fn fetch(&self, client: &AsyncClient) -> Duration {
        let Ok(secret) = self.secret() else {
            self.stats.token_fetch_failed_on_client_secret().inc();
            return self.retry_interval;
        };
        self.stats.token_requested().inc();
        let (head, body) = self.request(secret.as_deref());
        let options = RequestOptions {
            timeout: self.endpoint.timeout,
            ..RequestOptions::default()
        };
        let sent = client.send(self.endpoint.cluster, head, body.into(), options);
        let response = match sent.await {
            Ok(response) => response,
            Err(ClientError::NoCluster) => {
                self.stats.token_fetch_failed_on_cluster_not_found().inc();
                return self.retry_interval;
            }
            // What the proxy itself would answer counts as an answer of the server.
            Err(ClientError::NoHost | ClientError::Timeout) => {
                self.stats.token_fetch_failed_on_bad_response_code().inc();
                return self.retry_interval;
            }
            Err(_) => {
                self.stats.token_fetch_failed_on_stream_reset().inc();
                return self.retry_interval;
            }
        };
        if response.head.status != 200 {
            self.stats.token_fetch_failed_on_bad_response_code().inc();
            return self.retry_interval;
        }
        let Some((token, lifetime)) = token_of(&response.body) else {
            self.stats.token_fetch_failed_on_bad_token().inc();
            return self.retry_interval;
        };
        let value = [b"Bearer ", token.as_bytes()].concat();
        self.value.store(Some(Arc::new(value.into())));
        self.stats.token_fetched().inc();
        // Half of its life is left when the next one is asked for.
        (lifetime / 2).max(SHORTEST)
    }

    /// What proves the client; none: nothing has to. An error: what has to is not there.
    fn secret(&self) -> Result<Option<Vec<u8>>, ()> {
        let Some(cell) = &self.client_secret else {
            return Ok(None);
        };
        let secret = secret_text(&*cell.get().ok_or(())?).map_err(drop)?;
        match secret.is_empty() {
            true => Err(()),
            false => Ok(Some(secret)),
        }
    }

    fn request(&self, secret: Option<&[u8]>) -> (RequestHead, Bytes) {
        let mut body = "grant_type=client_credentials".to_owned();
        let mut head = RequestHead::new(Protocol::Http11, b"POST");
        head.set_scheme(b"http");
        head.set_authority(self.endpoint.authority.as_bytes());
        head.set_path(self.endpoint.path.as_bytes());
        let mut add = |name: &str, value: &[u8]| {
            body.push('&');
            body.push_str(&form_encoded(name.as_bytes()));
            body.push('=');
            body.push_str(&form_encoded(value));
        };
        add("client_id", self.client_id.as_bytes());
        if let Some(secret) = secret {
            add("client_secret", secret);
        }
        if !self.scopes.is_empty() {
            add("scope", self.scopes.join(" ").as_bytes());
        }
        for (name, value) in &self.parameters {
            add(name, value.as_bytes());
        }
        head.fields.append("accept", "application/json");
        head.fields.append(Known::UserAgent, "Go-browser");
        if let Some(timeout) = self.endpoint.timeout {
            let millis = timeout.as_millis().to_string();
            head.fields.append("x-envoy-expected-rq-timeout-ms", millis);
        }
        let form = "application/x-www-form-urlencoded";
        head.fields.append(Known::ContentType, form);
        head.fields
            .append(Known::ContentLength, body.len().to_string());
        (head, body.into())
    }
}

/// Keeps the token fresh for as long as somebody uses it.
async fn keep_fresh(credential: Weak<OAuth2Credential>, client: AsyncClient) {
    // The configuration that has just begun may wait for its secret.
    while let Some(held) = credential.upgrade() {
        let cell = held.client_secret.clone();
        drop(held);
        if let Some(cell) = cell
            && !cell.is_ready()
        {
            let _ = tokio::time::timeout(SECRET_WAIT, cell.ready()).await;
        }
        let Some(held) = credential.upgrade() else {
            return;
        };
        let wait = held.fetch(&client).await;
        drop(held);
        sleep(wait).await;
    }
}

impl Endpoint {
    fn from_proto(
        proto: core::HttpUri,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::HttpUri {
            uri,
            timeout,
            http_upstream_type,
        } = proto;
        let timeout = path.duration("timeout", timeout);
        let upstream = path.required("http_upstream_type", http_upstream_type)?;
        let core::http_uri::HttpUpstreamType::Cluster(cluster) = upstream;
        let cluster = path.non_empty("cluster", cluster)?;
        let (authority, target) = split(&uri)
            .ok_or_else(|| path.field("uri").reject(format!("\"{uri}\" is not a URI")))?;
        Ok(Self {
            cluster: cx.server.cluster_names.id(&cluster),
            authority: authority.into(),
            path: target.into(),
            timeout: timeout?.filter(|timeout| !timeout.is_zero()),
        })
    }
}

/// Authority and path of a URI.
fn split(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = if path.is_empty() { "/" } else { path };
    (!authority.is_empty()).then_some((authority, path))
}

/// Token and lifetime of the answer of a server.
fn token_of(body: &[u8]) -> Option<(String, Duration)> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("access_token")?.as_str()?;
    let legal = |b: u8| b.is_ascii_graphic();
    if token.is_empty() || !token.bytes().all(legal) {
        return None;
    }
    let seconds = match answer.get("expires_in")? {
        Value::String(text) => text.parse().ok()?,
        number => number.as_u64()?,
    };
    Some((
        token.to_owned(),
        Duration::from_secs(seconds.min(MAX_LIFETIME)),
    ))
}

fn form_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// A token that lives for no time is not asked for all the time.
const SHORTEST: Duration = Duration::from_secs(1);
const SECRET_WAIT: Duration = Duration::from_secs(5);
/// In seconds: a year.
const MAX_LIFETIME: u64 = 365 * 24 * 3600;
