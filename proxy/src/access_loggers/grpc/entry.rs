//! What is known about a stream, as a message.

use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::data::accesslog::v3 as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use pb::http_access_log_entry::HttpVersion;
use pb::tls_properties::certificate_properties::{SubjectAltName, subject_alt_name::San};
use pb::tls_properties::{CertificateProperties, TlsVersion};
use tokio::time::Instant;

use super::tag::CustomTag;
use crate::config::json_to_struct;
use crate::formatter::{
    FormatData, NamedRoute as _, completed, request_size, response_size, stream_id,
};
use crate::http::{Fields, HeaderName, Known, Protocol};
use crate::stream_info::{ConnectionInfo, ResponseFlag, StreamInfo, TlsConnectionInfo};
use crate::x509::Certificate;

/// What entries of both kinds hold beside what they always do.
pub(super) struct CommonFields {
    /// `filter_state_objects_to_log`.
    pub(super) filter_state: Box<[String]>,
    pub(super) tags: Box<[CustomTag]>,
}

/// Fields of heads and trailers that an entry holds beside those that it always does.
pub(super) struct HttpFields {
    pub(super) request_headers: Box<[HeaderName]>,
    pub(super) response_headers: Box<[HeaderName]>,
    pub(super) response_trailers: Box<[HeaderName]>,
}

impl CommonFields {
    pub(super) fn properties(&self, data: &FormatData<'_>) -> pb::AccessLogCommon {
        let info = data.info;
        let connection = &info.connection;
        let upstream = info.upstream.as_deref();
        let host = upstream.and_then(|upstream| upstream.host.as_ref());
        let at = |moment: Option<Instant>| duration(moment?, info);
        let timing = &info.timing;
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let address = |value: &crate::net::Address| Some(value.to_proto());
        #[allow(deprecated, reason = "servers of older versions read it")]
        pb::AccessLogCommon {
            // Envoy does not say it either.
            sample_rate: 0.0,
            downstream_remote_address: address(info.remote_address()),
            downstream_local_address: address(&connection.local_address),
            tls_properties: tls_properties(connection),
            start_time: Some(timestamp(info.start_time)),
            time_to_last_rx_byte: at(timing.last_downstream_rx_byte),
            time_to_first_upstream_tx_byte: at(timing.first_upstream_tx_byte),
            time_to_last_upstream_tx_byte: at(timing.last_upstream_tx_byte),
            time_to_first_upstream_rx_byte: at(timing.first_upstream_rx_byte),
            time_to_last_upstream_rx_byte: at(timing.last_upstream_rx_byte),
            time_to_first_downstream_tx_byte: at(timing.first_downstream_tx_byte),
            time_to_last_downstream_tx_byte: at(timing.last_downstream_tx_byte),
            upstream_remote_address: host.and_then(|host| address(&host.address)),
            upstream_local_address: upstream
                .and_then(|upstream| upstream.local_address.as_ref())
                .and_then(address),
            upstream_cluster: host
                .and(info.cluster.as_ref())
                .map(|cluster| cluster.name().to_string())
                .unwrap_or_default(),
            response_flags: response_flags(info),
            metadata: metadata(info),
            upstream_transport_failure_reason: text(
                upstream.and_then(|upstream| upstream.transport_failure_reason.as_deref()),
            ),
            route_name: text(info.route.as_ref().map(|route| route.route_name())),
            downstream_direct_remote_address: address(&connection.direct_remote_address),
            filter_state_objects: self.filter_state(info),
            custom_tags: self.custom_tags(data),
            duration: duration(completed(data), info),
            upstream_request_attempt_count: info.attempt_count,
            connection_termination_details: termination_details(info),
            stream_id: stream_id_of(data),
            intermediate_log_entry: timing.request_complete.is_none()
                && !data.log_type.ends_with("End"),
            downstream_transport_failure_reason: text(
                connection.transport_failure_reason.borrow().as_deref(),
            ),
            downstream_wire_bytes_sent: info.downstream_bytes.wire_sent,
            downstream_wire_bytes_received: info.downstream_bytes.wire_received,
            upstream_wire_bytes_sent: info.upstream_bytes.wire_sent,
            upstream_wire_bytes_received: info.upstream_bytes.wire_received,
            access_log_type: pb::AccessLogType::from_str_name(data.log_type)
                .unwrap_or(pb::AccessLogType::NotSet)
                .into(),
        }
    }

    fn filter_state(&self, info: &StreamInfo) -> std::collections::HashMap<String, wkt::Any> {
        let of_connection = info.connection.filter_state.borrow();
        let of_upstream = info
            .upstream
            .as_ref()
            .map(|upstream| &upstream.filter_state);
        let text = |name: &String| {
            let object = info.filter_state.get(name);
            let object = object.or_else(|| of_connection.get(name));
            let object = object.or_else(|| of_upstream?.get(name))?;
            let value = object.serialize_as_string()?;
            Some((name.clone(), pack(&wkt::StringValue { value })))
        };
        self.filter_state.iter().filter_map(text).collect()
    }

