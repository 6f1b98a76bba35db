//! What the connection manager says about a request to its upstream, and about a response to its client:
//! `x-forwarded-*`, `x-request-id`, `x-envoy-*`, `via`, `server`, `date`, and hop-by-hop headers taken away.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers>

use std::io::Write;
use std::net::IpAddr;

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrigger_proto::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use pb::http_connection_manager::InternalAddressConfig;

use super::client_cert::{ClientCertFields, ClientCertPolicy};
use super::original_ip::{Detected, OriginalIpDetection, address_from_xff};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{Fields, HeaderName, Known, RequestHead, ResponseHead};
use crate::http_filters::headers::RequestMutations;
use crate::matchers::CidrRanges;
use crate::net::{Address, IpText};
use crate::server::{FactoryContext, Random};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// How a connection manager treats headers about the client.
#[derive(Debug)]
pub struct ForwardingConfig {
    use_remote_address: bool,
    xff_num_trusted_hops: u32,
    skip_xff_append: bool,
    internal_addresses: InternalAddresses,
    via: Box<str>,
    request_id: RequestIdConfig,
    append_x_forwarded_port: bool,
    /// `original_ip_detection_extensions`; without any, the one that reads `x-forwarded-for`. Unused with `use_remote_address`.
    original_ip_detection: Box<[OriginalIpDetection]>,
    /// `early_header_mutation_extensions`, in turn.
    early_mutations: Box<[RequestMutations]>,
    /// `forward_proto_config`.
    forward_proto: Option<ForwardProto>,
    client_cert: ClientCertPolicy,
    map_ipv4: bool,
    /// `add_user_agent`: the name to give as `user-agent` and downstream cluster.
    user_agent: Option<Box<str>>,
    /// The node's name, sent with `add_user_agent`.
    node: Box<str>,
    /// What is appended to `x-forwarded-for` for a client on the loopback interface: an address that others could reach.
    local_address: Option<IpAddr>,
}

/// The fields of `HttpConnectionManager` that this file converts.
#[allow(missing_docs, reason = "the names of the API")]
pub struct ForwardingFields {
    pub use_remote_address: bool,
    pub xff_num_trusted_hops: u32,
    pub skip_xff_append: bool,
    pub internal_address_config: Option<InternalAddressConfig>,
    pub via: String,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub request_id_extension: Option<pb::RequestIdExtension>,
    pub client_cert: ClientCertFields,
    pub original_ip_detection_extensions: Vec<TypedExtensionConfig>,
    pub early_header_mutation_extensions: Vec<TypedExtensionConfig>,
    pub forward_proto_config: Option<pb::ForwardProtoConfig>,
    pub append_x_forwarded_port: bool,
    pub add_user_agent: bool,
    pub represent_ipv4_remote_address_as_ipv4_mapped_ipv6: bool,
}

/// `internal_address_config`: which clients are part of our own network. By default none is.
#[derive(Debug, Default)]
struct InternalAddresses {
    unix_sockets: bool,
    ranges: CidrRanges,
}

/// `forward_proto_config`: the port that a client has asked for says whether it used TLS before it came here.
#[derive(Debug)]
struct ForwardProto {
    https: Box<[u32]>,
    http: Box<[u32]>,
}

/// `x-request-id`.
#[derive(Debug, Clone, Copy)]
struct RequestIdConfig {
    generate: bool,
    preserve_external: bool,
    always_set_in_response: bool,
}

impl ForwardingConfig {
    /// Converts the fields.
    pub fn from_proto(
        fields: ForwardingFields,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let cert = ClientCertPolicy::from_proto(fields.client_cert, cx, path);
        let detection = original_ip_detection(
            fields.original_ip_detection_extensions,
            fields.use_remote_address,
            fields.xff_num_trusted_hops,
            path,
        );
        let early = path.each(
            "early_header_mutation_extensions",
            fields.early_header_mutation_extensions,
            |extension, path| RequestMutations::from_extension(extension, cx, path),
        );
        let extension = path.optional(
            "request_id_extension",
            fields.request_id_extension,
            check_request_id_extension,
        );
        let internal = path.optional(
            "internal_address_config",
            fields.internal_address_config,
            InternalAddresses::from_proto,
        );
        extension?;
        Ok(Self {
            use_remote_address: fields.use_remote_address,
            xff_num_trusted_hops: fields.xff_num_trusted_hops,
            skip_xff_append: fields.skip_xff_append,
            internal_addresses: internal?.unwrap_or_default(),
            via: fields.via.into(),
            request_id: RequestIdConfig {
                generate: fields.generate_request_id,
                preserve_external: fields.preserve_external_request_id,
                always_set_in_response: fields.always_set_request_id_in_response,
            },
            append_x_forwarded_port: fields.append_x_forwarded_port,
            original_ip_detection: detection?,
            early_mutations: early?.into(),
            forward_proto: fields.forward_proto_config.map(ForwardProto::from_proto),
            client_cert: cert?,
            map_ipv4: fields.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            user_agent: fields
                .add_user_agent
                .then(|| cx.server.local_info.cluster.clone().into()),
            node: cx.server.local_info.node_id.clone().into(),
            local_address: crate::net::local_address(),
        })
    }

