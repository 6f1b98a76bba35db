//! What becomes of answers: compression.

use serde_json::{Value as Json, json};

use super::EXTENSIONS;
use crate::model::Compression;
use crate::translate::typed;

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
