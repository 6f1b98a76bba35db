//! YAML documents as JSON values that remember their lines.
//!
//! JSON is read as the YAML that it is. Aliases and tags are refused: no object needs them, and an alias lets a small
//! file describe a huge one. Of the plain scalars, `null`, `~`, `true`, `false` and numbers in JSON's form are not
//! strings.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value as Json};

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    root: Node,
}

#[derive(Debug)]
struct Node {
    line: u32,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Scalar(Json),
    List(Vec<Node>),
    Map(Vec<(u32, String, Node)>),
}

/// A step of a path into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a map.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The text is not YAML, or not YAML as read here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) reason: String,
}

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;

/// The documents of a text, the empty ones left out.
pub(super) fn read(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder {
        open: Vec::new(),
        documents: Vec::new(),
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| SyntaxError {
            line: line(error.marker().line()),
            reason: format!("not YAML: {}", error.info()),
        })?;
        builder.event(event, line(span.start.line()))?;
    }
    Ok(builder.documents)
}

impl Document {
    /// The line on which the document begins.
    pub(super) fn line(&self) -> u32 {
        self.root.line
    }

    /// The line of the last step of `path` that is written.
    pub(super) fn line_of(&self, path: &[Step]) -> u32 {
        let (mut node, mut found) = (&self.root, self.root.line);
        for step in path {
            let next = match (step, &node.value) {
                (Step::Key(name), Value::Map(entries)) => entries
                    .iter()
                    .find(|(_, key, _)| key == name)
                    .map(|(line, _, value)| (*line, value)),
                (Step::Index(index), Value::List(items)) => {
                    items.get(*index).map(|item| (item.line, item))
                }
                _ => None,
            };
            let Some((line, inner)) = next else { break };
            (node, found) = (inner, line);
        }
        found
    }

    pub(super) fn to_json(&self) -> Json {
        self.root.to_json()
    }
}

impl Node {
    fn to_json(&self) -> Json {
        match &self.value {
            Value::Scalar(value) => value.clone(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(_, key, node)| (key.clone(), node.to_json()));
                Json::Object(entries.collect::<Map<_, _>>())
            }
        }
    }
}

struct Builder {
    open: Vec<Open>,
    documents: Vec<Document>,
}

enum Open {
    List(u32, Vec<Node>),
    Map(u32, Vec<(u32, String, Node)>, Option<(u32, String)>),
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(_) => Err(error(line, "aliases are not read: repeat the value")),
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    return Err(error(line, "tags are not read"));
                }
                if let Some(Open::Map(_, entries, key @ None)) = self.open.last_mut() {
                    if entries.iter().any(|(_, known, _)| *known == text) {
                        return Err(error(line, format!("the key {text:?} is there twice")));
                    }
                    *key = Some((line, text.into_owned()));
                    return Ok(());
                }
                self.complete(Node {
                    line,
                    value: Value::Scalar(scalar(&text, style)),
                });
                Ok(())
            }
            Event::SequenceStart(_, tag) => {
                self.open(line, tag.is_some(), Open::List(line, Vec::new()))
            }
            Event::MappingStart(_, tag) => {
                self.open(line, tag.is_some(), Open::Map(line, Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                match self.open.pop() {
                    Some(Open::List(line, items)) => self.complete(Node {
                        line,
                        value: Value::List(items),
                    }),
                    Some(Open::Map(line, entries, _)) => self.complete(Node {
                        line,
                        value: Value::Map(entries),
                    }),
                    None => return Err(error(line, "a list or map ends that was not begun")),
                }
                Ok(())
            }
        }
    }

    fn open(&mut self, line: u32, tagged: bool, open: Open) -> Result<(), SyntaxError> {
        if tagged {
            return Err(error(line, "tags are not read"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(error(line, format!("nested deeper than {MAX_DEPTH}")));
        }
        if let Some(Open::Map(_, _, None)) = self.open.last() {
            return Err(error(line, "a key has to be a scalar"));
        }
        self.open.push(open);
        Ok(())
    }

    fn complete(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => {
                if let Some((line, key)) = key.take() {
                    entries.push((line, key, node));
                }
            }
            None if matches!(node.value, Value::Scalar(Json::Null)) => {}
            None => self.documents.push(Document { root: node }),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Json {
    if style != ScalarStyle::Plain {
        return Json::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => text
            .parse::<Number>()
            .map_or_else(|_| Json::String(text.to_owned()), Json::Number),
    }
}

fn error(line: u32, reason: impl Into<String>) -> SyntaxError {
    SyntaxError {
        line,
        reason: reason.into(),
    }
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_the_lines_of_their_fields() {
        let documents = read("---\n# nothing\n---\na: 1\nb:\n- c: x\n- d: '1'\n").unwrap();
        assert_eq!(documents.len(), 1);
        let path = [Step::Key("b".into()), Step::Index(1), Step::Key("d".into())];
        assert_eq!(documents[0].line_of(&path), 7);
        assert_eq!(
            documents[0].to_json(),
            serde_json::json!({"a": 1, "b": [{"c": "x"}, {"d": "1"}]})
        );
    }

    #[test]
    fn what_could_grow_or_hide_is_refused_with_its_line() {
        for (text, line, reason) in [
            ("a: &x 1\nb: *x\n", 2, "aliases"),
            ("a: 1\na: 2\n", 2, "twice"),
            ("a: !x 1\n", 1, "tags"),
            ("a: [\n", 2, "not YAML"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error:?}");
            assert_eq!(error.line, line, "{text}: {error:?}");
        }
    }
}
