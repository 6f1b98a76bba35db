//! The upstreams: each a listener on an address of its own, behaving as it is told.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::schedule::ShownByChecks;
use super::{Behaviour, Chance, Change, Event, Schedule, UPSTREAMS};
use crate::Error;

/// How long the body of an answer is.
pub(super) const BODY: usize = 1024;

/// What an upstream is like at a time.
type State = (Behaviour, ShownByChecks);

/// When a request came, and how the upstream behaved then.
pub(super) type Arrival = (Duration, Behaviour);

/// All upstreams. They end on drop.
pub struct Upstreams {
    all: Vec<Rc<Upstream>>,
    members: RefCell<Vec<bool>>,
    tasks: Vec<AbortHandle>,
}

struct Upstream {
    address: SocketAddr,
    state: watch::Sender<State>,
    chance: Chance,
    /// When requests came, since [`Upstreams::begin`], and how they were received; health checks are none.
    arrivals: RefCell<Vec<Arrival>>,
    begin: RefCell<Instant>,
    /// Requests whose answer it broke off in the middle.
    cut: RefCell<HashSet<u64>>,
}

impl Upstreams {
    /// Starts them, all good and all members.
    pub async fn start(schedule: &Schedule) -> Result<Self, Error> {
        let (mut all, mut tasks) = (vec![], vec![]);
        for number in 0..UPSTREAMS {
            let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1)?);
            let listener = TcpListener::bind((ip, 0)).await?;
            let upstream = Rc::new(Upstream {
                address: listener.local_addr()?,
                state: watch::channel((Behaviour::Good, ShownByChecks(true))).0,
                chance: Chance::new(schedule.seed << 8 | 0x5e00_0000 | number as u64),
                arrivals: RefCell::default(),
                begin: RefCell::new(Instant::now()),
                cut: RefCell::default(),
            });
            tasks.push(spawn_local(upstream.clone().live(listener)).abort_handle());
            all.push(upstream);
        }
        Ok(Self {
            all,
            members: RefCell::new(vec![true; UPSTREAMS]),
            tasks,
        })
    }

    /// Forgets what came so far: the load begins.
    pub fn begin(&self) {
        for upstream in &self.all {
            upstream.arrivals.borrow_mut().clear();
            *upstream.begin.borrow_mut() = Instant::now();
        }
    }

    /// Lets something happen.
    pub async fn apply(&self, event: &Event) {
        let upstream = &self.all[event.upstream];
        match event.change {
            Change::Behave(behaviour, shown) => {
                upstream.state.send_replace((behaviour, shown));
                // So that who is announced next is there.
                tokio::task::yield_now().await;
            }
            Change::Leave => self.members.borrow_mut()[event.upstream] = false,
            Change::Enter => self.members.borrow_mut()[event.upstream] = true,
        }
    }

    /// The addresses of those that the control plane announces.
    pub fn members(&self) -> Vec<SocketAddr> {
        let members = self.members.borrow();
        let here = self.all.iter().zip(members.iter()).filter(|(_, is)| **is);
        here.map(|(upstream, _)| upstream.address).collect()
    }

    /// By upstream, when requests came.
    pub(super) fn arrivals(&self) -> Vec<Vec<Arrival>> {
        let all = self.all.iter();
        all.map(|upstream| upstream.arrivals.borrow().clone())
            .collect()
    }
}

