//! The application log: where it goes, and the level of each component.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::log_format::LogPattern;

/// Changes the log while the process runs.
#[derive(Clone)]
pub struct LogControl {
    filter: Option<reload::Handle<Targets, Registry>>,
    levels: Arc<Mutex<Levels>>,
    output: LogOutput,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    /// By component, in the order of `COMPONENTS`.
    by_component: Vec<&'static str>,
}

/// Where lines go: a file, or standard error.
#[derive(Debug, Clone)]
pub struct LogOutput(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    Stderr,
    File { path: PathBuf, file: File },
}

impl LogControl {
    /// Sets up the log of the process. `components` has the form `upstream:debug,config:trace`.
    pub fn install(
        level: &str,
        components: Option<&str>,
        pattern: LogPattern,
        path: Option<&Path>,
    ) -> Result<Self, String> {
        let mut levels = Levels::all(level)?;
        for change in components
            .unwrap_or_default()
            .split(',')
            .filter(|part| !part.is_empty())
        {
            let (name, level) = change.split_once(':').ok_or_else(|| {
                format!("component log level '{change}' is not of the form component:level")
            })?;
            levels.set(name, level)?;
        }
        let output = LogOutput::open(path)
            .map_err(|error| format!("the log file cannot be opened: {error}"))?;
        let (filter, handle) = reload::Layer::new(levels.targets());
        let layer = tracing_subscriber::fmt::layer()
            .event_format(pattern)
            .with_writer(output.clone())
            .with_filter(filter);
        tracing_subscriber::registry()
            .with(layer)
            .try_init()
            .map_err(|error| format!("the log cannot be set up: {error}"))?;
        Ok(Self {
            filter: Some(handle),
            levels: Arc::new(Mutex::new(levels)),
            output,
        })
    }

    /// Every component with its level, sorted by name.
    pub fn levels(&self) -> Vec<(String, String)> {
        let levels = self.levels.lock();
        let named = COMPONENTS.iter().zip(&levels.by_component);
        named
            .map(|((name, _), level)| ((*name).to_owned(), (*level).to_owned()))
            .collect()
    }

    /// Gives every component one level.
    pub fn set_all(&self, level: &str) -> Result<(), String> {
        self.replace(Levels::all(level)?)
    }

    /// Gives single components levels: all of them, or on an error none.
    pub fn set_some(&self, changes: &[(String, String)]) -> Result<(), String> {
        let mut levels = self.levels.lock().clone();
        for (name, level) in changes {
            levels.set(name, level)?;
        }
        self.replace(levels)
    }

    /// Closes and opens the file.
    pub fn reopen(&self) -> io::Result<()> {
        self.output.reopen()
    }

    fn replace(&self, levels: Levels) -> Result<(), String> {
        if let Some(filter) = &self.filter {
            let reloaded = filter.reload(levels.targets());
            reloaded.map_err(|error| format!("the levels cannot be changed: {error}"))?;
        }
        *self.levels.lock() = levels;
        Ok(())
    }
}

impl Levels {
    fn all(level: &str) -> Result<Self, String> {
        Ok(Self {
            by_component: vec![known_level(level)?; COMPONENTS.len()],
        })
    }

    fn set(&mut self, name: &str, level: &str) -> Result<(), String> {
        let level = known_level(level)?;
        let at = COMPONENTS
            .binary_search_by(|(component, _)| (*component).cmp(name))
            .map_err(|_| format!("'{name}' is no component of the log"))?;
        self.by_component[at] = level;
        Ok(())
    }

    fn targets(&self) -> Targets {
        let main = filter_of(self.level_of("main"));
        let mut targets = Targets::new().with_default(main);
        for ((_, modules), level) in COMPONENTS.iter().zip(&self.by_component) {
            for module in *modules {
                targets = targets.with_target(*module, filter_of(level));
            }
        }
        targets
    }

    fn level_of(&self, name: &str) -> &'static str {
        let at = COMPONENTS
            .iter()
            .position(|(component, _)| *component == name);
        at.and_then(|at| self.by_component.get(at))
            .copied()
            .unwrap_or("info")
    }
}

impl LogOutput {
    fn open(path: Option<&Path>) -> io::Result<Self> {
        let target = match path {
            None => Target::Stderr,
            Some(path) => Target::File {
                path: path.to_owned(),
                file: append(path)?,
            },
        };
        Ok(Self(Arc::new(Mutex::new(target))))
    }

