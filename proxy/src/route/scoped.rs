//! Scoped routes: headers of a request say which of several route configurations it is routed by.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_routing#route-scope>

use std::collections::HashMap;

use outrigger_proto::pb::envoy::config::route::v3::scoped_route_configuration;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::scoped_routes::scope_key_builder::fragment_builder::header_value_extractor::{
    ExtractType, KvElement,
};
use pb::scoped_routes::scope_key_builder::fragment_builder::{HeaderValueExtractor, Type};
use pb::scoped_routes::scope_key_builder::{self, FragmentBuilder as FragmentBuilderProto};
use scoped_route_configuration::key::{self, fragment};
use smallvec::SmallVec;

use crate::config::{ConfigPath, Rejected};
use crate::http::RequestHead;
use crate::matchers::{HeaderKey, HeaderSource};

/// What requests are routed by, by the key of their scope. Made anew when scopes come or go.
#[derive(Debug)]
pub struct ScopedRoutes<T>(HashMap<ScopeKey, T>);

/// The fragments of a key, one after the other, each with its length before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeKey(SmallVec<[u8; 64]>);

/// `ScopeKeyBuilder`: what a request says of its scope.
#[derive(Debug)]
pub struct ScopeKeyBuilder(Box<[FragmentBuilder]>);

/// `HeaderValueExtractor`: a part of a header.
#[derive(Debug)]
struct FragmentBuilder {
    header: HeaderKey,
    /// Stands between the elements of the value; empty: the value is one element.
    element_separator: Box<[u8]>,
    extract: Extract,
}

#[derive(Debug)]
enum Extract {
    /// The element at this place.
    Index(usize),
    /// What stands behind the separator in the first element that begins with this key.
    Element {
        separator: Box<[u8]>,
        key: Box<[u8]>,
    },
}

impl<T> ScopedRoutes<T> {
    /// Of two scopes with one key the later one counts.
    pub fn new(scopes: impl IntoIterator<Item = (ScopeKey, T)>) -> Self {
        Self(scopes.into_iter().collect())
    }

    /// The same scopes with what `make` makes of each.
    pub fn map<U>(&self, mut make: impl FnMut(&ScopeKey, &T) -> U) -> ScopedRoutes<U> {
        let scopes = self.0.iter();
        ScopedRoutes(
            scopes
                .map(|(key, of)| (key.clone(), make(key, of)))
                .collect(),
        )
    }

    /// What belongs to a key.
    pub fn get(&self, key: &ScopeKey) -> Option<&T> {
        self.0.get(key)
    }

    /// What a request is routed by; none: it belongs to no scope, and there is no route for it.
    pub fn find(&self, builder: &ScopeKeyBuilder, head: &RequestHead) -> Option<&T> {
        self.0.get(&builder.key(head)?)
    }
}

