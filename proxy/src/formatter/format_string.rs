//! `envoy.config.core.v3.SubstitutionFormatString`: a format as text or as JSON.

use outrigger_proto::pb::envoy::config::core::v3::substitution_format_string::Format as PbFormat;
use outrigger_proto::pb::envoy::config::core::v3::{
    DataSource, JsonFormatOptions, SubstitutionFormatString as Pb, TypedExtensionConfig,
};
use outrigger_proto::pb::envoy::extensions::formatter::cel::v3::Cel;
use outrigger_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::command::Extensions;
use super::{FormatData, Formatter, json};
use crate::cel;
use crate::config::{ConfigPath, Rejected, TypedConfig, data_source};
use crate::server::FactoryContext;

const REQ_WITHOUT_QUERY: &str = "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery";
const CEL: &str = "envoy.extensions.formatter.cel.v3.Cel";
const METADATA: &str = "envoy.extensions.formatter.metadata.v3.Metadata";

/// A format with its content type, parsed once.
#[derive(Debug)]
pub struct SubstitutionFormatString {
    format: Format,
    content_type: Box<str>,
}

#[derive(Debug)]
enum Format {
    Text(Formatter),
    Json {
        root: Vec<(Box<[u8]>, Node)>,
        /// What is null is left out, and so are objects that have nothing else.
        omit_empty_values: bool,
    },
}

/// A value of a JSON format.
#[derive(Debug)]
enum Node {
    /// Written once, when the format was parsed.
    Constant(Box<[u8]>),
    Null,
    Template(Formatter),
    /// Keys sorted, as they are written: with quotes and colon.
    Map(Vec<(Box<[u8]>, Node)>),
    List(Vec<Node>),
}

impl SubstitutionFormatString {
    /// A format of text, as old configurations have it.
    pub fn text(format: Formatter) -> Self {
        Self {
            format: Format::Text(format),
            content_type: "text/plain".into(),
        }
    }

    /// A format of JSON, as old configurations have it.
    pub fn json(
        format: Struct,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let root = map(format, Extensions::of(cx), false, path)?;
        Ok(Self {
            format: Format::Json {
                root,
                omit_empty_values: false,
            },
            content_type: "application/json".into(),
        })
    }

    /// Converts a format.
    pub fn from_proto(
        proto: Pb,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let Pb {
            omit_empty_values,
            content_type,
            formatters,
            json_format_options,
            format,
        } = proto;
        // Keys are sorted in any case.
        #[allow(deprecated, reason = "the field exists, and changes nothing any more")]
        let JsonFormatOptions { sort_properties: _ } = json_format_options.unwrap_or_default();
        let extensions = extensions(formatters, cx, path)?;
        let text = |text: &str, path: &ConfigPath<'_>| {
            Formatter::new(text, extensions, omit_empty_values)
                .map(Format::Text)
                .map_err(|message| path.reject(message))
        };
        #[allow(deprecated, reason = "old configurations use it")]
        let (format, default_type) = match path.required("format", format)? {
            PbFormat::TextFormat(format) => {
                (text(&format, &path.field("text_format"))?, "text/plain")
            }
            PbFormat::TextFormatSource(source) => {
                let path = path.field("text_format_source");
                (text(&read(source, &path)?, &path)?, "text/plain")
            }
            PbFormat::JsonFormat(format) => {
                let path = path.field("json_format");
                let root = map(format, extensions, omit_empty_values, &path)?;
                let json = Format::Json {
                    root,
                    omit_empty_values,
                };
                (json, "application/json")
            }
        };
        let content_type = if content_type.is_empty() {
            default_type.into()
        } else {
            content_type.into()
        };
        Ok(Self {
            format,
            content_type,
        })
    }

    /// The content type of what is rendered, for bodies: `text/plain` or `application/json` unless the configuration says else.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Appends the text, or a line of JSON with its line break.
    pub fn render(&self, data: &FormatData<'_>, out: &mut Vec<u8>) {
        match &self.format {
            Format::Text(formatter) => formatter.render(data, out),
            Format::Json {
                root,
                omit_empty_values,
            } => {
                if !write_map(root, *omit_empty_values, data, out) {
                    out.extend_from_slice(b"{}");
                }
                out.push(b'\n');
            }
        }
    }
}

