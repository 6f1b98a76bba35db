//! The configuration of ring hash and Maglev, old and typed.

use outrigger_proto::pb::envoy::config::cluster::v3::cluster as legacy;
use outrigger_proto::pb::envoy::extensions::load_balancing_policies as policies;
use outrigger_proto::pb::google::protobuf::{UInt32Value, UInt64Value};
use policies::common::v3 as common;
use policies::maglev::v3::Maglev;
use policies::ring_hash::v3::{RingHash, ring_hash};

use super::config::Policy;
use super::hashing::{HashSettings, TableSettings};
use super::ring_hash::HashFunction;
use crate::config::{ConfigPath, Rejected};

/// What ring hash and Maglev have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Consistent {
    use_hostname: bool,
    /// 0: none.
    balance_factor: u32,
}

const MOST_PLACES: u64 = 8 * 1024 * 1024;
const LARGEST_TABLE: u64 = 5_000_011;

impl Consistent {
    pub(super) fn from_legacy(
        proto: Option<legacy::common_lb_config::ConsistentHashingLbConfig>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let legacy::common_lb_config::ConsistentHashingLbConfig {
            use_hostname_for_hashing,
            hash_balance_factor,
        } = proto.unwrap_or_default();
        Ok(Self {
            use_hostname: use_hostname_for_hashing,
            balance_factor: balance_factor(hash_balance_factor, path)?,
        })
    }

    fn from_proto(
        proto: common::ConsistentHashingLbConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let common::ConsistentHashingLbConfig {
            use_hostname_for_hashing,
            hash_balance_factor,
            hash_policy,
        } = proto;
        let own = path.unsupported_if_set("hash_policy", hash_policy);
        let balance_factor = balance_factor(hash_balance_factor, path);
        own?;
        Ok(Self {
            use_hostname: use_hostname_for_hashing,
            balance_factor: balance_factor?,
        })
    }

    fn policy(self, table: TableSettings) -> Policy {
        Policy::Hash(Box::new(HashSettings {
            table,
            use_hostname_for_hashing: self.use_hostname,
            hash_balance_factor: self.balance_factor,
        }))
    }
}

fn balance_factor(value: Option<UInt32Value>, path: &ConfigPath<'_>) -> Result<u32, Rejected> {
    match value {
        None => Ok(0),
        Some(UInt32Value { value }) => path.in_range("hash_balance_factor", value, 100..=u32::MAX),
    }
}

pub(super) fn legacy_ring_hash(
    proto: legacy::RingHashLbConfig,
    consistent: Consistent,
    path: &ConfigPath<'_>,
) -> Result<Policy, Rejected> {
    use legacy::ring_hash_lb_config::HashFunction as Function;
    let legacy::RingHashLbConfig {
        minimum_ring_size,
        hash_function,
        maximum_ring_size,
    } = proto;
    let function = match path.enumeration("hash_function", hash_function)? {
        Function::XxHash => HashFunction::XxHash,
        Function::MurmurHash2 => HashFunction::MurmurHash2,
    };
    let table = ring(minimum_ring_size, maximum_ring_size, function, path)?;
    Ok(consistent.policy(table))
}

pub(super) fn legacy_maglev(
    proto: legacy::MaglevLbConfig,
    consistent: Consistent,
    path: &ConfigPath<'_>,
) -> Result<Policy, Rejected> {
    let legacy::MaglevLbConfig { table_size } = proto;
    Ok(consistent.policy(maglev_table(table_size, path)?))
}

/// `locality_weighted_lb_config` is the caller's.
pub(super) fn ring_hash(proto: RingHash, path: &ConfigPath<'_>) -> Result<Policy, Rejected> {
    #[allow(
        deprecated,
        reason = "the deprecated fields are decided like every other"
    )]
    let RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config: _,
    } = proto;
    let function = match path.enumeration("hash_function", hash_function)? {
        ring_hash::HashFunction::DefaultHash | ring_hash::HashFunction::XxHash => {
            HashFunction::XxHash
        }
        ring_hash::HashFunction::MurmurHash2 => HashFunction::MurmurHash2,
    };
    let table = ring(minimum_ring_size, maximum_ring_size, function, path);
    let old = Consistent {
        use_hostname: use_hostname_for_hashing,
        balance_factor: balance_factor(hash_balance_factor, path)?,
    };
    let consistent = path.optional(
        "consistent_hashing_lb_config",
        consistent_hashing_lb_config,
        Consistent::from_proto,
    );
    Ok(consistent?.unwrap_or(old).policy(table?))
}

/// `locality_weighted_lb_config` is the caller's.
pub(super) fn maglev(proto: Maglev, path: &ConfigPath<'_>) -> Result<Policy, Rejected> {
    let Maglev {
        table_size,
        consistent_hashing_lb_config,
        locality_weighted_lb_config: _,
    } = proto;
    let table = maglev_table(table_size, path);
    let consistent = path.optional(
        "consistent_hashing_lb_config",
        consistent_hashing_lb_config,
        Consistent::from_proto,
    );
    Ok(consistent?.unwrap_or_default().policy(table?))
}

fn ring(
    minimum: Option<UInt64Value>,
    maximum: Option<UInt64Value>,
    hash_function: HashFunction,
    path: &ConfigPath<'_>,
) -> Result<TableSettings, Rejected> {
    let minimum = minimum.map_or(1024, |v| v.value);
    let maximum = maximum.map_or(MOST_PLACES, |v| v.value);
    let least = path.in_range("minimum_ring_size", minimum, 1..=MOST_PLACES);
    let most = path.in_range("maximum_ring_size", maximum, 1..=MOST_PLACES);
    let (minimum_ring_size, maximum_ring_size) = (least?, most?);
    if minimum > maximum {
        return Err(path.field("minimum_ring_size").reject(format!(
            "{minimum} is more than maximum_ring_size, {maximum}"
        )));
    }
    Ok(TableSettings::RingHash {
        minimum_ring_size,
        maximum_ring_size,
        hash_function,
    })
}

fn maglev_table(
    size: Option<UInt64Value>,
    path: &ConfigPath<'_>,
) -> Result<TableSettings, Rejected> {
    let size = size.map_or(65537, |v| v.value);
    let table_size = path.in_range("table_size", size, 2..=LARGEST_TABLE)?;
    let is_prime = (2..)
        .take_while(|n| n * n <= size)
        .all(|n| !size.is_multiple_of(n));
    if !is_prime {
        return Err(path
            .field("table_size")
            .reject(format!("{size} is not a prime number")));
    }
    Ok(TableSettings::Maglev { table_size })
}
