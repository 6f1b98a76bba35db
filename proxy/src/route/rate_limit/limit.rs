//! What a rule says beside its actions: a limit that requests bring along, and how many hits they count for.

use outrigger_proto::pb::envoy::config::route::v3::rate_limit as pb;
use outrigger_proto::pb::envoy::r#type::v3::RateLimitUnit;

use super::render;
use crate::config::{ConfigPath, Rejected};
use crate::formatter::Formatter;
use crate::http::RequestHead;
use crate::matchers::MetadataPath;
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;

#[derive(Debug)]
pub(super) enum LimitOverride {
    Metadata(MetadataPath),
    Fixed(u32, RateLimitUnit),
}

#[derive(Debug)]
pub(super) struct HitsAddend {
    amount: Amount,
    pub(super) negative: bool,
}

#[derive(Debug)]
enum Amount {
    Number(u64),
    Format(Formatter),
}

const MOST_HITS: u64 = 1_000_000_000;

impl LimitOverride {
    pub(super) fn from_proto(proto: pb::Override, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use pb::r#override::OverrideSpecifier;
        let pb::Override { override_specifier } = proto;
        match override_specifier {
            None => Err(path.reject("needs one of dynamic_metadata, rate_limit")),
            Some(OverrideSpecifier::DynamicMetadata(proto)) => {
                let path = path.field("dynamic_metadata");
                let key = path.required("metadata_key", proto.metadata_key)?;
                MetadataPath::from_proto(key, &path.field("metadata_key")).map(Self::Metadata)
            }
            Some(OverrideSpecifier::RateLimit(proto)) => {
                let unit = path.field("rate_limit").enumeration("unit", proto.unit)?;
                Ok(Self::Fixed(proto.requests_per_unit, unit))
            }
        }
    }

    pub(super) fn get(&self, info: &StreamInfo) -> Option<(u32, RateLimitUnit)> {
        let path = match self {
            Self::Fixed(requests, unit) => return Some((*requests, *unit)),
            Self::Metadata(path) => path,
        };
        let value = path.find(&info.dynamic_metadata)?;
        let requests = u32::try_from(value.get("requests_per_unit")?.as_u64()?).ok()?;
        let unit = RateLimitUnit::from_str_name(value.get("unit")?.as_str()?)?;
        Some((requests, unit))
    }
}

impl HitsAddend {
    pub(super) fn from_proto(
        proto: pb::HitsAddend,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HitsAddend {
            number,
            format,
            is_negative_hits,
        } = proto;
        let amount = match (number, format.is_empty()) {
            (Some(number), true) => path
                .in_range("number", number.value, 0..=MOST_HITS)
                .map(Amount::Number),
            (None, false) => Formatter::parse_omitting_empty(&format, cx, &path.field("format"))
                .map(Amount::Format),
            _ => Err(path.reject("needs either number or format")),
        };
        Ok(Self {
            amount: amount?,
            negative: is_negative_hits,
        })
    }

    pub(super) fn amount(&self, head: &RequestHead, info: &StreamInfo) -> Option<u64> {
        match &self.amount {
            Amount::Number(number) => Some(*number),
            Amount::Format(format) => {
                let text = render(format, head, info);
                let number: f64 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
                let most = 0.0..=1e9;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it was looked at, and a fraction of a hit is none"
                )]
                most.contains(&number).then_some(number as u64)
            }
        }
    }
}
