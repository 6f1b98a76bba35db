//! Chaos: thirty upstreams that slow down, refuse, reset, vanish, answer 5xx, leave and come back, under constant load.
//!
//! A seed is a [`Schedule`]: who does what, and when. It is played to one proxy after the other, with the same configuration
//! (`settings`), the same upstreams ([`Upstreams`]) and the same load (`load`); what came of it are [`Figures`].

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

pub use figures::{Figures, Tolerance, Verdict, table};
pub use schedule::{Behaviour, Chance, Change, Event, Schedule};
pub use upstreams::Upstreams;

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
    let upstreams = Rc::new(Upstreams::start(&schedule).await?);
    let plane = Rc::new(Plane::start().await?);
    plane.set(Kind::Eds, [settings::endpoints(upstreams.members())]);
    let folder = binaries::scratch(&format!("chaos-{seed}-{name}"))?;
    let bootstrap = settings::bootstrap(seed, plane.address());
    let mut proxy = Proxy::start(program, &bootstrap, &folder).await?;
    let address = proxy.listener("ingress").ok_or("no listener")?;
    let begin = Instant::now();
    upstreams.begin();
    let changes = spawn_local(change(schedule.clone(), upstreams.clone(), plane.clone()));
    let mut samples = load::run(address, size).await;
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
    samples.retain(|sample| sample.status.is_some() || !cut.contains(&sample.number));
    let cut = all - samples.len();
    Ok(Figures::of(
        (name, seed),
        &schedule,
        took,
        &samples,
        (&arrivals, cut, counts),
    ))
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
