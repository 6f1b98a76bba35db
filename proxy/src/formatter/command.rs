//! From the text of a format to its operators, with Envoy's grammar and Envoy's words for what is wrong.

use serde_json::Value;

use super::operator::{
    AddressPart, Attempt, Clock, Count, End, FilterStateForm, GrpcStatusForm, Header, HeaderRef,
    HostSource, Message, MetadataSource, Operator, Point, ServerNameFirst, Text, TlsPart, TlsSide,
    XfccKey,
};
use super::time::TimeFormat;
use crate::cel::{self, Expression};
use crate::http::HeaderName;
use crate::server::{FactoryContext, LocalInfo};

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

/// Reads `:max%` or `%`.
fn read_end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    let legal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let max = legal.then(|| digits.parse().ok()).flatten()?;
    Some((Some(max), after))
}

fn coalesced(entry: &Value) -> Result<Operator, String> {
    let (name, argument, max) = match entry {
        Value::String(name) => (name.as_str(), "", None),
        Value::Object(fields) => {
            let text = |key: &str| match fields.get(key) {
                None => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.as_str())),
                Some(_) => Err(format!("'{key}' field must be a string")),
            };
            let name = text("command")?.ok_or("operator object must have 'command' field")?;
            let max = match fields.get("max_length") {
                None => None,
                Some(value) => {
                    let value = value
                        .as_i64()
                        .ok_or("'max_length' field must be an integer")?;
                    let positive = usize::try_from(value).ok().filter(|value| *value > 0);
                    Some(positive.ok_or("'max_length' must be a positive integer")?)
                }
            };
            (name, text("param")?.unwrap_or_default(), max)
        }
        _ => {
            return Err(
                "operator entry must be either a string (command name) or an object with 'command' field"
                    .to_owned(),
            );
        }
    };
    if name == "COALESCE" {
        // Envoy differs: it allows a COALESCE in a COALESCE, to any depth.
        return Err("COALESCE cannot stand in a COALESCE".to_owned());
    }
    Command {
        name,
        argument,
        max,
    }
    .operator(Extensions::default())?
    .ok_or_else(|| format!("unknown command: '{name}'"))
}

/// A header name that may stand in a format, `:path` and its kin included.
fn header_ref(name: &str) -> Option<HeaderRef> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        ":method" => HeaderRef::Method,
        ":path" => HeaderRef::Path,
        // Both are one thing in a head.
        ":authority" | "host" => HeaderRef::Authority,
        ":scheme" => HeaderRef::Scheme,
        ":protocol" => HeaderRef::Protocol,
        ":status" => HeaderRef::Status,
        _ => {
            let token = name.strip_prefix(':').unwrap_or(&name);
            let legal = token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            return legal.then(|| HeaderRef::Field(HeaderName::new(&name)));
        }
    })
}

fn point(name: &str) -> Point {
    match name {
        "DS_RX_BEG" => Point::Start,
        "DS_RX_END" => Point::LastDownstreamRx,
        "US_CX_BEG" => Point::ConnectStart,
        "US_CX_END" => Point::ConnectEnd,
        "US_TX_BEG" => Point::FirstUpstreamTx,
        "US_TX_END" => Point::LastUpstreamTx,
        "US_RX_BEG" => Point::FirstUpstreamRx,
        "US_RX_BODY_BEG" => Point::FirstUpstreamRxBody,
        "US_RX_END" => Point::LastUpstreamRx,
        "DS_TX_BEG" => Point::FirstDownstreamTx,
        "DS_TX_END" => Point::LastDownstreamTx,
        _ => Point::Never,
    }
}

