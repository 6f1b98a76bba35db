//! Requests of the proxy's own: of filters on a worker, and of what lives on main.
//!
//! One is an ordinary request of its cluster: host choice, pools, circuit breakers, retries and stats are those of a request
//! that is proxied. Its future belongs to the thread that made it; dropping the future or the response breaks the request off.
//!
//! Stats: `cluster.<name>.upstream_rq_*`, with codes below `internal.`.
//! Deviations: no span is made, and `x-envoy-expected-rq-timeout-ms` is not set.

mod body;
mod grpc;
mod grpc_service;
mod grpc_stream;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, timeout_at};

pub use body::{Body, BodyReader, BodySender, body};
pub use grpc::GrpcError;
pub use grpc_service::GrpcService;
pub use grpc_stream::{GrpcReceiver, GrpcSender, GrpcStreamLimits};

use super::pool::{
    Acquire, ClientStream, PoolError, ResetReason, ResponseEvent, StreamKind, StreamRequest,
};
use super::{
    ClusterId, CodeOrigin, Host, HostResult, HostStat, LoadBalancerContext, RoutingPriority,
    WorkerCluster, WorkerHost,
};
use crate::http::{EndStream, Fields, Known, RequestHead, ResponseHead};
use crate::http_filters::router::outcome::Failure;
use crate::http_filters::router::retry::{RetryContext, RetryDecision, RetryRuntime, RetryState};
use crate::net::local_address;
use crate::route::RetryPolicy;
use crate::server::{Random, Worker};
use body::Upload;

/// Sends requests on one thread.
#[derive(Clone)]
pub struct AsyncClient {
    worker: Rc<Worker>,
    /// What `x-forwarded-for` is given.
    address: Rc<OnceCell<Option<Box<str>>>>,
    /// The runtime keys of retries.
    retry: Rc<RetryRuntime>,
}

/// How a request is sent.
#[derive(Debug, Clone)]
pub struct RequestOptions {
    /// From the call to the end of the response, over all attempts. Default: no limit.
    pub timeout: Option<Duration>,
    /// When it is tried again. Default: never.
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Which circuit breakers and pools it uses.
    pub priority: RoutingPriority,
    /// For load balancers that hash. Default: none.
    pub hash_key: Option<u64>,
    /// The most bytes of the request body that are kept for another attempt; beyond it there is none. Default 1 MiB.
    pub max_request_bytes: u64,
    /// The most bytes of a response body that is taken as a whole. Default 1 MiB.
    pub max_response_bytes: usize,
    /// Adds the address of this proxy to `x-forwarded-for`. Default true.
    pub send_xff: bool,
    /// Says in `x-envoy-internal` that the request comes from within. Default true.
    pub send_internal: bool,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            retry_policy: None,
            priority: RoutingPriority::Default,
            hash_key: None,
            max_request_bytes: 1024 * 1024,
            max_response_bytes: 1024 * 1024,
            send_xff: true,
            send_internal: true,
        }
    }
}

/// Why there is no response, or not the rest of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// There is no such cluster (now).
    #[error("the cluster does not exist")]
    NoCluster,
    /// The cluster has no host that may be used.
    #[error("no healthy upstream")]
    NoHost,
    /// `timeout` or `per_try_timeout` elapsed.
    #[error("upstream request timeout")]
    Timeout,
    /// The last attempt broke off.
    #[error("upstream reset: {0:?}")]
    Reset(ResetReason),
    /// The response is larger than `max_response_bytes`.
    #[error("the response has more than {0} bytes")]
    TooLarge(usize),
    /// The request body ended before its end.
    #[error("the request body was given up")]
    BodyAborted,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct WholeResponse {
    /// Its head.
    pub head: ResponseHead,
    /// Its body.
    pub body: Bytes,
    /// Its trailers.
    pub trailers: Option<Fields>,
}

/// A response that comes piece by piece. Dropped before its end, it is broken off.
pub struct Response {
    /// Its head.
    pub head: ResponseHead,
    open: Open,
    upload: Upload,
    deadline: Option<Instant>,
}

/// A piece of a response.
#[derive(Debug)]
pub enum Piece {
    /// Of its body.
    Data(Bytes),
    /// Its trailers, which end it.
    Trailers(Fields),
}

