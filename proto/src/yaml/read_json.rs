//! JSON to a tree. As protobuf's reader does for Envoy, it takes keys without quotes, single quotes and a comma
//! after the last element.

use std::borrow::Cow;

use super::node::{Document, Entry, NodeId, SyntaxError, Value};

/// Deeper nesting is refused, so that a text cannot exhaust the stack.
const MAX_DEPTH: u32 = 200;

/// Reads `text`, which holds one value.
pub(crate) fn read(text: &str) -> Result<Document<'_>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        text,
        at: 0,
        line: 1,
        depth: 0,
        document: Document::new(),
    };
    let root = reader.value()?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.error("characters after the end of the value"));
    }
    reader.document.root = root;
    Ok(reader.document)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    depth: u32,
    document: Document<'a>,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<NodeId, SyntaxError> {
        let first = self.peek();
        let line = self.line;
        let value = match first {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"' | b'\'') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(Cow::Borrowed(self.number()?)),
            Some(_) => match self.word() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err(self.error("expected a value")),
            },
            None => return Err(self.error("the text ends where a value is expected")),
        };
        self.document
            .add(line, value)
            .ok_or_else(|| self.error("the document is too large"))
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, SyntaxError>,
    ) -> Result<Value<'a>, SyntaxError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value<'a>, SyntaxError> {
        let mut entries = Vec::new();
        while !self.take_end(b'}', entries.is_empty())? {
            let line = self.line;
            let key = match self.peek() {
                Some(b'"' | b'\'') => self.string()?,
                _ => match self.word() {
                    word if word.starts_with(|first: char| first.is_ascii_digit())
                        || matches!(word, "" | "true" | "false" | "null") =>
                    {
                        return Err(self.error("expected a key"));
                    }
                    word => Cow::Borrowed(word),
                },
            };
            if self.peek() != Some(b':') {
                return Err(self.error("expected a colon after the key"));
            }
            self.at += 1;
            let value = self.value()?;
            entries.push(Entry { line, key, value });
        }
        Ok(Value::Map(entries))
    }

    fn list(&mut self) -> Result<Value<'a>, SyntaxError> {
        let mut items = Vec::new();
        while !self.take_end(b']', items.is_empty())? {
            items.push(self.value()?);
        }
        Ok(Value::List(items))
    }

    /// Takes `end`, or the comma before the next element.
    fn take_end(&mut self, end: u8, first: bool) -> Result<bool, SyntaxError> {
        match self.peek() {
            Some(found) if found == end => {
                self.at += 1;
                Ok(true)
            }
            Some(b',') if !first => {
                self.at += 1;
                if self.peek() == Some(end) {
                    self.at += 1;
                    return Ok(true);
                }
                Ok(false)
            }
            Some(_) if first => Ok(false),
            _ => Err(self.error(&format!("expected a comma or {:?}", char::from(end)))),
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        let quote = self.text.as_bytes()[self.at];
        self.at += 1;
        let mut unescaped = String::new();
        let mut start = self.at;
        loop {
            match self.text.as_bytes().get(self.at) {
                None => return Err(self.error("a string does not end")),
                Some(byte) if *byte == quote => {
                    let tail = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(if unescaped.is_empty() {
                        Cow::Borrowed(tail)
                    } else {
                        Cow::Owned(unescaped + tail)
                    });
                }
                Some(b'\\') => {
                    unescaped.push_str(&self.text[start..self.at]);
                    self.at += 1;
                    unescaped.push(self.escape()?);
                    start = self.at;
                }
                Some(byte) => {
                    self.line += u32::from(*byte == b'\n');
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let escaped = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        Ok(match escaped {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(literal @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(literal),
            Some(b'u') => {
                let mut unit = self.hex4()?;
                if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    let low = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.error("half of a surrogate pair"));
                    }
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                }
                char::from_u32(unit).ok_or_else(|| self.error("half of a surrogate pair"))?
            }
            _ => {
                self.at -= 1;
                return Err(self.error("an unknown escape in a string"));
            }
        })
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = digits
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error("\\u wants four hexadecimal digits"))?;
        self.at += 4;
        Ok(value)
    }

    fn number(&mut self) -> Result<&'a str, SyntaxError> {
        let text = self.span(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        if is_number(text) && text.parse::<f64>().is_ok_and(f64::is_finite) {
            Ok(text)
        } else {
            Err(self.error("a malformed number"))
        }
    }

    fn word(&mut self) -> &'a str {
        self.span(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn span(&mut self, belongs: fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.bytes().take_while(|byte| belongs(*byte)).count();
        self.at += length;
        &rest[..length]
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(space @ (b' ' | b'\t' | b'\r' | b'\n')) = self.text.as_bytes().get(self.at) {
            self.line += u32::from(*space == b'\n');
            self.at += 1;
        }
    }

    fn error(&self, reason: &str) -> SyntaxError {
        SyntaxError {
            line: self.line,
            reason: format!("not JSON: {reason}"),
        }
    }
}

/// Digits without a needless zero, then perhaps a fraction, then perhaps an exponent.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(mantissa, exponent)| {
            (mantissa, Some(exponent))
        });
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(whole, fraction)| {
            (whole, Some(fraction))
        });
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent
            .is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Value<'_> {
        let mut document = read(text).expect(text);
        let root = document.root;
        document.take(root)
    }

    #[test]
    fn scalars_keep_their_json_type() {
        assert_eq!(root("1.50"), Value::Number("1.50".into()));
        assert_eq!(root(" true "), Value::Bool(true));
        assert_eq!(root("null"), Value::Null);
        assert_eq!(
            root(r#""a\n\u00e9\ud83d\ude00\/""#),
            Value::Text("a\né😀/".into())
        );
        assert_eq!(root("'a'"), Value::Text("a".into()));
    }

    #[test]
    fn lists_and_objects_may_end_in_a_comma() {
        assert!(matches!(root("[1, 2,]"), Value::List(items) if items.len() == 2));
        assert!(matches!(root("{a: 1, \"b\": 2,}"), Value::Map(entries) if entries.len() == 2));
        assert!(matches!(root("[]"), Value::List(items) if items.is_empty()));
    }

    #[test]
    fn broken_texts_name_the_line() {
        for (text, line) in [
            ("{\n\"a\" 1}", 2),
            ("[1\n\n", 3),
            ("{} x", 1),
            ("\"\\ud83d\"", 1),
            ("01", 1),
            ("-", 1),
            ("[,]", 1),
            ("1.", 1),
            ("1e", 1),
            ("{1: 2}", 1),
            ("{true: 2}", 1),
            ("", 1),
            ("{:1}", 1),
            ("nul", 1),
        ] {
            assert_eq!(read(text).expect_err(text).line, line, "{text}");
        }
        assert!(
            read(&"[".repeat(100_000))
                .expect_err("deep")
                .reason
                .contains("deeply")
        );
    }
}
