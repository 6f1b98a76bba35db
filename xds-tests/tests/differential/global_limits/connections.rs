//! Rate limits of connections.

use outrigger_proto::rate_limit::RateLimitResponse;
use outrigger_xds_tests::client::Step;

use super::{ASKS, SERVICE, grpc, ok, over};
use crate::bootstrap::connection_manager;
use crate::case::{Act, Case, Kind, Script, With, acts, case, indent, pause, request};

/// The filter of connections.
pub(super) fn connections() -> Vec<Case> {
    let network = |title, fields: &str, scripts: Vec<Script>| {
        let plain = case(title);
        let manager = connection_manager(&plain);
        let timeout = match fields.contains("timeout:") {
            true => "",
            false => "timeout: 5s\n",
        };
        plain
            .and_backend("limiter", Kind::Http2(scripts))
            .clusters(SERVICE)
            .network(&format!(
                "- name: global\n  typed_config:\n    \"@type\": \"@net/ratelimit.v3.RateLimit\"\n    stat_prefix: \"@stat\"\n    domain: tcp\n    {ASKS}\n{}{manager}",
                indent(&format!("{timeout}{fields}"), 4)
            ))
            .stats([
                "ratelimit.@stat.total",
                "ratelimit.@stat.active",
                "ratelimit.@stat.ok",
                "ratelimit.@stat.over_limit",
                "ratelimit.@stat.error",
                "ratelimit.@stat.cx_closed",
                "ratelimit.@stat.failure_mode_allowed",
            ])
    };
    let one = "descriptors: [{ entries: [{ key: a, value: b }] }]";
    vec![
        network("a connection that the service allows is served", one, vec![ok()])
            .get("/")
            .get("/")
            .shows(["< 200", "< 200", "stat ratelimit.@stat.total: 1", "stat ratelimit.@stat.ok: 1"]),
        network("a connection that the service refuses is closed", one, vec![over()])
            .step(Step::ReadToEnd)
            .logs(0)
            .shows(["= connection 0: closed", "stat ratelimit.@stat.cx_closed: 1"]),
        network(
            "values of descriptors may tell of the connection",
            "descriptors: [{ entries: [{ key: from, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" }, { key: b, value: c }] }, { entries: [{ key: d, value: e }], hits_addend: 3 }]",
            vec![ok()],
        )
        .get("/")
        .shows(["< 200"]),
        network("a connection passes when the service fails", one, vec![acts([Act::Reset])])
            .get("/")
            .shows(["< 200", "stat ratelimit.@stat.failure_mode_allowed: 1"]),
        network(
            "a connection is closed when the service fails, where it is told",
            &format!("{one}\nfailure_mode_deny: true"),
            vec![acts([Act::Reset])],
        )
        .step(Step::ReadToEnd)
        .logs(0)
        .shows(["= connection 0: closed", "stat ratelimit.@stat.error: 1"]),
        network(
            "a service that hangs holds a connection for its timeout",
            &format!("{one}\ntimeout: 0.1s\nfailure_mode_deny: true"),
            vec![acts([pause(5000)])],
        )
        .step(Step::ReadToEnd)
        .logs(0)
        .shows(["= connection 0: closed"]),
        network(
            "what is sent meanwhile waits",
            one,
            vec![acts([pause(300), grpc(&RateLimitResponse::default())])],
        )
        .send(request("POST", "/").body("early"))
        .shows(["< 200", "> body early"]),
    ]
}
