//! The upstreams: each a listener on an address of its own, behaving as it is told.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::schedule::ShownByChecks;
use super::{Behaviour, Chance, Change, Event, Protocol, Schedule, UPSTREAMS};
use crate::Error;

/// What an upstream is like at a time.
type State = (Behaviour, ShownByChecks);

/// A request that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// Since [`Upstreams::begin`].
    pub(super) at: Duration,
    /// How the upstream behaved then.
    pub(super) behaviour: Behaviour,
    /// Which request it was, and as which attempt.
    pub(super) id: u64,
    pub(super) attempt: u64,
}

/// All upstreams. They end on drop.
pub struct Upstreams {
    all: Vec<Rc<Upstream>>,
    members: RefCell<Vec<bool>>,
    tasks: Vec<AbortHandle>,
}

pub(super) struct Upstream {
    address: SocketAddr,
    protocol: Protocol,
    pub(super) state: watch::Sender<State>,
    pub(super) chance: Chance,
    pub(super) arrivals: RefCell<Vec<Arrival>>,
    pub(super) begin: RefCell<Instant>,
    /// Requests whose answer it broke off in the middle.
    pub(super) cut: RefCell<HashSet<u64>>,
}

impl Upstreams {
    /// Starts them, all good and all members.
    pub async fn start(schedule: &Schedule, protocol: Protocol) -> Result<Self, Error> {
        let (mut all, mut tasks) = (vec![], vec![]);
        for number in 0..UPSTREAMS {
            let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1)?);
            let listener = TcpListener::bind((ip, 0)).await?;
            let upstream = Rc::new(Upstream {
                address: listener.local_addr()?,
                protocol,
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

    /// By upstream, the requests that came.
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
    async fn serve(self: Rc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        match self.protocol {
            Protocol::Http1 => self.serve_http1(stream).await,
            Protocol::Http2 => self.serve_http2(stream).await,
        }
    }
}
