//! Answers to requests that no filter has seen: the filters see the answer.

use crate::case::{Case, With, case, get};

const MARKS: &str = "- name: mark\n  typed_config:\n    \"@type\": \"@http/header_mutation.v3.HeaderMutation\"\n    mutations: { response_mutations: [{ append: { header: { key: x-seen, value: \"y\" } } }] }\n";

fn marked(title: &'static str, status: &str) -> Case {
    let status = format!("< {status}");
    case(title)
        .filters(MARKS)
        .shows([&status, "< x-seen: y"])
        .lacks(["> *"])
}

pub fn cases() -> Vec<Case> {
    vec![
        marked("filters see the answer to a request without a host", "400")
            .raw("GET / HTTP/1.1\r\n\r\n"),
        marked("filters see the answer to a request of another version", "426")
            .raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n"),
        marked("filters see the answer to what is no request", "400").raw("G@T / HTTP/1.1\r\n\r\n"),
        marked("filters see the answer to an upgrade that nobody takes", "403")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: other\r\ncontent-length: 0\r\n\r\n"),
        marked("filters see the answer to a path that is refused", "400")
            .hcm("path_with_escaped_slashes_action: REJECT_REQUEST")
            .get("/a%2Fb"),
        marked("filters see the answer to a head that does not come to its end", "408")
            .hcm("request_headers_timeout: 0.3s")
            .raw("GET / HTTP/1.1\r\nhost: a\r\n"),
        marked("filters see the answer to a path that is refused, over HTTP/2", "400")
            .hcm("path_with_escaped_slashes_action: REJECT_REQUEST")
            .send(get("/a%2Fb"))
            .http2(),
        case("a compressor says in an early answer that it looks at accept-encoding")
            .filters("- name: gzip\n  typed_config:\n    \"@type\": \"@http/compressor.v3.Compressor\"\n    compressor_library: { name: gzip, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip } }\n")
            .send(get("/a#b").field("accept-encoding", "gzip"))
            .shows(["< 400", "< vary: Accept-Encoding"]),
        case("what has its own filters for an upgrade answers one that it refuses with those of all")
            .filters(MARKS)
            .hcm("upgrade_configs: [{ upgrade_type: other, enabled: false, filters: [{ name: router, typed_config: { \"@type\": \"@http/router.v3.Router\" } }] }]")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: other\r\ncontent-length: 0\r\n\r\n")
            .shows(["< 403", "< x-seen: y"]),
    ]
}
