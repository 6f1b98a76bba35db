//! What is known about a stream while it runs, for filters, and when it has ended, for logs, stats and traces.

mod filter_state;
mod response_flag;
mod tls;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub use filter_state::{FilterState, FilterStateObject};
pub use response_flag::{ResponseFlag, ResponseFlags};
pub use tls::TlsConnectionInfo;

use crate::http::Protocol;
use crate::net::Address;
use crate::route::SelectedRoute;
use crate::upstream::{WorkerCluster, WorkerHost};

/// A downstream connection, as its streams see it. One per connection, shared by its streams.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// A number of its own within the process, as `%CONNECTION_ID%` prints it.
    pub id: u64,
    /// When it was accepted.
    pub start: Instant,
    /// Who really sent it: the peer, or what the PROXY protocol said.
    pub remote_address: Address,
    /// The peer of the socket.
    pub direct_remote_address: Address,
    /// Where it was sent to: the local end, or what the PROXY protocol or the original destination said.
    pub local_address: Address,
    /// The local end of the socket.
    pub direct_local_address: Address,
    /// The SNI that a listener filter or TLS found.
    pub requested_server_name: Option<Box<str>>,
    /// `raw_buffer` or `tls`, as found by listener filters.
    pub transport_protocol: Option<&'static str>,
    /// The application protocols that the client offered (ALPN) or that listener filters found.
    pub application_protocols: Vec<Box<[u8]>>,
    /// JA3 and JA4 fingerprints of the ClientHello, when a listener filter was asked for them.
    pub tls_fingerprints: TlsFingerprints,
    /// The name of the listener, as `%…LISTENER…%` and stats know it.
    pub listener: Arc<ListenerIdentity>,
    /// The name of the filter chain that was taken; empty for one without a name.
    pub filter_chain_name: Arc<str>,
    /// Objects that live as long as the connection.
    pub filter_state: RefCell<FilterState>,
    /// Metadata that listener and network filters set.
    pub dynamic_metadata: RefCell<DynamicMetadata>,
    /// Set when the connection ended badly: `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: RefCell<Option<Cow<'static, str>>>,
    /// The flag and the details with which a network filter closed it: `%RESPONSE_FLAGS%` and `%RESPONSE_CODE_DETAILS%` of its
    /// log.
    pub closed_by_filter: Cell<Option<(ResponseFlag, &'static str)>>,
    /// Bytes that its network filters have read so far, for the access log of the listener.
    pub bytes_received: Cell<u64>,
    /// Bytes that they have sent so far.
    pub bytes_sent: Cell<u64>,
    /// Set when the transport socket failed: `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure_reason: RefCell<Option<Box<str>>>,
    /// The transport socket of the filter chain is TLS.
    pub is_tls: bool,
    /// What the TLS handshake agreed on, from its end; none: there was none yet.
    pub tls: OnceCell<Box<TlsConnectionInfo>>,
    /// When the handshake had ended.
    pub handshake_complete: Cell<Option<Instant>>,
}

/// What a listener calls itself.
#[derive(Debug, Default)]
pub struct ListenerIdentity {
    /// `Listener.name`.
    pub name: Box<str>,
    /// The prefix of its stats, without `listener.`: `127.0.0.1_8080`, or the configured `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// `UNSPECIFIED`, `INBOUND` or `OUTBOUND`.
    pub traffic_direction: TrafficDirection,
    /// `Listener.metadata`, for formatters.
    pub metadata: DynamicMetadata,
    /// `Listener.bypass_overload_manager`: whether nothing is turned away for the overload manager.
    pub bypass_overload_manager: bool,
}

/// `envoy.config.core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the API's own names")]
pub enum TrafficDirection {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// Fingerprints of a TLS ClientHello.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the fingerprints")]
pub struct TlsFingerprints {
    pub ja3: Option<Box<str>>,
    pub ja4: Option<Box<str>>,
}

/// Metadata by namespace: what `envoy.config.core.v3.Metadata.filter_metadata` is. Empty, it costs nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DynamicMetadata {
    #[allow(
        clippy::box_collection,
        reason = "most are empty, and a word is all that an empty one takes"
    )]
    namespaces: Option<Box<BTreeMap<Box<str>, serde_json::Map<String, serde_json::Value>>>>,
}

impl DynamicMetadata {
    /// No values at all.
    pub const EMPTY: Self = Self { namespaces: None };

    /// The values of a namespace.
    pub fn get(&self, namespace: &str) -> Option<&serde_json::Map<String, serde_json::Value>> {
        self.namespaces.as_ref()?.get(namespace)
    }

