//! `envoy.config.accesslog.v3.AccessLogFilter`: which streams a log leaves out.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/accesslog/v3/accesslog.proto>
//! Type URL of an extension filter: `envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter`.
//!
//! Deviations: the extension filter `process_ratelimit` is refused.

use outrigger_proto::pb::envoy::config::accesslog::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::RuntimeUInt32;
use outrigger_proto::pb::envoy::data::accesslog::v3::AccessLogType;
use outrigger_proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use pb::access_log_filter::FilterSpecifier;
use pb::comparison_filter::Op;

use crate::cel::{self, Activation, Expression};
use crate::config::{ConfigPath, Fraction, Rejected, TypedConfig};
use crate::formatter::{FormatData, completed, grpc_status};
use crate::http::{Known, Protocol, RequestHead};
use crate::matchers::{HeaderMatcher, ValueMatcher};
use crate::runtime::{RuntimeFraction, RuntimeInteger};
use crate::server::{FactoryContext, Random};
use crate::stream_info::{ResponseFlag, ResponseFlags};

/// A condition on a stream that has ended.
#[derive(Debug)]
pub struct AccessLogFilter(Kind);

#[derive(Debug)]
enum Kind {
    StatusCode(Comparison),
    /// In milliseconds.
    Duration(Comparison),
    NotHealthCheck,
    Traceable,
    Runtime {
        fraction: RuntimeFraction,
        use_independent_randomness: bool,
    },
    And(Vec<AccessLogFilter>),
    Or(Vec<AccessLogFilter>),
    Header(Box<HeaderMatcher>),
    /// None: any flag.
    ResponseFlag(Option<Vec<ResponseFlag>>),
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    Metadata(Box<Metadata>),
    LogType {
        types: Vec<&'static str>,
        exclude: bool,
    },
    Expression(Box<Expression>),
}

#[derive(Debug)]
struct Comparison {
    op: Op,
    value: RuntimeInteger,
}

#[derive(Debug)]
struct Metadata {
    namespace: Box<str>,
    path: Box<[Box<str>]>,
    /// None: no value matches.
    value: Option<ValueMatcher>,
    match_if_key_not_found: bool,
}

impl AccessLogFilter {
    /// Converts a filter.
    pub fn from_proto(
        proto: pb::AccessLogFilter,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::AccessLogFilter { filter_specifier } = proto;
        let kind = match path.required("filter_specifier", filter_specifier)? {
            FilterSpecifier::StatusCodeFilter(pb::StatusCodeFilter { comparison }) => {
                let path = path.field("status_code_filter");
                Kind::StatusCode(Comparison::from_proto(comparison, cx, &path)?)
            }
            FilterSpecifier::DurationFilter(pb::DurationFilter { comparison }) => {
                let path = path.field("duration_filter");
                Kind::Duration(Comparison::from_proto(comparison, cx, &path)?)
            }
            FilterSpecifier::NotHealthCheckFilter(pb::NotHealthCheckFilter {}) => {
                Kind::NotHealthCheck
            }
            FilterSpecifier::TraceableFilter(pb::TraceableFilter {}) => Kind::Traceable,
            FilterSpecifier::RuntimeFilter(filter) => {
                runtime(filter, cx, &path.field("runtime_filter"))?
            }
            FilterSpecifier::AndFilter(pb::AndFilter { filters }) => {
                Kind::And(several(filters, cx, &path.field("and_filter"))?)
            }
            FilterSpecifier::OrFilter(pb::OrFilter { filters }) => {
                Kind::Or(several(filters, cx, &path.field("or_filter"))?)
            }
            FilterSpecifier::HeaderFilter(pb::HeaderFilter { header }) => {
                let path = path.field("header_filter");
                let header = path.required("header", header)?;
                let header = HeaderMatcher::from_proto(header, &path.field("header"))?;
                Kind::Header(Box::new(header))
            }
            FilterSpecifier::ResponseFlagFilter(filter) => {
                response_flag(filter, &path.field("response_flag_filter"))?
            }
            FilterSpecifier::GrpcStatusFilter(filter) => {
                grpc(filter, &path.field("grpc_status_filter"))?
            }
            FilterSpecifier::MetadataFilter(filter) => {
                let filter = Metadata::from_proto(filter, &path.field("metadata_filter"))?;
                Kind::Metadata(Box::new(filter))
            }
            FilterSpecifier::LogTypeFilter(filter) => {
                log_type(filter, &path.field("log_type_filter"))?
            }
            FilterSpecifier::ExtensionFilter(filter) => {
                extension(filter, cx, &path.field("extension_filter"))?
            }
        };
        Ok(Self(kind))
    }