    fn custom_tags(&self, data: &FormatData<'_>) -> std::collections::HashMap<String, String> {
        let tags = self.tags.iter();
        tags.filter_map(|tag| Some((tag.name.clone(), tag.value(data)?)))
            .collect()
    }
}

impl HttpFields {
    pub(super) fn entry(
        &self,
        common: pb::AccessLogCommon,
        data: &FormatData<'_>,
    ) -> pb::HttpAccessLogEntry {
        let version = match data.info.protocol {
            None => HttpVersion::ProtocolUnspecified,
            Some(Protocol::Http10) => HttpVersion::Http10,
            Some(Protocol::Http11) => HttpVersion::Http11,
            Some(Protocol::Http2) => HttpVersion::Http2,
        };
        pb::HttpAccessLogEntry {
            common_properties: Some(common),
            protocol_version: version.into(),
            request: Some(self.request(data)),
            response: Some(self.response(data)),
        }
    }

    fn request(&self, data: &FormatData<'_>) -> pb::HttpRequestProperties {
        let bytes =
            |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let head = data.request;
        let field = |name: Known| bytes(head.and_then(|head| head.fields.get(name)));
        let method = head.and_then(|head| std::str::from_utf8(head.method_bytes()).ok());
        let method = method.and_then(core::RequestMethod::from_str_name);
        pb::HttpRequestProperties {
            request_method: method.unwrap_or_default().into(),
            scheme: bytes(head.and_then(|head| head.scheme())),
            authority: bytes(head.and_then(|head| head.authority())),
            // Part of the authority, as in Envoy.
            port: None,
            path: bytes(head.and_then(|head| head.path())),
            user_agent: field(Known::UserAgent),
            referer: field(Known::Referer),
            forwarded_for: field(Known::ForwardedFor),
            request_id: field(Known::RequestId),
            original_path: field(Known::EnvoyOriginalPath),
            request_headers_bytes: head.map_or(0, request_size),
            request_body_bytes: data.info.bytes_received,
            request_headers: named(&self.request_headers, head.map(|head| &head.fields)),
            upstream_header_bytes_sent: data.info.upstream_bytes.header_sent,
            downstream_header_bytes_received: data.info.downstream_bytes.header_received,
        }
    }

    fn response(&self, data: &FormatData<'_>) -> pb::HttpResponseProperties {
        let info = data.info;
        let head = data.response;
        let code = info.response_code;
        pb::HttpResponseProperties {
            response_code: code.map(|code| wkt::UInt32Value { value: code.into() }),
            response_headers_bytes: head.map_or(0, response_size),
            response_body_bytes: info.bytes_sent,
            response_headers: named(&self.response_headers, head.map(|head| &head.fields)),
            response_trailers: named(&self.response_trailers, data.response_trailers),
            response_code_details: info
                .response_code_details
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            upstream_header_bytes_received: info.upstream_bytes.header_received,
            downstream_header_bytes_sent: info.downstream_bytes.header_sent,
        }
    }
}

/// The values of these fields; several of one field are joined.
fn named(
    names: &[HeaderName],
    fields: Option<&Fields>,
) -> std::collections::HashMap<String, String> {
    let Some(fields) = fields else {
        return Default::default();
    };
    let value = |name: &HeaderName| {
        let values: Vec<_> = fields
            .get_all(name)
            .map(|value| String::from_utf8_lossy(value))
            .collect();
        (!values.is_empty()).then(|| (name.as_str().to_owned(), values.join(",")))
    };
    names.iter().filter_map(value).collect()
}

fn metadata(info: &StreamInfo) -> Option<core::Metadata> {
    let namespaces = info.dynamic_metadata.iter();
    let metadata = core::Metadata {
        filter_metadata: namespaces
            .map(|(name, values)| (name.to_owned(), json_to_struct(values)))
            .collect(),
        ..Default::default()
    };
    (!metadata.filter_metadata.is_empty()).then_some(metadata)
}

