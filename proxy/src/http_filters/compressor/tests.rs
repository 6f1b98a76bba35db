use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use outrigger_proto::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use outrigger_proto::pb::envoy::extensions::filters::http::compressor::v3 as pb;
use pb::compressor::{RequestDirectionConfig, ResponseDirectionConfig};

use super::super::test_support::{Harness, TestStream, any, errors};
use super::*;

fn gzip() -> Option<TypedExtensionConfig> {
    Some(TypedExtensionConfig {
        name: "lib".to_owned(),
        typed_config: Some(any(&Gzip::default())),
    })
}

fn compressor(response: ResponseDirectionConfig) -> pb::Compressor {
    pb::Compressor {
        compressor_library: gzip(),
        response_direction_config: Some(response),
        ..Default::default()
    }
}

/// A response of this type on its way to a client that takes gzip.
fn answer(harness: &Harness, fields: &[(&str, &str)]) -> TestStream {
    let mut stream = harness.stream_with(&[("accept-encoding", "gzip")]);
    let _ = stream.decode_headers(true);
    for (name, value) in fields {
        stream.response.fields.append(*name, value);
    }
    let _ = stream.encode_headers(false);
    stream
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut out = Vec::new();
    let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut out);
    out
}

#[test]
fn a_response_in_pieces_is_packed_as_it_comes() {
    let harness = Harness::new(&compressor(ResponseDirectionConfig::default()));
    let mut stream = answer(&harness, &[("content-length", "100"), ("etag", "\"1\"")]);
    let fields = &stream.response.fields;
    assert_eq!(fields.get_str("content-encoding"), Some("gzip"));
    assert_eq!(fields.get_str("vary"), Some("Accept-Encoding"));
    assert!(!fields.contains("content-length") && !fields.contains("etag"));
    let (_, first) = stream.encode_data("hello ", false);
    assert_eq!(unpacked(&first), b"hello ");
    let (_, empty) = stream.encode_data("", false);
    assert!(empty.is_empty());
    let (_, last) = stream.encode_data("world", true);
    assert_eq!(unpacked(&[first, last].concat()), b"hello world");
    let stat = |name: &str| harness.stat(&format!("http.test.compressor.lib.gzip.{name}"));
    assert_eq!(stat("response.total_uncompressed_bytes"), 11);
    assert_eq!(
        (stat("response.compressed"), stat("header_compressor_used")),
        (1, 1)
    );
}

#[test]
fn trailers_end_what_is_packed() {
    let harness = Harness::new(&compressor(ResponseDirectionConfig::default()));
    let mut stream = answer(&harness, &[]);
    let (_, first) = stream.encode_data("hello", false);
    let _ = stream.encode_trailers(&mut Fields::new());
    let last = stream.take_injected();
    assert_eq!(unpacked(&[&first[..], &last].concat()), b"hello");
    assert!(!last.is_empty());
}

#[test]
fn a_response_that_is_left_alone_keeps_its_bytes() {
    let harness = Harness::new(&compressor(ResponseDirectionConfig::default()));
    for fields in [
        &[("content-type", "image/png")][..],
        &[("content-length", "29")],
        &[("content-encoding", "br")],
        &[("cache-control", "private, No-Transform")],
    ] {
        let mut stream = answer(&harness, fields);
        let (_, data) = stream.encode_data("hello", true);
        assert_eq!(&data[..], b"hello", "{fields:?}");
        assert!(!stream.response.fields.contains("vary"));
    }
}

#[test]
fn a_route_may_have_a_library_of_its_own() {
    let route = pb::CompressorPerRoute {
        r#override: Some(pb::compressor_per_route::Override::Overrides(
            pb::CompressorOverrides {
                compressor_library: Some(TypedExtensionConfig {
                    name: "other".to_owned(),
                    typed_config: Some(any(&Brotli::default())),
                }),
                ..Default::default()
            },
        )),
    };
    let harness = Harness::with_route(&compressor(ResponseDirectionConfig::default()), &route);
    let mut stream = harness.stream_with(&[("accept-encoding", "br")]);
    let _ = stream.decode_headers(true);
    let _ = stream.encode_headers(false);
    assert_eq!(
        stream.response.fields.get_str("content-encoding"),
        Some("br")
    );
    assert_eq!(
        harness.stat("http.test.compressor.lib.gzip.response.compressed"),
        1
    );
}

#[test]
fn a_request_is_packed_where_its_direction_is_configured() {
    let config = pb::Compressor {
        request_direction_config: Some(RequestDirectionConfig::default()),
        ..compressor(ResponseDirectionConfig::default())
    };
    let harness = Harness::new(&config);
    let mut stream = harness.stream_with(&[("content-length", "50")]);
    let _ = stream.decode_headers(false);
    assert_eq!(
        stream.request.fields.get_str("content-encoding"),
        Some("gzip")
    );
    assert!(!stream.request.fields.contains("content-length"));
    let _ = stream.decode_data(&"a".repeat(50), true);
    let prefix = "http.test.compressor.lib.gzip.request.";
    assert_eq!(
        harness.stat(&format!("{prefix}total_uncompressed_bytes")),
        50
    );
    assert!(harness.stat(&format!("{prefix}total_compressed_bytes")) < 40);
}

#[test]
fn a_configuration_needs_a_library_that_is_known() {
    let none = pb::Compressor::default();
    assert_eq!(
        errors(&none),
        ["config / compressor_library: has to be set"]
    );
    let unknown = pb::Compressor {
        compressor_library: Some(TypedExtensionConfig {
            name: "x".to_owned(),
            typed_config: Some(any(&none)),
        }),
        ..Default::default()
    };
    let found = errors(&unknown);
    assert!(
        found.iter().any(|e| e.contains("compressor_library")),
        "{found:?}"
    );
}
