//! Header fields in the order of their arrival: names and values are spans of one buffer.

mod name;
mod original_names;

use std::fmt;
use std::ops::Range;

use super::known::Known;
use super::recycle::Storage;
use super::syntax::{is_name, is_value};

pub use name::{HeaderName, Name};
pub use original_names::OriginalNames;

/// The fields of a head or of trailers. Names are in lower case; order and repetition are kept.
///
/// Values are bytes, as on the wire. A name of [`Known`] is found in one step, any other by comparing lengths first.
#[derive(Clone)]
pub struct Fields {
    storage: Storage,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IllegalField {
    /// The name is no token.
    Name,
    /// The value has bytes that end a line, or other control bytes.
    Value,
}

/// A place in the buffer of a head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name: Span,
    value: Span,
    known: Option<Known>,
    live: bool,
    /// Name and value stand in the buffer as `name: value` with the end of the line behind them.
    verbatim: bool,
}

impl Fields {
    /// No fields.
    pub fn new() -> Self {
        Self {
            storage: Storage::take(),
        }
    }

    /// How the sender wrote the names, if that was kept.
    pub fn original_names(&self) -> Option<&OriginalNames> {
        self.storage.original.as_deref()
    }

    /// Keeps how the sender wrote the names.
    pub fn set_original_names(&mut self, names: OriginalNames) {
        self.storage.original = Some(Box::new(names));
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.storage.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.storage.live == 0
    }

    /// The sum of the lengths of all names and values, in bytes: Envoy's size of a header map.
    pub fn byte_size(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// The value of the first field called `name`.
    pub fn get(&self, name: impl Name) -> Option<&[u8]> {
        self.position(&name)
            .map(|index| self.bytes(self.storage.entries[index].value))
    }

    /// The value of the first field called `name`, if it is UTF-8.
    pub fn get_str(&self, name: impl Name) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a field called `name` is there.
    pub fn contains(&self, name: impl Name) -> bool {
        self.position(&name).is_some()
    }

    /// The values of all fields called `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a (impl Name + ?Sized)) -> impl Iterator<Item = &'a [u8]> {
        let first = self.position(name).unwrap_or(self.storage.entries.len());
        self.storage.entries[first..]
            .iter()
            .filter(move |f| f.live && self.is_called(f, name))
            .map(|f| self.bytes(f.value))
    }

