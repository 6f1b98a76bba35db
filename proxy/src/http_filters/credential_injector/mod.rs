//! `envoy.filters.http.credential_injector`: gives requests the credential of the workload.
//!
//! Type URLs: `envoy.extensions.filters.http.credential_injector.v3.CredentialInjector`; credentials
//! `envoy.extensions.http.injected_credentials.generic.v3.Generic` and
//! `envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/credential_injector_filter>
//! Stats: `<prefix>credential_injector.{already_exists,failed,injected}`, and of OAuth2 `<prefix>credential_injector.oauth2.`:
//! `token_requested`, `token_fetched`, `token_fetch_failed_on_client_secret`, `token_fetch_failed_on_cluster_not_found`,
//! `token_fetch_failed_on_stream_reset`, `token_fetch_failed_on_bad_token`, `token_fetch_failed_on_bad_response_code`.
//! Details: `failed_to_inject_credential`.
//!
//! Deviations: a secret or a token of several lines is none, where Envoy answers each request 503. As in Envoy, the secret of a
//! client goes in the body of its requests with `BASIC_AUTH` as well.

mod generic;
mod oauth2;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::credential_injector::v3 as pb;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use self::generic::GenericCredential;
use self::oauth2::OAuth2Credential;
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, ConfigReport, Rejected, TypedConfig, data_source};
use crate::http::{EndStream, HeaderName, RequestHead};
use crate::server::{FactoryContext, Worker};

/// Makes filters that give credentials.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.credential_injector"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.credential_injector.v3.CredentialInjector"]
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::CredentialInjector {
            overwrite,
            allow_request_without_credential,
            credential,
        } = config.decode(path)?;
        let credential = path.required("credential", credential)?;
        Ok(Arc::new(Config {
            credential: Credential::from_proto(credential, cx, &path.field("credential"))?,
            overwrite,
            allow_request_without_credential,
            stats: Stats::new(&cx.scope.scope("credential_injector.")),
        }))
    }
}

crate::stats_group! {
    /// What became of requests.
    struct Stats {
        counter already_exists;
        counter failed;
        counter injected;
    }
}

struct Config {
    credential: Credential,
    overwrite: bool,
    allow_request_without_credential: bool,
    stats: Stats,
}

/// What is given.
enum Credential {
    Generic(Arc<GenericCredential>),
    OAuth2(Arc<OAuth2Credential>),
}

impl Credential {
    fn from_proto(
        proto: core::TypedExtensionConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let (config, path) = TypedConfig::of_extension(proto, path)?;
        match &*config.type_name {
            generic::TYPE_NAME => {
                GenericCredential::from_proto(config.decode(&path)?, cx, &path).map(Self::Generic)
            }
            oauth2::TYPE_NAME => {
                OAuth2Credential::from_proto(config.decode(&path)?, cx, &path).map(Self::OAuth2)
            }
            _ => Err(config.unknown(&path, &[generic::TYPE_NAME, oauth2::TYPE_NAME])),
        }
    }

    /// The field that is given, and its value; none: there is none (yet).
    fn field(&self) -> (&HeaderName, Option<Arc<Box<[u8]>>>) {
        match self {
            Self::Generic(credential) => credential.field(),
            Self::OAuth2(credential) => credential.field(),
        }
    }
}

/// The text of a generic secret, without the ends of lines behind it. An error says what is wrong with it.
fn secret_text(secret: &tls::Secret) -> Result<Vec<u8>, String> {
    let Some(tls::secret::Type::GenericSecret(generic)) = &secret.r#type else {
        return Err("is no generic secret".to_owned());
    };
    let Some(source) = &generic.secret else {
        return Err("the generic secret is empty".to_owned());
    };
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "generic_secret");
    let text = data_source(source.clone(), &path.field("secret"));
    let text = text.map_err(|_| report.text())?;
    let end = text.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
    Ok(text[..end.map_or(0, |at| at + 1)].to_vec())
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> { Box::new(CredentialInjector(config.clone())) })
    }
}

struct CredentialInjector(Rc<Arc<Config>>);

impl HttpFilter for CredentialInjector {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let config = &*self.0;
        let (name, value) = config.credential.field();
        if !config.overwrite && head.fields.contains(name) {
            config.stats.already_exists().inc();
            return HeadersStatus::Continue;
        }
        match value {
            Some(value) => {
                head.fields.set(name, &**value);
                config.stats.injected().inc();
                HeadersStatus::Continue
            }
            None => {
                config.stats.failed().inc();
                if config.allow_request_without_credential {
                    return HeadersStatus::Continue;
                }
                let reply = LocalReply::new(401, "failed_to_inject_credential");
                HeadersStatus::LocalReply(reply.with_body("Failed to inject credential."))
            }
        }
    }
}
