//! `envoy.filters.http.compressor`: packs responses for clients that take it, and requests where that is asked for.
//!
//! Type URLs: `envoy.extensions.filters.http.compressor.v3.Compressor`, per route
//! `envoy.extensions.filters.http.compressor.v3.CompressorPerRoute`; libraries
//! `envoy.extensions.compression.{gzip,brotli,zstd}.compressor.v3.{Gzip,Brotli,Zstd}`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/compressor_filter>
//! Stats: `<prefix>compressor.<library name>.<gzip|brotli|zstd>.{header_compressor_overshadowed,header_compressor_used,`
//! `header_identity,header_not_valid,header_wildcard,no_accept_header,not_compressed_etag}`, and below it, in `request.` and
//! `response.` (or without a word for responses without `response_direction_config`), `{compressed,not_compressed,`
//! `content_length_too_small,total_compressed_bytes,total_uncompressed_bytes}`.
//!
//! Deviations: `chunk_size` of each library is accepted and changes nothing; gzip's `memory_level` and `window_bits` count for bodies
//! that come in pieces alone, and the window of others is 32 KiB.
//! Deviations: what is packed may differ in length; the end of a body stands in its last piece and not in one of its own.

mod choice;
mod config;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use self::choice::Choice;
use self::config::{Config, Direction, DirectionStats, PerRoute};
use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalReply, RouteFilterConfig, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::compression::{CompressorLibrary, EncodeError, Pool, Pooled};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};

/// Makes compressors.
pub(super) struct Factory;

const CONTENT_ENCODING: &str = "content-encoding";
const STATUS_HEADER: &str = "x-envoy-compression-status";

/// How many libraries of routes have a pool on a worker. Those beyond have encoders that serve one stream.
const MOST_ROUTE_POOLS: usize = 8;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.compressor"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.compressor.v3.Compressor"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.compressor.v3.CompressorPerRoute"]
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

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        Ok(Arc::new(PerRoute::from_proto(config.decode(path)?, path)?))
    }
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let shared = Rc::new(OnWorker {
            pool: Pool::new(self.0.library.clone()),
            of_routes: RefCell::default(),
            key: choice::KEY.into(),
            config: self.0.clone(),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Compressor {
                shared: shared.clone(),
                accept_encoding: None,
                request: None,
                response: None,
            })
        })
    }
}

/// What the streams of one worker share.
struct OnWorker {
    config: Arc<Config>,
    pool: Rc<Pool>,
    /// Of libraries that routes name.
    of_routes: RefCell<Vec<Rc<Pool>>>,
    key: Rc<str>,
}

impl OnWorker {
    /// The pool of the library that a stream of this route uses.
    fn pool(&self, route: Option<&PerRoute>) -> Rc<Pool> {
        let Some(library) = route.and_then(PerRoute::library) else {
            return self.pool.clone();
        };
        let mut pools = self.of_routes.borrow_mut();
        if let Some(pool) = pools.iter().find(|pool| pool.library() == library) {
            return pool.clone();
        }
        let pool = Pool::new(library.clone());
        if pools.len() < MOST_ROUTE_POOLS {
            pools.push(pool.clone());
        }
        pool
    }
}

struct Compressor {
    shared: Rc<OnWorker>,
    /// What the client takes, as it said it.
    accept_encoding: Option<Box<[u8]>>,
    request: Option<Pooled>,
    response: Option<Pooled>,
}

