//! What the data path says about a request, before it is put into words.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::http::RequestHead;
use crate::route::{RouteLookup, RouteTable, SelectedRoute};
use crate::stream_info::StreamInfo;

/// What the last network filter of a chain would do.
pub enum Verdict {
    /// It is a connection manager.
    Http(Box<HttpVerdict>),
    /// It passes the bytes on: clusters with their weights.
    Tcp(Vec<(String, u64)>),
    /// Something else.
    Other,
}

/// What a connection manager would do.
pub struct HttpVerdict {
    /// The request as the route look-up sees it.
    pub head: RequestHead,
    /// What is known about the stream.
    pub info: StreamInfo,
    /// Refused before a route was looked up: status and details.
    pub refused: Option<(u16, String)>,
    /// The table.
    pub table: Arc<RouteTable>,
    /// The look-up with its reasons; none if the request was refused before.
    pub lookup: Option<RouteLookup>,
    /// The route.
    pub selected: Option<SelectedRoute>,
    /// The filters before the router, in order.
    pub filters: Vec<FilterVerdict>,
    /// How long the request may take; none for a route that does not forward.
    pub limits: Option<Limits>,
}

/// Whether a filter runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterVerdict {
    /// Its name.
    pub name: Rc<str>,
    /// It runs for this request.
    pub on: bool,
    /// The route has switched it on or off.
    pub by_route: bool,
}

/// The limits in force for a request, headers of the request included. None: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Over all attempts.
    pub timeout: Option<Duration>,
    /// Of one attempt.
    pub per_try_timeout: Option<Duration>,
    /// Of one attempt without any progress.
    pub per_try_idle_timeout: Option<Duration>,
}
