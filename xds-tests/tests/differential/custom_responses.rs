//! `custom_response`: which responses are replaced, and by what.

use crate::case::{Case, With, case, get, http1, ok, reply, request, status, with_fields};

/// A matcher on the status with this local response.
fn config(input: &str, value: &str, response: &str) -> String {
    format!(
        "custom_response_matcher: {{ matcher_list: {{ matchers: [ {{ predicate: {{ single_predicate: {{ input: {{ name: status, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.{input} }} }}, value_match: {{ exact: \"{value}\" }} }} }}, on_match: {{ action: {{ name: action, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy, {response} }} }} }} }} ] }} }}"
    )
}

fn on(value: &str, response: &str) -> String {
    config("HttpResponseStatusCodeMatchInput", value, response)
}

fn replacing(title: &'static str, config: &str) -> Case {
    case(title)
        .filters(&format!(
            "- name: custom\n  typed_config: {{ \"@type\": \"@http/custom_response.v3.CustomResponse\", {config} }}\n"
        ))
        .reply(reply(with_fields(status(503, "upstream says no"), "x-up: 1\ncontent-type: text/x")))
}

pub fn cases() -> Vec<Case> {
    [local(), redirects()].into_iter().flatten().collect()
}

fn local() -> Vec<Case> {
    let body = "body: { inline_string: \"sorry\" }";
    vec![
        replacing("a response is replaced by its status", &on("503", &format!("{body}, status_code: 299, response_headers_to_add: [ {{ header: {{ key: x-own, value: \"%RESPONSE_CODE%\" }} }} ]")))
            .get("/")
            .both()
            .shows(["< 299", "< body sorry", "< content-type: text/plain"])
            .lacks(["< x-up*"]),
        replacing("a response keeps its status where none is given", &on("503", body))
            .get("/")
            .shows(["< 503", "< body sorry"]),
        replacing("responses of a class are replaced", &config("HttpResponseStatusCodeClassMatchInput", "5xx", body))
            .get("/")
            .shows(["< 503", "< body sorry"]),
        replacing("another response passes", &on("503", body))
            .reply(reply(ok("fine")))
            .get("/")
            .both()
            .shows(["< 200", "< body fine"]),
        replacing("body_format makes the body", &on("503", &format!("{body}, body_format: {{ json_format: {{ status: \"%RESPONSE_CODE%\", text: \"%LOCAL_REPLY_BODY%\", path: \"%REQ(:path)%\" }} }}")))
            .get("/p")
            .shows(["< 503", "< body {*"]),
        replacing("a response without a body of its own", &on("503", "status_code: 500"))
            .get("/")
            .shows(["< 500"])
            .lacks(["< body*"]),
        replacing("response_code_details of the configuration", &on("503", &format!("{body}, response_code_details: mine")))
            .get("/")
            .shows(["log details=mine"]),
        replacing("response_code_details are preserved", &on("503", &format!("{body}, preserve_response_code_details: true")))
            .get("/")
            .shows(["log details=via_upstream"]),
        replacing("a direct response is replaced", &on("404", body))
            .routes("- match: { prefix: / }\n  direct_response: { status: 404, body: { inline_string: gone } }")
            .get("/")
            .both()
            .shows(["< 404", "< body sorry"]),
        replacing("a response to a path without route is replaced", &on("404", body))
            .routes("- match: { prefix: /only }\n  route: { cluster: \"@backend\" }")
            .get("/")
            .shows(["< 404"]),
        replacing("a response to HEAD is replaced without its body", &on("503", body))
            .send(request("HEAD", "/"))
            .shows(["< 503"]),
        replacing("a route has custom responses of its own", &on("503", body))
            .route("", &format!("typed_per_filter_config: {{ custom: {{ \"@type\": \"@http/custom_response.v3.CustomResponse\", {} }} }}", on("503", "body: { inline_string: of the route }")))
            .get("/")
            .shows(["< body of the route"]),
        replacing("a route without matcher leaves it to the filter", &on("503", body))
            .route("", "typed_per_filter_config: { custom: { \"@type\": \"@http/custom_response.v3.CustomResponse\" } }")
            .get("/")
            .shows(["< 503"]),
        replacing("a route whose matcher does not match leaves it to the filter", &on("503", body))
            .route("", &format!("typed_per_filter_config: {{ custom: {{ \"@type\": \"@http/custom_response.v3.CustomResponse\", {} }} }}", on("404", "body: { inline_string: of the route }")))
            .get("/")
            .shows(["< 503"]),
        replacing("headers are added by their actions", &on("503", &format!("{body}, response_headers_to_add: [ {{ header: {{ key: content-type, value: text/html }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }}, {{ header: {{ key: x-a, value: b }} }} ]")))
            .get("/")
            .shows(["< x-a: b"]),
        replacing("a gRPC client gets the status of a custom response", &on("503", body))
            .send(request("POST", "/").field("content-type", "application/grpc").body("x"))
            .http2()
            .shows(["< grpc-status*"]),
    ]
}

