//! Whole tables against what Envoy does with them.

use std::rc::Rc;
use std::sync::Arc;

use crate::http::{Protocol, RequestHead};
use crate::server::{LocalInfo, ServerContext};
use crate::stream_info::{ConnectionInfo, StreamInfo};

pub(super) fn head(method: &str, authority: &str, path: &str) -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head.set_scheme(b"http");
    head.fields.append("x-forwarded-proto", "http");
    head
}

pub(super) fn info() -> StreamInfo {
    let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
    let connection = ConnectionInfo::between(address("10.1.2.3:4567"), address("10.0.0.1:80"));
    StreamInfo::new(Rc::new(connection), 1, Some(Protocol::Http11))
}

pub(super) fn server() -> Arc<ServerContext> {
    Arc::new(ServerContext::new(0, LocalInfo::default()))
}
