//! The HTTP server.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{spawn_blocking, spawn_local};
use tracing::{debug, warn};

use super::access_log::{AdminLog, Answered};
use super::{Admin, Answer, Request, Response};
use crate::net::{Address, Io};
use crate::stream_info::ConnectionInfo;

/// A form may be this long, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Pause after a failed accept: there may be no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for the whole head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

impl Admin {
    /// Accepts connections on a TCP socket until it is dropped.
    pub async fn serve_tcp(self: Rc<Self>, listener: TcpListener, bound: Address) {
        loop {
            let accepted = listener.accept().await;
            let accepted = accepted.map(|(stream, peer)| {
                let local = stream
                    .local_addr()
                    .map_or_else(|_| bound.clone(), Into::into);
                (Io::from(stream), peer.into(), local)
            });
            self.accepted(accepted).await;
        }
    }

    /// Accepts connections on a UNIX socket until it is dropped.
    pub async fn serve_unix(self: Rc<Self>, listener: UnixListener, bound: Address) {
        loop {
            let accepted = listener.accept().await;
            let accepted = accepted.map(|(stream, _)| {
                let nameless = Address::Pipe("".into());
                (Io::from(stream), nameless, bound.clone())
            });
            self.accepted(accepted).await;
        }
    }

    async fn accepted(self: &Rc<Self>, accepted: io::Result<(Io, Address, Address)>) {
        match accepted {
            Ok((io, peer, local)) => {
                let admin = self.clone();
                spawn_local(async move { admin.connection(io, peer, local).await });
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
        peer: Address,
        local: Address,
    ) {
        let limit = &self.source.server().overload.connections;
        let guard = limit.try_acquire();
        if guard.is_none() && !self.ignore_global_conn_limit {
            return;
        }
        let _guard = guard.filter(|_| !self.ignore_global_conn_limit);
        let quits = Cell::new(false);
        let log = self
            .log
            .as_ref()
            .map(|log| (log, log.connection(peer, local)));
        let service = service_fn(|request| self.logged(request, log.as_ref(), &quits));
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

    /// Answers, and writes the entry of the access log.
    async fn logged(
        &self,
        request: hyper::Request<Incoming>,
        log: Option<&(&AdminLog, Rc<ConnectionInfo>)>,
        quits: &Cell<bool>,
    ) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let entry = log.map(|(log, connection)| (log, log.begin(connection, &head)));
        let (response, received) = self.respond(&head, body).await;
        quits.set(quits.get() || response.quits);
        let sent = response.body.len();
        let response = response.into_http();
        if let Some((log, entry)) = entry {
            let answered = Answered {
                status: response.status().as_u16(),
                headers: response.headers(),
                body: sent,
            };
            log.end(entry, received, &answered);
        }
        Ok(response)
    }

    /// The answer, and how many bytes of body the request had.
    async fn respond(&self, head: &Parts, body: Incoming) -> (Response, usize) {
        let target = head.uri.path_and_query();
        let target = target.map_or(head.uri.path(), |target| target.as_str());
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return (Response::error(413, format!("{error}\n")), 0),
        };
        let mut query = super::query::Query::of_target(target);
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type.is_some_and(|t| t.starts_with(b"application/x-www-form-urlencoded")) {
            query.add(&body);
        }
        let request = Request {
            method: head.method.as_str(),
            target,
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
