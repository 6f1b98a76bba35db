//! The protobuf text format (`.pb_text`) to an encoded message. Unknown fields are always errors here, as they are
//! for Envoy. Only the first error of a text is found.

use std::borrow::Cow;

use super::encode::nearest;
use super::node::Value;
use super::put::{put_int, put_scalar};
use super::{ErrorKind, LoadError, scalar};
use crate::schema::{Enum, Field, Kind, Message, WellKnown};
use crate::wire;

/// Protobuf's own limit.
const MAX_DEPTH: usize = 100;

/// Encodes `text` as a `message`. The bytes are of use only if `errors` got none.
pub(super) fn encode(
    text: &str,
    message: Message,
    file: &str,
    errors: &mut Vec<LoadError>,
) -> Vec<u8> {
    let mut reader = Reader {
        rest: text,
        line: 1,
        path: Vec::new(),
        depth: 0,
    };
    let mut out = Vec::new();
    if let Err((kind, reason)) = reader.fields(message, None, &mut out) {
        errors.push(LoadError {
            file: file.to_owned(),
            line: reader.line,
            path: reader.path.join("."),
            kind,
            reason,
        });
    }
    out
}

struct Reader<'a> {
    rest: &'a str,
    line: u32,
    path: Vec<&'static str>,
    depth: usize,
}

type Failure = (ErrorKind, String);
type Read<T> = Result<T, Failure>;

impl<'a> Reader<'a> {
    /// Reads fields until `end`, or until the text ends.
    fn fields(&mut self, message: Message, end: Option<char>, out: &mut Vec<u8>) -> Read<()> {
        if self.depth == MAX_DEPTH {
            return Err((
                ErrorKind::Type,
                "nested more than 100 levels deep".to_owned(),
            ));
        }
        self.depth += 1;
        let (mut set, mut oneofs) = (Vec::new(), Vec::new());
        loop {
            match (self.peek(), end) {
                (None, None) => break,
                (None, Some(end)) => {
                    return Err(syntax(&format!("the text ends where {end:?} is missing")));
                }
                (Some(found), Some(end)) if found == end => {
                    self.take(end);
                    break;
                }
                (Some('['), _) if message.well_known() == Some(WellKnown::Any) => {
                    self.expanded_any(out)?
                }
                (Some(_), _) => {
                    let field = self.field_name(message)?;
                    self.path.push(field.name());
                    let twice = !field.is_repeated()
                        && (set.contains(&field.number())
                            || field.oneof().is_some_and(|oneof| oneofs.contains(&oneof)));
                    if twice {
                        return Err((
                            ErrorKind::Type,
                            "is set twice, or together with another field of its oneof".to_owned(),
                        ));
                    }
                    set.push(field.number());
                    oneofs.extend(field.oneof());
                    self.field(field, out)?;
                    self.path.pop();
                }
            }
            let _ = self.take(',') || self.take(';');
        }
        self.depth -= 1;
        Ok(())
    }

    fn field_name(&mut self, message: Message) -> Read<Field> {
        let name = self.word();
        if name.is_empty() {
            return Err(syntax("expected a field name"));
        }
        message
            .fields()
            .find(|field| field.name() == name)
            .ok_or_else(|| {
                let hint = nearest(name, message)
                    .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                (
                    ErrorKind::UnknownField,
                    format!("no such field {name:?} in {}{hint}", message.full_name()),
                )
            })
    }

    fn field(&mut self, field: Field, out: &mut Vec<u8>) -> Read<()> {
        let colon = self.take(':');
        if !colon && !matches!(field.kind(), Kind::Message(_)) {
            return Err(syntax("expected a colon after the field name"));
        }
        if !(field.is_repeated() && self.take('[')) {
            return self.value(field, out);
        }
        if self.take(']') {
            return Ok(());
        }
        loop {
            self.value(field, out)?;
            if self.take(']') {
                return Ok(());
            }
            if !self.take(',') {
                return Err(syntax("expected a comma or ']'"));
            }
        }
    }

