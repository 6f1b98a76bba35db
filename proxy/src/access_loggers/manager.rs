//! The files behind access logs: opened once, buffered per worker, written by a thread that may block.
//!
//! Stats: `filesystem.{write_buffered,write_completed,write_failed,flushed_by_timer,reopen_failed}` and the gauge
//! `filesystem.write_total_buffered`.
//!
//! Deviations: a buffer that its writer cannot keep up with drops what comes after 4 MiB (counted in `write_failed`); Envoy's
//! grows without bound.
//! Deviations: a file that cannot be reopened is tried again at each flush; Envoy writes nothing to it any more.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::stats::Store;

crate::stats_group! {
    /// What happened to access log files.
    struct FilesystemStats {
        counter flushed_by_timer;
        counter reopen_failed;
        counter write_buffered;
        counter write_completed;
        counter write_failed;
        gauge write_total_buffered;
    }
}

/// What a worker may hold back per file, in bytes.
const CAPACITY: usize = 4 * 1024 * 1024;
/// A buffer that grew beyond this is given back to the allocator once it is written, in bytes.
const KEPT: usize = 256 * 1024;

/// All access log files of the process. The files live as long as the process, as in Envoy.
#[derive(Debug)]
pub struct AccessLogManager {
    shared: Arc<Shared>,
    workers: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A file of this path, which is appended to.
    File(Box<str>),
    /// The standard output of the process.
    Stdout,
    /// The standard error of the process.
    Stderr,
}

/// One destination with its buffers: the first for any thread, the others for one worker each.
#[derive(Debug)]
pub struct LogFile {
    destination: Destination,
    buffers: Box<[Mutex<Vec<u8>>]>,
    output: Mutex<Output>,
    /// An empty buffer for the worker whose own is written.
    spare: Mutex<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stats: FilesystemStats,
    files: Mutex<HashMap<Destination, Arc<LogFile>>>,
    /// `--file-flush-interval-msec`, in milliseconds.
    interval: AtomicU64,
    /// `--file-flush-min-size-kb`, in bytes.
    min_size: AtomicU64,
    reopen: AtomicBool,
    keep_closed: AtomicBool,
    wanted: Mutex<Wanted>,
    wake: Condvar,
}

/// What the writing thread is asked for.
#[derive(Debug, Default)]
struct Wanted {
    flush: bool,
    exit: bool,
}

#[derive(Debug)]
enum Output {
    File(File),
    Stdout,
    Stderr,
    /// Reopening failed, or it was not to be opened.
    Closed,
}

impl AccessLogManager {
    /// A manager without files, for this many workers.
    pub fn new(workers: usize, stats: &Store) -> Self {
        Self {
            shared: Arc::new(Shared {
                stats: FilesystemStats::new(&stats.scope("filesystem.")),
                files: Mutex::default(),
                interval: AtomicU64::new(10_000),
                min_size: AtomicU64::new(64 * 1024),
                reopen: AtomicBool::new(false),
                keep_closed: AtomicBool::new(false),
                wanted: Mutex::default(),
                wake: Condvar::new(),
            }),
            workers,
            thread: Mutex::default(),
        }
    }

    /// Sets what `--file-flush-interval-msec` (default 10 s) and `--file-flush-min-size-kb` (default 64, here in bytes) say.
    pub fn set_flush(&self, interval: Duration, min_size: u64) {
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.shared.min_size.store(min_size, Relaxed);
        // The writer reads the interval under this lock: it sees the new one, or sleeps for the old one and is woken.
        let _wanted = self.shared.wanted.lock();
        self.shared.interval.store(millis.max(1), Relaxed);
        self.shared.wake.notify_one();
    }

    /// Opens no file from now on: what is logged goes nowhere. For a configuration that is looked at, not run.
    pub fn keep_closed(&self) {
        self.shared.keep_closed.store(true, Relaxed);
    }

    /// The file behind a destination, opened if it was not yet.
    pub fn open(&self, destination: &Destination) -> io::Result<Arc<LogFile>> {
        let mut files = self.shared.files.lock();
        if let Some(file) = files.get(destination) {
            return Ok(file.clone());
        }
        let file = Arc::new(LogFile {
            destination: destination.clone(),
            buffers: (0..=self.workers).map(|_| Mutex::default()).collect(),
            output: Mutex::new(if self.shared.keep_closed.load(Relaxed) {
                Output::Closed
            } else {
                Output::open(destination)?
            }),
            spare: Mutex::default(),
            shared: self.shared.clone(),
        });
        files.insert(destination.clone(), file.clone());
        drop(files);
        if !self.shared.keep_closed.load(Relaxed) {
            self.start_thread()?;
        }
        Ok(file)
    }

