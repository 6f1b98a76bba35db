//! A service that is asked by HTTP.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::config::Config;
use super::request::ShownBody;
use super::verdict::{Answer, Changes, Pairs, Refusal, Verdict};
use crate::config::{ConfigPath, Rejected};
use crate::formatter::{FormatData, Formatter};
use crate::http::{Fields, HeaderName, Known, Protocol, RequestHead};
use crate::http_filters::core_retry_policy::retry_policy as retry_policy_of;
use crate::matchers::StringMatcher;
use crate::route::RetryPolicy;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;
use crate::upstream::ClusterId;
use crate::upstream::async_client::{AsyncClient, RequestOptions, WholeResponse};

/// A converted `HttpService`.
pub(super) struct HttpAuthorizer {
    cluster: ClusterId,
    /// None: it may take for ever.
    timeout: Option<Duration>,
    path: PathChange,
    headers_to_add: Vec<(HeaderName, Formatter)>,
    lists: Arc<ResponseLists>,
    retry_policy: Option<Arc<RetryPolicy>>,
}

enum PathChange {
    None,
    Prefix(Box<str>),
    Override(Box<str>),
}

/// Which fields of an answer go where.
struct ResponseLists {
    upstream: Vec<StringMatcher>,
    upstream_to_append: Vec<StringMatcher>,
    /// Of a denial. Empty: all.
    client: Vec<StringMatcher>,
    client_on_success: Vec<StringMatcher>,
    metadata: Vec<StringMatcher>,
}

impl HttpAuthorizer {
    /// Converts an `HttpService`; gives the fields that it may see beside it, if it says so itself.
    pub(super) fn from_proto(
        proto: pb::HttpService,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, Option<Vec<StringMatcher>>), Rejected> {
        let pb::HttpService {
            server_uri,
            path_prefix,
            path_override,
            authorization_request,
            authorization_response,
            retry_policy,
        } = proto;
        let uri = path.required("server_uri", server_uri);
        let uri = uri.and_then(|uri| server_uri_of(uri, cx, &path.field("server_uri")));
        let request = authorization_request.unwrap_or_default();
        let request = request_settings(request, cx, &path.field("authorization_request"));
        let response = authorization_response.unwrap_or_default();
        let lists = ResponseLists::from_proto(response, &path.field("authorization_response"));
        let retry_policy = path.optional("retry_policy", retry_policy, retry_policy_of);
        let change = PathChange::from_proto(path_prefix, path_override, path);
        let (cluster, timeout) = uri?;
        let (visible, headers_to_add) = request?;
        let service = Self {
            cluster,
            timeout,
            path: change?,
            headers_to_add,
            lists: Arc::new(lists?),
            retry_policy: retry_policy?.map(Arc::new),
        };
        Ok((service, visible))
    }

    /// Asks once, or as often as the retry policy says.
    pub(super) fn check(
        &self,
        client: &AsyncClient,
        config: &Config,
        (info, head): (&StreamInfo, &RequestHead),
        body: Option<ShownBody>,
    ) -> impl Future<Output = Answer> + use<> {
        let request = self.request(config, (info, head), body.as_ref());
        let options = RequestOptions {
            timeout: self.timeout,
            retry_policy: self.retry_policy.clone(),
            max_response_bytes: MAX_RESPONSE_BYTES,
            send_xff: false,
            ..RequestOptions::default()
        };
        let body = body.map_or_else(Bytes::new, |body| body.bytes.into());
        let sending = client.send(self.cluster, request, body.into(), options);
        let lists = self.lists.clone();
        let start = Instant::now();
        async move {
            match sending.await {
                Ok(response) => lists.answer(response, start.elapsed()),
                Err(_) => Answer::error(),
            }
        }
    }