/// The end of a connection that a command names, and whether it wants the address alone (which may be masked).
fn address(name: &str) -> Option<(End, bool)> {
    let (name, masked) = match name.strip_suffix("_WITHOUT_PORT") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let end = match name {
        "DOWNSTREAM_REMOTE_ADDRESS" => End::Remote,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => End::DirectRemote,
        "DOWNSTREAM_LOCAL_ADDRESS" => End::Local,
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => End::DirectLocal,
        "UPSTREAM_REMOTE_ADDRESS" => End::UpstreamRemote,
        "UPSTREAM_LOCAL_ADDRESS" => End::UpstreamLocal,
        "UPSTREAM_HOST" if !masked => End::UpstreamHost,
        _ => return None,
    };
    Some((end, masked))
}

/// The length of a network. What is none leaves the address as it is, as in Envoy.
fn mask(argument: &str) -> AddressPart {
    match argument.trim().parse::<i32>() {
        Err(_) => AddressPart::Ip,
        Ok(0..) if argument.is_empty() => AddressPart::Ip,
        Ok(bits) => match u8::try_from(bits) {
            Ok(bits) => AddressPart::Network(bits),
            Err(_) if bits < 0 => AddressPart::Nothing,
            Err(_) => AddressPart::Network(u8::MAX),
        },
    }
}

/// The operators that take neither argument nor length.
fn without_argument(name: &str) -> Option<Operator> {
    count(name)
        .map(Operator::Count)
        .or_else(|| text(name).map(Operator::Text))
        .or_else(|| span(name))
        .or_else(|| endpoint(name))
        .or_else(|| attempts(name))
        .or_else(|| tls(name))
        .or_else(|| unavailable(name).then_some(Operator::Unavailable))
        .or_else(|| match name {
            "GRPC_STATUS_NUMBER" => Some(Operator::GrpcStatus(GrpcStatusForm::Number)),
            "HOSTNAME" => Some(Operator::Fixed(hostname())),
            _ => None,
        })
}

fn count(name: &str) -> Option<Count> {
    Some(match name {
        "BYTES_RECEIVED" => Count::BytesReceived,
        "BYTES_SENT" => Count::BytesSent,
        // Only QUIC counts them; TCP's round trips are not asked for.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" | "DOWNSTREAM_CX_RTT" => Count::Zero,
        "RESPONSE_CODE" => Count::ResponseCode,
        "CONNECTION_ID" => Count::ConnectionId,
        "UPSTREAM_CONNECTION_ID" => Count::UpstreamConnectionId,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Count::Attempts,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Count::DownstreamWireReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Count::DownstreamWireSent,
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Count::DownstreamHeaderReceived
        }
        "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Count::DownstreamHeaderSent
        }
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Count::UpstreamWireReceived,
        "UPSTREAM_WIRE_BYTES_SENT" => Count::UpstreamWireSent,
        "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Count::UpstreamHeaderReceived
        }
        "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Count::UpstreamHeaderSent
        }
        "REQUEST_HEADERS_BYTES" => Count::RequestHeadersBytes,
        "RESPONSE_HEADERS_BYTES" => Count::ResponseHeadersBytes,
        "RESPONSE_TRAILERS_BYTES" => Count::ResponseTrailersBytes,
        "ROUTE_RESOLUTION_COUNT" => Count::RouteResolutions,
        "ROUTE_RESOLUTION_TIME_US" => Count::RouteResolutionTime,
        "DURATION" => Count::Duration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Count::PoolReady,
        _ => return None,
    })
}

