//! `http_health_check`: a request whose response says how well the host is.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::core::v3::health_check as pb;
use outrigger_proto::pb::envoy::r#type::v3::{CodecClientType, Int64Range};

use super::Inner;
use super::connection::{self, Link};
use super::event_log::FailureType;
use super::payload;
use super::session::Outcome;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Known, Protocol, RequestHead, ResponseHead};
use crate::matchers::StringMatcher;
use crate::route::HeaderParser;
use crate::server::FactoryContext;
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::upstream::WorkerHost;
use crate::upstream::host::{HealthFlag, Host};
use crate::upstream::pool::{Connected, ResponseEvent};

/// A converted `HttpHealthCheck`.
#[derive(Debug)]
pub(super) struct HttpCheck {
    /// Empty: the name of the cluster.
    host: Box<str>,
    path: Box<str>,
    method: &'static str,
    body: Bytes,
    /// What must be in the body of the response, in this order.
    receive: Vec<Vec<u8>>,
    /// How much of the body is looked at; none: all of it.
    response_buffer_size: Option<usize>,
    headers: Option<HeaderParser>,
    expected: Statuses,
    retriable: Statuses,
    is_http2: bool,
    /// Where ALPN agrees on a protocol, that is spoken.
    pub(super) use_alpn: bool,
    service_name: Option<StringMatcher>,
}

/// Status codes, as ranges without their ends.
#[derive(Debug, Default)]
struct Statuses(Vec<(u16, u16)>);

/// The default of `response_buffer_size`.
const RESPONSE_BUFFER_SIZE: u64 = 1024;
/// A response of which all is looked at has no more than this.
const MOST_BYTES: usize = 1024 * 1024;

impl HttpCheck {
    pub(super) fn from_proto(
        proto: pb::HttpHealthCheck,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HttpHealthCheck {
            host,
            path: target,
            send,
            receive,
            response_buffer_size,
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            service_name_matcher,
            method,
        } = proto;
        let target = path.non_empty("path", target);
        let method = method_name(method, path);
        let body = path.optional("send", send, payload::bytes);
        let receive = path.each("receive", receive, payload::bytes);
        let headers = HeaderParser::from_proto(
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
            cx,
            path,
        );
        let expected = Statuses::from_proto("expected", expected_statuses, path);
        let retriable = Statuses::from_proto("retriable", retriable_statuses, path);
        let codec = match path.enumeration("codec_client_type", codec_client_type) {
            Ok(CodecClientType::Http1) => Ok(false),
            Ok(CodecClientType::Http2) => Ok(true),
            Ok(CodecClientType::Http3) => Err(path
                .field("codec_client_type")
                .reject("HTTP3 is not supported; supported are HTTP1 and HTTP2")),
            Err(rejected) => Err(rejected),
        };
        let service_name = path.optional(
            "service_name_matcher",
            service_name_matcher,
            StringMatcher::from_proto,
        );
        let (method, body, receive) = (method?, body?.unwrap_or_default(), receive?);
        if !body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") {
            return Err(path.field("send").reject(format!(
                "HTTP health check cannot specify a request payload with method '{method}'. Only methods that support a request body (POST, PUT, PATCH, OPTIONS) can be used with payload."
            )));
        }
        let size = response_buffer_size.map_or(RESPONSE_BUFFER_SIZE, |size| size.value);
        let total: usize = receive.iter().map(Vec::len).sum();
        if size != 0 && u64::try_from(total).unwrap_or(u64::MAX) > size {
            return Err(path.field("receive").reject(format!(
                "The expected response length '{total}' is over than http health response buffer size '{size}'"
            )));
        }
        let mut expected = expected?;
        if expected.0.is_empty() {
            expected.0.push((200, 201));
        }
        Ok(Self {
            host: host.into(),
            path: target?.into(),
            method,
            body: body.into(),
            receive,
            response_buffer_size: (size != 0).then(|| usize::try_from(size).unwrap_or(MOST_BYTES)),
            headers: headers?,
            expected,
            retriable: retriable?,
            is_http2: codec?,
            use_alpn: false,
            service_name: service_name?,
        })
    }

    /// Asks the host once.
    pub(super) async fn check(&self, inner: &Inner, host: &WorkerHost, link: &mut Link) -> Outcome {
        let Some((head, body)) = self.ask(inner, host, link).await else {
            *link = Link::None;
            return Outcome::failed(FailureType::Network);
        };
        if !inner.config.reuse_connection || !link.is_usable() {
            *link = Link::None;
        }
        self.judge(inner, host, &head, &body)
    }

    async fn ask(
        &self,
        inner: &Inner,
        host: &WorkerHost,
        link: &mut Link,
    ) -> Option<(ResponseHead, BytesMut)> {
        let speaks_http2 = |connected: &Connected| self.speaks_http2(connected);
        let made = connection::http(inner, host, link, speaks_http2).await;
        made.ok()?;
        let protocol = match link {
            Link::Http2(_) => Protocol::Http2,
            _ => Protocol::Http11,
        };
        let mut exchange = link.exchange().await?;
        exchange.send(&self.request(inner, host, protocol), self.body.clone());
        let mut response = None;
        let mut body = BytesMut::new();
        let most = self.response_buffer_size.unwrap_or(MOST_BYTES);
        loop {
            match exchange.next().await {
                ResponseEvent::Informational(_) | ResponseEvent::Metadata(_) => {}
                ResponseEvent::Head(head, end) => {
                    if end.is_end() {
                        return Some((head, body));
                    }
                    response = Some(head);
                }
                ResponseEvent::Data(data, end) => {
                    if !self.receive.is_empty() {
                        let room = most.saturating_sub(body.len()).min(data.len());
                        body.extend_from_slice(data.get(..room).unwrap_or_default());
                    }
                    if end.is_end() {
                        return Some((response?, body));
                    }
                }
                ResponseEvent::Trailers(_) => return Some((response?, body)),
                ResponseEvent::Reset(_) => return None,
            }
        }
    }

    /// Which protocol is spoken on a new connection.
    fn speaks_http2(&self, connected: &Connected) -> bool {
        let agreed = connected.tls.as_ref().filter(|_| self.use_alpn);
        match agreed.and_then(|tls| tls.alpn.as_deref()) {
            Some(b"h2") => true,
            Some(b"http/1.1") => false,
            _ => self.is_http2,
        }
    }

    fn request(&self, inner: &Inner, host: &WorkerHost, protocol: Protocol) -> RequestHead {
        let mut head = RequestHead::new(protocol, self.method.as_bytes());
        head.set_scheme(match inner.is_secure(host) {
            true => b"https",
            false => b"http",
        });
        head.set_authority(hostname(inner, host, &self.host).as_bytes());
        head.set_path(self.path.as_bytes());
        head.fields.set(Known::UserAgent, "Envoy/HC");
        if let Some(headers) = &self.headers {
            headers.evaluate_request(&mut head, &stream_info(host, protocol));
        }
        if !self.body.is_empty() {
            head.fields
                .set(Known::ContentLength, self.body.len().to_string());
        }
        head
    }

    fn judge(&self, inner: &Inner, host: &Host, head: &ResponseHead, body: &[u8]) -> Outcome {
        let excluded = || {
            if head.fields.contains(Known::EnvoyImmediateHealthCheckFail) {
                host.health.set(HealthFlag::ExcludedViaImmediateHcFail);
            }
        };
        let status = head.status;
        if !payload::contains_in_order(body, &self.receive) {
            excluded();
            return Outcome::of_host(status, false);
        }
        if !self.expected.contain(status) {
            excluded();
            return Outcome::of_host(status, self.retriable.contain(status));
        }
        if let Some(matcher) = &self.service_name
            && inner.verify_cluster.contains(inner.random.next())
        {
            inner.stats.verify_cluster().inc();
            let name = head.fields.get(Known::EnvoyUpstreamHealthcheckedCluster);
            if !matcher.matches(name.unwrap_or_default()) {
                return Outcome::of_host(status, false);
            }
        }
        Outcome::Healthy {
            degraded: head.fields.contains("x-envoy-degraded"),
        }
    }
}

