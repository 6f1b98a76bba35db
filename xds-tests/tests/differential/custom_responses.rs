//! `custom_response`: which responses are replaced, and by what.

use crate::case::{Case, With, case, ok, reply, request, status, with_fields};

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
