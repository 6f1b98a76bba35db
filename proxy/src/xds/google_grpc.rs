//! `google_grpc` of a bootstrap: the same as `envoy_grpc` with a cluster that has the target for its only host.
//!
//! `ssl_credentials` are those of a TLS context that asks the target for a certificate of its own name or address.
//!
//! Deviations: other credentials and settings of the gRPC library are refused; the cluster that stands for the target is to be seen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
use outrigger_proto::pb::envoy::config::core::v3 as pb;
use outrigger_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrigger_proto::pb::envoy::extensions::upstreams::http::v3 as http;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher;
use pb::config_source::ConfigSourceSpecifier;
use pb::grpc_service::google_grpc::channel_credentials::CredentialSpecifier;
use pb::grpc_service::google_grpc::{ChannelCredentials, SslCredentials};
use pb::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
use prost::Message;

use crate::config::{ConfigPath, Rejected};
use crate::xx_hash::xx_hash64;

/// The options of a cluster that say that it speaks HTTP/2.
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Of targets that name none.
const PORT: u32 = 443;

/// A cluster for each target that the dynamic resources of a bootstrap name.
pub fn clusters(bootstrap: &Bootstrap) -> Vec<Cluster> {
    let Some(dynamic) = &bootstrap.dynamic_resources else {
        return Vec::new();
    };
    let sources = [&dynamic.cds_config, &dynamic.lds_config];
    let sources = sources.into_iter().flatten();
    let of_source = |source: &pb::ConfigSource| match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => api.grpc_services.clone(),
        _ => Vec::new(),
    };
    let ads = dynamic.ads_config.iter();
    let services = ads.flat_map(|api| api.grpc_services.clone());
    let services = services.chain(sources.flat_map(of_source));
    let targets = services.filter_map(|service| match service.target_specifier {
        Some(TargetSpecifier::GoogleGrpc(google)) => {
            let ssl = ssl_credentials(google.channel_credentials.as_ref()).cloned();
            Some((google.target_uri, ssl))
        }
        _ => None,
    });
    let clusters = targets.filter_map(|(target, ssl)| {
        let name = cluster_name(&target, ssl.as_ref());
        Some((name.clone(), cluster(name, parse(&target)?, ssl)))
    });
    let clusters: BTreeMap<String, Cluster> = clusters.collect();
    clusters.into_values().collect()
}

/// The cluster that stands for a target, one for each set of credentials.
fn cluster_name(target: &str, ssl: Option<&SslCredentials>) -> String {
    match ssl {
        None => format!("google_grpc.{target}"),
        Some(ssl) => {
            let credentials = xx_hash64(&ssl.encode_to_vec(), 0);
            format!("google_grpc.{target}.{credentials:016x}")
        }
    }
}

fn ssl_credentials(credentials: Option<&ChannelCredentials>) -> Option<&SslCredentials> {
    match credentials?.credential_specifier.as_ref()? {
        CredentialSpecifier::SslCredentials(ssl) => Some(ssl),
        _ => None,
    }
}

/// The same service by way of the cluster that stands for its target.
pub(super) fn as_envoy_grpc(
    proto: pb::GrpcService,
    path: &ConfigPath<'_>,
) -> Result<pb::GrpcService, Rejected> {
    let target_specifier = match proto.target_specifier {
        Some(TargetSpecifier::GoogleGrpc(google)) => {
            let (cluster_name, authority) = target(google, &path.field("google_grpc"))?;
            Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name,
                authority,
                ..EnvoyGrpc::default()
            }))
        }
        other => other,
    };
    Ok(pb::GrpcService {
        target_specifier,
        ..proto
    })
}

