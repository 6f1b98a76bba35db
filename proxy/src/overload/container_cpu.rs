//! How busy a control group keeps the processors that it may use: `cpu_utilization` with the mode `CONTAINER`.
//!
//! Of the second version the group of the process itself is looked at, and below a mount that does not show it the root; of the
//! first version the root, whose shares stand for thousandths of a processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::monitors::{CGROUP_ROOT, smoothed};

/// The processors of a control group, and how busy they were of late.
#[derive(Debug)]
pub(super) struct ContainerCpu {
    files: Files,
    last: Used,
    utilization: f64,
}

/// Where the kernel shows what a group has used and what it may use.
#[derive(Debug)]
enum Files {
    /// `cpu.shares` and `cpuacct.usage`.
    First { shares: PathBuf, usage: PathBuf },
    /// `cpu.stat`, `cpu.max` and `cpuset.cpus.effective`.
    Second {
        stat: PathBuf,
        max: PathBuf,
        cpus: PathBuf,
    },
}

/// What a group has used up to some time.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Instant,
    /// Work of one processor; of the first version in proportion to the shares.
    work: Duration,
    /// The processors that the group may use.
    processors: f64,
}

impl ContainerCpu {
    /// The group of this process. None where the kernel shows none.
    pub(super) fn of_this_process() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let below = path_below_mount(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Self::find(Path::new(CGROUP_ROOT), &below)
    }

    /// The group that is `below` the root of the hierarchy.
    fn find(root: &Path, below: &str) -> Option<Self> {
        let files = Files::find(root, below)?;
        Some(Self {
            last: files.used()?,
            files,
            utilization: 0.0,
        })
    }

    /// The share of its processors that the group keeps busy; none if it cannot be measured.
    pub(super) fn pressure(&mut self) -> Option<f64> {
        let now = self.files.used()?;
        let work = now.work.checked_sub(self.last.work)?;
        let time = now.at.checked_duration_since(self.last.at)?;
        if time.is_zero() || now.processors <= 0.0 {
            return None;
        }
        self.last = now;
        let mut current = work.as_secs_f64() / (time.as_secs_f64() * now.processors);
        if let Files::Second { .. } = self.files {
            current = current.min(1.0);
        }
        self.utilization = smoothed(current, self.utilization);
        Some(self.utilization)
    }
}

impl Files {
    fn find(root: &Path, below: &str) -> Option<Self> {
        let own = root.join(below.trim_start_matches('/'));
        for group in [own.as_path(), root] {
            let (stat, max) = (group.join("cpu.stat"), group.join("cpu.max"));
            if stat.exists() && max.exists() {
                let cpus = group.join("cpuset.cpus.effective");
                return Some(Self::Second { stat, max, cpus });
            }
        }
        let shares = root.join("cpu/cpu.shares");
        let usage = root.join("cpuacct/cpuacct.usage");
        (shares.exists() && usage.exists()).then_some(Self::First { shares, usage })
    }

    fn used(&self) -> Option<Used> {
        let at = Instant::now();
        match self {
            Self::First { shares, usage } => {
                let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
                let (shares, usage) = (number(shares)?, number(usage)?);
                let thousandths = u32::try_from(shares).ok().filter(|shares| *shares > 0)?;
                Some(Used {
                    at,
                    work: Duration::from_nanos(usage),
                    processors: f64::from(thousandths) / 1_000.0,
                })
            }
            Self::Second { stat, max, cpus } => {
                let stat = fs::read_to_string(stat).ok()?;
                let line = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
                let all = match fs::read_to_string(cpus) {
                    Ok(list) => listed(&list)?,
                    Err(_) => available(),
                };
                Some(Used {
                    at,
                    work: Duration::from_micros(line.trim().parse().ok()?),
                    processors: granted(&fs::read_to_string(max).ok()?, all)?,
                })
            }
        }
    }
}

/// Where the group of a process is below the mount of the second version: nowhere in particular, if the mount does not show it.
fn path_below_mount(mounts: &str, groups: &str) -> String {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let root = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then_some(())?;
        mount.split(' ').nth(3)
    });
    let (Some(group), Some(root)) = (group, root) else {
        return String::new();
    };
    let root = root.trim_end_matches('/');
    match group.strip_prefix(root) {
        Some(below) if below.is_empty() || below.starts_with('/') => below.to_owned(),
        _ => String::new(),
    }
}

/// How many processors such a list names: `0-3,5`.
fn listed(list: &str) -> Option<u32> {
    let counts = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    let sum = counts.sum::<Option<u32>>()?;
    (sum > 0).then_some(sum)
}

