//! The kinds of an API gateway: `GatewayPolicy` says who may call what a gateway serves, how often, and what becomes of
//! it; `JwtProvider` says who signs tokens.
//!
//! A policy has sections, each for one thing. Nothing of a section is taken over from another policy: that of the nearer
//! target goes before that of the farther one as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::kinds::{Resource, Retries, duration};
use super::object::Key;
use crate::ratelimit::{LimitSpec, MatchSpec, RateLimitSpec, window};

/// What a gateway asks of requests, see [`GatewayPolicySpec`].
pub type GatewayPolicy = Resource<GatewayPolicySpec>;
/// Who signs tokens, see [`JwtProviderSpec`].
pub type JwtProvider = Resource<JwtProviderSpec>;

/// The domain under which gateways ask for the limits of policies.
pub(crate) const LIMITS_DOMAIN: &str = "outrigger.dev/gateway-policy";
/// The key that says which limit of which policy is meant.
pub(crate) const LIMIT_KEY: &str = "limit";

/// See [`GatewayPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayPolicySpec {
    /// For which gateways, listeners, routes and rules of the policy's own namespace. A rule whose filter `ExtensionRef`
    /// names the policy needs no entry.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// From which addresses one may call.
    pub addresses: Option<AddressesSpec>,
    /// Which JSON web tokens are needed.
    pub jwt: Option<JwtSpec>,
    /// Which API keys are.
    pub api_keys: Option<ApiKeysSpec>,
    /// Which user names and passwords are.
    pub basic_auth: Option<BasicAuthSpec>,
    /// Who else is asked.
    pub ext_authz: Option<ExtAuthzSpec>,
    /// How often one may call. An empty list is no limit.
    pub rate_limits: Option<Vec<CallLimit>>,
    /// Which pages of other origins may call.
    pub cors: Option<CorsSpec>,
    /// From pages of which hosts a browser may send what changes something.
    pub csrf: Option<CsrfSpec>,
    /// What stands in for answers that say what went wrong: the first entry with the status. An empty list is nothing.
    pub errors: Option<Vec<ErrorAnswer>>,
    /// How fast bodies go.
    pub bandwidth: Option<BandwidthSpec>,
    /// How long the body of a request may be, in bytes; it goes on when all of it is there. 0 is no limit.
    pub max_body_bytes: Option<u32>,
    /// How many trusted proxies are in front of the gateway, of whose `x-forwarded-for` the client's address is taken. For
    /// whole gateways only. Default 0: the client is who connects.
    pub trusted_hops: Option<u32>,
    /// How answers are compressed, for who takes it: any of these, by what the client likes best. An empty list is not
    /// at all.
    pub compression: Option<Vec<Compression>>,
    /// Time for a whole response, retries included, where the route says nothing. `0s` is no limit.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// When and how often a request is sent again; it goes before that of a `TrafficPolicy`.
    pub retries: Option<Retries>,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyTarget {
    /// The group of the kind. Default: whatever the kind has.
    pub group: Option<String>,
    /// `Gateway`, `HTTPRoute`, `GRPCRoute` or `Ingress`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// A listener of the gateway, or a rule of the route by its name.
    pub section_name: Option<String>,
}

/// Which JSON web tokens are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JwtSpec {
    /// Providers, of one of which a good token is needed.
    pub any_of: Vec<String>,
    /// Providers, of each of which a good token is needed.
    pub all_of: Vec<String>,
    /// Lets requests without any token pass, too; those with a bad one do not.
    pub allow_missing: bool,
    /// What the token has to say: for each claim one of these values. Claims of texts are taken for words, of lists for
    /// their entries; `.` leads into objects.
    pub claims: Claims,
    /// No token is needed.
    pub off: bool,
    /// Paths for which something else holds: the first rule with the path.
    pub rules: Vec<JwtRule>,
}

/// What holds for some paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JwtRule {
    /// Any of them; a `*` at the end stands for any rest.
    pub paths: Vec<String>,
    /// As in [`JwtSpec`].
    pub any_of: Vec<String>,
    /// As in [`JwtSpec`].
    pub all_of: Vec<String>,
    /// As in [`JwtSpec`].
    pub allow_missing: bool,
    /// As in [`JwtSpec`].
    pub claims: Claims,
    /// As in [`JwtSpec`].
    pub off: bool,
}

/// Claims by name, and the values that each may have.
pub type Claims = BTreeMap<String, Vec<Scalar>>;

/// A text, a number or a truth.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged, expecting = "is no text, whole number, `true` or `false`")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