    /// Has all files reopened before anything more is written to them: SIGUSR1.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.shared.request_flush();
    }

    /// Writes everything that is buffered. Blocks: not for workers.
    pub fn flush(&self) {
        self.shared.flush();
    }

    fn start_thread(&self) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = self.shared.clone();
            *thread = Some(
                std::thread::Builder::new()
                    .name("access-log".to_owned())
                    .spawn(move || shared.run())?,
            );
        }
        Ok(())
    }
}

impl Drop for AccessLogManager {
    /// Writes what is left and ends the thread. Afterwards nothing is written any more.
    fn drop(&mut self) {
        self.shared.wanted.lock().exit = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.get_mut().take() {
            // A thread that panicked has written what it could.
            let _ = thread.join();
        }
        // The files point back to what they are kept in.
        self.shared.files.lock().clear();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut wanted = self.wanted.lock();
            let interval = Duration::from_millis(self.interval.load(Relaxed));
            let timed_out = !wanted.flush
                && !wanted.exit
                && self.wake.wait_for(&mut wanted, interval).timed_out();
            wanted.flush = false;
            let exit = wanted.exit;
            drop(wanted);
            if timed_out {
                let files = self.files.lock().len() as u64;
                self.stats.flushed_by_timer().add(files);
            }
            self.flush();
            if exit {
                return;
            }
        }
    }

    fn flush(&self) {
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        let reopen = self.reopen.swap(false, Relaxed);
        for file in files {
            file.flush(reopen);
        }
    }

    fn request_flush(&self) {
        self.wanted.lock().flush = true;
        self.wake.notify_one();
    }
}

impl LogFile {
    /// Lets `write` append one entry to the buffer `shard`: 0 for any thread, else the index of a worker plus one.
    pub fn append(&self, shard: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let stats = &self.shared.stats;
        let Some(buffer) = self.buffers.get(shard).or_else(|| self.buffers.first()) else {
            return;
        };
        let mut buffer = buffer.lock();
        if buffer.len() >= CAPACITY {
            drop(buffer);
            stats.write_failed().inc();
            return;
        }
        let before = buffer.len();
        write(&mut buffer);
        let after = buffer.len();
        if after > before {
            stats.write_buffered().inc();
            stats.write_total_buffered().add((after - before) as u64);
        }
        drop(buffer);
        let min_size = self.shared.min_size.load(Relaxed);
        // Once per filling: the writer is on its way already when there was enough before.
        if after as u64 > min_size && before as u64 <= min_size {
            self.shared.request_flush();
        }
    }

    /// Writes what is in the buffers, to a newly opened file if asked for.
    fn flush(&self, reopen: bool) {
        let stats = &self.shared.stats;
        let mut output = self.output.lock();
        if reopen && matches!(*output, Output::File(_)) || matches!(*output, Output::Closed) {
            *output = Output::open(&self.destination).unwrap_or_else(|error| {
                stats.reopen_failed().inc();
                tracing::warn!(destination = ?self.destination, %error, "Access log cannot be reopened.");
                Output::Closed
            });
        }
        let mut taken = std::mem::take(&mut *self.spare.lock());
        for buffer in &self.buffers {
            let mut buffer = buffer.lock();
            if buffer.is_empty() {
                continue;
            }
            std::mem::swap(&mut *buffer, &mut taken);
            drop(buffer);
            stats.write_total_buffered().sub(taken.len() as u64);
            match output.write(&taken) {
                Ok(()) => stats.write_completed().inc(),
                // Most likely the disk is full.
                Err(_) => stats.write_failed().inc(),
            }
            taken.clear();
            if taken.capacity() > KEPT {
                taken = Vec::new();
            }
        }
        *self.spare.lock() = taken;
    }
}

