//! Which filters are measured: their configurations, the requests, and the proof that they work.

use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::plane::Plane;

use crate::load::ask;
use crate::servers::{JSON_BYTES, Servers};
use crate::tokens::Issuer;

/// A listener with filters, and the requests that go to it.
pub(crate) struct Scenario {
    /// Of its listener, too.
    pub(crate) name: &'static str,
    pub(crate) goal: Goal,
    /// YAML in flow style, each with a comma behind it.
    filters: String,
    /// Of its route: fields in flow style.
    route: String,
    cluster: &'static str,
    pub(crate) requests: Rc<[Vec<u8>]>,
    proof: Proof,
}

/// What is expected of the processor time.
pub(crate) enum Goal {
    /// At most this part of the first program's.
    OfTheFirst(f64),
    /// At most so many microseconds more than without a filter.
    Beyond(f64),
}

/// How to see that a filter does its work.
enum Proof {
    Nothing,
    /// The last answer to these requests has this status.
    Answers(Vec<Vec<u8>>, u16),
    /// An authorizer is asked.
    Authorized,
    /// The body is much shorter.
    Gzip,
}

const TOKENS: usize = 2_048;
const USERS: usize = 10_000;
const POLICIES: usize = 100;

/// All of them, the one without a filter first.
pub(crate) fn all() -> Vec<Scenario> {
    let plain = request("/", "");
    vec![
        Scenario::new("no filter", Goal::OfTheFirst(0.45), vec![plain.clone()]),
        Scenario::new("ten idle filters", Goal::Beyond(1.0), vec![plain.clone()]).with(idle()),
        jwt("jwt RS256 cached", &Issuer::rs256(), 64),
        jwt("jwt RS256 fresh", &Issuer::rs256(), TOKENS),
        jwt("jwt HS256 fresh", &Issuer::hs256(), TOKENS),
        jwt("jwt ES256 fresh", &Issuer::es256(), TOKENS),
        rbac(),
        authorized(
            "ext_authz gRPC",
            "grpc_service: { envoy_grpc: { cluster_name: grpc_authorizer } }",
        ),
        authorized(
            "ext_authz HTTP",
            "http_service: { server_uri: { uri: 'http://authorizer', cluster: http_authorizer, timeout: 1s }, authorization_response: { allowed_upstream_headers: { patterns: [{ exact: x-user }] } } }",
        ),
        limited(),
        packed(),
    ]
}

impl Scenario {
    fn new(name: &'static str, goal: Goal, requests: Vec<Vec<u8>>) -> Self {
        Self {
            name,
            goal,
            filters: String::new(),
            route: String::new(),
            cluster: "plain",
            requests: requests.into(),
            proof: Proof::Nothing,
        }
    }

    fn with(mut self, filters: String) -> Self {
        self.filters = filters;
        self
    }

    /// Fails if the filter does not do its work.
    pub(crate) async fn prove(&self, address: SocketAddr, servers: &Servers) -> Result<(), Error> {
        let (requests, expected) = match &self.proof {
            Proof::Answers(requests, expected) => (&requests[..], *expected),
            _ => (&self.requests[..1], 200),
        };
        let authorized = servers.authorized.get();
        let mut answer = None;
        for request in requests {
            answer = Some(ask(address, request).await?);
        }
        let answer = answer.ok_or("it has requests")?;
        let works = match self.proof {
            Proof::Nothing | Proof::Answers(..) => true,
            Proof::Authorized => servers.authorized.get() > authorized,
            Proof::Gzip => {
                println!("{}: {} of {JSON_BYTES} bytes", self.name, answer.body.len());
                answer.head.contains("content-encoding: gzip") && answer.body.len() < JSON_BYTES / 2
            }
        };
        if answer.status == expected && works {
            return Ok(());
        }
        Err(format!(
            "{}: {}, not {expected}: {}",
            self.name, answer.status, answer.head
        )
        .into())
    }
}

