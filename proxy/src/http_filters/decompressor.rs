//! `envoy.filters.http.decompressor`: unpacks requests and responses, and asks upstreams for packed ones.
//!
//! Type URL: `envoy.extensions.filters.http.decompressor.v3.Decompressor`; libraries
//! `envoy.extensions.compression.{gzip,brotli,zstd}.decompressor.v3.{Gzip,Brotli,Zstd}`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/decompressor_filter>
//! Stats: `<prefix>decompressor.<library name>.<gzip|brotli|zstd>.{request,response}.{decompressed,not_decompressed,`
//! `total_compressed_bytes,total_uncompressed_bytes}`, `….decompressor_library.{zlib,brotli,zstd}_…error`.
//! Trailers: `x-envoy-decompressor-<library name>-{compressed,uncompressed}-bytes`.
//!
//! A body that cannot be unpacked ends where it breaks, as if that were all.
//!
//! Deviations: zstd gives all of a body whose last piece unpacks to much, of which Envoy loses the end; but no more than 100 times
//! the length of a piece, or 1 MiB where that is more; and no window of more than 8 MiB (RFC 9659).
//! Deviations: what passes of a brotli bomb is 100 times the length of its piece, and no chunk more.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::decompressor::v3 as pb;
use pb::decompressor::{CommonDirectionConfig, RequestDirectionConfig, ResponseDirectionConfig};

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::compression::{Decoder, DecoderStats, DecompressorLibrary};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, HeaderName, Known, RequestHead, ResponseHead};
use crate::runtime::RuntimeFlag;
use crate::server::{FactoryContext, Worker};
use crate::stats::Scope;

/// Makes decompressors.
pub(super) struct Factory;

const CONTENT_ENCODING: &str = "content-encoding";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.decompressor"
    }

    fn supports_upstream(&self) -> bool {
        true
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.decompressor.v3.Decompressor"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(Shared(Arc::new(config))))
    }
}

crate::stats_group! {
    /// What the filter does in one direction.
    struct DirectionStats {
        counter decompressed;
        counter not_decompressed;
        counter total_compressed_bytes;
        counter total_uncompressed_bytes;
    }
}

struct Config {
    library: DecompressorLibrary,
    library_stats: DecoderStats,
    request: Direction,
    response: Direction,
    /// The upstream is told that packed responses are welcome. Default true.
    advertise_accept_encoding: bool,
    compressed_bytes: HeaderName,
    uncompressed_bytes: HeaderName,
}

struct Direction {
    enabled: RuntimeFlag,
    ignore_no_transform_header: bool,
    stats: DirectionStats,
}

impl Config {
    fn from_proto(
        proto: pb::Decompressor,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Decompressor {
            decompressor_library,
            request_direction_config,
            response_direction_config,
        } = proto;
        let library = path
            .required("decompressor_library", decompressor_library)
            .and_then(|l| DecompressorLibrary::from_proto(l, &path.field("decompressor_library")));
        let RequestDirectionConfig {
            common_config: request,
            advertise_accept_encoding,
        } = request_direction_config.unwrap_or_default();
        let ResponseDirectionConfig {
            common_config: response,
        } = response_direction_config.unwrap_or_default();
        let (name, library) = library?;
        let scope = cx
            .scope
            .scope(&format!("decompressor.{name}.{}.", library.stats_name()));
        let direction = |proto, word, path: &ConfigPath<'_>| {
            Direction::from_proto(proto, cx, &scope.scope(word), &path.field("common_config"))
        };
        let request = direction(request, "request.", &path.field("request_direction_config"));
        let path = path.field("response_direction_config");
        let response = direction(response, "response.", &path);
        Ok(Self {
            library_stats: library.stats(&scope.scope("decompressor_library.")),
            library,
            request: request?,
            response: response?,
            advertise_accept_encoding: advertise_accept_encoding.is_none_or(|a| a.value),
            compressed_bytes: HeaderName::new(format!(
                "x-envoy-decompressor-{name}-compressed-bytes"
            )),
            uncompressed_bytes: HeaderName::new(format!(
                "x-envoy-decompressor-{name}-uncompressed-bytes"
            )),
        })
    }
}

impl Direction {
    fn from_proto(
        proto: Option<CommonDirectionConfig>,
        cx: &FactoryContext<'_>,
        scope: &Scope,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let CommonDirectionConfig {
            enabled,
            ignore_no_transform_header,
        } = proto.unwrap_or_default();
        let enabled = path.optional("enabled", enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        Ok(Self {
            enabled: enabled?.unwrap_or_else(|| cx.server.runtime.flag("", true)),
            ignore_no_transform_header,
            stats: DirectionStats::new(scope),
        })
    }
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self.0.clone());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Decompressor {
                config: config.clone(),
                request: None,
                response: None,
            })
        })
    }
}

struct Decompressor {
    config: Rc<Arc<Config>>,
    request: Option<Body>,
    response: Option<Body>,
}

/// A body that is unpacked.
struct Body {
    decoder: Box<dyn Decoder>,
    compressed: u64,
    uncompressed: u64,
}