    /// The value at `path` below a namespace.
    pub fn value<'a, 'k>(
        &'a self,
        namespace: &str,
        path: impl IntoIterator<Item = &'k str>,
    ) -> Option<&'a serde_json::Value> {
        let mut path = path.into_iter();
        let first = self.get(namespace)?.get(path.next()?)?;
        path.try_fold(first, |value, key| value.get(key))
    }

    /// Merges `values` into a namespace: keys that it has already are replaced.
    pub fn merge(&mut self, namespace: &str, values: serde_json::Map<String, serde_json::Value>) {
        self.namespaces
            .get_or_insert_default()
            .entry(namespace.into())
            .or_default()
            .extend(values);
    }

    /// The values of a namespace, to change; made when it is not there.
    pub fn namespace_mut(
        &mut self,
        namespace: &str,
    ) -> &mut serde_json::Map<String, serde_json::Value> {
        self.namespaces
            .get_or_insert_default()
            .entry(namespace.into())
            .or_default()
    }

    /// All namespaces.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (&str, &serde_json::Map<String, serde_json::Value>)> {
        self.namespaces
            .iter()
            .flat_map(|n| n.iter())
            .map(|(name, values)| (&**name, values))
    }
}

/// Everything about one stream (an HTTP request, or a proxied TCP connection). Filled while it runs, read when it ends.
#[derive(Debug)]
pub struct StreamInfo {
    /// The downstream connection.
    pub connection: Rc<ConnectionInfo>,
    /// A number of its own within the process, as `%STREAM_ID%` prints it where no request id serves.
    pub stream_id: u64,
    /// The wall clock at the start: `%START_TIME%`.
    pub start_time: SystemTime,
    /// The monotonic clock at the start: the origin of all durations.
    pub start: Instant,
    /// The monotonic clock when the stream was last woken: read once for all that happens then.
    pub now: Instant,
    /// The version that the client speaks; none for TCP.
    pub protocol: Option<Protocol>,
    /// Who sent the request after trusted proxies were taken into account (`x-forwarded-for`); none: the connection's.
    pub remote_address: Option<Address>,
    /// The status sent to the client; none if none was sent.
    pub response_code: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub response_code_details: Option<Cow<'static, str>>,
    /// `%RESPONSE_FLAGS%`.
    pub response_flags: ResponseFlags,
    /// Body bytes received from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,
    /// Bytes of heads and of framing as well, on the downstream side.
    pub downstream_bytes: BytesMeter,
    /// The same on the upstream side, over all attempts.
    pub upstream_bytes: BytesMeter,
    /// When things happened.
    pub timing: Timing,
    /// The route that was chosen: the cache that filters may clear or set. None: no route, or not looked up yet.
    pub route: Option<SelectedRoute>,
    /// The virtual host of the request wants TLS and the client did not use it: it is redirected.
    pub requires_tls: bool,
    /// The scheme that the upstream sees is that of its own connection.
    pub scheme_matches_upstream: bool,
    /// The cluster that was chosen.
    pub cluster: Option<Rc<WorkerCluster>>,
    /// The last upstream attempt.
    pub upstream: Option<Box<UpstreamInfo>>,
    /// How many upstream attempts were made.
    pub attempt_count: u32,
    /// Values that filters share: `%DYNAMIC_METADATA(…)%`.
    pub dynamic_metadata: DynamicMetadata,
    /// Objects that filters share: `%FILTER_STATE(…)%`.
    pub filter_state: FilterState,
    /// Whether the request is an active health check of a peer, which logs may leave out.
    pub health_check: bool,
    /// Whether tracing was decided for the stream, for the `traceable` log filter.
    pub trace_reason_traced: bool,
    /// `%CONNECTION_TERMINATION_DETAILS%` of this stream; none: the connection's.
    pub connection_termination_details: Option<Cow<'static, str>>,
    /// A value set by the `x-request-id` extension or a filter: `%STREAM_ID%`.
    pub request_id: Option<Box<str>>,
    /// What filters want to see in the log, separated by commas: `%CUSTOM_FLAGS%`.
    pub custom_flags: Option<Box<str>>,
    /// How often a route was looked up: `%ROUTE_RESOLUTION_COUNT%`.
    pub route_resolution_count: u32,
    /// How long the look-ups took together: `%ROUTE_RESOLUTION_TIME_US%`.
    pub route_resolution_time: Duration,
    /// Why the proxy closed the downstream connection: `%DOWNSTREAM_LOCAL_CLOSE_REASON%`.
    pub downstream_close_reason: Option<Cow<'static, str>>,
    /// How the downstream connection was closed: `%DOWNSTREAM_DETECTED_CLOSE_TYPE%`.
    pub downstream_close_type: CloseType,
    /// The host that a filter has chosen for the first attempt, past the load balancer.
    pub override_host: Option<Box<OverrideHost>>,
    /// The request came as something else than gRPC, and so do answers of our own, whatever its head says now.
    pub plain_local_replies: bool,
    /// What the connection manager allows the head of a request.
    pub request_limits: HeaderLimits,
}

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Fields, those of the request line included. Default 100.
    pub max_count: u32,
    /// The sum of the lengths of names and values, in KiB. Default 60.
    pub max_kb: u32,
}

