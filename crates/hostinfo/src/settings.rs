//! PostgreSQL settings for a small machine that runs for years unattended, each with its reason.
//!
//! The values are the specification's for a 2 GB share on solid-state storage, and scale from there.
use crate::size::format_size;
use crate::storage::StorageKind;

/// One line of `postgresql.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The parameter's name.
    pub name: &'static str,
    /// The value, as it stands in the file.
    pub value: String,
    /// Why.
    pub reason: String,
}

const MB: u64 = 1 << 20;

/// The settings for `ram` bytes, `cpus` processors and this storage. Without `shared_preload_libraries`, which depends on
/// what is installed.
#[must_use]
pub fn recommend(ram: u64, cpus: u32, storage: StorageKind) -> Vec<Setting> {
    let mut list = memory(ram);
    list.extend(parallelism(cpus));
    list.extend(disk(storage));
    list.extend(durability());
    list.extend(logging());
    list
}

fn setting(name: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Setting {
    Setting { name, value: value.into(), reason: reason.into() }
}

/// `ram / part`, in whole megabytes within bounds.
fn share(ram: u64, part: u64, least: u64, most: u64) -> String {
    format_size((ram / part / MB).clamp(least, most) * MB)
}

fn memory(ram: u64) -> Vec<Setting> {
    // Each connection may need some 10 MB before it sorts anything.
    let connections = (ram / (20 * MB) / 10 * 10).clamp(20, 100);
    let all = format_size(ram / MB * MB);
    vec![
        setting(
            "shared_buffers",
            share(ram, 4, 32, 16 << 10),
            format!("a quarter of the {all} that the server has; the kernel's cache takes the rest"),
        ),
        setting(
            "effective_cache_size",
            share(ram, 1, 64, 1 << 20),
            format!("the planner may count on {all} of cache, the server's own and the kernel's; allocates nothing"),
        ),
        setting(
            "work_mem",
            share(ram, 128, 4, 256),
            "for each sort or hash of each query: many can run at once, so a small part of the memory",
        ),
        setting(
            "maintenance_work_mem",
            share(ram, 16, (ram / MB / 4).clamp(1, 32), 2048),
            "for index builds and vacuum, few at a time; an HNSW build is several times slower once its graph outgrows it",
        ),
        setting(
            "max_connections",
            connections.to_string(),
            "enough for the services of a box; each costs memory, so pool in the clients before raising it",
        ),
    ]
}

fn parallelism(cpus: u32) -> Vec<Setting> {
    let half = (cpus / 2).clamp(1, 4).to_string();
    let why = format!("for {cpus} processors");
    vec![
        setting(
            "max_worker_processes",
            (cpus + 4).max(8).to_string(),
            format!("{why}, and background workers such as pg_net's"),
        ),
        setting(
            "max_parallel_workers",
            // PostgreSQL takes no more than 1024.
            cpus.clamp(2, 1024).to_string(),
            format!("{why}: no more parallel workers than processors"),
        ),
        setting(
            "max_parallel_workers_per_gather",
            half.clone(),
            format!("{why}: one query may take half of them, other services share the box"),
        ),
        setting("max_parallel_maintenance_workers", half, format!("{why}: an index build may take half of them")),
    ]
}

fn disk(storage: StorageKind) -> Vec<Setting> {
    let (page_cost, concurrency, checkpoint, why) = match storage {
        StorageKind::Ssd => {
            ("1.1", "200", "5min", "solid state: a random read costs about as much as a sequential one")
        }
        StorageKind::Sd => ("1.5", "16", "15min", "SD card or eMMC: random reads are cheap but few run at once"),
        StorageKind::Hdd => ("4", "2", "15min", "a turning disk: a random read costs a seek"),
    };
    let checkpoint_why = match storage {
        StorageKind::Ssd => "after a crash at most some minutes of WAL are replayed",
        _ => {
            "the first change of a page after each checkpoint writes the whole page to WAL: rarer checkpoints write less, at the price of a longer recovery"
        }
    };
    vec![
        setting("random_page_cost", page_cost, why),
        setting("effective_io_concurrency", concurrency, why),
        setting("checkpoint_timeout", checkpoint, checkpoint_why),
        setting("checkpoint_completion_target", "0.9", "spreads a checkpoint's writes over the time to the next"),
        setting("max_wal_size", "1GB", "room for WAL between checkpoints"),
        setting("min_wal_size", "80MB", "keeps five segments for reuse, no more: storage is small"),
        setting(
            "wal_compression",
            "on",
            "whole-page images shrink to about a half: less flash wear for little processor time",
        ),
        setting(
            "max_slot_wal_keep_size",
            "4GB",
            "a forgotten replication slot loses its WAL instead of filling the disk and stopping the server",
        ),
    ]
}

fn durability() -> Vec<Setting> {
    vec![
        setting("fsync", "on", "without it a power cut can destroy the whole database"),
        setting("full_page_writes", "on", "without it a power cut in the middle of a page write destroys the page"),
        setting(
            "synchronous_commit",
            "on",
            "a commit that was confirmed survives a power cut, for one fsync each (shared by commits at the same time); a session whose last half second may be lost, such as a log writer, can set it off for itself",
        ),
        setting("autovacuum", "on", "without it tables bloat and the server stops at transaction id wraparound"),
    ]
}

fn logging() -> Vec<Setting> {
    vec![
        setting("log_min_duration_statement", "1000", "statements that take longer than a second are logged"),
        setting("log_statement", "ddl", "changes of the schema are logged"),
        setting("logging_collector", "on", "the server writes its log to files"),
        setting("log_directory", "pg_log", "in the data directory"),
        setting("log_filename", "postgresql-%a.log", "one file for each day of the week …"),
        setting("log_rotation_age", "1d", "… begun anew each day …"),
        setting("log_rotation_size", "0", "… whatever its size …"),
        setting("log_truncate_on_rotation", "on", "… and overwritten after a week, so that logs never fill the disk"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(list: &[Setting], name: &str) -> String {
        list.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}")).value.clone()
    }

    #[test]
    fn two_gigabytes_on_ssd_give_the_specification() {
        for cpus in [1, 4, 64] {
            let list = recommend(2 << 30, cpus, StorageKind::Ssd);
            for (name, wanted) in [
                ("shared_buffers", "512MB"),
                ("effective_cache_size", "2GB"),
                ("work_mem", "16MB"),
                ("maintenance_work_mem", "128MB"),
                ("max_connections", "100"),
                ("log_min_duration_statement", "1000"),
                ("log_statement", "ddl"),
                ("logging_collector", "on"),
                ("log_directory", "pg_log"),
                ("checkpoint_timeout", "5min"),
                ("max_wal_size", "1GB"),
                ("min_wal_size", "80MB"),
                ("wal_compression", "on"),
                ("random_page_cost", "1.1"),
                ("effective_io_concurrency", "200"),
            ] {
                assert_eq!(value(&list, name), wanted, "{name}");
            }
        }
    }

    #[test]
    fn no_more_workers_than_the_server_takes() {
        for cpus in [1024, 1025, 4096] {
            assert_eq!(value(&recommend(2 << 30, cpus, StorageKind::Ssd), "max_parallel_workers"), "1024");
        }
    }

    #[test]
    fn values_scale_and_stay_within_bounds() {
        let mut before = 0;
        for ram in [64 * MB, 256 * MB, 512 * MB, 1 << 30, 1700 * MB, 4 << 30, 8 << 30, 64 << 30] {
            let list = recommend(ram, 4, StorageKind::Sd);
            let buffers = crate::parse_size(&value(&list, "shared_buffers")).unwrap();
            assert!(buffers >= before && buffers >= 32 * MB && buffers <= ram / 2);
            let connections: u32 = value(&list, "max_connections").parse().unwrap();
            assert!((20..=100).contains(&connections));
            before = buffers;
            let mut names: Vec<_> = list.iter().map(|s| s.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), list.len(), "each setting once");
            assert!(list.iter().all(|s| !s.reason.is_empty()));
        }
    }
}
