//! Redirects of an upstream that the proxy follows by itself.

use crate::case::{
    Act, Case, Response, Script, With, case, early, get, http1, late, ok, reply, request, status,
    with_fields,
};

pub fn cases() -> Vec<Case> {
    [followed(), refused(), predicates(), bodies()]
        .into_iter()
        .flatten()
        .collect()
}

const TYPE: &str = "type.googleapis.com/envoy.extensions.internal_redirect";

fn to(code: u16, location: &str) -> Response {
    with_fields(status(code, "moved"), &format!("location: {location}"))
}

fn moved(location: &str) -> Script {
    reply(to(302, location))
}

/// A first route with these fields of its action, and routes that lead to the cluster `@target`.
fn redirecting(title: &'static str, action: &str, location: &str) -> Case {
    case(title)
        .vhosts(&format!(
            "- name: first
  domains: [example.com]
  routes:
  - match: {{ prefix: / }}
    name: first
    route: {{ cluster: @backend, {action} }}
- name: other
  domains: [other.com, \"other.com:8080\"]
  routes:
  - {{ match: {{ prefix: /direct }}, name: direct, direct_response: {{ status: 299, body: {{ inline_string: direct }} }} }}
  - {{ match: {{ prefix: /again }}, name: again, route: {{ cluster: @backend, {action} }} }}
  - {{ match: {{ prefix: / }}, name: second, route: {{ cluster: @target }} }}"
        ))
        .and_backend("target", http1(reply(ok("target"))))
        .reply(moved(location))
}

const FOLLOW: &str = "internal_redirect_policy: {}";
const SUCCEEDED: &str = "cluster.@backend.upstream_internal_redirect_succeeded_total";
const FAILED: &str = "cluster.@backend.upstream_internal_redirect_failed_total";

fn followed() -> Vec<Case> {
    let here = |title, location: &str| redirecting(title, FOLLOW, location);
    vec![
        here("a redirect is followed where the policy says so", "http://other.com/there?x=1")
            .get("/here")
            .logs(2)
            .stats([SUCCEEDED, FAILED])
            .both()
            .shows(["< 200", "< body target", "> target connection 1: GET /there?x=1 HTTP/1.1", "> x-envoy-original-url: http://example.com/here", "log details=internal_redirect", "log details=via_upstream", "log code=302"]),
        redirecting("without a policy a redirect goes to the client", "timeout: 5s", "http://other.com/")
            .get("/")
            .shows(["< 302", "< location: http://other.com/"]),
        here("a redirect that is followed counts as no response of its cluster", "http://other.com/")
            .get("/")
            .logs(2)
            .page("/stats", "cluster.@backend.upstream_rq_3")
            .page("/stats", "cluster.@backend.upstream_rq_completed")
            .page("/stats", "http.@stat.downstream_rq_")
            .shows(["< body target", "page http.@stat.downstream_rq_total: 2", "page http.@stat.downstream_rq_completed: 1", "page http.@stat.downstream_rq_3xx: 0"])
            .lacks(["page cluster.@backend.upstream_rq_302*"]),
        here("the port of a redirect is kept in its host", "http://other.com:8080/a")
            .get("/")
            .logs(2)
            .shows(["< body target", "> host: other.com:8080"]),
        here("the fragment of a redirect is left out", "http://other.com/a?b=c#d")
            .get("/")
            .logs(2)
            .shows(["> target connection 1: GET /a?b=c HTTP/1.1"]),
        here("a redirect without a path leads to the root", "http://other.com")
            .get("/x")
            .logs(2)
            .shows(["> target connection 1: GET / HTTP/1.1"]),
        here("a redirect may lead to an answer of the proxy", "http://other.com/direct")
            .get("/")
            .logs(2)
            .shows(["< 299", "< body direct", "log route=direct"]),
        here("only 302 is followed by default", "http://other.com/")
            .reply(reply(to(301, "http://other.com/")))
            .get("/")
            .stats([FAILED])
            .shows(["< 301", "stat cluster.@backend.upstream_internal_redirect_failed_total: 0"]),
        redirecting("redirect_response_codes say what is followed", "internal_redirect_policy: { redirect_response_codes: [307, 308] }", "")
            .replies([reply(to(307, "http://other.com/a")), reply(to(308, "http://other.com/b")), reply(to(302, "http://other.com/c"))])
            .get("/1")
            .get("/2")
            .get("/3")
            .logs(5)
            .shows(["< body target", "< 302", "> target connection 1: GET /a HTTP/1.1", "> target connection 1: GET /b HTTP/1.1"]),
        redirecting("the old internal_redirect_action follows as well", "internal_redirect_action: HANDLE_INTERNAL_REDIRECT", "http://other.com/")
            .get("/")
            .logs(2)
            .shows(["< body target"]),
        redirecting("response_headers_to_copy are taken over, or away", "internal_redirect_policy: { response_headers_to_copy: [x-token, x-gone] }", "")
            .reply(reply(with_fields(status(302, ""), "location: http://other.com/\nx-token: new\nx-other: 1")))
            .send(get("/").field("x-token", "old").field("x-gone", "1").field("x-stays", "1"))
            .logs(2)
            .shows(["> x-token: new", "> x-stays: 1"])
            .lacks(["> x-other*"]),
        redirecting("a redirect is followed from the filters on", FOLLOW, "http://other.com/")
            .filters("- name: mutation\n  typed_config: { '@type': '@http/header_mutation.v3.HeaderMutation', mutations: { request_mutations: [{ append: { header: { key: x-pass, value: p } } }], response_mutations: [{ append: { header: { key: x-back, value: b } } }] } }")
            .get("/")
            .logs(2)
            .shows(["> x-pass: p", "< x-back: b"]),
        redirecting("the timeout of the new route holds", FOLLOW, "http://other.com/")
            .vhosts("
                - name: first
                  domains: [example.com]
                  routes: [{ match: { prefix: / }, route: { cluster: @backend, internal_redirect_policy: {} } }]
                - name: other
                  domains: [other.com]
                  routes: [{ match: { prefix: / }, route: { cluster: @slow, timeout: 0.3s } }]")
            .and_backend("slow", http1(late(3000, "late")))
            .get("/")
            .logs(2)
            .shows(["< 504", "log details=response_timeout", "> x-envoy-expected-rq-timeout-ms: 300"]),
    ]
}

fn refused() -> Vec<Case> {
    let here = |title, location: &str, stat: &'static str| {
        redirecting(title, FOLLOW, location)
            .get("/")
            .stats([FAILED, stat])
            .shows([
                "< 302",
                "< body moved",
                "stat cluster.@backend.upstream_internal_redirect_failed_total: 1",
            ])
    };
    vec![
        here(
            "a relative redirect goes to the client",
            "/there",
            "http.@stat.passthrough_internal_redirect_bad_location",
        )
        .shows(["stat http.@stat.passthrough_internal_redirect_bad_location: 1"]),
        here(
            "a redirect to https goes to the client",
            "https://other.com/",
            "http.@stat.passthrough_internal_redirect_unsafe_scheme",
        )
        .shows(["stat http.@stat.passthrough_internal_redirect_unsafe_scheme: 1"]),
        here(
            "a redirect to where no route leads goes to the client",
            "http://nobody.com/",
            "http.@stat.passthrough_internal_redirect_no_route",
        )
        .shows(["stat http.@stat.passthrough_internal_redirect_no_route: 1"]),
        redirecting("a redirect without location goes to the client", FOLLOW, "")
            .reply(reply(status(302, "moved")))
            .get("/")
            .stats([FAILED])
            .shows([
                "< 302",
                "stat cluster.@backend.upstream_internal_redirect_failed_total: 1",
            ]),
        redirecting(
            "max_internal_redirects is one by default",
            FOLLOW,
            "http://other.com/again",
        )
        .get("/")
        .logs(2)
        .stats([
            SUCCEEDED,
            FAILED,
            "http.@stat.passthrough_internal_redirect_too_many_redirects",
        ])
        .shows([
            "< 302",
            "stat cluster.@backend.upstream_internal_redirect_succeeded_total: 1",
            "stat http.@stat.passthrough_internal_redirect_too_many_redirects: 1",
        ]),
        redirecting(
            "max_internal_redirects may be more",
            "internal_redirect_policy: { max_internal_redirects: 3 }",
            "",
        )
        .replies([
            moved("http://other.com/again/1"),
            moved("http://other.com/again/2"),
            moved("http://other.com/end"),
        ])
        .get("/")
        .logs(4)
        .shows(["< body target", "> target connection 1: GET /end HTTP/1.1"]),
        redirecting(
            "max_internal_redirects of zero follows nothing",
            "internal_redirect_policy: { max_internal_redirects: 0 }",
            "http://other.com/",
        )
        .get("/")
        .stats(["http.@stat.passthrough_internal_redirect_too_many_redirects"])
        .shows([
            "< 302",
            "stat http.@stat.passthrough_internal_redirect_too_many_redirects: 1",
        ]),
    ]
}

fn predicates() -> Vec<Case> {
    let with = |title, predicate: &str, fields: &str, location: &str| {
        redirecting(
            title,
            &format!(
                "internal_redirect_policy: {{ {fields} predicates: [{{ name: p, typed_config: {{ '@type': {TYPE}.{predicate} }} }}] }}"
            ),
            location,
        )
        .get("/")
        .stats(["http.@stat.passthrough_internal_redirect_predicate"])
    };
    vec![
        with(
            "allow_listed_routes lets a redirect to a route of its list be taken",
            "allow_listed_routes.v3.AllowListedRoutesConfig, allowed_route_names: [x, second]",
            "",
            "http://other.com/",
        )
        .logs(2)
        .shows(["< body target"]),
        with(
            "allow_listed_routes keeps a redirect elsewhere from being taken",
            "allow_listed_routes.v3.AllowListedRoutesConfig, allowed_route_names: [x]",
            "",
            "http://other.com/",
        )
        .shows([
            "< 302",
            "stat http.@stat.passthrough_internal_redirect_predicate: 1",
        ]),
        with(
            "previous_routes keeps a redirect from leading in a circle",
            "previous_routes.v3.PreviousRoutesConfig",
            "max_internal_redirects: 10,",
            "http://other.com/again",
        )
        .logs(3)
        .shows([
            "< 302",
            "stat http.@stat.passthrough_internal_redirect_predicate: 1",
        ]),
        with(
            "safe_cross_scheme keeps a redirect from http to https from being taken",
            "safe_cross_scheme.v3.SafeCrossSchemeConfig",
            "allow_cross_scheme_redirect: true,",
            "https://other.com/",
        )
        .shows([
            "< 302",
            "stat http.@stat.passthrough_internal_redirect_predicate: 1",
        ]),
        redirecting(
            "a redirect to https from a connection without TLS crosses schemes whatever the request says",
            "internal_redirect_policy: {}",
            "https://other.com/",
        )
        .hcm("scheme_header_transformation: { scheme_to_overwrite: https }")
        .get("/")
        .shows([
            "< 302",
            "stat http.@stat.passthrough_internal_redirect_unsafe_scheme: 1",
        ])
        .stats(["http.@stat.passthrough_internal_redirect_unsafe_scheme"]),
        redirecting(
            "allow_cross_scheme_redirect lets a redirect to https be taken",
            "internal_redirect_policy: { allow_cross_scheme_redirect: true }",
            "https://other.com/",
        )
        .get("/")
        .logs(2)
        .shows([
            "< body target",
            "> x-envoy-original-url: http://example.com/",
        ]),
    ]
}

fn bodies() -> Vec<Case> {
    let codes = "internal_redirect_policy: { redirect_response_codes: [302, 303, 307] }";
    vec![
        redirecting("a redirected request takes its body along", codes, "")
            .reply(reply(to(307, "http://other.com/")))
            .send(request("POST", "/").body("payload"))
            .logs(2)
            .both()
            .shows([
                "< body target",
                "> target connection 1: POST / HTTP/1.1",
                "> body payload",
            ]),
        redirecting("303 makes a POST a GET without body", codes, "")
            .reply(reply(to(303, "http://other.com/")))
            .send(request("POST", "/").body("payload"))
            .logs(2)
            .shows(["< body target", "> target connection 1: GET / HTTP/1.1"])
            .lacks(["> target content-length*"]),
        redirecting("303 leaves a HEAD as it is", codes, "")
            .reply(reply(with_fields(
                status(303, ""),
                "location: http://other.com/",
            )))
            .send(request("HEAD", "/"))
            .logs(2)
            .shows(["> target connection 1: HEAD / HTTP/1.1"]),
        redirecting(
            "a body beyond the buffer is not redirected",
            codes,
            "http://other.com/",
        )
        .listener("per_connection_buffer_limit_bytes: 1024")
        .send(request("POST", "/").body(&"x".repeat(5000)))
        .stats([FAILED, "cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< 302",
            "stat cluster.@backend.upstream_internal_redirect_failed_total: 1",
            "stat cluster.@backend.retry_or_shadow_abandoned: 1",
        ]),
        redirecting("a request that has not ended is not redirected", codes, "")
            .replies([early([Act::Respond(to(302, "http://other.com/"))])])
            .bytes("POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 4\r\n\r\nab")
            .read()
            .stats([FAILED])
            .shows([
                "< 302",
                "stat cluster.@backend.upstream_internal_redirect_failed_total: 1",
            ]),
    ]
}
