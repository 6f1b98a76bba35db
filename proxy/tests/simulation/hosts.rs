//! The network of a world: its hosts, how they behave from one phase to the next, and what they have seen.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use outrigger::LocalBoxFuture;
use outrigger::net::Address;
use outrigger::server::Random;
use outrigger::upstream::cluster::{LookupFamily, ResolverSettings};
use outrigger::upstream::pool::{ConnectError, Connected, Connector, SocketSettings};
use outrigger::upstream::{DnsError, Host, Resolved, Resolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use crate::data_path::connected;
use crate::scenario::{Scenario, address};
use crate::wire::read_message;

/// How a host behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It answers within some milliseconds.
    Good,
    /// It takes its time: hundreds of milliseconds, up to seconds.
    Slow,
    /// It answers most requests by 503.
    Failing,
    /// It refuses connections.
    Refusing,
    /// It drops what it is asked, and the connection with it.
    Resetting,
    /// It ends in the middle of an answer.
    Cutting,
    /// It takes everything and says nothing.
    Blackhole,
}

const TROUBLES: [Behaviour; 6] = [
    Behaviour::Slow,
    Behaviour::Failing,
    Behaviour::Refusing,
    Behaviour::Resetting,
    Behaviour::Cutting,
    Behaviour::Blackhole,
];

/// What arrived: which request, and as which attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) id: u64,
    pub(crate) attempt: u64,
}

impl Arrival {
    /// What the fields of a request say: the client sends one, the proxy adds the other.
    fn of(number: impl Fn(&str) -> Option<u64>) -> Option<Self> {
        Some(Self {
            id: number("x-sim-id")?,
            attempt: number("x-envoy-attempt-count")?,
        })
    }
}

/// All hosts.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: BTreeMap<IpAddr, Rc<SimHost>>,
    random: Random,
    http2: bool,
    /// By request, the attempts that arrived.
    pub(crate) arrivals: RefCell<HashMap<u64, Vec<u64>>>,
    /// The first that arrived twice.
    pub(crate) twice: Cell<Option<Arrival>>,
    /// Something came that no client has sent.
    pub(crate) foreign: Cell<bool>,
    /// Requests whose answer a host has broken off.
    pub(crate) cut: RefCell<HashMap<u64, u64>>,
    /// Connections that are open, and requests that are being answered.
    pub(crate) connections: Cell<u64>,
    pub(crate) in_flight: Cell<u64>,
    pub(crate) most_in_flight: Cell<u64>,
    trace: Cell<u64>,
    begin: Instant,
    over: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug)]
struct SimHost {
    behaviour: Cell<Behaviour>,
    here: Cell<bool>,
}

/// Counts one while it lives.
struct Counted(Rc<Network>, fn(&Network) -> &Cell<u64>);

impl Counted {
    fn new(network: &Rc<Network>, cell: fn(&Network) -> &Cell<u64>) -> Self {
        cell(network).set(cell(network).get() + 1);
        Self(network.clone(), cell)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = (self.1)(&self.0);
        cell.set(cell.get() - 1);
    }
}

/// What a host does with a request.
enum Answer {
    Status(u16),
    Close,
    Cut,
    Never,
}

impl Network {
    pub(crate) fn new(scenario: &Scenario) -> Rc<Self> {
        let mut hosts = BTreeMap::new();
        for (priority, count) in scenario.hosts.iter().enumerate() {
            for number in 0..*count {
                hosts.insert(
                    address(priority, number).parse().unwrap(),
                    Rc::new(SimHost {
                        behaviour: Cell::new(Behaviour::Good),
                        here: Cell::new(true),
                    }),
                );
            }
        }
        let network = Rc::new(Self {
            hosts,
            random: Random::new(scenario.seed ^ 0x5eed),
            http2: scenario.http2,
            arrivals: RefCell::default(),
            twice: Cell::default(),
            foreign: Cell::default(),
            cut: RefCell::default(),
            connections: Cell::default(),
            in_flight: Cell::default(),
            most_in_flight: Cell::default(),
            trace: Cell::new(scenario.seed),
            begin: Instant::now(),
            over: tokio::sync::watch::channel(false).0,
        });
        for host in network.hosts.values() {
            spawn_local(
                network
                    .clone()
                    .live(host.clone(), scenario.trouble, scenario.dns),
            );
        }
        network
    }

    pub(crate) fn pick(&self, from: u64, to: u64) -> u64 {
        from + self.random.next() % (to - from + 1)
    }

    pub(crate) fn host_count(&self) -> u64 {
        self.hosts.len() as u64
    }

