//! The last good configuration on disk (`--xds-snapshot-path`): what servers have sent and was taken, for a start without them.
//!
//! A server that cannot be reached and has not answered for a kind of resources since the start is stood in for by what it said
//! when the process ran before. As soon as it answers, its answer counts alone. Nothing with private values is ever written:
//! secrets, and resources with keys or passwords in them, are left out.
//!
//! Stats: `xds_snapshot.{serving,restored,written,write_failure,left_out}`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::json::{Style, encoded_to_json};
use outrigger_proto::pb::google::protobuf::Any;
use prost::Message;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::resource::Received;
use super::subscribers::Subscribers;
use super::{Refused, Resource, ResourceKind};
use crate::stats::Store;

crate::stats_group! {
    /// What the snapshot does.
    struct SnapshotStats {
        gauge serving;
        counter restored;
        counter written;
        counter write_failure;
        gauge left_out;
    }
}

/// What was taken, by source and kind, and the file of it. Lives on main.
pub(super) struct Snapshot {
    path: PathBuf,
    places: RefCell<BTreeMap<(String, ResourceKind), Place>>,
    /// Those that the file stands in for.
    serving: RefCell<BTreeSet<(String, ResourceKind)>>,
    changed: Notify,
    stats: SnapshotStats,
}

/// One kind of resources of one source.
#[derive(Default)]
struct Place {
    version: Arc<str>,
    resources: BTreeMap<Arc<str>, Resource>,
    /// The names of those that are not written.
    private: BTreeSet<Arc<str>>,
}

/// The file.
#[derive(Clone, PartialEq, Message)]
struct SnapshotFile {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, repeated, tag = "2")]
    places: Vec<SavedPlace>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedPlace {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<SavedResource>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, repeated, tag = "3")]
    aliases: Vec<String>,
    #[prost(message, optional, tag = "4")]
    body: Option<Any>,
}

const FORMAT: u32 = 1;
/// Between a change and the writing of it: changes come in swarms.
const SETTLE: Duration = Duration::from_secs(1);
/// A file that is larger was not written here.
const MAX_FILE_BYTES: u64 = 4 << 30;

impl Snapshot {
    /// The snapshot in this file, which need not exist yet. One that cannot be read is as none.
    pub(super) fn load(path: &Path, stats: &Store) -> Self {
        let snapshot = Self {
            path: path.to_owned(),
            places: RefCell::default(),
            serving: RefCell::default(),
            changed: Notify::new(),
            stats: SnapshotStats::new(&stats.scope("xds_snapshot.")),
        };
        snapshot.stats.serving().set(0);
        let shown = path.display();
        match read(path) {
            Ok(places) => *snapshot.places.borrow_mut() = places,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(file = %shown, %error, "A snapshot of xDS cannot be read."),
        }
        snapshot
    }

    /// What a source that cannot be reached said before; none: nothing is known of it.
    pub(super) fn stand_in(&self, source: &str, kind: ResourceKind) -> Option<Received> {
        let key = (source.to_owned(), kind);
        let places = self.places.borrow();
        let place = places.get(&key)?;
        if self.serving.borrow_mut().insert(key) {
            let count = place.resources.len();
            let kind = kind.type_name();
            info!(
                source,
                kind, count, "A source that cannot be reached is stood in for by the snapshot."
            );
            self.stats.restored().inc();
        }
        self.count_serving();
        Some(Received {
            version: place.version.clone(),
            sent: place.resources.values().cloned().collect(),
            removed: Vec::new(),
            ..Received::default()
        })
    }

    /// A source has answered. `anew`: what is known of it from before does not count.
    pub(super) fn note(
        &self,
        source: &str,
        kind: ResourceKind,
        received: &Received,
        (refused, anew): (&[Refused], bool),
    ) {
        let key = (source.to_owned(), kind);
        if self.serving.borrow_mut().remove(&key) {
            self.count_serving();
        }
        let mut places = self.places.borrow_mut();
        let place = places.entry(key).or_default();
        if anew {
            *place = Place::default();
        }
        place.version = received.version.clone();
        for name in &received.removed {
            place.resources.remove(name);
            place.private.remove(name);
        }
        for resource in &received.sent {
            let name = &resource.name;
            if refused.iter().any(|known| known.name == *name) {
                continue;
            }
            let same = |known: &Resource| known.body == resource.body;
            let same = place.resources.get(name).is_some_and(same);
            if !same && is_private(kind, resource.body.as_ref()) {
                place.resources.remove(name);
                place.private.insert(name.clone());
            } else {
                place.private.remove(name);
                place.resources.insert(name.clone(), resource.clone());
            }
        }
        drop(places);
        self.changed.notify_one();
    }

