//! A stream of either variant, between gRPC and its [`Session`].
//!
//! Who a client is says its certificate, what it is its node's ID; the two have to fit. A client whose identity is not
//! that of the workload or gateway that it says to be is not let in, and noted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::{ControlPlane, Node};
use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::Span;
use tracing::field::Empty;

use super::body::Responses;
use super::session::{Answer, PATIENCE, Push, Request, Session, Variant};
use crate::cache::{ResourceType, Snapshot};
use crate::control::{Control, Proxy, now};
use crate::spawn;
use crate::telemetry::Cause;
use crate::translate::Role;
use crate::translate::own_streams::{CLUSTER, CLUSTER_METADATA, OwnStream};
use crate::world::World;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The identity in its certificate, which was checked.
    pub identity: Option<String>,
    /// Its address.
    pub address: String,
}

/// The type of a stream that has one only.
#[derive(Clone, Copy, Debug)]
pub struct Implied(pub ResourceType);

/// The service.
#[derive(Clone, Debug)]
pub struct Discovery {
    control: Arc<Control>,
}

impl Discovery {
    /// Serves what `control` has.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// Answers a stream of a variant: of one type, or of all.
    pub fn call<B>(
        &self,
        requests: B,
        variant: Variant,
        implied: Option<Implied>,
        peer: Peer,
    ) -> http::Response<Body>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        match variant {
            Variant::Delta => self.serve::<Delta, B>(requests, implied, peer),
            Variant::Sotw => self.serve::<Sotw, B>(requests, implied, peer),
        }
    }

    fn serve<D: Dialect, B>(
        &self,
        requests: B,
        implied: Option<Implied>,
        peer: Peer,
    ) -> http::Response<Body>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        // One response waits for the connection to take it; the next is made when it has.
        let (send, receive) = mpsc::channel(1);
        let control = Arc::clone(&self.control);
        let decoder = ProstCodec::<D::Response, D::Request>::default().decoder();
        let requests = Streaming::new_request(decoder, requests, None, None);
        spawn(async move {
            let stream = StreamTask::<D> {
                control,
                implied,
                peer: Some(peer),
                requests,
                responses: send.clone(),
            };
            if let Err(status) = stream.run().await {
                // The client may have gone.
                let _ = send.send(Err(status)).await;
            }
        });
        let mut response = http::Response::new(Body::new(Responses::new(receive)));
        let kind = http::HeaderValue::from_static("application/grpc");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

struct StreamTask<D: Dialect> {
    control: Arc<Control>,
    implied: Option<Implied>,
    peer: Option<Peer>,
    requests: Streaming<D::Request>,
    responses: mpsc::Sender<Result<D::Response, Status>>,
}

