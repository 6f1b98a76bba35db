//! Checks of a Redis, which is bytes here.

use super::{FLAGS, checked_at, failed, healthy};
use crate::case::{Act, Case, Kind, pause, send};

const TIMES: &str = "timeout: 0.5s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1";
const TYPE: &str = "type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis";

/// `*1 $4 PING`.
const PING: usize = 14;
/// `*2 $6 EXISTS $4 down`: Envoy asks for the first key of the process whatever is configured, so all cases have the same.
const EXISTS: usize = 26;
const KEY: &str = "key: down";

fn custom(fields: &str) -> String {
    format!("custom_health_check: {{ name: r, typed_config: {{ \"@type\": {TYPE}, {fields} }} }}")
}

fn redis(title: &'static str, fields: &str, acts: Vec<Act>) -> Case {
    counted(checked_at(title, TIMES, &custom(fields)).backend(Kind::Tcp(vec![acts])))
}

/// It counts like ordinary traffic.
fn counted(mut case: Case) -> Case {
    for stat in [
        "upstream_cx_active",
        "upstream_cx_connect_fail",
        "upstream_cx_connect_timeout",
        "upstream_cx_destroy",
        "upstream_cx_destroy_local",
        "upstream_cx_destroy_local_with_active_rq",
        "upstream_cx_destroy_remote",
        "upstream_cx_destroy_remote_with_active_rq",
        "upstream_cx_destroy_with_active_rq",
        "upstream_cx_protocol_error",
        "upstream_cx_total",
        "upstream_rq_active",
        "upstream_rq_cancelled",
        "upstream_rq_timeout",
        "upstream_rq_total",
    ] {
        case.stats.push(format!("cluster.@backend.{stat}"));
    }
    case.page("/clusters", "@backend::127.0.0.1:@port:backend::cx_")
        .page("/clusters", "@backend::127.0.0.1:@port:backend::rq_")
        .page("/stats", "cluster.@backend.upstream_commands.")
}

/// A Redis that says this to a question of so many bytes, and stays.
fn says(length: usize, answer: &str) -> Vec<Act> {
    vec![Act::Read(length), send(answer), pause(20_000)]
}

pub fn cases() -> Vec<Case> {
    vec![
        healthy(redis(
            "a Redis that answers a PING is healthy, and its cluster has had traffic",
            "",
            says(PING, "+PONG\r\n"),
        ))
        .shows([
            "stat cluster.@backend.upstream_cx_total: 1",
            "stat cluster.@backend.upstream_cx_active: 1",
            "stat cluster.@backend.upstream_rq_total: 1",
        ]),
        failed(
            redis(
                "a Redis that answers a PING otherwise is not healthy",
                "",
                says(PING, "-LOADING Redis is loading the dataset in memory\r\n"),
            ),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 0"]),
        healthy(redis(
            "a Redis without the key is healthy",
            KEY,
            says(EXISTS, ":0\r\n"),
        )),
        failed(
            redis(
                "a Redis with the key is not healthy",
                KEY,
                says(EXISTS, ":1\r\n"),
            ),
            "/failed_active_hc",
        ),
        redis(
            "each check of a Redis has its own key",
            "key: othr",
            says(EXISTS, ":0\r\n"),
        )
        .shows(["> body *down*"])
        .deviates("Envoy asks for the first key that the process asked for"),
        healthy(redis(
            "a Redis that says who has the key is healthy",
            KEY,
            says(EXISTS, "-MOVED 3999 127.0.0.1:6381\r\n"),
        )),
        failed(
            redis(
                "a Redis whose cluster is down is not healthy, like one that cannot be reached",
                KEY,
                says(EXISTS, "-CLUSTERDOWN Hash slot not served\r\n"),
            ),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 1"]),
        failed(
            redis(
                "a Redis that answers with an array is not healthy",
                "",
                says(PING, "*2\r\n$4\r\nPONG\r\n:0\r\n"),
            ),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 0"]),
        failed(
            redis(
                "a host that is no Redis is not healthy",
                "",
                says(PING, "HTTP/1.1 400 Bad Request\r\n\r\n"),
            ),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 0"]),
        failed(
            redis(
                "a Redis whose answer cannot be read is not healthy, like one that cannot be reached",
                "",
                says(PING, ":one\r\n"),
            ),
            "/failed_active_hc",
        )
        .shows([
            "stat cluster.@backend.upstream_cx_protocol_error: 1",
            "stat cluster.@backend.health_check.network_failure: 1",
        ]),
        failed(
            redis(
                "a Redis that does not answer in time is not healthy",
                "",
                vec![Act::Read(PING), pause(20_000)],
            ),
            "/failed_active_hc/active_hc_timeout",
        )
        .shows(["stat cluster.@backend.upstream_rq_cancelled: 1"]),
        failed(
            redis(
                "a Redis that closes instead of answering is not healthy",
                "",
                vec![Act::Read(PING), Act::Close],
            ),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.upstream_cx_destroy_remote_with_active_rq: 1"]),
        failed(
            redis("a Redis that refuses connections is not healthy", "", vec![])
                .backend(Kind::Refuse),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.upstream_cx_connect_fail: 1"]),
        healthy(counted(
            checked_at(
                "a connection to a Redis is used once if it says so",
                &format!("{TIMES}, reuse_connection: false"),
                &custom(""),
            )
            .backend(Kind::Tcp(vec![says(PING, "+PONG\r\n")])),
        ))
        .shows(["stat cluster.@backend.upstream_cx_destroy_local: 1"]),
        healthy(counted(
            checked_at(
                "a connection to a Redis is used again, after interval since there is traffic",
                "timeout: 20s, interval: 0.2s, no_traffic_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
                &custom(""),
            )
            .backend(Kind::Tcp(vec![vec![
                Act::Read(PING),
                send("+PONG\r\n"),
                Act::Read(PING),
                pause(20_000),
            ]])),
        ))
        .wait(1_000)
        .shows([
            "stat cluster.@backend.health_check.attempt: 2",
            "stat cluster.@backend.upstream_cx_total: 1",
            "stat cluster.@backend.upstream_rq_active: 1",
        ]),
        checked_at(
            "a Redis is asked where its traffic goes, whatever its endpoint says of checks",
            TIMES,
            &custom(""),
        )
        .clusters(&format!(
            "- name: custom_@stat\n  connect_timeout: 1s\n  health_checks: [{{ {TIMES}, {} }}]\n  load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:other }} }}, health_check_config: {{ port_value: @port:backend }} }} }}] }}] }}\n",
            custom("")
        ))
        .backend(Kind::Refuse)
        .and_backend("other", Kind::Tcp(vec![says(PING, "+PONG\r\n")]))
        .page("/clusters", "custom_@stat::127.0.0.1:@port:other::health_flags")
        .shows([
            "page custom_@stat::127.0.0.1:@port:other::health_flags::healthy",
            &format!("page {FLAGS}::/failed_active_hc"),
        ]),
    ]
}
