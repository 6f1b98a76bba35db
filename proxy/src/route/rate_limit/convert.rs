//! From the actions of a configuration to those of a rule.

#![allow(
    deprecated,
    reason = "dynamic_metadata is deprecated for metadata, and still sent"
)]

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::config::route::v3::rate_limit as pb;
use outrigger_proto::pb::envoy::extensions::rate_limit_descriptors::expr::v3 as expr;
use pb::action::ActionSpecifier;
use pb::action::meta_data::Source;

use super::action::Action;
use crate::cel::{self, Expression};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::Formatter;
use crate::matchers::{
    CidrRanges, DataInput, HeaderKey, HeaderMatcher, MetadataPath, QueryParameterMatcher,
};
use crate::server::FactoryContext;

const EXPRESSION: &str = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor";

impl Action {
    pub(super) fn from_proto(
        proto: pb::Action,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Action { action_specifier } = proto;
        match action_specifier {
            None => Err(path.reject("has no action")),
            Some(ActionSpecifier::SourceCluster(_)) => Ok(Self::SourceCluster),
            Some(ActionSpecifier::DestinationCluster(_)) => Ok(Self::DestinationCluster),
            Some(ActionSpecifier::RemoteAddress(_)) => Ok(Self::RemoteAddress),
            Some(ActionSpecifier::MaskedRemoteAddress(proto)) => {
                masked(proto, &path.field("masked_remote_address"))
            }
            Some(ActionSpecifier::RequestHeaders(proto)) => {
                request_headers(proto, &path.field("request_headers"))
            }
            Some(ActionSpecifier::QueryParameters(proto)) => {
                query_parameters(proto, &path.field("query_parameters"))
            }
            Some(ActionSpecifier::GenericKey(proto)) => {
                generic_key(proto, &path.field("generic_key"))
            }
            Some(ActionSpecifier::HeaderValueMatch(proto)) => {
                header_value_match(proto, &path.field("header_value_match"))
            }
            Some(ActionSpecifier::QueryParameterValueMatch(proto)) => {
                query_value_match(proto, &path.field("query_parameter_value_match"))
            }
            Some(ActionSpecifier::DynamicMetadata(proto)) => {
                let pb::action::DynamicMetaData {
                    descriptor_key,
                    metadata_key,
                    default_value,
                } = proto;
                let proto = pb::action::MetaData {
                    descriptor_key,
                    metadata_key,
                    default_value,
                    source: Source::Dynamic as i32,
                    skip_if_absent: false,
                };
                metadata(proto, &path.field("dynamic_metadata"))
            }
            Some(ActionSpecifier::Metadata(proto)) => metadata(proto, &path.field("metadata")),
            Some(ActionSpecifier::RemoteAddressMatch(proto)) => {
                address_match(proto, cx, &path.field("remote_address_match"))
            }
            Some(ActionSpecifier::Extension(proto)) => extension(proto, &path.field("extension")),
        }
    }
}

fn extension(proto: TypedExtensionConfig, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    let is_expression = proto
        .typed_config
        .as_ref()
        .is_some_and(|any| any.type_url.ends_with(EXPRESSION));
    if is_expression {
        return expression(proto, path);
    }
    let key = proto.name.clone();
    let input = DataInput::from_proto(proto, path)?;
    Ok(Action::Input {
        key: key.into(),
        input,
    })
}

fn expression(proto: TypedExtensionConfig, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    use expr::descriptor::ExprSpecifier;
    let (config, path) = TypedConfig::of_extension(proto, path)?;
    let expr::Descriptor {
        descriptor_key,
        skip_if_error,
        expr_specifier,
    } = config.decode(&path)?;
    let key = path.non_empty("descriptor_key", descriptor_key);
    let options = cel::Options::default();
    let (name, expression) = match path.required("expr_specifier", expr_specifier)? {
        ExprSpecifier::Text(text) => ("text", Expression::from_text(&text, options, None)),
        ExprSpecifier::Parsed(expr) => ("parsed", Expression::from_proto(&expr, options, None)),
    };
    let expression = expression.map_err(|error| path.field(name).reject(error));
    Ok(Action::Expression {
        key: key?.into(),
        expression: Box::new(expression?),
        skip_if_error,
    })
}

fn or_default(key: String, default: &str) -> Box<str> {
    if key.is_empty() {
        default.into()
    } else {
        key.into()
    }
}