/// Gives the name of the cluster that stands for a target, and `:authority`.
fn target(proto: GoogleGrpc, path: &ConfigPath<'_>) -> Result<(String, String), Rejected> {
    let GoogleGrpc {
        target_uri,
        channel_credentials,
        channel_credentials_plugin,
        call_credentials,
        call_credentials_plugin,
        // Harmless: stats of the gRPC library.
        stat_prefix: _,
        credentials_factory_name,
        config,
        // Harmless: requests of xDS are small, and their number has a limit.
        per_stream_buffer_limit_bytes: _,
        channel_args,
    } = proto;
    let ssl = ssl_credentials(channel_credentials.as_ref()).cloned();
    let others = channel_credentials.filter(|_| ssl.is_none());
    let refused = [
        path.unsupported_if_set("channel_credentials", others),
        path.unsupported_if_set("channel_credentials_plugin", channel_credentials_plugin),
        path.unsupported_if_set("call_credentials", call_credentials),
        path.unsupported_if_set("call_credentials_plugin", call_credentials_plugin),
        path.unsupported_if_set("credentials_factory_name", credentials_factory_name),
        path.unsupported_if_set("config", config),
        path.unsupported_if_set("channel_args", channel_args),
    ];
    let target = path.non_empty("target_uri", target_uri)?;
    let Some(place) = parse(&target) else {
        return Err(path.field("target_uri").reject(format!(
            "\"{target}\" is not supported; legal are [dns:[///]]HOST[:PORT], ipv4:ADDRESS:PORT, ipv6:[ADDRESS]:PORT and unix:PATH"
        )));
    };
    refused.into_iter().collect::<Result<Vec<()>, _>>()?;
    let authority = match place {
        Place::Pipe(_) => "localhost".to_owned(),
        Place::Host(_, _) => without_scheme(&target).to_owned(),
    };
    Ok((cluster_name(&target, ssl.as_ref()), authority))
}

/// Where a target is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Host(String, u32),
    Pipe(String),
}

const SCHEMES: [&str; 5] = ["dns:///", "dns:", "ipv4:", "ipv6:", "passthrough:///"];

fn without_scheme(target: &str) -> &str {
    let rest = SCHEMES
        .iter()
        .find_map(|scheme| target.strip_prefix(scheme));
    rest.unwrap_or(target)
}

fn parse(target: &str) -> Option<Place> {
    if let Some(path) = target.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return (!path.is_empty()).then(|| Place::Pipe(path.to_owned()));
    }
    let rest = without_scheme(target);
    if let Ok(address) = rest.parse::<IpAddr>() {
        return Some(Place::Host(address.to_string(), PORT));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, u32::from(port.parse::<u16>().ok()?)),
        None => (rest, PORT),
    };
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains([':', '/', ',']) => return None,
        None => host,
    };
    (!host.is_empty()).then(|| Place::Host(host.to_owned(), port))
}

fn cluster(name: String, place: Place, ssl: Option<SslCredentials>) -> Cluster {
    let transport_socket = ssl.map(|ssl| pb::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(pb::transport_socket::ConfigType::TypedConfig(pack(
            &tls_context(ssl, &place),
        ))),
    });
    let (kind, address) = match place {
        Place::Pipe(path) => (
            cluster::DiscoveryType::Static,
            pb::address::Address::Pipe(pb::Pipe { path, mode: 0 }),
        ),
        Place::Host(host, port) => (
            match host.parse::<IpAddr>() {
                Ok(_) => cluster::DiscoveryType::Static,
                Err(_) => cluster::DiscoveryType::StrictDns,
            },
            pb::address::Address::SocketAddress(pb::SocketAddress {
                address: host,
                port_specifier: Some(pb::socket_address::PortSpecifier::PortValue(port)),
                ..Default::default()
            }),
        ),
    };
    let address = pb::Address {
        address: Some(address),
    };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(address),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let hosts = endpoint::LocalityLbEndpoints {
        lb_endpoints: vec![host],
        ..Default::default()
    };
    Cluster {
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![hosts],
            ..Default::default()
        }),
        name,
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind.into())),
        transport_socket,
        typed_extension_protocol_options: [(OPTIONS.to_owned(), pack(&http2()))].into(),
        ..Default::default()
    }
}

