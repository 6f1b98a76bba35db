//! Finds the routes whose path criterion a path may meet, lowest number first, without looking at the others.
//!
//! Every criterion has an anchor: bytes that each path which meets it begins with. The distinct anchors are kept sorted, each
//! with the longest other anchor that it begins with. The longest anchor of a path is then its predecessor in that order, or
//! one that the predecessor begins with; all its other anchors follow from there.

use smallvec::SmallVec;

use super::path::{Anchor, PathCriterion};

/// The index over the routes of a virtual host.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    plain: Anchors,
    /// Anchors of criteria that ignore case, in lower case.
    folded: Anchors,
    connect: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Anchors {
    bytes: Box<[u8]>,
    entries: Box<[Entry]>,
    routes: Box<[u32]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    /// The longest other anchor that this one begins with.
    parent: u32,
    first_route: u32,
    route_count: u32,
}

const NONE: u32 = u32::MAX;

/// Route numbers in ascending order, merged from sorted lists.
#[derive(Debug, Default)]
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 8]>,
}

impl PathIndex {
    /// Indexes criteria by their positions.
    pub(super) fn new<'a>(criteria: impl IntoIterator<Item = &'a PathCriterion>) -> Self {
        let mut plain = Vec::new();
        let mut folded = Vec::new();
        let mut connect = Vec::new();
        for (number, criterion) in (0u32..).zip(criteria) {
            match criterion.anchor() {
                Anchor::Connect => connect.push(number),
                Anchor::Prefix(text) if criterion.folds() => {
                    folded.push((text.to_ascii_lowercase(), number));
                }
                Anchor::Prefix(text) => plain.push((text.to_vec(), number)),
            }
        }
        Self {
            plain: Anchors::new(plain),
            folded: Anchors::new(folded),
            connect: connect.into(),
        }
    }

    /// The routes that a request with this path (without query) may take. `connect`: the request is a CONNECT.
    pub(super) fn candidates(&self, path: Option<&[u8]>, connect: bool) -> Candidates<'_> {
        let mut lists = SmallVec::new();
        if let Some(path) = path {
            self.plain.collect(path, false, &mut lists);
            self.folded.collect(path, true, &mut lists);
        }
        if connect && !self.connect.is_empty() {
            lists.push(&*self.connect);
        }
        Candidates { lists }
    }
}

impl Anchors {
    fn new(mut anchors: Vec<(Vec<u8>, u32)>) -> Self {
        anchors.sort();
        #[allow(
            clippy::expect_used,
            reason = "a message is read into less memory than that"
        )]
        let small = |n: usize| u32::try_from(n).expect("a configuration is smaller than 4 GB");
        let mut bytes: Vec<u8> = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        let mut routes = Vec::with_capacity(anchors.len());
        let mut open: Vec<u32> = Vec::new();
        for (text, route) in anchors {
            let key = |entry: &Entry| {
                let start = entry.start as usize;
                start..start + entry.len as usize
            };
            routes.push(route);
            if let Some(last) = entries.last_mut()
                && bytes[key(last)] == *text
            {
                last.route_count += 1;
                continue;
            }
            while let Some(index) = open.last()
                && !text.starts_with(&bytes[key(&entries[*index as usize])])
            {
                open.pop();
            }
            let entry = Entry {
                start: small(bytes.len()),
                len: small(text.len()),
                parent: open.last().copied().unwrap_or(NONE),
                first_route: small(routes.len() - 1),
                route_count: 1,
            };
            bytes.extend_from_slice(&text);
            open.push(small(entries.len()));
            entries.push(entry);
        }
        Self {
            bytes: bytes.into(),
            entries: entries.into(),
            routes: routes.into(),
        }
    }

    fn collect<'a>(&'a self, path: &[u8], fold: bool, lists: &mut SmallVec<[&'a [u32]; 8]>) {
        let after = self
            .entries
            .partition_point(|entry| !is_after(self.key(entry), path, fold));
        let mut next = after.checked_sub(1).and_then(|i| self.entries.get(i));
        let mut is_prefix = false;
        while let Some(entry) = next {
            // What a prefix of the path begins with is a prefix of the path as well.
            is_prefix = is_prefix || begins(path, self.key(entry), fold);
            if is_prefix {
                let first = entry.first_route as usize;
                lists.push(&self.routes[first..first + entry.route_count as usize]);
            }
            next = self.entries.get(entry.parent as usize);
        }
    }

    fn key(&self, entry: &Entry) -> &[u8] {
        let start = entry.start as usize;
        &self.bytes[start..start + entry.len as usize]
    }
}

fn begins(path: &[u8], key: &[u8], fold: bool) -> bool {
    match path.get(..key.len()) {
        None => false,
        Some(start) if fold => start.eq_ignore_ascii_case(key),
        Some(start) => start == key,
    }
}

/// Whether `key` sorts after `path`, taken in lower case if `fold` is set.
fn is_after(key: &[u8], path: &[u8], fold: bool) -> bool {
    if fold {
        key.iter()
            .copied()
            .gt(path.iter().map(u8::to_ascii_lowercase))
    } else {
        key > path
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let list = self
            .lists
            .iter_mut()
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list[0])?;
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first)
    }
}