impl HeaderLimits {
    /// Whether a head of so many fields, with so many bytes, is not too large.
    pub fn allow(self, count: usize, bytes: usize) -> bool {
        let within =
            |value: usize, most: u64| u64::try_from(value).is_ok_and(|value| value <= most);
        within(count, self.max_count.into()) && within(bytes, u64::from(self.max_kb) * 1024)
    }
}

impl Default for HeaderLimits {
    fn default() -> Self {
        Self {
            max_count: 100,
            max_kb: 60,
        }
    }
}

/// A host that a filter has chosen, as for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideHost {
    /// Its address and port.
    pub address: Box<str>,
    /// Whether the request is refused if there is no such host, or it is not well; else the load balancer chooses.
    pub strict: bool,
    /// The status with which it is refused.
    pub strict_status: u16,
}

/// How a connection was closed, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloseType {
    /// By a FIN, or not at all.
    #[default]
    Normal,
    /// By a reset of ours.
    LocalReset,
    /// By a reset of the peer's.
    RemoteReset,
}

impl CloseType {
    /// `Normal`, `LocalReset` or `RemoteReset`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::LocalReset => "LocalReset",
            Self::RemoteReset => "RemoteReset",
        }
    }
}

/// The upstream side of the last attempt.
#[derive(Debug, Default)]
pub struct UpstreamInfo {
    /// The host: its address is `%UPSTREAM_HOST%`, its hostname `%UPSTREAM_HOST_NAME%`, its metadata `%UPSTREAM_METADATA(…)%`.
    pub host: Option<Rc<WorkerHost>>,
    /// `%UPSTREAM_LOCAL_ADDRESS%`.
    pub local_address: Option<Address>,
    /// `%UPSTREAM_CONNECTION_ID%`.
    pub connection_id: Option<u64>,
    /// `%UPSTREAM_PROTOCOL%`.
    pub protocol: Option<Protocol>,
    /// How long the pool took to give a connection: `%UPSTREAM_CONNECTION_POOL_READY_DURATION%`.
    pub pool_ready: Option<Instant>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure_reason: Option<Box<str>>,
    /// `%UPSTREAM_LOCAL_CLOSE_REASON%` / `%UPSTREAM_DETECTED_CLOSE_TYPE%`: why and how the connection was closed.
    pub close_reason: Option<Cow<'static, str>>,
    /// When the connection was begun and ready: `%COMMON_DURATION(US_CX_BEG:US_CX_END…)%`.
    pub connect_start: Option<Instant>,
    /// See `connect_start`.
    pub connect_end: Option<Instant>,
    /// Where the connection really went, if not to the host's own address: `%UPSTREAM_REMOTE_ADDRESS%`.
    pub remote_address: Option<Address>,
    /// When the pool was asked for a connection: the origin of `pool_ready`; none: the start of the stream.
    pub pool_asked: Option<Instant>,
    /// How the connection was closed: `%UPSTREAM_DETECTED_CLOSE_TYPE%`.
    pub close_type: CloseType,
    /// What the TLS handshake of the connection agreed on; none: it is plain.
    pub tls: Option<Rc<TlsConnectionInfo>>,
    /// Objects that the upstream connection and its filters left: `%UPSTREAM_FILTER_STATE(…)%`.
    pub filter_state: FilterState,
    /// Hosts and connections of the attempts before this one: with the last, `%UPSTREAM_HOSTS_ATTEMPTED%` and its kin.
    pub earlier_attempts: Vec<(Rc<WorkerHost>, Option<u64>)>,
}

