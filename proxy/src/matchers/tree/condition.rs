//! What an input has to be.

use outrigger_proto::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use outrigger_proto::pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use outrigger_proto::pb::envoy::extensions::matching::input_matchers::runtime_fraction::v3::RuntimeFraction as PbFraction;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as envoy;
use outrigger_proto::pb::xds::r#type::matcher::v3 as pb;
use pb::matcher::matcher_list::predicate::single_predicate::Matcher;
use prost::Message;

use super::extension;
use super::input::{Input, MatchingData};
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::matchers::{CidrRanges, StringMatcher, ValueMatcher};
use crate::route::xx_hash64;
use crate::runtime::RuntimeFraction;
use crate::server::FactoryContext;

#[derive(Debug)]
pub(super) enum Condition {
    Text(StringMatcher),
    Ip(CidrRanges),
    Metadata {
        value: ValueMatcher,
        invert: bool,
    },
    /// A hash of the input decides: the same input always fares the same.
    Fraction {
        fraction: RuntimeFraction,
        seed: u64,
    },
}

impl Condition {
    pub(super) fn from_proto(
        proto: Option<Matcher>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let custom = match proto {
            None => return Err(path.reject("needs one of value_match, custom_match")),
            Some(Matcher::ValueMatch(text)) => {
                // The same message under the name that it had first.
                let text = envoy::StringMatcher::decode(text.encode_to_vec().as_slice());
                let path = path.field("value_match");
                let text = text.map_err(|error| path.reject(error.to_string()))?;
                return StringMatcher::from_proto(text, &path).map(Self::Text);
            }
            Some(Matcher::CustomMatch(custom)) => custom,
        };
        let path = path.field("custom_match");
        let config = extension(custom, &path)?;
        let path = path.field("typed_config");
        match &*config.type_name {
            "envoy.extensions.matching.input_matchers.ip.v3.Ip" => {
                // Harmless: `stat_prefix` names a counter of addresses that cannot be read; there are none here.
                let Ip {
                    cidr_ranges,
                    stat_prefix: _,
                } = config.decode(&path)?;
                CidrRanges::from_proto("cidr_ranges", cidr_ranges, &path).map(Self::Ip)
            }
            "envoy.extensions.matching.input_matchers.metadata.v3.Metadata" => {
                let Metadata { value, invert } = config.decode(&path)?;
                let value = path.required("value", value)?;
                let value = ValueMatcher::from_proto(value, &path.field("value"))?;
                Ok(Self::Metadata { value, invert })
            }
            "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction" => {
                let PbFraction {
                    runtime_fraction,
                    seed,
                } = config.decode(&path)?;
                let fraction = path.required("runtime_fraction", runtime_fraction)?;
                let path = path.field("runtime_fraction");
                let default = path.required("default_value", fraction.default_value)?;
                let default = Fraction::from_proto(default, &path.field("default_value"))?;
                let key = &fraction.runtime_key;
                let fraction = cx.server.runtime.fraction(key, default);
                Ok(Self::Fraction { fraction, seed })
            }
            _ => Err(config.unknown(
                &path,
                &[
                    "envoy.extensions.matching.input_matchers.ip.v3.Ip",
                    "envoy.extensions.matching.input_matchers.metadata.v3.Metadata",
                    "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
                ],
            )),
        }
    }

    pub(super) fn holds(&self, input: &Input, data: &MatchingData<'_>) -> bool {
        match self {
            Self::Text(text) => input.text(data).is_some_and(|value| text.matches(&value)),
            Self::Ip(ranges) => input.ip(data).is_some_and(|ip| ranges.contains(ip)),
            Self::Metadata { value, invert } => input
                .value(data)
                .is_some_and(|found| value.matches(Some(found)) != *invert),
            Self::Fraction { fraction, seed } => input
                .text(data)
                .is_some_and(|text| fraction.contains(xx_hash64(&text, *seed))),
        }
    }
}
