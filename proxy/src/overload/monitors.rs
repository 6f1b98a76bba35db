//! Resource monitors: what measures how much of something is used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::container_cpu::ContainerCpu;
use super::heap::Heap;
use super::state::GlobalConnections;
use crate::runtime::RuntimeInteger;

/// What measures a resource.
#[derive(Debug)]
pub(super) enum Monitor {
    /// The share of so many bytes that the heap takes.
    FixedHeap(RuntimeInteger),
    /// What a file says.
    Injected(InjectedResource),
    /// The share of its limit that the control group takes.
    CgroupMemory(CgroupMemory),
    /// How busy the processors of the machine are.
    Cpu(HostCpu),
    /// How busy the control group keeps the processors that it may use.
    ContainerCpu(ContainerCpu),
    /// The share of the connections that there may be.
    Connections(GlobalConnections),
}

/// A file with a number from 0 to 1, read again when it was replaced.
#[derive(Debug)]
pub(super) struct InjectedResource {
    path: PathBuf,
    /// Which file was read last, and when it was changed: inode, and seconds and nanoseconds of its last change.
    seen: Option<(u64, i64, i64)>,
    pressure: Option<f64>,
}

/// The files in which the kernel shows the memory of a control group, and our own limit.
#[derive(Debug)]
pub(super) struct CgroupMemory {
    usage: PathBuf,
    limit: PathBuf,
    /// `max_memory_bytes`; `u64::MAX`: none.
    at_most: u64,
}

/// The times of all processors together, and how busy they were of late.
#[derive(Debug)]
pub(super) struct HostCpu {
    path: PathBuf,
    /// Work, and all time, when it was last looked at.
    last: Option<(u64, u64)>,
    utilization: f64,
}

/// Where the kernel shows control groups.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Where it shows the times of processors.
pub(super) const CPU_TIMES: &str = "/proc/stat";

/// How much of the utilization of processors is what was measured last.
const CPU_WEIGHT: f64 = 0.05;

impl Monitor {
    /// Whether it counts as things happen, and gives nobody a reason to look at intervals.
    pub(super) fn is_counted(&self) -> bool {
        matches!(self, Self::Connections(_))
    }

    /// The share of the resource that is used; none if it cannot be measured.
    pub(super) fn pressure(&mut self, heap: &impl Heap) -> Option<f64> {
        match self {
            Self::FixedHeap(limit) => Some(share(heap.usage()?.allocated, limit.get().max(1))),
            Self::Injected(resource) => resource.pressure(),
            Self::CgroupMemory(memory) => memory.pressure(),
            Self::Cpu(cpu) => cpu.pressure(),
            Self::ContainerCpu(cpu) => cpu.pressure(),
            Self::Connections(connections) => {
                Some(share(connections.active(), connections.limit().max(1)))
            }
        }
    }
}

impl InjectedResource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: None,
            pressure: None,
        }
    }

    fn pressure(&mut self) -> Option<f64> {
        let metadata = fs::metadata(&self.path).ok();
        let now = metadata.map(|file| (file.ino(), file.ctime(), file.ctime_nsec()));
        if now.is_none() || now != self.seen {
            self.seen = now;
            self.pressure = self.read();
        }
        self.pressure
    }

    fn read(&self) -> Option<f64> {
        let text = fs::read_to_string(&self.path).ok()?;
        let pressure: f64 = text.trim().parse().ok()?;
        (0.0..=1.0).contains(&pressure).then_some(pressure)
    }
}

impl CgroupMemory {
    /// None where the kernel shows no memory of control groups below `root`. `at_most` is in bytes; zero: no limit of our own.
    pub(super) fn find(root: &Path, at_most: u64) -> Option<Self> {
        let at_most = if at_most == 0 { u64::MAX } else { at_most };
        let files = |usage: &str, limit: &str| Self {
            usage: root.join(usage),
            limit: root.join(limit),
            at_most,
        };
        let second = files("memory.current", "memory.max");
        if second.usage.exists() && second.limit.exists() {
            return Some(second);
        }
        let first = files(
            "memory/memory.usage_in_bytes",
            "memory/memory.limit_in_bytes",
        );
        root.join("memory").exists().then_some(first)
    }

    fn pressure(&self) -> Option<f64> {
        let usage = read_bytes(&self.usage)?;
        let limit = read_bytes(&self.limit)?.min(self.at_most);
        match limit {
            u64::MAX => Some(0.0),
            limit => Some(share(usage, limit)),
        }
    }
}

