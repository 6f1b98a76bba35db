//! What sources have changed lately, and what of it was refused: the admin page `/xds_log`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_proto::difference::{self, Difference};
use outrigger_proto::json::Style;
use serde_json::Value;

use super::resource::Received;
use super::{Refused, ResourceKind};

/// The last updates, and the contents that the next ones are compared with. Lives on main.
#[derive(Default)]
pub struct XdsLog {
    entries: RefCell<VecDeque<LogEntry>>,
    contents: RefCell<Contents>,
}

/// One response, or file, that changed something or was refused.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// When it came.
    pub at: SystemTime,
    /// What it is about.
    pub kind: ResourceKind,
    /// What the source calls it.
    pub version: Arc<str>,
    /// Resources that were not there before.
    pub added: LogNames,
    /// Resources that have other contents now, with the fields that differ: `path: old -> new`.
    pub changed: Vec<(Arc<str>, Vec<String>)>,
    /// How many more have other contents.
    pub more_changed: usize,
    /// Resources that are gone.
    pub removed: LogNames,
    /// Resources that were sent with the contents that they had.
    pub unchanged: usize,
    /// Resources that were not taken.
    pub refused: Vec<Refused>,
}

/// LogNames of resources, the first ones of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogNames {
    /// At most 100.
    pub first: Vec<Arc<str>>,
    /// How many there are.
    pub count: usize,
}

/// What was taken last.
#[derive(Default)]
struct Contents {
    known: HashMap<(ResourceKind, Arc<str>), Content>,
    /// Bytes that are held.
    held: usize,
}

/// The content of one resource.
enum Content {
    Kept(Vec<u8>),
    /// There was no room, or it is secret, and only that it has changed can be told.
    Hashed {
        length: usize,
        hash: u64,
    },
}

/// So many updates are kept.
const ENTRIES: usize = 100;
/// So many names, changed resources and fields of one are listed in an update.
const LISTED: usize = 100;
const FIELDS: usize = 20;
/// Values and reasons that are longer are cut, at this many characters.
const VALUE: usize = 120;
const REASON: usize = 1000;
/// So much is kept of contents, in bytes.
const HELD: usize = 16 << 20;

impl XdsLog {
    /// The updates, the last one first.
    pub fn entries(&self) -> Vec<LogEntry> {
        self.entries.borrow().iter().rev().cloned().collect()
    }

    /// Takes note of a response and of what was refused of it.
    pub(super) fn record(&self, kind: ResourceKind, received: &Received, refused: &[Refused]) {
        let mut entry = LogEntry {
            at: SystemTime::now(),
            kind,
            version: received.version.clone(),
            added: LogNames::default(),
            changed: Vec::new(),
            more_changed: 0,
            removed: LogNames::default(),
            unchanged: 0,
            refused: refused.iter().take(LISTED).map(shortened).collect(),
        };
        let mut contents = self.contents.borrow_mut();
        for resource in &received.sent {
            let name = &resource.name;
            if refused.iter().any(|known| known.name == *name) {
                continue;
            }
            let bytes = resource.body.as_ref().map_or(&[][..], |body| &body.value);
            let is_listed = entry.changed.len() < LISTED;
            match contents.replace(kind, name, bytes, is_listed) {
                Replaced::Same => entry.unchanged += 1,
                Replaced::Nothing => entry.added.push(name),
                Replaced::Other(fields) if is_listed => entry.changed.push((name.clone(), fields)),
                Replaced::Other(_) => entry.more_changed += 1,
            }
        }
        for name in &received.removed {
            if contents.remove(kind, name) {
                entry.removed.push(name);
            }
        }
        drop(contents);
        if entry.is_news() {
            let mut entries = self.entries.borrow_mut();
            if entries.len() == ENTRIES {
                entries.pop_front();
            }
            entries.push_back(entry);
        }
    }
}

impl LogEntry {
    /// Whether anything has changed or was refused.
    fn is_news(&self) -> bool {
        self.added.count + self.changed.len() + self.removed.count + self.refused.len() > 0
    }
}

impl LogNames {
    fn push(&mut self, name: &Arc<str>) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(name.clone());
        }
    }
}

/// What stood in the place of a content.
enum Replaced {
    Nothing,
    Same,
    /// In these fields; none where that is not known, or not asked for.
    Other(Vec<String>),
}

impl Contents {
    fn replace(
        &mut self,
        kind: ResourceKind,
        name: &Arc<str>,
        bytes: &[u8],
        is_listed: bool,
    ) -> Replaced {
        // Keys are held where they are used, and nowhere else.
        let keeps = kind != ResourceKind::Secret;
        let key = (kind, name.clone());
        let Some(known) = self.known.get_mut(&key) else {
            let content = Content::new(bytes, keeps && self.held + bytes.len() <= HELD);
            self.held += content.held();
            self.known.insert(key, content);
            return Replaced::Nothing;
        };
        if known.is(bytes) {
            return Replaced::Same;
        }
        self.held -= known.held();
        let fields = match known {
            Content::Kept(old) if is_listed => differences(kind, old, bytes),
            _ => Vec::new(),
        };
        known.become_other(bytes, keeps && self.held + bytes.len() <= HELD);
        self.held += known.held();
        Replaced::Other(fields)
    }

    fn remove(&mut self, kind: ResourceKind, name: &Arc<str>) -> bool {
        let removed = self.known.remove(&(kind, name.clone()));
        self.held -= removed.as_ref().map_or(0, Content::held);
        removed.is_some()
    }
}

