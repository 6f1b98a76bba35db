//! Keys that come from a server: fetched when a token needs them, or ahead of time by main.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Stats;
use super::keys::KeySet;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Known, Protocol, RequestHead};
use crate::http_filters::core_retry_policy::retry_policy as retry_policy_of;
use crate::route::RetryPolicy;
use crate::server::{FactoryContext, InitTarget, Worker};
use crate::upstream::ClusterId;
use crate::upstream::async_client::{AsyncClient, RequestOptions};

/// The keys of a server, shared by all workers.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    cluster: ClusterId,
    scheme: Box<str>,
    authority: Box<str>,
    path: Box<str>,
    timeout: Duration,
    /// How long fetched keys count.
    cache_duration: Duration,
    retry_policy: Option<Arc<RetryPolicy>>,
    stats: Stats,
    current: ArcSwapOption<Fetched>,
}

#[derive(Debug)]
struct Fetched {
    keys: KeySet,
    /// None: until there are others.
    expires: Option<Instant>,
}

/// `JwksAsyncFetch`: main keeps the keys fresh.
struct AheadOfTime {
    failed_refetch: Duration,
    /// Ready after the first fetch.
    first: Option<InitTarget>,
}

const CACHE_DURATION: Duration = Duration::from_secs(600);
const FAILED_REFETCH: Duration = Duration::from_secs(1);
/// Keys are fetched again this long before they would no longer count.
const REFETCH_BEFORE: Duration = Duration::from_secs(5);

impl RemoteKeys {
    pub(super) fn from_proto(
        proto: pb::RemoteJwks,
        cx: &FactoryContext<'_>,
        stats: &Stats,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let pb::RemoteJwks {
            http_uri,
            cache_duration,
            async_fetch,
            retry_policy,
        } = proto;
        let core::HttpUri {
            uri,
            timeout,
            http_upstream_type,
        } = path.required("http_uri", http_uri)?;
        let uri_path = path.field("http_uri");
        let timeout = uri_path.duration("timeout", timeout);
        let core::http_uri::HttpUpstreamType::Cluster(cluster) =
            uri_path.required("http_upstream_type", http_upstream_type)?;
        let (scheme, authority, target) = split_uri(&uri).ok_or_else(|| {
            uri_path
                .field("uri")
                .reject(format!("\"{uri}\" is not an absolute URI of http or https"))
        })?;
        let cache_duration = path.duration("cache_duration", cache_duration);
        let retry_policy = path.optional("retry_policy", retry_policy, retry_policy_of);
        let ahead = path.optional("async_fetch", async_fetch, |proto, path| {
            let pb::JwksAsyncFetch {
                fast_listener,
                failed_refetch_duration,
            } = proto;
            let failed = path.duration("failed_refetch_duration", failed_refetch_duration)?;
            let target = || cx.init.target(format!("Jwks async fetching url={uri}"));
            Ok(AheadOfTime {
                failed_refetch: failed.unwrap_or(FAILED_REFETCH),
                first: (!fast_listener).then(target),
            })
        });
        let keys = Arc::new(Self {
            cluster: cx.server.cluster_names.id(&cluster),
            scheme: scheme.into(),
            authority: authority.into(),
            path: target.into(),
            timeout: timeout?.unwrap_or_default(),
            cache_duration: cache_duration?.unwrap_or(CACHE_DURATION),
            retry_policy: retry_policy?.map(Arc::new),
            stats: stats.clone(),
            current: ArcSwapOption::empty(),
        });
        if let Some(ahead) = ahead? {
            let keys = Arc::downgrade(&keys);
            cx.server.main.run(move |main: &Rc<Worker>| {
                let client = AsyncClient::new(main.clone());
                tokio::task::spawn_local(async move {
                    let mut ahead = ahead;
                    // Ends with the configuration that asked for it.
                    while let Some(keys) = keys.upgrade() {
                        let wait = keys.fetch_ahead(&client, &mut ahead).await;
                        drop(keys);
                        sleep(wait).await;
                    }
                });
            });
        }
        Ok(keys)
    }

    /// What `verify` says with the keys, while there are some that count, or `even_expired`.
    pub(super) fn with_keys<T>(
        &self,
        even_expired: bool,
        verify: impl FnOnce(&KeySet) -> T,
    ) -> Option<T> {
        let current = self.current.load();
        let fetched = current.as_ref()?;
        let expired = |expires: Instant| expires <= Instant::now();
        if !even_expired && fetched.expires.is_some_and(expired) {
            return None;
        }
        Some(verify(&fetched.keys))
    }

    /// Fetches the keys for a token that needs them. False: there are none.
    pub(super) async fn fetch(&self, client: &AsyncClient) -> bool {
        self.fetch_until(client, Some(Instant::now() + self.cache_duration))
            .await
    }

    /// Fetches the keys for all tokens to come, and says how long they will do.
    async fn fetch_ahead(&self, client: &AsyncClient, ahead: &mut AheadOfTime) -> Duration {
        let fetched = self.fetch_until(client, None).await;
        drop(ahead.first.take());
        if fetched {
            self.cache_duration
                .saturating_sub(REFETCH_BEFORE)
                .max(FAILED_REFETCH)
        } else {
            ahead.failed_refetch
        }
    }

    async fn fetch_until(&self, client: &AsyncClient, expires: Option<Instant>) -> bool {
        let result = self.request(client).await;
        match result {
            Ok(keys) => {
                self.stats.jwks_fetch_success().inc();
                self.current
                    .store(Some(Arc::new(Fetched { keys, expires })));
                true
            }
            Err(reason) => {
                self.stats.jwks_fetch_failed().inc();
                warn!(
                    authority = &*self.authority,
                    path = &*self.path,
                    reason,
                    "Keys of tokens cannot be fetched."
                );
                false
            }
        }
    }

    async fn request(&self, client: &AsyncClient) -> Result<KeySet, String> {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        head.set_scheme(self.scheme.as_bytes());
        head.set_authority(self.authority.as_bytes());
        head.set_path(self.path.as_bytes());
        // What Envoy's fetcher sends.
        head.fields.append(Known::UserAgent, "Go-browser");
        let per_try = self.retry_policy.as_ref().and_then(|p| p.per_try_timeout);
        let expected = per_try.unwrap_or(self.timeout);
        if !expected.is_zero() {
            let millis = expected.as_millis().to_string();
            head.fields.append("x-envoy-expected-rq-timeout-ms", millis);
        }
        let options = RequestOptions {
            timeout: (!self.timeout.is_zero()).then_some(self.timeout),
            retry_policy: self.retry_policy.clone(),
            ..RequestOptions::default()
        };
        let response = client
            .send(self.cluster, head, Bytes::new().into(), options)
            .await
            .map_err(|error| error.to_string())?;
        if response.head.status != 200 {
            return Err(format!("the server answers {}", response.head.status));
        }
        KeySet::parse(&response.body).map_err(|fault| fault.text().to_owned())
    }
}

/// Scheme, authority and path with query of an absolute URI.
fn split_uri(uri: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    (!authority.is_empty()).then_some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_split_into_what_a_request_needs() {
        assert_eq!(
            split_uri("https://a:1/b?c#d"),
            Some(("https", "a:1", "/b?c"))
        );
        assert_eq!(split_uri("http://a"), Some(("http", "a", "/")));
        assert_eq!(split_uri("ftp://a/b"), None);
        assert_eq!(split_uri("/b"), None);
    }
}
