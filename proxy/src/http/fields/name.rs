//! Names of fields: known ones are numbers, others are bytes in lower case.

use std::fmt;

use super::super::known::Known;

/// A header name in lower case, as a configuration holds it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderName {
    known: Option<Known>,
    bytes: Box<[u8]>,
}

/// What a field can be asked for by: a [`Known`] name, a [`HeaderName`] or a lower-case string.
pub trait Name {
    /// The known name, if it is one.
    fn known(&self) -> Option<Known>;
    /// The name in lower case.
    fn bytes(&self) -> &[u8];
}

impl Name for Known {
    fn known(&self) -> Option<Known> {
        Some(*self)
    }
    fn bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl Name for HeaderName {
    fn known(&self) -> Option<Known> {
        self.known
    }
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Name + ?Sized> Name for &T {
    fn known(&self) -> Option<Known> {
        (**self).known()
    }
    fn bytes(&self) -> &[u8] {
        (**self).bytes()
    }
}

impl Name for str {
    fn known(&self) -> Option<Known> {
        Known::find(self.as_bytes())
    }
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Name for [u8] {
    fn known(&self) -> Option<Known> {
        Known::find(self)
    }
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl HeaderName {
    /// Puts a name into lower case. The caller has checked that it is a legal one.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        let bytes = name.as_ref().to_ascii_lowercase().into_boxed_slice();
        Self {
            known: Known::find(&bytes),
            bytes,
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
