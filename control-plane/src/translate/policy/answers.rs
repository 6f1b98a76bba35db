//! What becomes of bodies and answers: how long they may be and how fast they go, what stands in for them, compression.

use serde_json::{Value as Json, json};

use super::EXTENSIONS;
use crate::model::{BandwidthSpec, Compression, Direction, ErrorAnswer, Scalar};
use crate::translate::typed;

pub(super) const BANDWIDTH: &str = "envoy.filters.http.bandwidth_limit";
pub(super) const BODY: &str = "envoy.filters.http.buffer";
pub(super) const ERRORS: &str = "envoy.filters.http.custom_response";

/// Where no route says how long a body may be.
pub(super) fn no_body() -> (String, Json) {
    let message = format!("{EXTENSIONS}.buffer.v3.Buffer");
    (message, json!({"max_request_bytes": 1}))
}

pub(super) fn body(bytes: u32) -> Json {
    typed(
        &format!("{EXTENSIONS}.buffer.v3.BufferPerRoute"),
        json!({"buffer": {"max_request_bytes": bytes}}),
    )
}

/// Where no route says how fast.
pub(super) fn no_bandwidth() -> (String, Json) {
    let message = format!("{EXTENSIONS}.bandwidth_limit.v3.BandwidthLimit");
    (message, json!({"stat_prefix": "gateway"}))
}

pub(super) fn bandwidth(spec: &BandwidthSpec) -> Json {
    let has = |direction| spec.of.is_empty() || spec.of.contains(&direction);
    let mode = match (has(Direction::Requests), has(Direction::Responses)) {
        (true, false) => "REQUEST",
        (false, true) => "RESPONSE",
        _ => "REQUEST_AND_RESPONSE",
    };
    let (message, mut config) = no_bandwidth();
    config["enable_mode"] = json!(mode);
    config["limit_kbps"] = json!(spec.kib_per_second);
    typed(&message, config)
}

/// Where no route says what stands in.
pub(super) fn no_errors() -> (String, Json) {
    let message = format!("{EXTENSIONS}.custom_response.v3.CustomResponse");
    (message, json!({}))
}

pub(super) fn errors(errors: &[ErrorAnswer]) -> Json {
    let matchers: Vec<_> = errors
        .iter()
        .map(|error| {
            let mut any: Vec<_> = error.statuses.iter().map(has_status).collect();
            let predicate = match any.len() {
                1 => any.remove(0),
                _ => json!({"or_matcher": {"predicate": any}}),
            };
            json!({"predicate": predicate, "on_match": {"action": stand_in(error)}})
        })
        .collect();
    let (message, mut config) = no_errors();
    config["custom_response_matcher"] = json!({"matcher_list": {"matchers": matchers}});
    typed(&message, config)
}

fn has_status(status: &Scalar) -> Json {
    let (input, value) = match status {
        Scalar::Text(class) => ("HttpResponseStatusCodeClassMatchInput", class.clone()),
        Scalar::Number(code) => ("HttpResponseStatusCodeMatchInput", code.to_string()),
        Scalar::Bool(truth) => ("HttpResponseStatusCodeMatchInput", truth.to_string()),
    };
    json!({"single_predicate": {
        "input": {
            "name": "status",
            "typed_config": typed(&format!("envoy.type.matcher.v3.{input}"), json!({})),
        },
        "value_match": {"exact": value},
    }})
}

fn stand_in(error: &ErrorAnswer) -> Json {
    let content_type = error.content_type.as_deref().unwrap_or("text/plain");
    let content_type = ("content-type", content_type);
    let headers = error
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value));
    let headers: Vec<_> = std::iter::once(content_type)
        .chain(headers)
        .map(|(name, value)| {
            json!({
                "header": {"key": name, "value": value.replace('%', "%%")},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            })
        })
        .collect();
    let mut policy = json!({
        "body": {"inline_string": error.body},
        "response_headers_to_add": headers,
    });
    if let Some(status) = error.status {
        policy["status_code"] = json!(status);
    }
    let message =
        "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
    json!({"name": "answer", "typed_config": typed(message, policy)})
}

pub(super) fn compressor_name(algorithm: Compression) -> String {
    format!("outrigger.filters.http.compressor/{}", word(algorithm))
}

fn word(algorithm: Compression) -> &'static str {
    match algorithm {
        Compression::Brotli => "brotli",
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
    }
}

pub(super) fn compressor(algorithm: Compression) -> (String, Json) {
    let message = match algorithm {
        Compression::Brotli => "brotli.compressor.v3.Brotli",
        Compression::Zstd => "zstd.compressor.v3.Zstd",
        Compression::Gzip => "gzip.compressor.v3.Gzip",
    };
    let library = format!("envoy.extensions.compression.{message}");
    let config = json!({
        "response_direction_config": {},
        "choose_first": algorithm == Compression::Brotli,
        "compressor_library": {"name": word(algorithm), "typed_config": typed(&library, json!({}))},
    });
    (format!("{EXTENSIONS}.compressor.v3.Compressor"), config)
}
