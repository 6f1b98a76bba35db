//! How names were written on the wire, for connections that keep that.

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