impl<D: Dialect> StreamTask<D> {
    async fn run(mut self) -> Result<(), Status> {
        let Some(first) = self.requests.message().await? else {
            return Ok(());
        };
        let node = D::node(&first)
            .cloned()
            .ok_or_else(|| Status::invalid_argument("the first request has no node"))?;
        let role = Role::of_node(&node.id, &node.user_agent_name).ok_or_else(|| {
            let message = format!(
                "the node's ID {:?} is none of sidecar/, gateway/ and grpc/NAMESPACE/NAME",
                node.id
            );
            Status::invalid_argument(message)
        })?;
        let mut worlds = self.control.worlds();
        let mut certificates = self.control.authority.changes();
        self.admit(&node, &role)?;
        let mut own = self.implied.map(|Implied(kind)| {
            let is_delta = D::VARIANT == Variant::Delta;
            OwnStream::new(kind, cluster_of(&node), is_delta)
        });
        let mut had = None;
        let snapshot = self.snapshot(&role, own.as_mut(), &mut had);
        let mut session = Session::new(D::VARIANT, snapshot);
        let mut proxy = proxy::<D>(&node, self.peer.as_ref());
        proxy.is_part = own.is_some();
        let connected = self.control.connect(proxy);
        let mut trace = PushTrace::new(node.id.clone());
        self.take(&mut session, first, &role, &mut trace)?;
        loop {
            let is_free = self.push(&mut session, &mut trace);
            connected.progress(session.progress());
            let deadline = session.deadline();
            let gate = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.take(&mut session, request, &role, &mut trace)?,
                    // Gone, in peace or not.
                    Ok(None) | Err(_) => return Ok(()),
                },
                changed = worlds.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    worlds.borrow_and_update();
                    self.admit(&node, &role)?;
                    trace.begin(self.control.cause());
                    session.set_snapshot(self.snapshot(&role, own.as_mut(), &mut had));
                }
                changed = certificates.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Secrets are of no world.
                    had = None;
                    trace.begin(Cause::default());
                    session.set_snapshot(self.snapshot(&role, own.as_mut(), &mut had));
                }
                permit = self.responses.reserve(), if !is_free => {
                    if permit.is_err() {
                        return Ok(());
                    }
                }
                () = gate => {}
            }
        }
    }

    /// What the client is to have on this stream, made from what it had.
    fn snapshot(
        &self,
        role: &Role,
        own: Option<&mut OwnStream>,
        had: &mut Option<(Arc<World>, Arc<Snapshot>)>,
    ) -> Arc<Snapshot> {
        let whole = self.control.refresh(role, had);
        match own {
            Some(own) => Arc::new(own.snapshot(&whole)),
            None => whole,
        }
    }

    /// Whether the client is who it says to be.
    fn admit(&self, node: &Node, role: &Role) -> Result<(), Status> {
        let translator = Arc::clone(&self.control.worlds().borrow());
        let wanted = role.identity(translator.world());
        let found = self.peer.as_ref().and_then(|peer| peer.identity.as_deref());
        if self.control.is_insecure && found.is_none() {
            return Ok(());
        }
        let Some(wanted) = wanted else {
            return Err(Status::not_found(format!("there is no {}", node.id)));
        };
        if found == Some(wanted) {
            return Ok(());
        }
        self.control.metrics.denied.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            target: "audit",
            node = node.id,
            wanted,
            found = found.unwrap_or("none"),
            "A proxy was not let in: its identity is not that of its node."
        );
        Err(Status::permission_denied(
            "the certificate is not that of the node",
        ))
    }

    fn take(
        &self,
        session: &mut Session,
        request: D::Request,
        role: &Role,
        trace: &mut PushTrace,
    ) -> Result<(), Status> {
        let url = D::type_url(&request);
        let kind = match (ResourceType::from_url(url), self.implied) {
            (Some(kind), None) => kind,
            (None, Some(Implied(kind))) if url.is_empty() => kind,
            (Some(kind), Some(Implied(only))) if kind == only => kind,
            (_, Some(Implied(only))) => {
                let message = format!("this stream is for {}, not for {url}", only.url());
                return Err(Status::invalid_argument(message));
            }
            (None, None) => {
                // A client may ask for a type of which there is nothing; it is not answered.
                tracing::debug!(url, "A type was asked for that there is not.");
                return Ok(());
            }
        };
        let request = D::request(request);
        if kind == ResourceType::Secret {
            self.watch_thieves(session, &request, role);
        }
        let answer = session.request(kind, request);
        trace.answered(kind, &answer);
        if let Answer::Refused(reason) = answer {
            self.control.metrics.refusals[kind.index()].fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                ?role,
                kind = kind.word(),
                reason,
                "A proxy has refused resources."
            );
        }
        Ok(())
    }

    /// Notes who asks for the certificate of another. There is no such resource for it in any case.
    fn watch_thieves(&self, session: &Session, request: &Request, role: &Role) {
        let translator = Arc::clone(&self.control.worlds().borrow());
        let own = role.identity(translator.world()).unwrap_or_default();
        for name in &request.subscribe {
            // SotW says all names again with each answer.
            let is_known = session.has_asked(ResourceType::Secret, name)
                || session.has(ResourceType::Secret, name);
            let is_secret = name.starts_with("spiffe://") || name.starts_with("kubernetes://");
            if is_secret && !is_known && name != own {
                self.control.metrics.stolen.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    target: "audit",
                    asked_for = name,
                    by = own,
                    "The secret of another identity was asked for, and not given."
                );
            }
        }
    }

    /// Sends what there is to send while the connection takes it. Says whether nothing is left.
    fn push(&self, session: &mut Session, trace: &mut PushTrace) -> bool {
        loop {
            let Ok(permit) = self.responses.try_reserve() else {
                return false;
            };
            let Some(push) = session.next(Instant::now()) else {
                return true;
            };
            let metrics = &self.control.metrics;
            let index = push.kind.index();
            metrics.pushes[index].fetch_add(1, Ordering::Relaxed);
            let count = u64::try_from(push.resources.len()).unwrap_or(u64::MAX);
            metrics.resources[index].fetch_add(count, Ordering::Relaxed);
            trace.sent(&push);
            permit.send(Ok(D::response(push)));
        }
    }
}

/// How long after a change a push is part of its trace: listeners may wait for clusters so long. What comes later is what
/// the client asks for by itself.
const AFTERMATH: Duration = Duration::from_secs(2 * PATIENCE.as_secs());

