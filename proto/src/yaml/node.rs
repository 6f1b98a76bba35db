//! A configuration text as a tree of values with line numbers: what YAML, JSON and the text format have in common.

use std::borrow::Cow;
use std::collections::HashSet;

/// A parsed text.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    nodes: Vec<Node<'a>>,
    pub(crate) root: NodeId,
}

/// Where a node is in its document. An alias shares the node of its anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

/// A value and the line on which it begins, from 1.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) line: u32,
    pub(crate) value: Value<'a>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number as JSON writes it.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    List(Vec<NodeId>),
    Map(Vec<Entry<'a>>),
}

/// One entry of a map.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) line: u32,
    pub(crate) key: Cow<'a, str>,
    pub(crate) value: NodeId,
}

impl<'a> Document<'a> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            root: NodeId(0),
        }
    }

    /// Adds a node; none once the document is larger than can be numbered.
    pub(crate) fn add(&mut self, line: u32, value: Value<'a>) -> Option<NodeId> {
        let id = NodeId(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push(Node { line, value });
        Some(id)
    }

    #[allow(clippy::expect_used, reason = "an id is made from an index")]
    pub(crate) fn node(&self, id: NodeId) -> &Node<'a> {
        let index = usize::try_from(id.0).expect("ids are handed out for indexes");
        &self.nodes[index]
    }

    /// Takes a value out, leaving null.
    #[cfg(test)]
    pub(crate) fn take(&mut self, id: NodeId) -> Value<'a> {
        let index = usize::try_from(id.0).expect("ids are handed out for indexes");
        std::mem::replace(&mut self.nodes[index].value, Value::Null)
    }
}

impl Value<'_> {
    /// What it is, in words for an error.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(text) => format!("the number {text}"),
            Self::Text(text) => format!("the string {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "an object".to_owned(),
        }
    }
}

/// The first entry whose key an earlier entry has.
pub(crate) fn first_repeated<'e, 'a>(entries: &'e [Entry<'a>]) -> Option<&'e Entry<'a>> {
    if entries.len() <= 16 {
        let repeats = |(index, entry): &(usize, &Entry<'_>)| {
            entries[..*index]
                .iter()
                .any(|earlier| earlier.key == entry.key)
        };
        return entries
            .iter()
            .enumerate()
            .find(repeats)
            .map(|(_, entry)| entry);
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries
        .iter()
        .find(|entry| !seen.insert(entry.key.as_ref()))
}

/// A text could not be parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) reason: String,
}
