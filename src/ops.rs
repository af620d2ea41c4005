//! What SQL cannot see: the machine's memory, processors, storage, temperature and room on disk. The checks and views that
//! use it are in `sql/ops.sql` and `sql/health.sql`.
use std::path::{Path, PathBuf};

use pgedge_hostinfo::{self as hostinfo, Host, StorageKind};
use pgrx::prelude::*;

use crate::errors::fail;

/// Less than this no PostgreSQL runs in; more no machine has.
const RAM_BOUNDS: std::ops::RangeInclusive<u64> = 64 << 20..=64 << 40;
const CPU_BOUNDS: std::ops::RangeInclusive<i32> = 1..=4096;

/// Every thermal zone of the machine and its temperature in degrees Celsius; no row where the kernel shows none.
#[pg_extern(schema = "pgedge", volatile, parallel_safe)]
fn device_temperature() -> TableIterator<'static, (name!(zone, String), name!(celsius, f32))> {
    temperatures(&Host::default())
}

/// The same below another root than `/`, for tests. Not for everyone, since it tells which paths exist.
#[pg_extern(schema = "pgedge", name = "_device_temperature", volatile, strict)]
fn device_temperature_at(root: &str) -> TableIterator<'static, (name!(zone, String), name!(celsius, f32))> {
    temperatures(&Host::at(root))
}

fn temperatures(host: &Host) -> TableIterator<'static, (name!(zone, String), name!(celsius, f32))> {
    TableIterator::new(host.temperatures().into_iter().map(|t| (t.zone, t.celsius)))
}

/// What a Raspberry Pi's firmware holds back now and has held back since boot; no row on other machines.
#[pg_extern(schema = "pgedge", name = "_throttling", volatile, strict)]
fn throttling(
    root: default!(&str, "'/'"),
) -> TableIterator<'static, (name!(now, Vec<String>), name!(since_boot, Vec<String>))> {
    let words = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    TableIterator::new(Host::at(root).throttling().map(|t| (words(t.now), words(t.since_boot))))
}

/// Room in the filesystems of the data directory, of pg_wal, of shared memory and of each tablespace.
#[pg_extern(schema = "pgedge", name = "_disk_space", volatile)]
fn disk_space() -> TableIterator<
    'static,
    (name!(place, String), name!(total_bytes, i64), name!(free_bytes, i64), name!(filesystem, i64)),
> {
    // A server process works in its data directory.
    let fixed = [("data directory", "."), ("pg_wal", "pg_wal"), ("/dev/shm", "/dev/shm")];
    let mut places: Vec<_> = fixed.map(|(place, path)| (place.to_owned(), PathBuf::from(path))).into();
    let tablespaces = hostinfo::links(Path::new("pg_tblspc")).into_iter();
    places.extend(tablespaces.map(|(link, target)| (format!("tablespace {}", target.display()), link)));
    let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    TableIterator::new(places.into_iter().filter_map(move |(place, path)| {
        let s = hostinfo::space(&path)?;
        Some((place, clamp(s.total), clamp(s.free), s.filesystem as i64))
    }))
}

/// Memory, processors and storage as detected. `ram` is NULL where `/proc` is not mounted, `device` where no disk can be seen.
#[allow(clippy::type_complexity)] // pgrx wants the columns spelled out
#[pg_extern(schema = "pgedge", name = "_host", volatile)]
fn host() -> TableIterator<
    'static,
    (
        name!(ram_bytes, Option<i64>),
        name!(ram_source, Option<String>),
        name!(cpus, i32),
        name!(storage, String),
        name!(device, Option<String>),
    ),
> {
    let host = Host::default();
    let memory = host.memory();
    let storage = host.storage(Path::new("."));
    TableIterator::once((
        memory.as_ref().and_then(|m| i64::try_from(m.bytes).ok()),
        memory.map(|m| m.source.to_owned()),
        i32::try_from(hostinfo::processors()).unwrap_or(i32::MAX),
        storage.kind.name().to_owned(),
        storage.device,
    ))
}

/// The settings for a machine of this memory, these processors and this storage, each detected when NULL.
/// Errors: 22023 for a size, number or kind of storage that makes no sense.
#[pg_extern(schema = "pgedge", name = "_recommended_settings", volatile)]
fn recommended(
    ram: Option<&str>,
    cpus: Option<i32>,
    storage: Option<&str>,
) -> TableIterator<'static, (name!(name, String), name!(recommended, String), name!(reason, String))> {
    let host = Host::default();
    let ram = match ram {
        Some(text) => parse_ram(text),
        None => host.memory().map_or_else(
            || invalid("cannot detect the memory of this machine", "Give it: recommended_settings('2GB')."),
            |m| m.bytes,
        ),
    };
    let cpus = cpus.unwrap_or_else(|| i32::try_from(hostinfo::processors()).unwrap_or(i32::MAX));
    if !CPU_BOUNDS.contains(&cpus) {
        invalid(
            &format!("cpus must be between {} and {}, got {cpus}", CPU_BOUNDS.start(), CPU_BOUNDS.end()),
            "Leave it out to use the number of this machine.",
        );
    }
    let storage = match storage {
        Some(text) => StorageKind::parse(text).unwrap_or_else(|| {
            invalid(
                &format!("unknown storage \"{text}\""),
                "Use ssd, sd (SD card or eMMC) or hdd, or leave it out to detect it.",
            )
        }),
        None => host.storage(Path::new(".")).kind,
    };
    let list = hostinfo::recommend(ram, cpus.unsigned_abs(), storage);
    TableIterator::new(list.into_iter().map(|s| (s.name.to_owned(), s.value, s.reason)))
}

fn parse_ram(text: &str) -> u64 {
    let hint = "Write the server's share of the memory as a number and kB, MB, GB or TB, such as 2GB; at least 64MB.";
    match hostinfo::parse_size(text) {
        Some(bytes) if RAM_BOUNDS.contains(&bytes) => bytes,
        Some(_) => invalid(&format!("ram is out of range: \"{text}\""), hint),
        None => invalid(&format!("invalid size of ram: \"{text}\""), hint),
    }
}

fn invalid(message: &str, hint: &str) -> ! {
    fail(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, hint)
}