    fn value(&mut self, field: Field, out: &mut Vec<u8>) -> Read<()> {
        match field.kind() {
            Kind::Message(message) => {
                let end = self.open()?;
                let start = wire::begin_field(out, field.number());
                self.fields(message, Some(end), out)?;
                wire::end_field(out, start);
                Ok(())
            }
            Kind::Bytes => {
                let bytes = self.string()?;
                wire::put_bytes_field(out, field.number(), &bytes);
                Ok(())
            }
            Kind::String => {
                let text = String::from_utf8(self.string()?)
                    .map_err(|_| syntax("a string is not UTF-8"))?;
                put_scalar(&Value::Text(Cow::Owned(text)), field, out).map_err(wrong)
            }
            Kind::Enum(kind) => self.enumeration(kind, field, out),
            Kind::Bool => {
                let flag = match self.word() {
                    "true" | "True" | "t" | "1" => true,
                    "false" | "False" | "f" | "0" => false,
                    other => return Err(wrong(format!("expected true or false, found {other:?}"))),
                };
                put_int(out, field, flag.into());
                Ok(())
            }
            _ => {
                let number = self.number()?;
                put_scalar(&Value::Number(Cow::Owned(number)), field, out).map_err(wrong)
            }
        }
    }

    fn enumeration(&mut self, kind: Enum, field: Field, out: &mut Vec<u8>) -> Read<()> {
        let starts_number = self
            .peek()
            .is_some_and(|first| first == '-' || first.is_ascii_digit());
        let text = if starts_number {
            self.number()?
        } else {
            self.word().to_owned()
        };
        let named = kind
            .values()
            .find(|value| value.name() == text)
            .map(|value| i128::from(value.number()));
        let number =
            named.or_else(|| scalar::integer(&text, i32::MIN.into(), i32::MAX.into()).ok());
        let number = number.ok_or_else(|| {
            let names: Vec<_> = kind.values().map(|value| value.name()).collect();
            (
                ErrorKind::UnknownField,
                format!(
                    "{text:?} is no {}; one of {}",
                    kind.full_name(),
                    names.join(", ")
                ),
            )
        })?;
        put_int(out, field, number);
        Ok(())
    }

    /// `[type.googleapis.com/a.Message] { … }` inside an `Any`.
    fn expanded_any(&mut self, out: &mut Vec<u8>) -> Read<()> {
        self.take('[');
        let end = self
            .rest
            .find(']')
            .ok_or_else(|| syntax("a type URL does not end in ']'"))?;
        let url = self.rest[..end].trim();
        self.rest = &self.rest[end + 1..];
        let known = url
            .rsplit_once('/')
            .and_then(|(_, name)| Message::by_name(name));
        let message = known.ok_or_else(|| {
            (
                ErrorKind::UnknownType,
                format!("[{url}] names no message that is known"),
            )
        })?;
        self.take(':');
        let close = self.open()?;
        wire::put_bytes_field(out, 1, url.as_bytes());
        let start = wire::begin_field(out, 2);
        self.fields(message, Some(close), out)?;
        wire::end_field(out, start);
        Ok(())
    }

    fn open(&mut self) -> Read<char> {
        if self.take('{') {
            Ok('}')
        } else if self.take('<') {
            Ok('>')
        } else {
            Err(syntax("expected a message in braces"))
        }
    }

    /// A number as JSON writes it. The text format has hexadecimal and octal integers and an `f` after floats, too.
    fn number(&mut self) -> Read<String> {
        let sign = if self.take('-') { "-" } else { "" };
        let text = self.span(
            |character| character.is_ascii_alphanumeric() || matches!(character, '.' | '_'),
            true,
        );
        let lower = text.to_ascii_lowercase();
        let radix = |digits: &str, radix| {
            u64::from_str_radix(digits, radix)
                .map(|value| value.to_string())
                .ok()
        };
        let value = match lower.as_str() {
            "inf" | "infinity" => Some("Infinity".to_owned()),
            "nan" => Some("NaN".to_owned()),
            _ if lower.starts_with("0x") => radix(&lower[2..], 16),
            _ if lower.len() > 1
                && lower.starts_with('0')
                && lower.bytes().all(|digit| digit.is_ascii_digit()) =>
            {
                radix(&lower, 8)
            }
            _ => {
                let digits = lower.strip_suffix('f').unwrap_or(&lower);
                digits.parse::<f64>().ok().map(|_| digits.to_owned())
            }
        };
        value
            .map(|value| format!("{sign}{value}"))
            .ok_or_else(|| wrong(format!("expected a number, found {text:?}")))
    }

