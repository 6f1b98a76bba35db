//! What differs between the two directions of a chain.

use bytes::{Bytes, BytesMut};

use super::ChainEnv;
use crate::http::{EndStream, Fields};
use crate::http_filters::{
    DataStatus, HeadersStatus, HttpFilter, Interests, StreamContext, TrailersStatus,
};

/// Request direction: filters in order.
#[derive(Debug)]
pub struct Decode;
/// Response direction: filters in reverse.
#[derive(Debug)]
pub struct Encode;

/// What differs between the directions: the order of the filters and the names of their methods.
pub trait Direction {
    /// Which of these the direction calls.
    const HEADERS: Interests;
    /// See `HEADERS`.
    const DATA: Interests;
    /// See `HEADERS`.
    const TRAILERS: Interests;
    /// The filter that is met at `position` of `len`.
    fn index(position: usize, len: usize) -> usize;
    /// `decode_headers` or `encode_headers`; or the resuming one.
    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus;
    /// `decode_data` or `encode_data`.
    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus;
    /// `resume_decode_data` or `resume_encode_data`.
    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus;
    /// `decode_trailers` or `encode_trailers`.
    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus;
    /// `resume_decode_trailers`; those of a response go on.
    fn resume_trailers(filter: &mut dyn HttpFilter, cx: &mut StreamContext<'_>) -> TrailersStatus;
}

impl Direction for Decode {
    const HEADERS: Interests = Interests::DECODE_HEADERS;
    const DATA: Interests = Interests::DECODE_DATA;
    const TRAILERS: Interests = Interests::DECODE_TRAILERS;

    fn index(position: usize, _len: usize) -> usize {
        position
    }

    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus {
        let mut cx = StreamContext {
            info: env.info,
            worker: env.worker,
            request: None,
            response: env.response.as_mut(),
            effects: env.effects,
            slot,
        };
        if resume {
            filter.resume_decode(&mut cx, env.request)
        } else {
            filter.decode_headers(&mut cx, env.request, end)
        }
    }

    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        filter.decode_data(cx, data, end)
    }

    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        filter.resume_decode_data(cx, buffer, end)
    }

    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        filter.decode_trailers(cx, trailers)
    }

    fn resume_trailers(filter: &mut dyn HttpFilter, cx: &mut StreamContext<'_>) -> TrailersStatus {
        filter.resume_decode_trailers(cx)
    }
}

impl Direction for Encode {
    const HEADERS: Interests = Interests::ENCODE_HEADERS;
    const DATA: Interests = Interests::ENCODE_DATA;
    const TRAILERS: Interests = Interests::ENCODE_TRAILERS;

    fn index(position: usize, len: usize) -> usize {
        len - 1 - position
    }

    fn headers(
        filter: &mut dyn HttpFilter,
        env: &mut ChainEnv<'_>,
        slot: Option<usize>,
        end: EndStream,
        resume: bool,
    ) -> HeadersStatus {
        let Some(head) = env.response.as_mut() else {
            return HeadersStatus::Continue;
        };
        let mut cx = StreamContext {
            info: env.info,
            worker: env.worker,
            request: Some(env.request),
            response: None,
            effects: env.effects,
            slot,
        };
        if resume {
            filter.resume_encode(&mut cx, head)
        } else {
            filter.encode_headers(&mut cx, head, end)
        }
    }

    fn data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        filter.encode_data(cx, data, end)
    }

    fn resume_data(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        buffer: &mut BytesMut,
        end: EndStream,
    ) -> DataStatus {
        filter.resume_encode_data(cx, buffer, end)
    }

    fn trailers(
        filter: &mut dyn HttpFilter,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        filter.encode_trailers(cx, trailers)
    }

    fn resume_trailers(_: &mut dyn HttpFilter, _: &mut StreamContext<'_>) -> TrailersStatus {
        TrailersStatus::Continue
    }
}