fn masked(
    proto: pb::action::MaskedRemoteAddress,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::MaskedRemoteAddress {
        v4_prefix_mask_len,
        v6_prefix_mask_len,
    } = proto;
    let v4 = v4_prefix_mask_len.map_or(32, |len| len.value);
    let v6 = v6_prefix_mask_len.map_or(128, |len| len.value);
    let v4 = path.in_range("v4_prefix_mask_len", v4, 0..=32);
    let v6 = path.in_range("v6_prefix_mask_len", v6, 0..=128);
    Ok(Action::MaskedRemoteAddress {
        v4: u8::try_from(v4?).unwrap_or(32),
        v6: u8::try_from(v6?).unwrap_or(128),
    })
}

fn request_headers(
    proto: pb::action::RequestHeaders,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = proto;
    let name = path.non_empty("header_name", header_name);
    let key = path.non_empty("descriptor_key", descriptor_key);
    Ok(Action::Header {
        header: HeaderKey::new(&name?),
        key: key?.into(),
        skip_if_absent,
    })
}

fn query_parameters(
    proto: pb::action::QueryParameters,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = proto;
    let name = path.non_empty("query_parameter_name", query_parameter_name);
    let key = path.non_empty("descriptor_key", descriptor_key);
    Ok(Action::Query {
        name: name?.into(),
        key: key?.into(),
        skip_if_absent,
    })
}

fn generic_key(proto: pb::action::GenericKey, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    let pb::action::GenericKey {
        descriptor_value,
        // Harmless: as in Envoy without its runtime switch, the value is plain text and never comes out empty.
        default_value: _,
        descriptor_key,
    } = proto;
    Ok(Action::Generic {
        value: path.non_empty("descriptor_value", descriptor_value)?.into(),
        key: or_default(descriptor_key, "generic_key"),
    })
}

fn header_value_match(
    proto: pb::action::HeaderValueMatch,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::HeaderValueMatch {
        descriptor_value,
        // Harmless, as for generic_key.
        default_value: _,
        descriptor_key,
        expect_match,
        headers,
    } = proto;
    let value = path.non_empty("descriptor_value", descriptor_value);
    if headers.is_empty() {
        return Err(path.field("headers").reject("must not be empty"));
    }
    let headers = path.each("headers", headers, HeaderMatcher::from_proto);
    Ok(Action::HeaderMatch {
        key: or_default(descriptor_key, "header_match"),
        value: value?.into(),
        expect: expect_match.is_none_or(|expect| expect.value),
        headers: headers?.into(),
    })
}

fn query_value_match(
    proto: pb::action::QueryParameterValueMatch,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::QueryParameterValueMatch {
        descriptor_value,
        // Harmless, as for generic_key.
        default_value: _,
        descriptor_key,
        expect_match,
        query_parameters,
    } = proto;
    let value = path.non_empty("descriptor_value", descriptor_value);
    if query_parameters.is_empty() {
        return Err(path.field("query_parameters").reject("must not be empty"));
    }
    let parameters = path.each(
        "query_parameters",
        query_parameters,
        QueryParameterMatcher::from_proto,
    );
    Ok(Action::QueryMatch {
        key: or_default(descriptor_key, "query_match"),
        value: value?.into(),
        expect: expect_match.is_none_or(|expect| expect.value),
        parameters: parameters?.into(),
    })
}

fn metadata(proto: pb::action::MetaData, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    let pb::action::MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = proto;
    let key = path.non_empty("descriptor_key", descriptor_key);
    let at = path
        .required("metadata_key", metadata_key)
        .and_then(|key| MetadataPath::from_proto(key, &path.field("metadata_key")));
    let source = path.enumeration("source", source);
    Ok(Action::Metadata {
        key: key?.into(),
        path: at?,
        source: source?,
        default: default_value.into(),
        skip_if_absent,
    })
}

fn address_match(
    proto: pb::action::RemoteAddressMatch,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::RemoteAddressMatch {
        descriptor_value,
        descriptor_key,
        default_value,
        address_matcher,
    } = proto;
    let value = path
        .non_empty("descriptor_value", descriptor_value)
        .and_then(|value| {
            Formatter::parse_omitting_empty(&value, cx, &path.field("descriptor_value"))
        });
    let matcher = path.required("address_matcher", address_matcher)?;
    let ranges = CidrRanges::from_xds("ranges", matcher.ranges, &path.field("address_matcher"));
    Ok(Action::AddressMatch {
        key: or_default(descriptor_key, "remote_address_match"),
        value: value?,
        default: default_value.into(),
        ranges: ranges?,
        invert: matcher.invert_match,
    })
}
