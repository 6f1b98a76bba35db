//! `bandwidth_limit` and `admission_control`: what slows bodies down, and what refuses requests while too many fail.

use std::time::Duration;

use outrigger_xds_tests::client::Step;

use crate::case::{
    Act, Case, With, acts, case, get, indent, ok, reply, request, status, with_fields,
    with_trailers,
};

pub fn cases() -> Vec<Case> {
    [bandwidth(), delays(), admission()]
        .into_iter()
        .flatten()
        .collect()
}

fn slow(title: &'static str, fields: &str) -> Case {
    case(title).filters(&format!(
        "- name: slow\n  typed_config:\n    \"@type\": \"@http/bandwidth_limit.v3.BandwidthLimit\"\n    stat_prefix: \"@stat\"\n{}",
        indent(fields, 4)
    ))
}

fn bandwidth() -> Vec<Case> {
    let stats = [
        "@stat.http_bandwidth_limit.request_enabled",
        "@stat.http_bandwidth_limit.request_pending",
        "@stat.http_bandwidth_limit.request_incoming_total_size",
        "@stat.http_bandwidth_limit.request_allowed_total_size",
        "@stat.http_bandwidth_limit.response_enabled",
        "@stat.http_bandwidth_limit.response_pending",
        "@stat.http_bandwidth_limit.response_incoming_total_size",
        "@stat.http_bandwidth_limit.response_allowed_total_size",
    ];
    let long = "x".repeat(3000);
    vec![
        slow("bandwidth_limit lets a short response pass at once", "enable_mode: RESPONSE\nlimit_kbps: 1000")
            .reply(reply(ok(&long)))
            .get("/")
            .stats(["@stat.http_bandwidth_limit.response_enforced"])
            .stats(stats)
            .both()
            .shows(["< 200", "stat @stat.http_bandwidth_limit.response_enforced: 0", "stat @stat.http_bandwidth_limit.response_allowed_total_size: 3000"]),
        slow("bandwidth_limit holds the rest of a response back", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .reply(reply(ok(&long)))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .step(Step::AwaitClose(Duration::from_millis(900)))
            .logs(0)
            .log_format("%PROTOCOL%", "")
            .shows(["= connection 0: open, with bytes left over"]),
        slow("bandwidth_limit lets all of a response pass in time", "enable_mode: RESPONSE\nlimit_kbps: 2\nfill_interval: 0.1s")
            .reply(reply(ok(&long)))
            .get("/")
            .stats(stats)
            .shows(["< 200", "stat @stat.http_bandwidth_limit.response_pending: 0", "stat @stat.http_bandwidth_limit.response_allowed_total_size: 3000"]),
        slow("bandwidth_limit slows requests down", "enable_mode: REQUEST\nlimit_kbps: 2")
            .send(request("POST", "/").body(&long))
            .stats(stats)
            .both()
            .shows(["< 200", "stat @stat.http_bandwidth_limit.request_allowed_total_size: 3000", "stat @stat.http_bandwidth_limit.response_enabled: 0"]),
        slow("bandwidth_limit that is disabled limits nothing", "enable_mode: DISABLED\nlimit_kbps: 1")
            .reply(reply(ok(&long)))
            .send(request("POST", "/").body(&long))
            .stats(stats)
            .shows(["< 200", "stat @stat.http_bandwidth_limit.response_enabled: 0"]),
        slow(
            "bandwidth_limit may be off by the runtime",
            "enable_mode: REQUEST_AND_RESPONSE\nlimit_kbps: 1\nruntime_enabled: { default_value: true, runtime_key: slow.off }",
        )
        .runtime("slow.off", 0)
        .reply(reply(ok(&long)))
        .get("/")
        .stats(stats)
        .shows(["< 200", "stat @stat.http_bandwidth_limit.response_enabled: 0"]),
        slow("bandwidth_limit of a route has its own rate", "enable_mode: DISABLED")
            .reply(reply(ok(&long)))
            .routes("
                - match: { path: /slow }
                  route: { cluster: @backend }
                  typed_per_filter_config: { slow: { \"@type\": \"@http/bandwidth_limit.v3.BandwidthLimit\", stat_prefix: \"@stat\", enable_mode: RESPONSE, limit_kbps: 4 } }
                - match: { prefix: / }
                  route: { cluster: @backend }")
            .get("/slow")
            .get("/")
            .stats(stats)
            .shows(["< 200", "stat @stat.http_bandwidth_limit.response_enabled: 1", "stat @stat.http_bandwidth_limit.response_incoming_total_size: 3000"]),
        slow("bandwidth_limit keeps trailers behind their data", "enable_mode: RESPONSE\nlimit_kbps: 2")
            .upstream_http2()
            .reply(reply(with_trailers(ok(&long), "x-t: 1")))
            .get("/")
            .http2()
            .stats(stats)
            .shows(["< trailer x-t: 1", "stat @stat.http_bandwidth_limit.response_pending: 0"]),
    ]
}

/// What remains of trailers that say a time: that they do.
const TIMES_ASIDE: &str = "
    - name: aside
      typed_config:
        \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
        mutations:
          response_trailers_mutations:
          - append: { header: { key: p-bandwidth-request-delay-ms, value: some }, append_action: OVERWRITE_IF_EXISTS }
          - append: { header: { key: p-bandwidth-response-delay-ms, value: some }, append_action: OVERWRITE_IF_EXISTS }
          - append: { header: { key: bandwidth-response-delay-ms, value: some }, append_action: OVERWRITE_IF_EXISTS }
";

fn delays() -> Vec<Case> {
    let told = |title, fields: &str| {
        let mut case = slow(
            title,
            &format!("fill_interval: 1s\nenable_response_trailers: true\n{fields}"),
        );
        let aside = crate::case::dedent(TIMES_ASIDE);
        case.filters.insert_str(0, &aside);
        case
    };
    let prefixed =
        |title, fields: &str| told(title, &format!("response_trailer_prefix: p\n{fields}"));
    let long = "x".repeat(1500);
    vec![
        prefixed("bandwidth_limit says in trailers how long a response waited", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .reply(reply(ok(&long)))
            .get("/")
            .http2()
            .shows(["< trailer p-bandwidth-response-delay-ms: some", "< trailer p-bandwidth-response-filter-delay-ms: 1000"])
            .lacks(["< trailer p-bandwidth-request*"]),
        told("bandwidth_limit says how long a response waited without a prefix too", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .reply(reply(ok(&long)))
            .get("/")
            .http2()
            .shows(["< trailer bandwidth-response-delay-ms: some", "< trailer bandwidth-response-filter-delay-ms: 1000"]),
        prefixed("bandwidth_limit says in trailers how long a request waited", "enable_mode: REQUEST_AND_RESPONSE\nlimit_kbps: 1")
            .send(request("POST", "/").body(&long))
            .http2()
            .shows(["< trailer p-bandwidth-request-delay-ms: some", "< trailer p-bandwidth-request-filter-delay-ms: 1000"]),
        prefixed("bandwidth_limit of requests alone writes no trailers", "enable_mode: REQUEST\nlimit_kbps: 1")
            .send(request("POST", "/").body(&long))
            .http2()
            .shows(["< 200"])
            .lacks(["< trailer*"]),
        prefixed("bandwidth_limit writes no trailers where nothing took any time", "enable_mode: RESPONSE\nlimit_kbps: 1000")
            .get("/")
            .http2()
            .shows(["< 200"])
            .lacks(["< trailer*"]),
        prefixed("bandwidth_limit writes no trailers to a client of HTTP/1 that is sent none", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .upstream_http2()
            .reply(reply(ok(&long)))
            .get("/")
            .shows(["< 200"])
            .lacks(["< trailer*"]),
        prefixed("bandwidth_limit writes trailers behind the chunks of HTTP/1", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .hcm("http_protocol_options: { enable_trailers: true }")
            .upstream_http2()
            .reply(reply(ok(&long)))
            .get("/")
            .shows(["< 200", "< trailer p-bandwidth-response-filter-delay-ms: 1000"]),
        prefixed("bandwidth_limit writes no trailers where HTTP/1 says a length", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .hcm("http_protocol_options: { enable_trailers: true }")
            .reply(reply(ok(&long)))
            .get("/")
            .shows(["< 200", "< content-length: 1500"])
            .lacks(["< trailer*"]),
        prefixed("bandwidth_limit writes its trailers beside those of the upstream", "enable_mode: RESPONSE\nlimit_kbps: 1")
            .upstream_http2()
            .reply(reply(with_trailers(ok(&long), "x-t: 1\np-bandwidth-response-filter-delay-ms: 5")))
            .get("/")
            .http2()
            .shows(["< trailer x-t: 1", "< trailer p-bandwidth-response-filter-delay-ms: 1000"])
            .lacks(["< trailer p-bandwidth-response-filter-delay-ms: 5"]),
        prefixed("bandwidth_limit of a route decides on its trailers", "enable_mode: DISABLED")
            .reply(reply(ok(&long)))
            .routes("
                - match: { prefix: / }
                  route: { cluster: @backend }
                  typed_per_filter_config: { slow: { \"@type\": \"@http/bandwidth_limit.v3.BandwidthLimit\", stat_prefix: \"@stat\", enable_mode: RESPONSE, limit_kbps: 1, fill_interval: 1s, enable_response_trailers: true, response_trailer_prefix: p } }")
            .get("/")
            .http2()
            .shows(["< trailer p-bandwidth-response-filter-delay-ms: 1000"]),
    ]
}

fn admission() -> Vec<Case> {
    let guarded = |title, fields: &str| {
        case(title)
            .filters(&format!(
                "- name: admission\n  typed_config:\n    \"@type\": \"@http/admission_control.v3.AdmissionControl\"\n{}",
                indent(fields, 4)
            ))
            .stats([
                "http.@stat.admission_control.rq_rejected",
                "http.@stat.admission_control.rq_success",
                "http.@stat.admission_control.rq_failure",
            ])
    };
    // What is refused is not left to chance: everything, after a failure.
    let strict = "max_rejection_probability: { default_value: { value: 100 } }\naggression: { default_value: 1000 }";
    let plain = "success_criteria: {}";
    let bad = || reply(status(503, "no"));
    let grpc = |status: &str| {
        reply(with_fields(
            ok(""),
            &format!("content-type: application/grpc\ngrpc-status: {status}"),
        ))
    };
    vec![
        guarded("admission_control lets pass what succeeds", plain)
            .get("/")
            .get("/")
            .shows(["< 200", "< 200", "stat http.@stat.admission_control.rq_success: 2"]),
        guarded("admission_control refuses after failures", &format!("{plain}\n{strict}"))
            .reply(bad())
            .get("/")
            .get("/")
            .both()
            .shows(["< 503", "log details=denied_by_admission_control", "stat http.@stat.admission_control.rq_rejected: 1"]),
        guarded(
            "admission_control forgets failures after its window",
            &format!("{plain}\n{strict}\nsampling_window: 1s"),
        )
        .replies([bad(), reply(ok("hello"))])
        .get("/")
        .get("/")
        .wait(1600)
        .get("/")
        .shows(["< 503", "< 503", "< 200"]),
        guarded(
            "admission_control refuses nothing below its rate",
            &format!("{plain}\n{strict}\nrps_threshold: {{ default_value: 100 }}"),
        )
        .reply(bad())
        .get("/")
        .get("/")
        .shows(["stat http.@stat.admission_control.rq_rejected: 0", "stat http.@stat.admission_control.rq_failure: 2"]),
        guarded(
            "admission_control takes the statuses of its configuration for good",
            "success_criteria: { http_criteria: { http_success_status: [{ start: 500, end: 600 }] } }",
        )
        .replies([bad(), reply(ok("hello"))])
        .get("/")
        .get("/")
        .shows(["stat http.@stat.admission_control.rq_success: 1", "stat http.@stat.admission_control.rq_failure: 1"]),
        guarded(
            "admission_control looks at the status of gRPC",
            &format!("{plain}\nrps_threshold: {{ default_value: 100 }}"),
        )
        .upstream_http2()
        .replies([grpc("5"), grpc("14"), grpc("10"), grpc("4")])
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .http2()
        .shows(["stat http.@stat.admission_control.rq_success: 1"]),
        guarded(
            "admission_control looks at the status of gRPC in trailers",
            "success_criteria: { grpc_criteria: { grpc_success_status: [9] } }\nrps_threshold: { default_value: 100 }",
        )
        .upstream_http2()
        .replies(["9", "0"].map(|status| {
            reply(with_trailers(
                with_fields(ok("x"), "content-type: application/grpc"),
                &format!("grpc-status: {status}"),
            ))
        }))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .http2()
        .shows(["stat http.@stat.admission_control.rq_success: 1", "stat http.@stat.admission_control.rq_failure: 1"]),
        guarded("admission_control may be off", &format!("{plain}\n{strict}\nenabled: {{ default_value: false, runtime_key: k }}"))
            .reply(bad())
            .get("/")
            .get("/")
            .shows(["stat http.@stat.admission_control.rq_failure: 0"]),
        guarded("admission_control counts the replies of the proxy", plain)
            .routes("- match: { prefix: / }\n  direct_response: { status: 500 }")
            .get("/")
            .shows(["< 500", "stat http.@stat.admission_control.rq_failure: 1"]),
        guarded("admission_control counts resets as failures", plain)
            .reply(acts([Act::Reset]))
            .get("/")
            .shows(["< 503", "stat http.@stat.admission_control.rq_failure: 1"]),
        guarded("a client that goes away does not count for admission_control", &format!("{plain}\n{strict}"))
            .replies([crate::case::late(3000, "late"), reply(ok("hello"))])
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(800)
            .step(Step::Close)
            .wait(300)
            .on(1)
            .get("/")
            .logs(2)
            .shows(["log flags=DC"]),
        guarded("health checks do not count for admission_control", plain)
            .filters("
                - name: health
                  typed_config: { \"@type\": \"@http/health_check.v3.HealthCheck\", pass_through_mode: true, headers: [{ name: \":path\", string_match: { exact: /healthz } }] }")
            .filters("
                - name: admission2
                  typed_config: { \"@type\": \"@http/admission_control.v3.AdmissionControl\", success_criteria: {} }")
            .send(get("/healthz"))
            .shows(["< 200"]),
    ]
}
