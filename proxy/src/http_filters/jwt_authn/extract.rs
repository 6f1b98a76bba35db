//! Where tokens are in a request.

use std::collections::BTreeMap;

use super::provider::Provider;
use crate::http::{HeaderName, RequestHead};
use crate::http_filters::query::{self, Query};
use crate::matchers::cookie_value;

/// The places where the tokens of some providers may be, in the order in which Envoy looks at them.
#[derive(Debug, Default)]
pub(super) struct Extractor {
    /// By name and prefix together, so that places of several providers are one.
    headers: BTreeMap<String, HeaderPlace>,
    parameters: BTreeMap<String, Issuers>,
    cookies: BTreeMap<String, Issuers>,
    /// What only this filter may write.
    sanitized: Vec<HeaderName>,
}

#[derive(Debug)]
struct HeaderPlace {
    name: HeaderName,
    prefix: Box<[u8]>,
    issuers: Issuers,
}

/// Whose tokens may be in a place.
#[derive(Debug, Default)]
struct Issuers {
    any: bool,
    names: Vec<Box<str>>,
}

/// A token and where it was.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) text: Vec<u8>,
    place: Place<'a>,
    issuers: &'a Issuers,
}

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Header(&'a HeaderName),
    Parameter(&'a str),
    Cookie,
}

/// A header that holds a token behind a prefix.
#[derive(Debug)]
pub(super) struct HeaderLocation {
    pub(super) name: HeaderName,
    pub(super) prefix: Box<[u8]>,
}

impl Extractor {
    /// The places of these providers.
    pub(super) fn new<'a>(providers: impl IntoIterator<Item = &'a Provider>) -> Self {
        let mut extractor = Self::default();
        for provider in providers {
            extractor.add(provider);
        }
        extractor
    }

    fn add(&mut self, provider: &Provider) {
        let issuer = &*provider.issuer;
        for location in &provider.from_headers {
            self.add_header(location.name.clone(), &location.prefix, issuer);
        }
        for name in &provider.from_params {
            self.parameters.entry(name.clone()).or_default().add(issuer);
        }
        for name in &provider.from_cookies {
            self.cookies.entry(name.clone()).or_default().add(issuer);
        }
        let nowhere = provider.from_headers.is_empty()
            && provider.from_params.is_empty()
            && provider.from_cookies.is_empty();
        if nowhere {
            self.add_header(HeaderName::new("authorization"), b"Bearer ", issuer);
            let parameter = self.parameters.entry("access_token".to_owned());
            parameter.or_default().add(issuer);
        }
        self.sanitized.extend(provider.written_headers().cloned());
    }

    fn add_header(&mut self, name: HeaderName, prefix: &[u8], issuer: &str) {
        let key = format!("{}{}", name.as_str(), String::from_utf8_lossy(prefix));
        let place = self.headers.entry(key).or_insert_with(|| HeaderPlace {
            name,
            prefix: prefix.into(),
            issuers: Issuers::default(),
        });
        place.issuers.add(issuer);
    }

    /// Removes the headers that only this filter may write.
    pub(super) fn sanitize(&self, head: &mut RequestHead) {
        for name in &self.sanitized {
            head.fields.remove(name);
        }
    }

    /// Whether tokens may be in the query of this request.
    pub(super) fn looks_at_query(&self, head: &RequestHead) -> bool {
        !self.parameters.is_empty() && head.path().is_some_and(|path| path.contains(&b'?'))
    }

    /// All tokens, in the order in which they are looked for.
    pub(super) fn extract(&self, head: &RequestHead) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        for place in self.headers.values() {
            for value in head.fields.get_all(&place.name) {
                if let Some(text) = place.token(value) {
                    found.push(Found {
                        text: text.to_vec(),
                        place: Place::Header(&place.name),
                        issuers: &place.issuers,
                    });
                }
            }
        }
        let path = head.path().filter(|path| path.contains(&b'?'));
        if let (Some(path), false) = (path, self.parameters.is_empty()) {
            let query = Query::of_path(path);
            for (name, issuers) in &self.parameters {
                if let Some(text) = query.first(name.as_bytes()) {
                    let place = Place::Parameter(name);
                    found.push(Found {
                        text,
                        place,
                        issuers,
                    });
                }
            }
        }
        for (name, issuers) in &self.cookies {
            if let Some(text) = cookie_value(&head.fields, name.as_bytes()) {
                found.push(Found {
                    text: text.to_vec(),
                    place: Place::Cookie,
                    issuers,
                });
            }
        }
        found
    }
}

impl HeaderPlace {
    /// The token in a value; none if the prefix is nowhere in it.
    fn token<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        if self.prefix.is_empty() {
            return Some(value);
        }
        let at = memchr::memmem::find(value, &self.prefix)? + self.prefix.len();
        let rest = &value[at..];
        // What cannot be the start of a token is passed over; where nothing is left, the value counts as it is.
        let start = rest.iter().position(|byte| is_token_byte(*byte));
        Some(start.map_or(value, |start| &rest[start..]))
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

impl Issuers {
    fn add(&mut self, issuer: &str) {
        if issuer.is_empty() {
            self.any = true;
        } else {
            self.names.push(issuer.into());
        }
    }
}

impl Found<'_> {
    /// Whether a token of this issuer may be where this one was.
    pub(super) fn allows(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.names.iter().any(|name| **name == *issuer)
    }

    /// Takes the token out of the request. Cookies stay, as with Envoy.
    pub(super) fn remove(&self, head: &mut RequestHead) {
        match self.place {
            Place::Header(name) => drop(head.fields.remove(name)),
            Place::Parameter(name) => query::remove_parameter(head, name.as_bytes()),
            Place::Cookie => {}
        }
    }
}
