//! Helpers that turn one protobuf field into one Rust value, or report why not.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_proto::pb::envoy::r#type::v3::{
    FractionalPercent, Percent, fractional_percent::DenominatorType,
};
use outrigger_proto::pb::google::protobuf as wkt;

use super::{ConfigPath, Rejected};

/// A time as dumps show it.
pub fn timestamp(time: SystemTime) -> wkt::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    wkt::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

impl<'a> ConfigPath<'a> {
    /// Converts every entry of the repeated field `name`; entries that fail do not hide those after them.
    pub fn each<P, T>(
        &self,
        name: &str,
        items: impl IntoIterator<Item = P>,
        mut convert: impl FnMut(P, &ConfigPath<'_>) -> Result<T, Rejected>,
    ) -> Result<Vec<T>, Rejected> {
        let mut failed = None;
        let mut out = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match convert(item, &self.index(name, index)) {
                Ok(value) => out.push(value),
                Err(rejected) => failed = Some(rejected),
            }
        }
        failed.map_or(Ok(out), Err)
    }

    /// Converts the field `name` when it is set.
    pub fn optional<P, T>(
        &self,
        name: &str,
        value: Option<P>,
        convert: impl FnOnce(P, &ConfigPath<'_>) -> Result<T, Rejected>,
    ) -> Result<Option<T>, Rejected> {
        value
            .map(|value| convert(value, &self.field(name)))
            .transpose()
    }

    /// The value of a message field that must be set.
    pub fn required<P>(&self, name: &str, value: Option<P>) -> Result<P, Rejected> {
        value.ok_or_else(|| self.field(name).reject("is required"))
    }

    /// A string that must not be empty.
    pub fn non_empty(&self, name: &str, value: String) -> Result<String, Rejected> {
        if value.is_empty() {
            Err(self.field(name).reject("must not be empty"))
        } else {
            Ok(value)
        }
    }

    /// A number that must lie in `range`.
    pub fn in_range<T: PartialOrd + Display + Debug>(
        &self,
        name: &str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<T, Rejected> {
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(self
                .field(name)
                .reject(format!("{value} is not in {range:?}")))
        }
    }

    /// Refuses a field that is implemented nowhere yet: set, it would change a decision that we could not take.
    /// A default value passes, since control planes set many fields to their defaults.
    pub fn unsupported_if_set<T: Unset>(&self, name: &str, value: T) -> Result<(), Rejected> {
        if value.is_unset() {
            Ok(())
        } else {
            Err(self.field(name).reject("is not supported"))
        }
    }

    /// A `google.protobuf.Duration` that must not be negative.
    pub fn duration(
        &self,
        name: &str,
        value: Option<wkt::Duration>,
    ) -> Result<Option<Duration>, Rejected> {
        let Some(value) = value else { return Ok(None) };
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(value.seconds), u32::try_from(value.nanos))
        else {
            return Err(self.field(name).reject(format!(
                "{}.{:09}s is negative",
                value.seconds,
                value.nanos.unsigned_abs()
            )));
        };
        if seconds > MAX_SECONDS || nanos > 999_999_999 {
            return Err(self.field(name).reject(format!(
                "{seconds}s is out of range: a duration has at most {MAX_SECONDS}s"
            )));
        }
        Ok(Some(Duration::new(seconds, nanos)))
    }

    /// A duration that must be longer than zero when set.
    pub fn positive_duration(
        &self,
        name: &str,
        value: Option<wkt::Duration>,
    ) -> Result<Option<Duration>, Rejected> {
        match self.duration(name, value)? {
            Some(Duration::ZERO) => Err(self.field(name).reject("must be longer than 0s")),
            other => Ok(other),
        }
    }

    /// A percentage from 0 to 100, as a fraction of 1.
    pub fn percent(&self, name: &str, value: Option<Percent>) -> Result<Option<f64>, Rejected> {
        match value {
            Some(Percent { value }) if !(0.0..=100.0).contains(&value) => Err(self
                .field(name)
                .reject(format!("{value} is not in 0..=100"))),
            other => Ok(other.map(|p| p.value / 100.0)),
        }
    }

    /// The variant of an enum field, or an error that shows the number found.
    pub fn enumeration<E: TryFrom<i32>>(&self, name: &str, value: i32) -> Result<E, Rejected> {
        E::try_from(value).map_err(|_| {
            self.field(name)
                .reject(format!("{value} is not a value of this enum"))
        })
    }
}

/// Envoy counts nanoseconds in 64 bits.
const MAX_SECONDS: u64 = 9_223_372_035;

/// A share of all events, as Envoy's `FractionalPercent` counts it: `numerator` of 100, 10,000 or 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// How many of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Everything.
    pub const ALWAYS: Self = Self {
        numerator: 100,
        denominator: 100,
    };
    /// Nothing.
    pub const NEVER: Self = Self {
        numerator: 0,
        denominator: 100,
    };

    /// Converts a `FractionalPercent`.
    pub fn from_proto(proto: FractionalPercent, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let FractionalPercent {
            numerator,
            denominator,
        } = proto;
        let denominator = match path.enumeration("denominator", denominator)? {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Ok(Self {
            numerator,
            denominator,
        })
    }

    /// Whether an event that drew `random` is among the share.
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// Whether a protobuf field holds what it holds when nobody sets it.
pub trait Unset {
    /// True for the default value.
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}
impl<T> Unset for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}
impl<K, V> Unset for std::collections::HashMap<K, V> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for String {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for bool {
    fn is_unset(&self) -> bool {
        !self
    }
}
macro_rules! unset_numbers { ($($t:ty),*) => { $(impl Unset for $t { fn is_unset(&self) -> bool { *self == <$t>::default() } })* } }
unset_numbers!(u32, u64, i32, i64, f32, f64);
