//! Servers that are asked by HTTP, again and again: `POST /v3/discovery:…` with requests and responses in JSON.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::json::{Style, to_json};
use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrigger_proto::yaml::{Format, Source};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::channel::Channel;
use super::client::{Running, XdsClient};
use super::grpc::log;
use super::resource::load_response;
use super::{ApiSource, ApiTransport, ResourceKind};
use crate::config::DynamicFields;
use crate::http::{Known, Protocol, RequestHead};
use crate::upstream::ClusterId;
use crate::upstream::async_client::RequestOptions;

/// A response of all clusters of a large mesh has tens of megabytes.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// Whom to ask, and how often.
struct Server<'a> {
    cluster: ClusterId,
    name: &'a str,
    timeout: Duration,
}

/// Asks for as long as anybody wants to know.
pub(super) async fn run(client: &Rc<XdsClient>, channel: &Rc<Channel>, source: &ApiSource) {
    let ApiTransport::Rest {
        cluster,
        cluster_name,
        refresh_delay,
        request_timeout,
    } = &source.transport
    else {
        return;
    };
    let server = Server {
        cluster: *cluster,
        name: cluster_name,
        timeout: *request_timeout,
    };
    let Some(running) = client.running() else {
        return;
    };
    let unknown = &*client.server.unknown_fields;
    while !channel.is_closed() {
        client.take_commands();
        for kind in channel.kinds() {
            // The next request says again what is due.
            channel.with(kind, |state| state.sotw.stream_started());
            match ask(running, channel, kind, &server, unknown).await {
                Ok(Some(response)) => log(kind, &channel.take_state(kind, response)),
                Ok(None) => {}
                Err(reason) => {
                    warn!(
                        kind = kind.type_name(),
                        cluster = server.name,
                        reason,
                        "Resources cannot be fetched."
                    );
                    channel.connection_failed();
                    client.stand_in(channel);
                }
            }
        }
        // Not all proxies at the same time.
        let jitter = refresh_delay.as_millis().max(1);
        let jitter = u64::try_from(jitter)
            .unwrap_or(u64::MAX)
            .min(REFRESH_JITTER);
        let jitter = Duration::from_millis(running.worker.random.next() % jitter.max(1));
        let next = Instant::now() + *refresh_delay + jitter;
        while !channel.is_closed() {
            tokio::select! {
                () = sleep_until(next) => break,
                () = channel.changed.notified() => {}
            }
        }
    }
}

/// Milliseconds that are added to a delay at most.
const REFRESH_JITTER: u64 = 1000;

/// The answer of the server; none: nothing is new.
async fn ask(
    running: &Running,
    channel: &Channel,
    kind: ResourceKind,
    server: &Server<'_>,
    unknown: &DynamicFields,
) -> Result<Option<DiscoveryResponse>, String> {
    let request = channel.with(kind, |state| state.sotw.next_request(&state.interests));
    let Some(mut request) = request else {
        return Ok(None);
    };
    request.node = Some(running.node.clone());
    // Each request stands for itself.
    request.response_nonce.clear();
    let body = to_json(&request, Style::default()).map_err(|error| error.to_string())?;
    let [.., last] = kind.service();
    let mut head = RequestHead::new(Protocol::Http11, b"POST");
    head.set_scheme(b"http");
    head.set_authority(server.name.as_bytes());
    head.set_path(format!("/v3/discovery:{last}").as_bytes());
    head.fields.set(Known::ContentType, "application/json");
    head.fields
        .set(Known::ContentLength, body.len().to_string());
    let options = RequestOptions {
        timeout: Some(server.timeout),
        max_response_bytes: MAX_RESPONSE_BYTES,
        ..RequestOptions::default()
    };
    let sending = running
        .client
        .send(server.cluster, head, Bytes::from(body).into(), options);
    let response = sending.await.map_err(|error| error.to_string())?;
    match response.head.status {
        304 => return Ok(None),
        200 => {}
        status => return Err(format!("the server answers {status}")),
    }
    let source = Source {
        name: "response",
        format: Format::Json,
        bytes: &response.body,
    };
    load_response(&source, unknown).map(Some)
}