impl AsyncClient {
    /// A client over the clusters and pools of `worker`.
    pub fn new(worker: Rc<Worker>) -> Self {
        Self {
            retry: Rc::new(RetryRuntime::new(&worker.server.runtime)),
            worker,
            address: Rc::default(),
        }
    }

    /// The number of a cluster, for callers that know only its name.
    pub fn find(&self, name: &str) -> Option<ClusterId> {
        self.worker.server.cluster_names.find(name)
    }

    /// Sends a request, and gives its whole response.
    pub fn send(
        &self,
        cluster: ClusterId,
        head: RequestHead,
        body: Body,
        options: RequestOptions,
    ) -> impl Future<Output = Result<WholeResponse, ClientError>> + use<> {
        let limit = options.max_response_bytes;
        let opening = self.open(cluster, head, body, options);
        async move { opening.await?.collect(limit).await }
    }

    /// Sends a request, and gives its response as soon as the head is there.
    pub fn open(
        &self,
        cluster: ClusterId,
        mut head: RequestHead,
        body: Body,
        options: RequestOptions,
    ) -> impl Future<Output = Result<Response, ClientError>> + use<> {
        if options.send_internal {
            head.fields.set(Known::EnvoyInternal, "true");
        }
        if options.send_xff
            && let Some(address) = self
                .address
                .get_or_init(|| local_address().map(|ip| ip.to_string().into()))
        {
            head.fields
                .append_to(Known::ForwardedFor, b",", address.as_bytes());
        }
        let worker = self.worker.clone();
        let retry_runtime = self.retry.clone();
        let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
        async move {
            let cluster = worker.clusters.get(cluster).ok_or(ClientError::NoCluster)?;
            let policy = options.retry_policy.as_deref();
            let retry = RetryState::of(policy, &mut head, &retry_runtime);
            let upload = Upload::new(body, retry.is_active(), options.max_request_bytes);
            let job = Job {
                worker,
                cluster: cluster.clone(),
                head,
                retry,
                retry_runtime,
                options,
                deadline,
            };
            let Some(deadline) = deadline else {
                return job.run(upload).await;
            };
            timeout_at(deadline, job.run(upload))
                .await
                .unwrap_or_else(|_| Err(timed_out(&cluster)))
        }
    }
}

/// The deadline of a whole request has passed.
fn timed_out(cluster: &WorkerCluster) -> ClientError {
    cluster.info().stats.upstream_rq_timeout().inc();
    cluster.record_code(504, ORIGIN);
    ClientError::Timeout
}

const ORIGIN: CodeOrigin = CodeOrigin {
    internal: true,
    canary: false,
};

/// A request until the head of its response.
struct Job {
    worker: Rc<Worker>,
    cluster: Rc<WorkerCluster>,
    head: RequestHead,
    retry: RetryState,
    retry_runtime: Rc<RetryRuntime>,
    options: RequestOptions,
    deadline: Option<Instant>,
}

impl Job {
    async fn run(mut self, mut upload: Upload) -> Result<Response, ClientError> {
        loop {
            let outcome = self.attempt(&mut upload).await;
            if upload.take_overflow() {
                self.retry.stop();
                self.cluster.info().stats.retry_or_shadow_abandoned().inc();
            }
            let context = RetryContext {
                policy: self.options.retry_policy.as_deref(),
                cluster: &self.cluster,
                priority: self.options.priority,
                runtime: &self.retry_runtime,
                route_stats: [None, None],
                random: self.worker.random.next(),
            };
            let decision = match &outcome {
                Ok((open, head, _)) => {
                    let status = match head.fields.contains(Known::GrpcStatus) {
                        true => head.status,
                        false => self.cluster.outlier_status(head, head.status),
                    };
                    self.cluster
                        .report(&open.host, HostResult::Response(status));
                    self.cluster.record_code(head.status, ORIGIN);
                    let now = SystemTime::now();
                    self.retry.on_response(head, &self.head, now, &context)
                }
                Err(Ended::Failed(failure)) => {
                    // Without a connection there is a failure of the pool.
                    let started = !matches!(
                        failure,
                        Failure::Reset(ResetReason::ConnectionFailure(_) | ResetReason::Overflow)
                    );
                    self.retry.on_failure(failure, started, &context)
                }
                Err(Ended::With(_)) => RetryDecision::No,
            };
            if let RetryDecision::After(wait) = decision {
                // A response that has ended leaves its connection to the next attempt.
                if let Ok((mut open, _, EndStream::Yes)) = outcome {
                    open.complete();
                }
                sleep(wait).await;
                upload.rewind();
                continue;
            }
            return match outcome {
                Ok((mut open, head, end)) => {
                    if end.is_end() {
                        open.complete();
                    }
                    Ok(Response {
                        head,
                        open,
                        upload,
                        deadline: self.deadline,
                    })
                }
                Err(Ended::With(error)) => Err(error),
                Err(Ended::Failed(failure)) => Err(self.fail(failure)),
            };
        }
    }