    /// Whether the stream is to be logged.
    pub fn evaluate(&self, data: &FormatData<'_>, random: &Random) -> bool {
        let info = data.info;
        match &self.0 {
            Kind::StatusCode(comparison) => {
                comparison.holds(info.response_code.unwrap_or(0).into())
            }
            Kind::Duration(comparison) => {
                let duration = completed(data).saturating_duration_since(info.start);
                comparison.holds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
            Kind::NotHealthCheck => !info.health_check,
            Kind::Traceable => info.trace_reason_traced,
            Kind::Runtime {
                fraction,
                use_independent_randomness,
            } => {
                let stable = (!use_independent_randomness).then(|| request_number(data));
                fraction.contains(stable.flatten().unwrap_or_else(|| random.next()))
            }
            Kind::And(filters) => filters.iter().all(|filter| filter.evaluate(data, random)),
            Kind::Or(filters) => filters.iter().any(|filter| filter.evaluate(data, random)),
            Kind::Header(matcher) => match data.request {
                Some(head) => matcher.matches(head),
                None => matcher.matches(&RequestHead::new(Protocol::Http11, b"")),
            },
            Kind::ResponseFlag(None) => !info.response_flags.is_empty(),
            Kind::ResponseFlag(Some(flags)) => {
                let set: ResponseFlags = info.response_flags;
                flags.iter().any(|flag| set.contains(*flag))
            }
            Kind::GrpcStatus { statuses, exclude } => {
                // Without a status it is UNKNOWN.
                statuses.contains(&grpc_status(data).unwrap_or(2)) != *exclude
            }
            Kind::Metadata(filter) => filter.evaluate(data),
            Kind::LogType { types, exclude } => types.contains(&data.log_type) != *exclude,
            Kind::Expression(expression) => expression.matches(&Activation::of_formatter(data)),
        }
    }
}

impl Comparison {
    fn from_proto(
        proto: Option<pb::ComparisonFilter>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ComparisonFilter { op, value } = path.required("comparison", proto)?;
        let path = path.field("comparison");
        let op = path.enumeration("op", op);
        let RuntimeUInt32 {
            default_value,
            runtime_key,
        } = path.required("value", value)?;
        Ok(Self {
            op: op?,
            value: cx
                .server
                .runtime
                .integer(&runtime_key, default_value.into()),
        })
    }

    fn holds(&self, left: u64) -> bool {
        let right = self.value.get();
        match self.op {
            Op::Eq => left == right,
            Op::Ge => left >= right,
            Op::Le => left <= right,
            Op::Ne => left != right,
        }
    }
}

impl Metadata {
    fn from_proto(proto: pb::MetadataFilter, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use matcher_pb::metadata_matcher::{PathSegment, path_segment::Segment};
        let pb::MetadataFilter {
            matcher,
            match_if_key_not_found,
        } = proto;
        let match_if_key_not_found = match_if_key_not_found.is_none_or(|value| value.value);
        let Some(matcher) = matcher else {
            return Ok(Self {
                namespace: "".into(),
                path: Box::default(),
                value: None,
                match_if_key_not_found,
            });
        };
        // Envoy does not look at `invert` here, and neither do we.
        let matcher_pb::MetadataMatcher {
            filter,
            path: segments,
            value,
            invert: _,
        } = matcher;
        let path = path.field("matcher");
        let namespace = path.non_empty("filter", filter);
        let segments = path.each("path", segments, |PathSegment { segment }, path| {
            let Segment::Key(key) = path.required("segment", segment)?;
            path.non_empty("key", key).map(Box::from)
        });
        let value = ValueMatcher::from_proto(path.required("value", value)?, &path.field("value"));
        Ok(Self {
            namespace: namespace?.into(),
            path: segments?.into(),
            value: Some(value?),
            match_if_key_not_found,
        })
    }