fn request(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: shop.example.com\r\nuser-agent: bench\r\naccept: */*\r\n{fields}\r\n")
        .into_bytes()
}

fn filter(name: &str, message: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    format!(
        "{{ name: envoy.filters.http.{name}, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{message}{comma}{fields} }} }},\n            "
    )
}

/// None of them has anything to do for the request.
fn idle() -> String {
    [
        filter("cors", "Cors", ""),
        filter("csrf", "CsrfPolicy", "filter_enabled: { default_value: { numerator: 0 } }"),
        filter("fault", "HTTPFault", ""),
        filter("rbac", "RBAC", ""),
        filter("jwt_authn", "JwtAuthentication", ""),
        filter(
            "ext_authz",
            "ExtAuthz",
            "filter_enabled: { default_value: { numerator: 0 } }, transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: grpc_authorizer } }",
        ),
        filter("local_ratelimit", "LocalRateLimit", "stat_prefix: idle"),
        filter(
            "ratelimit",
            "RateLimit",
            "domain: idle, rate_limit_service: { transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: grpc_authorizer } } }",
        ),
        filter("header_to_metadata", "Config", ""),
        filter("grpc_web", "GrpcWeb", ""),
    ]
    .concat()
}

fn jwt(name: &'static str, issuer: &Issuer, tokens: usize) -> Scenario {
    let bearing = |token: &str| request("/", &format!("authorization: Bearer {token}\r\n"));
    let requests = (0..tokens).map(|user| bearing(&issuer.token(user)));
    let mut scenario = Scenario::new(name, Goal::OfTheFirst(0.45), requests.collect());
    let provider = format!(
        "{{ issuer: 'https://issuer.example.com', audiences: [shop], local_jwks: {{ inline_string: '{}' }}, jwt_cache_config: {{ jwt_cache_size: 100 }} }}",
        issuer.jwks()
    );
    scenario.filters = filter(
        "jwt_authn",
        "JwtAuthentication",
        &format!(
            "providers: {{ one: {provider} }}, rules: [{{ match: {{ prefix: / }}, requires: {{ provider_name: one }} }}]"
        ),
    );
    // The payload of one user with the signature for another.
    let (one, other) = (issuer.token(1), issuer.token(2));
    let signed = one.rfind('.').unwrap();
    let signature = &other[other.rfind('.').unwrap()..];
    let forged = bearing(&format!("{}{signature}", &one[..signed]));
    scenario.proof = Proof::Answers(vec![forged], 401);
    scenario
}

fn rbac() -> Scenario {
    let path = |number: usize| format!("/service-{number:03}/item");
    let role = |number: usize| format!("x-role: role-{number:03}\r\n");
    // Each is allowed by one policy, which is any of them.
    let requests = (0..POLICIES).map(|place| {
        let number = place * 37 % POLICIES;
        request(&path(number), &role(number))
    });
    let mut scenario = Scenario::new(
        "rbac 100 policies",
        Goal::OfTheFirst(0.45),
        requests.collect(),
    );
    let mut policies = String::new();
    for number in 0..POLICIES {
        write!(
            policies,
            "policy-{number:03}: {{ permissions: [{{ and_rules: {{ rules: [{{ header: {{ name: ':method', string_match: {{ exact: GET }} }} }}, {{ url_path: {{ path: {{ prefix: /service-{number:03}/ }} }} }}] }} }}], principals: [{{ header: {{ name: x-role, string_match: {{ exact: role-{number:03} }} }} }}] }},\n            "
        )
        .unwrap();
    }
    scenario.filters = filter(
        "rbac",
        "RBAC",
        &format!("rules: {{ action: ALLOW, policies: {{ {policies} }} }}"),
    );
    scenario.proof = Proof::Answers(vec![request(&path(1), &role(2))], 403);
    scenario
}

fn authorized(name: &'static str, service: &str) -> Scenario {
    let requests = vec![request("/", "authorization: Bearer token\r\n")];
    let mut scenario = Scenario::new(name, Goal::OfTheFirst(0.6), requests);
    scenario.filters = filter(
        "ext_authz",
        "ExtAuthz",
        &format!("transport_api_version: V3, {service}"),
    );
    scenario.proof = Proof::Authorized;
    scenario
}

fn limited() -> Scenario {
    let of_user = |user: usize| request("/", &format!("x-user: user-{user:05}\r\n"));
    let requests = (0..USERS).map(|place| of_user(place * 7_919 % USERS));
    let mut scenario = Scenario::new(
        "10,000 descriptors",
        Goal::OfTheFirst(0.45),
        requests.collect(),
    );
    let mut descriptors = String::new();
    for user in 0..=USERS {
        // The last one is not in the load.
        let tokens = if user == USERS { 1 } else { 1_000_000_000 };
        write!(
            descriptors,
            "{{ entries: [{{ key: user, value: user-{user:05} }}], token_bucket: {{ max_tokens: {tokens}, tokens_per_fill: {tokens}, fill_interval: 3600s }} }},\n                        "
        )
        .unwrap();
    }
    let always = "{ default_value: { numerator: 100 } }";
    scenario.filters = filter(
        "local_ratelimit",
        "LocalRateLimit",
        &format!(
            "stat_prefix: limit, filter_enabled: {always}, filter_enforced: {always}, token_bucket: {{ max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s }}, descriptors: [{descriptors}]"
        ),
    );
    scenario.route = "rate_limits: [{ actions: [{ request_headers: { header_name: x-user, descriptor_key: user } }] }]".into();
    scenario.proof = Proof::Answers(vec![of_user(USERS), of_user(USERS)], 429);
    scenario
}

fn packed() -> Scenario {
    let requests = vec![request("/", "accept-encoding: gzip\r\n")];
    let mut scenario = Scenario::new("compressor gzip", Goal::OfTheFirst(0.6), requests);
    scenario.filters = filter(
        "compressor",
        "Compressor",
        "compressor_library: { name: gzip, typed_config: { '@type': type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip, compression_level: COMPRESSION_LEVEL_6 } }",
    );
    scenario.cluster = "json";
    scenario.proof = Proof::Gzip;
    scenario
}

/// A bootstrap with a listener for each scenario.
pub(crate) fn bootstrap(scenarios: &[Scenario], servers: &Servers) -> String {
    let mut text = String::from(
        "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\nstatic_resources:\n  listeners:\n",
    );
    for Scenario {
        name,
        filters,
        route,
        cluster,
        ..
    } in scenarios
    {
        let comma = if route.is_empty() { "" } else { ", " };
        let routes = format!(
            "route_config: {{ virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster}{comma}{route} }} }}] }}] }}"
        );
        text.push_str(&listener(name, &routes, filters));
    }
    text.push_str("  clusters:\n");
    for (name, at, http2) in [
        ("plain", servers.plain, false),
        ("json", servers.json, false),
        ("http_authorizer", servers.http_authorizer, false),
        ("grpc_authorizer", servers.grpc_authorizer, true),
    ] {
        text.push_str(&cluster(name, at, http2));
    }
    text
}

/// A bootstrap with a cluster from a control plane.
pub(crate) fn bootstrap_of_hosts(plane: &Plane) -> String {
    let routes = "route_config: { validate_clusters: false, virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: hosts } }] }] }";
    format!(
        "node: {{ id: bench, cluster: bench }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  ads_config: {{ api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
{}  listeners:
{}",
        cluster("plane", plane.address(), true),
        listener("hosts", routes, "")
    )
}

fn listener(name: &str, routes: &str, filters: &str) -> String {
    format!(
        "  - name: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          {routes}
          http_filters: [{filters} {{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
"
    )
}

fn cluster(name: &str, at: SocketAddr, http2: bool) -> String {
    let (ip, port) = (at.ip(), at.port());
    let options = if http2 {
        "    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }\n"
    } else {
        ""
    };
    format!(
        "  - name: {name}
    connect_timeout: 1s
{options}    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }}] }}] }}
"
    )
}