/// From which addresses one may call: one of `allow`, if there are any, and none of `deny`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct AddressesSpec {
    /// Addresses and ranges of them: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`. Empty: all.
    pub allow: Vec<String>,
    /// The same.
    pub deny: Vec<String>,
    /// From anywhere.
    pub off: bool,
}

/// See [`JwtProvider`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JwtProviderSpec {
    /// What `iss` has to be. None: anything.
    pub issuer: Option<String>,
    /// Of which `aud` has to name one. Empty: anything.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// The keys with which it signs.
    pub jwks: JwksSpec,
    /// Where tokens stand. Default: `authorization: Bearer …`, and the parameter `access_token`.
    pub from: Option<TokenPlaces>,
    /// Sends the token on to the service. Default false.
    #[serde(default)]
    pub forward: bool,
    /// Claims that the service gets as headers: the header of each. Such headers of clients are taken off.
    #[serde(default)]
    pub claims_to_headers: BTreeMap<String, String>,
    /// The header in which the service gets all claims, as base64url of JSON.
    pub payload_header: Option<String>,
    /// How far clocks may be apart. Default 60 s.
    #[serde(default, deserialize_with = "duration")]
    pub clock_skew: Option<Duration>,
    /// Refuses tokens that never expire. Default false.
    #[serde(default)]
    pub require_expiration: bool,
}

/// Where a JSON web key set is: one of `uri`, `inline` and `configMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JwksSpec {
    /// At a URI, from which gateways fetch it.
    pub uri: Option<String>,
    /// Who is asked for the URI, in place of the host in it.
    pub service: Option<BackendRef>,
    /// How long what was fetched is good. Default 10 m.
    #[serde(deserialize_with = "duration")]
    pub refresh: Option<Duration>,
    /// Time for fetching. Default 5 s.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Here, as JSON.
    pub inline: Option<String>,
    /// In a `ConfigMap`.
    pub config_map: Option<ConfigMapKey>,
}

/// A text in a `ConfigMap` of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Its name.
    pub name: String,
    /// The key in it. Default `jwks.json`.
    pub key: Option<String>,
}

/// A port of a service of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendRef {
    /// The service.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// Where tokens stand; the first that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TokenPlaces {
    /// Headers.
    pub headers: Vec<TokenHeader>,
    /// Parameters of the query.
    pub params: Vec<String>,
    /// Cookies.
    pub cookies: Vec<String>,
}

/// A header with a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenHeader {
    /// Its name.
    pub name: String,
    /// What stands before the token, such as `Bearer `. Default: nothing.
    pub prefix: Option<String>,
}

/// Which API keys are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ApiKeysSpec {
    /// `Secret`s of the type `Opaque`: names of clients, and the key of each.
    pub secrets: Vec<String>,
    /// Where keys stand. Default: the header `x-api-key`.
    pub from: Option<KeyPlaces>,
    /// The header in which the service gets the client's name.
    pub client_header: Option<String>,
    /// Sends the key on to the service. Default false.
    pub forward: bool,
    /// Which clients may call. Empty: all that have a key.
    pub allow_clients: Vec<String>,
    /// No key is needed.
    pub off: bool,
}

/// Where keys stand; the first that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KeyPlaces {
    /// Headers.
    pub headers: Vec<String>,
    /// Parameters of the query.
    pub params: Vec<String>,
    /// Cookies.
    pub cookies: Vec<String>,
}

/// Which user names and passwords are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct BasicAuthSpec {
    /// A `Secret` of the type `Opaque`, with `.htpasswd`: lines of `htpasswd -s`.
    pub secret: Option<String>,
    /// No password is needed.
    pub off: bool,
}

/// Who is asked whether a request may pass: one of `grpc` and `http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ExtAuthzSpec {
    /// A service that speaks `envoy.service.auth.v3.Authorization`.
    pub grpc: Option<GrpcAuthorizer>,
    /// A service that answers 200 to what may pass.
    pub http: Option<HttpAuthorizer>,
    /// Which headers of the request it is shown. Default: all over gRPC; `authorization` over HTTP, where these are added.
    pub send_headers: Vec<String>,
    /// How much of the body it is shown, in bytes; longer ones are cut off. Default: nothing.
    pub body_bytes: Option<u32>,
    /// What it is told beside, over gRPC.
    pub context: BTreeMap<String, String>,
    /// Time for its answer. Default 200 ms.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Lets requests pass when it fails. Default false: they are answered with 403.
    pub fail_open: bool,
    /// Nobody is asked.
    pub off: bool,
}

/// A service that speaks `envoy.service.auth.v3.Authorization`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcAuthorizer {
    /// The service.
    pub service: String,
    /// Its port, of HTTP/2.
    pub port: u16,
}

