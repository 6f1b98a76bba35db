//! Watching the directory of the input.
//!
//! The directory is looked at five times a second: names, sizes and times of change of all files. That works on every
//! file system, with links that are swapped (as Kubernetes mounts volumes), and needs nothing from the kernel. A change
//! is taken over when the directory has been the same for two looks, so that a file that is being written is not read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::control::Control;
use crate::model;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Loads a directory whenever it changes, for ever.
pub async fn watch(control: Arc<Control>, directory: PathBuf) {
    let mut cache = model::Cache::default();
    let mut seen = None;
    let mut taken = None;
    loop {
        let looked = directory.clone();
        let now = tokio::task::spawn_blocking(move || look(&looked))
            .await
            .ok();
        if now.is_some() && now == seen && now != taken {
            let read = directory.clone();
            let mut files = std::mem::take(&mut cache);
            let change = tracing::debug_span!("change", directory = %read.display());
            let reading = tracing::debug_span!(
                parent: &change,
                "read_files",
                files = now.as_ref().map(BTreeMap::len),
                errors = tracing::field::Empty,
            );
            let loading = tokio::task::spawn_blocking(move || {
                let _entered = reading.enter();
                let loaded = model::load_again(&read, &mut files);
                reading.record("errors", loaded.as_ref().err().map_or(0, Vec::len));
                (loaded, files)
            });
            if let Ok((loaded, files)) = loading.await {
                cache = files;
                change.in_scope(|| control.input(loaded));
                taken.clone_from(&now);
            }
        }
        seen = now;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Size, time of change and inode of each file.
fn look(directory: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![(directory.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let path = entry.path();
            // Following links: what they lead to is what is read.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir()
                && depth < 8
                && !entry.file_name().to_string_lossy().starts_with('.')
            {
                open.push((path, depth + 1));
            } else if metadata.is_file() {
                let state = (
                    metadata.len(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    metadata.ino(),
                );
                found.insert(path, state);
            }
        }
    }
    found
}
