//! Which token a request needs, and where it stands.

use super::{REQUIRED, bearer, local, with, with_providers};
use crate::case::{Case, With, get, request};
use crate::tokens;

pub(super) fn places() -> Vec<Case> {
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

pub(super) fn providers() -> Vec<Case> {
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

pub(super) fn requirements() -> Vec<Case> {
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

pub(super) fn routes() -> Vec<Case> {
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
