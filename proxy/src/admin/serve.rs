//! The HTTP server.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Admin, Answer, Request, Response};
use crate::net::{Address, Io};

/// A form may be this long, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Pause after a failed accept: there may be no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for the whole head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// One request, for the access log.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// When it came.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The `host` header.
    pub authority: String,
    /// The `user-agent` header.
    pub user_agent: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the answer's body.
    pub bytes_sent: u64,
    /// Who asked.
    pub peer: Option<Address>,
}

impl Admin {
    /// Accepts connections on a TCP socket until it is dropped.
    pub async fn serve_tcp(self: Rc<Self>, listener: TcpListener) {
        loop {
            let accepted = listener.accept().await;
            let accepted = accepted.map(|(stream, peer)| (Io::from(stream), Some(peer.into())));
            self.accepted(accepted).await;
        }
    }

    /// Accepts connections on a UNIX socket until it is dropped.
    pub async fn serve_unix(self: Rc<Self>, listener: UnixListener) {
        loop {
            let accepted = listener.accept().await;
            self.accepted(accepted.map(|(stream, _)| (Io::from(stream), None)))
                .await;
        }
    }

    async fn accepted(self: &Rc<Self>, accepted: io::Result<(Io, Option<Address>)>) {
        match accepted {
            Ok((io, peer)) => {
                let admin = self.clone();
                spawn_local(async move { admin.connection(io, peer).await });
            }
            Err(error) => {
                warn!(%error, "Accepting an admin connection failed.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Serves one connection to its end. Counts against the global limit, unless told not to.
    pub async fn connection(
        self: Rc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin,
        peer: Option<Address>,
    ) {
        let limit = &self.source.server().overload.connections;
        let guard = limit.try_acquire();
        if guard.is_none() && !self.ignore_global_conn_limit {
            return;
        }
        let _guard = guard.filter(|_| !self.ignore_global_conn_limit);
        let quits = Cell::new(false);
        let service = service_fn(|request| self.respond(request, peer.as_ref(), &quits));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(io), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "An admin connection broke off.");
        }
        if quits.get() {
            self.source.quit();
        }
    }

    async fn respond(
        &self,
        request: hyper::Request<Incoming>,
        peer: Option<&Address>,
        quits: &Cell<bool>,
    ) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        let (start, began) = (SystemTime::now(), Instant::now());
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or_else(
            || head.uri.path().to_owned(),
            |target| target.as_str().to_owned(),
        );
        let text = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let body = Limited::new(body, MAX_BODY).collect().await;
        let (response, received) = match body {
            Ok(body) => {
                let body = body.to_bytes();
                let mut query = super::query::Query::of_target(&target);
                if text("content-type").starts_with("application/x-www-form-urlencoded") {
                    query.add(&body);
                }
                let request = Request {
                    method: head.method.as_str(),
                    target: &target,
                    query,
                };
                let response = match self.answer(&request) {
                    Answer::Ready(response) => response,
                    Answer::Work(work) => spawn_blocking(work)
                        .await
                        .unwrap_or_else(|error| Response::error(500, error.to_string())),
                };
                (response, body.len())
            }
            Err(error) => (Response::error(413, format!("{error}\n")), 0),
        };
        quits.set(quits.get() || response.quits);
        if let Some(log) = &self.on_access {
            (log.0)(&AccessRecord {
                start,
                duration: began.elapsed(),
                method: head.method.to_string(),
                authority: text("host"),
                user_agent: text("user-agent"),
                path: target,
                status: response.status,
                bytes_received: received.try_into().unwrap_or(u64::MAX),
                bytes_sent: response.body.len().try_into().unwrap_or(u64::MAX),
                peer: peer.cloned(),
            });
        }
        Ok(response.into_http())
    }
}

impl Response {
    fn into_http(self) -> hyper::Response<Full<Bytes>> {
        let mut response = hyper::Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = hyper::StatusCode::from_u16(self.status)
            .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("no-cache, max-age=0"),
        );
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(SERVER, HeaderValue::from_static("envoy"));
        if self.quits {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
