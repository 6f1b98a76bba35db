//! What becomes of path, host and location: templates, formatters and regular expressions.

use crate::case::{Case, With, case, get};

pub fn cases() -> Vec<Case> {
    [paths(), hosts(), redirects()]
        .into_iter()
        .flatten()
        .collect()
}

/// A route by this template that rewrites the path by that one.
fn template(title: &'static str, template: &str, rewrite: &str) -> Case {
    case(title).routes(&format!(
        "
        - match:
            path_match_policy:
              name: match
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
                path_template: \"{template}\"
          route:
            cluster: @backend
            path_rewrite_policy:
              name: rewrite
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig
                path_template_rewrite: \"{rewrite}\""
    ))
}

fn paths() -> Vec<Case> {
    vec![
        template("a template is rewritten by its variables", "/{a}/to/{b}", "/{b}/from/{a}")
            .get("/one/to/two?q=1")
            .both()
            .shows(["> connection 1: GET /two/from/one?q=1 HTTP/1.1", "> x-envoy-original-path: /one/to/two?q=1"]),
        template("a variable of many segments is rewritten as a whole", "/api/{rest=**}", "/v2/{rest}/end")
            .get("/api/a/b/c")
            .shows(["> connection 1: GET /v2/a/b/c/end HTTP/1.1"]),
        template("a rewrite by template may use a variable twice, and others never", "/{a}/{b}", "/{a}-{a}")
            .get("/x/y")
            .shows(["> connection 1: GET /x-x HTTP/1.1"]),
        case("path_rewrite formats the path")
            .route("path_rewrite: \"/%REQ(x-tenant)%/%REQ(:method)%\"", "")
            .send(get("/old?q=1").field("x-tenant", "t"))
            .both()
            .shows(["> connection 1: GET /t/GET?q=1 HTTP/1.1", "> x-envoy-original-path: /old?q=1"]),
        case("path_rewrite that comes out empty leaves the path")
            .route("path_rewrite: \"%REQ(x-path)%\"", "")
            .get("/old")
            .send(get("/old").field("x-path", "/new"))
            .shows(["> connection 1: GET /old HTTP/1.1", "> connection 1: GET /new HTTP/1.1"]),
        case("prefix_rewrite goes by the length of a prefix in any case")
            .routes("
                - match: { prefix: /OLD, case_sensitive: false }
                  route: { cluster: @backend, prefix_rewrite: /new }")
            .get("/old/x")
            .shows(["> connection 1: GET /new/x HTTP/1.1"]),
        case("prefix_rewrite of a separated prefix keeps the slash")
            .routes("
                - match: { path_separated_prefix: /old }
                  route: { cluster: @backend, prefix_rewrite: /new }")
            .get("/old/x")
            .get("/old?y")
            .shows(["> connection 1: GET /new/x HTTP/1.1", "> connection 1: GET /new?y HTTP/1.1"]),
        case("prefix_rewrite to the root doubles a slash")
            .routes("
                - match: { prefix: /old }
                  route: { cluster: @backend, prefix_rewrite: / }")
            .get("/old/x")
            .get("/old")
            .shows(["> connection 1: GET //x HTTP/1.1", "> connection 1: GET / HTTP/1.1"]),
        case("prefix_rewrite of a regex replaces the whole path")
            .routes("
                - match: { safe_regex: { regex: \"/a.*\" } }
                  route: { cluster: @backend, prefix_rewrite: /new }")
            .get("/abc/d?e")
            .shows(["> connection 1: GET /new?e HTTP/1.1"]),
        case("regex_rewrite replaces every occurrence")
            .route("regex_rewrite: { pattern: { regex: \"o+\" }, substitution: \"0\" }", "")
            .get("/foo/boo?o")
            .shows(["> connection 1: GET /f0/b0?o HTTP/1.1"]),
        case("regex_rewrite that finds nothing leaves the path")
            .route("regex_rewrite: { pattern: { regex: \"^/x\" }, substitution: /y }", "")
            .get("/a")
            .shows(["> connection 1: GET /a HTTP/1.1"]),
        case("the path is rewritten before request headers are added")
            .route("prefix_rewrite: /new/", "request_headers_to_add: [{ header: { key: x-p, value: \"%REQ(:path)% %REQ(x-envoy-original-path)%\" } }]")
            .get("/a")
            .shows(["< 200"]),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        case("host_rewrite formats the host")
            .route("host_rewrite: \"%REQ(x-tenant)%.example\"", "")
            .send(get("/").field("x-tenant", "t"))
            .both()
            .shows(["> host: t.example"]),
        case("host_rewrite writes a dash for what is missing")
            .route("host_rewrite: \"%REQ(x-tenant)%.example\"", "")
            .get("/")
            .shows(["> host: -.example"]),
        case("host_rewrite and append_x_forwarded_host go together")
            .route("host_rewrite: \"%REQ(x-tenant)%.example\"\nappend_x_forwarded_host: true", "")
            .send(get("/").field("x-tenant", "t").field("x-forwarded-host", "first"))
            .shows(["> x-forwarded-host: first,example.com"]),
        case("append_x_forwarded_host does not repeat the last host")
            .route("host_rewrite_literal: h\nappend_x_forwarded_host: true", "")
            .send(get("/").field("x-forwarded-host", "a,example.com"))
            .shows(["> x-forwarded-host: a,example.com"]),
        case("append_x_forwarded_host without a rewrite adds nothing")
            .route("append_x_forwarded_host: true", "")
            .get("/")
            .shows(["< 200"])
            .lacks(["> x-forwarded-host*"]),
        case("a host that comes from a header goes by what the client sent")
            .route("host_rewrite_header: x-host", "request_headers_to_add: [{ header: { key: x-host, value: added }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }]")
            .send(get("/").field("x-host", "sent"))
            .shows(["< 200"]),
        case("host_rewrite_path_regex sees no query and needs no match")
            .route("host_rewrite_path_regex: { pattern: { regex: \"^/h/([a-z.]+)$\" }, substitution: '\\1' }", "")
            .get("/h/a.b?q")
            .get("/x")
            .shows(["> host: a.b"]),
        case("host_rewrite_literal changes path and host together with prefix_rewrite")
            .route("host_rewrite_literal: h\nprefix_rewrite: /p/", "")
            .get("/x")
            .shows(["> host: h", "> connection 1: GET /p/x HTTP/1.1"]),
    ]
}

fn redirects() -> Vec<Case> {
    let redirect = |title, fields: &str| {
        case(title).routes(&format!(
            "- match: {{ prefix: /old }}\n  redirect: {{ {fields} }}"
        ))
    };
    vec![
        redirect("path_rewrite of a redirect formats the path", "path_rewrite: \"/%REQ(x-tenant)%\"")
            .send(get("/old?q=1").field("x-tenant", "t"))
            .get("/old?q=1")
            .both()
            .shows(["< location: http://example.com/t?q=1"]),
        redirect("a redirect changes everything at once", "https_redirect: true, host_redirect: h, port_redirect: 8443, prefix_rewrite: /new, strip_query: true, response_code: FOUND")
            .get("/old/x?q")
            .shows(["< 302", "< location: https://h:8443/new/x"]),
        redirect("a redirect of an IPv6 host takes its port off", "port_redirect: 1")
            .send(get("/old").host("[::1]:99"))
            .send(get("/old").host("[::1]"))
            .shows(["< location: http://[::1]:1/old"]),
        redirect("SEE_OTHER and TEMPORARY_REDIRECT", "response_code: SEE_OTHER, host_redirect: h")
            .get("/old")
            .shows(["< 303"]),
        redirect("https_redirect keeps a port that is no default", "https_redirect: true")
            .send(get("/old").host("example.com:8080"))
            .shows(["< location: https://example.com:8080/old"]),
        redirect("a redirect says nothing of what the upstream would have got", "host_redirect: h")
            .get("/old")
            .lacks(["> connection*"])
            .shows(["< content-length: 0"]),
        redirect("a redirect keeps a path that is not normal", "host_redirect: h")
            .get("/old/../%61//b")
            .shows(["< location: http://h/old/../%61//b"]),
        case("response headers of a route are on its redirects")
            .routes("
                - match: { prefix: / }
                  redirect: { host_redirect: h }
                  response_headers_to_add: [{ header: { key: x-a, value: \"%REQ(x-b)%\" } }, { header: { key: location, value: other }, append_action: OVERWRITE_IF_EXISTS }]")
            .send(get("/").field("x-b", "1"))
            .shows(["< x-a: 1"]),
    ]
}
