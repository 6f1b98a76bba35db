//! Ranges of IP addresses, and tables that find the most specific range.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use outrigger_proto::pb::xds::core::v3 as xds;

use crate::config::{ConfigPath, Rejected};

/// A range of addresses: a prefix and how many of its bits count. The bits after them are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrRange {
    address: IpAddr,
    length: u8,
}

impl CidrRange {
    /// The range of the first `length` bits of `address`; none if the address has fewer bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        if length > bits(address) {
            return None;
        }
        Some(Self {
            address: mask(address, length),
            length,
        })
    }

    /// Converts a `CidrRange`. As in Envoy, a length beyond that of the address means the whole address.
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

    fn parse(prefix: &str, length: u32, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let address: IpAddr = prefix.parse().map_err(|_| {
            path.field("address_prefix")
                .reject(format!("\"{prefix}\" is not an IP address"))
        })?;
        let length = u8::try_from(length.min(u32::from(bits(address)))).unwrap_or(u8::MAX);
        Self::new(address, length).ok_or_else(|| {
            path.field("prefix_len")
                .reject("is longer than the address")
        })
    }

    /// The first address of the range.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether `address` lies within. IPv4 and IPv6 never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && mask(address, self.length) == self.address
    }
}

/// Values by range; a look-up gives that of the longest prefix. One hash look-up per prefix length in use.
#[derive(Debug)]
pub struct CidrTable<T> {
    v4: Vec<(u8, HashMap<IpAddr, T>)>,
    v6: Vec<(u8, HashMap<IpAddr, T>)>,
    /// For what no range holds, and for addresses that are no IP addresses.
    rest: Option<T>,
}

impl<T> Default for CidrTable<T> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            rest: None,
        }
    }
}

impl<T> CidrTable<T> {
    /// The value of exactly this range (none: of every address), made when it is not there.
    pub fn entry(&mut self, range: Option<CidrRange>, make: impl FnOnce() -> T) -> &mut T {
        let Some(range) = range else {
            return self.rest.get_or_insert_with(make);
        };
        let lengths = if range.address.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        let at = match lengths.binary_search_by(|(length, _)| range.length.cmp(length)) {
            Ok(at) => at,
            Err(at) => {
                lengths.insert(at, (range.length, HashMap::new()));
                at
            }
        };
        lengths[at].1.entry(range.address).or_insert_with(make)
    }

    /// The value of the most specific range that holds `address`.
    pub fn find(&self, address: Option<IpAddr>) -> Option<&T> {
        let lengths = match address {
            None => return self.rest.as_ref(),
            Some(IpAddr::V4(_)) => &self.v4,
            Some(IpAddr::V6(_)) => &self.v6,
        };
        address
            .and_then(|address| {
                lengths
                    .iter()
                    .find_map(|(length, values)| values.get(&mask(address, *length)))
            })
            .or(self.rest.as_ref())
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let kept = u32::MAX
                .checked_shl(32 - u32::from(length.min(32)))
                .unwrap_or(0);
            IpAddr::V4((u32::from(address) & kept).into())
        }
        IpAddr::V6(address) => {
            let kept = u128::MAX
                .checked_shl(128 - u32::from(length.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & kept))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> CidrRange {
        let (address, length) = text.split_once('/').unwrap();
        CidrRange::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_the_rest_takes_what_remains() {
        let mut table = CidrTable::default();
        table.entry(Some(range("10.0.0.0/8")), || "ten");
        table.entry(Some(range("10.1.2.3/24")), || "net");
        table.entry(Some(range("::1/128")), || "six");
        let find = |table: &CidrTable<&'static str>, ip: &str| {
            table.find(Some(ip.parse().unwrap())).copied()
        };
        assert_eq!(find(&table, "10.1.2.99"), Some("net"));
        assert_eq!(find(&table, "10.1.3.1"), Some("ten"));
        assert_eq!(find(&table, "11.0.0.1"), None);
        assert_eq!(find(&table, "::1"), Some("six"));
        table.entry(None, || "rest");
        assert_eq!(find(&table, "11.0.0.1"), Some("rest"));
        assert_eq!(table.find(None), Some(&"rest"));
    }

    #[test]
    fn a_range_of_no_bits_holds_every_address_of_its_family() {
        assert!(range("0.0.0.0/0").contains("255.1.2.3".parse().unwrap()));
        assert!(!range("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(CidrRange::new("1.2.3.4".parse().unwrap(), 33).is_none());
    }

    #[test]
    fn an_address_is_in_a_range_by_its_leading_bits() {
        for (block, address, expected) in [
            ("10.1.2.3/8", "10.200.0.1", true),
            ("10.1.2.3/8", "11.0.0.1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ] {
            let holds = range(block).contains(address.parse().unwrap());
            assert_eq!(holds, expected, "{block} {address}");
        }
    }
}
