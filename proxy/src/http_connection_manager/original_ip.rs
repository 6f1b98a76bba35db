//! Who really asks: `original_ip_detection_extensions`, and `x-forwarded-for` where there are none.
//!
//! Type URLs: `envoy.extensions.http.original_ip_detection.xff.v3.XffConfig`,
//! `envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig`.
//! Details: `rejecting_because_detection_failed`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use outrigger_proto::pb::envoy::extensions::http::original_ip_detection::xff::v3::{
    XffConfig, XffTrustedCidrs,
};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{Fields, HeaderName, Known};
use crate::matchers::CidrRanges;

/// One way to find out who really asks.
#[derive(Debug)]
pub(super) enum OriginalIpDetection {
    /// The address in `x-forwarded-for` that this many trusted proxies before us saw.
    Hops {
        /// How many.
        hops: u32,
        /// Adds the peer to `x-forwarded-for`.
        append: bool,
    },
    /// The last address in `x-forwarded-for` that is no trusted proxy, if the peer is one.
    TrustedCidrs {
        /// The trusted proxies.
        proxies: CidrRanges,
        /// Adds the peer to `x-forwarded-for`.
        append: bool,
    },
    /// The address in a header.
    CustomHeader {
        /// Which one.
        name: HeaderName,
        /// Whether the address may be that of an internal client.
        trusted: bool,
        /// The answer to a request without an address; none: it goes on.
        reject_with: Option<u16>,
    },
}

/// What one way has found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Detected {
    /// The address.
    pub(super) address: Option<IpAddr>,
    /// Whether it may be that of an internal client.
    pub(super) trusted: bool,
    /// Adds the peer to `x-forwarded-for`.
    pub(super) append: bool,
}

const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
const CUSTOM_HEADER: &str =
    "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig";

impl OriginalIpDetection {
    /// Converts one extension.
    pub(super) fn from_proto(
        proto: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let (config, path) = TypedConfig::of_extension(proto, path)?;
        match &*config.type_name {
            XFF => Self::xff(config.decode(&path)?, &path),
            CUSTOM_HEADER => Self::custom_header(config.decode(&path)?, &path),
            _ => Err(config.unknown(&path, &[XFF, CUSTOM_HEADER])),
        }
    }

    fn xff(proto: XffConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let XffConfig {
            xff_num_trusted_hops,
            xff_trusted_cidrs,
            skip_xff_append,
        } = proto;
        let append = skip_xff_append.is_some_and(|skip| !skip.value);
        let Some(XffTrustedCidrs { cidrs }) = xff_trusted_cidrs else {
            return Ok(Self::Hops {
                hops: xff_num_trusted_hops,
                append,
            });
        };
        if xff_num_trusted_hops > 0 {
            return Err(path
                .field("xff_num_trusted_hops")
                .reject("cannot be set together with xff_trusted_cidrs"));
        }
        let proxies = CidrRanges::from_proto("cidrs", cidrs, &path.field("xff_trusted_cidrs"))?;
        Ok(Self::TrustedCidrs { proxies, append })
    }

    fn custom_header(proto: CustomHeaderConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let CustomHeaderConfig {
            header_name,
            allow_extension_to_set_address_as_trusted,
            reject_with_status,
        } = proto;
        Ok(Self::CustomHeader {
            name: HeaderName::new(path.non_empty("header_name", header_name)?),
            trusted: allow_extension_to_set_address_as_trusted,
            // As Envoy: what is no error becomes 403.
            reject_with: reject_with_status.map(|status| {
                u16::try_from(status.code)
                    .ok()
                    .filter(|code| (400..511).contains(code))
                    .unwrap_or(403)
            }),
        })
    }

    /// Looks at a request from `peer`. An error is the status to answer it with.
    pub(super) fn detect(&self, fields: &Fields, peer: Option<IpAddr>) -> Result<Detected, u16> {
        match self {
            Self::Hops { hops, append } => {
                let xff = fields.get(Known::ForwardedFor);
                let found = xff.and_then(|xff| address_from_xff(xff, *hops));
                Ok(Detected {
                    address: found.map(|(address, _)| address),
                    trusted: found.is_some_and(|(_, alone)| alone),
                    append: *append,
                })
            }
            Self::TrustedCidrs { proxies, append } => {
                // As in Envoy, a peer that is none of them is added in any case.
                let peer_is_proxy = peer.is_some_and(|peer| proxies.contains(peer));
                let append = *append || !peer_is_proxy;
                let xff = fields.get(Known::ForwardedFor).filter(|_| peer_is_proxy);
                let found = xff.and_then(|xff| last_untrusted(xff, proxies));
                Ok(Detected {
                    address: found.map(|(address, _)| address),
                    trusted: found.is_some_and(|(_, alone)| alone),
                    append,
                })
            }
            Self::CustomHeader {
                name,
                trusted,
                reject_with,
            } => {
                let address = fields.get_str(name).and_then(|text| text.parse().ok());
                match (address, reject_with) {
                    (None, Some(status)) => Err(*status),
                    (address, _) => Ok(Detected {
                        address,
                        trusted: *trusted,
                        append: false,
                    }),
                }
            }
        }
    }
}

