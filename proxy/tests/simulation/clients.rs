//! Clients: each sends one request after the other and reads what comes back as somebody who believes nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use outrigger::server::Random;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::hosts::Network;
use crate::invariants::Violation;
use crate::scenario::Scenario;
use crate::wire::{Ended, Message, read_message, read_response};

/// What became of all requests.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcomes {
    pub(crate) sent: u64,
    /// Answered by a host with 200.
    pub(crate) good: u64,
    /// Answered by a host with 503.
    pub(crate) failed: u64,
    /// Answered by the proxy itself.
    pub(crate) local: u64,
    /// Broken off, as the host had done.
    pub(crate) cut: u64,
    /// Abandoned by the client.
    pub(crate) abandoned: u64,
}

impl Outcomes {
    /// What the proxy has answered, to the end or not.
    pub(crate) fn answered(&self) -> u64 {
        self.good + self.failed + self.local + self.cut
    }
}

/// How many clients share a connection of HTTP/2.
const SHARE: u64 = 5;

/// What clients share.
pub(crate) struct Crowd {
    pub(crate) network: Rc<Network>,
    pub(crate) outcomes: RefCell<Outcomes>,
    pub(crate) violation: RefCell<Option<Violation>>,
    pub(crate) over: Cell<bool>,
    /// The longest that an answer may take.
    patience: Duration,
    retries: u64,
    http2: bool,
    /// The connections of HTTP/2, each of some clients.
    shared: RefCell<HashMap<u64, h2::client::SendRequest<Bytes>>>,
}

/// What a client sends.
struct Request {
    id: u64,
    key: u64,
    post: bool,
}

impl Crowd {
    pub(crate) fn new(network: Rc<Network>, scenario: &Scenario) -> Self {
        Self {
            network,
            outcomes: RefCell::default(),
            violation: RefCell::default(),
            over: Cell::new(false),
            patience: scenario.route_timeout + Duration::from_secs(1),
            retries: scenario.retries.into(),
            http2: scenario.http2_clients,
            shared: RefCell::default(),
        }
    }

    /// Ends the connections of HTTP/2.
    pub(crate) fn hang_up(&self) {
        self.shared.borrow_mut().clear();
    }

    fn tally(&self, count: impl FnOnce(&mut Outcomes) -> &mut u64) {
        *count(&mut self.outcomes.borrow_mut()) += 1;
    }

    pub(crate) fn accuse(&self, violation: Violation) {
        self.violation.borrow_mut().get_or_insert(violation);
    }

    /// One client, until it is over. `connect` gives it the end of a new connection.
    pub(crate) async fn client(
        self: Rc<Self>,
        number: u64,
        random: Random,
        connect: impl Fn() -> DuplexStream,
    ) {
        let pick = |from: u64, to: u64| from + random.next() % (to - from + 1);
        let mut connection: Option<(DuplexStream, Vec<u8>)> = None;
        let mut sequence = 0;
        while !self.over.get() {
            sleep(Duration::from_millis(pick(1, 1_200))).await;
            sequence += 1;
            let request = Request {
                id: number * 1_000_000 + sequence,
                key: pick(0, 9),
                post: pick(0, 3) == 0,
            };
            let gives_up = (pick(0, 99) == 0).then(|| Duration::from_millis(pick(1, 50)));
            self.tally(|all| &mut all.sent);
            let keep = if self.http2 {
                self.ask_http2(number / SHARE, &request, gives_up, &connect)
                    .await
            } else {
                let kept = connection.get_or_insert_with(|| (connect(), Vec::new()));
                self.ask_http1(kept, &request, gives_up).await
            };
            if !keep || pick(0, 49) == 0 {
                connection = None;
                self.shared.borrow_mut().remove(&(number / SHARE));
            }
        }
    }

    /// Sends a request and judges the answer; whether the connection can be used again.
    async fn ask_http1(
        &self,
        (io, buffer): &mut (DuplexStream, Vec<u8>),
        request: &Request,
        gives_up: Option<Duration>,
    ) -> bool {
        if io.write_all(text(request).as_bytes()).await.is_err() {
            self.accuse(Violation::Unanswered {
                id: request.id,
                why: "the proxy has closed",
            });
            return false;
        }
        let limit = gives_up.unwrap_or(self.patience);
        let answer = timeout(limit, read_message(io, buffer)).await;
        let Ok(answer) = answer else {
            self.no_answer(request.id, gives_up);
            return false;
        };
        if answer.is_ok() && !buffer.is_empty() {
            self.accuse(Violation::Foreign {
                id: request.id,
                what: "bytes behind the answer".into(),
            });
        }
        self.judge(request.id, answer)
    }