    /// All fields, in order: name in lower case and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.storage
            .entries
            .iter()
            .filter(|f| f.live)
            .map(|f| (self.bytes(f.name), self.bytes(f.value)))
    }

    /// All fields with their known names, in order. For encoders and filters that treat some names apart.
    pub fn iter_known(&self) -> impl Iterator<Item = (Option<Known>, &[u8], &[u8])> {
        self.storage
            .entries
            .iter()
            .filter(|f| f.live)
            .map(|f| (f.known, self.bytes(f.name), self.bytes(f.value)))
    }

    /// The first field that was not taken over as it came and that no message may carry: its name, and what is wrong with it.
    pub fn first_illegal(&self) -> Option<(&[u8], IllegalField)> {
        let changed = self.storage.entries.iter();
        changed
            .filter(|field| field.live && !field.verbatim)
            .find_map(|field| {
                let name = self.bytes(field.name);
                if field.known.is_none() && !is_name(name) {
                    return Some((name, IllegalField::Name));
                }
                let illegal = !is_value(self.bytes(field.value));
                illegal.then_some((name, IllegalField::Value))
            })
    }

    /// Adds a field after all others. A name that is not yet in lower case is put into it.
    pub fn append(&mut self, name: impl Name, value: impl AsRef<[u8]>) {
        let known = name.known();
        let name = self.store(name.bytes());
        self.push(name, known, value.as_ref());
    }

    /// Adds a field as it came from the wire, its name in any case.
    pub fn append_wire(&mut self, name: &[u8], value: &[u8]) {
        let span = self.store(name);
        let start = span.start as usize;
        let stored = &mut self.storage.bytes[start..start + name.len()];
        stored.make_ascii_lowercase();
        let known = Known::find(stored);
        self.push(span, known, value);
    }

    /// Adds a field as it came from the wire. Where `merges` holds for a known name that is there already, the value is
    /// joined to the first one with a comma instead, unless it is empty. Returns the known name.
    pub fn append_wire_merging(
        &mut self,
        name: &[u8],
        value: &[u8],
        merges: impl FnOnce(Known) -> bool,
    ) -> Option<Known> {
        let span = self.store(name);
        let start = span.start as usize;
        let stored = &mut self.storage.bytes[start..start + name.len()];
        stored.make_ascii_lowercase();
        let known = Known::find(stored);
        if let Some(known) = known
            && self.storage.known[known as usize] != 0
            && merges(known)
        {
            self.storage.bytes.truncate(start);
            if !value.is_empty() {
                self.append_to(known, b",", value);
            }
        } else {
            self.push(span, known, value);
        }
        known
    }

    /// As [`Self::append_wire_merging`], for a name in lower case whose known name was found before. Says whether the value was
    /// joined to another.
    pub(crate) fn append_checked(
        &mut self,
        known: Option<Known>,
        name: &[u8],
        value: &[u8],
        merges: impl FnOnce(Known) -> bool,
    ) -> bool {
        if let Some(known) = known
            && self.storage.known[known as usize] != 0
            && merges(known)
        {
            if !value.is_empty() {
                self.append_to(known, b",", value);
            }
            return true;
        }
        let name = self.store(name);
        self.push(name, known, value);
        false
    }

    /// Copies a head from the wire as a whole; its fields are then added with [`Self::append_loaded`]. Returns where in the
    /// storage the head begins.
    pub(crate) fn load(&mut self, head: &[u8]) -> usize {
        self.store(head).start as usize
    }

    /// As [`Self::append_wire_merging`], for a field whose name and value were loaded: it takes no copy.
    #[inline]
    pub(crate) fn append_loaded(
        &mut self,
        name: Range<usize>,
        value: Range<usize>,
        merges: impl FnOnce(Known) -> bool,
    ) -> Option<Known> {
        let stored = self.storage.bytes.get_mut(name.clone())?;
        stored.make_ascii_lowercase();
        let known = Known::find(stored);
        if let Some(known) = known
            && self.storage.known[known as usize] != 0
            && merges(known)
        {
            let value = self.storage.bytes.get(value)?.to_vec();
            if !value.is_empty() {
                self.append_to(known, b",", value);
            }
        } else {
            let bytes = &self.storage.bytes;
            let verbatim = bytes.get(name.end..value.start) == Some(b": ")
                && bytes.get(value.end..value.end + 2) == Some(b"\r\n");
            let name = Span::from_to(name.start, name.end);
            self.push_spans(name, known, Span::from_to(value.start, value.end));
            if let Some(field) = self.storage.entries.last_mut() {
                field.verbatim = verbatim;
            }
        }
        known
    }

    /// Writes the fields as lines, names in lower case, but for known ones that `skips` is true of. Lines that are as they
    /// came are copied together.
    pub(crate) fn write_lines(
        &self,
        out: &mut Vec<u8>,
        mut skips: impl FnMut(Known, &[u8]) -> bool,
    ) {
        let mut run = Span::default();
        for field in self.storage.entries.iter().filter(|f| f.live) {
            let value = self.bytes(field.value);
            if field.known.is_some_and(|known| skips(known, value)) {
                continue;
            }
            if field.verbatim {
                let line = field.value.start + field.value.len + 2 - field.name.start;
                if run.start + run.len != field.name.start {
                    out.extend_from_slice(self.bytes(run));
                    run = Span {
                        start: field.name.start,
                        len: 0,
                    };
                }
                run.len += line;
                continue;
            }
            let name = self.bytes(field.name);
            out.reserve(run.len as usize + name.len() + value.len() + 4);
            out.extend_from_slice(self.bytes(run));
            run = Span::default();
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(self.bytes(run));
    }

    /// Makes `value` the only value of `name`, where its first field stood or at the end.
    pub fn set(&mut self, name: impl Name, value: impl AsRef<[u8]>) {
        let Some(first) = self.position(&name) else {
            return self.append(name, value);
        };
        let span = self.store(value.as_ref());
        self.storage.entries[first].value = span;
        self.storage.entries[first].verbatim = false;
        for index in first + 1..self.storage.entries.len() {
            let field = self.storage.entries[index];
            if field.live && self.is_called(&field, &name) {
                self.storage.entries[index].live = false;
                self.storage.live -= 1;
            }
        }
    }

    /// Adds `value` to the first field called `name` after a separator, or adds the field.
    pub fn append_to(&mut self, name: impl Name, separator: &[u8], value: impl AsRef<[u8]>) {
        let Some(index) = self.position(&name) else {
            return self.append(name, value);
        };
        let old = self.storage.entries[index].value;
        let value = value.as_ref();
        let start = self.storage.bytes.len();
        let range = old.start as usize..(old.start + old.len) as usize;
        self.storage.bytes.extend_from_within(range);
        if old.len > 0 {
            self.storage.bytes.extend_from_slice(separator);
        }
        self.storage.bytes.extend_from_slice(value);
        self.storage.entries[index].value = Span::from_to(start, self.storage.bytes.len());
        self.storage.entries[index].verbatim = false;
    }

    /// Removes every field called `name`; says how many there were.
    pub fn remove(&mut self, name: impl Name) -> usize {
        let Some(first) = self.position(&name) else {
            return 0;
        };
        let before = self.storage.live;
        for index in first..self.storage.entries.len() {
            let field = self.storage.entries[index];
            if field.live && self.is_called(&field, &name) {
                self.storage.entries[index].live = false;
                self.storage.live -= 1;
            }
        }
        if let Some(known) = name.known() {
            self.storage.known[known as usize] = 0;
        }
        before - self.storage.live
    }

    /// Keeps only the fields for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        for index in 0..self.storage.entries.len() {
            let field = self.storage.entries[index];
            if field.live && !keep(self.bytes(field.name), self.bytes(field.value)) {
                self.storage.entries[index].live = false;
                self.storage.live -= 1;
            }
        }
        self.reindex();
    }

    /// Removes all fields and keeps the capacity.
    pub fn clear(&mut self) {
        self.storage.clear();
    }

    pub(super) fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.storage.bytes.len();
        self.storage.bytes.extend_from_slice(bytes);
        Span::from_to(start, self.storage.bytes.len())
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.storage
            .bytes
            .get(start..start + span.len as usize)
            .unwrap_or_default()
    }

    fn push(&mut self, name: Span, known: Option<Known>, value: &[u8]) {
        let value = self.store(value);
        self.push_spans(name, known, value);
    }

    #[inline]
    fn push_spans(&mut self, name: Span, known: Option<Known>, value: Span) {
        let parts = &mut *self.storage;
        if let Some(known) = known {
            let slot = &mut parts.known[known as usize];
            if *slot == 0 {
                *slot = u8::try_from(parts.entries.len() + 1).unwrap_or(u8::MAX);
            }
        }
        parts.entries.push(Field {
            name,
            value,
            known,
            live: true,
            verbatim: false,
        });
        parts.live += 1;
    }

    fn position(&self, name: &(impl Name + ?Sized)) -> Option<usize> {
        match name.known().map(|known| self.storage.known[known as usize]) {
            Some(0) => None,
            Some(slot) if slot != u8::MAX => Some(usize::from(slot) - 1),
            _ => self
                .storage
                .entries
                .iter()
                .position(|f| f.live && self.is_called(f, name)),
        }
    }

    fn is_called(&self, field: &Field, name: &(impl Name + ?Sized)) -> bool {
        match (field.known, name.known()) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.bytes(field.name) == name.bytes(),
            _ => false,
        }
    }

    fn reindex(&mut self) {
        let parts = &mut *self.storage;
        parts.known = [0; Known::COUNT];
        for (index, field) in parts.entries.iter().enumerate() {
            if let (true, Some(known)) = (field.live, field.known) {
                let slot = &mut parts.known[known as usize];
                if *slot == 0 {
                    *slot = u8::try_from(index + 1).unwrap_or(u8::MAX);
                }
            }
        }
    }
}

impl Span {
    /// A head is limited to a few megabytes by its codec, so that its offsets fit.
    fn from_to(start: usize, end: usize) -> Self {
        Self {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            len: u32::try_from(end - start).unwrap_or(0),
        }
    }
}

impl Default for Fields {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests;
