//! `envoy.filters.http.grpc_web`: lets browsers call gRPC services, whose trailers they could not read.
//!
//! Type URL: `envoy.extensions.filters.http.grpc_web.v3.GrpcWeb` (empty).
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/grpc_web_filter>
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>
//! Stats: `cluster.<name>.grpc-web.<service>.<method>.{<status>,success,failure,total}`.
//! Details: `grpc_base_64_decode_failed_bad_size`, `grpc_base_64_decode_failed`.
//!
//! Deviations: a frame that never ends is sent on as far as it came; Envoy holds it back.
//! Deviations: a worker counts the first 1000 methods of all clusters, and 32 statuses of each that are no number of gRPC's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::grpc_web::v3 as pb;

use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalReply, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{
    EndStream, Fields, Known, RequestHead, ResponseHead, grpc_status_of, percent_encode,
};
use crate::server::{FactoryContext, Worker};
use crate::stats::Counter;
use crate::stream_info::StreamInfo;

/// Makes gRPC-Web filters.
pub(super) struct Factory;

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const WEB_PROTO: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
const TEXT_PROTO: &str = "application/grpc-web-text+proto";

/// The flag of a frame that has trailers.
const TRAILERS_FRAME: u8 = 0x80;

/// The longest `grpc-message` that is made of a body in several pieces, in bytes.
const MOST_MESSAGE: usize = 16 * 1024;

/// How many methods a worker counts.
const MOST_METHODS: usize = 1000;
/// How many statuses of a method it counts.
const MOST_STATUSES: usize = 32;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.grpc_web"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::GrpcWeb {} = config.decode(path)?;
        Ok(Arc::new(Config))
    }
}

struct Config;

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let stats = Rc::<Stats>::default();
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(GrpcWeb {
                stats: stats.clone(),
                call: None,
            })
        })
    }
}

/// The counters of one worker, by the prefix of their names.
#[derive(Default)]
struct Stats(RefCell<HashMap<Box<str>, HashMap<Box<[u8]>, Counter>>>);

impl Stats {
    /// Counts a status that a call has ended with.
    fn charge(&self, call: &Call, status: &[u8], info: &StreamInfo) {
        let (Some(cluster), Some(method)) = (&info.cluster, &call.method) else {
            return;
        };
        let cluster = cluster.info();
        let prefix = format!("{}{method}", cluster.scope.prefix());
        let mut methods = self.0.borrow_mut();
        if methods.len() >= MOST_METHODS && !methods.contains_key(&*prefix) {
            return;
        }
        let counters = methods.entry(prefix.into()).or_default();
        let outcome: &[u8] = if status == b"0" {
            b"success"
        } else {
            b"failure"
        };
        for name in [status, outcome, b"total"] {
            if counters.len() < MOST_STATUSES + 3 || counters.contains_key(name) {
                let text = String::from_utf8_lossy(name);
                let make = || cluster.scope.counter(&format!("{method}{text}"));
                counters.entry(name.into()).or_insert_with(make).inc();
            }
        }
    }
}

struct GrpcWeb {
    stats: Rc<Stats>,
    /// None: the request is none of gRPC-Web.
    call: Option<Box<Call>>,
}

/// One call of a browser.
#[derive(Default)]
struct Call {
    /// `grpc-web.<service>.<method>.`
    method: Option<Box<str>>,
    /// Of a request in base64: what has come of the next four digits.
    digits: Option<Vec<u8>>,
    /// Of a response in base64.
    text: Option<TextFrames>,
    /// The answer is not gRPC's: its body becomes the message of a status.
    message: Option<Vec<u8>>,
}

