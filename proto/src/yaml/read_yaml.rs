//! YAML to a tree, with the meaning that Envoy gives to it.
//!
//! Only the first document of a text is read. A quoted or block scalar without a tag is a string; a plain one is null, a boolean
//! (`yes`, `on` and `y` too), an integer (decimal, `0x` or `0` octal) or a string. Fractions are strings, integers
//! beyond 32 bits as well: the field decides what they become, and in a `google.protobuf.Struct` they stay strings.
//! Of two equal keys the later one counts. A key tagged `!ignore` is left out. There are no merge keys.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::node::{Document, Entry, NodeId, SyntaxError, Value, first_repeated};

/// Reads the first document of `text`.
pub(crate) fn read(text: &str) -> Result<Document<'_>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder {
        document: Document::new(),
        open: Vec::new(),
        anchors: HashMap::new(),
    };
    let mut last_line = 1;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| SyntaxError {
            line: line(error.marker().line()),
            reason: format!("not YAML: {}{}", error.info(), hint(error.info())),
        })?;
        last_line = line(span.start.line());
        if let Some(root) = builder.event(event, span)? {
            builder.document.root = root;
            return Ok(builder.document);
        }
    }
    let root = builder.add(last_line, Value::Null)?;
    builder.document.root = root;
    Ok(builder.document)
}

/// What to do about an error that other readers of YAML do not make.
fn hint(info: &str) -> &'static str {
    let is_indentation = info == "invalid indentation"
        || info.ends_with("in flow construct")
        || info.ends_with("in quoted scalar");
    if is_indentation {
        " (indent all lines of `{…}`, `[…]` and of quoted texts more than the block they stand in)"
    } else {
        ""
    }
}

struct Builder<'a> {
    document: Document<'a>,
    open: Vec<Container<'a>>,
    anchors: HashMap<usize, NodeId>,
}

struct Container<'a> {
    line: u32,
    anchor: usize,
    content: Content<'a>,
}

enum Content<'a> {
    List(Vec<NodeId>),
    Map {
        entries: Vec<Entry<'a>>,
        key: Option<Key<'a>>,
    },
}

struct Key<'a> {
    line: u32,
    text: Cow<'a, str>,
    ignored: bool,
}

impl<'a> Builder<'a> {
    /// Takes one event. Gives the root when the document is complete.
    fn event(&mut self, event: Event<'a>, span: Span) -> Result<Option<NodeId>, SyntaxError> {
        let line = line(span.start.line());
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(None),
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Container {
                    content:
                        Content::Map {
                            key: key @ None, ..
                        },
                    ..
                }) = self.open.last_mut()
                {
                    let ignored = tag
                        .as_deref()
                        .is_some_and(|tag| tag.handle == "!" && tag.suffix == "ignore");
                    let text = if style == ScalarStyle::Plain && is_null(&text) {
                        Cow::Borrowed("null")
                    } else {
                        text
                    };
                    *key = Some(Key {
                        line,
                        text,
                        ignored,
                    });
                    return Ok(None);
                }
                let id = self.add(line, scalar(text, style, tag.as_deref()))?;
                self.complete(id, anchor, line)
            }
            Event::Alias(anchor) => {
                let id = *self
                    .anchors
                    .get(&anchor)
                    .ok_or_else(|| error(line, "the anchor contains its own alias"))?;
                self.complete(id, 0, line)
            }
            Event::SequenceStart(anchor, _) => self.open(line, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(
                line,
                anchor,
                Content::Map {
                    entries: Vec::new(),
                    key: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(container) = self.open.pop() else {
                    return Err(error(line, "a list or map ends that was not begun"));
                };
                let value = match container.content {
                    Content::List(items) => Value::List(items),
                    Content::Map { entries, .. } => Value::Map(last_of_equal_keys(entries)),
                };
                let id = self.add(container.line, value)?;
                self.complete(id, container.anchor, line)
            }
        }
    }

    fn open(
        &mut self,
        line: u32,
        anchor: usize,
        content: Content<'a>,
    ) -> Result<Option<NodeId>, SyntaxError> {
        if let Some(Container {
            content: Content::Map { key: None, .. },
            ..
        }) = self.open.last()
        {
            return Err(error(line, "a key has to be a scalar"));
        }
        self.open.push(Container {
            line,
            anchor,
            content,
        });
        Ok(None)
    }

    fn complete(
        &mut self,
        id: NodeId,
        anchor: usize,
        line: u32,
    ) -> Result<Option<NodeId>, SyntaxError> {
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        let Some(container) = self.open.last_mut() else {
            return Ok(Some(id));
        };
        match &mut container.content {
            Content::List(items) => items.push(id),
            Content::Map { entries, key } => {
                let key = key
                    .take()
                    .ok_or_else(|| error(line, "an alias cannot be a key"))?;
                if !key.ignored {
                    entries.push(Entry {
                        line: key.line,
                        key: key.text,
                        value: id,
                    });
                }
            }
        }
        Ok(None)
    }

    fn add(&mut self, line: u32, value: Value<'a>) -> Result<NodeId, SyntaxError> {
        self.document
            .add(line, value)
            .ok_or_else(|| error(line, "the document is too large"))
    }
}

