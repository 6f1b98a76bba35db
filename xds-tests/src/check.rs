//! `CheckRequest` for people: what an authorizer is asked by gRPC, line by line, without what differs from run to run.

use outrigger_proto::pb::envoy::config::core::v3::{Address, Metadata, address};
use outrigger_proto::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use outrigger_proto::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message;

use crate::message::body_text;

/// The method that is called.
pub const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The lines of a body that is one gRPC message; none: it is not.
pub fn lines(body: &[u8]) -> Option<Vec<String>> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    let request = CheckRequest::decode(message).ok()?;
    let AttributeContext {
        source,
        destination,
        request,
        context_extensions,
        metadata_context,
        route_metadata_context,
        tls_session,
    } = request.attributes?;
    let mut out = Vec::new();
    peer("source", source, &mut out);
    peer("destination", destination, &mut out);
    if let Some(request) = request {
        let timed = if request.time.is_some() { "" } else { "out" };
        out.push(format!("request with{timed} a time"));
        if let Some(http) = request.http {
            http_lines(http, &mut out);
        }
    }
    map("context_extensions", context_extensions, &mut out);
    metadata("metadata_context", metadata_context, &mut out);
    metadata("route_metadata_context", route_metadata_context, &mut out);
    if let Some(session) = tls_session {
        out.push(format!("tls_session {:?}", session.sni));
    }
    Some(out)
}

fn peer(name: &str, peer: Option<Peer>, out: &mut Vec<String>) {
    let Some(peer) = peer else {
        out.push(format!("no {name}"));
        return;
    };
    let Peer {
        address,
        service,
        labels,
        principal,
        certificate,
    } = peer;
    out.push(format!("{name} {}", host(address)));
    let texts = [
        ("service", service),
        ("principal", principal),
        ("certificate", certificate),
    ];
    for (key, value) in texts {
        if !value.is_empty() {
            out.push(format!("{name}.{key} {value}"));
        }
    }
    map(&format!("{name}.labels"), labels, out);
}

fn host(address: Option<Address>) -> String {
    match address.and_then(|address| address.address) {
        Some(address::Address::SocketAddress(socket)) => socket.address,
        other => format!("{other:?}"),
    }
}

fn http_lines(http: HttpRequest, out: &mut Vec<String>) {
    let HttpRequest {
        id,
        method,
        headers,
        header_map,
        path,
        host,
        scheme,
        query,
        fragment,
        size,
        protocol,
        body,
        raw_body,
    } = http;
    let identified = if id.is_empty() { "out" } else { "" };
    out.push(format!("http with{identified} an id"));
    out.push(format!("{method} {scheme} {host} {path} {protocol}"));
    out.push(format!("query {query:?} fragment {fragment:?} size {size}"));
    map("headers", headers, out);
    if let Some(map) = header_map {
        for header in map.headers {
            let (key, value) = (header.key, header.value);
            let raw = body_text(&header.raw_value);
            out.push(format!("header_map {key}: {value:?} raw {raw}"));
        }
    }
    if !body.is_empty() {
        out.push(format!("body {}", body_text(body.as_bytes())));
    }
    if !raw_body.is_empty() {
        out.push(format!("raw_body {}", body_text(&raw_body)));
    }
}

fn map(name: &str, map: std::collections::HashMap<String, String>, out: &mut Vec<String>) {
    let mut lines: Vec<_> = map
        .into_iter()
        .map(|(key, value)| format!("{name} {key}: {value}"))
        .collect();
    lines.sort();
    out.extend(lines);
}

fn metadata(name: &str, metadata: Option<Metadata>, out: &mut Vec<String>) {
    let Some(metadata) = metadata else {
        out.push(format!("no {name}"));
        return;
    };
    let mut lines: Vec<_> = metadata
        .filter_metadata
        .into_iter()
        .map(|(key, value)| {
            let mut fields: Vec<_> = value.fields.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            format!("{name} {key}: {fields:?}")
        })
        .collect();
    lines.sort();
    out.extend(lines);
}
