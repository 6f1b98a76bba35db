//! `stateful_session`: which host a session is bound to, and what happens when that host is gone.

use crate::case::{Case, Kind, With, case, get, ok, reply, status, with_fields};
use crate::names::base64;

pub fn cases() -> Vec<Case> {
    [
        by_header(),
        by_cookie(),
        by_envelope(),
        strict(),
        health(),
        routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A case whose cluster has two hosts: `@backend` answers one, `@second` answers two. Without a session, it is the first that is taken.
fn two(title: &'static str, state: &str, fields: &str) -> Case {
    two_of(
        title,
        state,
        fields,
        "",
        ["load_balancing_weight: 1000000", ""],
    )
}

fn two_of(
    title: &'static str,
    state: &str,
    fields: &str,
    cluster: &str,
    endpoints: [&str; 2],
) -> Case {
    let [first, second] = endpoints;
    let endpoint = |name: &str, more: &str| {
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: \"@port:{name}\" }} }} }}, {more} }}").replace('"', "")
    };
    case(title)
        .filters(&format!(
            "- name: session\n  typed_config: {{ \"@type\": \"@http/stateful_session.v3.StatefulSession\", {state} {fields} }}\n"
        ))
        .backend(Kind::Http1(vec![reply(ok("one"))]))
        .and_backend("second", Kind::Http1(vec![reply(ok("two"))]))
        .clusters(&format!(
            "- name: \"@backend_both\"\n  connect_timeout: 1s\n  {cluster}\n  load_assignment: {{ cluster_name: both, policy: {{ overprovisioning_factor: 200 }}, endpoints: [ {{ lb_endpoints: [ {}, {} ] }} ] }}\n",
            endpoint("backend", first),
            endpoint("second", second),
        ))
        .routes("- match: { prefix: / }\n  route: { cluster: \"@backend_both\" }")
}

const HEADER: &str = "session_state: { name: envoy.http.stateful_session.header, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState, name: x-host } },";
const ENVELOPE: &str = "session_state: { name: envoy.http.stateful_session.envelope, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState, header: { name: x-session } } },";

fn cookie(fields: &str) -> String {
    format!(
        "session_state: {{ name: envoy.http.stateful_session.cookie, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState, cookie: {{ name: sid, {fields} }} }} }},"
    )
}

impl Counted for Case {
    fn counted(self) -> Self {
        self.stats([
            "http.@stat.stateful_session.mine.routed",
            "http.@stat.stateful_session.mine.failed_open",
            "http.@stat.stateful_session.mine.failed_closed",
            "http.@stat.stateful_session.mine.no_session",
        ])
    }
}

trait Counted {
    /// Compares the stats of a filter whose prefix is `mine`.
    fn counted(self) -> Self;
}

fn bound() -> crate::case::Request {
    get("/").field("x-host", "@base64(second)")
}

fn by_header() -> Vec<Case> {
    let failing = |mut case: Case| {
        case.backends[1].1 = Kind::Http1(vec![reply(status(503, "no"))]);
        case
    };
    vec![
        two("a response names the host of the session", HEADER, "")
            .get("/")
            .both()
            .shows(["< x-host: @base64(*"]),
        two("a request that names a host goes there", HEADER, "")
            .send(bound())
            .send(bound())
            .send(bound())
            .both()
            .shows(["< body two", "< body two", "< body two"])
            .lacks(["< x-host*"]),
        two("a host that is not there is replaced and named anew", HEADER, "")
            .send(get("/").field("x-host", &base64(b"127.0.0.1:1")))
            .shows(["< x-host: @base64(*"]),
        two("a value that is not base64 is no host", HEADER, "")
            .send(get("/").field("x-host", "%%%"))
            .shows(["< x-host: @base64(*"]),
        two("a local reply names no host", HEADER, "")
            .routes("- match: { prefix: / }\n  direct_response: { status: 200 }")
            .send(bound())
            .shows(["< 200"])
            .lacks(["< x-host*"]),
        failing(two("a retry of a bound request goes to another host", HEADER, ""))
            .routes("- match: { prefix: / }\n  route: { cluster: \"@backend_both\", retry_policy: { retry_on: 5xx } }")
            .send(bound())
            .shows(["< body one", "< x-host: @base64(backend)"]),
        two("several values of the header", HEADER, "")
            .send(get("/").field("x-host", "@base64(second)").field("x-host", "@base64(backend)"))
            .shows(["< 200"]),
        two("a session without a state binds nothing", "", "")
            .send(bound())
            .shows(["< 200"]),
        two("the upstream sees the header of the session", HEADER, "")
            .send(bound())
            .shows(["> second connection 1: GET / HTTP/1.1", "> x-host: @base64(second)"]),
        two("stat_prefix counts what becomes of sessions", HEADER, "stat_prefix: mine")
            .send(bound())
            .get("/")
            .send(get("/").field("x-host", &base64(b"127.0.0.1:1")))
            .counted()
            .shows(["< body two", "stat http.@stat.stateful_session.mine.routed: 1", "stat http.@stat.stateful_session.mine.failed_open: 2"]),
        two("a request outside the path of a session is counted", &cookie("path: /p"), "stat_prefix: mine")
            .get("/q")
            .counted()
            .shows(["stat http.@stat.stateful_session.mine.no_session: 1"]),
        two("a local reply to a bound request is counted", HEADER, "stat_prefix: mine")
            .routes("- match: { prefix: / }\n  direct_response: { status: 200 }")
            .send(bound())
            .counted()
            .shows(["< 200"]),
        two("a session turned off by its route is not counted", HEADER, "stat_prefix: mine")
            .routes("- match: { prefix: / }\n  route: { cluster: \"@backend_both\" }\n  typed_per_filter_config: { session: { \"@type\": \"@http/stateful_session.v3.StatefulSessionPerRoute\", disabled: true } }")
            .send(bound())
            .counted()
            .shows(["< 200"]),
        two("a session of a route has its own statistics", HEADER, "stat_prefix: mine")
            .routes(&format!("- match: {{ prefix: / }}\n  route: {{ cluster: \"@backend_both\" }}\n  typed_per_filter_config: {{ session: {{ \"@type\": \"@http/stateful_session.v3.StatefulSessionPerRoute\", stateful_session: {{ {HEADER} stat_prefix: other }} }} }}"))
            .send(bound())
            .counted()
            .page("/stats?filter=stateful_session.other", "http.@stat")
            .page("/stats?filter=stateful_session.other", "stateful")
            .shows(["< 200"]),
        two("strict sessions are counted too", HEADER, "strict: true, stat_prefix: mine")
            .send(bound())
            .get("/")
            .counted()
            .shows(["< 200"]),
        two("a bound request whose host does not listen", HEADER, "strict: true, stat_prefix: mine")
            .and_backend("third", Kind::Refuse)
            .routes("- match: { prefix: / }\n  route: { cluster: \"@third\" }")
            .send(get("/").field("x-host", "@base64(third)"))
            .counted()
            .shows(["< 503"]),
        two("a bound request to a cluster that does not exist", HEADER, "strict: true, stat_prefix: mine")
            .routes("- match: { prefix: / }\n  route: { cluster_header: x-none }")
            .send(bound())
            .counted()
            .shows(["< 503"]),
    ]
}

fn by_cookie() -> Vec<Case> {
    let sent = |value: &str| get("/").field("cookie", &format!("a=b; sid=\"{value}\""));
    vec![
        two("a response sets the cookie of the session", &cookie(""), "")
            .get("/")
            .both()
            .shows(["< set-cookie: sid=\"@session(*"]),
        two("a cookie binds a request to its host", &cookie(""), "")
            .send(sent("@session(second)"))
            .send(sent("@session(second)"))
            .send(sent("@session(second)"))
            .both()
            .shows(["< body two", "< body two", "< body two"])
            .lacks(["< set-cookie*"]),
        two(
            "a cookie of a plain address binds a request too",
            &cookie(""),
            "",
        )
        .send(sent("@base64(second)"))
        .send(sent("@base64(second)"))
        .shows(["< body two", "< body two"]),
        two(
            "path and attributes of the cookie are written",
            &cookie(
                "path: /p, attributes: [ { name: SameSite, value: Strict }, { name: Secure } ]",
            ),
            "",
        )
        .get("/p")
        .get("/p/x?y")
        .get("/px")
        .shows(["< set-cookie: sid=\"@session(*"]),
        two(
            "a cookie of a path with a slash at its end",
            &cookie("path: /p/"),
            "",
        )
        .get("/p/x")
        .get("/p")
        .shows(["< set-cookie: sid=\"@session(*"]),
        two(
            "a cookie does not bind requests to another path",
            &cookie("path: /p"),
            "",
        )
        .send(get("/q").field("cookie", "sid=@session(second)"))
        .shows(["< 200"])
        .lacks(["< set-cookie*"]),
        two(
            "a cookie that has expired binds nothing",
            &cookie("ttl: 10s"),
            "",
        )
        // The address and, as field 2, the first second of 1970.
        .send(get("/").field(
            "cookie",
            &format!("sid={}", base64(b"\x0a\x0b127.0.0.1:1\x10\x01")),
        ))
        .digits_aside()
        .shows(["< 200"]),
        two("a cookie without a host", &cookie(""), "")
            .send(sent(&base64(b"")))
            .send(sent(&base64(b"\x10\x01")))
            .send(sent("&&&"))
            .shows(["< 200"]),
    ]
}

fn by_envelope() -> Vec<Case> {
    let wrapped = "< x-session: @base64(second);UV:";
    let answering = |case: Case| {
        let mut case = case;
        case.backends[1].1 = Kind::Http1(vec![reply(with_fields(ok("two"), "x-session: 123"))]);
        case.backends[0].1 = Kind::Http1(vec![reply(with_fields(ok("one"), "x-session: 123"))]);
        case
    };
    let session = |host: &str| {
        get("/").field(
            "x-session",
            &format!("@base64({host});UV:{}", base64(b"123")),
        )
    };
    vec![
        answering(two(
            "an envelope is put around the session of the upstream",
            ENVELOPE,
            "",
        ))
        .get("/")
        .both()
        .shows(["< x-session: @base64(*"]),
        answering(two(
            "an envelope is taken off before the upstream",
            ENVELOPE,
            "",
        ))
        .send(session("second"))
        .send(session("second"))
        .both()
        .shows(["< body two", "< body two", "> x-session: 123"])
        .shows([&format!("{wrapped}{}", base64(b"123"))]),
        two(
            "a response without a session gets no envelope",
            ENVELOPE,
            "",
        )
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-session*"]),
        answering(two(
            "an envelope without a value of the upstream is no envelope",
            ENVELOPE,
            "",
        ))
        .send(get("/").field("x-session", "@base64(second)"))
        .send(get("/").field("x-session", "abc;UV:"))
        .shows(["< 200"]),
    ]
}

fn strict() -> Vec<Case> {
    let gone = || get("/").field("x-host", &base64(b"127.0.0.1:1"));
    vec![
        two(
            "a strict session whose host is gone is refused",
            HEADER,
            "strict: true, stat_prefix: mine",
        )
        .send(gone())
        .both()
        .stats(["http.@stat.stateful_session.mine.failed_closed"])
        .shows(["< 503", "log flags=UH"])
        .lacks(["> *"]),
        two("a strict session goes to its host", HEADER, "strict: true")
            .send(bound())
            .shows(["< body two"]),
        two(
            "a strict filter lets requests without session pass",
            HEADER,
            "strict: true",
        )
        .get("/")
        .shows(["< x-host: @base64(*"]),
        two(
            "status_on_strict_destination_not_found is the status instead",
            HEADER,
            "strict: true, status_on_strict_destination_not_found: 410",
        )
        .send(gone())
        .shows(["< 410"])
        .lacks(["> *"]),
    ]
}

fn health() -> Vec<Case> {
    let sick = |title, status: &str, common: &str| {
        two_of(
            title,
            HEADER,
            "",
            common,
            [
                "load_balancing_weight: 1000000",
                &format!("health_status: {status}"),
            ],
        )
        .send(bound())
        .send(bound())
    };
    let allow = |list: &str| {
        format!(
            "common_lb_config: {{ override_host_status: {{ statuses: [ {list} ] }}, healthy_panic_threshold: {{ value: 0 }} }}"
        )
    };
    vec![
        sick(
            "a session does not reach a host that is unhealthy",
            "UNHEALTHY",
            "common_lb_config: { healthy_panic_threshold: { value: 0 } }",
        )
        .shows(["< body one", "< x-host: @base64(backend)"]),
        sick(
            "a session does not reach a host that drains",
            "DRAINING",
            "common_lb_config: { healthy_panic_threshold: { value: 0 } }",
        )
        .shows(["< body one"]),
        sick("a session reaches a host that is degraded", "DEGRADED", "")
            .shows(["< body two", "< body two"]),
        sick(
            "override_host_status lets sessions reach hosts that drain",
            "DRAINING",
            &allow("HEALTHY, DRAINING"),
        )
        .shows(["< body two", "< body two"]),
        sick(
            "override_host_status keeps sessions from what it leaves out",
            "DEGRADED",
            &allow("HEALTHY"),
        )
        .shows(["< body one"]),
        sick(
            "an unknown health is not healthy to override_host_status",
            "UNKNOWN",
            &allow("HEALTHY"),
        )
        .shows(["< 200"]),
    ]
}

fn routes() -> Vec<Case> {
    let on_route = |case: Case, config: &str| {
        case.routes(&format!("- match: {{ prefix: / }}\n  route: {{ cluster: \"@backend_both\" }}\n  typed_per_filter_config: {{ session: {{ \"@type\": \"@http/stateful_session.v3.StatefulSessionPerRoute\", {config} }} }}"))
    };
    vec![
        on_route(
            two("a route turns sessions off", HEADER, ""),
            "disabled: true",
        )
        .send(bound())
        .shows(["< 200"])
        .lacks(["< x-host*"]),
        on_route(
            two("a route has a session of its own", HEADER, ""),
            &format!("stateful_session: {{ {} }}", cookie("")),
        )
        .get("/")
        .shows(["< set-cookie: sid=*"])
        .lacks(["< x-host*"]),
        on_route(
            two("a session of a route without state", HEADER, ""),
            "stateful_session: {}",
        )
        .send(bound())
        .shows(["< 200"])
        .lacks(["< x-host*"]),
    ]
}