    fn reopen(&self) -> io::Result<()> {
        if let Target::File { path, file } = &mut *self.0.lock() {
            *file = append(path)?;
        }
        Ok(())
    }
}

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Target::Stderr => io::stderr().write(bytes),
            Target::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogOutput {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The component that a module logs for.
pub(super) fn component_of(target: &str) -> &'static str {
    COMPONENTS
        .iter()
        .flat_map(|(name, modules)| modules.iter().map(move |module| (*name, *module)))
        .filter(|(_, module)| {
            target
                .strip_prefix(module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
        .max_by_key(|(_, module)| module.len())
        .map_or("main", |(name, _)| name)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn known_level(level: &str) -> Result<&'static str, String> {
    let canonical = if level == "warn" { "warning" } else { level };
    LEVELS
        .iter()
        .copied()
        .find(|known| *known == canonical)
        .ok_or_else(|| format!("'{level}' is no log level; legal are {}", LEVELS.join(", ")))
}

fn filter_of(level: &str) -> LevelFilter {
    match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warning" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        // Nothing is worse than an error here.
        "critical" | "off" => LevelFilter::OFF,
        _ => LevelFilter::INFO,
    }
}

const LEVELS: &[&str] = &[
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

/// Envoy's components, sorted, and which modules of ours log for them.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("admin", &["outrigger::admin"]),
    ("alternate_protocols_cache", &[]),
    ("assert", &[]),
    ("aws", &[]),
    ("backtrace", &[]),
    ("basic_auth", &[]),
    ("cache_filter", &[]),
    (
        "client",
        &[
            "outrigger::upstream::pool::http1",
            "outrigger::upstream::pool::http2",
        ],
    ),
    ("config", &["outrigger::config"]),
    ("conn_handler", &["outrigger::listener::handler"]),
    (
        "connection",
        &["outrigger::listener::connection", "outrigger::net"],
    ),
    ("dns", &["outrigger::upstream::discovery"]),
    ("ext_authz", &[]),
    ("ext_proc", &[]),
    ("file", &["outrigger::access_loggers"]),
    (
        "filter",
        &[
            "outrigger::http_filters",
            "outrigger::network_filters",
            "outrigger::listener_filters",
        ],
    ),
    ("grpc", &[]),
    ("happy_eyeballs", &[]),
    ("hc", &["outrigger::upstream::health_check"]),
    ("health_checker", &[]),
    (
        "http",
        &["outrigger::http_connection_manager", "outrigger::codec::h1"],
    ),
    ("http2", &["outrigger::codec::h2", "outrigger::http2"]),
    ("init", &["outrigger::server::lifecycle"]),
    ("io", &[]),
    ("jwt", &[]),
    ("lua", &[]),
    ("main", &["outrigger::server"]),
    ("matcher", &["outrigger::matchers"]),
    ("misc", &[]),
    ("oauth2", &[]),
    ("pool", &["outrigger::upstream::pool"]),
    ("quic", &[]),
    ("rate_limit_quota", &[]),
    ("rbac", &[]),
    ("redis", &[]),
    (
        "router",
        &["outrigger::http_filters::router", "outrigger::route"],
    ),
    ("runtime", &["outrigger::runtime"]),
    ("secret", &[]),
    ("stats", &["outrigger::stats"]),
    ("tap", &[]),
    ("tracing", &[]),
    ("udp", &[]),
    ("upstream", &["outrigger::upstream"]),
    ("wasm", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> LogControl {
        LogControl {
            filter: None,
            levels: Arc::new(Mutex::new(Levels::all("info").unwrap())),
            output: LogOutput::open(None).unwrap(),
        }
    }

    #[test]
    fn the_most_specific_module_decides_the_component() {
        assert_eq!(component_of("outrigger::upstream::pool::http1"), "client");
        assert_eq!(component_of("outrigger::upstream::pool"), "pool");
        assert_eq!(component_of("outrigger::upstreamish"), "main");
        assert_eq!(component_of("hickory"), "main");
    }

    #[test]
    fn components_are_sorted_so_that_they_can_be_found() {
        let control = control();
        let names: Vec<String> = control.levels().into_iter().map(|(name, _)| name).collect();
        for name in &names {
            control
                .set_some(&[(name.clone(), "debug".to_owned())])
                .unwrap();
        }
        assert!(control.levels().iter().all(|(_, level)| level == "debug"));
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let control = control();
        let changes = [
            ("upstream".to_owned(), "debug".to_owned()),
            ("nobody".to_owned(), "debug".to_owned()),
        ];
        assert!(control.set_some(&changes).is_err());
        assert!(control.levels().iter().all(|(_, level)| level == "info"));
        assert!(control.set_all("loud").is_err());
        control.set_all("warn").unwrap();
        assert!(control.levels().iter().all(|(_, level)| level == "warning"));
    }
}
