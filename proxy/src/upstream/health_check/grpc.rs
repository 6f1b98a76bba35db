//! `grpc_health_check`: `grpc.health.v1.Health.Check`.
//!
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>

use bytes::{BufMut, Bytes, BytesMut};
use outrigger_proto::pb::envoy::config::core::v3::health_check as pb;
use prost::Message;

use super::Inner;
use super::connection::{self, Link};
use super::event_log::FailureType;
use super::http::{hostname, stream_info};
use super::session::Outcome;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, Known, Protocol, RequestHead};
use crate::route::HeaderParser;
use crate::server::FactoryContext;
use crate::upstream::WorkerHost;
use crate::upstream::pool::ResponseEvent;

/// A converted `GrpcHealthCheck`.
#[derive(Debug)]
pub(super) struct GrpcCheck {
    /// The request, behind its prefix.
    message: Bytes,
    /// Empty: the name of the cluster.
    authority: Box<str>,
    metadata: Option<HeaderParser>,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// A response has one small message.
const MOST_BYTES: usize = 64 * 1024;

impl GrpcCheck {
    pub(super) fn from_proto(
        proto: pb::GrpcHealthCheck,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::GrpcHealthCheck {
            service_name,
            authority,
            initial_metadata,
        } = proto;
        let metadata = HeaderParser::from_proto(
            ("initial_metadata", initial_metadata),
            ("", Vec::new()),
            cx,
            path,
        );
        let request = HealthCheckRequest {
            service: service_name,
        };
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
        message.put_slice(&request.encode_to_vec());
        Ok(Self {
            message: message.freeze(),
            authority: authority.into(),
            metadata: metadata?,
        })
    }

    /// Asks the host once.
    pub(super) async fn check(&self, inner: &Inner, host: &WorkerHost, link: &mut Link) -> Outcome {
        let outcome = self.ask(inner, host, link).await;
        let lost = matches!(outcome, Outcome::Failed { failure, .. } if failure.is_of_network());
        if !inner.config.reuse_connection || !link.is_usable() || (lost && !link.is_usable()) {
            *link = Link::None;
        }
        outcome
    }

    async fn ask(&self, inner: &Inner, host: &WorkerHost, link: &mut Link) -> Outcome {
        let lost = Outcome::failed(FailureType::Network);
        // What a host says of itself fails it at once.
        let unwell = Outcome::failed(FailureType::Active);
        if connection::http(inner, host, link, |_| true).await.is_err() {
            return lost;
        }
        let Some(mut exchange) = link.exchange().await else {
            return lost;
        };
        exchange.send(&self.request(inner, host), self.message.clone());
        let mut body = BytesMut::new();
        loop {
            match exchange.next().await {
                ResponseEvent::Informational(_) | ResponseEvent::Metadata(_) => {}
                // Without a message nobody serves.
                ResponseEvent::Head(_, end) if end.is_end() => return unwell,
                ResponseEvent::Head(head, _) if head.status != 200 || !head.is_grpc() => {
                    return unwell;
                }
                ResponseEvent::Head(..) => {}
                // It must end with trailers.
                ResponseEvent::Data(_, end) if end.is_end() => return unwell,
                ResponseEvent::Data(data, _) => {
                    if body.len() + data.len() > MOST_BYTES {
                        return unwell;
                    }
                    body.extend_from_slice(&data);
                }
                ResponseEvent::Trailers(trailers) => {
                    return match is_serving(&trailers, &body) {
                        true => Outcome::Healthy { degraded: false },
                        false => unwell,
                    };
                }
                ResponseEvent::Reset(_) => return lost,
            }
        }
    }

    fn request(&self, inner: &Inner, host: &WorkerHost) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http2, b"POST");
        head.set_authority(hostname(inner, host, &self.authority).as_bytes());
        head.set_path(b"/grpc.health.v1.Health/Check");
        head.set_scheme(match inner.is_secure(host) {
            true => b"https",
            false => b"http",
        });
        head.fields.set(Known::ContentType, "application/grpc");
        head.fields.set("te", "trailers");
        head.fields.set(Known::UserAgent, "Envoy/HC");
        if let Some(metadata) = &self.metadata {
            metadata.evaluate_request(&mut head, &stream_info(host, Protocol::Http2));
        }
        let timeout = inner.config.timeout.as_millis().min(99_999_999);
        head.fields.set(Known::GrpcTimeout, format!("{timeout}m"));
        head
    }
}

fn is_serving(trailers: &Fields, body: &[u8]) -> bool {
    if trailers.get(Known::GrpcStatus) != Some(b"0") {
        return false;
    }
    let Some((prefix, message)) = body.split_first_chunk::<5>() else {
        return false;
    };
    let [compressed, length @ ..] = prefix;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    *compressed == 0
        && length == message.len()
        && HealthCheckResponse::decode(message).is_ok_and(|response| response.status == SERVING)
}
