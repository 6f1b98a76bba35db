//! What goes on of a token that holds, or that is only read.

use super::{REQUIRED, bearer, with};
use crate::case::{Case, With, get};
use crate::tokens;

pub(super) fn forwarding() -> Vec<Case> {
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
        with("a claim that would end a line is not sent on", "claim_to_headers: [{ header_name: x-sub, claim_name: sub }]", REQUIRED)
            .log_format("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "")
            .send(bearer(tokens::LINES))
            .both()
            .shows(["< 503", "< body invalid header value for: x-sub", "log 503 DPE filter_removed_required_request_headers{invalid_header_value_for:_x-sub}"])
            .lacks(["> connection*", "> x-injected*"]),
        with("a claim that would end a line is no header of a route", "payload_in_metadata: pay", REQUIRED)
            .route("", "request_headers_to_add: [{ header: { key: x-sub, value: \"%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pay:sub)%\" } }]")
            .log_format("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "")
            .send(bearer(tokens::LINES))
            .lacks(["> x-injected*"]),
        with("a claim that would end a line is no header of an upstream filter", "payload_in_metadata: pay", REQUIRED)
            .router("upstream_http_filters:\n- { name: m, typed_config: { \"@type\": \"@http/header_mutation.v3.HeaderMutation\", mutations: { request_mutations: [{ append: { header: { key: x-sub, value: \"%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:pay:sub)%\" } } }] } } }\n- { name: c, typed_config: { \"@type\": \"@http/upstream_codec.v3.UpstreamCodec\" } }")
            .log_format("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "")
            .send(bearer(tokens::LINES))
            .lacks(["> x-injected*"]),
        with("a claim may be the host", "claim_to_headers: [{ header_name: host, claim_name: sub }]", REQUIRED)
            .send(bearer(tokens::RS256))
            .shows(["< 200", "> host: alice"])
            .lacks(["> host: example.com"]),
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

/// Whatever token comes: the request goes on, and what is known of a bad one is told.
pub(super) fn extract_only() -> Vec<Case> {
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
