//! Attempts that take too long and go on beside their retries.

use crate::case::{
    Act, Case, Script, With, acts, case, get, late, ok, pause, reply, request, status, with_fields,
};

pub fn cases() -> Vec<Case> {
    vec![
        hedged("the next attempt answers for a slow one")
            .replies([late(4000, "first"), reply(ok("second"))])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2", "log flags=-"]),
        hedged("a slow attempt may answer before the next one")
            .replies([late(900, "first"), late(4000, "second")])
            .get("/")
            .both()
            .shows(["< body first", "log attempts=2", "log flags=URX"]),
        hedged("a bad answer of a slow attempt is passed over for a good one")
            .replies([bad(700), late(1000, "second")])
            .get("/")
            .shows(["< 200", "< body second", "log attempts=2"]),
        hedged("a bad answer of the last attempt waits for the slow one")
            .replies([late(1200, "first"), bad(300)])
            .get("/")
            .shows(["< 200", "< body first", "log attempts=2", "log flags=URX"]),
        hedged("a slow attempt that breaks off is passed over")
            .replies([acts([pause(700), Act::Close]), late(1000, "second")])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        hedged("when all answers are bad the last one counts")
            .replies([bad(700), bad(1000)])
            .get("/")
            .shows(["< 503", "log attempts=2"]),
        hedged("the timeout of the route ends all attempts")
            .route("timeout: 1.2s\nhedge_policy: { hedge_on_per_try_timeout: true }\nretry_policy: { retry_on: 5xx, per_try_timeout: 0.4s, num_retries: 1 }", "")
            .router("suppress_envoy_headers: true")
            .reply(late(4000, "late"))
            .get("/")
            .stats(["cluster.@backend.upstream_rq_timeout", "cluster.@backend.upstream_rq_504", "cluster.@backend.upstream_rq_per_try_timeout"])
            .shows(["< 504", "log flags=URX,UT", "log attempts=2", "stat cluster.@backend.upstream_rq_timeout: 2", "stat cluster.@backend.upstream_rq_504: 2"]),
        hedged("a hedged request tells the upstream the time of the whole")
            .get("/")
            .shows(["> x-envoy-expected-rq-timeout-ms: 15000"]),
        hedged("a hedged retry is told that the last attempt took too long")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  include_is_timeout_retry_header: true
                  include_request_attempt_count: true
                  hedge_policy: { hedge_on_per_try_timeout: true }
                  retry_policy: { retry_on: 5xx, per_try_timeout: 0.4s }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]")
            .replies([late(4000, "first"), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "> x-envoy-is-timeout-retry: true", "> x-envoy-attempt-count: 2"]),
        hedged("a bad answer within the time of a try is tried again as ever")
            .replies([bad(0), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        hedged("hedging without retries left goes on with the one attempt")
            .route("hedge_policy: { hedge_on_per_try_timeout: true }\nretry_policy: { retry_on: 5xx, num_retries: 0, per_try_timeout: 0.3s }", "")
            .reply(late(900, "first"))
            .get("/")
            .shows(["< body first", "log attempts=1", "log flags=URX"]),
        hedged("hedging needs a reason to retry")
            .route("hedge_policy: { hedge_on_per_try_timeout: true }\nretry_policy: { per_try_timeout: 0.3s }", "")
            .reply(late(900, "first"))
            .get("/")
            .shows(["< body first", "log attempts=1", "log flags=-"]),
        hedged("hedged requests send their bodies with each attempt")
            .replies([late(4000, "first"), reply(ok("second"))])
            .send(request("POST", "/").body("payload"))
            .both()
            .shows(["< body second", "> body payload", "> body payload"]),
        hedged("an HTTP/2 upstream sees the slow attempt reset")
            .upstream_http2()
            .replies([late(4000, "first"), reply(ok("second"))])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_tx_reset"])
            .shows(["< body second", "stat cluster.@backend.upstream_rq_tx_reset: 1"]),
        case("x-envoy-hedge-on-per-try-timeout asks for hedging")
            .internal()
            .route("retry_policy: { retry_on: 5xx, per_try_timeout: 0.4s }", "")
            .replies([late(900, "first"), late(4000, "second")])
            .send(get("/").field("x-envoy-hedge-on-per-try-timeout", "true"))
            .shows(["< body first", "log attempts=2"])
            .lacks(["> x-envoy-hedge-on-per-try-timeout*"]),
        hedged("x-envoy-hedge-on-per-try-timeout forbids hedging")
            .internal()
            .replies([late(900, "first"), late(4000, "second")])
            .send(get("/").field("x-envoy-hedge-on-per-try-timeout", "false"))
            .shows(["< 504", "log attempts=2", "log flags=URX,UT"]),
        hedged("a rate-limited answer of the slow attempt is the answer")
            .replies([
                acts([pause(700), Act::Respond(with_fields(status(503, "limited"), "x-envoy-ratelimited: 1"))]),
                late(3000, "second"),
            ])
            .get("/")
            .shows(["< 503", "< body limited"]),
    ]
}

/// A route that hedges after 0.4 s, with one retry.
fn hedged(title: &'static str) -> Case {
    case(title).route(
        "hedge_policy: { hedge_on_per_try_timeout: true, initial_requests: 3, additional_request_chance: { numerator: 50 } }\nretry_policy: { retry_on: 5xx, per_try_timeout: 0.4s }",
        "",
    )
}

/// A 503 after this long.
fn bad(ms: u64) -> Script {
    acts([pause(ms), Act::Respond(status(503, "no"))])
}
