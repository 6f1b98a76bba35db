//! From the text of a format to its operators, with Envoy's grammar and Envoy's words for what is wrong.

mod arguments;
mod plain;

use serde_json::Value;

use super::operator::{
    Clock, FilterStateForm, GrpcStatusForm, Header, HeaderRef, HostSource, Message, MetadataSource,
    Operator, ServerNameFirst, TlsSide, XfccKey,
};
use super::time::TimeFormat;
use crate::cel::{self, Expression};
use crate::http::HeaderName;
use crate::server::{FactoryContext, LocalInfo};

use arguments::{address, coalesced, header_ref, mask, point, read_end};
use plain::without_argument;

/// Operators that exist only where a formatter extension was configured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extensions<'a> {
    /// `envoy.formatter.req_without_query`.
    pub(super) req_without_query: bool,
    /// What expressions of `%CEL(…)%` may do: `envoy.formatter.cel`.
    pub(super) cel: cel::Options,
    /// What such an expression sees as `xds.node`.
    pub(super) local_info: Option<&'a LocalInfo>,
}

impl<'a> Extensions<'a> {
    /// Those that need no configuration.
    pub(super) fn of(cx: &FactoryContext<'a>) -> Self {
        Self {
            local_info: Some(&cx.server.local_info),
            ..Self::default()
        }
    }
}

/// What stands between two percent signs: `NAME(argument):max`.
struct Command<'a> {
    name: &'a str,
    argument: &'a str,
    max: Option<usize>,
}

