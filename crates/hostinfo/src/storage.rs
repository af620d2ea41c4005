//! What kind of storage a folder is on.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Host, read_trimmed};

/// Kinds of storage that PostgreSQL should be set up differently for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    /// Solid state: NVMe, SATA or USB.
    Ssd,
    /// SD card or eMMC: random writes are slow and wear it out.
    Sd,
    /// A disk that turns.
    Hdd,
}

impl StorageKind {
    /// `ssd` (or `nvme`), `sd` (or `emmc`, `sd card`), `hdd`; letter case ignored. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "ssd" | "nvme" => Some(Self::Ssd),
            "sd" | "emmc" | "sdcard" | "sd card" | "sd-card" | "microsd" => Some(Self::Sd),
            "hdd" => Some(Self::Hdd),
            _ => None,
        }
    }

    /// `ssd`, `sd` or `hdd`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssd => "ssd",
            Self::Sd => "sd",
            Self::Hdd => "hdd",
        }
    }
}

/// The storage under a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its kind.
    pub kind: StorageKind,
    /// The kernel's name of the disk, such as `nvme0n1`; `None` when it is not known and the kind is an assumption.
    pub device: Option<String>,
}

impl Host {
    /// The storage of `folder`. Where no disk can be seen behind it (overlay, network, tmpfs) an SSD is assumed.
    #[must_use]
    pub fn storage(&self, folder: &Path) -> Storage {
        let assumed = Storage { kind: StorageKind::Ssd, device: None };
        let Ok(metadata) = fs::metadata(folder) else { return assumed };
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        self.disk(major, minor).unwrap_or(assumed)
    }

    fn disk(&self, major: u32, minor: u32) -> Option<Storage> {
        let mut folder = fs::canonicalize(self.path(&format!("/sys/dev/block/{major}:{minor}"))).ok()?;
        // Below device mapper (LUKS, LVM) the first disk stands for all.
        while let Some(below) = crate::sorted_entries(&folder.join("slaves")).into_iter().next() {
            folder = fs::canonicalize(below).ok()?;
        }
        if folder.join("partition").exists() {
            folder.pop();
        }
        let name = folder.file_name()?.to_str()?.to_owned();
        // Virtual disks and USB bridges say that they turn whatever is behind them.
        let unsure = ["vd", "xvd"].iter().any(|p| name.starts_with(p)) || folder.to_string_lossy().contains("/usb");
        let turns = !unsure && read_trimmed(&folder.join("queue/rotational")).is_some_and(|r| r == "1");
        let kind = match name.as_str() {
            n if n.starts_with("mmcblk") => StorageKind::Sd,
            _ if turns => StorageKind::Hdd,
            _ => StorageKind::Ssd,
        };
        Some(Storage { kind, device: Some(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::Machine;
    use std::os::unix::fs::symlink;

    #[test]
    fn disks_are_told_apart() {
        for (disk, partition, rotational, kind) in [
            ("mmcblk0", "mmcblk0p2", "0", StorageKind::Sd),
            ("nvme0n1", "nvme0n1p1", "0", StorageKind::Ssd),
            ("sda", "sda1", "1", StorageKind::Hdd),
            ("vda", "vda1", "1", StorageKind::Ssd),
            ("usb2/sdb", "sdb1", "1", StorageKind::Ssd),
        ] {
            let m = Machine::new();
            m.write(&format!("sys/devices/{disk}/queue/rotational"), rotational);
            m.write(&format!("sys/devices/{disk}/{partition}/partition"), "1");
            m.write("sys/dev/block/.keep", "");
            symlink(m.root().join(format!("sys/devices/{disk}/{partition}")), m.root().join("sys/dev/block/8:1"))
                .unwrap();
            assert_eq!(m.host().disk(8, 1), Some(Storage { kind, device: disk.rsplit('/').next().map(str::to_owned) }));
            assert_eq!(m.host().disk(8, 2), None);
        }
    }

    #[test]
    fn an_unseen_disk_is_assumed_solid() {
        let m = Machine::new();
        assert_eq!(m.host().storage(Path::new("/")), Storage { kind: StorageKind::Ssd, device: None });
        assert_eq!(m.host().storage(Path::new("/no/such")).device, None);
    }

    #[test]
    fn kinds_have_names() {
        for kind in [StorageKind::Ssd, StorageKind::Sd, StorageKind::Hdd] {
            assert_eq!(StorageKind::parse(kind.name()), Some(kind));
        }
        assert_eq!(StorageKind::parse(" NVMe "), Some(StorageKind::Ssd));
        assert_eq!(StorageKind::parse("tape"), None);
    }
}
