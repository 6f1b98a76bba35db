//! Secrets in files: a `DiscoveryResponse` in YAML or JSON, as `path_config_source` names it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use outrigger_proto::pb::envoy::config::core::v3::{PathConfigSource, WatchedDirectory};
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrigger_proto::yaml::{Format, Source, UnknownFields, load};
use parking_lot::Mutex;

use super::cell::SecretCell;
use crate::files::{DirectoryListener, DirectoryWatcher, directory_of};

use crate::config::{ConfigPath, Rejected};

/// Reads the secret of a cell from a file, whenever its directory changes.
pub(super) struct SecretFile {
    file: PathBuf,
    cell: Weak<SecretCell>,
    /// What was read last, so that only a change is an update.
    read: Mutex<Option<Vec<u8>>>,
}

/// Reads the secret of `cell` from a file, now and whenever the file is replaced. A file that is not there is an error; one
/// that holds no good secret is waited for.
pub(super) fn follow(
    cell: &Arc<SecretCell>,
    source: PathConfigSource,
    watcher: &DirectoryWatcher,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let PathConfigSource {
        path: file,
        watched_directory,
        // Harmless: only systems without file events poll.
        poll_interval: _,
    } = source;
    let path = path.field("path_config_source");
    let file = PathBuf::from(file);
    if let Err(error) = std::fs::metadata(&file) {
        let file = file.display();
        return Err(path
            .field("path")
            .reject(format!("cannot read \"{file}\": {error}")));
    }
    let directory = match watched_directory {
        // Harmless: changes in place are always seen.
        Some(WatchedDirectory {
            path,
            watch_modify: _,
        }) => PathBuf::from(path),
        None => directory_of(&file),
    };
    let followed = Arc::new(SecretFile {
        file,
        cell: Arc::downgrade(cell),
        read: Mutex::new(None),
    });
    let listener: Arc<dyn DirectoryListener> = followed.clone();
    watcher.watch(&directory, &listener).map_err(|error| {
        let directory = directory.display();
        path.reject(format!("\"{directory}\" cannot be watched: {error}"))
    })?;
    followed.directory_changed();
    cell.keep(listener);
    Ok(())
}

impl DirectoryListener for SecretFile {
    fn directory_changed(&self) {
        let Some(cell) = self.cell.upgrade() else {
            return;
        };
        let shown = self.file.display();
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) => return cell.failed(&format!("cannot read \"{shown}\": {error}")),
        };
        if self.read.lock().as_ref() == Some(&bytes) {
            return;
        }
        let secret = secret_in(&self.file, &bytes, &cell.name);
        *self.read.lock() = Some(bytes);
        match secret {
            // What is wrong with it is told by the cell.
            Ok((secret, version)) => drop(cell.update(secret, &version)),
            Err(error) => cell.failed(&error),
        }
    }
}

/// The secret called `name`, or the first of its kind, in a file, and the version.
fn secret_in(file: &Path, bytes: &[u8], name: &str) -> Result<(pb::Secret, Arc<str>), String> {
    let shown = file.display().to_string();
    let source = Source {
        name: &shown,
        format: Format::of_path(file),
        bytes,
    };
    // What the file holds is secret: errors do not show it.
    let response: DiscoveryResponse = load(&[source], UnknownFields::Ignore)
        .map_err(|_| format!("{shown:?} is not a DiscoveryResponse"))?;
    let secrets = response.resources.iter().filter_map(|any| {
        let (_, value) = outrigger_proto::any::unpack(any).ok()?;
        <pb::Secret as prost::Message>::decode(value).ok()
    });
    let version: Arc<str> = response.version_info.as_str().into();
    let mut found = None;
    for secret in secrets {
        if secret.name == name {
            return Ok((secret, version));
        }
        found.get_or_insert(secret);
    }
    match found {
        Some(secret) if name.is_empty() => Ok((secret, version)),
        _ => Err(format!("{shown:?} has no secret \"{name}\"")),
    }
}