/// What `ssl_credentials` mean: without `root_certs` those of the system are trusted, and the certificate must be that of the target.
fn tls_context(ssl: SslCredentials, place: &Place) -> tls::UpstreamTlsContext {
    use tls::common_tls_context::ValidationContextType;
    use tls::subject_alt_name_matcher::SanType;
    let SslCredentials {
        root_certs,
        private_key,
        cert_chain,
    } = ssl;
    let (name, san_type) = match place {
        Place::Pipe(_) => ("localhost", SanType::Dns),
        Place::Host(host, _) if host.parse::<IpAddr>().is_ok() => (&**host, SanType::IpAddress),
        Place::Host(host, _) => (&**host, SanType::Dns),
    };
    let of_target = tls::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
                name.to_owned(),
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    let validation = tls::CertificateValidationContext {
        system_root_certs: root_certs.is_none().then(Default::default),
        trusted_ca: root_certs,
        match_typed_subject_alt_names: vec![of_target],
        ..Default::default()
    };
    let has_own = private_key.is_some() || cert_chain.is_some();
    let own = has_own.then(|| tls::TlsCertificate {
        private_key,
        certificate_chain: cert_chain,
        ..Default::default()
    });
    tls::UpstreamTlsContext {
        sni: match san_type {
            SanType::Dns => name.to_owned(),
            _ => String::new(),
        },
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: vec!["h2".to_owned()],
            tls_certificates: own.into_iter().collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn http2() -> http::HttpProtocolOptions {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())),
            },
        )),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: &str, port: u32) -> Option<Place> {
        Some(Place::Host(host.to_owned(), port))
    }

    #[test]
    fn targets_are_read_as_the_library_reads_them() {
        assert_eq!(parse("127.0.0.1:18000"), host("127.0.0.1", 18000));
        assert_eq!(parse("dns:///plane.example:80"), host("plane.example", 80));
        assert_eq!(parse("dns:plane.example"), host("plane.example", 443));
        assert_eq!(parse("ipv6:[::1]:80"), host("::1", 80));
        assert_eq!(parse("::1"), host("::1", 443));
        let pipe = Some(Place::Pipe("/run/plane".to_owned()));
        assert_eq!(parse("unix:///run/plane"), pipe);
        assert_eq!(parse("unix:/run/plane"), pipe);
    }

    #[test]
    fn each_set_of_credentials_has_a_cluster_of_its_own() {
        let ssl = |root: &str| SslCredentials {
            root_certs: Some(pb::DataSource {
                specifier: Some(pb::data_source::Specifier::InlineString(root.to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        };
        let plain = cluster_name("a:1", None);
        let [first, second] = ["x", "y"].map(|root| cluster_name("a:1", Some(&ssl(root))));
        assert!(plain != first && first != second);
        assert_eq!(first, cluster_name("a:1", Some(&ssl("x"))));
    }

    #[test]
    fn the_certificate_must_be_that_of_the_target() {
        let context = |target: &str| {
            let context = tls_context(SslCredentials::default(), &parse(target).unwrap());
            let common = context.common_tls_context.unwrap();
            let Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)) =
                common.validation_context_type
            else {
                panic!("no validation")
            };
            assert!(validation.system_root_certs.is_some());
            let names = validation.match_typed_subject_alt_names;
            (context.sni, names[0].san_type())
        };
        use tls::subject_alt_name_matcher::SanType;
        assert_eq!(
            context("plane.example:1"),
            ("plane.example".into(), SanType::Dns)
        );
        assert_eq!(context("127.0.0.1:1"), (String::new(), SanType::IpAddress));
    }

    #[test]
    fn targets_of_other_schemes_are_none() {
        for target in [
            "",
            "xds:///a",
            "ipv4:1.1.1.1:1,2.2.2.2:2",
            "a:b",
            "dns://ns/a:1",
            "[::1",
        ] {
            assert_eq!(parse(target), None, "{target}");
        }
    }
}