impl HttpFilter for Compressor {
    fn interests(&self) -> Interests {
        let response = Interests::DECODE_HEADERS
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS);
        match self.shared.config.request.is_some() {
            true => response
                .and(Interests::DECODE_DATA)
                .and(Interests::DECODE_TRAILERS),
            false => response,
        }
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        let shared = &*self.shared;
        let config = &*shared.config;
        let route = cx.route_config::<PerRoute>();
        if let Some(accepted) = head.fields.get(Known::AcceptEncoding) {
            self.accept_encoding = Some(accepted.into());
            let encoding = encoding_of(config, route);
            if config.response_enabled(route) && config.removes_accept_encoding(route) {
                head.fields.remove(Known::AcceptEncoding);
            }
            Choice::register(&mut cx.info.filter_state, &shared.key, config, encoding);
        }
        match &config.request {
            Some(direction) if !end.is_end() && is_request_to_pack(direction, &head.fields) => {
                let pool = shared.pool(cx.route_config());
                self.request = pool.take();
            }
            _ => {}
        }
        if self.request.is_none() {
            config.request_stats.not_compressed().inc();
            return HeadersStatus::Continue;
        }
        config.request_stats.compressed().inc();
        head.fields.remove(Known::ContentLength);
        let encoding = encoding_of(config, cx.route_config());
        head.fields.set(CONTENT_ENCODING, encoding);
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        _cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        pack(
            &mut self.request,
            &self.shared.config.request_stats,
            data,
            end,
        )
    }

    fn decode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _trailers: &mut Fields,
    ) -> TrailersStatus {
        finish(&mut self.request, &self.shared.config.request_stats, cx)
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        let shared = self.shared.clone();
        let config = &*shared.config;
        let stats = &config.response_stats;
        let verdict = match config.status_header_enabled {
            false => self.judge(cx, head, end),
            true => self.judge_and_say(cx, head, end),
        };
        if verdict.packs {
            self.response = shared.pool(cx.route_config()).take();
        }
        if self.response.is_some() {
            stats.compressed().inc();
            head.fields.remove(Known::ContentLength);
            let encoding = encoding_of(config, cx.route_config());
            head.fields.set(CONTENT_ENCODING, encoding);
            sanitize_etag(&mut head.fields, config.weaken_etag_on_compress);
        } else {
            stats.not_compressed().inc();
        }
        if verdict.varies {
            insert_vary(&mut head.fields);
        }
        HeadersStatus::Continue
    }

    fn encode_data(
        &mut self,
        _cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        pack(
            &mut self.response,
            &self.shared.config.response_stats,
            data,
            end,
        )
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _trailers: &mut Fields,
    ) -> TrailersStatus {
        finish(&mut self.response, &self.shared.config.response_stats, cx)
    }
}

/// What becomes of a response.
#[derive(Default)]
struct Verdict {
    packs: bool,
    /// Whether it would have been packed for another client.
    varies: bool,
}

impl Compressor {
    fn judge(
        &self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> Verdict {
        let config = &*self.shared.config;
        let fields = &head.fields;
        let eligible = config.response_enabled(cx.route_config())
            && is_long_enough(&config.response, &config.response_stats, fields);
        if !eligible {
            return Verdict::default();
        }
        let varies = head.status != 101
            && config.response.takes_content_type(fields)
            && !has_no_transform(fields)
            && self.takes_etag(fields)
            && !fields.contains(CONTENT_ENCODING)
            && !config.uncompressible_response_codes.contains(&head.status);
        let packs = !end.is_end()
            && self.is_accepted(cx, fields)
            && varies
            && takes_transfer_encoding(fields);
        Verdict { packs, varies }
    }

    /// As `judge`, in the order in which the reasons are told to the client.
    fn judge_and_say(
        &self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> Verdict {
        let config = &*self.shared.config;
        let fields = &head.fields;
        let eligible = config.response_enabled(cx.route_config())
            && head.status != 101
            && !has_no_transform(fields)
            && !fields.contains(CONTENT_ENCODING);
        if !eligible {
            return Verdict::default();
        }
        let long_enough = || is_long_enough(&config.response, &config.response_stats, fields);
        let code_taken = !config.uncompressible_response_codes.contains(&head.status);
        let mut verdict = Verdict::default();
        let mut status = None;
        if !end.is_end() {
            let encoding = encoding_of(config, cx.route_config());
            let what = if !long_enough() {
                Some("ContentLengthTooSmall")
            } else if !config.response.takes_content_type(fields) {
                Some("ContentTypeNotAllowed")
            } else if !self.takes_etag(fields) {
                Some("EtagNotAllowed")
            } else if !code_taken {
                Some("StatusCodeNotAllowed")
            } else {
                verdict.packs = self.is_accepted(cx, fields) && takes_transfer_encoding(fields);
                None
            };
            let length = fields.get_str(Known::ContentLength).unwrap_or_default();
            status = match what {
                Some(reason) => Some(format!("{encoding};{reason}")),
                None if verdict.packs => {
                    Some(format!("{encoding};Compressed;OriginalLength={length}"))
                }
                None => None,
            };
        }
        verdict.varies = long_enough()
            && config.response.takes_content_type(fields)
            && !config.disables_on_etag(fields)
            && code_taken;
        if let Some(status) = status {
            head.fields.append(STATUS_HEADER, status);
        }
        verdict
    }

    /// Whether the client takes what this filter makes. Counts why.
    fn is_accepted(&self, cx: &StreamContext<'_>, fields: &Fields) -> bool {
        let config = &*self.shared.config;
        let Some(accepted) = &self.accept_encoding else {
            config.stats.no_accept_header().inc();
            return false;
        };
        let encoding = encoding_of(config, cx.route_config());
        let content_type = fields.get(Known::ContentType);
        Choice::of(&cx.info.filter_state)
            .is_some_and(|choice| choice.is_for(encoding, accepted, content_type, &config.stats))
    }

    fn takes_etag(&self, fields: &Fields) -> bool {
        let config = &*self.shared.config;
        if config.disables_on_etag(fields) {
            config.stats.not_compressed_etag().inc();
            return false;
        }
        true
    }
}

/// The word in `content-encoding` that this filter writes on a route.
fn encoding_of(config: &Config, route: Option<&PerRoute>) -> &'static str {
    route.and_then(PerRoute::library).map_or(
        config.library.content_encoding(),
        CompressorLibrary::content_encoding,
    )
}

fn is_request_to_pack(direction: &Direction, fields: &Fields) -> bool {
    direction.enabled.get()
        && is_long_enough(direction, &direction.stats, fields)
        && direction.takes_content_type(fields)
        && !fields.contains(CONTENT_ENCODING)
        && takes_transfer_encoding(fields)
}

/// Whether a message says that it is long enough, or does not say how long it is. Counts those that are not.
fn is_long_enough(direction: &Direction, stats: &DirectionStats, fields: &Fields) -> bool {
    let Some(length) = fields.get_str(Known::ContentLength) else {
        return true;
    };
    let is = length
        .trim()
        .parse::<u64>()
        .is_ok_and(|length| length >= u64::from(direction.min_content_length));
    if !is {
        stats.content_length_too_small().inc();
    }
    is
}

fn has_no_transform(fields: &Fields) -> bool {
    has_token(fields.get(Known::CacheControl), b"no-transform")
}

fn takes_transfer_encoding(fields: &Fields) -> bool {
    let value = fields.get(Known::TransferEncoding);
    !has_token(value, b"gzip") && !has_token(value, b"deflate")
}

/// Whether a list with commas has a word, in any case.
fn has_token(list: Option<&[u8]>, word: &[u8]) -> bool {
    list.is_some_and(|list| {
        list.split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(word))
    })
}

