//! Access logs that go to a gRPC service.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use outrigger_proto::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, TcpAccessLogEntry,
};
use outrigger_proto::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use outrigger_proto::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use outrigger_xds_tests::plane::Kind;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::client::Connection;
use crate::resources::{cluster, inline_manager, listener_of, listener_with, tcp_proxy};
use crate::stage::{SOON, Transport, grpc_cluster, tell};

/// Everything that a log service was sent.
type Sent = Rc<RefCell<Vec<StreamAccessLogsMessage>>>;

/// A service that takes logs.
async fn service() -> (SocketAddr, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Sent::default();
    let record = sent.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let record = record.clone();
            spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let record = record.clone();
                    spawn_local(async move {
                        let head =
                            http::Response::builder().header("content-type", "application/grpc");
                        let _open = respond.send_response(head.body(()).unwrap(), false);
                        read(request.into_body(), &record).await;
                    });
                }
            });
        }
    });
    (address, sent)
}

async fn read(mut body: h2::RecvStream, sent: &Sent) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while buffer.len() >= 5 {
            let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
            let length = usize::try_from(length).unwrap();
            if buffer.len() < 5 + length {
                break;
            }
            buffer.advance(5);
            let message = StreamAccessLogsMessage::decode(buffer.split_to(length)).unwrap();
            sent.borrow_mut().push(message);
        }
    }
}

