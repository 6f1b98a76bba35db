//! Lists of blocks of IP addresses, of which one has to hold an address.

use std::net::IpAddr;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use outrigger_proto::pb::xds::core::v3 as xds;

use crate::config::{ConfigPath, Rejected};
use crate::net::CidrRange;

/// Several blocks; an address is in them if it is in one.
#[derive(Debug, Clone, Default)]
pub struct CidrRanges(Box<[CidrRange]>);

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

    /// These blocks, for tests.
    #[cfg(test)]
    pub(crate) fn of(ranges: impl IntoIterator<Item = CidrRange>) -> Self {
        Self(ranges.into_iter().collect())
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