/// A packed body is not the same bytes any more: a strong etag goes, or becomes a weak one.
fn sanitize_etag(fields: &mut Fields, weaken: bool) {
    const ETAG: &str = "etag";
    let Some(etag) = fields.get(ETAG) else { return };
    if let [b'w' | b'W', b'/', ..] = etag {
        return;
    }
    if weaken {
        let weak = [b"W/", etag].concat();
        fields.set(ETAG, weak);
    } else {
        fields.remove(ETAG);
    }
}

fn insert_vary(fields: &mut Fields) {
    const VARY: &str = "vary";
    const WORD: &str = "Accept-Encoding";
    let values: Vec<&[u8]> = fields.get_all(VARY).collect();
    if values.is_empty() {
        return fields.append(VARY, WORD);
    }
    let all = values.join(&b',');
    // Envoy differs from RFC 9110 here: it compares with regard to case.
    if !all
        .split(|b| *b == b',')
        .any(|token| token.trim_ascii() == WORD.as_bytes())
    {
        fields.set(VARY, [&all[..], b", ", WORD.as_bytes()].concat());
    }
}

fn pack(
    encoder: &mut Option<Pooled>,
    stats: &DirectionStats,
    data: &mut Bytes,
    end: EndStream,
) -> DataStatus {
    let Some(packing) = encoder else {
        return DataStatus::Continue;
    };
    if data.is_empty() && !end.is_end() {
        return DataStatus::Continue;
    }
    stats.total_uncompressed_bytes().add(data.len() as u64);
    let mut out = Vec::new();
    let packed = packing.encode(data, end.is_end(), &mut out);
    if end.is_end() {
        *encoder = None;
    }
    match packed {
        Ok(()) => {
            stats.total_compressed_bytes().add(out.len() as u64);
            *data = out.into();
            DataStatus::Continue
        }
        Err(EncodeError) => DataStatus::LocalReply(LocalReply::new(500, "compression_failed")),
    }
}

/// Ends what is packed before trailers.
fn finish(
    encoder: &mut Option<Pooled>,
    stats: &DirectionStats,
    cx: &mut StreamContext<'_>,
) -> TrailersStatus {
    let Some(mut packing) = encoder.take() else {
        return TrailersStatus::Continue;
    };
    let mut out = Vec::new();
    match packing.encode(b"", true, &mut out) {
        Ok(()) => {
            stats.total_compressed_bytes().add(out.len() as u64);
            cx.inject_data(out.into(), EndStream::No);
            TrailersStatus::Continue
        }
        Err(EncodeError) => TrailersStatus::LocalReply(LocalReply::new(500, "compression_failed")),
    }
}
