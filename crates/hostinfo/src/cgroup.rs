//! How much memory this process may use: the tightest limit of its control groups, else the machine's.
use crate::Host;

/// Memory that the server may count on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub bytes: u64,
    /// Where the figure comes from.
    pub source: &'static str,
}

impl Host {
    /// The smallest of the cgroup limits (v2 or v1, up to the root group) and the machine's memory; `None` without `/proc/meminfo`.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let groups = self.read("/proc/self/cgroup").unwrap_or_default();
        let machine = Memory { bytes: self.meminfo("MemTotal")?, source: "the machine's memory" };
        let limit = |folder: &str, file: &str, group: &str, source| {
            ancestors(group)
                .filter_map(|g| self.read(&format!("{folder}{g}/{file}"))?.parse().ok())
                .min()
                .map(|bytes| Memory { bytes, source })
        };
        let mut limits = vec![];
        for line in groups.lines() {
            // hierarchy:controllers:path; version 2 has hierarchy 0 and no controllers.
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
            if controllers.is_empty() {
                limits.extend(limit("/sys/fs/cgroup", "memory.max", group, "cgroup v2 limit"));
                limits.extend(limit("/sys/fs/cgroup/unified", "memory.max", group, "cgroup v2 limit"));
            } else if controllers.split(',').any(|c| c == "memory") {
                limits.extend(limit("/sys/fs/cgroup/memory", "memory.limit_in_bytes", group, "cgroup v1 limit"));
            }
        }
        // Version 1 writes "no limit" as a huge number, which the machine's own memory undercuts.
        limits.into_iter().filter(|l| l.bytes < machine.bytes).min_by_key(|l| l.bytes).or(Some(machine))
    }

    /// A field of `/proc/meminfo`, in bytes.
    #[must_use]
    pub fn meminfo(&self, field: &str) -> Option<u64> {
        let text = self.read("/proc/meminfo")?;
        let value = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

/// `/a/b` → `/a/b`, `/a` and the root, as suffixes of the mount point. In a container the path names a group outside of its
/// view; the root is then the container's own group.
fn ancestors(group: &str) -> impl Iterator<Item = &str> {
    let group = group.trim_end_matches('/');
    std::iter::successors(Some(group), |g| g.rfind('/').map(|i| &g[..i]))
}

#[cfg(test)]
mod tests {
    use crate::tests_support::Machine;

    const MEMINFO: &str = "MemTotal:        8245900 kB\nMemFree:          100000 kB\n";

    fn memory(files: &[(&str, &str)]) -> Option<(u64, &'static str)> {
        let m = Machine::new();
        for (path, text) in files {
            m.write(path, text);
        }
        m.host().memory().map(|m| (m.bytes, m.source))
    }

    #[test]
    fn tightest_limit_wins() {
        let meminfo = ("proc/meminfo", MEMINFO);
        assert_eq!(memory(&[]), None);
        assert_eq!(memory(&[meminfo]), Some((8_245_900 << 10, "the machine's memory")));
        // A container with a cgroup namespace: its own group is the root.
        assert_eq!(
            memory(&[meminfo, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "2147483648\n")]),
            Some((2 << 30, "cgroup v2 limit"))
        );
        assert_eq!(
            memory(&[meminfo, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]),
            Some((8_245_900 << 10, "the machine's memory"))
        );
        // A parent's limit binds as well.
        assert_eq!(
            memory(&[
                meminfo,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max"),
                ("sys/fs/cgroup/a/memory.max", "1073741824")
            ]),
            Some((1 << 30, "cgroup v2 limit"))
        );
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n");
        assert_eq!(
            memory(&[meminfo, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")]),
            Some((512 << 20, "cgroup v1 limit"))
        );
        assert_eq!(
            memory(&[meminfo, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")]),
            Some((8_245_900 << 10, "the machine's memory"))
        );
    }
}
