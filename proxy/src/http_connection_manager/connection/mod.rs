//! A downstream connection: its codec, its streams one after another or side by side, and its end.

mod counted;
mod http1;
mod http2;
mod lifetime;
mod sniff;

use std::rc::Rc;

use super::manager::Hcm;
use crate::http::Protocol;
use crate::LocalBoxFuture;
use crate::net::Io;
use crate::network_filters::{Connection, DrainSignal};
use crate::overload::LoadShedPoint;
use crate::stream_info::{ConnectionInfo, HeaderLimits, StreamInfo};
use counted::{ActiveConnection, ProtocolGuard};
use lifetime::{Age, expires};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;
use sniff::sniff;

/// Serves a connection to its end. What waits with an idle connection is small: there are many of them.
pub(super) fn serve(hcm: Rc<Hcm>, connection: Connection) -> LocalBoxFuture<'static, ()> {
    let Connection {
        io,
        info,
        drain,
        buffer_limit,
        worker: _,
    } = connection;
    let codec = hcm.config.codec_type;
    let shed = &hcm.worker.server.overload.load_shed;
    let sniffs = codec == CodecType::Auto || shed.is_there(LoadShedPoint::CreateCodec);
    let context = ConnectionContext {
        active: ActiveConnection::new(&hcm, &info),
        expires: expires(&hcm, &info),
        hcm,
        info,
        drain,
        buffer_limit,
    };
    if sniffs {
        let sniffed = Box::pin(serve_sniffed(context, io));
        // What serves the connection takes the place of what has looked at it.
        return Box::pin(async move {
            if let Some(served) = sniffed.await {
                served.await;
            }
        });
    }
    let protocol = match codec {
        CodecType::Http2 => Protocol::Http2,
        CodecType::Auto | CodecType::Http1 | CodecType::Http3 => Protocol::Http11,
    };
    serve_as(protocol, context, io)
}

/// What the streams of a connection share.
struct ConnectionContext {
    hcm: Rc<Hcm>,
    info: Rc<ConnectionInfo>,
    drain: Rc<dyn DrainSignal>,
    buffer_limit: usize,
    expires: Option<Age>,
    active: ActiveConnection,
}

/// What serves a connection once its first bytes are there. None: they never came, or there is too much to do.
async fn serve_sniffed(context: ConnectionContext, io: Io) -> Option<LocalBoxFuture<'static, ()>> {
    let hcm = &context.hcm;
    let Some((io, found)) = sniff(io, &context.info, hcm.config.timeouts.idle).await else {
        context.active.closed_by_peer();
        return None;
    };
    if sheds(hcm, &context.info, LoadShedPoint::CreateCodec) {
        hcm.config.stats.downstream_rq_overload_close().inc();
        return None;
    }
    let protocol = match hcm.config.codec_type {
        CodecType::Http2 => Protocol::Http2,
        CodecType::Http1 => Protocol::Http11,
        CodecType::Auto | CodecType::Http3 => found,
    };
    Some(serve_as(protocol, context, io))
}

fn serve_as(protocol: Protocol, context: ConnectionContext, io: Io) -> LocalBoxFuture<'static, ()> {
    let of_protocol = ProtocolGuard::new(&context.hcm, protocol);
    if protocol == Protocol::Http2 {
        Box::pin(http2::serve(context, io, of_protocol))
    } else {
        Box::pin(http1::serve(context, io, of_protocol))
    }
}

/// Whether the overload manager turns something away here.
#[inline]
fn sheds(hcm: &Hcm, info: &ConnectionInfo, point: LoadShedPoint) -> bool {
    let worker = &hcm.worker;
    let shed = &worker.server.overload.load_shed;
    shed.sheds(point, || worker.random.next()) && !info.listener.bypass_overload_manager
}

/// A stream begins: it is counted, and gets its number.
pub(super) fn begin_stream(
    hcm: &Rc<Hcm>,
    info: &Rc<ConnectionInfo>,
    protocol: Protocol,
) -> StreamInfo {
    let stats = &hcm.config.stats;
    stats.downstream_rq_total().inc();
    stats.downstream_rq_active().inc();
    if protocol.is_http1() {
        stats.downstream_rq_http1_total().inc();
    } else {
        stats.downstream_rq_http2_total().inc();
    }
    let mut stream = StreamInfo::new(info.clone(), hcm.next_stream_id(), Some(protocol));
    stream.request_limits = HeaderLimits {
        max_count: hcm.config.http1.max_headers_count,
        max_kb: hcm.config.http1.max_request_headers_kb,
    };
    stream
}