impl Content {
    fn new(bytes: &[u8], has_room: bool) -> Self {
        match has_room {
            true => Self::Kept(bytes.to_vec()),
            false => Self::Hashed {
                length: bytes.len(),
                hash: hash(bytes),
            },
        }
    }

    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Kept(kept) => kept == bytes,
            Self::Hashed { length, hash: kept } => *length == bytes.len() && *kept == hash(bytes),
        }
    }

    /// The bytes are kept where the old ones were, if they fit well.
    fn become_other(&mut self, bytes: &[u8], has_room: bool) {
        match self {
            Self::Kept(kept)
                if has_room && (kept.capacity() / 2..=kept.capacity()).contains(&bytes.len()) =>
            {
                kept.clear();
                kept.extend_from_slice(bytes);
            }
            _ => *self = Self::new(bytes, has_room),
        }
    }

    /// Bytes that are held.
    fn held(&self) -> usize {
        match self {
            Self::Kept(bytes) => bytes.len(),
            Self::Hashed { .. } => 0,
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}

/// The fields in which two messages of a kind differ. What is private is not shown.
fn differences(kind: ResourceKind, old: &[u8], new: &[u8]) -> Vec<String> {
    let style = Style {
        pretty: false,
        redact: true,
    };
    // One more than is listed tells that there are more.
    let most = FIELDS * 10;
    let Ok(found) = difference::differences(kind.type_name(), old, new, style, most) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for Difference { path, old, new } in found {
        let value = |json: Option<String>| {
            json.and_then(|json| serde_json::from_str::<Value>(&json).ok())
                .unwrap_or(Value::Null)
        };
        differ(&path, &value(old), &value(new), &mut out);
    }
    if out.len() > FIELDS {
        let more = out.len() - FIELDS;
        out.truncate(FIELDS);
        out.push(format!("and {more} more"));
    }
    if out.is_empty() {
        out.push("what differs is private, or the order of a map".to_owned());
    }
    out
}

fn differ(path: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    if old == new || out.len() > FIELDS * 10 {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let field = |name: &str| match path.is_empty() {
                true => name.to_owned(),
                false => format!("{path}.{name}"),
            };
            for (name, value) in old {
                let other = new.get(name).unwrap_or(&Value::Null);
                differ(&field(name), value, other, out);
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                differ(&field(name), &Value::Null, value, out);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                let (old, new) = (old.get(index), new.get(index));
                if old != new {
                    let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                    differ(&format!("{path}[{index}]"), old, new, out);
                }
            }
        }
        (Value::Null, new) => out.push(format!("{path}: + {}", shown(new))),
        (old, Value::Null) => out.push(format!("{path}: - {}", shown(old))),
        (old, new) => out.push(format!("{path}: {} -> {}", shown(old), shown(new))),
    }
}

fn shown(value: &Value) -> String {
    cut(&value.to_string(), VALUE)
}

fn shortened(refused: &Refused) -> Refused {
    Refused {
        name: refused.name.clone(),
        reason: cut(&refused.reason, REASON),
    }
}

fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Debug for XdsLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::any::pack;
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::xds::Resource;

    fn cluster(name: &str, alt: &str) -> Resource {
        let cluster = Cluster {
            name: name.to_owned(),
            alt_stat_name: alt.to_owned(),
            ..Default::default()
        };
        Resource {
            name: name.into(),
            aliases: Vec::new(),
            version: "1".into(),
            body: Some(pack(&cluster)),
        }
    }

    fn record(log: &XdsLog, sent: Vec<Resource>, removed: &[&str], refused: &[Refused]) {
        let received = Received {
            version: "7".into(),
            sent,
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            ..Received::default()
        };
        log.record(ResourceKind::Cluster, &received, refused);
    }

    #[test]
    fn an_update_tells_what_was_added_changed_by_field_and_removed() {
        let log = XdsLog::default();
        record(&log, vec![cluster("a", "x"), cluster("b", "")], &[], &[]);
        let second = vec![cluster("a", "y"), cluster("c", "")];
        record(&log, second, &["b", "unheard-of"], &[]);
        let entries = log.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].added.count, 2);
        let last = &entries[0];
        assert_eq!(last.added.first, ["c".into()]);
        assert_eq!(last.removed.first, ["b".into()]);
        let fields = vec![r#"alt_stat_name: "x" -> "y""#.to_owned()];
        assert_eq!(last.changed, [("a".into(), fields)]);
    }

    #[test]
    fn what_changes_nothing_is_no_news() {
        let log = XdsLog::default();
        record(&log, vec![cluster("a", "x")], &[], &[]);
        record(&log, vec![cluster("a", "x")], &[], &[]);
        assert_eq!(log.entries().len(), 1);
    }

    #[test]
    fn what_was_refused_is_told_and_changes_nothing() {
        let log = XdsLog::default();
        record(&log, vec![cluster("a", "x")], &[], &[]);
        let refused = Refused {
            name: "a".into(),
            reason: "bad ".repeat(1000),
        };
        record(&log, vec![cluster("a", "y")], &[], &[refused]);
        let last = &log.entries()[0];
        assert!(last.changed.is_empty());
        assert!(last.refused[0].reason.len() < 1100);
        record(&log, vec![cluster("a", "z")], &[], &[]);
        let last = &log.entries()[0];
        assert_eq!(last.changed[0].1, [r#"alt_stat_name: "x" -> "z""#]);
    }

    #[test]
    fn the_log_has_an_end() {
        let log = XdsLog::default();
        for number in 0..ENTRIES + 5 {
            record(&log, vec![cluster("a", &number.to_string())], &[], &[]);
        }
        assert_eq!(log.entries().len(), ENTRIES);
    }
}
