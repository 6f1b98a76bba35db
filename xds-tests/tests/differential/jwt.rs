//! `jwt_authn`: who may pass with which token, and what goes on of it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::case::{
    Act, Case, Kind, Request, With, acts, case, get, http1, ok, pause, reply, request, send, status,
};
use crate::names::base64;
use crate::tokens;

pub fn cases() -> Vec<Case> {
    [
        algorithms(),
        faults(),
        places(),
        providers(),
        requirements(),
        forwarding(),
        routes(),
        remote(),
        extract_only(),
        hostile(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A filter with this configuration, the provider `p` among it.
fn with(title: &'static str, provider: &str, rest: &str) -> Case {
    with_providers(title, &format!("p: {{ {}, {provider} }}", local()), rest)
}

fn with_providers(title: &'static str, providers: &str, rest: &str) -> Case {
    case(title)
        .filters(&format!(
            "- name: jwt\n  typed_config: {{ \"@type\": \"@http/jwt_authn.v3.JwtAuthentication\", providers: {{ {providers} }}, {rest} }}"
        ))
        .stats(["http.@stat.jwt_authn.allowed", "http.@stat.jwt_authn.denied"])
}

/// The keys, in YAML.
fn local() -> String {
    format!("local_jwks: {{ inline_string: '{}' }}", tokens::JWKS)
}

const REQUIRED: &str = "rules: [{ match: { prefix: / }, requires: { provider_name: p } }]";

fn bearer(token: &str) -> Request {
    get("/a?b=c").field("authorization", &format!("Bearer {token}"))
}

fn algorithms() -> Vec<Case> {
    let good = [
        ("RS256 is verified", tokens::RS256),
        ("RS384 is verified", tokens::RS384),
        ("RS512 is verified", tokens::RS512),
        ("PS256 is verified", tokens::PS256),
        ("PS384 is verified", tokens::PS384),
        ("PS512 is verified", tokens::PS512),
        ("ES256 is verified", tokens::ES256),
        ("ES384 is verified", tokens::ES384),
        ("ES512 is verified", tokens::ES512),
        ("EdDSA is verified", tokens::EDDSA),
        ("HS256 is verified", tokens::HS256),
        ("HS512 is verified", tokens::HS512),
    ];
    good.map(|(title, token)| {
        with(title, "issuer: \"https://issuer.example\"", REQUIRED)
            .send(bearer(token))
            .both()
            .shows(["< 200", "stat http.@stat.jwt_authn.allowed: 1"])
            .lacks(["> authorization*"])
    })
    .into()
}

fn faults() -> Vec<Case> {
    let issuer = "issuer: \"https://issuer.example\"";
    let bad = [
        ("a token that is missing is asked for", "", "Jwt is missing"),
        (
            "a token of two parts is refused",
            "a.b",
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            "a token whose header is no base64 is refused",
            "a.b.c",
            "Jwt header is an invalid Base64url encoded",
        ),
        (
            "a token whose header is no JSON is refused",
            "YWJj.b.c",
            "Jwt header is an invalid JSON",
        ),
        (
            "an unsigned token is refused",
            tokens::NONE,
            "Jwt header [alg] is not supported",
        ),
        (
            "a public key is no secret of an HMAC",
            tokens::CONFUSED,
            "Jwt verification fails",
        ),
        (
            "a token of another key is refused",
            tokens::FORGED,
            "Jwt verification fails",
        ),
        (
            "a token that names no known key is refused",
            tokens::OTHER_KID,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            "an expired token is refused",
            tokens::EXPIRED,
            "Jwt is expired",
        ),
        (
            "a token that is not valid yet is refused",
            tokens::EARLY,
            "Jwt not yet valid",
        ),
        (
            "a token of another issuer is refused",
            tokens::OTHER_ISSUER,
            "Jwt issuer is not configured",
        ),
        (
            "a token without issuer is refused where one is asked for",
            tokens::NO_ISSUER,
            "Jwt issuer is not configured",
        ),
    ];
    let mut cases: Vec<Case> = bad
        .into_iter()
        .map(|(title, token, text)| {
            let request = if token.is_empty() {
                get("/a?b=c")
            } else {
                bearer(token)
            };
            let body: &'static str = Box::leak(format!("< body {text}").into());
            let case = with(title, issuer, REQUIRED).send(request).both();
            case.shows([
                "< 401",
                body,
                "< www-authenticate*",
                "stat http.@stat.jwt_authn.denied: 1",
            ])
            .lacks(["> *"])
        })
        .collect();
    cases.extend([
        with(
            "a token for another audience is forbidden",
            &format!("{issuer}, audiences: [z]"),
            REQUIRED,
        )
        .send(bearer(tokens::OTHER_AUDIENCE))
        .shows(["< 403", "< body Audiences in Jwt are not allowed"]),
        with(
            "strip_failure_response says nothing",
            issuer,
            &format!("{REQUIRED}, strip_failure_response: true"),
        )
        .get("/")
        .shows([
            "< 401",
            "log details=jwt_authn_access_denied{Jwt_is_missing}",
        ])
        .lacks(["< body ?*", "< www-authenticate*"]),
        with("a long path is cut in the challenge", issuer, REQUIRED)
            .get(&format!("/{}", "x".repeat(300)))
            .shows(["< 401"]),
        with("one bad token of two refuses the request", issuer, REQUIRED)
            .send(
                get(&format!("/?access_token={}", tokens::EXPIRED))
                    .field("authorization", &format!("Bearer {}", tokens::RS256)),
            )
            .shows(["< 401", "< body Jwt is expired"]),
        with("a gRPC client gets its status", issuer, REQUIRED)
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< 200", "< grpc-status: 16"]),
    ]);
    cases
}

fn places() -> Vec<Case> {
    let token = tokens::RS256;
    vec![
        with(
            "a token may be a query parameter, which goes",
            "issuer: \"https://issuer.example\"",
            REQUIRED,
        )
        .send(get(&format!("/p?x=1&access_token={token}&a=2")))
        .shows(["< 200", "> connection 1: GET /p?a=2&x=1 HTTP/1.1"]),
        with(
            "from_headers names a header and a prefix",
            "from_headers: [{ name: x-jwt, value_prefix: \"tok=\" }]",
            REQUIRED,
        )
        .send(get("/").field("x-jwt", &format!("a=1 tok={token}")))
        .send(bearer(token))
        .shows(["< 200", "< 401"])
        .lacks(["> x-jwt*"]),
        with(
            "from_params replaces the default places",
            "from_params: [t]",
            REQUIRED,
        )
        .send(get(&format!("/?t={token}")))
        .send(bearer(token))
        .shows(["< 200", "< 401"]),
        with(
            "from_cookies leaves the cookie in the request",
            "from_cookies: [t]",
            REQUIRED,
        )
        .send(get("/").field("cookie", &format!("a=b; t={token}")))
        .shows(["< 200", "> cookie*"]),
        with("forward keeps the token", "forward: true", REQUIRED)
            .send(bearer(token))
            .shows(["< 200", "> authorization*"]),
        with("another scheme is no token", "", REQUIRED)
            .send(get("/").field("authorization", "Basic abc"))
            .shows(["< 401", "< body Jwt is missing"]),
    ]
}

fn providers() -> Vec<Case> {
    vec![
        with(
            "subjects restricts who it is",
            "subjects: { exact: bob }",
            REQUIRED,
        )
        .send(bearer(tokens::BOB))
        .send(bearer(tokens::RS256))
        .shows(["< 200", "< 401"]),
        with(
            "require_expiration refuses tokens that live for ever",
            "require_expiration: true",
            REQUIRED,
        )
        .send(bearer(tokens::RS256))
        .send(bearer(tokens::NO_EXPIRY))
        .shows(["< 200", "< 401"]),
        with(
            "max_lifetime refuses tokens that live long",
            "max_lifetime: 3600s",
            REQUIRED,
        )
        .send(bearer(tokens::RS256))
        .shows(["< 401"]),
        with(
            "audiences compare without scheme and slash",
            "audiences: [\"http://svc.example\"]",
            REQUIRED,
        )
        .send(bearer(tokens::RS256))
        .shows(["< 200"]),
        with(
            "a cached token is verified once",
            "jwt_cache_config: { jwt_cache_size: 10 }",
            REQUIRED,
        )
        .send(bearer(tokens::RS256))
        .send(bearer(tokens::RS256))
        .send(bearer(tokens::EXPIRED))
        .stats([
            "http.@stat.jwt_authn.jwt_cache_hit",
            "http.@stat.jwt_authn.jwt_cache_miss",
        ])
        .shows([
            "< 200",
            "< 401",
            "stat http.@stat.jwt_authn.jwt_cache_hit: 1",
        ]),
        with(
            "stat_prefix stands before the stats",
            "",
            &format!("{REQUIRED}, stat_prefix: mine"),
        )
        .get("/")
        .stats(["http.@stat.jwt_authn.mine.denied"])
        .shows(["stat http.@stat.jwt_authn.mine.denied: 1"]),
    ]
}

fn requirements() -> Vec<Case> {
    let two = format!(
        "p: {{ issuer: \"https://issuer.example\", {keys} }}, q: {{ issuer: \"https://other.example\", from_headers: [{{ name: x-q }}], {keys} }}",
        keys = local()
    );
    let rule = |requires: &str| {
        format!("rules: [{{ match: {{ prefix: / }}, requires: {{ {requires} }} }}]")
    };
    let any = rule("requires_any: { requirements: [{ provider_name: p }, { provider_name: q }] }");
    let all = rule("requires_all: { requirements: [{ provider_name: p }, { provider_name: q }] }");
    let missing =
        rule("requires_any: { requirements: [{ provider_name: p }, { allow_missing: {} }] }");
    let failed = rule(
        "requires_any: { requirements: [{ provider_name: p }, { allow_missing_or_failed: {} }] }",
    );
    vec![
        with_providers("requires_any takes the second provider", &two, &any)
            .send(get("/").field("x-q", tokens::OTHER_ISSUER))
            .shows(["< 200"]),
        with_providers("requires_any tells the fault that says most", &two, &any)
            .send(bearer(tokens::EXPIRED))
            .send(get("/"))
            .send(bearer(tokens::OTHER_ISSUER))
            .shows(["< body Jwt is expired", "< body Jwt is missing", "< body Jwt issuer is not configured"]),
        with_providers("requires_all wants both", &two, &all)
            .send(bearer(tokens::RS256).field("x-q", tokens::OTHER_ISSUER))
            .send(bearer(tokens::RS256))
            .shows(["< 200", "< 401", "< body Jwt is missing"]),
        with_providers("allow_missing beside a provider refuses a bad token", &two, &missing)
            .send(get("/"))
            .send(bearer(tokens::EXPIRED))
            .shows(["< 200", "< 401"]),
        with_providers("allow_missing_or_failed beside a provider refuses nothing", &two, &failed)
            .send(bearer(tokens::EXPIRED))
            .shows(["< 200"]),
        with_providers("allow_missing alone finds the provider by issuer", &two, &rule("allow_missing: {}"))
            .send(get("/"))
            .send(bearer(tokens::RS256))
            .send(bearer(tokens::FORGED))
            .shows(["< 200", "< 401", "< body Jwt verification fails"]),
        with_providers("allow_missing_or_failed alone takes the good token out", &two, &rule("allow_missing_or_failed: {}"))
            .send(bearer(tokens::FORGED))
            .send(bearer(tokens::RS256))
            .shows(["< 200", "> authorization*"]),
        with_providers("provider_and_audiences has audiences of its own", &two,
            &rule("provider_and_audiences: { provider_name: p, audiences: [other] }"))
            .send(bearer(tokens::RS256))
            .shows(["< 403"]),
        with_providers("a path without rule needs nothing", &two,
            "rules: [{ match: { path: /locked }, requires: { provider_name: p } }, { match: { prefix: /open } }]")
            .get("/locked")
            .get("/open")
            .get("/else")
            .shows(["< 401", "< 200"]),
        with_providers("the first rule that matches counts", &two,
            "rules: [{ match: { prefix: /a, headers: [{ name: x-free, present_match: true }] } }, { match: { prefix: / }, requires: { provider_name: p } }]")
            .send(get("/a").field("x-free", "1"))
            .get("/a")
            .shows(["< 200", "< 401"]),
        with_providers("a rule may name a requirement of the map", &two,
            "rules: [{ match: { prefix: / }, requirement_name: r }], requirement_map: { r: { provider_name: p } }")
            .get("/")
            .shows(["< 401"]),
        with_providers("bypass_cors_preflight lets preflights pass", &two, &format!("{}, bypass_cors_preflight: true", rule("provider_name: p")))
            .send(request("OPTIONS", "/").field("origin", "http://a").field("access-control-request-method", "GET"))
            .send(request("OPTIONS", "/"))
            .stats(["http.@stat.jwt_authn.cors_preflight_bypassed"])
            .shows(["< 200", "< 401", "stat http.@stat.jwt_authn.cors_preflight_bypassed: 1"]),
    ]
}

fn forwarding() -> Vec<Case> {
    let metadata = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%";
    vec![
        with("forward_payload_header shows the payload", "forward_payload_header: x-payload", REQUIRED)
            .send(bearer(tokens::RS256).field("x-payload", "mine"))
            .shows(["< 200", "> x-payload*"])
            .lacks(["> x-payload: mine"]),
        with("pad_forward_payload_header pads it", "forward_payload_header: x-payload, pad_forward_payload_header: true", REQUIRED)
            .send(bearer(tokens::RS256))
            .shows(["> x-payload*"]),
        with(
            "claim_to_headers copies claims of every type",
            "claim_to_headers: [{ header_name: x-sub, claim_name: sub }, { header_name: x-n, claim_name: \"n\" }, { header_name: x-f, claim_name: f }, \
             { header_name: x-b, claim_name: b }, { header_name: x-deep, claim_name: nested.key.deep }, { header_name: x-list, claim_name: nested.list }, \
             { header_name: x-none, claim_name: none }]",
            REQUIRED,
        )
        .send(bearer(tokens::RS256).field("x-sub", "forged").field("x-none", "forged"))
        .shows(["> x-sub: alice", "> x-n: 7", "> x-f: 1.500000", "> x-b: true", "> x-deep: x", "> x-list*"])
        .lacks(["> x-none*"]),
        with("headers of claims are cleared where no token is needed", "forward_payload_header: x-payload, claim_to_headers: [{ header_name: x-sub, claim_name: sub }]", "")
            .send(get("/").field("x-sub", "forged").field("x-payload", "forged"))
            .shows(["< 200"])
            .lacks(["> x-sub*"]),
        with("payload_in_metadata and header_in_metadata are seen by others", "payload_in_metadata: pay, header_in_metadata: head", REQUIRED)
            .log_format(metadata, "")
            .send(bearer(tokens::RS256))
            .shows([r#"log {"head":{"alg":"RS256","kid":"rsa","typ":"JWT"},"pay":{"aud":*"#]),
        with(
            "normalize_payload_in_metadata splits a claim",
            "payload_in_metadata: pay, normalize_payload_in_metadata: { space_delimited_claims: [scope, sub, \"n\"] }",
            REQUIRED,
        )
        .log_format("%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pay:scope)% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pay:sub)%", "")
        .send(bearer(tokens::RS256))
        .shows([r#"log ["read","write"] ["alice"]"#]),
        with("failed_status_in_metadata tells others", "failed_status_in_metadata: bad", &REQUIRED.replace("provider_name: p", "allow_missing_or_failed: {}"))
            .log_format(metadata, "")
            .send(bearer(tokens::EXPIRED))
            .send(get("/"))
            .send(bearer(tokens::FORGED))
            .send(bearer("a.b"))
            .shows([r#"log {"bad":{"code":3,"message":"Jwt is expired"}}"#]),
        with("clear_route_cache lets a claim choose the route", "clear_route_cache: true, claim_to_headers: [{ header_name: x-sub, claim_name: sub }]", REQUIRED)
            .routes("- match: { prefix: /, headers: [{ name: x-sub, string_match: { exact: alice } }] }\n  direct_response: { status: 202 }\n- match: { prefix: / }\n  route: { cluster: @backend }")
            .send(bearer(tokens::RS256))
            .shows(["< 202"]),
    ]
}

fn routes() -> Vec<Case> {
    let named = |name: &str| {
        format!(
            "typed_per_filter_config: {{ jwt: {{ \"@type\": \"@http/jwt_authn.v3.PerRouteConfig\", {name} }} }}"
        )
    };
    let map = "requirement_map: { strict: { provider_name: p }, other: { allow_missing: {} } }";
    vec![
        with("a route may name its requirement", "", map)
            .route("", &named("requirement_name: strict"))
            .get("/")
            .shows(["< 401"]),
        with("a route may disable the filter", "", &format!("{map}, {REQUIRED}"))
            .route("", &named("disabled: true"))
            .get("/")
            .shows(["< 200"]),
        with("a requirement that does not exist forbids", "", map)
            .route("", &named("requirement_name: none"))
            .get("/")
            .shows(["< 403", "< body Failed JWT authentication: Wrong requirement_name: none. It should be one of [other,strict]"]),
    ]
}

fn remote() -> Vec<Case> {
    let keys = |answer| http1(reply(answer));
    let provider = "p: { remote_jwks: { http_uri: { uri: \"http://keys.example/k?x=1\", cluster: @keys, timeout: 2s }, cache_duration: 300s } }";
    let jwks = ok(tokens::JWKS);
    let stats = [
        "http.@stat.jwt_authn.jwks_fetch_success",
        "http.@stat.jwt_authn.jwks_fetch_failed",
    ];
    vec![
        with_providers(
            "keys are fetched when the first token needs them",
            provider,
            REQUIRED,
        )
        .and_backend("keys", keys(jwks.clone()))
        .send(bearer(tokens::RS256))
        .send(bearer(tokens::ES256))
        .send(bearer(tokens::FORGED))
        .stats(stats)
        .shows([
            "< 200",
            "< 401",
            "stat http.@stat.jwt_authn.jwks_fetch_success: 1",
        ]),
        with_providers(
            "keys are not fetched for an expired token",
            provider,
            REQUIRED,
        )
        .and_backend("keys", keys(jwks))
        .send(bearer(tokens::EXPIRED))
        .stats(stats)
        .shows(["< 401", "< body Jwt is expired"])
        .lacks(["stat http.@stat.jwt_authn.jwks_fetch_success: 1"]),
        with_providers(
            "a key server that answers rubbish refuses",
            provider,
            REQUIRED,
        )
        .and_backend("keys", keys(ok("rubbish")))
        .send(bearer(tokens::RS256))
        .stats(stats)
        .shows([
            "< 401",
            "< body Jwks remote fetch is failed",
            "stat http.@stat.jwt_authn.jwks_fetch_failed: 1",
        ]),
        with_providers("a key server that answers 404 refuses", provider, REQUIRED)
            .and_backend("keys", keys(status(404, "")))
            .send(bearer(tokens::RS256))
            .shows(["< 401", "< body Jwks remote fetch is failed"]),
        with_providers("a key server that hangs refuses after its timeout", &provider.replace("timeout: 2s", "timeout: 0.3s"), REQUIRED)
            .and_backend("keys", http1(acts([pause(3000)])))
            .send(bearer(tokens::RS256))
            .stats(stats)
            .shows(["< 401", "< body Jwks remote fetch is failed"]),
        with_providers("a key server that dies refuses", provider, REQUIRED)
            .and_backend("keys", http1(acts([Act::Close])))
            .send(bearer(tokens::RS256))
            .stats(stats)
            .shows(["< 401", "stat http.@stat.jwt_authn.jwks_fetch_failed: 1"]),
        with_providers("a key server that stops in the middle refuses", provider, REQUIRED)
            .and_backend("keys", http1(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\":["), Act::Close])))
            .send(bearer(tokens::RS256))
            .shows(["< 401", "< body Jwks remote fetch is failed"]),
        with_providers("a key server that nobody runs refuses", provider, REQUIRED)
            .and_backend("keys", Kind::Refuse)
            .send(bearer(tokens::RS256))
            .shows(["< 401", "< body Jwks remote fetch is failed"]),
        with_providers("keys that are of no use refuse", provider, REQUIRED)
            .and_backend("keys", keys(ok("{\"keys\":[{\"kty\":\"none\"}]}")))
            .send(bearer(tokens::RS256))
            .shows(["< 401", "< body Jwks remote fetch is failed"]),
        with_providers("a key server is asked again", &provider.replace("timeout: 2s }", "timeout: 2s }, retry_policy: { num_retries: 2, retry_back_off: { base_interval: 0.01s } }"), REQUIRED)
            .and_backend("keys", Kind::Http1(vec![reply(status(503, "")), reply(ok(tokens::JWKS))]))
            .send(bearer(tokens::RS256))
            .stats(stats)
            .shows(["< 200"])
            .deviates("Envoy sends an empty body in chunks with what it asks again"),
        with_providers("keys are fetched before anybody asks", &provider.replace("cache_duration: 300s", "cache_duration: 300s, async_fetch: { fast_listener: true }"), REQUIRED)
            .and_backend("keys", keys(ok(tokens::JWKS)))
            .wait(300)
            .stats(stats)
            .send(bearer(tokens::EXPIRED))
            .shows(["< 401", "stat http.@stat.jwt_authn.jwks_fetch_success: 1"]),
        with_providers(
            "a cluster of keys that does not exist refuses",
            &provider.replace("@keys", "nowhere"),
            REQUIRED,
        )
        .send(bearer(tokens::RS256))
        .shows(["< 401", "< body Jwks remote fetch is failed"]),
    ]
}

/// Whatever token comes: the request goes on, and what is known of a bad one is told.
fn extract_only() -> Vec<Case> {
    let rule = |fields: &str| {
        format!(
            "rules: [{{ match: {{ prefix: / }}, requires: {{ extract_only_without_validation: {{ {fields} }} }} }}]"
        )
    };
    let provider = "issuer: \"https://issuer.example\", claim_to_headers: [{ header_name: x-sub, claim_name: sub }], failed_status_in_metadata: bad";
    let plain = rule("");
    vec![
        with("extract_only tells a good token by its claims", provider, &plain)
            .send(bearer(tokens::RS256))
            .both()
            .shows(["< 200", "> x-sub: alice"])
            .lacks(["> x-jwt-signature-verified*"]),
        with("extract_only marks a forged token", provider, &plain)
            .log_format("%DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%", "")
            .send(bearer(tokens::FORGED))
            .shows(["< 200", "> x-jwt-signature-verified: false", "log {\"bad\":{\"code\":26,*"])
            .lacks(["> x-sub*"]),
        with("extract_only marks an expired token", provider, &plain)
            .send(bearer(tokens::EXPIRED))
            .shows(["< 200", "> x-jwt-signature-verified: false", "> authorization*"]),
        with("extract_only marks an unsigned token", provider, &plain)
            .send(bearer(tokens::NONE))
            .send(bearer("a.b"))
            .shows(["< 200", "> x-jwt-signature-verified: false"]),
        with("extract_only marks a token of nobody known", provider, &plain)
            .send(bearer(tokens::OTHER_ISSUER))
            .shows(["< 200", "> x-jwt-signature-verified: false"]),
        with("extract_only lets a request without token alone", provider, &plain)
            .send(get("/").field("x-sub", "forged").field("x-jwt-signature-verified", "true"))
            .shows(["< 200", "> x-jwt-signature-verified: true"])
            .lacks(["> x-sub*"]),
        with("extract_only has a header of its own", provider, &rule("verification_status_header: x-mine"))
            .send(bearer(tokens::FORGED).field("x-mine", "true"))
            .shows(["> x-mine: false"])
            .lacks(["> x-mine: true"]),
        with("extract_only may be what a route asks for", provider, "requirement_map: { any: { extract_only_without_validation: {} } }")
            .route("", "typed_per_filter_config: { jwt: { \"@type\": \"@http/jwt_authn.v3.PerRouteConfig\", requirement_name: any } }")
            .send(bearer(tokens::FORGED))
            .shows(["< 200", "> x-jwt-signature-verified: false"]),
        with("extract_only is one of several requirements", provider,
            "rules: [{ match: { prefix: / }, requires: { requires_all: { requirements: [{ extract_only_without_validation: {} }, { provider_name: p }] } } }]")
            .send(bearer(tokens::FORGED))
            .get("/")
            .shows(["< 401", "< body Jwt verification fails"]),
    ]
}

/// What somebody sends who wants to do harm.
fn hostile() -> Vec<Case> {
    let issuer = "issuer: \"https://issuer.example\"";
    let base64 = |text: &str| {
        let text = base64(text.as_bytes()).replace('+', "-").replace('/', "_");
        text.trim_end_matches('=').to_owned()
    };
    let token =
        |header: &str, payload: &str| format!("{}.{}.c2ln", base64(header), base64(payload));
    let refused = |title, token: &str| {
        with(title, issuer, REQUIRED)
            .hcm("max_request_headers_kb: 8192")
            .send(bearer(token))
            .shows(["< 401", "stat http.@stat.jwt_authn.denied: 1"])
            .lacks(["> *"])
    };
    let claims: Vec<_> = (0..50_000).map(|n| format!("\"c{n}\":{n}")).collect();
    let deep = format!(
        "{{\"iss\":\"https://issuer.example\",\"a\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let rs = "{\"alg\":\"RS256\",\"kid\":\"rsa\"}";
    vec![
        refused(
            "a token of fifty thousand claims is refused by its signature",
            &token(
                rs,
                &format!(
                    "{{\"iss\":\"https://issuer.example\",{}}}",
                    claims.join(",")
                ),
            ),
        ),
        refused(
            "a token that nests five thousand times is refused",
            &token(rs, &deep),
        ),
        refused(
            "a token with a key of its own is refused",
            &token(
                "{\"alg\":\"RS256\",\"jwk\":{\"kty\":\"oct\",\"k\":\"YQ\"}}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused(
            "a token whose algorithm is another one in small letters is refused",
            &token("{\"alg\":\"NoNe\"}", "{\"iss\":\"https://issuer.example\"}"),
        ),
        refused(
            "a token whose expiry is no number is refused",
            &token(rs, "{\"iss\":\"https://issuer.example\",\"exp\":\"never\"}"),
        ),
        refused(
            "a token whose expiry lies before all time is refused",
            &token(rs, "{\"iss\":\"https://issuer.example\",\"exp\":-1}"),
        ),
        refused(
            "a token whose algorithm is no string is refused",
            &token(
                "{\"alg\":[\"RS256\"]}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused(
            "a token whose payload is a list is refused",
            &token(rs, "[1]"),
        ),
        refused(
            "a token with a name twice is refused",
            &token(
                "{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"rsa\"}",
                "{\"iss\":\"https://issuer.example\"}",
            ),
        ),
        refused("a token of dots is refused", "..........."),
        refused(
            "a token signed for another algorithm is refused",
            &tokens::RS256.replacen(
                &base64("{\"alg\":\"RS256\""),
                &base64("{\"alg\":\"PS256\""),
                1,
            ),
        ),
        with(
            "a good token of as many claims as heads have room for is taken",
            issuer,
            REQUIRED,
        )
        .hcm("max_request_headers_kb: 8192")
        .send(bearer(&many_claims(780_000)))
        .shows(["< 200"]),
        with(
            "a token of a million claims is a head that is too large",
            issuer,
            REQUIRED,
        )
        .hcm("max_request_headers_kb: 8192")
        .raw(&format!(
            "GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n",
            many_claims(1_000_000)
        ))
        .on(1)
        .send(bearer(&many_claims(1)))
        .ends_somehow()
        .shows(["< 431", "< 200", "log details=http1.headers_too_large"]),
    ]
}

/// A good token with so many claims, each with the shortest name that is left.
fn many_claims(count: usize) -> String {
    let letters: Vec<_> = (b'!'..=b'~').filter(|c| !b"\"\\".contains(c)).collect();
    let name = |mut number: usize| {
        let mut name = String::new();
        loop {
            name.push(char::from(letters[number % letters.len()]));
            number /= letters.len();
            if number == 0 {
                return name;
            }
        }
    };
    let mut payload = String::from("{\"iss\":\"https://issuer.example\"");
    let registered = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
    let names = (0..count).map(name);
    for name in names.filter(|name| !registered.contains(&name.as_str())) {
        payload.push_str(&format!(",\"{name}\":1"));
    }
    payload.push('}');
    let url = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = url(b"{\"alg\":\"HS256\",\"kid\":\"oct\"}");
    let signed = format!("{header}.{}", url(payload.as_bytes()));
    let secret = b"a-secret-of-thirty-two-bytes-at-least-and-so-on-until-sixty-four";
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", url(signature.as_ref()))
}
