//! The HTTP server.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::access_log::Answered;
use super::grpc::{self, AdminBody};
use super::{Admin, Answer, Request, Response};
use crate::net::{Address, Io};
use crate::stream_info::ConnectionInfo;

/// A form may be this long, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Pause after a failed accept: there may be no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for the whole head of a request, and for what tells the protocol.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams of one connection of HTTP/2 at a time.
const MAX_STREAMS: u32 = 100;

/// What ends when its connection does.
#[derive(Clone, Default)]
struct Quit {
    asked: Rc<Cell<bool>>,
    told: Rc<Notify>,
}

/// Runs the streams of HTTP/2 on this thread.
#[derive(Clone)]
struct LocalTasks;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

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
        io: impl AsyncRead + AsyncWrite + Unpin + 'static,
        peer: Address,
        local: Address,
    ) {
        let limit = &self.source.server().overload.connections;
        let guard = limit.try_acquire();
        if guard.is_none() && !self.ignore_global_conn_limit {
            return;
        }
        let _guard = guard.filter(|_| !self.ignore_global_conn_limit);
        let quit = Quit::default();
        let log = self.log.as_ref().map(|log| log.connection(peer, local));
        let service = {
            let (admin, quit) = (self.clone(), quit.clone());
            service_fn(move |request| {
                let (admin, log, quit) = (admin.clone(), log.clone(), quit.clone());
                async move { admin.logged(request, log.as_ref(), &quit).await }
            })
        };
        let Ok(Ok((first, io))) = timeout(HEAD_TIMEOUT, first_bytes(io)).await else {
            return;
        };
        let served = match first {
            true => {
                let connection = http2::Builder::new(LocalTasks)
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .serve_connection(TokioIo::new(io), service);
                let mut connection = pin!(connection);
                tokio::select! {
                    served = connection.as_mut() => served,
                    () = quit.told.notified() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
            false => {
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(io), service)
                    .await
            }
        };
        if let Err(error) = served {
            debug!(%error, "An admin connection broke off.");
        }
        if quit.asked.get() {
            self.source.quit();
        }
    }

    /// Answers, and writes the entry of the access log.
    async fn logged(
        self: &Rc<Self>,
        request: hyper::Request<Incoming>,
        connection: Option<&Rc<ConnectionInfo>>,
        quit: &Quit,
    ) -> Result<hyper::Response<AdminBody>, Infallible> {
        let (head, body) = request.into_parts();
        let log = self.log.as_ref().zip(connection);
        let entry = log.map(|(log, connection)| (log, log.begin(connection, &head)));
        let (response, received, sent) = match grpc::is_call(&head) {
            true => (self.call(&head, body), 0, 0),
            false => {
                let (response, received) = self.respond(&head, body).await;
                if response.quits {
                    quit.asked.set(true);
                    quit.told.notify_one();
                }
                let sent = response.body.len();
                (response.into_http(), received, sent)
            }
        };
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

    /// Answers a call, unless its path is refused.
    fn call(self: &Rc<Self>, head: &Parts, body: Incoming) -> hyper::Response<AdminBody> {
        match self.refusal(head.uri.path()) {
            Some(refusal) => refusal.into_http(),
            None => grpc::answer(self, head, body),
        }
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

/// Whether a connection begins as HTTP/2 does, and the connection with all that was read of it.
async fn first_bytes<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
) -> io::Result<(bool, impl AsyncRead + AsyncWrite + Unpin)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let mut rest = (&mut io).take((PREFACE.len() - first.len()) as u64);
        if rest.read_buf(&mut first).await? == 0 {
            break;
        }
    }
    let is_http2 = first == PREFACE;
    let (reader, writer) = tokio::io::split(io);
    let reader = io::Cursor::new(first).chain(reader);
    Ok((is_http2, tokio::io::join(reader, writer)))
}

impl Response {
    fn into_http(self) -> hyper::Response<AdminBody> {
        let body = AdminBody::Page(Full::new(Bytes::from(self.body)));
        let mut response = hyper::Response::new(body);
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
