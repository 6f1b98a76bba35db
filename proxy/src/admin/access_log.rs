//! The access log of the admin interface: an entry for each request, as a connection manager of its own would write it.

use std::cell::Cell;
use std::rc::Rc;

use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use tokio::time::Instant;

use crate::access_loggers::AccessLogs;
use crate::formatter::FormatData;
use crate::http::{Protocol, RequestHead, ResponseHead};
use crate::net::{Address, local_address};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// Connections of the admin interface are numbered from here on, so that no worker has the same number.
const FIRST_ID: u64 = 1 << 63;

/// Writes the entries.
pub(super) struct AdminLog {
    logs: AccessLogs,
    last_id: Cell<u64>,
    /// What `x-forwarded-for` says of a client on this machine.
    own_address: Option<String>,
}

/// One request while it runs.
pub(super) struct AdminEntry {
    info: StreamInfo,
    request: RequestHead,
}

impl AdminLog {
    pub(super) fn new(logs: AccessLogs) -> Self {
        Self {
            logs,
            last_id: Cell::new(FIRST_ID),
            own_address: local_address().map(|ip| ip.to_string()),
        }
    }

    /// A connection that was just accepted.
    pub(super) fn connection(&self, remote: Address, local: Address) -> Rc<ConnectionInfo> {
        self.last_id.set(self.last_id.get() + 1);
        Rc::new(ConnectionInfo {
            id: self.last_id.get(),
            ..ConnectionInfo::between(remote, local)
        })
    }

    /// A request of `connection` that has begun.
    pub(super) fn begin(&self, connection: &Rc<ConnectionInfo>, head: &Parts) -> AdminEntry {
        let protocol = match head.version {
            hyper::Version::HTTP_10 => Protocol::Http10,
            hyper::Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http11,
        };
        let mut request = RequestHead::new(protocol, head.method.as_str().as_bytes());
        request.set_scheme(b"http");
        let target = head.uri.path_and_query();
        request.set_path(
            target
                .map_or(head.uri.path(), |target| target.as_str())
                .as_bytes(),
        );
        for (name, value) in &head.headers {
            if name == hyper::header::HOST {
                request.set_authority(value.as_bytes());
            } else {
                request
                    .fields
                    .append(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        let forwarded_for = match connection.remote_address.ip() {
            Some(ip) if ip.is_loopback() => self.own_address.clone(),
            Some(ip) => Some(ip.to_string()),
            None => None,
        };
        if let Some(forwarded_for) = forwarded_for {
            request
                .fields
                .set("x-forwarded-for", forwarded_for.as_bytes());
        }
        let info = StreamInfo::new(connection.clone(), 0, Some(protocol));
        AdminEntry { info, request }
    }

    /// Writes the entry of a request whose answer has been made.
    pub(super) fn end(&self, entry: AdminEntry, received: usize, answer: &Answered<'_>) {
        let AdminEntry { mut info, request } = entry;
        info.now = Instant::now();
        info.timing.request_complete = Some(info.now);
        info.response_code = Some(answer.status);
        info.details("admin_filter_response");
        info.bytes_received = received.try_into().unwrap_or(u64::MAX);
        info.bytes_sent = answer.body.try_into().unwrap_or(u64::MAX);
        let mut response = ResponseHead::new(answer.status);
        for (name, value) in answer.headers {
            response
                .fields
                .append(name.as_str().as_bytes(), value.as_bytes());
        }
        self.logs.log(&FormatData {
            info: &info,
            request: Some(&request),
            response: Some(&response),
            request_trailers: None,
            response_trailers: None,
            local_reply_body: &[],
            log_type: "DownstreamEnd",
        });
    }
}

/// What was answered.
pub(super) struct Answered<'a> {
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    /// The length of the body, in bytes.
    pub(super) body: usize,
}
