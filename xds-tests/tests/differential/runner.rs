//! Runs the cases of a theme on both sides.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::backend::Backend;
use outrigger_xds_tests::client::{self, Protocol, Step};
use outrigger_xds_tests::observation::{self, broken_promises, difference};
use outrigger_xds_tests::proxy::{ENDED, Proxy};
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use crate::bootstrap;
use crate::case::Case;
use crate::names::Names;

/// A case may take this long on either side, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long to wait for the lines of an access log.
const LOG_PATIENCE: Duration = Duration::from_secs(3);

/// Cases that are in flight at once.
const AT_ONCE: usize = 12;

/// More failures in a theme than these are no chance.
const AGAIN: usize = 25;

/// The two programs.
pub struct Binaries {
    pub envoy: PathBuf,
    pub outrigger: PathBuf,
}

/// What came of a case.
pub enum Outcome {
    Passed,
    /// It failed while others ran beside it, in this way, and passed by itself.
    PassedAlone(Vec<String>),
    /// Passed, with a difference that the case declares.
    Deviates(&'static str),
    Failed(Vec<String>),
}

/// One side of a theme: where each case meets its proxy.
struct Side {
    binary: PathBuf,
    folder: PathBuf,
    shared: Shared,
    seats: Vec<Seat>,
    stats: RefCell<HashMap<SocketAddr, Rc<StatsPage>>>,
}

/// The stats of a proxy, and when they were asked for. Those of a hundred cases have megabytes, so that who comes while they are
/// asked for waits, and shares the next ones.
type StatsPage = Mutex<Option<(Instant, Rc<str>)>>;

/// The proxy that serves most cases.
enum Shared {
    Runs(Rc<RefCell<Proxy>>),
    /// It refused the bootstrap of all; each case is tried on a proxy of its own.
    Refused,
    /// It did not get ready.
    Broken(String),
}

/// A case's backends and names on one side; one set for each protocol that runs it.
struct Seat {
    backends: Vec<(&'static str, Backend)>,
    names: Names,
}

/// A run is a case over one protocol.
#[derive(Clone)]
pub struct Run {
    pub case: Rc<Case>,
    pub protocol: Protocol,
}

/// Runs a theme; gives, in the order of the runs, what came of them and what Envoy showed.
///
/// Many cases depend on time: on how long a connection is watched, or on which of two things comes first. A machine that does
/// much else may be too slow for them. So those that fail are played once more, on new proxies with the same bootstrap, one after
/// another: what differs twice is a difference.
pub async fn run_theme(
    theme: &str,
    runs: &[Run],
    binaries: &Binaries,
    scratch: &Path,
) -> Result<Vec<(Outcome, Vec<String>)>, Error> {
    let folder = scratch.join(theme);
    let mut outcomes = play_at_once(runs, binaries, &folder).await?;
    let failed = outcomes.iter().filter(|(outcome, _)| outcome.is_failure());
    if !(1..=AGAIN).contains(&failed.count()) {
        return Ok(outcomes);
    }
    let (envoy, outrigger) = sides(runs, binaries, &folder.join("again")).await?;
    for (number, (run, before)) in runs.iter().zip(&mut outcomes).enumerate() {
        let Outcome::Failed(difference) = &mut before.0 else {
            continue;
        };
        let (seen, ours) = tokio::join!(envoy.observe(number, run), outrigger.observe(number, run));
        let difference = std::mem::take(difference);
        let outcome = match judge(&run.case, &seen, &ours) {
            Outcome::Passed => Outcome::PassedAlone(difference),
            outcome => outcome,
        };
        *before = (outcome, seen);
    }
    Ok(outcomes)
}

/// Both sides of a theme.
async fn sides(runs: &[Run], binaries: &Binaries, folder: &Path) -> Result<(Side, Side), Error> {
    let folders = ["envoy", "outrigger"].map(|side| folder.join(side));
    let (envoy, outrigger) = tokio::join!(
        Side::start(&binaries.envoy, &folders[0], runs, false),
        Side::start(&binaries.outrigger, &folders[1], runs, true),
    );
    Ok((envoy?, outrigger?))
}

async fn play_at_once(
    runs: &[Run],
    binaries: &Binaries,
    folder: &Path,
) -> Result<Vec<(Outcome, Vec<String>)>, Error> {
    let (envoy, outrigger) = sides(runs, binaries, folder).await?;
    let (envoy, outrigger) = (Rc::new(envoy), Rc::new(outrigger));
    let gate = Rc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let tasks: Vec<_> = runs
        .iter()
        .enumerate()
        .map(|(number, run)| {
            let (envoy, outrigger, gate, run) =
                (envoy.clone(), outrigger.clone(), gate.clone(), run.clone());
            spawn_local(async move {
                let _permit = gate.acquire().await;
                let (envoy, outrigger) =
                    tokio::join!(envoy.observe(number, &run), outrigger.observe(number, &run));
                (judge(&run.case, &envoy, &outrigger), envoy)
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await?);
    }
    Ok(outcomes)
}

impl Outcome {
    fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

fn judge(case: &Case, envoy: &[String], outrigger: &[String]) -> Outcome {
    let broken = broken_promises(&case.shows, &case.lacks, envoy);
    if !broken.is_empty() || case.shows.is_empty() {
        let mut lines = broken;
        if case.shows.is_empty() {
            lines.push("the case promises nothing of Envoy".into());
        }
        lines.push("what Envoy shows:".into());
        lines.extend(envoy.iter().cloned());
        return Outcome::Failed(lines);
    }
    let difference = match outrigger {
        // There is nothing to compare line by line.
        [only] if only.starts_with("did not") => vec![format!("+ {only}")],
        _ => difference(envoy, outrigger),
    };
    match (difference.is_empty(), case.deviates) {
        (true, None) => Outcome::Passed,
        (false, Some(reason)) => Outcome::Deviates(reason),
        (false, None) => Outcome::Failed(difference),
        (true, Some(reason)) => Outcome::Failed(vec![format!(
            "there is no difference any more, but the case declares: {reason}"
        )]),
    }
}

impl Side {
    /// Starts the backends of all runs, and the proxy on the bootstrap of all. When it refuses that, each case gets a
    /// proxy of its own later, so that one refused case does not hide the others. With `apart`, cases with a declared
    /// deviation are kept out of the common bootstrap. So are those that read stats of a whole proxy, to which others add.
    async fn start(binary: &Path, folder: &Path, runs: &[Run], apart: bool) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)?;
        let mut seats = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            let mut backends = Vec::new();
            for (name, kind) in &run.case.backends {
                backends.push((*name, Backend::start(kind.clone()).await?));
            }
            let ports = backends
                .iter()
                .map(|(name, backend)| (*name, backend.address().port()));
            let names = Names::new(number, ports);
            seats.push(Seat { backends, names });
        }
        let together: Vec<_> = runs
            .iter()
            .zip(&seats)
            .filter(|(run, _)| !(apart && run.case.deviates.is_some()))
            .filter(|(run, _)| runs.len() == 1 || !run.case.reads_stats_of_all())
            .map(|(run, seat)| (&*run.case, &seat.names))
            .collect();
        let yaml = bootstrap::render(&together, folder);
        let shared = match Proxy::start(binary, &yaml, folder).await {
            Ok(proxy) => Shared::Runs(Rc::new(RefCell::new(proxy))),
            Err(error) if error.to_string().starts_with(ENDED) => Shared::Refused,
            Err(error) => Shared::Broken(error.to_string()),
        };
        Ok(Self {
            binary: binary.into(),
            folder: folder.into(),
            shared,
            seats,
            stats: RefCell::default(),
        })
    }

    /// The proxy for one run: one of its own when there is no common one, or when that has died.
    async fn proxy(&self, number: usize, run: &Run) -> Result<Rc<RefCell<Proxy>>, Error> {
        let seat = &self.seats[number];
        match &self.shared {
            Shared::Broken(error) => return Err(error.as_str().into()),
            Shared::Runs(shared)
                if shared.borrow().listener(&seat.names.listener).is_some()
                    && shared.borrow_mut().obituary().is_none() =>
            {
                return Ok(shared.clone());
            }
            Shared::Runs(_) | Shared::Refused => {}
        }
        let yaml = bootstrap::render(&[(&*run.case, &seat.names)], &self.folder);
        let folder = self.folder.join(&seat.names.listener);
        let proxy = Proxy::start(&self.binary, &yaml, &folder).await?;
        Ok(Rc::new(RefCell::new(proxy)))
    }

    /// Plays a case, and gives what was seen as lines.
    async fn observe(&self, number: usize, run: &Run) -> Vec<String> {
        match timeout(PATIENCE, self.try_observe(number, run)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => vec![format!("did not run: {error}")],
            Err(_) => vec!["did not end in time".into()],
        }
    }

    async fn try_observe(&self, number: usize, run: &Run) -> Result<Vec<String>, Error> {
        let seat = &self.seats[number];
        let case = &run.case;
        let proxy = self.proxy(number, run).await?;
        let address = proxy
            .borrow()
            .listener(&seat.names.listener)
            .ok_or("the admin page /listeners lacks it")?;
        let steps = self.steps(case, seat);
        let transcript = client::play(address, run.protocol, &steps).await;

        let mut lines = Vec::new();
        observation::client_lines(&transcript, case.in_order, &mut lines);
        let answered = transcript
            .messages
            .iter()
            .filter(|message| message.status >= 200)
            .count();
        let wanted = case.log_lines.unwrap_or(answered.max(1));
        let log = wait_for_log(&seat.names.log(&self.folder), wanted).await;
        for (position, (name, backend)) in seat.backends.iter().enumerate() {
            let name = (position > 0).then_some(*name);
            observation::backend_lines(name, &backend.seen(), case.in_order, &mut lines);
        }
        observation::log_lines(&log, case.access_log.is_none(), &mut lines);
        self.stat_lines(case, seat, &proxy, &mut lines).await?;
        self.page_lines(case, seat, &proxy, &mut lines).await?;
        if let Some(end) = proxy.borrow_mut().obituary() {
            lines.push(end);
        }
        let mut lines: Vec<_> = lines
            .iter()
            .map(|line| seat.names.strip(line, address.port()))
            .collect();
        if case.ends_somehow {
            for line in lines
                .iter_mut()
                .filter(|line| line.starts_with("= ") && line.ends_with(": reset"))
            {
                *line = line.replace(": reset", ": closed");
            }
        }
        if case.digits_aside {
            for line in lines.iter_mut().filter(|line| line.starts_with("log ")) {
                *line = digits_aside(line);
            }
        }
        if case.connections_aside {
            for line in &mut lines {
                let request = line.strip_prefix("> connection ");
                if let Some((_, request)) = request.and_then(|line| line.split_once(": ")) {
                    *line = format!("> {request}");
                }
            }
        }
        if case.any_order {
            lines.sort();
        }
        Ok(lines)
    }

    /// The client's steps, with the names of this side in the fields of requests.
    fn steps(&self, case: &Case, seat: &Seat) -> Vec<Step> {
        let mut steps = case.steps.clone();
        for step in &mut steps {
            let Step::Request(request) = step else {
                continue;
            };
            let fields = request.fields.iter_mut();
            for (_, value) in
                fields.filter(|(_, value)| value.contains("64(") || value.contains("@session("))
            {
                *value = seat.names.fill(value, &self.folder);
            }
        }
        steps
    }

    async fn page_lines(
        &self,
        case: &Case,
        seat: &Seat,
        proxy: &Rc<RefCell<Proxy>>,
        lines: &mut Vec<String>,
    ) -> Result<(), Error> {
        let admin = proxy.borrow().admin_address();
        for (path, start) in &case.pages {
            let start = seat.names.fill(start, &self.folder);
            let (status, page) = outrigger_xds_tests::proxy::admin_get(admin, path).await?;
            lines.push(format!("page {path}: {status}"));
            let mut found: Vec<_> = page
                .lines()
                .filter(|line| line.starts_with(&start))
                .map(steady)
                .collect();
            found.sort();
            lines.extend(found.iter().map(|line| format!("page {line}")));
        }
        Ok(())
    }

    /// The stats of a proxy, as they are now or later.
    async fn stats_page(&self, admin: SocketAddr) -> Result<Rc<str>, Error> {
        let now = Instant::now();
        let page = self.stats.borrow_mut().entry(admin).or_default().clone();
        let mut page = page.lock().await;
        if let Some((asked, text)) = &*page
            && *asked >= now
        {
            return Ok(text.clone());
        }
        let asked = Instant::now();
        let (_, text) = outrigger_xds_tests::proxy::admin_get(admin, "/stats").await?;
        let text: Rc<str> = text.into();
        *page = Some((asked, text.clone()));
        Ok(text)
    }

    async fn stat_lines(
        &self,
        case: &Case,
        seat: &Seat,
        proxy: &Rc<RefCell<Proxy>>,
        lines: &mut Vec<String>,
    ) -> Result<(), Error> {
        if case.stats.is_empty() {
            return Ok(());
        }
        let admin = proxy.borrow().admin_address();
        let page = self.stats_page(admin).await?;
        for name in &case.stats {
            let name = seat.names.fill(name, &self.folder);
            let start = format!("{name}: ");
            let line = page.lines().find(|line| line.starts_with(&start));
            lines.push(match line {
                Some(line) => format!("stat {line}"),
                None => format!("stat {name} is not there"),
            });
        }
        Ok(())
    }
}

/// A line of an admin page, with `N` in place of what measures time or bytes.
fn steady(line: &str) -> String {
    let (name, value) = line.rsplit_once(": ").unwrap_or((line, ""));
    if value.contains("P0(") || value == "No recorded values" {
        return format!("{name}: (histogram)");
    }
    if ["bytes", "_ms"].iter().any(|word| name.contains(word)) {
        return format!("{name}{}", digits_aside(&line[name.len()..]));
    }
    line.to_owned()
}

/// `N` in place of every run of digits.
fn digits_aside(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c.is_ascii_digit() {
            false => out.push(c),
            true if out.ends_with('N') => {}
            true => out.push('N'),
        }
    }
    out
}

/// Waits until the log has that many lines. With none wanted, or when all are there, it looks once more after a
/// flush interval, for lines that should not be there.
async fn wait_for_log(path: &Path, wanted: usize) -> String {
    let read = || {
        std::fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    let deadline = Instant::now() + LOG_PATIENCE;
    while read().lines().count() < wanted && Instant::now() < deadline {
        sleep(Duration::from_millis(15)).await;
    }
    sleep(Duration::from_millis(120)).await;
    read()
}