/// A matcher on the status 503, which leads elsewhere.
fn elsewhere(policy: &str) -> String {
    on("503", "").replace(
        "local_response_policy.v3.LocalResponsePolicy, ",
        &format!("redirect_policy.v3.RedirectPolicy, {policy}"),
    )
}

const ROUTES: &str = "- match: { prefix: /sorry }\n  route: { cluster: \"@page\" }\n- match: { prefix: /plain }\n  direct_response: { status: 200, body: { inline_string: plain } }\n- match: { prefix: /gone }\n  direct_response: { status: 410, body: { inline_string: gone } }\n- match: { prefix: /app }\n  route: { cluster: \"@backend\" }";

/// A route to the backend with a field.
const KEEPING: &str = "- match: { prefix: /sorry }\n  route: { cluster: \"@page\" }\n- match: { prefix: /app }\n  route: { cluster: \"@backend\", RETRY }";

fn redirected(title: &'static str, policy: &str) -> Case {
    replacing(title, &elsewhere(policy))
        .routes(ROUTES)
        .and_backend(
            "page",
            http1(reply(with_fields(ok("the page"), "x-page: 1"))),
        )
        .stats([
            "http.@stat.custom_response_redirect_no_route",
            "http.@stat.custom_response_invalid_uri",
        ])
}

