//! The table of all paths.

use std::fmt::Write;

use super::{
    Admin, Answer, Request, Response, clusters, config_dump, explain, index, lifecycle, listeners,
    logging, process, profiling, runtime, stats, xds_log,
};

/// A path and what answers there.
pub(super) struct Handler {
    /// With its slash.
    pub(super) path: &'static str,
    /// For the list of commands.
    pub(super) about: &'static str,
    /// It changes something: only POST may ask for it.
    pub(super) post: bool,
    pub(super) parameters: &'static [Parameter],
    pub(super) run: Run,
}

/// What makes the answer.
#[derive(Clone, Copy)]
pub(super) enum Run {
    Now(fn(&Admin, &Request<'_>) -> Response),
    /// It may be too much work for the main thread.
    Measured(fn(&Admin, &Request<'_>) -> Answer),
}

/// A parameter, for the list of commands and the forms of the index page.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) input: Input,
}

/// How a form asks for a parameter.
#[derive(Clone, Copy)]
pub(super) enum Input {
    /// Any text.
    Text,
    /// There or not.
    Flag,
    /// One of these.
    Choice(&'static [&'static str]),
}

const fn get(
    path: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    run: fn(&Admin, &Request<'_>) -> Response,
) -> Handler {
    Handler {
        path,
        about,
        post: false,
        parameters,
        run: Run::Now(run),
    }
}

const fn measured(
    path: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    run: fn(&Admin, &Request<'_>) -> Answer,
) -> Handler {
    Handler {
        path,
        about,
        post: false,
        parameters,
        run: Run::Measured(run),
    }
}

const fn post(
    path: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    run: fn(&Admin, &Request<'_>) -> Response,
) -> Handler {
    Handler {
        path,
        about,
        post: true,
        parameters,
        run: Run::Now(run),
    }
}

const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        about,
        input: Input::Text,
    }
}

const fn flag(name: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        about,
        input: Input::Flag,
    }
}

const fn choice(
    name: &'static str,
    about: &'static str,
    values: &'static [&'static str],
) -> Parameter {
    Parameter {
        name,
        about,
        input: Input::Choice(values),
    }
}

const USED_ONLY: Parameter = flag("usedonly", "leave out stats that nothing has written yet");
const FILTER: Parameter = text(
    "filter",
    "show stats whose name this RE2 expression matches",
);
const INVERT_FILTER: Parameter = flag("invert_filter", "show those that it does not match");
const ON_OR_OFF: &[&str] = &["y", "n"];
const ENABLE: Parameter = choice("enable", "start or stop it", ON_OR_OFF);

/// Sorted by path.
pub(super) static HANDLERS: [Handler; 35] = [
    get("/", "this page", &[], index::show),
    post(
        "/allocprofiler",
        "profile allocations, in a build that can",
        &[ENABLE],
        profiling::allocations,
    ),
    get("/certs", "certificates in use", &[], process::certs),
    get(
        "/clusters",
        "clusters and their hosts",
        &[
            text(
                "filter",
                "show clusters whose name this RE2 expression matches",
            ),
            choice("format", "how to show them", &["text", "json"]),
        ],
        clusters::show,
    ),
    get(
        "/config_dump",
        "the configuration in use",
        &[
            text(
                "resource",
                "show the entries of this repeated field only, such as static_clusters",
            ),
            text(
                "mask",
                "show these fields only: paths with dots between names, and commas between paths",
            ),
            text(
                "name_regex",
                "show resources whose whole name this RE2 expression matches",
            ),
            flag("include_eds", "show endpoints, too"),
        ],
        config_dump::show,
    ),
    get(
        "/contention",
        "contention of locks, in a build that traces it",
        &[],
        profiling::contention,
    ),
    post(
        "/cpuprofiler",
        "profile the CPU, in a build that can",
        &[ENABLE],
        profiling::cpu,
    ),
    post(
        "/drain_listeners",
        "let connections end and close listeners",
        &[
            flag(
                "graceful",
                "give connections the drain time before listeners close",
            ),
            flag("skip_exit", "let connections end, but close no listener"),
            flag(
                "inboundonly",
                "only listeners whose traffic_direction is INBOUND",
            ),
        ],
        lifecycle::drain_listeners,
    ),
    Handler {
        path: "/explain",
        about: "which route and cluster a request would take, and why",
        post: true,
        parameters: &[
            text("request", "METHOD URL"),
            text("header", "NAME: VALUE; may come several times"),
            text(
                "listener",
                "its name; without, the one on the port of the URL",
            ),
            text("source", "the client, IP or IP:PORT"),
            choice("format", "how to show it", &["text", "json"]),
        ],
        run: Run::Measured(explain::answer),
    },
    get(
        "/heap_dump",
        "the heap's contents, in a build that can tell",
        &[],
        profiling::heap_dump,
    ),
    post(
        "/healthcheck/fail",
        "make health checks of this proxy fail",
        &[],
        lifecycle::healthcheck_fail,
    ),
    post(
        "/healthcheck/ok",
        "make them succeed again",
        &[],
        lifecycle::healthcheck_ok,
    ),
    post(
        "/heapprofiler",
        "profile the heap, in a build that can",
        &[ENABLE],
        profiling::heap,
    ),
    get("/help", "the list of commands", &[], index::help),
    get(
        "/hot_restart_version",
        "which processes can take over from this one",
        &[],
        process::hot_restart_version,
    ),
    get(
        "/init_dump",
        "what the start waits for",
        &[text("mask", "of this component only, such as listener")],
        process::init_dump,
    ),
    get(
        "/listeners",
        "listeners and their addresses",
        &[choice("format", "how to show them", &["text", "json"])],
        listeners::show,
    ),
    post(
        "/logging",
        "show or change the levels of loggers",
        &[
            text("paths", "change some: name:level, with commas between"),
            choice(
                "level",
                "change all",
                &[
                    "", "trace", "debug", "info", "warning", "error", "critical", "off",
                ],
            ),
        ],
        logging::change,
    ),
    get(
        "/memory",
        "how much memory the process holds",
        &[],
        process::memory,
    ),
    get(
        "/memory/tcmalloc",
        "the allocator's own report, where it is tcmalloc",
        &[],
        profiling::tcmalloc,
    ),
    get(
        "/peak_heap_dump",
        "the heap at its largest, in a build that can tell",
        &[],
        profiling::heap_dump,
    ),
    post("/quitquitquit", "end the process", &[], lifecycle::quit),
    get(
        "/ready",
        "the state of the server: 200 when LIVE, else 503",
        &[],
        process::ready,
    ),
    post(
        "/reopen_logs",
        "close and open every log file",
        &[],
        lifecycle::reopen_logs,
    ),
    post(
        "/reset_counters",
        "set every counter to zero",
        &[],
        stats::reset_counters,
    ),
    get(
        "/runtime",
        "runtime values and where they come from",
        &[],
        runtime::show,
    ),
    post(
        "/runtime_modify",
        "override runtime values: ?key=value&key=value, an empty value ends an override",
        &[],
        runtime::modify,
    ),
    get(
        "/server_info",
        "version, state and command line",
        &[],
        process::server_info,
    ),
    measured(
        "/stats",
        "all stats",
        &[
            USED_ONLY,
            FILTER,
            INVERT_FILTER,
            choice(
                "format",
                "how to show them",
                &["html", "active-html", "text", "json", "prometheus"],
            ),
            choice(
                "type",
                "of which kind",
                &["All", "Counters", "Histograms", "Gauges", "TextReadouts"],
            ),
            choice(
                "histogram_buckets",
                "how to show histograms",
                &["cumulative", "disjoint", "detailed", "summary"],
            ),
        ],
        stats::show,
    ),
    measured(
        "/stats/prometheus",
        "all stats for Prometheus",
        &[
            USED_ONLY,
            flag(
                "text_readouts",
                "show texts, too, as gauges with the value 0",
            ),
            FILTER,
            INVERT_FILTER,
            choice(
                "histogram_buckets",
                "how to show histograms",
                &["cumulative", "summary"],
            ),
        ],
        stats::prometheus,
    ),
    get(
        "/stats/recentlookups",
        "names of stats that were looked up",
        &[],
        stats::recent_lookups,
    ),
    post(
        "/stats/recentlookups/clear",
        "forget them",
        &[],
        stats::recent_lookups_changed,
    ),
    post(
        "/stats/recentlookups/disable",
        "stop recording them",
        &[],
        stats::recent_lookups_changed,
    ),
    post(
        "/stats/recentlookups/enable",
        "start recording them",
        &[],
        stats::recent_lookups_changed,
    ),
    get(
        "/xds_log",
        "what management servers have changed lately",
        &[choice("format", "how to show it", &["text", "json"])],
        xds_log::show,
    ),
];

/// What answers at this path.
pub(super) fn find(path: &str) -> Option<&'static Handler> {
    HANDLERS.iter().find(|handler| handler.path == path)
}

/// The list of commands.
pub(super) fn help() -> String {
    let mut out = String::from("admin commands are:\n");
    for handler in &HANDLERS {
        let post = if handler.post { " (POST)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {}{post}: {}", handler.path, handler.about);
        for Parameter { name, about, input } in handler.parameters {
            let _ = match input {
                Input::Choice(values) => {
                    writeln!(out, "      {name}: {about}; One of ({})", values.join(", "))
                }
                Input::Text | Input::Flag => writeln!(out, "      {name}: {about}"),
            };
        }
    }
    out
}