/// A service that answers 200 to what may pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpAuthorizer {
    /// The service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// What stands before the request's path.
    pub path: Option<String>,
    /// Which headers of its answer are put into the request.
    #[serde(default)]
    pub accept_headers: Vec<String>,
    /// Which headers of its answer the client gets when it denies. Default: those of HTTP, such as `location`.
    #[serde(default)]
    pub client_headers: Vec<String>,
}

/// How often one may call, over all proxies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CallLimit {
    /// What clients are told that it is called. Default: nothing.
    #[serde(default)]
    pub name: String,
    /// What has a counter of its own: each value of each. Empty: all requests are counted together.
    #[serde(default)]
    pub by: Vec<CountedBy>,
    /// Any of them; a `*` at the end stands for any rest. Empty: all.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Any of them. Empty: all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// How many may pass.
    pub requests: u32,
    /// In which time: `10s`, `1m`, `24h`, `30d`.
    #[serde(deserialize_with = "window")]
    pub per: Duration,
    /// Counts and lets everything pass. Default false.
    #[serde(default)]
    pub shadow: bool,
}

/// What has a counter of its own. Requests without it are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CountedBy {
    /// A claim of the token, a text; `.` leads into objects.
    Claim(String),
    /// A header.
    Header(String),
    /// The client's address.
    Address,
    /// The path, without its parameters.
    Path,
}

impl CountedBy {
    /// The key under which it is counted.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Claim(claim) => format!("claim {claim}"),
            Self::Header(header) => format!("header {}", header.to_ascii_lowercase()),
            // The one that the proxies give it.
            Self::Address => "remote_address".to_owned(),
            Self::Path => "path".to_owned(),
        }
    }
}

/// Which pages of other origins may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CorsSpec {
    /// Origins: `https://shop.example`, `https://*.shop.example`, `*`.
    pub allow_origins: Vec<String>,
    /// Methods; `*` for all.
    pub allow_methods: Vec<String>,
    /// Headers of requests; `*` for all.
    pub allow_headers: Vec<String>,
    /// Headers of answers that pages may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember it. Default: as it likes.
    #[serde(deserialize_with = "duration")]
    pub max_age: Option<Duration>,
    /// Whether cookies and passwords are sent. Default false.
    pub allow_credentials: bool,
    /// Other origins are not treated in any way.
    pub off: bool,
}

/// From pages of which hosts a browser may send what changes something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CsrfSpec {
    /// Hosts beside the one that is called: `shop.example`, `*.shop.example`, with the port where it is in the address.
    pub allow_hosts: Vec<String>,
    /// From any.
    pub off: bool,
}

/// What stands in for some answers, of the service or of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ErrorAnswer {
    /// For which: 400 to 599, `4xx`, `5xx`.
    pub statuses: Vec<Scalar>,
    /// The status that the client gets. Default: that of the answer.
    pub status: Option<u16>,
    /// The body. Default: none.
    #[serde(default)]
    pub body: String,
    /// What the body is. Default `text/plain`.
    pub content_type: Option<String>,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// How fast bodies go through a proxy, all of a route together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct BandwidthSpec {
    /// How many KiB in a second, 1 at least.
    pub kib_per_second: Option<u64>,
    /// Of which bodies. Default: of both, each for itself.
    pub of: Vec<Direction>,
    /// As fast as they come.
    pub off: bool,
}

/// Which bodies are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Direction {
    Requests,
    Responses,
}

/// How answers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Compression {
    Brotli,
    Zstd,
    Gzip,
}

impl GatewayPolicySpec {
    /// What the rate limit service counts for the policy; nothing if it limits nothing.
    pub(crate) fn counted(&self, key: &Key) -> Option<RateLimitSpec> {
        let limits = self.rate_limits.as_deref().unwrap_or_default();
        let limits: Vec<_> = limits
            .iter()
            .enumerate()
            .map(|(index, limit)| {
                let which = MatchSpec {
                    key: LIMIT_KEY.to_owned(),
                    value: Some(limit_id(key, index)),
                };
                let by = limit.by.iter().map(|by| MatchSpec {
                    key: by.key(),
                    value: None,
                });
                LimitSpec {
                    name: limit.name.clone(),
                    matches: std::iter::once(which).chain(by).collect(),
                    requests: limit.requests,
                    per: limit.per,
                    shadow: limit.shadow,
                }
            })
            .collect();
        (!limits.is_empty()).then(|| RateLimitSpec {
            domain: LIMITS_DOMAIN.to_owned(),
            headers: false,
            limits,
        })
    }
}

/// What tells a limit from all others.
pub(crate) fn limit_id(policy: &Key, index: usize) -> String {
    format!("{policy}/{index}")
}
