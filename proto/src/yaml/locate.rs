//! Where a field of a message is written.

use super::node::{Document, NodeId, Value};
use super::{Format, Source, read_json, read_yaml};
use crate::any;
use crate::schema::{Kind, Message, WellKnown};

/// File and line of the last step of `path` that is written in one of `sources`.
pub(super) fn locate(
    message: Message,
    sources: &[Source<'_>],
    path: &str,
) -> Option<(String, u32)> {
    let documents: Vec<_> = sources
        .iter()
        .filter_map(|source| Some((source, document(source)?)))
        .collect();
    let mut places: Vec<_> = documents
        .iter()
        .map(|(source, document)| Place::root(source, document))
        .collect();
    let mut scope = Scope {
        message: Some(message),
        is_map: false,
    };
    for step in steps(path)? {
        let (found, inner) = match step {
            Step::Field(name) => scope.field(&places, name),
            Step::Index(index) => (element(&places, index).into_iter().collect(), scope),
            Step::Key(key) => scope.key(&places, &key),
        };
        if found.is_empty() {
            break;
        }
        (places, scope) = (found, inner);
    }
    // What comes last replaces what came before.
    places
        .last()
        .map(|place| (place.source.name.to_owned(), place.line))
}

fn document<'a>(source: &Source<'a>) -> Option<Document<'a>> {
    let text = std::str::from_utf8(source.bytes).ok()?;
    match source.format {
        Format::Yaml => read_yaml::read(text).ok(),
        Format::Json => read_json::read(text).ok(),
        Format::Binary | Format::Text => None,
    }
}

/// Where one of the sources has what the path has reached.
#[derive(Clone, Copy)]
struct Place<'d, 'a> {
    source: &'d Source<'a>,
    document: &'d Document<'a>,
    node: NodeId,
    line: u32,
}

impl<'d, 'a> Place<'d, 'a> {
    fn root(source: &'d Source<'a>, document: &'d Document<'a>) -> Self {
        Self {
            source,
            document,
            node: document.root,
            line: document.node(document.root).line,
        }
    }

    fn value(self) -> &'d Value<'a> {
        &self.document.node(self.node).value
    }

    fn entry(self, is_wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let Value::Map(entries) = self.value() else {
            return None;
        };
        let entry = entries.iter().rev().find(|entry| is_wanted(&entry.key))?;
        Some(Self {
            node: entry.value,
            line: entry.line,
            ..self
        })
    }

    /// The element of a list whose `name` is this. What is no list is passed on.
    fn named(self, name: &str) -> Option<Self> {
        let Value::List(items) = self.value() else {
            return Some(self);
        };
        let element = |item: &NodeId| Self {
            node: *item,
            line: self.document.node(*item).line,
            ..self
        };
        items.iter().map(element).find(|element| {
            let found = element.entry(|key| key == "name");
            found.is_some_and(|found| matches!(found.value(), Value::Text(text) if *text == name))
        })
    }

    /// The message that the `@type` of an `Any` names.
    fn any_message(self) -> Option<Message> {
        let Value::Text(url) = self.entry(|key| key == "@type")?.value() else {
            return None;
        };
        Message::by_name(any::type_name(url))
    }
}

/// The type of what the path has reached.
#[derive(Clone, Copy)]
struct Scope {
    message: Option<Message>,
    is_map: bool,
}

impl Scope {
    fn field<'d, 'a>(self, places: &[Place<'d, 'a>], name: &str) -> (Vec<Place<'d, 'a>>, Self) {
        let is_any = self
            .message
            .is_some_and(|message| message.well_known() == Some(WellKnown::Any));
        let message = if is_any {
            places.last().and_then(|place| place.any_message())
        } else {
            self.message
        };
        let field = message.and_then(|message| message.field_by_name(name));
        let is_wanted = |key: &str| {
            key == name
                || field.is_some_and(|field| field.name() == key || field.json_name() == key)
        };
        let inner = field.map_or(
            Self {
                message: None,
                is_map: false,
            },
            |field| Self {
                message: match field.kind() {
                    Kind::Message(message) => Some(message),
                    _ => None,
                },
                is_map: field.map_entry().is_some(),
            },
        );
        (
            places
                .iter()
                .filter_map(|place| place.entry(is_wanted))
                .collect(),
            inner,
        )
    }

