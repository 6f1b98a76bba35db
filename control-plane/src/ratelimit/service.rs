//! The limiter as a gRPC service.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use outrigger_proto::pb::envoy::config::core::v3::HeaderValue;
use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::service::ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3::RateLimitUnit;
use outrigger_proto::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use outrigger_proto::rate_limit::{
    DescriptorStatus, RateLimit, RateLimitDescriptor, RateLimitRequest, RateLimitResponse,
};
use pb::rate_limit_response::Code;
use pb::rate_limit_response::rate_limit::Unit;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::limiter::{Asked, Entry, Limiter, Verdict};
use crate::rpc::unary;
use crate::spawn;
use crate::telemetry::continue_trace;

/// The service.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Limiter>);

/// Descriptors of one request; more are refused.
const MAX_DESCRIPTORS: usize = 100;
const DAY: u64 = 24 * 60 * 60;

impl Limits {
    /// The path that all its calls begin with.
    pub const PREFIX: &str = "/envoy.service.ratelimit.v3.RateLimitService/";

    /// Serves the limits of `limiter`.
    #[must_use]
    pub fn new(limiter: Arc<Limiter>) -> Self {
        Self(limiter)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// None: gRPC has its own in the answer.
    pub async fn call<B>(self, request: Request<B>) -> Result<http::Response<Body>, Infallible>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let span = tracing::debug_span!(
            "rate_limit",
            domain = Empty,
            descriptors = Empty,
            answer = Empty
        );
        if Span::current().is_none() {
            continue_trace(&span, request.headers());
        }
        if request.uri().path().strip_prefix(Self::PREFIX) != Some("ShouldRateLimit") {
            return Ok(Status::unimplemented("there is no such call").into_http());
        }
        let call = move |asked| async move { self.should_rate_limit(asked).await };
        Ok(unary(request, call).instrument(span).await)
    }

    async fn should_rate_limit(
        &self,
        request: RateLimitRequest,
    ) -> Result<RateLimitResponse, Status> {
        let RateLimitRequest {
            domain,
            descriptors,
            hits_addend,
        } = request;
        if descriptors.len() > MAX_DESCRIPTORS {
            let text = format!("more than {MAX_DESCRIPTORS} descriptors");
            return Err(Status::invalid_argument(text));
        }
        // None said is one.
        let hits = u64::from(hits_addend.max(1));
        let asked: Vec<Asked> = descriptors
            .into_iter()
            .map(|descriptor| asked(descriptor, hits))
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let counts = &self.0.counts;
        let verdicts = match self.0.check(&domain, &asked, now).await {
            Ok(verdicts) => verdicts,
            Err(away) => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
                return Err(Status::unavailable(away.to_string()));
            }
        };
        let passes = verdicts.iter().flatten().all(|verdict| verdict.passes);
        let count = if passes {
            &counts.ok
        } else {
            &counts.over_limit
        };
        count.fetch_add(1, Ordering::Relaxed);
        let response_headers_to_add = match self.0.has_headers(&domain) {
            true => headers(&verdicts),
            false => Vec::new(),
        };
        let span = Span::current();
        span.record("domain", &domain);
        span.record("descriptors", asked.len());
        span.record("answer", code(passes).as_str_name());
        Ok(RateLimitResponse {
            overall_code: code(passes).into(),
            statuses: verdicts.into_iter().map(status).collect(),
            response_headers_to_add,
            ..Default::default()
        })
    }
}

fn asked(descriptor: RateLimitDescriptor, hits: u64) -> Asked {
    let RateLimitDescriptor {
        entries,
        limit,
        hits_addend,
        is_negative_hits,
    } = descriptor;
    let entries = entries.into_iter().map(|entry| {
        let common::rate_limit_descriptor::Entry { key, value } = entry;
        Entry { key, value }
    });
    Asked {
        entries: entries.collect(),
        limit: limit.and_then(|limit| {
            let units = limit.unit_multiplier.map_or(1, |units| units.value);
            let seconds = seconds(limit.unit())? * u64::from(units.max(1));
            Some((limit.requests_per_unit, seconds))
        }),
        hits: hits_addend.map_or(hits, |hits| hits.value),
        gives_back: is_negative_hits,
    }
}

fn seconds(unit: RateLimitUnit) -> Option<u64> {
    match unit {
        RateLimitUnit::Unknown => None,
        RateLimitUnit::Second => Some(1),
        RateLimitUnit::Minute => Some(60),
        RateLimitUnit::Hour => Some(60 * 60),
        RateLimitUnit::Day => Some(DAY),
        RateLimitUnit::Month => Some(30 * DAY),
        RateLimitUnit::Year => Some(365 * DAY),
    }
}

fn code(passes: bool) -> Code {
    match passes {
        true => Code::Ok,
        false => Code::OverLimit,
    }
}

/// How it is with the limit that has least left.
fn headers(verdicts: &[Option<Verdict>]) -> Vec<HeaderValue> {
    let tightest = verdicts.iter().flatten();
    let Some(tightest) = tightest.min_by_key(|verdict| (verdict.passes, verdict.remaining)) else {
        return Vec::new();
    };
    let header = |key: &str, value: u64| HeaderValue {
        key: key.to_owned(),
        value: value.to_string(),
        ..HeaderValue::default()
    };
    vec![
        header("ratelimit-limit", tightest.requests.into()),
        header("ratelimit-remaining", tightest.remaining),
        header("ratelimit-reset", tightest.wait.div_ceil(1000)),
    ]
}