/// The host that a check names: what the endpoint says, or `configured`, or the name of the cluster.
pub(super) fn hostname<'a>(inner: &'a Inner, host: &'a Host, configured: &'a str) -> &'a str {
    match (host.health_check_hostname(), configured) {
        ("", "") => &inner.cluster.info.name,
        ("", configured) => configured,
        (own, _) => own,
    }
}

/// What the values of added headers may speak of.
pub(super) fn stream_info(host: &WorkerHost, protocol: Protocol) -> StreamInfo {
    let local = || crate::net::Address::Ip((std::net::Ipv4Addr::LOCALHOST, 0).into());
    let connection = Rc::new(ConnectionInfo::between(local(), local()));
    let mut info = StreamInfo::new(connection, 0, Some(protocol));
    info.upstream_mut().host = Some(Rc::new(WorkerHost::new(host.shared().clone())));
    info
}

fn method_name(method: i32, path: &ConfigPath<'_>) -> Result<&'static str, Rejected> {
    use core::RequestMethod;
    Ok(match path.enumeration("method", method)? {
        RequestMethod::MethodUnspecified | RequestMethod::Get => "GET",
        RequestMethod::Head => "HEAD",
        RequestMethod::Post => "POST",
        RequestMethod::Put => "PUT",
        RequestMethod::Delete => "DELETE",
        RequestMethod::Options => "OPTIONS",
        RequestMethod::Trace => "TRACE",
        RequestMethod::Patch => "PATCH",
        RequestMethod::Connect => {
            return Err(path
                .field("method")
                .reject("CONNECT has no response to check"));
        }
    })
}

impl Statuses {
    fn from_proto(
        kind: &str,
        ranges: Vec<Int64Range>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let ranges = path.each(&format!("{kind}_statuses"), ranges, |range, path| {
            let Int64Range { start, end } = range;
            let problem = if start >= end {
                format!("expecting start < end, but found start={start} and end={end}")
            } else if start < 100 {
                format!("expecting start >= 100, but found start={start}")
            } else if end > 600 {
                format!("expecting end <= 600, but found end={end}")
            } else {
                let status = |status: i64| u16::try_from(status).unwrap_or(600);
                return Ok((status(start), status(end)));
            };
            Err(path.reject(format!("Invalid http {kind} status range: {problem}")))
        });
        Ok(Self(ranges?))
    }

    fn contain(&self, status: u16) -> bool {
        let ranges = self.0.iter();
        ranges
            .clone()
            .any(|(start, end)| (*start..*end).contains(&status))
    }
}
