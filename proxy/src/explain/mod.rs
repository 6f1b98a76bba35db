//! Explains what becomes of a request: which listener, filter chain, virtual host and route take it, why the routes before that
//! one do not, which filters run with which configuration, and where the request goes.
//!
//! The configuration is converted once more, into a process that serves nobody, and the request goes through the code that
//! serves real ones: the choice of the filter chain, the checks and rewrites of the connection manager, the route look-up. So an
//! explanation and the data path cannot part ways, and what runs is not disturbed, not even its stats.
//!
//! Filters do not run: one that changes the request or clears the route may lead it elsewhere. Where chance decides, the
//! explanation gives the shares.

pub mod cli;
mod configuration;
mod http;
mod listener;
mod question;
mod text;
mod verdict;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

pub use configuration::Configuration;
pub use http::{
    ClusterTaken, FilterShown, HttpExplained, LostRoute, Refused, RequestShown, RouteTaken, Share,
    VirtualHostTaken,
};
pub use listener::{ChainTaken, ListenerTaken};
pub use question::Question;
pub use verdict::{FilterVerdict, HttpVerdict, Limits, Verdict};

use crate::config::{ConfigPath, ConfigReport};
use crate::listener::Listener;
use crate::server::{ServerContext, Worker};
use crate::upstream::WorkerClusters;

/// What becomes of a request.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The request as it was asked about.
    pub request: String,
    /// The listener that takes the connection.
    pub listener: ListenerTaken,
    /// Its filter chain; none: no chain matches, and the connection is closed.
    pub filter_chain: Option<ChainTaken>,
    /// What the last network filter of the chain does.
    pub outcome: Outcome,
}

/// What the last network filter of a chain does.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The connection is closed.
    Closed,
    /// It is an HTTP request.
    Http(Box<HttpExplained>),
    /// The bytes go to one of these clusters.
    Tcp(Vec<Share>),
    /// Another filter serves the connection: its type.
    Other(String),
}

/// Explains a request. The errors are of the question, or of a configuration that is none.
pub fn explain(
    configuration: &Configuration,
    question: &Question,
) -> Result<Explanation, Vec<String>> {
    let (proto, listener) = listener::choose(configuration, question)?;
    let report = ConfigReport::new();
    let server = configuration.server();
    let place = format!("listeners[{:?}]", proto.name);
    let path = ConfigPath::resource(&report, "listener", &place);
    let converted = configuration
        .with_routes(&proto)
        .map_err(|error| vec![error])
        .map(|proto| Listener::from_proto(proto, &server, &path));
    let errors = || -> Vec<String> { report.take().iter().map(ToString::to_string).collect() };
    let config = converted?.map_err(|_| errors())?;
    let connection = Rc::new(listener::connection(&config, &proto, question));
    let worker = worker(&server);
    let chain = config.chain_of(&connection);
    let filter_chain = chain.map(|at| listener::chain_taken(&config, &proto, at));
    let verdict = chain
        .and_then(|at| config.chains[at].terminal())
        .map(|terminal| terminal.judge(&worker, &connection, question.head()));
    let outcome = match (verdict, chain) {
        (Some(verdict), Some(at)) => {
            let filter = listener::terminal_of(&proto, at);
            http::outcome(verdict, filter, configuration)
        }
        _ => Outcome::Closed,
    };
    Ok(Explanation {
        request: question.to_string(),
        listener,
        filter_chain,
        outcome,
    })
}

/// Main in the place of a worker: what is explained runs nowhere else.
fn worker(server: &Arc<ServerContext>) -> Rc<Worker> {
    Worker::on_main(server.clone(), WorkerClusters::default(), 0)
}

impl Explanation {
    /// The explanation for tools.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