/// Bytes on one side of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BytesMeter {
    /// Bytes of fields of heads and trailers received.
    pub header_received: u64,
    /// Bytes of fields of heads and trailers sent.
    pub header_sent: u64,
    /// All bytes received, framing included.
    pub wire_received: u64,
    /// All bytes sent, framing included.
    pub wire_sent: u64,
}

impl BytesMeter {
    /// Adds the bytes of another part of the same side.
    pub fn add(&mut self, other: Self) {
        self.header_received += other.header_received;
        self.header_sent += other.header_sent;
        self.wire_received += other.wire_received;
        self.wire_sent += other.wire_sent;
    }
}

/// Points in time of a stream, all optional: what did not happen is missing.
#[derive(Debug, Clone, Copy, Default)]
#[allow(
    missing_docs,
    reason = "the names of Envoy's time points, documented at %COMMON_DURATION%"
)]
pub struct Timing {
    pub last_downstream_rx_byte: Option<Instant>,
    pub first_upstream_tx_byte: Option<Instant>,
    pub last_upstream_tx_byte: Option<Instant>,
    pub first_upstream_rx_byte: Option<Instant>,
    pub first_upstream_rx_body: Option<Instant>,
    pub last_upstream_rx_byte: Option<Instant>,
    pub first_downstream_tx_byte: Option<Instant>,
    pub last_downstream_tx_byte: Option<Instant>,
    pub last_downstream_header_rx_byte: Option<Instant>,
    pub downstream_handshake_complete: Option<Instant>,
    pub request_complete: Option<Instant>,
}

impl StreamInfo {
    /// A stream that begins now on `connection`.
    pub fn new(connection: Rc<ConnectionInfo>, stream_id: u64, protocol: Option<Protocol>) -> Self {
        let now = Instant::now();
        Self {
            connection,
            stream_id,
            start_time: SystemTime::now(),
            start: now,
            now,
            protocol,
            remote_address: None,
            response_code: None,
            response_code_details: None,
            response_flags: ResponseFlags::default(),
            bytes_received: 0,
            bytes_sent: 0,
            downstream_bytes: BytesMeter::default(),
            upstream_bytes: BytesMeter::default(),
            timing: Timing::default(),
            route: None,
            requires_tls: false,
            scheme_matches_upstream: false,
            cluster: None,
            upstream: None,
            attempt_count: 0,
            dynamic_metadata: DynamicMetadata::default(),
            filter_state: FilterState::default(),
            health_check: false,
            trace_reason_traced: false,
            connection_termination_details: None,
            request_id: None,
            custom_flags: None,
            route_resolution_count: 0,
            route_resolution_time: Duration::ZERO,
            downstream_close_reason: None,
            downstream_close_type: CloseType::Normal,
            override_host: None,
            plain_local_replies: false,
            request_limits: HeaderLimits::default(),
        }
    }

    /// Takes over what a network filter said when it closed the connection.
    pub fn note_closing_filter(&mut self) {
        if let Some((flag, details)) = self.connection.closed_by_filter.get() {
            self.response_flags.set(flag);
            self.details(details);
        }
    }

    /// The address of the client, after trusted proxies.
    pub fn remote_address(&self) -> &Address {
        self.remote_address
            .as_ref()
            .unwrap_or(&self.connection.remote_address)
    }

    /// The upstream side, made when first asked for.
    pub fn upstream_mut(&mut self) -> &mut UpstreamInfo {
        self.upstream.get_or_insert_default()
    }

    /// Sets the details unless an earlier reason stands.
    pub fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        self.response_code_details
            .get_or_insert_with(|| details.into());
    }
}

impl ConnectionInfo {
    /// A plain connection between two addresses, for tests and for streams without a listener.
    pub fn between(remote: Address, local: Address) -> Self {
        Self {
            id: 0,
            start: Instant::now(),
            direct_remote_address: remote.clone(),
            remote_address: remote,
            direct_local_address: local.clone(),
            local_address: local,
            requested_server_name: None,
            transport_protocol: None,
            application_protocols: Vec::new(),
            tls_fingerprints: TlsFingerprints::default(),
            listener: Arc::default(),
            filter_chain_name: "".into(),
            filter_state: RefCell::default(),
            dynamic_metadata: RefCell::default(),
            termination_details: RefCell::default(),
            closed_by_filter: Cell::default(),
            bytes_received: Cell::new(0),
            bytes_sent: Cell::new(0),
            transport_failure_reason: RefCell::default(),
            is_tls: false,
            tls: OnceCell::new(),
            handshake_complete: Cell::new(None),
        }
    }
}
