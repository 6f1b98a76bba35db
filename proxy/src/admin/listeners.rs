//! `/listeners`.

use std::fmt::Write;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::{
    Address, address::Address as Kind, socket_address::PortSpecifier,
};

use super::{Admin, Request, Response, json};

pub(super) fn show(admin: &Admin, request: &Request<'_>) -> Response {
    let listeners = admin.source.listeners();
    if request.query.value("format") == Some("json") {
        return json::message(&pb::Listeners {
            listener_statuses: listeners,
        });
    }
    let mut out = String::new();
    for status in &listeners {
        let all = status
            .local_address
            .iter()
            .chain(&status.additional_local_addresses);
        for local in all {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}::{}", status.name, address(local));
        }
    }
    Response::text(out)
}

/// An address as Envoy prints it.
pub(super) fn address(address: &Address) -> String {
    match &address.address {
        Some(Kind::SocketAddress(socket)) => {
            let port = match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            if socket.address.contains(':') {
                format!("[{}]:{port}", socket.address)
            } else {
                format!("{}:{port}", socket.address)
            }
        }
        Some(Kind::Pipe(pipe)) => pipe.path.clone(),
        Some(Kind::EnvoyInternalAddress(internal)) => {
            format!("envoy://{}", internal.endpoint_id)
        }
        None => String::new(),
    }
}