    fn evaluate(&self, data: &FormatData<'_>) -> bool {
        let metadata = &data.info.dynamic_metadata;
        match metadata.value(&self.namespace, self.path.iter().map(|key| &**key)) {
            Some(found) => self
                .value
                .as_ref()
                .is_some_and(|value| value.matches(Some(found))),
            None => self.match_if_key_not_found,
        }
    }
}

/// A number that is the same wherever the request's id is known: the first eight digits of a UUID.
fn request_number(data: &FormatData<'_>) -> Option<u64> {
    let from_head = || data.request?.fields.get_str(Known::RequestId);
    let id = data.info.request_id.as_deref().or_else(from_head)?;
    (id.len() == 36)
        .then(|| u64::from_str_radix(id.get(..8)?, 16).ok())
        .flatten()
}

fn several(
    filters: Vec<pb::AccessLogFilter>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Vec<AccessLogFilter>, Rejected> {
    if filters.len() < 2 {
        return Err(path.field("filters").reject("must have at least 2 entries"));
    }
    path.each("filters", filters, |filter, path| {
        AccessLogFilter::from_proto(filter, cx, path)
    })
}

fn runtime(
    proto: pb::RuntimeFilter,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Kind, Rejected> {
    let pb::RuntimeFilter {
        runtime_key,
        percent_sampled,
        use_independent_randomness,
    } = proto;
    let runtime_key = path.non_empty("runtime_key", runtime_key);
    let percent = path.optional("percent_sampled", percent_sampled, Fraction::from_proto)?;
    let percent = percent.unwrap_or(Fraction::NEVER);
    Ok(Kind::Runtime {
        fraction: cx.server.runtime.fraction(&runtime_key?, percent),
        use_independent_randomness,
    })
}

fn response_flag(proto: pb::ResponseFlagFilter, path: &ConfigPath<'_>) -> Result<Kind, Rejected> {
    let pb::ResponseFlagFilter { flags } = proto;
    let flags = path.each("flags", flags, |name, path| {
        let known = ResponseFlag::ALL.iter().find(|flag| flag.short() == name);
        known.copied().ok_or_else(|| {
            let all: Vec<_> = ResponseFlag::ALL.iter().map(|flag| flag.short()).collect();
            path.reject(format!("\"{name}\" is not one of {}", all.join(", ")))
        })
    })?;
    Ok(Kind::ResponseFlag((!flags.is_empty()).then_some(flags)))
}

fn grpc(proto: pb::GrpcStatusFilter, path: &ConfigPath<'_>) -> Result<Kind, Rejected> {
    let pb::GrpcStatusFilter { statuses, exclude } = proto;
    let statuses = path.each("statuses", statuses, |status, path| {
        pb::grpc_status_filter::Status::try_from(status)
            .ok()
            .and_then(|status| u32::try_from(i32::from(status)).ok())
            .ok_or_else(|| path.reject(format!("{status} is not a value of this enum")))
    })?;
    Ok(Kind::GrpcStatus { statuses, exclude })
}

fn log_type(proto: pb::LogTypeFilter, path: &ConfigPath<'_>) -> Result<Kind, Rejected> {
    let pb::LogTypeFilter { types, exclude } = proto;
    let types = path.each("types", types, |log_type, path| {
        AccessLogType::try_from(log_type)
            .map(|log_type| log_type.as_str_name())
            .map_err(|_| path.reject(format!("{log_type} is not a value of this enum")))
    })?;
    Ok(Kind::LogType { types, exclude })
}

fn extension(
    proto: pb::ExtensionFilter,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Kind, Rejected> {
    const CEL: &str = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";
    let pb::ExtensionFilter {
        // Harmless: a label.
        name: _,
        config_type,
    } = proto;
    let any = config_type.map(|pb::extension_filter::ConfigType::TypedConfig(any)| any);
    let config = TypedConfig::required("typed_config", any, path)?;
    let path = path.field("typed_config");
    if config.type_name != CEL {
        return Err(config.unknown(&path, &[CEL]));
    }
    let ExpressionFilter {
        expression,
        cel_config,
    } = config.decode(&path)?;
    let options = cel::Options::from_proto(cel_config);
    Expression::from_text(&expression, options, Some(&cx.server.local_info))
        .map(|expression| Kind::Expression(Box::new(expression)))
        .map_err(|error| path.field("expression").reject(error))
}