    fn key<'d, 'a>(self, places: &[Place<'d, 'a>], key: &str) -> (Vec<Place<'d, 'a>>, Self) {
        let value = self
            .message
            .filter(|_| self.is_map)
            .and_then(|entry| entry.field_by_number(2));
        let message = value.and_then(|value| match value.kind() {
            Kind::Message(message) => Some(message),
            _ => None,
        });
        if !self.is_map {
            // The entry of a list that has this name; or a note to a single message.
            let found = places.iter().filter_map(|place| place.named(key)).collect();
            return (found, self);
        }
        let found = places
            .iter()
            .filter_map(|place| place.entry(|found| found == key))
            .collect();
        (
            found,
            Self {
                message,
                is_map: false,
            },
        )
    }
}

/// Lists of later sources follow those of earlier ones, and a single element counts as a list of one.
fn element<'d, 'a>(places: &[Place<'d, 'a>], mut index: usize) -> Option<Place<'d, 'a>> {
    for place in places {
        match place.value() {
            Value::List(items) => match items.get(index) {
                Some(item) => {
                    return Some(Place {
                        node: *item,
                        line: place.document.node(*item).line,
                        ..*place
                    });
                }
                None => index -= items.len(),
            },
            _ if index == 0 => return Some(*place),
            _ => index -= 1,
        }
    }
    None
}

enum Step<'p> {
    Field(&'p str),
    Index(usize),
    Key(String),
}

/// Takes a path apart. None if it is none.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = unquote(quoted)?;
            steps.push(Step::Key(key));
            rest = after.strip_prefix(']')?;
        } else if let Some(bracket) = rest.strip_prefix('[') {
            let (index, after) = bracket.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Field(name));
            rest = after;
        }
    }
    Some(steps)
}

/// The content of a quoted string, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((content, characters.as_str())),
            '\\' => content.push(match characters.next()? {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            character => content.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::yaml::{Format, Source, locate};

    const FIRST: &str = r#"node:
  id: a
static_resources:
  listeners:
  - name: one
    filterChains:
    - filters:
      - name: f
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          httpFilters:
          - name: x
          statPrefix: y
  clusters:
  - name: c
    metadata:
      filter_metadata:
        "a \"b\"":
          k: v
"#;
    const SECOND: &str = "{\n\"node\": {\n\"id\": \"b\"},\n\"static_resources\": {\"clusters\":\n{\"name\": \"d\",\n\"connectTimeout\": \"0s\"}}}";

    #[test]
    fn a_path_leads_to_its_line() {
        let sources = [
            Source {
                name: "first",
                format: Format::Yaml,
                bytes: FIRST.as_bytes(),
            },
            Source {
                name: "second",
                format: Format::Json,
                bytes: SECOND.as_bytes(),
            },
        ];
        for (path, place) in [
            ("node.id", ("second", 3)),
            ("static_resources.listeners[0].name", ("first", 5)),
            (
                "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].name",
                ("first", 12),
            ),
            (
                "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefix",
                ("first", 13),
            ),
            (
                "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[\"x\"].typed_config",
                ("first", 12),
            ),
            (
                "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[\"y\"]",
                ("first", 11),
            ),
            ("static_resources.listeners[0].address", ("first", 5)),
            (
                "static_resources.clusters[0].metadata.filter_metadata[\"a \\\"b\\\"\"]",
                ("first", 18),
            ),
            (
                "static_resources.clusters[1].connect_timeout",
                ("second", 6),
            ),
            ("static_resources.clusters[7].name", ("second", 4)),
        ] {
            let found = locate("envoy.config.bootstrap.v3.Bootstrap", &sources, path);
            assert_eq!(found, Some((place.0.to_owned(), place.1)), "{path}");
        }
        for path in ["a..b", "a[", "a[b]", "a[\"b]"] {
            assert_eq!(
                locate("envoy.config.bootstrap.v3.Bootstrap", &sources, path),
                None,
                "{path}"
            );
        }
    }
}