    fn request(
        &self,
        config: &Config,
        (info, original): (&StreamInfo, &RequestHead),
        body: Option<&ShownBody>,
    ) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, original.method_bytes());
        head.set_scheme(b"http");
        head.set_authority(original.authority().unwrap_or_default());
        let path = original.path().unwrap_or(b"/");
        match &self.path {
            PathChange::None => head.set_path(path),
            PathChange::Prefix(prefix) => head.set_path(&[prefix.as_bytes(), path].concat()),
            PathChange::Override(path) => head.set_path(path.as_bytes()),
        }
        let length = body.map_or(0, |body| body.bytes.len());
        head.fields.append(Known::ContentLength, length.to_string());
        for (name, value) in config
            .visible
            .collect(original, body, config.encode_raw_headers)
        {
            if !name.starts_with(':') && !belongs_to_connection(&name) {
                head.fields.append_wire(name.as_bytes(), &value);
            }
        }
        for (name, value) in &self.headers_to_add {
            let mut text = Vec::new();
            let data = FormatData {
                log_type: "NotSet",
                ..FormatData::of_request(info, Some(original))
            };
            value.render(&data, &mut text);
            text.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
            if !text.is_empty() {
                head.fields.set(name, text);
            }
        }
        let per_try = self.retry_policy.as_ref().and_then(|p| p.per_try_timeout);
        if let Some(timeout) = per_try.or(self.timeout) {
            let millis = timeout.as_millis().to_string();
            head.fields.set("x-envoy-expected-rq-timeout-ms", millis);
        }
        head
    }
}

/// The message that goes out has framing of its own.
fn belongs_to_connection(name: &str) -> bool {
    matches!(
        name,
        "content-length" | "transfer-encoding" | "connection" | "upgrade" | "keep-alive" | "te"
    )
}