fn status(verdict: Option<Verdict>) -> DescriptorStatus {
    let Some(verdict) = verdict else {
        return DescriptorStatus {
            code: Code::Ok.into(),
            ..Default::default()
        };
    };
    let (unit, units) = unit(verdict.seconds);
    let wait = verdict.wait.div_ceil(1000);
    DescriptorStatus {
        code: code(verdict.passes).into(),
        current_limit: Some(RateLimit {
            name: verdict.name,
            requests_per_unit: verdict.requests,
            unit: unit.into(),
            unit_multiplier: (units > 1).then_some(UInt32Value { value: units }),
        }),
        limit_remaining: u32::try_from(verdict.remaining).unwrap_or(u32::MAX),
        duration_until_reset: Some(PbDuration {
            seconds: i64::try_from(wait).unwrap_or(i64::MAX),
            nanos: 0,
        }),
    }
}

/// A time as one unit, or as several of the largest that it is a multiple of.
fn unit(seconds: u64) -> (Unit, u32) {
    let units = [
        (Unit::Year, 365 * DAY),
        (Unit::Month, 30 * DAY),
        (Unit::Week, 7 * DAY),
        (Unit::Day, DAY),
        (Unit::Hour, 60 * 60),
        (Unit::Minute, 60),
        (Unit::Second, 1),
    ];
    let one = units.iter().find(|(_, length)| seconds == *length);
    let several = || {
        units
            .iter()
            .find(|(_, length)| seconds.is_multiple_of(*length))
    };
    let (unit, length) = one.or_else(several).unwrap_or(&(Unit::Second, 1));
    (*unit, u32::try_from(seconds / length).unwrap_or(u32::MAX))
}

/// Serves the limits alone, without TLS, for ever.
pub async fn serve(listener: TcpListener, limits: Limits) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection cannot be accepted.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let limits = limits.clone();
        spawn(async move {
            let service = service_fn(move |request| limits.clone().call(request));
            let mut builder = Builder::new(TokioExecutor::new());
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(1000)
                .keep_alive_interval(Some(Duration::from_secs(30)));
            let served = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%address, error, "A connection has ended.");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::rate_limit::RateLimitOverride;

    use super::*;

    fn request(user: &str, hits: u32) -> RateLimitRequest {
        let entry = |key: &str, value: &str| common::rate_limit_descriptor::Entry {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let descriptor = |key: &str, value: &str| RateLimitDescriptor {
            entries: vec![entry(key, value)],
            ..Default::default()
        };
        RateLimitRequest {
            domain: "apis".to_owned(),
            descriptors: vec![descriptor("user", user), descriptor("unknown", "x")],
            hits_addend: hits,
        }
    }

    fn limits() -> Limits {
        let spec = r#"{"domain": "apis", "limits": [{"name": "u", "match": [{"key": "user"}], "requests": 3, "per": "1d"}]}"#;
        let limiter = Limiter::default();
        limiter.set([&serde_json::from_str(spec).unwrap()]);
        Limits::new(Arc::new(limiter))
    }

    #[tokio::test]
    async fn an_answer_says_for_each_descriptor_what_is_left() {
        let limits = limits();
        let answer = limits.should_rate_limit(request("ann", 2)).await.unwrap();
        assert_eq!(answer.overall_code(), Code::Ok);
        let [limited, unlimited] = &answer.statuses[..] else {
            panic!("{answer:?}");
        };
        assert_eq!(limited.limit_remaining, 1);
        let limit = limited.current_limit.as_ref().unwrap();
        assert_eq!((limit.requests_per_unit, limit.unit()), (3, Unit::Day));
        assert_eq!(
            (unlimited.code(), &unlimited.current_limit),
            (Code::Ok, &None)
        );
        let answer = limits.should_rate_limit(request("ann", 2)).await.unwrap();
        assert_eq!(answer.overall_code(), Code::OverLimit);
        assert_eq!(answer.statuses[0].code(), Code::OverLimit);
        assert!(answer.statuses[0].duration_until_reset.unwrap().seconds > 0);
        let other = limits.should_rate_limit(request("bob", 0)).await.unwrap();
        assert_eq!(other.overall_code(), Code::Ok);
    }

    #[tokio::test]
    async fn too_many_descriptors_are_refused() {
        let mut request = request("ann", 1);
        let one = request.descriptors[0].clone();
        request.descriptors = vec![one; MAX_DESCRIPTORS + 1];
        let refused = limits().should_rate_limit(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_limit_may_be_of_several_units() {
        let limits = limits();
        let mut request = request("ann", 1);
        request.descriptors[1].limit = Some(RateLimitOverride {
            requests_per_unit: 5,
            unit: RateLimitUnit::Second.into(),
            unit_multiplier: Some(UInt32Value { value: 90 }),
        });
        let answer = limits.should_rate_limit(request).await.unwrap();
        let limit = answer.statuses[1].current_limit.as_ref().unwrap();
        let units = limit.unit_multiplier.as_ref().map(|units| units.value);
        assert_eq!((limit.unit(), units), (Unit::Second, Some(90)));
        assert_eq!(unit(60), (Unit::Minute, 1));
        assert_eq!(unit(600), (Unit::Minute, 10));
        assert_eq!(unit(14 * DAY), (Unit::Week, 2));
    }
}
