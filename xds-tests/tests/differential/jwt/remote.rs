//! Keys that are fetched.

use super::{REQUIRED, bearer, with_providers};
use crate::case::{Act, Case, Kind, acts, http1, ok, pause, reply, send, status};
use crate::tokens;

pub(super) fn remote() -> Vec<Case> {
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