/// Drops every entry that a later one with the same key replaces.
pub(crate) fn last_of_equal_keys(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    if first_repeated(&entries).is_some() {
        let mut seen = HashSet::new();
        entries.reverse();
        entries.retain(|entry| seen.insert(entry.key.clone().into_owned()));
        entries.reverse();
    }
    entries
}

fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'a> {
    // An explicit tag takes away from quotes that they make a string, whatever the tag says.
    let is_text = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) => matches!(
            (tag.handle.as_str(), tag.suffix.as_str()),
            ("", "!") | ("!", "")
        ),
    };
    if is_text {
        return Value::Text(text);
    }
    if tag.is_none() && is_null(&text) {
        return Value::Null;
    }
    if let Some(value) = boolean(&text) {
        return Value::Bool(value);
    }
    match integer(&text) {
        Some(value) if i32::try_from(value).is_ok() => Value::Number(if is_canonical(&text) {
            text
        } else {
            value.to_string().into()
        }),
        Some(value) => Value::Text(if is_canonical(&text) {
            text
        } else {
            value.to_string().into()
        }),
        None => Value::Text(text),
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Words of all small, all capital, or small letters after a capital.
fn boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, bool); 8] = [
        ("y", true),
        ("yes", true),
        ("true", true),
        ("on", true),
        ("n", false),
        ("no", false),
        ("false", false),
        ("off", false),
    ];
    let (_, value) = WORDS
        .into_iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text))?;
    let tail = text.get(1..)?;
    let small_tail = tail.bytes().all(|byte| byte.is_ascii_lowercase());
    let all_capital = text.bytes().all(|byte| byte.is_ascii_uppercase());
    (small_tail || all_capital).then_some(value)
}

/// An integer as C reads it: sign, then decimal, `0x` hexadecimal or `0` octal digits.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty()
        || !digits
            .bytes()
            .all(|digit| char::from(digit).is_digit(radix))
    {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn is_canonical(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    text == "0"
        || digits
            .as_bytes()
            .first()
            .is_some_and(|first| (b'1'..=b'9').contains(first))
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

fn error(line: u32, reason: &str) -> SyntaxError {
    SyntaxError {
        line,
        reason: format!("not YAML: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_envoy() {
        let number = |text: &'static str| Value::Number(text.into());
        let string = |text: &'static str| Value::Text(text.into());
        for (text, expected) in [
            ("~", Value::Null),
            ("null", Value::Null),
            ("Yes", Value::Bool(true)),
            ("OFF", Value::Bool(false)),
            ("n", Value::Bool(false)),
            ("yEs", string("yEs")),
            ("5", number("5")),
            ("-5", number("-5")),
            ("+5", number("5")),
            ("0x1F", number("31")),
            ("010", number("8")),
            ("08", string("08")),
            ("2147483647", number("2147483647")),
            ("2147483648", string("2147483648")),
            ("9223372036854775808", string("9223372036854775808")),
            ("1.5", string("1.5")),
            ("1e3", string("1e3")),
            ("0.25s", string("0.25s")),
            ("'5'", string("5")),
            ("\"true\"", string("true")),
            ("! 5", string("5")),
            ("!!str 5", number("5")),
            ("!!str '5'", number("5")),
            ("!!str ~", string("~")),
            ("-", string("-")),
            ("0x", string("0x")),
        ] {
            let text = if text == "-" {
                "'-'".to_owned()
            } else {
                text.to_owned()
            };
            let document = read(&text).expect(&text);
            assert_eq!(document.node(document.root).value, expected, "{text}");
        }
    }

    #[test]
    fn keys_tagged_ignore_are_left_out_but_anchor() {
        let document = read("!ignore shared: &a {x: 1}\nuse: *a\n").expect("YAML");
        let Value::Map(entries) = &document.node(document.root).value else {
            panic!("a map")
        };
        assert_eq!(
            entries
                .iter()
                .map(|entry| entry.key.as_ref())
                .collect::<Vec<_>>(),
            ["use"]
        );
        assert!(matches!(
            document.node(entries[0].value).value,
            Value::Map(_)
        ));
    }

    #[test]
    fn the_later_of_two_equal_keys_counts() {
        let document = read("a: 1\nb: 2\na: 3\n").expect("YAML");
        let Value::Map(entries) = &document.node(document.root).value else {
            panic!("a map")
        };
        assert_eq!(
            entries
                .iter()
                .map(|entry| (entry.key.as_ref(), entry.line))
                .collect::<Vec<_>>(),
            [("b", 2), ("a", 3)]
        );
    }

    #[test]
    fn only_the_first_document_is_read() {
        let document = read("a: 1\n---\n{").expect("YAML");
        assert!(matches!(document.node(document.root).value, Value::Map(_)));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        assert_eq!(read("a: 1\nb: [1, 2\nc: }").expect_err("broken").line, 3);
        assert_eq!(
            read("? [a]\n: b").expect_err("a list as key").reason,
            "not YAML: a key has to be a scalar"
        );
        assert_eq!(
            read("&a [*a]").expect_err("a cycle").reason,
            "not YAML: the anchor contains its own alias"
        );
    }
}