    /// One attempt, up to the head of its response.
    async fn attempt(
        &mut self,
        upload: &mut Upload,
    ) -> Result<(Open, ResponseHead, EndStream), Ended> {
        let Some(host) = self.cluster.choose_host(&Choice {
            job: self,
            random: &self.worker.random,
        }) else {
            self.cluster.info().stats.upstream_cx_none_healthy().inc();
            self.cluster.record_code(503, ORIGIN);
            return Err(Ended::With(ClientError::NoHost));
        };
        self.retry.tried(&host);
        let per_try = self
            .options
            .retry_policy
            .as_ref()
            .and_then(|policy| policy.per_try_timeout)
            .filter(|d| !d.is_zero());
        let exchange = self.exchange(host.clone(), upload);
        let Some(per_try) = per_try else {
            return exchange.await;
        };
        tokio::time::timeout(per_try, exchange)
            .await
            .unwrap_or_else(|_| {
                self.cluster
                    .info()
                    .stats
                    .upstream_rq_per_try_timeout()
                    .inc();
                host.count(HostStat::RqError);
                self.cluster.report(&host, HostResult::Timeout(Some(504)));
                Err(Ended::Failed(Failure::PerTryTimeout))
            })
    }

    async fn exchange(
        &self,
        host: Rc<WorkerHost>,
        upload: &mut Upload,
    ) -> Result<(Open, ResponseHead, EndStream), Ended> {
        let request = StreamRequest {
            downstream_protocol: None,
            priority: self.options.priority,
            kind: StreamKind::Message,
            options: None,
        };
        let acquired = match self.cluster.new_http_stream(&host, &request) {
            Acquire::Ready(stream) => Ok(stream),
            Acquire::Pending(pending) => pending.await,
            Acquire::Failed(error) => Err(error),
        };
        let stream = acquired.map_err(|error| {
            host.count(HostStat::RqError);
            if error != PoolError::Overflow {
                self.cluster.report(&host, HostResult::ConnectFailed);
            }
            Ended::Failed(Failure::Reset(match error {
                PoolError::Overflow => ResetReason::Overflow,
                PoolError::Connect(error) => ResetReason::ConnectionFailure(error),
                PoolError::Terminated => ResetReason::ConnectionTermination,
            }))
        })?;
        let mut open = Open {
            stream: Some(stream),
            cluster: self.cluster.clone(),
            host,
            start: Instant::now(),
        };
        if let Some(stream) = &mut open.stream {
            stream.send_head(&self.head, upload.start());
        }
        loop {
            match poll_fn(|cx| open.poll_event(upload, cx)).await {
                Ok(ResponseEvent::Head(head, end)) => return Ok((open, head, end)),
                Ok(ResponseEvent::Reset(reason)) => {
                    self.cluster.report(&open.host, HostResult::ConnectFailed);
                    return Err(Ended::Failed(Failure::Reset(reason)));
                }
                Ok(
                    ResponseEvent::Informational(_)
                    | ResponseEvent::Data(..)
                    | ResponseEvent::Metadata(_)
                    | ResponseEvent::Trailers(_),
                ) => {}
                Err(error) => return Err(Ended::With(error)),
            }
        }
    }

    fn fail(&self, failure: Failure) -> ClientError {
        failure.count(&self.cluster);
        let status = failure.reply(false, false).status;
        self.cluster.record_code(status, ORIGIN);
        match failure {
            Failure::Reset(reason) => ClientError::Reset(reason),
            _ => ClientError::Timeout,
        }
    }
}

/// How an attempt ended without a head.
enum Ended {
    Failed(Failure),
    /// For good.
    With(ClientError),
}

/// What the load balancer may ask.
struct Choice<'a> {
    job: &'a Job,
    random: &'a Random,
}