async fn first(sent: &Sent) -> StreamAccessLogsMessage {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(message) = sent.borrow().first() {
            return message.clone();
        }
        assert!(Instant::now() < deadline, "no log entry came");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn logger(kind: &str, more: &str) -> String {
    format!(
        "access_log: [{{ name: grpc, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{kind}, common_config: {{ log_name: story, transport_api_version: V3, buffer_flush_interval: 0.1s, grpc_service: {{ envoy_grpc: {{ cluster_name: logs }} }} }}, {more} }} }}]"
    )
}

/// What two proxies must say the same of a request or connection: no times, ports and identifiers.
fn common_lines(common: &AccessLogCommon) -> Vec<String> {
    let set = |name: &str, is_set: bool| format!("{name}: {is_set}");
    vec![
        format!(
            "cluster {} route {:?}",
            common.upstream_cluster, common.route_name
        ),
        format!("flags {:?}", common.response_flags),
        format!("failure {:?}", common.upstream_transport_failure_reason),
        format!("type {:?}", common.access_log_type),
        format!("tags {:?}", common.custom_tags),
        format!(
            "state {:?}",
            common.filter_state_objects.keys().collect::<Vec<_>>()
        ),
        format!("details {:?}", common.upstream_request_attempt_count),
        set(
            "downstream_remote_address",
            common.downstream_remote_address.is_some(),
        ),
        set(
            "downstream_local_address",
            common.downstream_local_address.is_some(),
        ),
        set(
            "downstream_direct_remote_address",
            common.downstream_direct_remote_address.is_some(),
        ),
        set(
            "upstream_remote_address",
            common.upstream_remote_address.is_some(),
        ),
        set(
            "upstream_local_address",
            common.upstream_local_address.is_some(),
        ),
        set("tls_properties", common.tls_properties.is_some()),
        set("start_time", common.start_time.is_some()),
        set(
            "time_to_last_rx_byte",
            common.time_to_last_rx_byte.is_some(),
        ),
        set(
            "time_to_first_upstream_tx_byte",
            common.time_to_first_upstream_tx_byte.is_some(),
        ),
        set(
            "time_to_last_upstream_tx_byte",
            common.time_to_last_upstream_tx_byte.is_some(),
        ),
        set(
            "time_to_first_upstream_rx_byte",
            common.time_to_first_upstream_rx_byte.is_some(),
        ),
        set(
            "time_to_last_upstream_rx_byte",
            common.time_to_last_upstream_rx_byte.is_some(),
        ),
        set(
            "time_to_first_downstream_tx_byte",
            common.time_to_first_downstream_tx_byte.is_some(),
        ),
        set(
            "time_to_last_downstream_tx_byte",
            common.time_to_last_downstream_tx_byte.is_some(),
        ),
        set("metadata", common.metadata.is_some()),
        set("stream_id", !common.stream_id.is_empty()),
        format!(
            "upstream_wire {} {}",
            common.upstream_wire_bytes_sent > 0,
            common.upstream_wire_bytes_received
        ),
        format!(
            "downstream_wire {} {}",
            common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received
        ),
    ]
}

fn http_lines(entry: &HttpAccessLogEntry) -> Vec<String> {
    let mut lines = common_lines(entry.common_properties.as_ref().unwrap());
    lines.push(format!("protocol {}", entry.protocol_version));
    let mut request = entry.request.clone().unwrap();
    assert!(!request.request_id.is_empty());
    request.request_id.clear();
    request.request_headers_bytes = request.request_headers_bytes.min(1);
    let mut response = entry.response.clone().unwrap();
    response.response_headers_bytes = response.response_headers_bytes.min(1);
    let mut headers: Vec<_> = request.request_headers.drain().collect();
    headers.sort();
    lines.push(format!("{request:?} {headers:?}"));
    let mut headers: Vec<_> = response.response_headers.drain().collect();
    headers.sort();
    lines.push(format!("{response:?} {headers:?}"));
    lines
}

fn tcp_lines(entry: &TcpAccessLogEntry) -> Vec<String> {
    let mut lines = common_lines(entry.common_properties.as_ref().unwrap());
    lines.push(format!("{:?}", entry.connection_properties));
    lines
}

#[test]
fn requests_are_logged_to_a_service() {
    tell("als-http", &[Transport::Ads], async |stage| {
        let address = stage.backend("first").await;
        let (logs, sent) = service().await;
        stage.clusters = grpc_cluster("logs", logs);
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let more = logger(
            "HttpGrpcAccessLogConfig",
            "additional_request_headers_to_log: [x-story]",
        ) + ",";
        // The time that the upstream took has one digit or two, which counts.
        let filter = inline_manager("a", &more).replacen(
            "http.router.v3.Router }",
            "http.router.v3.Router, suppress_envoy_headers: true }",
            1,
        );
        assert!(filter.contains("suppress_envoy_headers"));
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.run().await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        connection
            .request("GET /story?a=b HTTP/1.1\r\nhost: example.com\r\nx-story: told\r\nuser-agent: a person\r\n\r\n")
            .await
            .unwrap();
        let message = first(&sent).await;
        let identifier = message.identifier.unwrap();
        assert_eq!(identifier.log_name, "story");
        assert_eq!(identifier.node.unwrap().id, "story");
        let Some(LogEntries::HttpLogs(entries)) = message.log_entries else {
            panic!("no entries of requests");
        };
        let entry = &entries.log_entry[0];
        let request = entry.request.as_ref().unwrap();
        assert_eq!(
            (request.path.as_str(), request.user_agent.as_str()),
            ("/story?a=b", "a person")
        );
        for line in http_lines(entry) {
            stage.note(line);
        }
    });
}

#[test]
fn connections_are_logged_to_a_service() {
    tell("als-tcp", &[Transport::Ads], async |stage| {
        let address = stage.backend("first").await;
        let (logs, sent) = service().await;
        stage.clusters = grpc_cluster("logs", logs);
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let more = format!("stat_prefix: tcp, {}", logger("TcpGrpcAccessLogConfig", ""));
        let filter = tcp_proxy("a").replacen("stat_prefix: tcp", &more, 1);
        stage.plane.set(
            Kind::Lds,
            [listener_of("l", &format!("[{{ filters: [{filter}] }}]"))],
        );
        stage.run().await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        assert_eq!(connection.get("/").await.body, "first");
        drop(connection);
        let message = first(&sent).await;
        assert_eq!(message.identifier.unwrap().log_name, "story");
        let Some(LogEntries::TcpLogs(entries)) = message.log_entries else {
            panic!("no entries of connections");
        };
        for line in tcp_lines(&entries.log_entry[0]) {
            stage.note(line);
        }
    });
}