impl HttpFilter for Decompressor {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        let config = &**self.config;
        if config.advertise_accept_encoding && config.response.enabled.get() {
            advertise(&mut head.fields, config.library.content_encoding());
        }
        if !end.is_end() {
            self.request = begin(config, &config.request, &mut head.fields);
        }
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        if let Some(body) = &mut self.request {
            body.unpack(&self.config, &self.config.request, cx, data, end);
        }
        DataStatus::Continue
    }

    fn decode_trailers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if let Some(body) = &self.request {
            body.report(&self.config, trailers);
        }
        TrailersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        if !end.is_end() {
            let config = &**self.config;
            self.response = begin(config, &config.response, &mut head.fields);
        }
        HeadersStatus::Continue
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        if let Some(body) = &mut self.response {
            body.unpack(&self.config, &self.config.response, cx, data, end);
        }
        DataStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        if let Some(body) = &self.response {
            body.report(&self.config, trailers);
        }
        TrailersStatus::Continue
    }
}

impl Body {
    fn unpack(
        &mut self,
        config: &Config,
        direction: &Direction,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) {
        let mut out = Vec::new();
        self.decoder.decode(data, &mut out);
        let (packed, unpacked) = (data.len() as u64, out.len() as u64);
        self.compressed += packed;
        self.uncompressed += unpacked;
        direction.stats.total_compressed_bytes().add(packed);
        direction.stats.total_uncompressed_bytes().add(unpacked);
        *data = out.into();
        if end.is_end() {
            self.report(config, cx.add_trailers());
        }
    }

    fn report(&self, config: &Config, trailers: &mut Fields) {
        trailers.append(&config.compressed_bytes, self.compressed.to_string());
        trailers.append(&config.uncompressed_bytes, self.uncompressed.to_string());
    }
}

/// Begins to unpack a body, if its head asks for it.
fn begin(config: &Config, direction: &Direction, fields: &mut Fields) -> Option<Body> {
    let decoder = if direction.enabled.get()
        && (direction.ignore_no_transform_header || !has_no_transform(fields))
        && is_packed(fields, config.library.content_encoding())
    {
        config.library.decoder(&config.library_stats)
    } else {
        None
    };
    let Some(decoder) = decoder else {
        direction.stats.not_decompressed().inc();
        return None;
    };
    direction.stats.decompressed().inc();
    fields.remove(Known::ContentLength);
    drop_first_encoding(fields);
    Some(Body {
        decoder,
        compressed: 0,
        uncompressed: 0,
    })
}

fn has_no_transform(fields: &Fields) -> bool {
    fields.get(Known::CacheControl).is_some_and(|list| {
        list.split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    })
}

// Envoy differs from RFC 9110 here: it takes the first coding of the list for the outermost.
fn is_packed(fields: &Fields, encoding: &str) -> bool {
    let first = fields
        .get(CONTENT_ENCODING)
        .and_then(|list| list.split(|b| *b == b',').next());
    first.is_some_and(|first| first.trim_ascii().eq_ignore_ascii_case(encoding.as_bytes()))
}

fn drop_first_encoding(fields: &mut Fields) {
    let lines: Vec<&[u8]> = fields.get_all(CONTENT_ENCODING).collect();
    let value = lines.join(&b',');
    match value.iter().position(|b| *b == b',') {
        Some(comma) => {
            let rest = value[comma + 1..].trim_ascii().to_vec();
            fields.set(CONTENT_ENCODING, rest);
        }
        None => {
            fields.remove(CONTENT_ENCODING);
        }
    }
}

/// Adds an encoding to those that the client takes, with the greatest weight.
fn advertise(fields: &mut Fields, encoding: &str) {
    let value = fields.get(Known::AcceptEncoding).unwrap_or_default();
    let mut list = Vec::with_capacity(value.len() + 1 + encoding.len());
    for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        let name = token.split(|b| *b == b';').next().unwrap_or_default();
        if !token.is_empty() && name.trim_ascii() != encoding.as_bytes() {
            list.extend_from_slice(token);
            list.push(b',');
        }
    }
    list.extend_from_slice(encoding.as_bytes());
    fields.set(Known::AcceptEncoding, list);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_added_once_and_with_full_weight() {
        for (client, upstream) in [
            ("", "gzip"),
            ("br, deflate;q=0.5", "br,deflate;q=0.5,gzip"),
            ("gzip;q=0, br", "br,gzip"),
            ("*", "*,gzip"),
            (" , br ,", "br,gzip"),
        ] {
            let mut fields = Fields::new();
            fields.append(Known::AcceptEncoding, client);
            advertise(&mut fields, "gzip");
            assert_eq!(fields.get_str("accept-encoding"), Some(upstream));
        }
    }

    #[test]
    fn the_first_coding_of_a_list_goes() {
        for (before, after) in [
            ("gzip", None),
            ("gzip, br", Some("br")),
            (" GZIP ,br, x", Some("br, x")),
            ("gzip|br", Some("br")),
            ("gzip, br|x", Some("br,x")),
        ] {
            let mut fields = Fields::new();
            for line in before.split('|') {
                fields.append(CONTENT_ENCODING, line);
            }
            assert!(is_packed(&fields, "gzip"), "{before}");
            drop_first_encoding(&mut fields);
            assert_eq!(fields.get_str(CONTENT_ENCODING), after);
        }
    }
}