/// Takes a format apart.
pub(super) fn parse(format: &str, extensions: Extensions<'_>) -> Result<Vec<Operator>, String> {
    let mut operators = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("%%") {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((command, after)) = Command::read(rest) else {
            return Err(format!(
                "Incorrect configuration: {format}. Couldn't find valid command at position {}",
                format.len() - rest.len()
            ));
        };
        if !literal.is_empty() {
            operators.push(Operator::Literal(
                std::mem::take(&mut literal).into_bytes().into(),
            ));
        }
        let operator = command
            .operator(extensions)?
            .ok_or_else(|| format!("Not supported field in StreamInfo: {}", command.name))?;
        operators.push(operator);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() || operators.is_empty() {
        operators.push(Operator::Literal(literal.into_bytes().into()));
    }
    Ok(operators)
}

impl<'a> Command<'a> {
    /// Reads a command at the percent sign where `text` begins; what follows it comes back as well.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let text = text.strip_prefix('%')?;
        let end = text
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .filter(|end| *end > 0)?;
        let (name, rest) = text.split_at(end);
        if let Some((max, after)) = read_end(rest) {
            let argument = "";
            return Some((
                Self {
                    name,
                    argument,
                    max,
                },
                after,
            ));
        }
        // The argument ends at the first bracket after which the command ends.
        let inner = rest.strip_prefix('(')?;
        let line = inner.find('\n').unwrap_or(inner.len());
        inner[..line].match_indices(')').find_map(|(at, _)| {
            let (max, after) = read_end(&inner[at + 1..])?;
            let argument = &inner[..at];
            Some((
                Self {
                    name,
                    argument,
                    max,
                },
                after,
            ))
        })
    }

    fn operator(&self, extensions: Extensions<'_>) -> Result<Option<Operator>, String> {
        if extensions.req_without_query && self.name == "REQ_WITHOUT_QUERY" {
            return self.header(Message::Request, true).map(Some);
        }
        if let "CEL" | "TYPED_CEL" = self.name {
            return self.expression(extensions).map(Some);
        }
        if let Some(operator) = without_argument(self.name) {
            if !self.argument.is_empty() || self.max.is_some() {
                return Err(format!(
                    "{} does not take any parameters or length",
                    self.name
                ));
            }
            return Ok(Some(operator));
        }
        if let Some((end, true)) = address(self.name) {
            self.no_length()?;
            return Ok(Some(Operator::Address {
                end,
                part: mask(self.argument),
            }));
        }
        self.with_argument()
    }

    fn with_argument(&self) -> Result<Option<Operator>, String> {
        Ok(Some(match self.name {
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => self.header(Message::Request, false)?,
            "RESP" | "RESPONSE_HEADER" => self.header(Message::Response, false)?,
            "TRAILER" | "RESPONSE_TRAILER" => self.header(Message::ResponseTrailers, false)?,
            "START_TIME" => self.time(Clock::Start, false)?,
            "START_TIME_LOCAL" => self.time(Clock::Start, true)?,
            "EMIT_TIME" => self.time(Clock::Emit, false)?,
            "EMIT_TIME_LOCAL" => self.time(Clock::Emit, true)?,
            "DOWNSTREAM_PEER_CERT_V_START" => self.validity(TlsSide::Downstream, false)?,
            "DOWNSTREAM_PEER_CERT_V_END" => self.validity(TlsSide::Downstream, true)?,
            "UPSTREAM_PEER_CERT_V_START" => self.validity(TlsSide::Upstream, false)?,
            "UPSTREAM_PEER_CERT_V_END" => self.validity(TlsSide::Upstream, true)?,
            "COMMON_DURATION" => self.common_duration()?,
            "RESPONSE_CODE_DETAILS" => {
                self.no_length()?;
                let allow_whitespace = self.argument == "ALLOW_WHITESPACES";
                Operator::Details { allow_whitespace }
            }
            "GRPC_STATUS" => self.grpc_status()?,
            "DYNAMIC_METADATA" => self.metadata(MetadataSource::Dynamic, self.required()?),
            "CLUSTER_METADATA" => {
                self.required()?;
                self.no_length()?;
                self.metadata(MetadataSource::Cluster, self.argument)
            }
            "UPSTREAM_METADATA" => {
                self.required()?;
                self.no_length()?;
                self.metadata(MetadataSource::UpstreamHost, self.argument)
            }
            "METADATA" => self.typed_metadata()?,
            "FILTER_STATE" => self.filter_state(false)?,
            "UPSTREAM_FILTER_STATE" => self.filter_state(true)?,
            "PATH" => self.path()?,
            "QUERY_PARAM" => Operator::QueryParameter {
                name: self.required()?.as_bytes().into(),
                max: self.max,
            },
            "QUERY_PARAMS" => Operator::Query {
                decoded: match self.argument {
                    "" | "ORIG" => false,
                    "DECODED" => true,
                    other => {
                        return Err(format!(
                            "Invalid QUERY_PARAMS option: '{other}', only 'ORIG'/'DECODED' are allowed"
                        ));
                    }
                },
                max: self.max,
            },
            "REQUESTED_SERVER_NAME" => self.server_name()?,
            "ENVIRONMENT" => self.environment()?,
            "COALESCE" => self.coalesce()?,
            "XFCC_VALUE" => self.xfcc_value()?,
            _ => return Ok(None),
        }))
    }

    fn required(&self) -> Result<&'a str, String> {
        if self.argument.is_empty() {
            return Err(format!("{} requires parameters", self.name));
        }
        Ok(self.argument)
    }

    fn no_length(&self) -> Result<(), String> {
        match self.max {
            None => Ok(()),
            Some(_) => Err(format!(
                "{} does not allow length to be specified.",
                self.name
            )),
        }
    }

    fn header(&self, message: Message, without_query: bool) -> Result<Operator, String> {
        let argument = self.required()?;
        let mut names = argument.split('?');
        let main = names.next().unwrap_or_default();
        let alternative = names.next();
        if names.next().is_some() {
            return Err(format!(
                "More than 1 alternative header specified in token: {argument}"
            ));
        }
        let invalid = || {
            "Invalid header configuration. Format string contains invalid characters.".to_owned()
        };
        Ok(Operator::Header(Header {
            message,
            main: header_ref(main).ok_or_else(invalid)?,
            alternative: alternative
                .map(|name| header_ref(name).ok_or_else(invalid))
                .transpose()?,
            without_query,
            non_empty: false,
            max: self.max,
        }))
    }

    fn time(&self, clock: Clock, local: bool) -> Result<Operator, String> {
        self.no_length()?;
        let format = TimeFormat::parse(self.argument, local)?;
        Ok(Operator::Time { clock, format })
    }

    fn validity(&self, side: TlsSide, end: bool) -> Result<Operator, String> {
        self.no_length()?;
        let format = TimeFormat::parse(self.argument, false)?;
        Ok(Operator::Validity { side, end, format })
    }

    fn common_duration(&self) -> Result<Operator, String> {
        let argument = self.required()?;
        self.no_length()?;
        let parts: Vec<&str> = argument.split(':').collect();
        let (from, to, precision) = match parts[..] {
            [from, to] => (from, to, "ms"),
            [from, to, precision] => (from, to, precision),
            _ => {
                return Err(format!(
                    "Invalid common duration configuration: {argument}."
                ));
            }
        };
        let nanoseconds = match precision {
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            other => return Err(format!("Invalid common duration precision: {other}.")),
        };
        Ok(Operator::Span {
            from: point(from),
            to: point(to),
            nanoseconds,
        })
    }

    fn grpc_status(&self) -> Result<Operator, String> {
        self.no_length()?;
        Ok(Operator::GrpcStatus(match self.argument {
            "" | "CAMEL_STRING" => GrpcStatusForm::Camel,
            "SNAKE_STRING" => GrpcStatusForm::Snake,
            "NUMBER" => GrpcStatusForm::Number,
            other => {
                return Err(format!(
                    "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: {other}"
                ));
            }
        }))
    }

    fn metadata(&self, source: MetadataSource, argument: &str) -> Operator {
        let mut parts = argument.split(':');
        Operator::Metadata {
            source,
            namespace: parts.next().unwrap_or_default().into(),
            path: parts.map(Box::from).collect(),
            max: self.max,
        }
    }

    fn typed_metadata(&self) -> Result<Operator, String> {
        let (kind, rest) = self.argument.split_once(':').unwrap_or((self.argument, ""));
        let source = match kind {
            "DYNAMIC" => MetadataSource::Dynamic,
            "CLUSTER" => MetadataSource::Cluster,
            "ROUTE" => MetadataSource::Route,
            "VIRTUAL_HOST" => MetadataSource::VirtualHost,
            "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
            "LISTENER" => MetadataSource::Listener,
            "LISTENER_FILTER_CHAIN" => MetadataSource::FilterChain,
            other => return Err(format!("{other} is not supported type of metadata")),
        };
        Ok(self.metadata(source, rest))
    }

    fn filter_state(&self, upstream: bool) -> Result<Operator, String> {
        let mut parts = self.argument.split(':');
        let key = parts.next().unwrap_or_default();
        if key.is_empty() {
            return Err("Invalid filter state configuration, key cannot be empty.".to_owned());
        }
        let kind = parts.next().unwrap_or_default();
        let field = parts.next().unwrap_or_default();
        let form = match kind {
            "PLAIN" => FilterStateForm::Plain,
            "" | "TYPED" => FilterStateForm::Typed,
            "FIELD" => FilterStateForm::Field(field.into()),
            _ => {
                return Err(
                    "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."
                        .to_owned(),
                );
            }
        };
        if (kind == "FIELD") == field.is_empty() {
            return Err(
                "Invalid filter state serialize type, FIELD should be used with the field name."
                    .to_owned(),
            );
        }
        Ok(Operator::FilterState {
            upstream,
            key: key.into(),
            form,
            max: self.max,
        })
    }

    fn path(&self) -> Result<Operator, String> {
        let mut parts = self.argument.split(':');
        let without_query = match parts.next().unwrap_or_default() {
            "" | "WQ" => false,
            "NQ" => true,
            other => {
                return Err(format!(
                    "Invalid PATH option: '{other}', only 'WQ'/'NQ' are allowed"
                ));
            }
        };
        let original = || HeaderRef::Field(HeaderName::new("x-envoy-original-path"));
        let (main, alternative) = match parts.next().unwrap_or_default() {
            "ORIG" => (original(), None),
            "PATH" => (HeaderRef::Path, None),
            "" | "ORIG_OR_PATH" => (original(), Some(HeaderRef::Path)),
            other => {
                return Err(format!(
                    "Invalid PATH option: '{other}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"
                ));
            }
        };
        Ok(Operator::Header(Header {
            message: Message::Request,
            main,
            alternative,
            without_query,
            non_empty: true,
            max: self.max,
        }))
    }

    fn server_name(&self) -> Result<Operator, String> {
        self.no_length()?;
        let mut parts = self.argument.split(':');
        let first = match parts.next().unwrap_or_default() {
            "" | "SNI_ONLY" => ServerNameFirst::SniOnly,
            "SNI_FIRST" => ServerNameFirst::Sni,
            "HOST_FIRST" => ServerNameFirst::Host,
            other => {
                return Err(format!(
                    "Invalid REQUESTED_SERVER_NAME option: '{other}', only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed"
                ));
            }
        };
        let host = match parts.next().unwrap_or_default() {
            "" | "ORIG_OR_HOST" => HostSource::OriginalOrAuthority,
            "HOST" => HostSource::Authority,
            "ORIG" => HostSource::Original,
            other => {
                return Err(format!(
                    "Invalid REQUESTED_SERVER_NAME option: '{other}', only 'ORIG_OR_HOST'/'HOST'/'ORIG' are allowed"
                ));
            }
        };
        Ok(Operator::ServerName { first, host })
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the operator exists to print the environment; it is read once, with the configuration"
    )]
    fn environment(&self) -> Result<Operator, String> {
        use std::os::unix::ffi::OsStringExt as _;
        let name = self.required()?;
        // What is no name of a variable is treated as one that is not set.
        let legal = !name.contains(['=', '\0']);
        let value = legal.then(|| std::env::var_os(name)).flatten();
        let mut value = value.map_or_else(|| b"-".to_vec(), |value| value.into_vec());
        value.truncate(self.max.unwrap_or(usize::MAX));
        Ok(Operator::Fixed(Some(value.into())))
    }

    fn expression(&self, extensions: Extensions<'_>) -> Result<Operator, String> {
        let Extensions {
            req_without_query: _,
            cel,
            local_info,
        } = extensions;
        let expression = Expression::from_text(self.argument, cel, local_info)
            .map_err(|error| format!("Not able to parse filter expression: {error}"))?;
        Ok(Operator::Cel {
            expression: Box::new(expression),
            typed: self.name == "TYPED_CEL",
            max: self.max,
        })
    }

    fn xfcc_value(&self) -> Result<Operator, String> {
        if self.argument.is_empty() {
            return Err("XFCC_VALUE command requires a subcommand".to_owned());
        }
        let key = self.argument.to_ascii_lowercase();
        XfccKey::parse(&key)
            .map(Operator::Xfcc)
            .ok_or_else(|| format!("XFCC_VALUE command does not support subcommand: {key}"))
    }

    fn coalesce(&self) -> Result<Operator, String> {
        let config: Value = serde_json::from_str(self.required()?)
            .map_err(|error| format!("COALESCE: failed to parse JSON configuration: {error}"))?;
        let operators = config
            .get("operators")
            .ok_or("COALESCE: JSON configuration must contain 'operators' array")?;
        let operators = operators
            .as_array()
            .ok_or("COALESCE: 'operators' must be an array")?;
        if operators.is_empty() {
            return Err("COALESCE: 'operators' array must not be empty".to_owned());
        }
        let operators = operators
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                coalesced(entry).map_err(|error| {
                    format!("COALESCE: failed to parse operator at index {index}: {error}")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Operator::Coalesce {
            operators,
            max: self.max,
        })
    }
}

#[cfg(test)]
mod tests;