    /// Completes a request head before its route is chosen. An error is the status for a request whose client cannot be told.
    pub fn mutate_request(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        random: &Random,
        is_upgrade: bool,
        internal_only: &[HeaderName],
    ) -> Result<(), u16> {
        for mutations in &self.early_mutations {
            mutations.apply(head, info);
        }
        remove_hop_by_hop(&mut head.fields, is_upgrade);
        sanitize_te(&mut head.fields);
        sanitize_referer(&mut head.fields);
        let connection = std::rc::Rc::clone(&info.connection);
        let trusted = self.find_client(head, info, &connection)?;
        self.set_proto_and_port(head, &connection);
        let internal = trusted && self.internal_addresses.contains(info.remote_address());
        let edge = !internal && self.use_remote_address;
        if internal {
            head.fields.set(Known::EnvoyInternal, "true");
        } else {
            head.fields.remove(Known::EnvoyInternal);
            if edge {
                remove_internal_headers(&mut head.fields);
                for name in internal_only {
                    head.fields.remove(name);
                }
            }
        }
        if edge && let Some(ip) = info.remote_address().ip() {
            let ip = IpText::new(self.mapped(ip));
            head.fields.set(Known::EnvoyExternalAddress, ip.as_bytes());
        }
        self.add_user_agent(&mut head.fields);
        self.client_cert.apply(head, info);
        self.set_request_id(head, random, edge);
        if !self.via.is_empty() {
            head.fields
                .append_to(Known::Via, b", ", self.via.as_bytes());
        }
        Ok(())
    }

    /// Completes a response head before it is sent.
    pub fn mutate_response(
        &self,
        response: &mut ResponseHead,
        request: &RequestHead,
        is_upgrade: bool,
    ) {
        remove_hop_by_hop(&mut response.fields, is_upgrade);
        if (self.request_id.always_set_in_response
            || request.fields.contains(Known::EnvoyForceTrace))
            && let Some(id) = request.fields.get(Known::RequestId)
        {
            response.fields.set(Known::RequestId, id);
        }
        if !self.via.is_empty() {
            response
                .fields
                .append_to(Known::Via, b", ", self.via.as_bytes());
        }
    }

    /// Finds out who really asks, and extends `x-forwarded-for`. Says whether the address may be checked for being internal.
    fn find_client(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        connection: &ConnectionInfo,
    ) -> Result<bool, u16> {
        if !self.use_remote_address {
            return self.detect_client(head, info, connection);
        }
        // With an edge proxy's view, the last hop in front of us counts as one of the trusted.
        let hops = self.xff_num_trusted_hops.checked_sub(1);
        let found =
            hops.and_then(|hops| address_from_xff(head.fields.get(Known::ForwardedFor)?, hops));
        if let Some((address, _)) = found {
            info.remote_address = Some(Address::Ip((address, 0).into()));
        }
        let single = head.fields.get(Known::ForwardedFor).is_none();
        if !self.skip_xff_append {
            self.append_peer(head, connection);
        }
        if self.xff_num_trusted_hops == 0 {
            head.fields
                .set(Known::ForwardedProto, connection_scheme(connection));
        }
        Ok(single)
    }

    /// Asks one way after the other who really asks.
    fn detect_client(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        connection: &ConnectionInfo,
    ) -> Result<bool, u16> {
        for detection in &self.original_ip_detection {
            let Detected {
                address,
                trusted,
                append,
            } = detection.detect(&head.fields, connection.remote_address.ip())?;
            if append {
                self.append_peer(head, connection);
            }
            if let Some(address) = address {
                info.remote_address = Some(Address::Ip((address, 0).into()));
                return Ok(trusted);
            }
        }
        Ok(false)
    }

    /// Adds the peer to `x-forwarded-for`.
    fn append_peer(&self, head: &mut RequestHead, connection: &ConnectionInfo) {
        let Some(ip) = connection.remote_address.ip() else {
            return;
        };
        let appended = if ip.is_loopback() {
            self.local_address.unwrap_or(ip)
        } else {
            ip
        };
        let ip = IpText::new(self.mapped(appended));
        head.fields
            .append_to(Known::ForwardedFor, b",", ip.as_bytes());
    }

