//! `compressor` and `decompressor`. Bodies are compared as they are when unpacked: two libraries need not write the same bytes.

use std::io::Write;

use crate::case::{
    Act, Case, Response, With, acts, case, get, ok, pause, reply, request, status, with_fields,
    with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        negotiation(),
        responses(),
        status_header(),
        requests(),
        routes(),
        libraries(),
        decompressor(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn library(kind: &str, fields: &str) -> String {
    let message = match kind {
        "gzip" => "gzip.compressor.v3.Gzip",
        "brotli" => "brotli.compressor.v3.Brotli",
        _ => "zstd.compressor.v3.Zstd",
    };
    format!(
        "compressor_library: {{ name: lib, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.compression.{message}, {fields} }} }}"
    )
}

fn filter(name: &str, library: &str, fields: &str) -> String {
    format!(
        "- name: {name}\n  typed_config: {{ \"@type\": \"@http/compressor.v3.Compressor\", {library}, {fields} }}\n"
    )
}

/// A gzip compressor with these fields, and a backend that answers with text that is worth it.
fn gzip(title: &'static str, fields: &str) -> Case {
    case(title)
        .filters(&filter("compressor", &library("gzip", ""), fields))
        .reply(reply(long()))
        .digits_aside()
}

fn long() -> Response {
    with_fields(ok(&"hello ".repeat(40)), "content-type: text/html")
}

fn asking(accept: &str) -> crate::case::Request {
    get("/").field("accept-encoding", accept)
}

const PACKED: &str = "< content-encoding: gzip";
const PREFIX: &str = "http.@stat.compressor.lib.gzip.";

fn stat(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn negotiation() -> Vec<Case> {
    let counted = |case: Case, name: &str| {
        let mut case = case;
        case.stats.push(stat(name));
        case.shows.push(format!("stat {PREFIX}{name}: 1"));
        case
    };
    let two = |title, gzip: &str, brotli: &str| {
        case(title)
            .filters(&filter("gzip", &library("gzip", ""), gzip))
            .filters(&filter("brotli", &library("brotli", ""), brotli))
            .reply(reply(long()))
            .digits_aside()
    };
    vec![
        counted(
            gzip("a response is compressed for a client that takes gzip", "")
                .send(asking("gzip"))
                .both()
                .shows([PACKED, "< vary: Accept-Encoding"])
                .lacks(["< content-length*", "< body hello*"]),
            "header_compressor_used",
        ),
        counted(
            gzip("nothing is compressed for a client that says nothing", "")
                .get("/")
                .both()
                .shows(["< content-length: 240", "< vary: Accept-Encoding"])
                .lacks([PACKED]),
            "no_accept_header",
        ),
        counted(
            gzip(
                "nothing is compressed for a client that takes only another encoding",
                "",
            )
            .send(asking("deflate, br"))
            .shows(["< content-length: 240"])
            .lacks([PACKED]),
            "header_not_valid",
        ),
        counted(
            gzip("identity with the greater weight wins over gzip", "")
                .send(asking("gzip;q=0.3, identity;q=0.8"))
                .shows(["< content-length: 240"])
                .lacks([PACKED]),
            "header_identity",
        ),
        counted(
            gzip("a star stands for any encoding", "")
                .send(asking("deflate;q=0.1, *;q=0.5"))
                .shows([PACKED]),
            "header_wildcard",
        ),
        gzip(
            "a weight of zero forbids an encoding, whatever the star says",
            "",
        )
        .send(asking("gzip;q=0, *"))
        .shows(["< content-length: 240"])
        .lacks([PACKED]),
        gzip("a weight that is no number leaves its encoding out", "")
            .send(asking("gzip;q=high, deflate"))
            .shows(["< 200"]),
        gzip("the name of an encoding in capital letters", "")
            .send(asking("GZIP"))
            .shows(["< 200"]),
        gzip("spaces and other parameters around a weight", "")
            .send(asking("  gzip ; q = 0.5 ;level=9 , identity;q=0.4"))
            .shows(["< 200"]),
        gzip("an empty list of encodings", "")
            .send(asking(""))
            .shows(["< 200"]),
        two(
            "of two compressors the one with the greater weight is taken",
            "",
            "",
        )
        .send(asking("gzip;q=0.5, br;q=0.9"))
        .stats([
            "http.@stat.compressor.lib.gzip.header_compressor_overshadowed",
            "http.@stat.compressor.lib.brotli.header_compressor_used",
        ])
        .shows(["< content-encoding: br"]),
        two(
            "of two compressors of one weight the one that is named first is taken",
            "",
            "",
        )
        .send(asking("br, gzip"))
        .send(asking("gzip, br"))
        .shows(["< content-encoding: br", PACKED]),
        two(
            "choose_first decides between equal weights",
            "choose_first: true",
            "",
        )
        .send(asking("br, gzip"))
        .send(asking("br;q=0.9, gzip;q=0.8"))
        .shows([PACKED, "< content-encoding: br"]),
        two(
            "choose_first of two filters",
            "choose_first: true",
            "choose_first: true",
        )
        .send(asking("br, gzip"))
        .send(asking("gzip, br"))
        .shows(["< 200"]),
        two("a star takes the compressor that stands first", "", "")
            .send(asking("*"))
            .shows([PACKED]),
        two(
            "a compressor that does not take the content type leaves the choice to others",
            "response_direction_config: { common_config: { content_type: [ image/png ] } }",
            "",
        )
        .send(asking("gzip, br;q=0.5"))
        .shows(["< content-encoding: br"]),
        two("a wildcard beside choose_first", "", "choose_first: true")
            .send(asking("*"))
            .shows(["< 200"]),
    ]
}

fn responses() -> Vec<Case> {
    let answer = |fields: &str| reply(with_fields(ok(&"hello ".repeat(40)), fields));
    let direction = |fields: &str| format!("response_direction_config: {{ {fields} }}");
    vec![
        gzip("a short response stays as it is", "")
            .reply(reply(with_fields(ok("hello"), "content-type: text/html")))
            .send(asking("gzip"))
            .stats([
                "http.@stat.compressor.lib.gzip.content_length_too_small",
                "http.@stat.compressor.lib.gzip.not_compressed",
                "http.@stat.compressor.lib.gzip.compressed",
            ])
            .shows(["< body hello", "stat http.@stat.compressor.lib.gzip.content_length_too_small: 1"]),
        gzip(
            "min_content_length of the direction decides what is short",
            &direction("common_config: { min_content_length: 241 }"),
        )
        .send(asking("gzip"))
        .stats(["http.@stat.compressor.lib.gzip.response.content_length_too_small"])
        .shows(["< content-length: 240"]),
        gzip("the older content_length decides what is short", "content_length: 500")
            .send(asking("gzip"))
            .shows(["< content-length: 240"]),
        gzip("a response in chunks is compressed whatever its length", "")
            .reply(reply(Response { chunked: true, ..with_fields(ok("hello"), "content-type: text/html") }))
            .send(asking("gzip"))
            .both()
            .shows([PACKED]),
        gzip("a content type that is not listed stays as it is", "")
            .reply(answer("content-type: image/png"))
            .send(asking("gzip"))
            .shows(["< content-length: 240"])
            .lacks([PACKED, "< vary*"]),
        gzip("parameters of a content type do not count", "")
            .reply(answer("content-type: application/json; charset=utf-8"))
            .send(asking("gzip"))
            .shows([PACKED]),
        gzip("a content type in capital letters", "")
            .reply(answer("content-type: Text/HTML"))
            .send(asking("gzip"))
            .shows(["< 200"]),
        gzip("a response without content type is compressed", "")
            .reply(answer(""))
            .send(asking("gzip"))
            .shows([PACKED]),
        gzip("content types of the configuration take the place of the usual ones", &direction("common_config: { content_type: [ image/png ] }"))
            .replies([answer("content-type: image/png"), answer("content-type: text/html")])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows([PACKED, "< content-length: 240"]),
        gzip(
            "content_type_matcher matches content types",
            &direction("common_config: { content_type: [ text/html ], content_type_matcher: [ { prefix: image/ } ] }"),
        )
        .replies([answer("content-type: image/png; q=1"), answer("content-type: text/html")])
        .send(asking("gzip"))
        .send(asking("gzip"))
        .shows([PACKED, "< content-length: 240"]),
        gzip("what is encoded already stays as it is", "")
            .reply(answer("content-type: text/html\ncontent-encoding: deflate"))
            .send(asking("gzip"))
            .shows(["< content-encoding: deflate", "< content-length: 240"])
            .lacks(["< vary*"]),
        gzip("a transfer encoding of gzip stays as it is", "")
            .backend(crate::case::Kind::Http1(vec![crate::case::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")]))
            .send(asking("gzip"))
            .shows(["< 50*"]),
        gzip("no-transform in cache-control is heeded", "")
            .reply(answer("content-type: text/html\ncache-control: max-age=1, no-transform"))
            .send(asking("gzip"))
            .shows(["< content-length: 240"])
            .lacks(["< vary*"]),
        gzip("a strong etag is taken away", "")
            .reply(answer("content-type: text/html\netag: \"12345\""))
            .send(asking("gzip"))
            .shows([PACKED])
            .lacks(["< etag*"]),
        gzip("a weak etag stays", "")
            .replies([answer("content-type: text/html\netag: W/\"12345\""), answer("content-type: text/html\netag: w/\"1\""), answer("content-type: text/html\netag: ab")])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows([PACKED, "< etag: W/\"12345\"", "< etag: w/\"1\""]),
        gzip("disable_on_etag_header leaves responses with an etag alone", &direction("disable_on_etag_header: true"))
            .reply(answer("content-type: text/html\netag: \"12345\""))
            .send(asking("gzip"))
            .stats(["http.@stat.compressor.lib.gzip.not_compressed_etag"])
            .shows(["< content-length: 240", "< etag: \"12345\"", "stat http.@stat.compressor.lib.gzip.not_compressed_etag: 1"]),
        gzip("the older disable_on_etag_header does the same", "disable_on_etag_header: true")
            .reply(answer("content-type: text/html\netag: W/\"12345\""))
            .send(asking("gzip"))
            .shows(["< content-length: 240", "< etag: W/\"12345\""]),
        gzip("weaken_etag_on_compress makes a strong etag a weak one", &direction("weaken_etag_on_compress: true, disable_on_etag_header: true"))
            .replies([answer("content-type: text/html\netag: \"12345\""), answer("content-type: text/html\netag: W/\"12345\"")])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows([PACKED, "< etag: W/\"12345\"", "< etag: W/\"12345\""]),
        gzip("vary gets accept-encoding beside what it says", "")
            .replies([answer("content-type: text/html\nvary: Cookie"), answer("content-type: text/html\nvary: Cookie, accept-encoding"), answer("content-type: text/html\nvary: A\nvary: B")])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows(["< vary: Cookie, Accept-Encoding", "< vary: Cookie, accept-encoding, Accept-Encoding", "< vary: A,B, Accept-Encoding"]),
        gzip("uncompressible_response_codes stay as they are", &direction("uncompressible_response_codes: [ 206, 404 ]"))
            .replies([reply(with_fields(status(206, &"a".repeat(100)), "content-type: text/html")), reply(with_fields(status(404, &"a".repeat(100)), "content-type: text/html")), reply(with_fields(status(500, &"a".repeat(100)), "content-type: text/html"))])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows(["< 206", "< 404", "< content-length: 100", "< content-length: 100", PACKED]),
        gzip("a partial response is compressed unless its code is listed", "")
            .reply(reply(with_fields(status(206, &"a".repeat(100)), "content-type: text/html")))
            .send(asking("gzip"))
            .shows([PACKED]),
        gzip("remove_accept_encoding_header hides it from the upstream", &direction("remove_accept_encoding_header: true"))
            .send(asking("gzip"))
            .shows([PACKED])
            .lacks(["> accept-encoding*"]),
        gzip("the older remove_accept_encoding_header hides it too", "remove_accept_encoding_header: true")
            .send(asking("gzip"))
            .shows([PACKED])
            .lacks(["> accept-encoding*"]),
        gzip("a compressor that is off by its runtime key", "runtime_enabled: { default_value: true, runtime_key: compressor.off }")
            .runtime("compressor.off", 0)
            .send(asking("gzip"))
            .shows(["< content-length: 240"])
            .lacks(["< vary*"]),
        gzip("a direction that is off by its default", &direction("common_config: { enabled: { default_value: false, runtime_key: none } }, remove_accept_encoding_header: true"))
            .send(asking("gzip"))
            .shows(["< content-length: 240", "> accept-encoding: gzip"]),
        gzip("a response to HEAD is not touched but for vary", "")
            .send(request("HEAD", "/").field("accept-encoding", "gzip"))
            .shows(["< content-length: 240", "< vary: Accept-Encoding"]),
        gzip("a response without body is not touched", "")
            .reply(reply(with_fields(status(304, ""), "content-type: text/html")))
            .send(asking("gzip"))
            .shows(["< 304"])
            .lacks([PACKED]),
        gzip("a local reply is compressed too", "")
            .routes("- match: { prefix: / }\n  direct_response: { status: 200, body: { inline_string: \"a text of more than thirty bytes, so that it pays\" } }")
            .send(asking("gzip"))
            .both()
            .shows([PACKED, "< vary: Accept-Encoding"]),
        gzip("trailers come after the end of what is packed", "")
            .reply(reply(with_trailers(with_fields(ok(&"hello ".repeat(40)), "content-type: text/html"), "x-t: 1")))
            .hcm("http_protocol_options: { enable_trailers: true }")
            .protocol_options("explicit_http_config: { http_protocol_options: { enable_trailers: true } }")
            .send(asking("gzip"))
            .both()
            .shows([PACKED, "< trailer x-t: 1"]),
        gzip("a response from an HTTP/2 upstream without length is compressed", "")
            .upstream_http2()
            .send(asking("gzip"))
            .both()
            .shows([PACKED]),
        gzip("what has come of a slow response is sent on at once", "")
            .backend(crate::case::Kind::Http1(vec![acts([
                crate::case::send("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                pause(300),
                Act::Reset,
            ])]))
            .send(asking("gzip"))
            .ends_somehow()
            .shows([PACKED, "< body (gzip, cut off) hello"]),
        gzip("an upgrade is not compressed", "")
            .hcm("upgrade_configs: [{ upgrade_type: websocket }]")
            .backend(crate::case::Kind::Http1(vec![crate::case::raw("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")]))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\naccept-encoding: gzip\r\n\r\n")
            .step(crate::case::Step::ReadBytes(5 + 100))
            .shows(["< bytes *"])
            .lacks([PACKED]),
    ]
}

fn status_header() -> Vec<Case> {
    let marked = |title, fields: &str| {
        gzip(
            title,
            &format!("response_direction_config: {{ status_header_enabled: true, {fields} }}"),
        )
    };
    let answer = |fields: &str| reply(with_fields(ok(&"hello ".repeat(40)), fields));
    vec![
        marked("status_header_enabled says what became of a response", "")
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;Compressed;OriginalLength=240"]),
        marked("the status of a response that is too short", "")
            .reply(reply(with_fields(ok("hello"), "content-type: text/html")))
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;ContentLengthTooSmall"]),
        marked("the status of a content type that is not listed", "")
            .reply(answer("content-type: image/png"))
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;ContentTypeNotAllowed"]),
        marked("the status of an etag", "disable_on_etag_header: true")
            .reply(answer("content-type: text/html\netag: \"1\""))
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;EtagNotAllowed"]),
        marked("the status of a code that is listed", "uncompressible_response_codes: [ 500 ]")
            .reply(reply(with_fields(status(500, &"a".repeat(100)), "content-type: text/html")))
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;StatusCodeNotAllowed"]),
        marked("the status where the client does not take it", "")
            .send(asking("br"))
            .get("/")
            .shows(["< 200"]),
        marked("the status of a response in chunks", "")
            .reply(reply(Response { chunked: true, ..with_fields(ok("hello"), "content-type: text/html") }))
            .send(asking("gzip"))
            .shows(["< x-envoy-compression-status: gzip;Compressed*"]),
        marked("the status of no-transform and of what is encoded already", "")
            .replies([answer("cache-control: no-transform"), answer("content-encoding: br"), reply(ok(""))])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows(["< 200"]),
        marked("the status of a filter that is off", "common_config: { enabled: { default_value: false, runtime_key: none } }")
            .send(asking("gzip"))
            .shows(["< 200"]),
        marked("of several reasons the status names one", "disable_on_etag_header: true, uncompressible_response_codes: [ 200 ], common_config: { min_content_length: 1000, content_type: [ a/b ] }")
            .replies([answer("content-type: text/html\netag: \"1\""), answer("content-type: a/b\netag: \"1\"")])
            .send(asking("gzip"))
            .send(asking("gzip"))
            .shows(["< 200"]),
        case("each of two compressors says its status")
            .filters(&filter("gzip", &library("gzip", ""), "response_direction_config: { status_header_enabled: true }"))
            .filters(&filter("brotli", &library("brotli", ""), "response_direction_config: { status_header_enabled: true }"))
            .reply(reply(long()))
            .digits_aside()
            .send(asking("gzip"))
            .send(asking("br"))
            .get("/")
            .shows(["< 200"]),
    ]
}

fn requests() -> Vec<Case> {
    let post = |body: &str| {
        request("POST", "/")
            .field("content-type", "application/json")
            .body(body)
    };
    let body = "{\"a\": \"hello hello hello hello hello hello\"}";
    let on = "request_direction_config: { common_config: { enabled: { default_value: true, runtime_key: a.on } } }, response_direction_config: { common_config: { enabled: { default_value: false, runtime_key: a.off } } }";
    vec![
        gzip("a request is compressed where its direction is on", on)
            .send(post(body))
            .both()
            .stats([
                "http.@stat.compressor.lib.gzip.request.compressed",
                "http.@stat.compressor.lib.gzip.request.total_uncompressed_bytes",
            ])
            .shows([
                "> content-encoding: gzip",
                "> transfer-encoding: chunked",
                "stat http.@stat.compressor.lib.gzip.request.compressed: *",
            ]),
        gzip(
            "a request is compressed by an empty direction",
            "request_direction_config: {}",
        )
        .send(post(body))
        .shows(["> content-encoding: gzip"]),
        gzip("a request is not compressed without its direction", "")
            .send(post(body))
            .shows(["> content-length: 44"])
            .lacks(["> content-encoding*"]),
        gzip("a request without body is not compressed", on)
            .get("/")
            .stats(["http.@stat.compressor.lib.gzip.request.not_compressed"])
            .shows([
                "> connection 1: GET / HTTP/1.1",
                "stat http.@stat.compressor.lib.gzip.request.not_compressed: 1",
            ])
            .lacks(["> content-encoding*"]),
        gzip("a short request is not compressed", on)
            .send(post("{}"))
            .shows(["> content-length: 2"]),
        gzip("a request that is encoded already stays as it is", on)
            .send(post(body).field("content-encoding", "br"))
            .shows(["> content-length: 44", "> content-encoding: br"]),
        gzip(
            "a request of another content type stays as it is",
            "request_direction_config: { common_config: { content_type: [ text/html ] } }",
        )
        .send(post(body))
        .shows(["> content-length: 44"]),
        gzip("a request in chunks with trailers is compressed", on)
            .hcm("http_protocol_options: { enable_trailers: true }")
            .protocol_options(
                "explicit_http_config: { http_protocol_options: { enable_trailers: true } }",
            )
            .send(post(body).chunked().trailer("x-t", "1"))
            .both()
            .shows(["> content-encoding: gzip", "> trailer x-t: 1"]),
    ]
}

fn routes() -> Vec<Case> {
    let per_route = |title, filter_fields: &str, route: &str| {
        gzip(title, filter_fields).route(
            "",
            &format!("typed_per_filter_config: {{ compressor: {{ \"@type\": \"@http/compressor.v3.CompressorPerRoute\", {route} }} }}"),
        )
    };
    let off = "response_direction_config: { common_config: { enabled: { default_value: false, runtime_key: none } } }";
    vec![
        per_route(
            "a route turns the compressor off",
            "remove_accept_encoding_header: true",
            "disabled: true",
        )
        .send(asking("gzip"))
        .shows(["< content-length: 240", "> accept-encoding: gzip"])
        .lacks([PACKED, "< vary*"]),
        per_route(
            "a route turns the compressor on",
            off,
            "overrides: { response_direction_config: {} }",
        )
        .send(asking("gzip"))
        .shows([PACKED]),
        per_route(
            "overrides without a response direction change nothing",
            off,
            "overrides: {}",
        )
        .send(asking("gzip"))
        .shows(["< content-length: 240"]),
        per_route(
            "a route takes accept-encoding away",
            "",
            "overrides: { response_direction_config: { remove_accept_encoding_header: true } }",
        )
        .send(asking("gzip"))
        .shows([PACKED])
        .lacks(["> accept-encoding*"]),
        per_route(
            "a route keeps accept-encoding",
            "remove_accept_encoding_header: true",
            "overrides: { response_direction_config: { remove_accept_encoding_header: false } }",
        )
        .send(asking("gzip"))
        .shows([PACKED, "> accept-encoding: gzip"]),
        per_route(
            "a route has another library",
            "",
            &format!("overrides: {{ {} }}", library("brotli", "")),
        )
        .send(asking("br"))
        .send(asking("gzip"))
        .stats([
            "http.@stat.compressor.lib.gzip.compressed",
            "http.@stat.compressor.lib.brotli.compressed",
        ])
        .shows(["< content-encoding: br"]),
        per_route(
            "disabled by a route also for requests",
            "request_direction_config: {}",
            "disabled: true",
        )
        .send(request("POST", "/").body(&"a".repeat(100)))
        .shows(["< 200"]),
    ]
}

fn libraries() -> Vec<Case> {
    let with = |title, kind: &str, fields: &str, accept: &str| {
        case(title)
            .filters(&filter("compressor", &library(kind, fields), ""))
            .reply(reply(with_fields(
                ok(&"lorem ipsum dolor ".repeat(8000)),
                "content-type: text/html",
            )))
            .digits_aside()
            .send(asking(accept))
            .both()
    };
    vec![
        with("gzip with its settings packs a long response", "gzip", "memory_level: 9, compression_level: BEST_SPEED, window_bits: 15, chunk_size: 8192", "gzip")
            .shows([PACKED, "< body (gzip) (144000 bytes, *"]),
        with("gzip without compressing", "gzip", "compression_strategy: HUFFMAN_ONLY", "gzip")
            .shows([PACKED, "< body (gzip) (144000 bytes, *"]),
        with("brotli packs a long response", "brotli", "", "br")
            .shows(["< content-encoding: br", "< body (br) (144000 bytes, *"]),
        with("brotli with its settings packs a long response", "brotli", "quality: 5, encoder_mode: TEXT, window_bits: 20, input_block_bits: 20, chunk_size: 4096, disable_literal_context_modeling: true", "br")
            .shows(["< content-encoding: br", "< body (br) (144000 bytes, *"]),
        with("zstd packs a long response", "zstd", "", "zstd")
            .shows(["< content-encoding: zstd", "< body (zstd) (144000 bytes, *"]),
        with("zstd with its settings packs a long response", "zstd", "compression_level: 7, enable_checksum: true, strategy: GREEDY, chunk_size: 4096", "zstd")
            .shows(["< content-encoding: zstd", "< body (zstd) (144000 bytes, *"]),
    ]
}

fn packed(kind: &str, bytes: &[u8]) -> Vec<u8> {
    match kind {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            out.write_all(bytes).expect("a vector takes all");
            out.finish().expect("a vector takes all")
        }
        "br" => {
            let mut out = Vec::new();
            let mut writer = brotli::CompressorWriter::new(&mut out, 4096, 5, 18);
            writer.write_all(bytes).expect("a vector takes all");
            drop(writer);
            out
        }
        _ => zstd::encode_all(bytes, 3).expect("a vector takes all"),
    }
}

fn decompressor() -> Vec<Case> {
    let library = |kind: &str, fields: &str| {
        let message = match kind {
            "gzip" => "gzip.decompressor.v3.Gzip",
            "br" => "brotli.decompressor.v3.Brotli",
            _ => "zstd.decompressor.v3.Zstd",
        };
        format!(
            "decompressor_library: {{ name: lib, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.compression.{message}, {fields} }} }}"
        )
    };
    let filter = |kind: &str, library_fields: &str, fields: &str| {
        format!(
            "- name: decompressor\n  typed_config: {{ \"@type\": \"@http/decompressor.v3.Decompressor\", {}, {fields} }}\n",
            library(kind, library_fields)
        )
    };
    let answering = |kind: &str, body: &[u8], fields: &str| {
        let mut response = with_fields(ok(""), &format!("content-encoding: {kind}\n{fields}"));
        response.body = packed(kind, body);
        reply(response)
    };
    let text = "hello ".repeat(40);
    let unpacks = |title, kind: &str| {
        case(title)
            .filters(&filter(kind, "", ""))
            .reply(answering(kind, text.as_bytes(), ""))
            .digits_aside()
            .hcm("http_protocol_options: { enable_trailers: true }")
    };
    let body = format!("< body {text}");
    let shows = |case: Case| {
        let mut case = case;
        case.shows.push(body.clone());
        case
    };
    let sending = |kind: &str, text: &str| {
        let mut post = request("POST", "/")
            .field("content-encoding", kind)
            .body("");
        post.body = Some(packed(kind, text.as_bytes()));
        post
    };
    let bomb = vec![b'a'; 2_000_000];
    let broken = |kind: &str| {
        let mut bytes = packed(kind, text.as_bytes());
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..] {
            *byte ^= 0x5a;
        }
        let mut response = with_fields(ok(""), &format!("content-encoding: {kind}"));
        response.body = bytes;
        reply(response)
    };
    vec![
        shows(unpacks("a gzip response is unpacked", "gzip").get("/").both()
            .stats(["http.@stat.decompressor.lib.gzip.response.decompressed", "http.@stat.decompressor.lib.gzip.response.total_uncompressed_bytes", "http.@stat.decompressor.lib.gzip.request.not_decompressed"]))
            .lacks(["< content-encoding*", "< content-length*"]),
        shows(unpacks("a brotli response is unpacked", "br").get("/").both()),
        shows(unpacks("a zstd response is unpacked", "zstd").get("/").both()),
        shows(case("codings in two lines are one list to the decompressor")
            .filters(&filter("gzip", "", ""))
            .reply(answering("gzip", text.as_bytes(), "content-encoding: br"))
            .digits_aside()
            .get("/"))
            .shows(["< content-encoding: br"]),
        unpacks("the decompressor asks the upstream for its encoding", "gzip").get("/").shows(["> accept-encoding: gzip"]),
        unpacks("the decompressor adds its encoding to those of the client", "gzip")
            .send(asking("br, deflate;q=0.5"))
            .send(asking("gzip;q=0, br"))
            .send(asking("*"))
            .shows(["> accept-encoding: br,deflate;q=0.5,gzip"]),
        case("the decompressor need not ask")
            .filters(&filter("gzip", "", "request_direction_config: { advertise_accept_encoding: false }"))
            .get("/")
            .shows(["< body hello"])
            .lacks(["> accept-encoding*"]),
        shows(case("a request is unpacked").filters(&filter("gzip", "", "")).reply(reply(ok(&text))).digits_aside()
            .send(sending("gzip", "hello hello hello hello"))
            .both()
            .stats(["http.@stat.decompressor.lib.gzip.request.decompressed"]))
            .shows(["> body hello hello hello hello"]),
        unpacks("an encoding of another kind stays", "gzip")
            .reply(answering("br", text.as_bytes(), ""))
            .get("/")
            .shows(["< content-encoding: br"]),
        unpacks("of several encodings the outermost is unpacked", "gzip")
            .replies([
                { let mut r = with_fields(ok(""), "content-encoding: br, gzip"); r.body = packed("gzip", &packed("br", text.as_bytes())); reply(r) },
                { let mut r = with_fields(ok(""), "content-encoding: gzip, br"); r.body = packed("br", &packed("gzip", text.as_bytes())); reply(r) },
            ])
            .get("/")
            .get("/")
            .shows(["< 200"]),
        unpacks("no-transform keeps a response packed", "gzip")
            .reply(answering("gzip", text.as_bytes(), "cache-control: no-transform"))
            .get("/")
            .shows(["< content-encoding: gzip"]),
        shows(case("ignore_no_transform_header unpacks it all the same")
            .filters(&filter("gzip", "", "response_direction_config: { common_config: { ignore_no_transform_header: true } }"))
            .reply(answering("gzip", text.as_bytes(), "cache-control: no-transform"))
            .digits_aside()
            .get("/")),
        case("a direction that is off by its default unpacks nothing")
            .filters(&filter("gzip", "", "response_direction_config: { common_config: { enabled: { default_value: false, runtime_key: a.no } } }"))
            .reply(answering("gzip", text.as_bytes(), ""))
            .digits_aside()
            .get("/")
            .shows(["< content-encoding: gzip"])
            .lacks(["> accept-encoding*"]),
        unpacks("a response to HEAD is not touched", "gzip")
            .send(request("HEAD", "/"))
            .shows(["< content-encoding: gzip"]),
        unpacks("a gzip response that is broken ends where it breaks", "gzip")
            .reply(broken("gzip"))
            .get("/")
            .stats(["http.@stat.decompressor.lib.gzip.decompressor_library.zlib_data_error"])
            .shows(["< 200"]),
        unpacks("a brotli response that is broken ends where it breaks", "br")
            .reply(broken("br"))
            .get("/")
            .stats(["http.@stat.decompressor.lib.brotli.decompressor_library.brotli_error"])
            .shows(["< 200"]),
        unpacks("a zstd response that is broken ends where it breaks", "zstd")
            .reply(broken("zstd"))
            .get("/")
            .stats(["http.@stat.decompressor.lib.zstd.decompressor_library.zstd_generic_error"])
            .shows(["< 200"]),
        unpacks("text that is not packed at all", "gzip")
            .reply(reply(with_fields(ok("hello"), "content-encoding: gzip")))
            .get("/")
            .stats(["http.@stat.decompressor.lib.gzip.decompressor_library.zlib_data_error"])
            .shows(["< 200"]),
        unpacks("a gzip bomb is cut off", "gzip")
            .reply(answering("gzip", &bomb, ""))
            .get("/")
            .stats(["http.@stat.decompressor.lib.gzip.decompressor_library.zlib_data_error"])
            .shows(["< 200"]),
        case("max_inflate_ratio says what a bomb is")
            .filters(&filter("gzip", "max_inflate_ratio: 2", ""))
            .reply(answering("gzip", &[b'a'; 50_000], ""))
            .digits_aside()
            .get("/")
            .shows(["< 200"]),
        unpacks("a brotli bomb is cut off", "br")
            .reply(answering("br", &bomb, ""))
            .get("/")
            .shows(["< 200", "< trailer x-envoy-decompressor-lib-uncompressed-bytes: 20480"])
            .deviates("what passes of a brotli bomb is 100 times its length, and no chunk more"),
        unpacks("a zstd response of which much comes of little", "zstd")
            .reply(answering("zstd", &bomb, ""))
            .get("/")
            .shows(["< 200", "< trailer x-envoy-decompressor-lib-uncompressed-bytes: 131072"])
            .deviates("Envoy loses what the library still holds when the last byte was given to it"),
        unpacks("what follows the end of a gzip stream", "gzip")
            .reply({ let mut r = with_fields(ok(""), "content-encoding: gzip"); r.body = [packed("gzip", b"one"), packed("gzip", b"two")].concat(); reply(r) })
            .get("/")
            .shows(["< 200"]),
        unpacks("a response with trailers gets the sums beside them", "gzip")
            .reply({
                let mut r = with_trailers(with_fields(ok(""), "content-encoding: gzip"), "x-t: 1");
                r.body = packed("gzip", text.as_bytes());
                reply(r)
            })
            .protocol_options("explicit_http_config: { http_protocol_options: { enable_trailers: true } }")
            .get("/")
            .both()
            .shows(["< trailer x-t: 1"]),
        unpacks("content-encoding in capital letters", "gzip")
            .reply({ let mut r = with_fields(ok(""), "content-encoding: GZIP"); r.body = packed("gzip", text.as_bytes()); reply(r) })
            .get("/")
            .shows(["< 200"]),
        unpacks("a response that ends too early", "gzip")
            .reply({ let mut r = with_fields(ok(""), "content-encoding: gzip"); r.body = packed("gzip", text.as_bytes()); r.body.truncate(20); reply(r) })
            .get("/")
            .shows(["< 200"]),
    ]
}
