//! Updates of everything while requests keep coming: none may fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_xds_tests::http1::{Reader, response_framing};
use outrigger_xds_tests::message::End;
use outrigger_xds_tests::plane::{Ask, Kind};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::resources::{eds_cluster, endpoints, listener_with, manager, routes};
use crate::stage::{AGGREGATED, Stage, tell};

const CONNECTIONS: u32 = 40;
const REQUESTS_PER_SECOND: u32 = 2000;
const UPDATES: u32 = 500;
/// The time of an update, if the proxy does not take longer.
const PACE: Duration = Duration::from_millis(25);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";

/// Backends and clients, on a thread of their own.
#[derive(Default)]
struct Load {
    done: AtomicBool,
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// A backend that answers everything, and remembers nothing.
async fn backend(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        spawn_local(async move {
            let mut buffer = [0; 4096];
            let mut end = 0;
            while let Ok(read @ 1..) = stream.read(&mut buffer[end..]).await {
                end += read;
                // A client sends its next request when it has this response.
                if buffer[..end].ends_with(b"\r\n\r\n") {
                    end = 0;
                    if stream.write_all(RESPONSE).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

async fn client(address: SocketAddr, load: Arc<Load>) {
    let mut ticks = interval(Duration::from_secs(1) * CONNECTIONS / REQUESTS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut connection = None;
    while !load.done.load(Relaxed) {
        ticks.tick().await;
        load.requests.fetch_add(1, Relaxed);
        if let Err(failure) = one_request(address, &mut connection).await {
            load.failures.lock().push(failure);
            connection = None;
        }
    }
}

async fn one_request(
    address: SocketAddr,
    connection: &mut Option<Reader<TcpStream>>,
) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut reader = match connection.take() {
        Some(reader) => reader,
        None => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Reader::new(stream)
        }
    };
    reader.get_mut().write_all(REQUEST).await.map_err(failed)?;
    let head = reader.head().await;
    let mut message = head.map_err(|stop| format!("no response: {stop:?}"))?;
    let framing = response_framing(&message, false);
    reader.body(framing, &mut message).await;
    if message.status != 200 || message.end != End::Complete {
        return Err(format!("{message:?}"));
    }
    if message.field("connection").as_deref() != Some("close") {
        *connection = Some(reader);
    }
    Ok(())
}

/// Runs something on a thread with a runtime.
fn on_a_thread<F: Future<Output = ()>>(
    run: impl FnOnce() -> F + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, run());
    })
}

/// Starts the clients; the thread ends when the load is done.
fn clients(address: SocketAddr, load: Arc<Load>) -> std::thread::JoinHandle<()> {
    on_a_thread(move || async move {
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn_local(client(address, load.clone()));
        }
        clients.join_all().await;
    })
}

/// Starts two backends; they end with the process.
fn backends() -> [SocketAddr; 2] {
    let listeners = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|one| one.local_addr().unwrap());
    drop(on_a_thread(move || async move {
        let [one, two] = listeners.map(|listener| {
            listener.set_nonblocking(true).unwrap();
            TcpListener::from_std(listener).unwrap()
        });
        tokio::join!(backend(one), backend(two));
    }));
    addresses
}

/// What is updated, and in what order: what a route needs is there before the route, and goes after it.
struct Updates<'a> {
    stage: &'a Stage,
    backends: [SocketAddr; 2],
    source: String,
    done: u32,
}

impl Updates<'_> {
    /// A round of updates, which ends with another cluster behind the route.
    async fn round(&mut self, round: u32) {
        let plane = &self.stage.plane;
        let (old, new) = (format!("c{round}"), format!("c{}", round + 1));
        let which = usize::from(round % 2 == 1);
        plane.put(Kind::Eds, endpoints(&new, &[self.backends[which]]));
        plane.put(Kind::Cds, eds_cluster(&new, &self.source));
        let version = plane.push_again(Kind::Eds);
        let warm = |ask: &Ask| {
            ask.kind == Kind::Eds && ask.is_ack() && ask.answers.as_deref() == Some(&version)
        };
        plane.expect("the ACK of the endpoints", warm).await;
        self.pace(1).await;
        let version = plane.put(Kind::Rds, routes("r", &new));
        plane.acked(Kind::Rds, &version).await;
        self.pace(1).await;
        plane.remove(Kind::Eds, &[&old]);
        let version = plane.remove(Kind::Cds, &[&old]);
        plane.acked(Kind::Cds, &version).await;
        self.pace(1).await;
        let version = plane.put(Kind::Eds, endpoints(&new, &self.backends));
        plane.acked(Kind::Eds, &version).await;
        self.pace(1).await;
        let version = plane.put(Kind::Lds, changing_listener(round + 1, &self.source));
        plane.acked(Kind::Lds, &version).await;
        self.pace(1).await;
        plane.forget_asks();
    }

    async fn pace(&mut self, updates: u32) {
        self.done += updates;
        sleep_until(Instant::now() + PACE).await;
    }
}

/// A listener whose filter chain is another one each time.
fn changing_listener(round: u32, source: &str) -> outrigger_xds_tests::plane::Resource {
    let routes = format!("rds: {{ route_config_name: r, config_source: {source} }}");
    listener_with("l", &manager(&routes, &format!("via: round-{round},")))
}

#[test]
fn no_request_fails_while_everything_is_updated() {
    tell("traffic", &AGGREGATED, async |stage| {
        stage.flags = ["--drain-time-s", "2", "--drain-strategy", "immediate"]
            .map(String::from)
            .into();
        let source = stage.source();
        let backends = backends();
        stage.plane.set(Kind::Cds, [eds_cluster("c0", &source)]);
        stage.plane.set(Kind::Eds, [endpoints("c0", &backends)]);
        stage.plane.set(Kind::Rds, [routes("r", "c0")]);
        stage.plane.set(Kind::Lds, [changing_listener(0, &source)]);
        stage.run().await;
        stage.answers("l", 200, "ok").await;
        let load = Arc::new(Load::default());
        let address = stage.listener("l").await;
        let thread = clients(address, load.clone());
        let start = Instant::now();
        let mut updates = Updates {
            stage,
            backends,
            source,
            done: 0,
        };
        for round in 0..UPDATES / 5 {
            updates.round(round).await;
        }
        assert_eq!(updates.done, UPDATES);
        let requests = load.requests.load(Relaxed);
        let seconds = start.elapsed().as_secs_f64();
        load.done.store(true, Relaxed);
        thread.join().unwrap();
        let failures = load.failures.lock();
        println!(
            "{requests} requests in {seconds:.1} s, {} failures",
            failures.len()
        );
        let some: Vec<_> = failures.iter().take(5).collect();
        assert!(
            failures.is_empty(),
            "{} of {requests} failed: {some:#?}",
            failures.len()
        );
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = requests as f64 / seconds;
        assert!(
            rate > 0.3 * f64::from(REQUESTS_PER_SECOND),
            "only {rate} requests/s"
        );
    });
}