impl Upstreams {
    /// The requests whose answers were broken off in the middle: nobody can give their clients a whole one.
    pub(super) fn cut(&self) -> HashSet<u64> {
        let all = self.all.iter();
        all.flat_map(|upstream| upstream.cut.borrow().clone())
            .collect()
    }
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Upstream {
    async fn live(self: Rc<Self>, first: TcpListener) {
        let mut state = self.state.subscribe();
        let mut listener = Some(first);
        loop {
            let behaviour = state.borrow_and_update().0;
            match behaviour {
                Behaviour::Refusing => {
                    listener = None;
                    let _ = state.changed().await;
                }
                Behaviour::Blackhole => {
                    drop(listener.take());
                    // Whoever holds the only place keeps all others out.
                    let full = self.full().await;
                    let _ = state.changed().await;
                    drop(full);
                }
                _ => {
                    let open = match listener.take() {
                        Some(open) => open,
                        None => self.listen(1024).await,
                    };
                    loop {
                        tokio::select! {
                            accepted = open.accept() => {
                                if let Ok((stream, _)) = accepted {
                                    spawn_local(self.clone().serve(stream));
                                }
                            }
                            _ = state.changed() => break,
                        }
                    }
                    listener = Some(open);
                }
            }
        }
    }

    /// The listener again, at its old address.
    async fn listen(&self, backlog: u32) -> TcpListener {
        loop {
            let bound = || -> io::Result<TcpListener> {
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(self.address)?;
                socket.listen(backlog)
            };
            match bound() {
                Ok(listener) => return listener,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// A listener whose queue is full, with those who fill it: the kernel drops what else comes.
    async fn full(&self) -> (TcpListener, Vec<TcpStream>) {
        let listener = self.listen(0).await;
        let mut inside = vec![];
        for _ in 0..4 {
            let connect = TcpStream::connect(self.address);
            match timeout(Duration::from_millis(20), connect).await {
                Ok(Ok(stream)) => inside.push(stream),
                _ => break,
            }
        }
        (listener, inside)
    }

    /// One connection, until either side ends it.
    async fn serve(self: Rc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut state = self.state.subscribe();
        let mut buffer = Vec::with_capacity(2048);
        loop {
            let request = tokio::select! {
                request = read_request(&mut stream, &mut buffer) => request,
                () = gone(&mut state) => return reset(&stream),
            };
            let Some(request) = request else { return };
            if !request.check {
                let since = self.begin.borrow().elapsed();
                let behaviour = self.state.borrow().0;
                self.arrivals.borrow_mut().push((since, behaviour));
            }
            let went_on = tokio::select! {
                went_on = self.answer(&mut stream, &request) => went_on,
                () = gone(&mut state) => return reset(&stream),
            };
            if !went_on {
                return;
            }
        }
    }

    /// Answers, or not; whether the connection goes on.
    async fn answer(&self, stream: &mut TcpStream, request: &Request) -> bool {
        let (behaviour, shown) = *self.state.borrow();
        let quick = self.chance.millis(1, 6);
        let behaviour = match behaviour {
            // Nothing reaches a blackhole, checks neither.
            Behaviour::Blackhole => behaviour,
            _ if request.check && !shown.0 => Behaviour::Good,
            other => other,
        };
        let (delay, status) = match behaviour {
            Behaviour::Good => (quick, 200),
            Behaviour::Slow => (self.chance.millis(100, 1_500), 200),
            Behaviour::Failing if self.chance.pick(1, 5) == 1 => (quick, 200),
            Behaviour::Failing => {
                let which = usize::try_from(self.chance.pick(0, 2)).unwrap();
                (quick, [500, 502, 503][which])
            }
            Behaviour::Resetting | Behaviour::Refusing => {
                sleep(quick).await;
                if behaviour == Behaviour::Resetting && self.chance.pick(1, 10) == 1 {
                    self.cut.borrow_mut().extend(request.id.parse::<u64>());
                    let _ = stream.write_all(&text(200, &request.id)[..200]).await;
                    sleep(Duration::from_millis(5)).await;
                }
                reset(stream);
                return false;
            }
            Behaviour::Silent | Behaviour::Blackhole => {
                // What was sent gets through when the connection does again.
                let mut state = self.state.subscribe();
                while state.borrow_and_update().0 == behaviour {
                    let _ = state.changed().await;
                }
                (quick, 200)
            }
        };
        sleep(delay).await;
        stream.write_all(&text(status, &request.id)).await.is_ok()
    }
}

/// Waits until the process is gone.
async fn gone(state: &mut watch::Receiver<State>) {
    while state.borrow_and_update().0 != Behaviour::Refusing {
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Lets the end of the connection be a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

struct Request {
    check: bool,
    id: String,
}

/// Reads the head of a request without a body.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            let id = head.lines().find_map(|line| line.strip_prefix("x-id: "));
            return Some(Request {
                check: head.starts_with("GET /health "),
                id: id.unwrap_or_default().to_owned(),
            });
        }
        if !matches!(stream.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
}

/// An answer that says which request it is for.
fn text(status: u16, id: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {BODY}\r\n\r\n{id:<BODY$}").into_bytes()
}
