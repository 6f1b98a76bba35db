//! Clients: each sends one request after the other and reads what comes back as somebody who believes nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use outrigger::server::Random;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};

use crate::hosts::Network;
use crate::invariants::Violation;
use crate::scenario::{Plant, Scenario};
use crate::wire::{Ended, Message, read_message};

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

/// What clients share.
pub(crate) struct Crowd {
    pub(crate) network: Rc<Network>,
    pub(crate) outcomes: RefCell<Outcomes>,
    pub(crate) violation: RefCell<Option<Violation>>,
    pub(crate) over: Cell<bool>,
    /// The longest that an answer may take.
    patience: Duration,
    retries: u64,
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
        }
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
            let (io, buffer) = connection.get_or_insert_with(|| (connect(), Vec::new()));
            sequence += 1;
            let id = number * 1_000_000 + sequence;
            let request = text(id, pick(0, 9), pick(0, 3) == 0);
            self.tally(|all| &mut all.sent);
            if io.write_all(request.as_bytes()).await.is_err() {
                self.accuse(Violation::Unanswered {
                    id,
                    why: "the proxy has closed",
                });
                connection = None;
                continue;
            }
            let gives_up = pick(0, 99) == 0;
            let limit = match gives_up {
                true => Duration::from_millis(pick(0, 50)),
                false => self.patience,
            };
            let lost = self.network.plant == Some(Plant::LostAnswer) && pick(0, 499) == 0;
            let answer = match lost {
                true => {
                    sleep(limit).await;
                    Err(())
                }
                false => timeout(limit, read_message(io, buffer)).await.map_err(drop),
            };
            let keep = match answer {
                Ok(answer) => self.judge(id, answer, buffer),
                Err(()) if gives_up => {
                    self.tally(|all| &mut all.abandoned);
                    false
                }
                Err(()) => {
                    self.accuse(Violation::Unanswered {
                        id,
                        why: "within its time",
                    });
                    false
                }
            };
            if !keep || pick(0, 49) == 0 {
                connection = None;
            }
        }
    }

    /// Whether the connection can be used again.
    fn judge(&self, id: u64, answer: Result<Message, Ended>, rest: &[u8]) -> bool {
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
        if !rest.is_empty() {
            self.accuse(Violation::Foreign {
                id,
                what: "bytes behind the answer".into(),
            });
        }
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

fn text(id: u64, key: u64, post: bool) -> String {
    let common = format!("host: a\r\nx-sim-id: {id}\r\nx-key: {key}\r\n");
    match post {
        true => format!("POST /{key} HTTP/1.1\r\n{common}content-length: 5\r\n\r\nhello"),
        false => format!("GET /{key} HTTP/1.1\r\n{common}\r\n"),
    }
}
