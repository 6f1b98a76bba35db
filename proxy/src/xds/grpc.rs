//! Streams of gRPC: opened, kept, opened again; what is due is asked, what comes is handed on and answered.
//!
//! Stats: `control_plane.*`, for the aggregated stream; of others, below their subscription's.

use std::rc::Rc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::ControlPlane;
use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse,
};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::back_off::{BackOff, Bucket};
use super::channel::{Channel, Taken};
use super::client::{Running, XdsClient};
use super::failover::Failover;
use super::source::GrpcTarget;
use super::{ApiSource, ApiTransport, Refused, ResourceKind};
use crate::stats::{Scope, TextReadout};
use crate::upstream::async_client::{GrpcError, GrpcReceiver, GrpcSender, GrpcStreamLimits};

crate::stats_group! {
    /// How a stream to a management server does.
    struct ControlPlaneStats {
        gauge connected_state;
        gauge pending_requests;
        counter rate_limit_enforced;
    }
}

const AGGREGATED: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
/// The names of a hundred thousand resources fit in.
const MAX_PENDING_BYTES: usize = 64 << 20;

/// One place, asked over streams, one after the other.
struct Session<'a> {
    client: &'a Rc<XdsClient>,
    running: &'a Running,
    channel: &'a Rc<Channel>,
    source: &'a ApiSource,
    /// The server, and its stand-in.
    targets: Vec<&'a GrpcTarget>,
    failover: Failover,
    delta: bool,
    /// Service and method.
    path: String,
    stats: ControlPlaneStats,
    identifier: TextReadout,
    bucket: Option<Bucket>,
}

/// Asks for as long as anybody wants to know. `kind`: the only one of this place; none: the place is aggregated.
pub(super) async fn run(
    client: &Rc<XdsClient>,
    channel: &Rc<Channel>,
    source: &ApiSource,
    kind: Option<ResourceKind>,
) {
    let ApiTransport::Grpc {
        delta,
        service,
        failover,
    } = &source.transport
    else {
        return;
    };
    let Some(running) = client.running() else {
        return;
    };
    let scope = scope(client, channel, kind);
    let mut session = Session {
        client,
        running,
        channel,
        source,
        targets: std::iter::once(service)
            .chain(failover.as_ref().filter(|_| kind.is_none()))
            .collect(),
        failover: Failover::default(),
        delta: *delta,
        path: path(*delta, kind),
        stats: ControlPlaneStats::new(&scope),
        identifier: scope.text_readout("identifier"),
        bucket: source.rate_limit.map(Bucket::new),
    };
    let mut back_off = BackOff::new(service.back_off);
    while !channel.is_closed() {
        let (ended, heard) = session.stream().await;
        session.stats.connected_state().set(0);
        if channel.is_closed() {
            return;
        }
        if heard {
            back_off.reset();
            session.failover.answered();
        }
        match ended {
            Ok(()) => info!(
                path = session.path,
                "A stream of xDS was ended by its server."
            ),
            Err(error) => warn!(path = session.path, %error, "A stream of xDS has ended."),
        }
        channel.connection_failed();
        client.stand_in(channel);
        if session.failover.ended(session.targets.len()) {
            for kind in channel.kinds() {
                channel.with(kind, |state| {
                    state.sotw.server_changed();
                    state.delta.server_changed();
                });
            }
            let cluster = &session.target().service.authority;
            info!(%cluster, "Another server of xDS is asked.");
        }
        wait(client, channel, back_off.next(&running.worker.random)).await;
    }
}

/// Waits, but for nobody.
async fn wait(client: &XdsClient, channel: &Channel, time: Duration) {
    let over = Instant::now() + time;
    while !channel.is_closed() {
        tokio::select! {
            () = sleep_until(over) => return,
            () = channel.changed.notified() => client.stand_in(channel),
        }
    }
}

fn scope(client: &XdsClient, channel: &Channel, kind: Option<ResourceKind>) -> Scope {
    let prefix = match kind {
        Some(ResourceKind::Cluster) => "cluster_manager.cds.control_plane.",
        Some(ResourceKind::Listener) => "listener_manager.lds.control_plane.",
        Some(kind) => {
            let numbers = channel.with(kind, |state| state.interests.numbers());
            let own = numbers.first().and_then(|number| client.scope_of(*number));
            if let Some(scope) = own {
                return scope.scope("control_plane.");
            }
            "control_plane."
        }
        None => "control_plane.",
    };
    client.server.stats.scope(prefix)
}

fn path(delta: bool, kind: Option<ResourceKind>) -> String {
    match (kind, delta) {
        (None, false) => format!("/{AGGREGATED}/StreamAggregatedResources"),
        (None, true) => format!("/{AGGREGATED}/DeltaAggregatedResources"),
        (Some(kind), delta) => {
            let [service, states, changes, _] = kind.service();
            format!("/{service}/{}", if delta { changes } else { states })
        }
    }
}