/// The address that `hops` trusted proxies before us saw, and whether the header holds nothing else.
pub(super) fn address_from_xff(xff: &[u8], hops: u32) -> Option<(IpAddr, bool)> {
    let xff = std::str::from_utf8(xff).ok()?;
    let entry = xff.rsplit(',').nth(usize::try_from(hops).ok()?)?.trim();
    let address = parse_xff_address(entry)?;
    Some((address, !xff.contains(',')))
}

/// The last address that is no trusted proxy, or the first of all; and whether the header holds nothing else.
fn last_untrusted(xff: &[u8], proxies: &CidrRanges) -> Option<(IpAddr, bool)> {
    let xff = std::str::from_utf8(xff).ok()?;
    let alone = !xff.contains(',');
    let mut first = None;
    for entry in xff.rsplit(',') {
        let address = entry.trim().parse().ok()?;
        first = Some(address);
        if !proxies.contains(address) {
            break;
        }
    }
    first.map(|address| (address, alone))
}

fn parse_xff_address(entry: &str) -> Option<IpAddr> {
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(ip);
    }
    if let Some(v6) = entry.strip_prefix('[') {
        return v6
            .split(']')
            .next()?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6);
    }
    entry
        .split_once(':')
        .and_then(|(ip, port)| port.parse::<u16>().ok().and(ip.parse::<Ipv4Addr>().ok()))
        .map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::CidrRange;

    #[test]
    fn trusted_hops_count_from_the_right() {
        let xff = b"1.1.1.1, 2.2.2.2,[::1]:80";
        for (hops, expected) in [
            (0, Some("::1")),
            (1, Some("2.2.2.2")),
            (2, Some("1.1.1.1")),
            (3, None),
        ] {
            assert_eq!(
                address_from_xff(xff, hops)
                    .map(|(ip, _)| ip.to_string())
                    .as_deref(),
                expected
            );
        }
        assert_eq!(
            address_from_xff(b"10.0.0.1:1234", 0),
            Some(("10.0.0.1".parse().unwrap(), true))
        );
        assert_eq!(address_from_xff(b"nonsense", 0), None);
    }

    #[test]
    fn trusted_proxies_are_passed_over_from_the_right() {
        let range = |text: &str| CidrRange::new(text.parse().unwrap(), 8).unwrap();
        let proxies = CidrRanges::of([range("127.0.0.0"), range("2.0.0.0")]);
        let detection = OriginalIpDetection::TrustedCidrs {
            proxies,
            append: true,
        };
        let detect = |xff: &str, peer: &str| {
            let mut fields = Fields::new();
            fields.append(Known::ForwardedFor, xff);
            let found = detection.detect(&fields, peer.parse().ok()).unwrap();
            found
                .address
                .map(|address| (address.to_string(), found.trusted))
        };
        let some = |text: &str, trusted| Some((text.to_owned(), trusted));
        let peer = "127.0.0.1";
        assert_eq!(detect("1.1.1.1, 2.2.2.2", peer), some("1.1.1.1", false));
        assert_eq!(detect("2.1.1.1, 2.2.2.2", peer), some("2.1.1.1", false));
        assert_eq!(detect("1.1.1.1", peer), some("1.1.1.1", true));
        assert_eq!(detect("zz, 2.1.1.1", peer), None);
        assert_eq!(detect("1.1.1.1", "9.9.9.9"), None);
    }

    #[test]
    fn a_custom_header_without_an_address_may_refuse_the_request() {
        let mut fields = Fields::new();
        fields.append("x-ip", "9.9.9.9:80");
        let detection = |reject_with| OriginalIpDetection::CustomHeader {
            name: HeaderName::new("x-ip"),
            trusted: true,
            reject_with,
        };
        assert_eq!(detection(Some(401)).detect(&fields, None), Err(401));
        assert_eq!(detection(None).detect(&fields, None).unwrap().address, None);
        fields.set("x-ip", "::1");
        let found = detection(Some(401)).detect(&fields, None).unwrap();
        assert_eq!((found.address, found.trusted), ("::1".parse().ok(), true));
    }
}