    /// Adds to the fingerprint of all that happened.
    pub(crate) fn note(&self, what: &[u64]) {
        let now = u64::try_from(self.begin.elapsed().as_micros()).unwrap();
        let mut trace = self.trace.get();
        for value in what.iter().chain([&now]) {
            trace = (trace ^ value)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(17);
        }
        self.trace.set(trace);
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Ends all connections, and lets no host misbehave any more.
    pub(crate) fn end(&self) {
        let _ = self.over.send(true);
    }

    async fn live(self: Rc<Self>, host: Rc<SimHost>, trouble: u64, may_leave: bool) {
        let mut over = self.over.subscribe();
        loop {
            let phase = Duration::from_millis(self.pick(500, 8_000));
            tokio::select! {
                biased;
                () = sleep(phase) => {}
                _ = over.changed() => break,
            }
            let bad = self.pick(1, 100) <= trouble;
            let next = TROUBLES[self.pick(0, 5) as usize];
            host.behaviour.set(if bad { next } else { Behaviour::Good });
            host.here.set(!may_leave || self.pick(1, 5) > 1);
        }
        host.behaviour.set(Behaviour::Good);
    }

    fn decide(&self, host: &SimHost) -> (Duration, Answer) {
        let quick = Duration::from_micros(self.pick(500, 20_000));
        let slow = Duration::from_millis(self.pick(200, 4_000));
        match host.behaviour.get() {
            Behaviour::Good => (quick, Answer::Status(200)),
            Behaviour::Slow => (slow, Answer::Status(200)),
            Behaviour::Failing if self.pick(0, 4) > 0 => (quick, Answer::Status(503)),
            Behaviour::Failing | Behaviour::Refusing => (quick, Answer::Status(200)),
            Behaviour::Resetting => (quick, Answer::Close),
            Behaviour::Cutting => (quick, Answer::Cut),
            Behaviour::Blackhole => (quick, Answer::Never),
        }
    }

    /// How a host answers a health check; none: it ends the connection.
    async fn check(&self, host: &SimHost) -> Option<u16> {
        let (delay, answer) = self.decide(host);
        sleep(delay).await;
        match answer {
            Answer::Status(status) => Some(status),
            Answer::Close | Answer::Cut => None,
            Answer::Never => {
                sleep(Duration::from_secs(60)).await;
                None
            }
        }
    }

    fn arrived(&self, arrival: Arrival) {
        self.note(&[arrival.id, arrival.attempt]);
        let mut arrivals = self.arrivals.borrow_mut();
        let attempts = arrivals.entry(arrival.id).or_default();
        if attempts.contains(&arrival.attempt) && self.twice.get().is_none() {
            self.twice.set(Some(arrival));
        }
        attempts.push(arrival.attempt);
    }

    fn counts(self: &Rc<Self>) -> Counted {
        let counted = Counted::new(self, |network| &network.in_flight);
        let most = self.most_in_flight.get().max(self.in_flight.get());
        self.most_in_flight.set(most);
        counted
    }

    async fn serve(self: Rc<Self>, host: Rc<SimHost>, io: DuplexStream) {
        let _open = Counted::new(&self, |network| &network.connections);
        let mut over = self.over.subscribe();
        if *over.borrow() {
            return;
        }
        tokio::select! {
                biased;
            () = async {
                match self.http2 {
                    true => self.serve_http2(&host, io).await,
                    false => self.serve_http1(&host, io).await,
                }
            } => {}
            _ = over.changed() => {}
        }
    }

    async fn serve_http1(self: &Rc<Self>, host: &SimHost, mut io: DuplexStream) {
        let mut buffer = Vec::new();
        while let Ok(request) = read_message(&mut io, &mut buffer).await {
            if request.first_line.starts_with("GET /health ") {
                let checked = tokio::select! {
                    biased;
                    status = self.check(host) => status,
                    _ = io.read_buf(&mut buffer) => return,
                };
                match checked {
                    Some(status) => {
                        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                        if io.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    None => return,
                }
            }
            let number = |name: &str| request.number(name);
            let Some(arrival) = Arrival::of(number).filter(|_| request.is_clients()) else {
                return self.foreign.set(true);
            };
            self.arrived(arrival);
            let counted = self.counts();
            let (delay, answer) = self.decide(host);
            // Whoever gives up closes the connection: what is behind a request is its end.
            tokio::select! {
                biased;
                () = sleep(delay) => {}
                _ = io.read_buf(&mut buffer) => return,
            }
            let body = format!("{}:{}", arrival.id, arrival.attempt);
            let head = |status: u16| {
                format!(
                    "HTTP/1.1 {status} X\r\nx-sim-id: {}\r\ncontent-length: {}\r\n\r\n",
                    arrival.id,
                    body.len()
                )
            };
            let text = match answer {
                Answer::Status(status) => head(status) + &body,
                Answer::Close => return,
                Answer::Cut => {
                    self.cut.borrow_mut().insert(arrival.id, arrival.attempt);
                    let _ = io.write_all((head(200) + &body[..1]).as_bytes()).await;
                    // A proxy that has heard enough closes; that one connection less counts at once.
                    let _ = timeout(Duration::from_millis(1), io.read_buf(&mut buffer)).await;
                    return;
                }
                Answer::Never => {
                    let _ = io.read_buf(&mut buffer).await;
                    return;
                }
            };
            drop(counted);
            if io.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn serve_http2(self: &Rc<Self>, host: &Rc<SimHost>, io: DuplexStream) {
        let Ok(mut connection) = h2::server::handshake(io).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            spawn_local(self.clone().answer_http2(host.clone(), request, respond));
        }
    }

    async fn answer_http2(
        self: Rc<Self>,
        host: Rc<SimHost>,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<bytes::Bytes>,
    ) {
        if request.uri().path() == "/health" {
            match self.check(&host).await {
                Some(status) => {
                    let head = http::Response::builder().status(status).body(()).unwrap();
                    let _ = respond.send_response(head, true);
                }
                None => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            }
            return;
        }
        let number = |name: &str| {
            let value = request.headers().get(name)?;
            value.to_str().ok()?.parse().ok()
        };
        let Some(arrival) = Arrival::of(number) else {
            return self.foreign.set(true);
        };
        self.arrived(arrival);
        let _counted = self.counts();
        let (delay, answer) = self.decide(&host);
        tokio::select! {
                biased;
            () = sleep(delay) => {}
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
        }
        let body = format!("{}:{}", arrival.id, arrival.attempt);
        let status = match answer {
            Answer::Status(status) => status,
            Answer::Cut => 200,
            Answer::Close => return respond.send_reset(h2::Reason::INTERNAL_ERROR),
            Answer::Never => {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                return;
            }
        };
        let head = http::Response::builder()
            .status(status)
            .header("x-sim-id", arrival.id)
            .header("content-length", body.len())
            .body(())
            .unwrap();
        let Ok(mut stream) = respond.send_response(head, false) else {
            return;
        };
        if matches!(answer, Answer::Cut) {
            self.cut.borrow_mut().insert(arrival.id, arrival.attempt);
            let _ = stream.send_data(bytes::Bytes::copy_from_slice(&body.as_bytes()[..1]), false);
            sleep(Duration::from_millis(1)).await;
            return stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        let _ = stream.send_data(body.into(), true);
    }
}

/// Connects to the hosts of a network.
#[derive(Debug)]
pub(crate) struct Wires(pub(crate) Rc<Network>);

impl Connector for Wires {
    fn connect(
        &self,
        host: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        let network = self.0.clone();
        let Address::Ip(address) = host.address.clone() else {
            panic!("hosts have IP addresses")
        };
        Box::pin(async move {
            let host = network.hosts[&address.ip()].clone();
            sleep(Duration::from_micros(network.pick(100, 2_000))).await;
            match host.behaviour.get() {
                Behaviour::Refusing => return Err(ConnectError::Failed("refused".into())),
                // A packet that is lost: the caller's time limit ends this.
                Behaviour::Blackhole if network.pick(0, 1) == 0 => std::future::pending().await,
                _ => {}
            }
            let (near, far) = duplex(64 * 1024);
            spawn_local(network.clone().serve(host, far));
            Ok(connected(near))
        })
    }
}

impl Resolver for Network {
    fn resolve(
        &self,
        name: &str,
        _: LookupFamily,
        _: &ResolverSettings,
    ) -> LocalBoxFuture<'static, Result<Resolved, DnsError>> {
        let priority: u8 = name[1..2].parse().expect("names are p0.sim and p1.sim");
        let here = |(address, host): (&IpAddr, &Rc<SimHost>)| {
            let IpAddr::V4(v4) = address else {
                return None;
            };
            (v4.octets()[1] == priority && host.here.get()).then_some(*address)
        };
        let addresses: Vec<IpAddr> = self.hosts.iter().filter_map(here).collect();
        Box::pin(async move {
            sleep(Duration::from_millis(5)).await;
            Ok(Resolved {
                addresses,
                ttl: Duration::from_secs(1),
            })
        })
    }
}