fn server_uri_of(
    proto: core::HttpUri,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<(ClusterId, Option<Duration>), Rejected> {
    let core::HttpUri {
        // Harmless: what is asked is the cluster, for the host and the path of the request.
        uri: _,
        timeout,
        http_upstream_type,
    } = proto;
    let timeout = path.duration("timeout", timeout);
    let upstream = path.required("http_upstream_type", http_upstream_type)?;
    let core::http_uri::HttpUpstreamType::Cluster(cluster) = upstream;
    let cluster = path.non_empty("cluster", cluster)?;
    let timeout = timeout?.unwrap_or(DEFAULT_TIMEOUT);
    let cluster = cx.server.cluster_names.id(&cluster);
    Ok((cluster, (!timeout.is_zero()).then_some(timeout)))
}

/// What a service may see, and what it is told beside it.
type RequestSettings = (Option<Vec<StringMatcher>>, Vec<(HeaderName, Formatter)>);

fn request_settings(
    proto: pb::AuthorizationRequest,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<RequestSettings, Rejected> {
    #[allow(deprecated, reason = "control planes still send allowed_headers here")]
    let pb::AuthorizationRequest {
        allowed_headers,
        headers_to_add,
    } = proto;
    let allowed = path.optional(
        "allowed_headers",
        allowed_headers,
        StringMatcher::list_from_proto,
    );
    let add = path.each("headers_to_add", headers_to_add, |header, path| {
        let core::HeaderValue {
            key,
            value,
            // Harmless: Envoy sends nothing of it.
            raw_value: _,
        } = header;
        let key = path.non_empty("key", key)?;
        let value = Formatter::parse_omitting_empty(&value, cx, &path.field("value"))?;
        Ok((HeaderName::new(key), value))
    });
    Ok((allowed?, add?))
}

impl PathChange {
    fn from_proto(
        prefix: String,
        replacement: String,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let absolute = |name: &str, value: &str| match value.starts_with('/') {
            true => Ok(()),
            false => Err(path
                .field(name)
                .reject(format!("\"{value}\" has to start with /"))),
        };
        match (&*prefix, &*replacement) {
            ("", "") => Ok(Self::None),
            (prefix, "") => {
                absolute("path_prefix", prefix)?;
                Ok(Self::Prefix(prefix.into()))
            }
            ("", replacement) => {
                absolute("path_override", replacement)?;
                Ok(Self::Override(replacement.into()))
            }
            _ => Err(path.reject("only one of path_prefix and path_override may be set")),
        }
    }
}

impl ResponseLists {
    fn from_proto(
        proto: pb::AuthorizationResponse,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::AuthorizationResponse {
            allowed_upstream_headers,
            allowed_upstream_headers_to_append,
            allowed_client_headers,
            allowed_client_headers_on_success,
            dynamic_metadata_from_headers,
        } = proto;
        let list = |name: &str, list: Option<ListStringMatcher>| {
            let list = path.optional(name, list, StringMatcher::list_from_proto);
            list.map(Option::unwrap_or_default)
        };
        let upstream = list("allowed_upstream_headers", allowed_upstream_headers);
        let append = list(
            "allowed_upstream_headers_to_append",
            allowed_upstream_headers_to_append,
        );
        let client = list("allowed_client_headers", allowed_client_headers);
        let on_success = list(
            "allowed_client_headers_on_success",
            allowed_client_headers_on_success,
        );
        let metadata = list(
            "dynamic_metadata_from_headers",
            dynamic_metadata_from_headers,
        );
        Ok(Self {
            upstream: upstream?,
            upstream_to_append: append?,
            client: client?,
            client_on_success: on_success?,
            metadata: metadata?,
        })
    }

    /// Reads what came by HTTP.
    fn answer(&self, response: WholeResponse, took: Duration) -> Answer {
        let WholeResponse { head, body, .. } = response;
        if !(200..500).contains(&head.status) {
            return Answer::error();
        }
        let mut fields = head.fields;
        let remove = names_to_remove(&fields);
        fields.remove(HEADERS_TO_REMOVE);
        let millis = took.as_millis().to_string();
        fields.set("x-envoy-upstream-service-time", millis);
        let metadata = self.picked(&self.metadata, &fields);
        let metadata: Map<String, Value> = metadata
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into()))
            .collect();
        let verdict = if head.status == 200 {
            let mut changes = Changes {
                set: self.picked(&self.upstream, &fields),
                add: self.picked(&self.upstream_to_append, &fields),
                remove,
                ..Changes::default()
            };
            changes.response.add = self.picked(&self.client_on_success, &fields);
            Verdict::Ok(Box::new(changes))
        } else {
            Verdict::Denied(Refusal {
                status: Some(head.status),
                fields: self.denial(&fields),
                body: body.to_vec(),
            })
        };
        Answer {
            verdict,
            metadata,
            is_unclear: false,
        }
    }

    fn picked(&self, list: &[StringMatcher], fields: &Fields) -> Pairs {
        let picked = |name: &[u8]| list.iter().any(|matcher| matcher.matches(name));
        pairs(fields, picked)
    }

    /// What a client sees of a denial.
    fn denial(&self, fields: &Fields) -> Pairs {
        let framing = |name: &[u8]| {
            matches!(
                name,
                b"connection" | b"transfer-encoding" | b"keep-alive" | b"content-length"
            )
        };
        let all = self.client.is_empty();
        let listed = |name: &[u8]| {
            matches!(name, b"www-authenticate" | b"location")
                || self.client.iter().any(|matcher| matcher.matches(name))
        };
        pairs(fields, |name| !framing(name) && (all || listed(name)))
    }
}

fn pairs(fields: &Fields, picked: impl Fn(&[u8]) -> bool) -> Pairs {
    fields
        .iter()
        .filter(|(name, _)| picked(name))
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
        .collect()
}

/// The names in `x-envoy-auth-headers-to-remove`.
fn names_to_remove(fields: &Fields) -> Vec<String> {
    fields
        .get_all(HEADERS_TO_REMOVE)
        .flat_map(|value| value.split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

const HEADERS_TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
