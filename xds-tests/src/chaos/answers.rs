//! What upstreams say, in HTTP/1 and in HTTP/2: one decision, two ways to write it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::Behaviour;
use super::upstreams::{Arrival, Upstream};

/// How long the body of an answer is.
pub(super) const BODY: usize = 1024;

/// How much of a body there is when an answer is broken off.
const PIECE: usize = 150;

/// What a request says.
struct Request {
    check: bool,
    id: Option<u64>,
    attempt: Option<u64>,
}

/// What is done with a request, once it is time to.
enum Answer {
    Status(u16),
    /// The connection ends without one.
    Reset,
    /// It ends in the middle of one.
    Cut,
}

impl Upstream {
    /// One connection of HTTP/1, until either side ends it.
    pub(super) async fn serve_http1(self: Rc<Self>, mut stream: TcpStream) {
        let mut buffer = Vec::with_capacity(2048);
        let mut gone = std::pin::pin!(self.gone());
        loop {
            let request = tokio::select! {
                request = read_request(&mut stream, &mut buffer) => request,
                () = &mut gone => return reset(&stream),
            };
            let Some(request) = request else { return };
            self.note(&request);
            let answer = tokio::select! {
                answer = self.decide(&request) => answer,
                () = &mut gone => return reset(&stream),
            };
            let id = request.id.unwrap_or_default();
            match answer {
                Answer::Status(status) => {
                    if stream.write_all(&text(status, id)).await.is_err() {
                        return;
                    }
                }
                Answer::Reset => return reset(&stream),
                Answer::Cut => {
                    let whole = text(200, id);
                    let begin = &whole[..whole.len() - BODY + PIECE];
                    let _ = stream.write_all(begin).await;
                    sleep(Duration::from_millis(5)).await;
                    return reset(&stream);
                }
            }
        }
    }

    /// One connection of HTTP/2, likewise.
    pub(super) async fn serve_http2(self: Rc<Self>, stream: TcpStream) {
        // However it ends, it is a reset.
        reset(&stream);
        let mut gone = std::pin::pin!(self.gone());
        let connection = tokio::select! {
            connection = h2::server::handshake(stream) => connection,
            () = &mut gone => return,
        };
        let Ok(mut connection) = connection else {
            return;
        };
        let (hang_up, mut hung_up) = mpsc::channel::<()>(1);
        loop {
            tokio::select! {
                next = connection.accept() => {
                    let Some(Ok((request, respond))) = next else { return };
                    let number = |name: &str| request.headers().get(name)?.to_str().ok()?.parse().ok();
                    let request = Request {
                        check: request.uri().path() == "/health",
                        id: number("x-id"),
                        attempt: number("x-envoy-attempt-count"),
                    };
                    spawn_local(self.clone().answer_http2(request, respond, hang_up.clone()));
                }
                _ = hung_up.recv() => return,
                () = &mut gone => return,
            }
        }
    }

    async fn answer_http2(
        self: Rc<Self>,
        request: Request,
        mut respond: SendResponse<Bytes>,
        hang_up: mpsc::Sender<()>,
    ) {
        self.note(&request);
        let answer = tokio::select! {
            answer = self.decide(&request) => answer,
            // Who asked does not wait any more.
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
        };
        let status = match answer {
            Answer::Status(status) => status,
            Answer::Cut => 200,
            // The stream alone, or the connection with all its streams.
            Answer::Reset => match self.chance.pick(0, 3) {
                0 => return respond.send_reset(Reason::INTERNAL_ERROR),
                1 => return respond.send_reset(Reason::REFUSED_STREAM),
                _ => {
                    let _ = hang_up.send(()).await;
                    return;
                }
            },
        };
        let head = http::Response::builder()
            .status(status)
            .header("content-length", BODY)
            .body(())
            .expect("a status and a length");
        let Ok(mut stream) = respond.send_response(head, false) else {
            return;
        };
        let mut whole = Bytes::from(body(request.id.unwrap_or_default()));
        if matches!(answer, Answer::Cut) {
            let _ = stream.send_data(whole.split_to(PIECE), false);
            sleep(Duration::from_millis(5)).await;
            return stream.send_reset(Reason::INTERNAL_ERROR);
        }
        let _ = stream.send_data(whole, true);
    }

    /// Remembers a request; health checks are none.
    fn note(&self, request: &Request) {
        if request.check {
            return;
        }
        self.arrivals.borrow_mut().push(Arrival {
            at: self.begin.borrow().elapsed(),
            behaviour: self.state.borrow().0,
            id: request.id.unwrap_or(u64::MAX),
            attempt: request.attempt.unwrap_or(u64::MAX),
        });
    }

    /// Waits until it is time to answer; how.
    async fn decide(&self, request: &Request) -> Answer {
        let (behaviour, shown) = *self.state.borrow();
        let quick = self.chance.millis(1, 6);
        let behaviour = match behaviour {
            // Nothing reaches a blackhole, checks neither.
            Behaviour::Blackhole => behaviour,
            _ if request.check && !shown.0 => Behaviour::Good,
            other => other,
        };
        let (delay, answer) = match behaviour {
            Behaviour::Good => (quick, Answer::Status(200)),
            Behaviour::Slow => (self.chance.millis(100, 1_500), Answer::Status(200)),
            Behaviour::Failing if self.chance.pick(1, 5) == 1 => (quick, Answer::Status(200)),
            Behaviour::Failing => {
                let which = usize::try_from(self.chance.pick(0, 2)).expect("it is small");
                (quick, Answer::Status([500, 502, 503][which]))
            }
            Behaviour::Resetting if !request.check && self.chance.pick(1, 10) == 1 => {
                self.cut.borrow_mut().extend(request.id);
                (quick, Answer::Cut)
            }
            Behaviour::Resetting | Behaviour::Refusing => (quick, Answer::Reset),
            Behaviour::Silent | Behaviour::Blackhole => {
                // What was sent gets through when the connection does again.
                let mut state = self.state.subscribe();
                while state.borrow_and_update().0 == behaviour {
                    let _ = state.changed().await;
                }
                (quick, Answer::Status(200))
            }
        };
        sleep(delay).await;
        answer
    }

    /// Waits until the process is gone.
    async fn gone(&self) {
        let mut state = self.state.subscribe();
        while state.borrow_and_update().0 != Behaviour::Refusing {
            if state.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Lets the end of the connection be a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Reads the head of a request without a body.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            let number = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                let (_, value) = lines.find(|(n, _)| *n == name)?;
                value.parse().ok()
            };
            return Some(Request {
                check: head.starts_with("GET /health "),
                id: number("x-id"),
                attempt: number("x-envoy-attempt-count"),
            });
        }
        if !matches!(stream.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
}

/// An answer that says which request it is for.
fn text(status: u16, id: u64) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {BODY}\r\n\r\n");
    let mut text = head.into_bytes();
    text.extend(body(id));
    text
}

fn body(id: u64) -> Vec<u8> {
    format!("{id:<BODY$}").into_bytes()
}