impl HttpFilter for GrpcWeb {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::ENCODE_DATA)
            .and(Interests::ENCODE_TRAILERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let content_type = head.fields.get_str(Known::ContentType);
        let is_text = match content_type {
            Some(WEB | WEB_PROTO) => false,
            Some(TEXT | TEXT_PROTO) => true,
            _ => return HeadersStatus::Continue,
        };
        if head.path().is_none() {
            return HeadersStatus::Continue;
        }
        let wants_text = matches!(head.fields.get_str(Known::Accept), Some(TEXT | TEXT_PROTO));
        self.call = Some(Box::new(Call {
            method: method_of(head),
            digits: is_text.then(Vec::new),
            text: wants_text.then(TextFrames::default),
            message: None,
        }));
        cx.info.plain_local_replies = true;
        head.fields.remove(Known::ContentLength);
        head.fields.set(Known::ContentType, GRPC);
        head.fields.set(Known::Te, "trailers");
        if !head.fields.contains(Known::GrpcAcceptEncoding) {
            head.fields.append(Known::GrpcAcceptEncoding, "identity");
        }
        HeadersStatus::Continue
    }

    fn decode_data(
        &mut self,
        _cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let digits = self.call.as_mut().and_then(|call| call.digits.as_mut());
        let Some(digits) = digits else {
            return DataStatus::Continue;
        };
        digits.extend_from_slice(data);
        let whole = digits.len() / 4 * 4;
        if end.is_end() && whole != digits.len() {
            return bad_base64("grpc_base_64_decode_failed_bad_size");
        }
        if whole == 0 {
            *data = Bytes::new();
            return match end {
                EndStream::Yes => DataStatus::Continue,
                EndStream::No => DataStatus::StopIterationNoBuffer,
            };
        }
        let Ok(decoded) = STANDARD.decode(&digits[..whole]) else {
            return bad_base64("grpc_base_64_decode_failed");
        };
        digits.drain(..whole);
        *data = decoded.into();
        DataStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        end: EndStream,
    ) -> HeadersStatus {
        let Some(call) = &mut self.call else {
            return HeadersStatus::Continue;
        };
        if let Some(status) = head.fields.get(Known::GrpcStatus) {
            self.stats.charge(call, status, cx.info);
        }
        let passes = end.is_end() || (head.status == 200 && (head.is_grpc() || is_web(head)));
        head.fields.remove(Known::ContentLength);
        let content_type = if call.text.is_some() {
            TEXT_PROTO
        } else {
            WEB_PROTO
        };
        head.fields.set(Known::ContentType, content_type);
        if passes {
            return HeadersStatus::Continue;
        }
        call.message = Some(Vec::new());
        HeadersStatus::StopIteration
    }

    fn encode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Some(call) = &mut self.call else {
            return DataStatus::Continue;
        };
        if let Some(message) = &mut call.message {
            if message.is_empty() && end.is_end() {
                message.extend_from_slice(data);
            } else {
                let room = MOST_MESSAGE.saturating_sub(message.len());
                message.extend_from_slice(&data[..data.len().min(room)]);
            }
            *data = Bytes::new();
            if !end.is_end() {
                return DataStatus::StopIterationNoBuffer;
            }
            call.write_message(cx.response.as_deref_mut());
            return DataStatus::Continue;
        }
        if let Some(text) = &mut call.text {
            let mut out = String::new();
            text.encode(data, &mut out);
            if end.is_end() {
                text.finish(&mut out);
            }
            *data = out.into();
            if data.is_empty() && !end.is_end() {
                return DataStatus::StopIterationNoBuffer;
            }
        }
        DataStatus::Continue
    }

    fn encode_trailers(
        &mut self,
        cx: &mut StreamContext<'_>,
        trailers: &mut Fields,
    ) -> TrailersStatus {
        let Some(call) = &mut self.call else {
            return TrailersStatus::Continue;
        };
        if let Some(status) = trailers.get(Known::GrpcStatus) {
            self.stats.charge(call, status, cx.info);
        }
        if call.message.is_some() {
            call.write_message(cx.response.as_deref_mut());
            return TrailersStatus::Continue;
        }
        let mut lines = Vec::new();
        for (name, value) in trailers.iter() {
            lines.extend_from_slice(&[name, b":", value, b"\r\n"].concat());
        }
        trailers.clear();
        let mut frame = vec![TRAILERS_FRAME];
        let length = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&lines);
        let mut data = Vec::new();
        match &mut call.text {
            Some(text) => {
                let mut out = String::new();
                text.finish(&mut out);
                out.push_str(&STANDARD.encode(frame));
                data.extend_from_slice(out.as_bytes());
            }
            None => data = frame,
        }
        cx.inject_data(data.into(), EndStream::No);
        TrailersStatus::Continue
    }
}

impl Call {
    /// Puts what an answer that is none of gRPC's says into its head.
    fn write_message(&mut self, head: Option<&mut ResponseHead>) {
        let (Some(message), Some(head)) = (self.message.take(), head) else {
            return;
        };
        head.fields
            .set(Known::GrpcMessage, percent_encode(&message));
        let status = grpc_status_of(head.status);
        head.fields.set(Known::GrpcStatus, status.to_string());
        head.fields.set(Known::ContentLength, "0");
    }
}

fn bad_base64(details: &'static str) -> DataStatus {
    let reply = LocalReply::new(400, details);
    DataStatus::LocalReply(reply.with_body("Bad gRPC-web request, invalid base64 data."))
}

/// Whether a response is gRPC-Web already.
fn is_web(head: &ResponseHead) -> bool {
    let value = head.fields.get(Known::ContentType).unwrap_or_default();
    let name = value.split(|b| *b == b';').next().unwrap_or_default();
    let name = name.trim_ascii_end();
    name.eq_ignore_ascii_case(WEB.as_bytes()) || name.eq_ignore_ascii_case(WEB_PROTO.as_bytes())
}

/// `grpc-web.<service>.<method>.` of a path of two parts.
fn method_of(head: &RequestHead) -> Option<Box<str>> {
    let path = std::str::from_utf8(head.path_without_query()).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let (service, method) = (parts.next()?, parts.next()?);
    let whole = parts.next().is_none();
    whole.then(|| format!("grpc-web.{service}.{method}.").into())
}