fn available() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How much of `all` processors the group may use, by `cpu.max`: `50000 100000`, or `max 100000`.
fn granted(max: &str, all: u32) -> Option<f64> {
    let mut words = max.split_whitespace();
    let (quota, period) = (words.next()?, words.next()?);
    if quota == "max" {
        return Some(f64::from(all));
    }
    let (quota, period) = (quota.parse::<u32>().ok()?, period.parse::<u32>().ok()?);
    (period > 0).then(|| (f64::from(quota) / f64::from(period)).min(f64::from(all)))
}

#[cfg(test)]
mod tests {
    use super::super::monitors::tests::Folder;
    use super::*;

    /// How busy it was over the next second, by what `change` writes.
    async fn after_a_second(cpu: &mut ContainerCpu, change: impl FnOnce()) -> Option<f64> {
        tokio::time::advance(Duration::from_secs(1)).await;
        change();
        cpu.pressure().map(|p| (p * 10_000.0).round() / 10_000.0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_the_second_version_is_measured_by_what_it_may_use() {
        let folder = Folder::new("container-cpu-second");
        folder.write("cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
        folder.write("cpu.max", "50000 100000\n");
        folder.write("cpuset.cpus.effective", "0-1,4\n");
        let mut cpu = ContainerCpu::find(&folder.0, "/none").unwrap();
        let busy = after_a_second(&mut cpu, || {
            folder.write("cpu.stat", "usage_usec 1250000\n")
        });
        // A quarter of a second, of the half that it has.
        assert_eq!(busy.await, Some(0.025));
        let busy = after_a_second(&mut cpu, || {
            folder.write("cpu.max", "max 100000\n");
            folder.write("cpu.stat", "usage_usec 2750000\n");
        });
        // One and a half of three processors.
        assert_eq!(busy.await, Some(0.0488));
        let busy = after_a_second(&mut cpu, || {
            folder.write("cpu.stat", "usage_usec 99750000\n")
        });
        assert_eq!(busy.await, Some(0.0963));
        for (file, text) in [
            ("cpu.max", "much"),
            ("cpu.max", "1 0"),
            ("cpuset.cpus.effective", "3-1"),
            ("cpu.stat", "nr_periods 1"),
        ] {
            let before = fs::read_to_string(folder.0.join(file)).unwrap();
            let busy = after_a_second(&mut cpu, || folder.write(file, text));
            assert_eq!(busy.await, None, "{file}: {text}");
            folder.write(file, &before);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_group_of_the_process_comes_before_the_root() {
        let folder = Folder::new("container-cpu-own");
        fs::create_dir_all(folder.0.join("own")).unwrap();
        for (file, text) in [("cpu.stat", "usage_usec 0"), ("cpu.max", "100000 100000")] {
            folder.write(file, text);
            folder.write(&format!("own/{file}"), text);
        }
        let mut cpu = ContainerCpu::find(&folder.0, "/own").unwrap();
        let busy = after_a_second(&mut cpu, || {
            folder.write("own/cpu.stat", "usage_usec 1000000");
        });
        assert_eq!(busy.await, Some(0.05));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_the_first_version_is_measured_by_its_shares() {
        let folder = Folder::new("container-cpu-first");
        assert!(ContainerCpu::find(&folder.0, "").is_none());
        fs::create_dir_all(folder.0.join("cpu")).unwrap();
        fs::create_dir_all(folder.0.join("cpuacct")).unwrap();
        folder.write("cpu/cpu.shares", "500\n");
        folder.write("cpuacct/cpuacct.usage", "0\n");
        let mut cpu = ContainerCpu::find(&folder.0, "").unwrap();
        let busy = after_a_second(&mut cpu, || {
            folder.write("cpuacct/cpuacct.usage", "1000000000\n");
        });
        assert_eq!(busy.await, Some(0.1));
        let busy = after_a_second(&mut cpu, || folder.write("cpu/cpu.shares", "0"));
        assert_eq!(busy.await, None);
    }

    #[test]
    fn the_group_is_found_below_what_is_mounted() {
        let mounts = "41 31 0:38 /pods /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (groups, below) in [
            ("4:memory:/x\n0::/pods/one\n", "/one"),
            ("0::/pods\n", ""),
            ("0::/podsy\n", ""),
            ("0::/other\n", ""),
            ("", ""),
        ] {
            assert_eq!(path_below_mount(mounts, groups), below, "{groups}");
        }
        let mounts = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(path_below_mount(mounts, "0::/a/b"), "/a/b");
        assert_eq!(path_below_mount("", "0::/a/b"), "");
    }
}
