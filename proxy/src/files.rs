//! Directories whose changes are told: files of secrets and of xDS are replaced in them, often by moving a symbolic link.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tracing::warn;

/// Is told that something in a directory has changed.
pub(crate) trait DirectoryListener: Send + Sync {
    /// Reads again what may have changed. Called on the thread that watches, which may block.
    fn directory_changed(&self);

    /// The same, and something was moved there. Default: what a change of any kind does.
    fn moved_into_place(&self) {
        self.directory_changed();
    }
}

/// Watches directories, on a thread of its own from the first one on.
#[derive(Debug, Default)]
pub(crate) struct DirectoryWatcher {
    running: OnceLock<Option<Arc<Running>>>,
}

/// Who is to be told, and whether something was moved into the directory.
type Due = (Arc<dyn DirectoryListener>, bool);

struct Running {
    inotify: OwnedFd,
    listeners: Mutex<HashMap<i32, Vec<Weak<dyn DirectoryListener>>>>,
}

impl DirectoryWatcher {
    /// Tells `listener` of changes in `directory` for as long as it lives. Once is enough for each directory.
    pub(crate) fn watch(
        &self,
        directory: &Path,
        listener: &Arc<dyn DirectoryListener>,
    ) -> io::Result<()> {
        let running = self.running.get_or_init(|| match Running::start() {
            Ok(running) => Some(running),
            Err(error) => {
                warn!(%error, "Files cannot be watched.");
                None
            }
        });
        let Some(running) = running else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // Before the directory is watched, so that no event finds nobody to tell.
        let mut listeners = running.listeners.lock();
        let number = inotify::add_watch(&running.inotify, directory, changes())?;
        let known = listeners.entry(number).or_default();
        known.retain(|known| known.strong_count() > 0);
        let new = Arc::downgrade(listener);
        if !known.iter().any(|known| known.ptr_eq(&new)) {
            known.push(new);
        }
        Ok(())
    }
}

impl Running {
    fn start() -> io::Result<Arc<Self>> {
        let running = Arc::new(Self {
            inotify: inotify::init(CreateFlags::CLOEXEC)?,
            listeners: Mutex::default(),
        });
        let thread = running.clone();
        std::thread::Builder::new()
            .name("file_watch".to_owned())
            .spawn(move || thread.run())?;
        Ok(running)
    }

    fn run(&self) {
        let mut buffer = [const { MaybeUninit::uninit() }; EVENTS];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let mut told: Vec<Due> = Vec::new();
            // What is changed together is read together: several files are often replaced at once.
            let mut first = true;
            while first || !reader.is_buffer_empty() {
                let (number, what) = match reader.next() {
                    Ok(event) => (event.wd(), event.events()),
                    Err(error) if error == rustix::io::Errno::INTR => continue,
                    Err(error) => {
                        warn!(%error, "Files are watched no more.");
                        return;
                    }
                };
                if first {
                    std::thread::sleep(TOGETHER);
                    first = false;
                }
                self.take(number, what, &mut told);
            }
            for (listener, moved) in told {
                match moved {
                    true => listener.moved_into_place(),
                    false => listener.directory_changed(),
                }
            }
        }
    }

    /// Collects who is to be told of an event.
    fn take(&self, number: i32, what: ReadFlags, told: &mut Vec<Due>) {
        let gone = what.contains(ReadFlags::IGNORED);
        let moved = what.contains(ReadFlags::MOVED_TO);
        let mut all = self.listeners.lock();
        let Some(listeners) = all.get_mut(&number) else {
            return;
        };
        listeners.retain(|listener| listener.strong_count() > 0);
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            let known = told
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &listener));
            match known {
                Some((_, known)) => *known |= moved,
                None => told.push((listener, moved)),
            }
        }
        if gone {
            all.remove(&number);
        } else if listeners.is_empty() {
            all.remove(&number);
            // It may be gone by itself.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// Files that were written to their end, and names that came, went or moved.
fn changes() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
}

/// The directory that a file is in.
pub(crate) fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// How many bytes of events are read at once.
const EVENTS: usize = 4096;
/// How long further events are waited for after one.
const TOGETHER: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Told(Sender<()>);

    impl DirectoryListener for Told {
        fn directory_changed(&self) {
            let _ = self.0.send(());
        }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("outrigger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn listener() -> (Arc<dyn DirectoryListener>, Receiver<()>) {
        let (sender, receiver) = channel();
        (Arc::new(Told(sender)), receiver)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_link_that_is_moved_over_another_is_told() {
        let folder = folder("watch-link");
        let watcher = DirectoryWatcher::default();
        let (listener, told) = listener();
        watcher.watch(&folder, &listener).unwrap();
        watcher.watch(&folder, &listener).unwrap();
        std::os::unix::fs::symlink("one", folder.join("new")).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        std::fs::rename(folder.join("new"), folder.join("data")).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn who_is_gone_is_told_nothing_and_a_missing_directory_is_an_error() {
        let folder = folder("watch-gone");
        let watcher = DirectoryWatcher::default();
        let (gone, told_gone) = listener();
        watcher.watch(&folder, &gone).unwrap();
        drop(gone);
        let (listener, told) = listener();
        watcher.watch(&folder, &listener).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        assert!(told_gone.try_recv().is_err());
        assert!(watcher.watch(&folder.join("nowhere"), &listener).is_err());
    }
}