    /// The same on a connection of HTTP/2 that others share.
    async fn ask_http2(
        &self,
        group: u64,
        request: &Request,
        gives_up: Option<Duration>,
        connect: impl Fn() -> DuplexStream,
    ) -> bool {
        let kept = self.shared.borrow().get(&group).cloned();
        let sender = match kept {
            Some(sender) => sender,
            None => {
                let (sender, connection) = h2::client::handshake(connect())
                    .await
                    .expect("nothing is waited for");
                spawn_local(async {
                    let _ = connection.await;
                });
                self.shared.borrow_mut().insert(group, sender.clone());
                sender
            }
        };
        let method = if request.post { "POST" } else { "GET" };
        let head = http::Request::builder()
            .method(method)
            .uri(format!("http://a/{}", request.key))
            .header("x-sim-id", request.id)
            .header("x-key", request.key)
            .body(())
            .expect("a request");
        let sent = async {
            let (response, mut body) = sender.ready().await?.send_request(head, !request.post)?;
            if request.post {
                body.send_data(Bytes::from_static(b"hello"), true)?;
            }
            Ok::<_, h2::Error>(response)
        };
        let Ok(response) = sent.await else {
            self.accuse(Violation::Unanswered {
                id: request.id,
                why: "the proxy takes no request",
            });
            return false;
        };
        let limit = gives_up.unwrap_or(self.patience);
        match timeout(limit, read_response(response)).await {
            // A stream that ends early leaves the connection as it is.
            Ok(answer) => self.judge(request.id, answer),
            Err(_) => {
                self.no_answer(request.id, gives_up);
                true
            }
        };
        true
    }

    /// There was no answer in time.
    fn no_answer(&self, id: u64, gives_up: Option<Duration>) {
        match gives_up {
            Some(_) => self.tally(|all| &mut all.abandoned),
            None => self.accuse(Violation::Unanswered {
                id,
                why: "within its time",
            }),
        }
    }

    /// Whether the connection can be used again.
    fn judge(&self, id: u64, answer: Result<Message, Ended>) -> bool {
        let message = match answer {
            Ok(message) => message,
            Err(ended) => {
                // Only a host that breaks off excuses that.
                if ended == Ended::Within && self.network.cut.borrow().contains_key(&id) {
                    self.tally(|all| &mut all.cut);
                } else {
                    self.accuse(Violation::Unanswered {
                        id,
                        why: "the connection ended",
                    });
                }
                return false;
            }
        };
        let status: u64 = message
            .first_line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        self.network.note(&[id, status]);
        if message.field("x-sim-id").is_none() {
            if !matches!(status, 503 | 504) {
                self.accuse(Violation::Foreign {
                    id,
                    what: message.first_line.clone(),
                });
            }
            self.tally(|all| &mut all.local);
            return message.field("connection") != Some("close");
        }
        self.judge_hosts_answer(id, status, &message);
        message.field("connection") != Some("close")
    }

    fn judge_hosts_answer(&self, id: u64, status: u64, message: &Message) {
        let arrivals = self.network.arrivals.borrow();
        let attempts = arrivals.get(&id).map_or(&[][..], Vec::as_slice);
        let last = attempts.iter().copied().max().unwrap_or(0);
        let expected = format!("{id}:{last}");
        if message.number("x-sim-id") != Some(id) || message.body != expected.as_bytes() {
            let body = String::from_utf8_lossy(&message.body);
            let what = format!("{body:?} instead of {expected:?}");
            self.accuse(Violation::Foreign { id, what });
        }
        if last > self.retries + 1 {
            self.accuse(Violation::TooManyAttempts { id, attempts: last });
        }
        match status {
            200 => self.tally(|all| &mut all.good),
            503 => self.tally(|all| &mut all.failed),
            other => self.accuse(Violation::Foreign {
                id,
                what: format!("a status {other}"),
            }),
        }
    }
}

fn text(request: &Request) -> String {
    let Request { id, key, post } = request;
    let common = format!("host: a\r\nx-sim-id: {id}\r\nx-key: {key}\r\n");
    match post {
        true => format!("POST /{key} HTTP/1.1\r\n{common}content-length: 5\r\n\r\nhello"),
        false => format!("GET /{key} HTTP/1.1\r\n{common}\r\n"),
    }
}