    fn set_proto_and_port(&self, head: &mut RequestHead, connection: &ConnectionInfo) {
        let by_port = self.forward_proto.as_ref();
        if let Some(proto) = by_port.and_then(|by_port| by_port.of(connection)) {
            head.fields.set(Known::ForwardedProto, proto);
        }
        if !head.fields.contains(Known::ForwardedProto) {
            head.fields
                .set(Known::ForwardedProto, connection_scheme(connection));
        }
        if self.append_x_forwarded_port
            && !head.fields.contains(Known::ForwardedPort)
            && let Some(port) = connection.local_address.port()
        {
            with_text(port, |text| head.fields.set(Known::ForwardedPort, text));
        }
        if head.scheme().is_none() {
            let proto = head.fields.get(Known::ForwardedProto).unwrap_or_default();
            let valid = ["http", "https"]
                .into_iter()
                .find(|scheme| proto.eq_ignore_ascii_case(scheme.as_bytes()));
            head.set_scheme(
                valid
                    .unwrap_or_else(|| connection_scheme(connection))
                    .as_bytes(),
            );
        }
    }

    fn add_user_agent(&self, fields: &mut Fields) {
        let Some(agent) = &self.user_agent else {
            return;
        };
        fields.set(Known::EnvoyDownstreamServiceCluster, agent.as_bytes());
        if !fields.contains(Known::UserAgent) {
            fields.set(Known::UserAgent, agent.as_bytes());
        }
        if !self.node.is_empty() {
            fields.set(Known::EnvoyDownstreamServiceNode, self.node.as_bytes());
        }
    }

    fn set_request_id(&self, head: &mut RequestHead, random: &Random, edge: bool) {
        if !self.request_id.generate {
            return;
        }
        if edge && !self.request_id.preserve_external {
            head.fields.remove(Known::RequestId);
        }
        if head
            .fields
            .get(Known::RequestId)
            .is_none_or(<[u8]>::is_empty)
        {
            head.fields.set(Known::RequestId, uuid(random));
        }
    }

    fn mapped(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.map_ipv4 => IpAddr::V6(v4.to_ipv6_mapped()),
            other => other,
        }
    }
}

impl InternalAddresses {
    fn from_proto(proto: InternalAddressConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let InternalAddressConfig {
            unix_sockets,
            cidr_ranges,
        } = proto;
        Ok(Self {
            unix_sockets,
            ranges: CidrRanges::from_proto("cidr_ranges", cidr_ranges, path)?,
        })
    }

    fn contains(&self, address: &Address) -> bool {
        match address {
            Address::Ip(ip) => self.ranges.contains(ip.ip()),
            Address::Pipe(_) => self.unix_sockets,
        }
    }
}

impl ForwardProto {
    fn from_proto(proto: pb::ForwardProtoConfig) -> Self {
        let pb::ForwardProtoConfig {
            https_destination_ports,
            http_destination_ports,
        } = proto;
        Self {
            https: https_destination_ports.into(),
            http: http_destination_ports.into(),
        }
    }

    /// What the port says, where it is not that of our own socket.
    fn of(&self, connection: &ConnectionInfo) -> Option<&'static str> {
        if connection.local_address == connection.direct_local_address {
            return None;
        }
        let port = u32::from(connection.local_address.port()?);
        if self.https.contains(&port) {
            Some("https")
        } else {
            self.http.contains(&port).then_some("http")
        }
    }
}

/// The ways to find out who really asks: as configured, or by `x-forwarded-for`.
fn original_ip_detection(
    extensions: Vec<TypedExtensionConfig>,
    use_remote_address: bool,
    hops: u32,
    path: &ConfigPath<'_>,
) -> Result<Box<[OriginalIpDetection]>, Rejected> {
    const FIELD: &str = "original_ip_detection_extensions";
    if extensions.is_empty() {
        let append = false;
        return Ok([OriginalIpDetection::Hops { hops, append }].into());
    }
    let converted = path.each(FIELD, extensions, OriginalIpDetection::from_proto);
    if use_remote_address {
        return Err(path
            .field(FIELD)
            .reject("cannot be set together with use_remote_address"));
    }
    if hops > 0 {
        return Err(path
            .field(FIELD)
            .reject("cannot be set together with xff_num_trusted_hops"));
    }
    converted.map(Into::into)
}

fn check_request_id_extension(
    proto: pb::RequestIdExtension,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    const UUID: &str = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
    let config = TypedConfig::required("typed_config", proto.typed_config, path)?;
    if config.type_name != UUID {
        return Err(config.unknown(&path.field("typed_config"), &[UUID]));
    }
    // Both only say how a trace decision is packed into the id; without a tracer there is none.
    let UuidRequestIdConfig {
        pack_trace_reason: _,
        use_request_id_for_trace_sampling: _,
    } = config.decode(path)?;
    Ok(())
}