fn redirects() -> Vec<Case> {
    let sorry = "redirect_action: { path_redirect: /sorry }";
    vec![
        redirected("a response is asked for elsewhere", sorry)
            .get("/app")
            .both()
            .logs(2)
            .shows(["< 503", "< body the page", "< x-page: 1", "log details=internal_redirect*"])
            .lacks(["< x-up*"]),
        redirected("a uri leads elsewhere", "uri: \"http://other.example/sorry/a?b=c#d\"")
            .get("/app?q=1")
            .logs(2)
            .shows(["< body the page", "> page connection 1: GET /sorry/a?b=c HTTP/1.1", "> host: other.example"]),
        redirected("a redirect has its own status and headers", &format!("{sorry}, status_code: 502, response_headers_to_add: [{{ header: {{ key: x-own, value: \"%RESPONSE_CODE%\" }} }}]"))
            .get("/app")
            .both()
            .logs(2)
            .shows(["< 502", "< body the page", "< x-own*"]),
        redirected("a redirect adds headers to its request", &format!("{sorry}, request_headers_to_add: [{{ header: {{ key: x-why, value: \"%RESPONSE_CODE% %REQ(x-a)%\" }} }}]"))
            .send(get("/app").field("x-a", "b"))
            .logs(2)
            .shows(["> x-why*", "> x-a: b"]),
        redirected("a redirect asks by GET and without body", sorry)
            .send(request("POST", "/app").body("lost"))
            .both()
            .logs(2)
            .shows(["< body the page", "> page connection 1: GET /sorry HTTP/1.1"]),
        redirected("a body kept for another attempt goes along with a redirect", sorry)
            .routes(&KEEPING.replace("RETRY", "retry_policy: { retry_on: reset, num_retries: 1 }"))
            .send(request("POST", "/app").body("kept"))
            .both()
            .logs(2)
            .shows(["> page connection 1: GET /sorry HTTP/1.1", "> body kept", "< body the page"]),
        redirected("a body that a filter has buffered and let go does not go along with a redirect", sorry)
            .filters("- name: buffer\n  typed_config: { \"@type\": \"@http/buffer.v3.Buffer\", max_request_bytes: 100 }")
            .send(request("POST", "/app").body("gone"))
            .both()
            .logs(2)
            .shows(["> page connection 1: GET /sorry HTTP/1.1", "< body the page"]),
        redirected("a body that a filter still buffers goes along with a redirect", sorry)
            .filters("
                - name: buffer
                  typed_config: { \"@type\": \"@http/buffer.v3.Buffer\", max_request_bytes: 100 }
                - name: fault
                  typed_config: { \"@type\": \"@http/fault.v3.HTTPFault\", headers: [{ name: \":path\", string_match: { prefix: /app } }], abort: { http_status: 503, percentage: { numerator: 100 } } }")
            .send(request("POST", "/app").body("held"))
            .both()
            .logs(2)
            .shows(["> page connection 1: GET /sorry HTTP/1.1", "> body held", "< body the page"]),
        redirected("a request that has not come whole is redirected in logs only", sorry)
            .routes(&format!("{ROUTES}\n- match: {{ prefix: /full }}\n  direct_response: {{ status: 503, body: {{ inline_string: full }} }}"))
            .log_format("%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%", "")
            .bytes("POST /full HTTP/1.1\r\nhost: example.com\r\ncontent-length: 9\r\n\r\nhalf")
            .read()
            .shows(["< 503", "< body full", "log GET /sorry 503"]),
        redirected("a redirect without route leaves the response", "redirect_action: { path_redirect: /nowhere }")
            .get("/app")
            .both()
            .shows(["< 503", "< body upstream says no", "stat http.@stat.custom_response_redirect_no_route: 1"]),
        redirected("a redirect that fails itself is changed as well", "redirect_action: { path_redirect: /gone }, status_code: 299, response_headers_to_add: [{ header: { key: x-own, value: a } }]")
            .get("/app")
            .logs(2)
            .shows(["< 299", "< x-own: a", "< body gone"]),
        redirected("a redirect to a page that fails as well does not go round", "redirect_action: { path_redirect: /app/again }")
            .get("/app")
            .logs(2)
            .shows(["< 503", "< body upstream says no"]),
        redirected("a redirect leads to a direct response", "redirect_action: { path_redirect: /plain }, status_code: 299")
            .get("/app")
            .logs(2)
            .shows(["< 299", "< body plain"]),
        redirected("a direct response is asked for elsewhere", sorry)
            .routes(&format!("{ROUTES}\n- match: {{ prefix: /full }}\n  direct_response: {{ status: 503, body: {{ inline_string: full }} }}"))
            .get("/full")
            .both()
            .logs(2)
            .shows(["< 503", "< body the page"])
            .lacks(["< body full*"]),
        redirected("a redirect to another host takes its virtual host", "redirect_action: { host_redirect: pages.example }")
            .vhosts("- name: app\n  domains: [\"example.com\"]\n  routes: [{ match: { prefix: / }, route: { cluster: \"@backend\" } }]\n- name: pages\n  domains: [\"pages.example\"]\n  routes: [{ match: { prefix: / }, route: { cluster: \"@page\" } }]")
            .get("/app")
            .logs(2)
            .shows(["< body the page", "> host: pages.example"]),
        redirected("a redirect keeps the query, or strips it", "redirect_action: { path_redirect: /sorry, strip_query: true }")
            .get("/app?a=b")
            .logs(2)
            .shows(["> page connection 1: GET /sorry HTTP/1.1"]),
        redirected("an answer of a filter behind it is asked for elsewhere", sorry)
            .filters("
                - name: fault
                  typed_config: { \"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 503, percentage: { numerator: 100 } } }")
            .get("/app")
            .logs(2)
            .shows(["< body fault filter abort", "log details=internal_redirect*"]),
        case("an answer of a filter that comes first is not redirected")
            .filters(&format!("- name: fault\n  typed_config: {{ \"@type\": \"@http/fault.v3.HTTPFault\", abort: {{ http_status: 503, percentage: {{ numerator: 100 }} }} }}\n- name: custom\n  typed_config: {{ \"@type\": \"@http/custom_response.v3.CustomResponse\", {} }}\n", elsewhere(sorry)))
            .routes(ROUTES)
            .and_backend("page", http1(reply(ok("the page"))))
            .get("/app")
            .shows(["< 503"])
            .lacks(["< body the page"]),
    ]
}