/// Writes frames of gRPC in base64, each with a padding of its own, wherever the body was cut.
#[derive(Default)]
struct TextFrames {
    /// How many bytes of the head of a frame have come: 0..=4; and what they say.
    head: u8,
    length: u32,
    /// How many bytes of the frame are still to come, behind its head.
    left: u64,
    /// What has come and was not written yet: two bytes at most between pieces.
    open: Vec<u8>,
}

impl TextFrames {
    fn encode(&mut self, mut data: &[u8], out: &mut String) {
        while !data.is_empty() {
            if self.left > 0 {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (of_frame, rest) = data.split_at(data.len().min(most));
                self.open.extend_from_slice(of_frame);
                self.left -= of_frame.len() as u64;
                data = rest;
                if self.left == 0 {
                    self.finish(out);
                }
                continue;
            }
            self.open.push(data[0]);
            if self.head > 0 {
                self.length = self.length << 8 | u32::from(data[0]);
            }
            data = &data[1..];
            self.head += 1;
            if self.head == 5 {
                self.head = 0;
                self.left = u64::from(std::mem::take(&mut self.length));
                if self.left == 0 {
                    self.finish(out);
                }
            }
        }
        let whole = self.open.len() / 3 * 3;
        STANDARD.encode_string(&self.open[..whole], out);
        self.open.drain(..whole);
    }

    /// Writes what is left, with its padding.
    fn finish(&mut self, out: &mut String) {
        STANDARD.encode_string(&self.open, out);
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Harness, TestStream};
    use super::*;

    fn call(content_type: &str, accept: &str) -> TestStream {
        let fields = [
            (":path", "/pkg.Service/Method"),
            ("content-type", content_type),
            ("accept", accept),
            ("content-length", "7"),
        ];
        let mut stream = Harness::new(&pb::GrpcWeb {}).stream_with(&fields);
        assert!(stream.decode_headers(false).is_continue());
        stream
    }

    #[test]
    fn a_request_becomes_one_of_grpc() {
        let stream = call(WEB, "");
        let fields = &stream.request.fields;
        assert_eq!(fields.get_str("content-type"), Some(GRPC));
        assert_eq!(fields.get_str("te"), Some("trailers"));
        assert_eq!(fields.get_str("grpc-accept-encoding"), Some("identity"));
        assert!(!fields.contains("content-length"));
        assert!(stream.info.plain_local_replies);
    }

    #[test]
    fn trailers_become_a_frame_of_the_body() {
        let mut stream = call(WEB, "");
        stream.response.fields.append("content-type", GRPC);
        assert!(stream.encode_headers(false).is_continue());
        let mut trailers = Fields::new();
        trailers.append("grpc-status", "0");
        let _ = stream.encode_trailers(&mut trailers);
        assert!(trailers.is_empty());
        assert_eq!(stream.take_injected(), b"\x80\0\0\0\x0fgrpc-status:0\r\n");
    }

    #[test]
    fn frames_have_a_padding_each_wherever_they_are_cut() {
        let body = b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x04wxyz";
        let whole = [&body[..7], &body[7..12], &body[12..]].map(|frame| STANDARD.encode(frame));
        for cut in 1..body.len() {
            let (mut frames, mut out) = (TextFrames::default(), String::new());
            for piece in body.chunks(cut) {
                frames.encode(piece, &mut out);
                assert!(frames.open.len() < 3);
            }
            assert_eq!(out, whole.concat(), "pieces of {cut}");
        }
    }

    #[test]
    fn base64_is_decoded_in_pieces_of_any_length_and_refused_where_it_is_none() {
        let mut stream = call(TEXT, "");
        let piece = stream.decode_data("YW", false);
        assert!(matches!(piece, DataStatus::StopIterationNoBuffer));
        assert!(matches!(
            stream.decode_data("JjZGV", false),
            DataStatus::Continue
        ));
        assert!(matches!(
            stream.decode_data("m", true),
            DataStatus::Continue
        ));
        for (text, end, details) in [
            ("YWJ", true, "grpc_base_64_decode_failed_bad_size"),
            ("YW$j", false, "grpc_base_64_decode_failed"),
        ] {
            let DataStatus::LocalReply(reply) = call(TEXT, "").decode_data(text, end) else {
                panic!("{text} is taken");
            };
            assert_eq!((reply.status, &*reply.details), (400, details));
        }
    }

    #[test]
    fn an_answer_that_is_not_grpc_becomes_a_status_with_a_message() {
        let mut stream = call(WEB, "");
        stream.response.status = 503;
        assert!(matches!(
            stream.encode_headers(false),
            HeadersStatus::StopIteration
        ));
        let _ = stream.encode_data("no ", false);
        let (_, data) = stream.encode_data("host%", true);
        assert!(data.is_empty());
        let fields = &stream.response.fields;
        assert_eq!(fields.get_str("grpc-status"), Some("14"));
        assert_eq!(fields.get_str("grpc-message"), Some("no host%25"));
        assert_eq!(fields.get_str("content-type"), Some(WEB_PROTO));
    }
}