impl Choice<'_> {
    /// Of retries alone.
    fn policy(&self) -> Option<&RetryPolicy> {
        let policy = self.job.options.retry_policy.as_deref();
        policy.filter(|_| !self.job.retry.tried_hosts().is_empty())
    }
}

impl LoadBalancerContext for Choice<'_> {
    fn random(&self) -> u64 {
        self.random.next()
    }
    fn hash_key(&self) -> Option<u64> {
        self.job.options.hash_key
    }
    fn should_select_another(&self, host: &Host) -> bool {
        self.policy()
            .is_some_and(|policy| self.job.retry.avoids(host, Some(policy)))
    }
    fn avoided_priorities(&self) -> &[Rc<WorkerHost>] {
        self.job.retry.avoided_priorities(self.policy())
    }
    fn forget_avoided_priorities(&self) {
        self.job.retry.forget_avoided_priorities();
    }
    fn host_selection_retry_count(&self) -> u32 {
        self.policy()
            .map_or(1, |policy| policy.host_selection_max_attempts)
    }
}

/// A stream that breaks off where it is dropped before its end.
struct Open {
    /// None when the response has ended.
    stream: Option<ClientStream>,
    cluster: Rc<WorkerCluster>,
    host: Rc<WorkerHost>,
    start: Instant,
}

impl Open {
    /// Sends what the stream takes of the body, and waits for what comes back.
    fn poll_event(
        &mut self,
        upload: &mut Upload,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<ResponseEvent, ClientError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(ClientError::Reset(ResetReason::LocalReset)));
        };
        if let Err(error) = upload.poll(stream, cx) {
            return Poll::Ready(Err(error));
        }
        let _ = stream.poll_ready(cx);
        let event = std::task::ready!(stream.poll_event(cx));
        if let ResponseEvent::Reset(_) = event {
            self.host.count(HostStat::RqError);
            self.stream = None;
        }
        Poll::Ready(Ok(event))
    }

    /// The response has ended.
    fn complete(&mut self) {
        if self.stream.take().is_some() {
            self.host.count(HostStat::RqSuccess);
            self.cluster
                .record_time(Instant::now() - self.start, ORIGIN);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.reset(&ResetReason::LocalReset);
        }
    }
}

impl Response {
    /// Whether nothing comes behind the head.
    pub fn is_ended(&self) -> bool {
        self.open.stream.is_none()
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Piece>, ClientError> {
        if self.open.stream.is_none() {
            return Ok(None);
        }
        let Self {
            open,
            upload,
            deadline,
            ..
        } = self;
        let next = poll_fn(|cx| open.poll_event(upload, cx));
        let event = match deadline {
            None => next.await,
            Some(deadline) => match timeout_at(*deadline, next).await {
                Ok(event) => event,
                Err(_) => {
                    self.open.cluster.info().stats.upstream_rq_timeout().inc();
                    return Err(ClientError::Timeout);
                }
            },
        };
        match event? {
            ResponseEvent::Data(data, end) => {
                if end.is_end() {
                    self.open.complete();
                }
                Ok(Some(Piece::Data(data)))
            }
            ResponseEvent::Trailers(trailers) => {
                self.open.complete();
                Ok(Some(Piece::Trailers(trailers)))
            }
            ResponseEvent::Reset(reason) => {
                Failure::Reset(reason.clone()).count(&self.open.cluster);
                Err(ClientError::Reset(reason))
            }
            // Metadata says nothing to a client; nothing else of the kind comes after a head.
            ResponseEvent::Metadata(_)
            | ResponseEvent::Informational(_)
            | ResponseEvent::Head(..) => Ok(Some(Piece::Data(Bytes::new()))),
        }
    }

    /// The whole response, whose body may have up to `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<WholeResponse, ClientError> {
        let mut body = BytesMut::new();
        let mut trailers = None;
        while let Some(piece) = self.next().await? {
            match piece {
                Piece::Data(data) if body.len() + data.len() > limit => {
                    return Err(ClientError::TooLarge(limit));
                }
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::Trailers(fields) => trailers = Some(fields),
            }
        }
        let head = self.head.clone();
        Ok(WholeResponse {
            head,
            body: body.freeze(),
            trailers,
        })
    }
}

impl fmt::Debug for AsyncClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncClient").finish_non_exhaustive()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.head.status)
            .finish_non_exhaustive()
    }
}