impl Output {
    fn open(destination: &Destination) -> io::Result<Self> {
        Ok(match destination {
            Destination::Stdout => Self::Stdout,
            Destination::Stderr => Self::Stderr,
            Destination::File(path) => Self::File(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(Path::new(&**path))?,
            ),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().write_all(bytes),
            Self::Closed => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("outrigger-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> Destination {
            Destination::File(self.0.join(name).to_str().unwrap().into())
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn manager() -> AccessLogManager {
        let manager = AccessLogManager::new(2, &Store::new(2));
        // Only what a test asks for is flushed.
        manager.set_flush(Duration::from_secs(3600), 64 * 1024);
        manager
    }

    #[test]
    fn entries_of_all_workers_reach_the_file_and_are_counted() {
        let folder = Folder::new("all");
        let manager = manager();
        let log = manager.open(&folder.file("a.log")).unwrap();
        assert!(Arc::ptr_eq(
            &log,
            &manager.open(&folder.file("a.log")).unwrap()
        ));
        for shard in 0..3 {
            log.append(shard, |out| out.extend_from_slice(b"line\n"));
        }
        let stats = &manager.shared.stats;
        assert_eq!(stats.write_total_buffered().value(), 15);
        assert_eq!(folder.read("a.log"), "");
        manager.flush();
        assert_eq!(folder.read("a.log"), "line\nline\nline\n");
        assert_eq!(stats.write_buffered().value(), 3);
        assert_eq!(stats.write_completed().value(), 3);
        assert_eq!(stats.write_total_buffered().value(), 0);
    }

    #[test]
    fn the_end_of_the_process_flushes_what_is_left() {
        let folder = Folder::new("end");
        let manager = manager();
        let log = manager.open(&folder.file("a.log")).unwrap();
        log.append(1, |out| out.extend_from_slice(b"last\n"));
        drop(manager);
        assert_eq!(folder.read("a.log"), "last\n");
    }

    #[test]
    fn a_full_buffer_wakes_the_writer() {
        let folder = Folder::new("full");
        let manager = manager();
        let log = manager.open(&folder.file("a.log")).unwrap();
        log.append(1, |out| out.resize(64 * 1024, b'x'));
        assert!(!manager.shared.wanted.lock().flush);
        log.append(1, |out| out.push(b'\n'));
        // The thread was told, and has it written or is about to.
        while manager.shared.stats.write_completed().value() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(folder.read("a.log").len(), 64 * 1024 + 1);
    }

    #[test]
    fn reopening_follows_a_rotated_file() {
        let folder = Folder::new("rotate");
        let manager = manager();
        let log = manager.open(&folder.file("a.log")).unwrap();
        log.append(1, |out| out.extend_from_slice(b"old\n"));
        manager.flush();
        std::fs::rename(folder.0.join("a.log"), folder.0.join("b.log")).unwrap();
        log.append(1, |out| out.extend_from_slice(b"new\n"));
        manager.shared.reopen.store(true, Relaxed);
        manager.flush();
        assert_eq!(folder.read("b.log"), "old\n");
        assert_eq!(folder.read("a.log"), "new\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_is_counted_and_tried_again() {
        let folder = Folder::new("lost");
        let sub = folder.0.join("sub");
        std::fs::create_dir(&sub).unwrap();
        let manager = manager();
        let log = manager.open(&folder.file("sub/a.log")).unwrap();
        std::fs::remove_dir_all(&sub).unwrap();
        log.append(1, |out| out.extend_from_slice(b"lost\n"));
        manager.shared.reopen.store(true, Relaxed);
        manager.flush();
        let stats = &manager.shared.stats;
        assert_eq!(stats.reopen_failed().value(), 1);
        assert_eq!(stats.write_failed().value(), 1);
        assert_eq!(stats.write_total_buffered().value(), 0);
        std::fs::create_dir(&sub).unwrap();
        log.append(1, |out| out.extend_from_slice(b"found\n"));
        manager.flush();
        assert_eq!(folder.read("sub/a.log"), "found\n");
    }

    #[test]
    fn a_full_disk_costs_the_entries_and_nothing_else() {
        let manager = manager();
        let log = manager
            .open(&Destination::File("/dev/full".into()))
            .unwrap();
        log.append(1, |out| out.extend_from_slice(b"x\n"));
        manager.flush();
        assert_eq!(manager.shared.stats.write_failed().value(), 1);
        assert_eq!(manager.shared.stats.write_total_buffered().value(), 0);
    }

    #[test]
    fn a_writer_that_hangs_costs_entries_beyond_the_cap() {
        let folder = Folder::new("cap");
        let manager = manager();
        let log = manager.open(&folder.file("a.log")).unwrap();
        let hanging = log.output.lock();
        log.append(1, |out| out.resize(CAPACITY, b'x'));
        // The thread may have taken the first filling before it began to wait for the file.
        log.append(1, |out| out.resize(CAPACITY, b'x'));
        log.append(1, |out| out.push(b'x'));
        assert!(manager.shared.stats.write_failed().value() >= 1);
        drop(hanging);
    }
}