impl Node {
    fn new(
        value: Value,
        extensions: Extensions<'_>,
        omit: bool,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let mut constant = Vec::new();
        match value.kind {
            None | Some(Kind::NullValue(_)) => return Ok(Self::Null),
            Some(Kind::NumberValue(number)) => json::write_number(number, &mut constant),
            Some(Kind::BoolValue(value)) => json::write_value(&value.into(), &mut constant),
            Some(Kind::StringValue(text)) if !text.contains('%') => {
                json::write_string(text.as_bytes(), &mut constant);
            }
            Some(Kind::StringValue(text)) => {
                return Formatter::new(&text, extensions, omit)
                    .map(Self::Template)
                    .map_err(|message| path.reject(message));
            }
            Some(Kind::StructValue(fields)) => {
                return map(fields, extensions, omit, path).map(Self::Map);
            }
            Some(Kind::ListValue(list)) => {
                let items = path.each("values", list.values, |value, path| {
                    Self::new(value, extensions, omit, path)
                });
                return items.map(Self::List);
            }
        }
        Ok(Self::Constant(constant.into()))
    }

    /// Appends the value; says whether there is one. Without one nothing is appended.
    fn write(&self, omit: bool, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Constant(text) => {
                out.extend_from_slice(text);
                true
            }
            Self::Null => false,
            Self::Template(formatter) => formatter.render_json(data, out),
            Self::Map(fields) => write_map(fields, omit, data, out),
            Self::List(items) => {
                out.push(b'[');
                let first = out.len();
                for item in items {
                    let start = out.len();
                    if start > first {
                        out.push(b',');
                    }
                    if !item.write(omit, data, out) {
                        missing(omit, start, out);
                    }
                }
                out.push(b']');
                true
            }
        }
    }
}

fn write_map(
    fields: &[(Box<[u8]>, Node)],
    omit: bool,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let opened = out.len();
    out.push(b'{');
    let first = out.len();
    for (key, node) in fields {
        let start = out.len();
        if start > first {
            out.push(b',');
        }
        out.extend_from_slice(key);
        if !node.write(omit, data, out) {
            missing(omit, start, out);
        }
    }
    if omit && out.len() == first {
        out.truncate(opened);
        return false;
    }
    out.push(b'}');
    true
}

/// Leaves a null, or takes back what was written for the value.
fn missing(omit: bool, start: usize, out: &mut Vec<u8>) {
    if omit {
        out.truncate(start);
    } else {
        out.extend_from_slice(b"null");
    }
}

fn map(
    fields: Struct,
    extensions: Extensions<'_>,
    omit: bool,
    path: &ConfigPath<'_>,
) -> Result<Vec<(Box<[u8]>, Node)>, Rejected> {
    let mut fields: Vec<_> = fields.fields.into_iter().collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut failed = None;
    let mut out = Vec::new();
    for (key, value) in fields {
        match Node::new(value, extensions, omit, &path.field(&key)) {
            Ok(node) => {
                let mut text = Vec::new();
                json::write_string(key.as_bytes(), &mut text);
                text.push(b':');
                out.push((text.into(), node));
            }
            Err(rejected) => failed = Some(rejected),
        }
    }
    failed.map_or(Ok(out), Err)
}

fn extensions<'a>(
    formatters: Vec<TypedExtensionConfig>,
    cx: &FactoryContext<'a>,
    path: &ConfigPath<'_>,
) -> Result<Extensions<'a>, Rejected> {
    let mut extensions = Extensions::of(cx);
    path.each("formatters", formatters, |formatter, path| {
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = formatter;
        let config = TypedConfig::required("typed_config", typed_config, path)?;
        match config.type_name.as_str() {
            REQ_WITHOUT_QUERY => extensions.req_without_query = true,
            // The operator is there without it.
            METADATA => {}
            CEL => {
                let Cel { cel_config } = config.decode(&path.field("typed_config"))?;
                extensions.cel = cel::Options::from_proto(cel_config);
            }
            _ => return Err(config.unknown(path, &[REQ_WITHOUT_QUERY, METADATA, CEL])),
        }
        Ok(())
    })?;
    Ok(extensions)
}

fn read(source: DataSource, path: &ConfigPath<'_>) -> Result<String, Rejected> {
    let bytes = data_source(source, path)?;
    String::from_utf8(bytes.into()).map_err(|error| path.reject(error.to_string()))
}