impl ScopeKey {
    /// Converts the `key` of a `ScopedRouteConfiguration`.
    pub fn from_proto(
        proto: scoped_route_configuration::Key,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let scoped_route_configuration::Key { fragments } = proto;
        if fragments.is_empty() {
            return Err(path.field("fragments").reject("must not be empty"));
        }
        let mut scope = Self(SmallVec::new());
        path.each("fragments", fragments, |fragment, path| {
            let key::Fragment { r#type } = fragment;
            let fragment::Type::StringKey(text) = path.required("string_key", r#type)?;
            scope.push(text.as_bytes());
            Ok(())
        })?;
        Ok(scope)
    }

    fn push(&mut self, fragment: &[u8]) {
        self.0.extend_from_slice(&fragment.len().to_ne_bytes());
        self.0.extend_from_slice(fragment);
    }
}

impl ScopeKeyBuilder {
    /// Converts `scope_key_builder`.
    pub fn from_proto(
        proto: pb::scoped_routes::ScopeKeyBuilder,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::scoped_routes::ScopeKeyBuilder { fragments } = proto;
        if fragments.is_empty() {
            return Err(path.field("fragments").reject("must not be empty"));
        }
        let fragments = path.each("fragments", fragments, FragmentBuilder::from_proto)?;
        Ok(Self(fragments.into()))
    }

    /// The key of a request; none: it lacks a fragment.
    pub fn key(&self, head: &RequestHead) -> Option<ScopeKey> {
        let mut key = ScopeKey(SmallVec::new());
        for fragment in &self.0 {
            let value = head.first(&fragment.header)?;
            key.push(fragment.extract(&value)?);
        }
        Some(key)
    }
}

impl FragmentBuilder {
    fn from_proto(proto: FragmentBuilderProto, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let scope_key_builder::FragmentBuilder { r#type } = proto;
        let Type::HeaderValueExtractor(extractor) =
            path.required("header_value_extractor", r#type)?;
        let path = path.field("header_value_extractor");
        let HeaderValueExtractor {
            name,
            element_separator,
            extract_type,
        } = extractor;
        let name = path.non_empty("name", name);
        let extract = match extract_type {
            None => Err(path.reject("needs one of index, element")),
            Some(ExtractType::Index(index)) if index != 0 && element_separator.is_empty() => {
                Err(path.field("index").reject(format!(
                    "is {index}: without element_separator there is one element, 0"
                )))
            }
            Some(ExtractType::Index(index)) => {
                Ok(Extract::Index(usize::try_from(index).unwrap_or(usize::MAX)))
            }
            Some(ExtractType::Element(KvElement { separator, key })) => {
                let path = path.field("element");
                let separator = path.non_empty("separator", separator);
                let key = path.non_empty("key", key);
                separator.and_then(|separator| {
                    Ok(Extract::Element {
                        separator: separator.into_bytes().into(),
                        key: key?.into_bytes().into(),
                    })
                })
            }
        };
        Ok(Self {
            header: HeaderKey::new(&name?),
            element_separator: element_separator.into_bytes().into(),
            extract: extract?,
        })
    }

    fn extract<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        let mut elements = Elements {
            rest: Some(value),
            separator: &self.element_separator,
        };
        match &self.extract {
            Extract::Index(index) => elements.nth(*index),
            Extract::Element { separator, key } => elements.find_map(|element| {
                let (name, value) = match find(element, separator) {
                    Some(at) => (&element[..at], &element[at + separator.len()..]),
                    None => (element, &b""[..]),
                };
                (*name == **key).then_some(value)
            }),
        }
    }
}

/// The parts of a value between separators; the whole value where there is no separator.
struct Elements<'a, 's> {
    rest: Option<&'a [u8]>,
    separator: &'s [u8],
}

impl<'a> Iterator for Elements<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let at = match self.separator {
            b"" => None,
            separator => find(rest, separator),
        };
        let Some(at) = at else {
            return Some(rest);
        };
        self.rest = Some(&rest[at + self.separator.len()..]);
        Some(&rest[..at])
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use outrigger_proto::yaml::{Format, Source, UnknownFields, load};

    use super::*;
    use crate::config::ConfigReport;
    use crate::http::Protocol;

    fn builder(fragments: &str) -> Result<ScopeKeyBuilder, String> {
        let yaml = format!("fragments: [{fragments}]");
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let proto = load(&[source], UnknownFields::Refuse).unwrap();
        let report = ConfigReport::new();
        ScopeKeyBuilder::from_proto(proto, &ConfigPath::root(&report, "builder"))
            .map_err(|_| format!("{:?}", report.take()))
    }

    fn key(fragments: &[&str]) -> ScopeKey {
        let mut key = ScopeKey(SmallVec::new());
        for fragment in fragments {
            key.push(fragment.as_bytes());
        }
        key
    }

    fn head(value: &str) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        head.set_authority(b"a.example");
        head.fields.append("x-scope", value);
        head.fields.append("x-scope", "later");
        head
    }

    #[test]
    fn a_fragment_is_an_element_of_the_first_value() {
        for (extractor, value, expected) in [
            ("index: 0", "a,b", Some("a,b")),
            ("element_separator: \",\", index: 1", "a,b", Some("b")),
            ("element_separator: \",\", index: 2", "a,b", None),
            ("element_separator: \"--\", index: 1", "a--b--c", Some("b")),
            ("element_separator: \",\", index: 1", "a,", Some("")),
            (
                "element_separator: \";\", element: { separator: \"=\", key: k }",
                "x=1;k=2=3;k=4",
                Some("2=3"),
            ),
            ("element: { separator: \"=\", key: k }", "k", Some("")),
            ("element: { separator: \"=\", key: k }", "kk=1", None),
        ] {
            let builder = builder(&format!(
                "{{ header_value_extractor: {{ name: X-Scope, {extractor} }} }}"
            ));
            let found = builder.unwrap().key(&head(value));
            assert_eq!(found, expected.map(|e| key(&[e])), "{extractor}: {value}");
        }
    }

    #[test]
    fn a_request_belongs_to_the_scope_with_all_of_its_fragments() {
        let builder = builder(
            "{ header_value_extractor: { name: x-scope, index: 0 } }, { header_value_extractor: { name: \":authority\", index: 0 } }",
        )
        .unwrap();
        let scopes = [
            (key(&["a", "a.example"]), 1),
            (key(&["aa", ".example"]), 2),
            (key(&["a", "a.example"]), 3),
        ];
        let routes = ScopedRoutes::new(scopes);
        assert_eq!(routes.find(&builder, &head("a")), Some(&3));
        assert_eq!(routes.find(&builder, &head("b")), None);
        let nothing = RequestHead::new(Protocol::Http11, b"GET");
        assert_eq!(routes.find(&builder, &nothing), None);
    }

    #[test]
    fn an_index_needs_elements() {
        let found = builder("{ header_value_extractor: { name: a, index: 1 } }").unwrap_err();
        assert!(found.contains("element_separator"), "{found}");
        let found = builder("{ header_value_extractor: { name: a } }").unwrap_err();
        assert!(found.contains("needs one of"), "{found}");
    }
}
