//! What the machine around the server is and how it does: memory, processors, storage, temperature, room on disk; and the
//! PostgreSQL settings that follow from it. Everything is read from `/proc` and `/sys`, below a root that tests may move.
//! Nothing here fails: what cannot be read is absent from the answer.
use std::fs;
use std::path::{Path, PathBuf};

mod cgroup;
mod settings;
mod size;
mod storage;
#[cfg(test)]
mod tests_support;
mod thermal;

pub use cgroup::Memory;
pub use settings::{Setting, recommend};
pub use size::{format_size, parse_size};
pub use storage::{Storage, StorageKind};
pub use thermal::{Temperature, Throttling};

/// A machine, seen through its `/proc` and `/sys`.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// The machine whose `proc` and `sys` folders are in `root`; `/` is this one.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// A small file, trimmed; `None` when it cannot be read.
    fn read(&self, absolute: &str) -> Option<String> {
        read_trimmed(&self.path(absolute))
    }
}

fn read_trimmed(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
}

/// The names in a folder, sorted so that `zone2` comes before `zone10`; empty when it cannot be read.
fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort_by_key(|p| (p.as_os_str().len(), p.clone()));
    entries
}

/// Processors that this process may use: affinity and cgroup quota counted, at least 1.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Room in the filesystem that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that an unprivileged process may still write.
    pub free: u64,
    /// Identifies the filesystem, to tell whether two paths share one.
    pub filesystem: u64,
}

/// Room in the filesystem of `path`; `None` when there is no such path.
#[must_use]
pub fn space(path: &Path) -> Option<Space> {
    let s = rustix::fs::statvfs(path).ok()?;
    Some(Space { total: s.f_blocks * s.f_frsize, free: s.f_bavail * s.f_frsize, filesystem: s.f_fsid })
}

/// The symbolic links in a folder, in order, with what they point to; empty when it cannot be read.
#[must_use]
pub fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    sorted_entries(folder).into_iter().filter_map(|link| Some((link.clone(), fs::read_link(link).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_files_are_not() {
        let m = tests_support::Machine::new();
        m.write("folder/PG_VERSION", "16");
        std::os::unix::fs::symlink("/mnt/ssd", m.root().join("folder/16400")).unwrap();
        assert_eq!(links(&m.root().join("folder")), [(m.root().join("folder/16400"), PathBuf::from("/mnt/ssd"))]);
        assert!(links(Path::new("/no/such/folder")).is_empty());
    }

    #[test]
    fn this_machine_has_processors_and_room() {
        assert!(processors() >= 1);
        let s = space(Path::new("/")).expect("/ is there");
        assert!(s.total > 0 && s.free <= s.total);
        assert_eq!(space(Path::new("/no/such/path")), None);
    }
}