impl HostCpu {
    /// None if the times cannot be read.
    pub(super) fn new(path: PathBuf) -> Option<Self> {
        let last = times(&path)?;
        Some(Self {
            path,
            last: Some(last),
            utilization: 0.0,
        })
    }

    fn pressure(&mut self) -> Option<f64> {
        let now = times(&self.path)?;
        let last = self.last.replace(now)?;
        let work = now.0.checked_sub(last.0)?;
        let all = now.1.checked_sub(last.1).filter(|all| *all > 0)?;
        let current = share(work, all);
        self.utilization = smoothed(current, self.utilization);
        Some(self.utilization)
    }
}

/// A utilization that follows what was measured slowly.
pub(super) fn smoothed(current: f64, before: f64) -> f64 {
    current * CPU_WEIGHT + before * (1.0 - CPU_WEIGHT)
}

/// The time that all processors together have worked, and that and their idle time.
fn times(path: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut times = line.split_whitespace().map(str::parse::<u64>);
    let mut next = || times.next()?.ok();
    let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
    let work = user.checked_add(nice)?.checked_add(system)?;
    Some((work, work.checked_add(idle)?))
}

/// A number of bytes; `max` and -1 are no limit.
fn read_bytes(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    match text.trim() {
        "max" | "-1" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a share needs no more digits than a float has"
)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) struct Folder(pub(in super::super) PathBuf);

    impl Folder {
        pub(in super::super) fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("memory")).unwrap();
            Self(folder)
        }

        pub(in super::super) fn write(&self, name: &str, text: &str) {
            let next = self.0.join("next");
            fs::write(&next, text).unwrap();
            fs::rename(next, self.0.join(name)).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_injected_resource_is_what_its_file_says() {
        let folder = Folder::new("injected-resource");
        let mut resource = InjectedResource::new(folder.0.join("pressure"));
        assert_eq!(resource.pressure(), None);
        for (text, pressure) in [
            ("0.6", Some(0.6)),
            ("1\n", Some(1.0)),
            ("1.1", None),
            ("-0.1", None),
            ("much", None),
            ("0", Some(0.0)),
        ] {
            folder.write("pressure", text);
            assert_eq!(resource.pressure(), pressure, "{text}");
            assert_eq!(resource.pressure(), pressure, "{text} again");
        }
    }

    #[test]
    fn memory_of_a_second_version_group_is_measured_by_the_lower_limit() {
        let folder = Folder::new("cgroup-second");
        folder.write("memory.current", "500\n");
        folder.write("memory.max", "1000\n");
        let pressure = |at_most| CgroupMemory::find(&folder.0, at_most).unwrap().pressure();
        assert_eq!(pressure(0), Some(0.5));
        assert_eq!(pressure(2_000), Some(0.5));
        assert_eq!(pressure(625), Some(0.8));
        folder.write("memory.max", "max\n");
        assert_eq!(pressure(0), Some(0.0));
        assert_eq!(pressure(625), Some(0.8));
        folder.write("memory.current", "");
        assert_eq!(pressure(625), None);
    }

    #[test]
    fn memory_of_a_first_version_group_is_found_where_there_is_no_second() {
        let folder = Folder::new("cgroup-first");
        folder.write("memory/memory.usage_in_bytes", "300");
        folder.write("memory/memory.limit_in_bytes", "-1");
        let memory = CgroupMemory::find(&folder.0, 0).unwrap();
        assert_eq!(memory.pressure(), Some(0.0));
        folder.write("memory/memory.limit_in_bytes", "400");
        assert_eq!(memory.pressure(), Some(0.75));
        assert!(CgroupMemory::find(&folder.0.join("none"), 1).is_none());
    }

    #[test]
    fn the_utilization_of_processors_follows_slowly() {
        let folder = Folder::new("cpu-times");
        folder.write("stat", "cpu  100 0 100 800 7 7\ncpu0 1 2 3 4\n");
        let mut cpu = HostCpu::new(folder.0.join("stat")).unwrap();
        folder.write("stat", "cpu  150 50 100 800 7 7\n");
        assert_eq!(cpu.pressure(), Some(0.05));
        // No time has passed.
        assert_eq!(cpu.pressure(), None);
        folder.write("stat", "cpu  150 50 100 900 7 7\n");
        assert_eq!(cpu.pressure(), Some(0.0475));
        folder.write("stat", "intr 1\n");
        assert_eq!(cpu.pressure(), None);
    }
}