fn text(name: &str) -> Option<Text> {
    Some(match name {
        "PROTOCOL" => Text::Protocol,
        "UPSTREAM_PROTOCOL" => Text::UpstreamProtocol,
        "RESPONSE_FLAGS" => Text::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Text::ResponseFlagsLong,
        "ROUTE_NAME" => Text::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Text::VirtualClusterName,
        "UPSTREAM_CLUSTER" => Text::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Text::UpstreamClusterRaw,
        "UPSTREAM_HOST_NAME" => Text::UpstreamHostName,
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Text::UpstreamHostNameWithoutPort,
        "FILTER_CHAIN_NAME" => Text::FilterChainName,
        "LISTENER_NAME" => Text::ListenerName,
        "CONNECTION_TERMINATION_DETAILS" => Text::ConnectionTerminationDetails,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Text::DownstreamTransportFailure,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Text::UpstreamTransportFailure,
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => Text::DownstreamCloseReason,
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Text::DownstreamCloseType,
        "UPSTREAM_LOCAL_CLOSE_REASON" => Text::UpstreamCloseReason,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Text::UpstreamCloseType,
        "TLS_JA3_FINGERPRINT" => Text::Ja3,
        "TLS_JA4_FINGERPRINT" => Text::Ja4,
        "UNIQUE_ID" => Text::UniqueId,
        "STREAM_ID" => Text::StreamId,
        "CUSTOM_FLAGS" => Text::CustomFlags,
        "LOCAL_REPLY_BODY" => Text::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Text::AccessLogType,
        _ => return None,
    })
}

fn span(name: &str) -> Option<Operator> {
    let (from, to) = match name {
        "REQUEST_DURATION" => (Point::Start, Point::LastDownstreamRx),
        "REQUEST_TX_DURATION" => (Point::Start, Point::LastUpstreamTx),
        "RESPONSE_DURATION" => (Point::Start, Point::FirstUpstreamRx),
        "RESPONSE_TX_DURATION" => (Point::FirstUpstreamRx, Point::LastDownstreamTx),
        "DOWNSTREAM_HANDSHAKE_DURATION" => (Point::Start, Point::HandshakeComplete),
        // The last acknowledgement is known for QUIC only.
        "ROUNDTRIP_DURATION" => (Point::Start, Point::Never),
        _ => return None,
    };
    Some(Operator::Span {
        from,
        to,
        nanoseconds: 1_000_000,
    })
}

fn endpoint(name: &str) -> Option<Operator> {
    let (end, part) = match name {
        "DOWNSTREAM_REMOTE_PORT" => (End::Remote, AddressPart::Port),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => (End::DirectRemote, AddressPart::Port),
        "DOWNSTREAM_LOCAL_PORT" => (End::Local, AddressPart::Port),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => (End::DirectLocal, AddressPart::Port),
        "UPSTREAM_REMOTE_PORT" => (End::UpstreamRemote, AddressPart::Port),
        "UPSTREAM_LOCAL_PORT" => (End::UpstreamLocal, AddressPart::Port),
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" => (End::Local, AddressPart::EndpointId),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => {
            (End::DirectLocal, AddressPart::EndpointId)
        }
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => (End::UpstreamRemote, AddressPart::EndpointId),
        _ => match address(name)? {
            (end, false) => (end, AddressPart::All),
            (_, true) => return None,
        },
    };
    Some(Operator::Address { end, part })
}

fn attempts(name: &str) -> Option<Operator> {
    let (part, with_port) = match name {
        "UPSTREAM_HOSTS_ATTEMPTED" => (Attempt::Address, true),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => (Attempt::Address, false),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => (Attempt::HostName, true),
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => (Attempt::HostName, false),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => (Attempt::ConnectionId, true),
        _ => return None,
    };
    Some(Operator::Attempts { part, with_port })
}

/// Operators of tracing: Envoy prints them without a tracer, and so do we.
fn unavailable(name: &str) -> bool {
    matches!(name, "TRACE_ID" | "SPAN_ID")
}

fn tls(name: &str) -> Option<Operator> {
    let (side, part) = match name.strip_prefix("DOWNSTREAM_") {
        Some(part) => (TlsSide::Downstream, part),
        None => (TlsSide::Upstream, name.strip_prefix("UPSTREAM_")?),
    };
    let part = TlsPart::parse(part, side)?;
    Some(Operator::Tls { side, part })
}

/// The name of the machine, as the kernel knows it.
fn hostname() -> Option<Box<[u8]>> {
    let name = std::fs::read("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_ascii_end().into())
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