    fn count_serving(&self) {
        let serving = self.serving.borrow().len();
        let serving = u64::try_from(serving).unwrap_or(u64::MAX);
        self.stats.serving().set(serving);
    }

    /// Writes the file some time after each change, for ever.
    pub(super) async fn keep(self: Rc<Self>, subscribers: Rc<Subscribers>) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(SETTLE).await;
            self.prune(&subscribers);
            let file = self.file();
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, &file)).await;
            match written.map_err(io::Error::other).flatten() {
                Ok(()) => self.stats.written().inc(),
                Err(error) => {
                    let file = self.path.display();
                    warn!(%file, %error, "The snapshot of xDS cannot be written.");
                    self.stats.write_failure().inc();
                }
            }
        }
    }

    /// Forgets resources that were asked for by name and are so no more: no server says that they are gone.
    fn prune(&self, subscribers: &Subscribers) {
        let by_name = [
            ResourceKind::Endpoints,
            ResourceKind::RouteConfiguration,
            ResourceKind::ExtensionConfig,
        ];
        for kind in by_name {
            let wanted: BTreeSet<Arc<str>> = subscribers.names(kind).into_iter().collect();
            let mut places = self.places.borrow_mut();
            for (_, place) in places.iter_mut().filter(|((_, known), _)| *known == kind) {
                place.resources.retain(|name, _| wanted.contains(name));
                place.private.retain(|name| wanted.contains(name));
            }
        }
    }

    fn file(&self) -> SnapshotFile {
        let places = self.places.borrow();
        let left_out: usize = places.values().map(|place| place.private.len()).sum();
        let left_out = u64::try_from(left_out).unwrap_or(u64::MAX);
        self.stats.left_out().set(left_out);
        let saved = places.iter().map(|((source, kind), place)| SavedPlace {
            source: source.clone(),
            type_url: kind.type_url(),
            version: place.version.to_string(),
            resources: place.resources.values().map(saved).collect(),
        });
        SnapshotFile {
            format: FORMAT,
            places: saved.collect(),
        }
    }
}

fn saved(resource: &Resource) -> SavedResource {
    SavedResource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        aliases: resource.aliases.clone(),
        body: resource.body.clone(),
    }
}

/// Whether something in it must not be written down. What cannot be looked into may hold it.
fn is_private(kind: ResourceKind, body: Option<&Any>) -> bool {
    let Some(body) = body else {
        return false;
    };
    if kind == ResourceKind::Secret {
        return true;
    }
    let printed = |redact| {
        let style = Style {
            pretty: false,
            redact,
        };
        encoded_to_json(kind.type_name(), &body.value, style).ok()
    };
    match (printed(true), printed(false)) {
        (Some(redacted), Some(open)) => redacted != open,
        _ => true,
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<(String, ResourceKind), Place>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has {size} bytes")));
    }
    let bytes = std::fs::read(path)?;
    let file = SnapshotFile::decode(&*bytes).map_err(io::Error::other)?;
    if file.format != FORMAT {
        let format = file.format;
        return Err(io::Error::other(format!("it has the format {format}")));
    }
    let mut places = BTreeMap::new();
    for saved in file.places {
        let Some(kind) = ResourceKind::from_type_url(&saved.type_url) else {
            continue;
        };
        let resources = saved.resources.into_iter().map(|resource| {
            let name: Arc<str> = resource.name.into();
            let resource = Resource {
                name: name.clone(),
                aliases: resource.aliases,
                version: resource.version.into(),
                body: resource.body,
            };
            (name, resource)
        });
        let place = Place {
            version: saved.version.into(),
            resources: resources.collect(),
            private: BTreeSet::new(),
        };
        places.insert((saved.source, kind), place);
    }
    Ok(places)
}

