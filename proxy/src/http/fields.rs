//! Header fields in the order of their arrival: names and values are spans of one buffer.

use std::fmt;
use std::ops::Range;

use super::known::Known;
use super::recycle::Storage;

/// The fields of a head or of trailers. Names are in lower case; order and repetition are kept.
///
/// Values are bytes, as on the wire. A name of [`Known`] is found in one step, any other by comparing lengths first.
#[derive(Clone)]
pub struct Fields {
    storage: Storage,
}

/// How the sender of a head wrote it, for `preserve_case`: names in their own case, and the reason phrase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginalNames {
    names: Vec<Box<[u8]>>,
    /// Names that the sender did not send are written `Like-This` instead of in lower case.
    pub others_in_proper_case: bool,
    /// The reason phrase, to be written in place of our own.
    pub reason_phrase: Option<Box<[u8]>>,
}

impl OriginalNames {
    /// No names yet.
    pub fn new(others_in_proper_case: bool) -> Self {
        Self {
            names: Vec::new(),
            others_in_proper_case,
            reason_phrase: None,
        }
    }

    /// Remembers a name as it came. The first form counts.
    pub fn remember(&mut self, name: &[u8]) {
        if self.find(name).is_none() {
            self.names.push(name.into());
        }
    }

    /// The form in which a name came.
    pub fn find(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.names.iter().find(|n| n.eq_ignore_ascii_case(name));
        found.map(|name| &**name)
    }
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
mod tests {
    use super::*;

    fn pairs(fields: &Fields) -> Vec<(String, String)> {
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        fields.iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn lines_are_written_with_every_change_that_was_made_to_them() {
        let head = b"GET / HTTP/1.1\r\nX-A: 1\r\nx-b:2\r\nContent-Length: 3\r\nx-c: 4\r\nx-d: 5\r\nx-e: 6\r\n\r\n";
        let mut fields = Fields::new();
        fields.append("x-first", "0");
        let base = fields.load(head);
        for line in [16..22, 24..29, 31..48, 50..56, 58..64, 66..72] {
            let colon = line.start + head[line.clone()].iter().position(|b| *b == b':').unwrap();
            let value = colon + 1 + usize::from(head[colon + 1] == b' ');
            let name = base + line.start..base + colon;
            fields.append_loaded(name, base + value..base + line.end, |_| false);
        }
        let written = |fields: &Fields| {
            let mut out = Vec::new();
            fields.write_lines(&mut out, |known, _| known == Known::ContentLength);
            String::from_utf8(out).unwrap().replace("\r\n", "|")
        };
        let all = "x-first: 0|x-a: 1|x-b: 2|x-c: 4|x-d: 5|x-e: 6|";
        assert_eq!(written(&fields), all);
        fields.set("x-a", "7");
        fields.append_to("x-e", b",", "8");
        fields.remove("x-d");
        fields.append("x-f", "9");
        assert_eq!(
            written(&fields),
            "x-first: 0|x-a: 7|x-b: 2|x-c: 4|x-e: 6,8|x-f: 9|"
        );
    }

    #[test]
    fn order_of_repeated_and_mixed_names_is_kept() {
        let mut fields = Fields::new();
        for (name, value) in [("A", "1"), ("b", "2"), ("a", "3")] {
            fields.append_wire(name.as_bytes(), value.as_bytes());
        }
        assert_eq!(
            pairs(&fields),
            [("a", "1"), ("b", "2"), ("a", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        assert_eq!(fields.get_all("a").collect::<Vec<_>>(), [b"1", b"3"]);
    }

    #[test]
    fn set_replaces_the_first_and_removes_the_others() {
        let mut fields = Fields::new();
        for value in ["1", "2"] {
            fields.append(Known::Via, value);
            fields.append("x-a", value);
        }
        fields.set(Known::Via, "only");
        fields.set("x-a", "one");
        assert_eq!(fields.len(), 2);
        assert_eq!(fields.get(Known::Via), Some(&b"only"[..]));
        assert_eq!(fields.get("x-a"), Some(&b"one"[..]));
    }

    #[test]
    fn removed_names_are_gone_and_can_come_back() {
        let mut fields = Fields::new();
        fields.append("host", "a");
        fields.append("x-y", "b");
        assert_eq!(fields.remove("host"), 1);
        assert!(!fields.contains(Known::Host));
        fields.append(Known::Host, "c");
        assert_eq!(fields.get("host"), Some(&b"c"[..]));
        fields.retain(|name, _| name != b"host");
        assert!(fields.get("host").is_none());
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn a_name_after_255_fields_is_still_found() {
        let mut fields = Fields::new();
        for i in 0..300 {
            fields.append(format!("x-{i}").as_str(), "v");
        }
        fields.append(Known::Te, "trailers");
        assert_eq!(fields.get(Known::Te), Some(&b"trailers"[..]));
    }

    #[test]
    fn wire_fields_that_merge_are_joined_whether_they_were_loaded_or_not() {
        let head = b"Via: x|via: y|Via: |a: 1|A: 2|";
        let places = [
            (0..3, 5..6),
            (7..10, 12..13),
            (14..17, 19..19),
            (20..21, 23..24),
            (25..26, 28..29),
        ];
        let mut loaded = Fields::new();
        let base = loaded.load(head);
        let mut copied = Fields::new();
        let at = |r: &Range<usize>| r.start + base..r.end + base;
        for (name, value) in &places {
            loaded.append_loaded(at(name), at(value), |_| true);
            copied.append_wire_merging(&head[name.clone()], &head[value.clone()], |_| true);
        }
        let want = [("via", "x,y"), ("a", "1"), ("a", "2")];
        assert_eq!(
            pairs(&loaded),
            want.map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        assert_eq!(pairs(&copied), pairs(&loaded));
        let mut apart = Fields::new();
        for value in ["1", "2"] {
            apart.append_wire_merging(b"Via", value.as_bytes(), |_| false);
        }
        assert_eq!(apart.get_all("via").count(), 2);
    }

    #[test]
    fn append_to_joins_with_the_separator() {
        let mut fields = Fields::new();
        fields.append_to(Known::ForwardedFor, b",", "10.0.0.1");
        fields.append_to(Known::ForwardedFor, b",", "10.0.0.2");
        assert_eq!(
            fields.get(Known::ForwardedFor),
            Some(&b"10.0.0.1,10.0.0.2"[..])
        );
    }
}
