//! Chaos: thirty upstreams that slow down, refuse, reset, vanish, answer 5xx, leave and come back, under constant load.
//!
//! A seed is a [`Schedule`]: who does what, and when. It is played to one proxy after the other, with the same configuration
//! (`settings`), the same upstreams ([`Upstreams`]) and the same load (`load`), in HTTP/1 or in HTTP/2 from end to end; what came
//! of it are [`Figures`], and of each request that failed an [`Autopsy`].

mod answers;
mod autopsy;
mod figures;
mod load;
mod schedule;
mod settings;
mod upstreams;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

pub use autopsy::Autopsy;
pub use figures::{Figures, Tolerance, Verdict, autopsies, table};
pub use schedule::{Behaviour, Chance, Change, Event, Schedule};
pub use upstreams::Upstreams;

use figures::Seen;
use load::End;

use crate::plane::{Kind, Plane};
use crate::proxy::{Proxy, admin_get};
use crate::{Error, binaries};

/// How many upstreams there are.
pub const UPSTREAMS: usize = 30;

/// How long, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Seconds under load.
    pub seconds: u64,
    /// Requests per second.
    pub rate: u64,
    /// Of clients and upstreams.
    pub protocol: Protocol,
}

/// What everybody speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A request at a time on each connection.
    Http1,
    /// Without TLS, many requests on each connection.
    Http2,
}

/// Plays one seed to one proxy, on a runtime of its own.
pub fn play(name: &str, program: &Path, seed: u64, size: Size) -> Result<Figures, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, world(name, program, seed, size))
}

async fn world(name: &str, program: &Path, seed: u64, size: Size) -> Result<Figures, Error> {
    let schedule = Schedule::of(seed, size.seconds);
    let upstreams = Rc::new(Upstreams::start(&schedule, size.protocol).await?);
    let plane = Rc::new(Plane::start().await?);
    plane.set(Kind::Eds, [settings::endpoints(upstreams.members())]);
    let folder = binaries::scratch(&format!("chaos-{seed}-{name}-{:?}", size.protocol))?;
    let log = folder.join("failures.log");
    let bootstrap = settings::bootstrap(seed, size.protocol, plane.address(), &log);
    let mut proxy = Proxy::start(program, &bootstrap, &folder).await?;
    let address = proxy.listener("ingress").ok_or("no listener")?;
    let begin = Instant::now();
    upstreams.begin();
    let changes = spawn_local(change(schedule.clone(), upstreams.clone(), plane.clone()));
    let mut samples = load::run(address, size).await;
    // Longer than logs are held back.
    sleep(Duration::from_millis(300)).await;
    let page = admin_get(proxy.admin_address(), "/stats?filter=cluster.services").await;
    changes.abort();
    if let Some(obituary) = proxy.obituary() {
        return Err(obituary.into());
    }
    if let Some(refused) = plane.all_asks().into_iter().find_map(|ask| ask.error) {
        return Err(format!("{name} refused: {}", refused.1).into());
    }
    let counts = settings::counts(&page?.1);
    let took = begin.elapsed();
    let arrivals = upstreams.arrivals();
    let cut = upstreams.cut();
    let all = samples.len();
    samples.retain(|sample| sample.end != End::Broken || !cut.contains(&sample.number));
    let seen = Seen {
        cut: all - samples.len(),
        failures: autopsy::of_all(&samples, &arrivals, &std::fs::read_to_string(log)?),
        arrivals,
        counts,
    };
    Ok(Figures::of((name, seed), &schedule, took, &samples, seen))
}

/// Lets the events of a schedule happen.
async fn change(schedule: Schedule, upstreams: Rc<Upstreams>, plane: Rc<Plane>) {
    let begin = Instant::now();
    for event in &schedule.events {
        sleep_until(begin + event.at).await;
        upstreams.apply(event).await;
        if matches!(event.change, Change::Enter | Change::Leave) {
            plane.put(Kind::Eds, settings::endpoints(upstreams.members()));
        }
    }
    sleep(Duration::from_secs(3600)).await;
}