/// Fields that concern one connection only. An upgrade keeps the two that make it one.
fn remove_hop_by_hop(fields: &mut Fields, is_upgrade: bool) {
    if !is_upgrade {
        fields.remove(Known::Connection);
        fields.remove(Known::Upgrade);
    }
    fields.remove(Known::KeepAlive);
    fields.remove(Known::ProxyConnection);
    fields.remove(Known::TransferEncoding);
}

/// Of `te` only `trailers` concerns the upstream.
fn sanitize_te(fields: &mut Fields) {
    let Some(te) = fields.get(Known::Te) else {
        return;
    };
    let trailers = te
        .split(|b| *b == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    if trailers {
        fields.set(Known::Te, "trailers");
    } else {
        fields.remove(Known::Te);
    }
}

/// A page that a request says to come from must not tell credentials, nor what only the browser is to know.
fn sanitize_referer(fields: &mut Fields) {
    let Some(referer) = fields.get(Known::Referer) else {
        return;
    };
    let after_scheme = memchr::memmem::find(referer, b"://").map_or(referer.len(), |at| at + 3);
    let rest = referer.get(after_scheme..).unwrap_or_default();
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let host = rest.get(..end).unwrap_or_default();
    if host.contains(&b'@') || referer.contains(&b'#') {
        fields.remove(Known::Referer);
    }
}

/// What only a client of our own network may ask of us.
fn remove_internal_headers(fields: &mut Fields) {
    const INTERNAL: [Known; 17] = [
        Known::EnvoyRetriableStatusCodes,
        Known::EnvoyRetriableHeaderNames,
        Known::EnvoyRetryOn,
        Known::EnvoyRetryGrpcOn,
        Known::EnvoyMaxRetries,
        Known::EnvoyUpstreamAltStatName,
        Known::EnvoyUpstreamRqTimeoutMs,
        Known::EnvoyUpstreamRqPerTryTimeoutMs,
        Known::EnvoyUpstreamRqTimeoutAltResponse,
        Known::EnvoyExpectedRqTimeoutMs,
        Known::EnvoyForceTrace,
        Known::EnvoyIpTags,
        Known::EnvoyOriginalUrl,
        Known::EnvoyHedgeOnPerTryTimeout,
        Known::EnvoyDecoratorOperation,
        Known::EnvoyDownstreamServiceCluster,
        Known::EnvoyDownstreamServiceNode,
    ];
    for name in INTERNAL {
        fields.remove(name);
    }
}

/// No transport socket encrypts yet.
fn connection_scheme(connection: &ConnectionInfo) -> &'static str {
    if connection.is_tls { "https" } else { "http" }
}

/// Prints a port on the stack.
fn with_text<T>(value: impl std::fmt::Display, use_it: impl FnOnce(&[u8]) -> T) -> T {
    let mut buffer = [0u8; 64];
    let mut cursor = &mut buffer[..];
    // A port is shorter than the buffer, and writing to it cannot fail otherwise.
    let _ = write!(cursor, "{value}");
    let left = cursor.len();
    use_it(&buffer[..64 - left])
}

/// A random UUID, version 4.
pub(crate) fn uuid(random: &Random) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let bytes = bits.to_be_bytes();
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut out = [b'-'; 36];
    for (place, byte) in PLACES.into_iter().zip(bytes) {
        out[place] = HEX[usize::from(byte >> 4)];
        out[place + 1] = HEX[usize::from(byte & 15)];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = uuid(&Random::new(7));
        assert_eq!((id[14], id[8], id[23]), (b'4', b'-', b'-'));
        assert!(matches!(id[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, uuid(&Random::new(8)));
    }

    #[test]
    fn a_referer_with_credentials_or_a_fragment_is_taken_away() {
        for (referer, kept) in [
            ("http://a/b", true),
            ("/x#y", false),
            ("/x@y", true),
            ("zzz", true),
            ("http://a/b@c", true),
            ("http://u:p@a/b", false),
            ("http://a/b#c", false),
        ] {
            let mut fields = Fields::new();
            fields.append(Known::Referer, referer);
            sanitize_referer(&mut fields);
            assert_eq!(fields.contains(Known::Referer), kept, "{referer}");
        }
    }

    #[test]
    fn only_trailers_remains_of_te() {
        let mut fields = Fields::new();
        fields.append(Known::Te, "gzip, Trailers");
        sanitize_te(&mut fields);
        assert_eq!(fields.get(Known::Te), Some(&b"trailers"[..]));
        fields.set(Known::Te, "gzip");
        sanitize_te(&mut fields);
        assert!(!fields.contains(Known::Te));
    }
}