fn stream_id_of(data: &FormatData<'_>) -> String {
    let mut out = Vec::new();
    stream_id(data, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn termination_details(info: &StreamInfo) -> String {
    let of_stream = info.connection_termination_details.as_deref();
    match of_stream {
        Some(details) => details.to_owned(),
        None => {
            let of_connection = info.connection.termination_details.borrow();
            of_connection.as_deref().unwrap_or_default().to_owned()
        }
    }
}

fn tls_properties(connection: &ConnectionInfo) -> Option<pb::TlsProperties> {
    let sni = connection.requested_server_name.as_deref();
    let ja3 = connection.tls_fingerprints.ja3.as_deref();
    let tls = connection.tls.get();
    if sni.is_none() && ja3.is_none() && tls.is_none() {
        return None;
    }
    let mut properties = pb::TlsProperties {
        tls_sni_hostname: sni.unwrap_or_default().to_owned(),
        ja3_fingerprint: ja3.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    if let Some(tls) = tls {
        properties.tls_version = tls_version(tls).into();
        properties.tls_cipher_suite = Some(wkt::UInt32Value {
            value: tls.cipher.map_or(0xffff, cipher_suite),
        });
        properties.local_certificate_properties = Some(certificate(tls.local.as_deref()));
        properties.peer_certificate_properties = Some(certificate(tls.peer().map(|peer| &**peer)));
    }
    Some(properties)
}

fn certificate(certificate: Option<&Certificate>) -> CertificateProperties {
    use crate::x509::SubjectAltName as Name;
    let Some(certificate) = certificate else {
        return CertificateProperties::default();
    };
    let uris = certificate.names(Name::as_uri);
    let uris = uris.map(|uri| San::Uri(uri.to_owned()));
    let dns = certificate.names(Name::as_dns);
    let dns = dns.map(|name| San::Dns(name.to_owned()));
    CertificateProperties {
        subject_alt_name: uris
            .chain(dns)
            .map(|san| SubjectAltName { san: Some(san) })
            .collect(),
        subject: certificate.subject.to_string(),
        issuer: certificate.issuer.to_string(),
    }
}

fn tls_version(tls: &TlsConnectionInfo) -> TlsVersion {
    match tls.version {
        Some("TLSv1.3") => TlsVersion::TlSv13,
        Some("TLSv1.2") => TlsVersion::TlSv12,
        _ => TlsVersion::VersionUnspecified,
    }
}

/// The number of a cipher suite: <https://www.iana.org/assignments/tls-parameters/tls-parameters.xhtml>
fn cipher_suite(name: &str) -> u32 {
    match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => 0xffff,
    }
}

fn response_flags(info: &StreamInfo) -> Option<pb::ResponseFlags> {
    use pb::response_flags::{Unauthorized, unauthorized::Reason};
    if info.response_flags.is_empty() {
        return None;
    }
    let mut shown = pb::ResponseFlags::default();
    for flag in info.response_flags.iter() {
        let field = match flag {
            ResponseFlag::FailedLocalHealthCheck => &mut shown.failed_local_healthcheck,
            ResponseFlag::NoHealthyUpstream => &mut shown.no_healthy_upstream,
            ResponseFlag::UpstreamRequestTimeout => &mut shown.upstream_request_timeout,
            ResponseFlag::LocalReset => &mut shown.local_reset,
            ResponseFlag::UpstreamRemoteReset => &mut shown.upstream_remote_reset,
            ResponseFlag::UpstreamConnectionFailure => &mut shown.upstream_connection_failure,
            ResponseFlag::UpstreamConnectionTermination => {
                &mut shown.upstream_connection_termination
            }
            ResponseFlag::UpstreamOverflow => &mut shown.upstream_overflow,
            ResponseFlag::NoRouteFound => &mut shown.no_route_found,
            ResponseFlag::DelayInjected => &mut shown.delay_injected,
            ResponseFlag::FaultInjected => &mut shown.fault_injected,
            ResponseFlag::RateLimited => &mut shown.rate_limited,
            ResponseFlag::UnauthorizedExternalService => {
                shown.unauthorized_details = Some(Unauthorized {
                    reason: Reason::ExternalService.into(),
                });
                continue;
            }
            ResponseFlag::RateLimitServiceError => &mut shown.rate_limit_service_error,
            ResponseFlag::DownstreamConnectionTermination => {
                &mut shown.downstream_connection_termination
            }
            ResponseFlag::UpstreamRetryLimitExceeded => &mut shown.upstream_retry_limit_exceeded,
            ResponseFlag::StreamIdleTimeout => &mut shown.stream_idle_timeout,
            ResponseFlag::InvalidEnvoyRequestHeaders => &mut shown.invalid_envoy_request_headers,
            ResponseFlag::DownstreamProtocolError => &mut shown.downstream_protocol_error,
            ResponseFlag::UpstreamMaxStreamDurationReached => {
                &mut shown.upstream_max_stream_duration_reached
            }
            ResponseFlag::ResponseFromCacheFilter => &mut shown.response_from_cache_filter,
            ResponseFlag::NoFilterConfigFound => &mut shown.no_filter_config_found,
            ResponseFlag::DurationTimeout => &mut shown.duration_timeout,
            ResponseFlag::UpstreamProtocolError => &mut shown.upstream_protocol_error,
            ResponseFlag::NoClusterFound => &mut shown.no_cluster_found,
            ResponseFlag::OverloadManagerTerminated => &mut shown.overload_manager,
            ResponseFlag::DnsResolutionFailed => &mut shown.dns_resolution_failure,
            ResponseFlag::DownstreamRemoteReset => &mut shown.downstream_remote_reset,
            // The message has no field for them.
            ResponseFlag::DropOverload | ResponseFlag::UnconditionalDropOverload => continue,
        };
        *field = true;
    }
    Some(shown)
}

fn duration(moment: Instant, info: &StreamInfo) -> Option<wkt::Duration> {
    let since = moment.checked_duration_since(info.start)?;
    Some(wkt::Duration {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    })
}

fn timestamp(time: SystemTime) -> wkt::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    wkt::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