/// Puts the file in the place of the old one, or leaves that as it is.
fn write(path: &Path, file: &SnapshotFile) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut new = options.open(&beside)?;
    new.write_all(&file.encode_to_vec())?;
    new.sync_all()?;
    std::fs::rename(&beside, path)
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::any::pack;
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
    use outrigger_proto::pb::envoy::config::core::v3::{
        DataSource, TransportSocket, data_source, transport_socket,
    };
    use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

    use super::*;

    fn resource(cluster: &Cluster) -> Resource {
        Resource {
            name: cluster.name.as_str().into(),
            aliases: Vec::new(),
            version: "1".into(),
            body: Some(pack(cluster)),
        }
    }

    fn cluster(name: &str) -> Cluster {
        Cluster {
            name: name.to_owned(),
            ..Default::default()
        }
    }

    fn received(clusters: &[Cluster], removed: &[&str]) -> Received {
        Received {
            version: "7".into(),
            sent: clusters.iter().map(resource).collect(),
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            ..Received::default()
        }
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        let stood_in = snapshot.stand_in("ads", ResourceKind::Cluster);
        let sent = stood_in.map(|received| received.sent).unwrap_or_default();
        sent.iter().map(|known| known.name.to_string()).collect()
    }

    /// Writes the snapshot, and reads it again.
    fn again(snapshot: &Snapshot) -> Snapshot {
        write(&snapshot.path, &snapshot.file()).unwrap();
        Snapshot::load(&snapshot.path, &Store::new(1))
    }

    /// A path for one test, whose file goes with it.
    struct TestFile(PathBuf);

    impl TestFile {
        fn new(test: &str) -> Self {
            let name = format!("outrigger-snapshot-{test}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn snapshot(&self) -> Snapshot {
            Snapshot::load(&self.0, &Store::new(1))
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            // Not every test has written it.
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_was_taken_is_there_at_the_next_start() {
        let file = TestFile::new("again");
        let snapshot = file.snapshot();
        assert!(names(&snapshot).is_empty());
        let refused = Refused {
            name: "bad".into(),
            reason: String::new(),
        };
        let first = received(&[cluster("a"), cluster("bad"), cluster("b")], &[]);
        snapshot.note("ads", ResourceKind::Cluster, &first, (&[refused], true));
        let second = received(&[cluster("c")], &["a"]);
        snapshot.note("ads", ResourceKind::Cluster, &second, (&[], false));
        let snapshot = again(&snapshot);
        assert_eq!(names(&snapshot), ["b", "c"]);
        assert_eq!(snapshot.stats.serving().value(), 1);
        let answer = received(&[cluster("d")], &[]);
        snapshot.note("ads", ResourceKind::Cluster, &answer, (&[], true));
        assert_eq!(snapshot.stats.serving().value(), 0);
        assert_eq!(names(&again(&snapshot)), ["d"]);
    }

    #[test]
    fn what_holds_a_key_is_not_written() {
        let inline = DataSource {
            specifier: Some(data_source::Specifier::InlineString("the key".to_owned())),
            ..Default::default()
        };
        let context = tls::UpstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificates: vec![tls::TlsCertificate {
                    private_key: Some(inline),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let socket = TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(pack(&context))),
        };
        let keyed = Cluster {
            transport_socket: Some(socket),
            ..cluster("keyed")
        };
        let file = TestFile::new("private");
        let snapshot = file.snapshot();
        let first = received(&[keyed, cluster("plain")], &[]);
        snapshot.note("ads", ResourceKind::Cluster, &first, (&[], true));
        let again = again(&snapshot);
        assert_eq!(names(&again), ["plain"]);
        let bytes = std::fs::read(&snapshot.path).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"the key"));
        assert_eq!(snapshot.stats.left_out().value(), 1);
        // Without its key it may be written.
        let second = received(&[cluster("keyed")], &[]);
        snapshot.note("ads", ResourceKind::Cluster, &second, (&[], false));
        assert_eq!(names(&snapshot), ["keyed", "plain"]);
    }

    #[test]
    fn a_file_that_is_no_snapshot_is_as_none() {
        let file = TestFile::new("broken");
        for bytes in [&b"\xff\xff"[..], b"", b"\x08\x63"] {
            std::fs::write(&file.0, bytes).unwrap();
            assert!(names(&file.snapshot()).is_empty());
        }
    }
}
