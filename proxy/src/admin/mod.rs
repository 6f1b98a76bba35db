//! The admin interface: an HTTP server on the main thread, one file for each group of paths.
//!
//! `envoy.config.bootstrap.v3.Admin`. <https://www.envoyproxy.io/docs/envoy/latest/operations/admin>
//!
//! What the pages show comes from the [`AdminSource`]. Paths, parameters, answers and errors are Envoy's.
//!
//! HTTP/2 without TLS is understood as well as HTTP/1. Over it, `envoy.service.status.v3.ClientStatusDiscoveryService` tells what
//! became of each resource of each kind, which Envoy's binary does not.
//!
//! Deviations: `/clusters` as text shows no averages of outlier detection and always `canary::false`.
//! Deviations: `/stats?format=html` and `active-html` are the text page in HTML, without drawn histograms.
//! Deviations: there are no stats `http.admin.` and `listener.admin.`, no `/tap`, and no profilers.
//! Deviations: `/stats/recentlookups` is always empty: stats are resolved when the configuration is loaded.
//! Deviations: `/init_dump` names the server itself as a manager while it waits, and names targets without hashes.

mod access_log;
mod client_status;
mod clusters;
mod config;
mod config_dump;
mod explain;
mod grpc;
mod index;
mod json;
mod lifecycle;
mod listeners;
mod logging;
mod paths;
mod process;
mod profiling;
mod query;
mod runtime;
mod serve;
mod source;
mod stats;
mod xds_log;

pub use config::AdminConfig;
pub use source::{AdminSource, ConfigDumps, DrainListeners, LogLevels};

use std::rc::Rc;

use crate::access_loggers::AccessLogs;
use crate::matchers::StringMatcher;

use access_log::AdminLog;
use paths::Run;
use query::Query;

/// The admin pages of this process.
pub struct Admin {
    source: Rc<dyn AdminSource>,
    allow_paths: Vec<StringMatcher>,
    ignore_global_conn_limit: bool,
    log: Option<AdminLog>,
}

/// A request, as the pages see it.
struct Request<'a> {
    method: &'a str,
    /// The path with its query.
    target: &'a str,
    query: Query,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
    /// The process ends when this answer is sent.
    quits: bool,
}

/// How a path answers.
enum Answer {
    Ready(Response),
    /// Too much work for the main thread, which has other things to do.
    Work(Box<dyn FnOnce() -> Response + Send>),
}

const TEXT: &str = "text/plain; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";
const JSON: &str = "application/json";

impl Admin {
    /// The pages over `source`. What binds addresses and writes logs stays with the caller.
    pub fn new(source: Rc<dyn AdminSource>, config: &AdminConfig) -> Self {
        Self {
            source,
            allow_paths: config.allow_paths.clone(),
            ignore_global_conn_limit: config.ignore_global_conn_limit,
            log: None,
        }
    }

    /// Writes an entry to `logs` after each request.
    pub fn with_access_log(mut self, logs: AccessLogs) -> Self {
        self.log = (!logs.is_empty()).then(|| AdminLog::new(logs));
        self
    }

    /// What `allow_paths` says of a path with its query; none: it is allowed.
    fn refusal(&self, target: &str) -> Option<Response> {
        let allowed = |m: &StringMatcher| m.matches(target.as_bytes());
        let is_refused = !self.allow_paths.is_empty() && !self.allow_paths.iter().any(allowed);
        let body = || format!("request to path {target} not allowed");
        is_refused.then(|| Response::error(403, body()))
    }

    fn answer(&self, request: &Request<'_>) -> Answer {
        let path = request.target.split('?').next().unwrap_or_default();
        if let Some(refusal) = self.refusal(request.target) {
            return Answer::Ready(refusal);
        }
        let Some(handler) = paths::find(path) else {
            let help = paths::help();
            return Answer::Ready(Response::error(404, format!("invalid path. {help}")));
        };
        // What reads may be asked for by any method; what changes, only by POST.
        if handler.post && request.method != "POST" {
            let method = request.method;
            let body = format!("Method {method} not allowed, POST required.");
            return Answer::Ready(Response::error(405, body));
        }
        match handler.run {
            Run::Now(run) => Answer::Ready(run(self, request)),
            Run::Measured(run) => run(self, request),
        }
    }
}

impl Response {
    fn new(content_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            status: 200,
            content_type,
            body: body.into(),
            quits: false,
        }
    }

    fn text(body: impl Into<String>) -> Self {
        Self::new(TEXT, body)
    }

    fn ok() -> Self {
        Self::text("OK\n")
    }

    fn error(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::text(body)
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("allow_paths", &self.allow_paths)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
