//! The access log of upstream attempts: `upstream_log` of the router.

use crate::case::{
    Act, Case, Kind, Step, With, acts, case, late, ok, pause, reply, request, send, status,
    with_fields,
};

pub fn cases() -> Vec<Case> {
    let logged = |title| {
        case(title)
            .access_log("[]")
            .router(&format!("upstream_log:\n{LOG}"))
    };
    let retried = |title| {
        logged(title).route(
            "retry_policy: { retry_on: 5xx, num_retries: 2, per_try_timeout: 0.4s }",
            "",
        )
    };
    vec![
        logged("an upstream attempt is logged with what it met")
            .reply(reply(with_fields(ok("hello"), "x-answer: a")))
            .send(request("POST", "/x").field("x-asked", "q").body("payload"))
            .both()
            .logs(1)
            .shows(["log 200*"]),
        retried("each attempt is logged with its own outcome")
            .replies([reply(status(503, "")), late(3000, "late"), reply(ok("third"))])
            .get("/")
            .logs(3)
            .shows(["log 503*", "log 0 UT*", "log 200*"]),
        logged("an attempt that was refused is logged")
            .backend(Kind::Refuse)
            .get("/")
            .logs(1)
            .shows(["log 0 UF*"]),
        logged("an attempt that breaks off is logged")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(50), Act::Close]))
            .get("/")
            .logs(1)
            .shows(["log 200 UPE*"]),
        logged("the timeout of the route is the end of an attempt")
            .route("timeout: 0.3s", "")
            .reply(late(2000, "late"))
            .get("/")
            .logs(1)
            .shows(["log 0*"]),
        logged("an attempt is logged when it has found a connection, if that is asked for")
            .router("upstream_log_options: { flush_upstream_log_on_upstream_stream: true }")
            .reply(late(300, "hello"))
            .get("/")
            .logs(2)
            .shows(["log 0 - *", "log 200 - *"]),
        logged("an attempt is logged while it runs, if that is asked for")
            .router("upstream_log_options: { upstream_log_flush_interval: 0.3s }")
            .reply(late(750, "hello"))
            .get("/")
            .logs(3)
            .shows(["log 0 - *", "log 200 - *"]),
        logged("hedged attempts are logged each on its own")
            .route("hedge_policy: { hedge_on_per_try_timeout: true }\nretry_policy: { retry_on: 5xx, per_try_timeout: 0.4s }", "")
            .replies([late(3000, "late"), reply(ok("second"))])
            .get("/")
            .logs(2)
            .any_order()
            .shows(["log 0*", "log 200*"]),
        logged("an attempt that was redirected here is logged")
            .route("internal_redirect_policy: {}", "")
            .replies([reply(with_fields(status(302, ""), "location: http://other.com/x")), reply(ok("there"))])
            .get("/")
            .logs(2)
            .shows(["log 302*", "log 200*"]),
        logged("a client that goes away ends the attempt")
            .reply(late(2000, "late"))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(300)
            .step(Step::Close)
            .logs(1)
            .shows(["log 0*"]),
        logged("an attempt that meets no host is not logged")
            .cluster("common_lb_config: { healthy_panic_threshold: { value: 0 } }")
            .routes("- match: { prefix: /direct }\n  direct_response: { status: 200 }\n- match: { prefix: / }\n  route: { cluster: @backend }")
            .get("/direct")
            .get("/")
            .logs(1)
            .shows(["log 200*"]),
    ]
}

const LOG: &str = "- name: envoy.access_loggers.file
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: @log
    log_format: { text_format_source: { inline_string: \"%RESPONSE_CODE% %RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% protocol=%PROTOCOL% up=%UPSTREAM_PROTOCOL% method=%REQ(:METHOD)% asked=%REQ(x-asked)% answer=%RESP(x-answer)% received=%BYTES_RECEIVED% sent=%BYTES_SENT% route=%ROUTE_NAME% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% type=%ACCESS_LOG_TYPE% remote=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% wire=%UPSTREAM_WIRE_BYTES_SENT%/%UPSTREAM_WIRE_BYTES_RECEIVED% rx=%UPSTREAM_HEADER_BYTES_RECEIVED%\\n\" } }
";