impl<'a> Session<'a> {
    /// Whom to ask now.
    fn target(&self) -> &'a GrpcTarget {
        self.targets[self.failover.current(self.targets.len())]
    }

    /// One stream, from its beginning to its end; and whether anything came.
    async fn stream(&mut self) -> (Result<(), GrpcError>, bool) {
        for kind in self.channel.kinds() {
            self.channel.with(kind, |state| {
                state.sotw.stream_started();
                state.delta.stream_started();
            });
        }
        let target = self.target();
        let limits = GrpcStreamLimits {
            max_message_bytes: target.max_message_bytes,
            max_pending_bytes: MAX_PENDING_BYTES,
        };
        let address = (&*target.service.authority, &*self.path);
        let metadata = target.service.metadata(None);
        let (sender, mut receiver) =
            self.running
                .client
                .stream(target.service.cluster, address, &metadata, limits);
        self.stats.connected_state().set(1);
        let mut heard = false;
        let mut node_sent = false;
        loop {
            self.client.take_commands();
            let again = match self.ask(&sender, &mut node_sent) {
                Ok(again) => again,
                // What was asked does not go out: the stream is of no use.
                Err(()) => return (Ok(()), heard),
            };
            if self.channel.is_closed() {
                return (Ok(()), heard);
            }
            match self.hear(&mut receiver, again).await {
                Ok(Heard::Response) => heard = true,
                Ok(Heard::Nothing) => {}
                Ok(Heard::End) => return (Ok(()), heard),
                Err(error) => return (Err(error), heard),
            }
        }
    }

    /// Waits until something is to be done: a response that came is done with.
    async fn hear(
        &mut self,
        receiver: &mut GrpcReceiver,
        again: Option<Duration>,
    ) -> Result<Heard, GrpcError> {
        let expiry = self.channel.next_expiry();
        let over = async {
            match expiry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let refilled = async {
            match again {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let delta = self.delta;
        let response = async {
            Ok(if delta {
                receiver.next().await?.map(AnyResponse::Delta)
            } else {
                receiver.next().await?.map(AnyResponse::Sotw)
            })
        };
        tokio::select! {
            response = response => match response? {
                Some(AnyResponse::Sotw(response)) => self.take_state(response),
                Some(AnyResponse::Delta(response)) => self.take_change(response),
                None => return Ok(Heard::End),
            },
            () = self.channel.changed.notified() => return Ok(Heard::Nothing),
            () = refilled => return Ok(Heard::Nothing),
            () = over => {
                self.channel.expire();
                return Ok(Heard::Nothing);
            }
        }
        Ok(Heard::Response)
    }

    fn take_state(&mut self, response: DiscoveryResponse) {
        self.note(response.control_plane.as_ref());
        let Some(kind) = self.kind_of(&response.type_url) else {
            return;
        };
        let taken = self.channel.take_state(kind, response);
        log(kind, &taken);
    }

    fn take_change(&mut self, response: DeltaDiscoveryResponse) {
        self.note(response.control_plane.as_ref());
        let Some(kind) = self.kind_of(&response.type_url) else {
            return;
        };
        let taken = self.channel.take_change(kind, response);
        log(kind, &taken);
    }

    /// The kind of a response; none for what was never asked for.
    fn kind_of(&self, type_url: &str) -> Option<ResourceKind> {
        let kind = ResourceKind::from_type_url(type_url);
        let known = kind.filter(|kind| self.channel.wants(*kind, self.delta));
        if known.is_none() {
            warn!(
                type_url,
                "A response of a type that was not asked for is passed over."
            );
        }
        known
    }

    fn note(&self, control_plane: Option<&ControlPlane>) {
        if let Some(control_plane) = control_plane {
            self.identifier.set(&control_plane.identifier);
        }
    }

    /// Asks and answers whatever is due. Gives how long to wait when no more may be asked now.
    fn ask(&mut self, sender: &GrpcSender, node_sent: &mut bool) -> Result<Option<Duration>, ()> {
        for kind in self.channel.kinds() {
            loop {
                if let Some(bucket) = &mut self.bucket
                    && self.channel.with(kind, |state| state.is_due(self.delta))
                    && let Err(wait) = bucket.take()
                {
                    self.stats.rate_limit_enforced().inc();
                    self.stats.pending_requests().set(1);
                    return Ok(Some(wait));
                }
                let node = (!*node_sent || !self.source.set_node_on_first_message_only)
                    .then(|| self.running.node.clone());
                let sent = self.channel.with(kind, |state| {
                    if self.delta {
                        let mut request = state.delta.next_request(&state.interests)?;
                        request.node = node;
                        Some(sender.send(&request))
                    } else {
                        let mut request = state.sotw.next_request(&state.interests)?;
                        request.node = node;
                        Some(sender.send(&request))
                    }
                });
                match sent {
                    None => break,
                    Some(false) => return Err(()),
                    Some(true) => *node_sent = true,
                }
            }
        }
        self.stats.pending_requests().set(0);
        Ok(None)
    }
}

/// Says what became of a response.
pub(super) fn log(kind: ResourceKind, taken: &Taken) {
    let kind = kind.type_name();
    let version = &*taken.version;
    if taken.refused.is_empty() {
        debug!(kind, version, "A response is taken.");
    }
    for Refused { name, reason } in &taken.refused {
        warn!(
            kind,
            version,
            resource = &**name,
            reason,
            "A resource is refused."
        );
    }
}

/// What a wait ended with.
enum Heard {
    Response,
    Nothing,
    End,
}

enum AnyResponse {
    Sotw(DiscoveryResponse),
    Delta(DeltaDiscoveryResponse),
}