/// The pushes of a stream that wait for their answers, as spans.
struct PushTrace {
    node: String,
    /// What changed, and until when pushes are believed to come of it.
    cause: (Cause, Instant),
    waiting: [Option<Span>; ResourceType::COUNT],
}

impl PushTrace {
    fn new(node: String) -> Self {
        Self {
            node,
            cause: (Cause::default(), Instant::now()),
            waiting: Default::default(),
        }
    }

    fn begin(&mut self, cause: Cause) {
        self.cause = (cause, Instant::now() + AFTERMATH);
    }

    fn sent(&mut self, push: &Push) {
        let span = tracing::debug_span!(
            "push",
            node = self.node,
            kind = push.kind.word(),
            version = push.version,
            nonce = push.nonce,
            resources = push.resources.len(),
            removed = push.removed.len(),
            answer = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        );
        if span.is_disabled() {
            return;
        }
        let (cause, until) = &self.cause;
        if Instant::now() < *until {
            cause.lead_to(&span);
        }
        self.waiting[push.kind.index()] = Some(span);
    }

    fn answered(&mut self, kind: ResourceType, answer: &Answer) {
        if *answer == Answer::None {
            return;
        }
        let Some(span) = self.waiting[kind.index()].take() else {
            return;
        };
        match answer {
            Answer::None => {}
            Answer::Accepted => drop(span.record("answer", "accepted")),
            Answer::Refused(reason) => {
                span.record("answer", "refused");
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", reason);
            }
        }
    }
}

/// The cluster by which a node reaches the control plane.
fn cluster_of(node: &Node) -> &str {
    use outrigger_proto::pb::google::protobuf::value::Kind;
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let value = fields.and_then(|fields| fields.get(CLUSTER_METADATA)?.kind.as_ref());
    match value {
        Some(Kind::StringValue(name)) => name,
        _ => CLUSTER,
    }
}

fn proxy<D: Dialect>(node: &Node, peer: Option<&Peer>) -> Proxy {
    Proxy {
        node: node.id.clone(),
        agent: node.user_agent_name.clone(),
        identity: peer.and_then(|peer| peer.identity.clone()),
        address: peer.map(|peer| peer.address.clone()).unwrap_or_default(),
        variant: match D::VARIANT {
            Variant::Delta => "delta",
            Variant::Sotw => "sotw",
        },
        since: now(),
        is_part: false,
        types: Vec::new(),
    }
}

/// The messages of a variant.
trait Dialect: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + Unpin + 'static;
    const VARIANT: Variant;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn type_url(request: &Self::Request) -> &str;
    fn request(request: Self::Request) -> Request;
    fn response(push: Push) -> Self::Response;
}

struct Sotw;
struct Delta;

fn error_text(status: Option<outrigger_proto::pb::google::rpc::Status>) -> Option<String> {
    status.map(|status| {
        if status.message.is_empty() {
            format!("code {:?}", Code::from(status.code))
        } else {
            status.message
        }
    })
}

fn control_plane() -> Option<ControlPlane> {
    Some(ControlPlane {
        identifier: "outrigger".to_owned(),
    })
}

impl Dialect for Sotw {
    type Request = pb::DiscoveryRequest;
    type Response = pb::DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn request(request: Self::Request) -> Request {
        Request {
            subscribe: request.resource_names,
            version: request.version_info,
            nonce: request.response_nonce,
            error: error_text(request.error_detail),
            ..Request::default()
        }
    }

    fn response(push: Push) -> Self::Response {
        pb::DiscoveryResponse {
            version_info: push.version,
            resources: push
                .resources
                .iter()
                .map(|resource| resource.body.clone())
                .collect(),
            type_url: push.kind.url(),
            nonce: push.nonce,
            control_plane: control_plane(),
            ..Default::default()
        }
    }
}

impl Dialect for Delta {
    type Request = pb::DeltaDiscoveryRequest;
    type Response = pb::DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn request(request: Self::Request) -> Request {
        Request {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            version: String::new(),
            nonce: request.response_nonce,
            error: error_text(request.error_detail),
        }
    }

    fn response(push: Push) -> Self::Response {
        let resources = push.resources.iter().map(|resource| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(resource.body.clone()),
            ..Default::default()
        });
        pb::DeltaDiscoveryResponse {
            system_version_info: push.version,
            resources: resources.collect(),
            type_url: push.kind.url(),
            removed_resources: push.removed.iter().map(|name| name.to_string()).collect(),
            nonce: push.nonce,
            control_plane: control_plane(),
            ..Default::default()
        }
    }
}
