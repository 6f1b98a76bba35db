//! `envoy.config.core.v3.CidrRange`: blocks of IP addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use outrigger_proto::pb::xds::core::v3 as xds;

use crate::config::{ConfigPath, Rejected};

/// A block of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrRange {
    address: IpAddr,
    prefix_len: u8,
}

/// Several blocks; an address is in them if it is in one.
#[derive(Debug, Clone, Default)]
pub struct CidrRanges(Box<[CidrRange]>);

impl CidrRange {
    /// Converts a `CidrRange`. A missing length means 0: every address of the family.
    pub fn from_proto(proto: pb::CidrRange, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::CidrRange {
            address_prefix,
            prefix_len,
        } = proto;
        Self::parse(&address_prefix, prefix_len.map_or(0, |len| len.value), path)
    }

    /// Converts an `xds.core.v3.CidrRange`.
    pub fn from_xds(proto: xds::CidrRange, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let xds::CidrRange {
            address_prefix,
            prefix_len,
        } = proto;
        Self::parse(&address_prefix, prefix_len.map_or(0, |len| len.value), path)
    }

    /// The block of `len` leading bits of `address`; the other bits are cleared.
    pub fn new(address: IpAddr, len: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask_v4(len))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(len))),
        };
        Self {
            address,
            prefix_len: len,
        }
    }

    /// Whether `address` is in the block. An IPv4 address is never in a block of IPv6, also not if mapped.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                Self::new(address, self.prefix_len).address == self.address
            }
            _ => false,
        }
    }

    /// The first address of the block.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    fn parse(address: &str, len: u32, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let address: IpAddr = address.parse().map_err(|_| {
            path.field("address_prefix")
                .reject(format!("\"{address}\" is not an IP address"))
        })?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        // Envoy takes a longer prefix for the longest.
        let len = u8::try_from(len).map_or(most, |len| len.min(most));
        Ok(Self::new(address, len))
    }
}

impl CidrRanges {
    /// Converts a list of `CidrRange`, the field `name` of `path`.
    pub fn from_proto(
        name: &str,
        ranges: Vec<pb::CidrRange>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        path.each(name, ranges, CidrRange::from_proto)
            .map(|ranges| Self(ranges.into()))
    }

    /// Converts a list of `xds.core.v3.CidrRange`, the field `name` of `path`.
    pub fn from_xds(
        name: &str,
        ranges: Vec<xds::CidrRange>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        path.each(name, ranges, CidrRange::from_xds)
            .map(|ranges| Self(ranges.into()))
    }

    /// Whether `address` is in one of the blocks.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether there are no blocks.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The `len` highest bits of an IPv4 address.
fn mask_v4(len: u8) -> u32 {
    !u32::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

/// The `len` highest bits of an IPv6 address.
fn mask_v6(len: u8) -> u128 {
    !u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_block_by_its_leading_bits() {
        for (block, len, address, expected) in [
            ("10.1.2.3", 8, "10.200.0.1", true),
            ("10.1.2.3", 8, "11.0.0.1", false),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("0.0.0.0", 0, "255.255.255.255", true),
            ("0.0.0.0", 0, "::1", false),
            ("::", 0, "::1", true),
            ("::", 0, "1.2.3.4", false),
            ("2001:db8::", 33, "2001:db8:7fff::1", true),
            ("2001:db8::", 33, "2001:db8:8000::1", false),
            ("::1", 128, "::1", true),
        ] {
            let range = CidrRange::new(block.parse().unwrap(), len);
            assert_eq!(
                range.contains(address.parse().unwrap()),
                expected,
                "{block}/{len} {address}"
            );
        }
    }
}
