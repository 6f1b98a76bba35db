//! What an input has to be.

use outrigger_proto::ours::xds::r#type::matcher::v3::CelMatcher;
use outrigger_proto::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use outrigger_proto::pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use outrigger_proto::pb::envoy::extensions::matching::input_matchers::runtime_fraction::v3::RuntimeFraction as PbFraction;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as envoy;
use outrigger_proto::pb::google::api::expr::v1alpha1;
use outrigger_proto::pb::xds::r#type::matcher::v3 as pb;
use outrigger_proto::pb::xds::r#type::v3::CelExpression;
use outrigger_proto::pb::xds::r#type::v3::cel_expression::ExprSpecifier;
use pb::matcher::matcher_list::predicate::single_predicate::Matcher;
use prost::Message;

use super::extension;
use super::input::{Input, MatchingData};
use crate::cel::{Activation, Expression, Options};
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::matchers::{CidrRanges, StringMatcher, ValueMatcher};
use crate::runtime::RuntimeFraction;
use crate::server::FactoryContext;
use crate::xx_hash::xx_hash64;

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
    /// Of the input `HttpAttributesCelMatchInput`.
    Expression(Box<Expression>),
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
            CEL => expression(config.decode(&path)?, &path),
            _ => Err(config.unknown(
                &path,
                &[
                    "envoy.extensions.matching.input_matchers.ip.v3.Ip",
                    "envoy.extensions.matching.input_matchers.metadata.v3.Metadata",
                    "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction",
                    CEL,
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
            Self::Expression(expression) => {
                *input == Input::Attributes && expression.matches(&Activation::of_matcher(data))
            }
        }
    }
}

const CEL: &str = "xds.type.matcher.v3.CelMatcher";

#[allow(deprecated, reason = "trees of the older kind are still sent")]
fn expression(proto: CelMatcher, path: &ConfigPath<'_>) -> Result<Condition, Rejected> {
    let CelMatcher {
        expr_match,
        // Harmless: for readers.
        description: _,
    } = proto;
    let CelExpression {
        cel_expr_parsed,
        cel_expr_checked,
        cel_expr_string,
        expr_specifier,
    } = path.required("expr_match", expr_match)?;
    let path = path.field("expr_match");
    path.unsupported_if_set("cel_expr_string", cel_expr_string)?;
    // The same messages under the names that they have now.
    let older = |bytes: Vec<u8>| {
        let expr = v1alpha1::Expr::decode(bytes.as_slice());
        expr.map_err(|error| path.reject(error.to_string()))
    };
    let expr = match (expr_specifier, cel_expr_parsed, cel_expr_checked) {
        (Some(ExprSpecifier::ParsedExpr(parsed)), ..) => parsed.expr,
        (Some(ExprSpecifier::CheckedExpr(checked)), ..) => checked.expr,
        (None, Some(parsed), _) => match parsed.expr {
            Some(expr) => Some(older(expr.encode_to_vec())?),
            None => None,
        },
        (None, None, Some(checked)) => match checked.expr {
            Some(expr) => Some(older(expr.encode_to_vec())?),
            None => None,
        },
        (None, None, None) => None,
    };
    let expr = path.required("parsed_expr", expr)?;
    Expression::from_proto(&expr, Options::default(), None)
        .map(|expression| Condition::Expression(Box::new(expression)))
        .map_err(|error| path.reject(error))
}