    /// One or more literals, which add up.
    fn string(&mut self) -> Read<Vec<u8>> {
        let mut out = Vec::new();
        let mut any = false;
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            any = true;
            self.take(quote);
            loop {
                let mut characters = self.rest.chars();
                let Some(character) = characters.next() else {
                    return Err(syntax("a string does not end"));
                };
                self.rest = characters.as_str();
                match character {
                    _ if character == quote => break,
                    '\n' => return Err(syntax("a string does not end on its line")),
                    '\\' => self.escape(&mut out)?,
                    _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        if any {
            Ok(out)
        } else {
            Err(wrong("expected a string in quotes".to_owned()))
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Read<()> {
        let mut characters = self.rest.chars();
        let escaped = characters.next().unwrap_or_default();
        let before = self.rest;
        self.rest = characters.as_str();
        out.push(match escaped {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'v' => 11,
            '\\' => b'\\',
            '\'' => b'\'',
            '"' => b'"',
            '?' => b'?',
            'x' | 'X' => self.code(2, 16)?,
            '0'..='7' => {
                self.rest = before;
                self.code(3, 8)?
            }
            'u' | 'U' => {
                let length = if escaped == 'u' { 4 } else { 8 };
                let digits = self
                    .rest
                    .get(..length)
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok());
                let character = digits
                    .and_then(char::from_u32)
                    .ok_or_else(|| syntax("an escape names no character"))?;
                self.rest = &self.rest[length..];
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(syntax("an unknown escape in a string")),
        });
        Ok(())
    }

    /// A byte given by at most `digits` digits.
    fn code(&mut self, digits: usize, radix: u32) -> Read<u8> {
        let length = self
            .rest
            .chars()
            .take(digits)
            .take_while(|digit| digit.is_digit(radix))
            .count();
        let value = u8::from_str_radix(&self.rest[..length], radix)
            .map_err(|_| syntax("an escape names no byte"))?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        self.span(
            |character| character.is_ascii_alphanumeric() || character == '_',
            false,
        )
    }

    fn span(&mut self, belongs: fn(char) -> bool, with_exponent: bool) -> &'a str {
        let mut previous = ' ';
        let end = self.rest.find(|character| {
            let sign =
                with_exponent && matches!(character, '-' | '+') && matches!(previous, 'e' | 'E');
            previous = character;
            !(belongs(character) || sign)
        });
        let (found, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        found
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_space(&mut self) {
        loop {
            if let Some(comment) = self.rest.strip_prefix('#') {
                self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
            } else if let Some(rest) = self.rest.strip_prefix('\n') {
                self.line += 1;
                self.rest = rest;
            } else if let Some(rest) = self.rest.strip_prefix([' ', '\t', '\r']) {
                self.rest = rest;
            } else {
                return;
            }
        }
    }
}

fn syntax(reason: &str) -> Failure {
    (ErrorKind::Syntax, format!("not the text format: {reason}"))
}

fn wrong(reason: String) -> Failure {
    (ErrorKind::Type, reason)
}

#[cfg(test)]
mod tests {
    use crate::pb::envoy::config::bootstrap::v3::Bootstrap;
    use crate::pb::envoy::config::cluster::v3::Cluster;
    use crate::yaml::{Format, Source, UnknownFields, load};

    fn read<M: prost::Name + Default>(format: Format, text: &str) -> Result<M, Vec<String>> {
        let source = Source {
            name: "file",
            format,
            bytes: text.as_bytes(),
        };
        load(&[source], UnknownFields::Refuse)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_text_format_says_the_same_as_yaml() {
        let text = r#"
# A comment.
node { id: "a" 'b\n\x41\101\u0041' metadata { fields { key: "k" value { number_value: 1.5f } } } }
stats_flush_interval < seconds: 5 nanos: 0x10 >;
static_resources: {
  clusters: [{ name: "one", lb_policy: LEAST_REQUEST }, { name: "two" lb_policy: 2 per_connection_buffer_limit_bytes { value: 010 } }]
  clusters { name: "three" metadata { typed_filter_metadata { key: "x" value {
    [type.googleapis.com/envoy.config.core.v3.Node] { id: "inner" client_features: ["a", "b"] } } } } }
}
stats_flush_on_admin: true
"#;
        let yaml = r#"
node: {id: "ab\nAAA", metadata: {k: 1.5}}
stats_flush_interval: 5.000000016s
static_resources:
  clusters:
  - {name: one, lb_policy: LEAST_REQUEST}
  - {name: two, lb_policy: RING_HASH, per_connection_buffer_limit_bytes: 8}
  - name: three
    metadata: {typed_filter_metadata: {x: {"@type": type.googleapis.com/envoy.config.core.v3.Node, id: inner, client_features: [a, b]}}}
stats_flush_on_admin: true
"#;
        let mut expected: Bootstrap = read(Format::Yaml, yaml).expect("YAML");
        // YAML has no fractions in a struct, see there.
        let node = expected
            .node
            .as_mut()
            .and_then(|node| node.metadata.as_mut())
            .expect("given");
        node.fields.values_mut().for_each(|value| {
            value.kind = Some(crate::pb::google::protobuf::value::Kind::NumberValue(1.5))
        });
        assert_eq!(read::<Bootstrap>(Format::Text, text), Ok(expected));
    }

    #[test]
    fn errors_name_line_and_path() {
        for (text, expected) in [
            (
                "name: \"a\"\nload_assignment { cluster_nam: 'x' }",
                "file:2: load_assignment: no such field \"cluster_nam\" in envoy.config.endpoint.v3.ClusterLoadAssignment; did you mean \"cluster_name\"?",
            ),
            (
                "health_checks: [{},]",
                "file:1: health_checks: not the text format: expected a message in braces",
            ),
            ("name: 5", "file:1: name: expected a string in quotes"),
            (
                "name: 'a' name: 'b'",
                "file:1: name: is set twice, or together with another field of its oneof",
            ),
            (
                "type: EDS cluster_type { name: 'x' }",
                "file:1: cluster_type: is set twice, or together with another field of its oneof",
            ),
            (
                "name 'a'",
                "file:1: name: not the text format: expected a colon after the field name",
            ),
            (
                "name: 'a",
                "file:1: name: not the text format: a string does not end",
            ),
            (
                "connect_timeout {",
                "file:1: connect_timeout: not the text format: the text ends where '}' is missing",
            ),
            (
                "lb_policy: FOO",
                "file:1: lb_policy: \"FOO\" is no envoy.config.cluster.v3.Cluster.LbPolicy; one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG",
            ),
            (
                "connect_timeout { seconds: 1.5 }",
                "file:1: connect_timeout.seconds: \"1.5\" is no integer",
            ),
            (
                "connect_timeout { seconds: é }",
                "file:1: connect_timeout.seconds: expected a number, found \"\"",
            ),
            (
                "name: '\\q'",
                "file:1: name: not the text format: an unknown escape in a string",
            ),
            ("}", "file:1: not the text format: expected a field name"),
        ] {
            assert_eq!(
                read::<Cluster>(Format::Text, text),
                Err(vec![expected.to_owned()]),
                "{text}"
            );
        }
        let deep = "metadata { filter_metadata { value { fields { value { struct_value { "
            .to_owned()
            + &"fields { value { struct_value { ".repeat(60);
        assert!(
            read::<Cluster>(Format::Text, &deep).expect_err("too deep")[0].contains("100 levels")
        );
    }
}
