//! The support tables: what was learned of each source, durably. Who changes them holds the source's lock.
use std::collections::HashSet;

use pgrx::prelude::*;

use super::cache::{self, Learned, Row};
use super::direct;
use crate::spi::{self, Session};

/// Distinguishes our advisory locks from those of users (1 and 2) in `pg_locks.objsubid`.
const LOCK_CLASS: u16 = 0x7065;
/// Sources are spread over this many locks, so that a call with any number of sources stays within the lock table.
const LOCKS: u64 = 256;
/// Lineage entries kept of each source.
const MAX_LINEAGE: i64 = 10_000;

/// The lock of a source.
pub fn lock_number(source: &str) -> u32 {
    (pgedge_logminer::stable_hash(source.as_bytes()) % LOCKS) as u32
}

/// Takes the locks of sources until the transaction ends, in ascending order, so that no two calls ever wait for each other.
///
/// There is but one, exclusive, mode: a call that turns out to have something to learn need not upgrade, and two calls of one transaction
/// cannot deadlock with two of another over the rows of a source. Sessions that send lines of one source at the same time touch the same
/// rows and would wait for each other anyway; the work that costs time per line is done before.
pub fn lock(numbers: impl IntoIterator<Item = u32>) {
    let mut numbers: Vec<u32> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        // SAFETY: a lock tag of the advisory kind in this database; released at the end of the transaction.
        unsafe {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: 0,
                locktag_field3: number,
                locktag_field4: LOCK_CLASS,
                locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
                locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
            };
            pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, false);
        }
    }
}

/// The locks of all sources.
pub fn all_locks() -> impl Iterator<Item = u32> {
    0..LOCKS as u32
}

/// The state of a source.
pub struct Generation {
    /// Its number.
    pub no: i32,
    /// See [`Learned::epoch`].
    pub epoch: i64,
    /// The last change.
    pub last_no: i64,
}

/// The state of a source; None when nothing is known of it.
fn generation(session: &Session<'_>, source: &str, locks: bool) -> Option<Generation> {
    let stored = session.rows(
        if locks {
            // This transaction may not see what was learned since it began. Locking the row finds that out: 40001, try again.
            "SELECT s.source_no, s.epoch, s.last_no FROM pgedge._log_sources s WHERE s.source = $1 FOR UPDATE"
        } else {
            "SELECT s.source_no, s.epoch, s.last_no FROM pgedge._log_sources s WHERE s.source = $1"
        },
        &[spi::text(source)],
        |row| Generation { no: row.get(1), epoch: row.get(2), last_no: row.get(3) },
    );
    stored.into_iter().next()
}

/// What is known of a source, from the cache as far as it is still true; None when nothing is.
pub fn load(session: &Session<'_>, extension: pg_sys::Oid, source: &str) -> Option<Learned> {
    let cached = cache::take(extension, source);
    let keeps_snapshot = crate::session::keeps_snapshot();
    let by_key = cached.as_ref().filter(|_| session.writes && !keeps_snapshot);
    let known = by_key.and_then(|c| direct::generation(extension, c.no, source));
    let Generation { no, epoch, last_no } = match known {
        Some(known) => known,
        None => generation(session, source, session.writes && keeps_snapshot)?,
    };
    let mut learned = match cached {
        Some(c) if c.no == no && c.epoch == epoch && c.last_no <= last_no => c,
        _ => Learned::new(no, epoch),
    };
    if learned.last_no < last_no {
        refresh(session, &mut learned);
        learned.last_no = last_no;
    }
    Some(learned)
}

/// Loads what changed after `learned.last_no`.
///
/// Shapes that were forgotten meanwhile need no telling: which shapes a full set keeps is a function of all that it ever saw, so adding
/// the new ones forgets the same.
pub fn refresh(session: &Session<'_>, learned: &mut Learned) {
    let since = [spi::int4(learned.no), spi::int8(learned.last_no)];
    let shapes =
        session.rows("SELECT s.shape FROM pgedge._log_shapes s WHERE s.source_no = $1 AND s.no > $2", &since, |row| {
            row.get::<String>(1)
        });
    let before = learned.set.len();
    learned.assembled.clear();
    let growth = learned.set.insert_all(shapes.iter().map(String::as_str), || {
        check_for_interrupts!();
    });
    if before == 0 {
        // An earlier version may have kept more shapes, or made other patterns of them: all rows are looked at with the next lines.
        learned.recheck = true;
        if session.writes && learned.set.len() < shapes.len() {
            let kept = |shape: &&str| learned.set.pattern(shape).is_none();
            let gone: Vec<&str> = shapes.iter().map(String::as_str).filter(kept).collect();
            change_shapes(session, learned, &[], &gone);
        }
    }
    if !growth.forgotten.is_empty() {
        // The session that forgot them merged rows, maybe very many.
        let there = session.rows(
            "SELECT r.row_id FROM pgedge._log_rows r WHERE r.source_no = $1",
            &[spi::int4(learned.no)],
            |row| row.get::<i64>(1),
        );
        learned.retain_rows(&there.into_iter().collect());
    }
    let rows = session.rows(
        "SELECT r.row_id, r.pattern, r.level, r.sample_ranks, r.open_hour, r.lines_before, r.noticed_at, r.first_hour
         FROM pgedge._log_rows r WHERE r.source_no = $1 AND r.no > $2",
        &since,
        |row| {
            let stored = Row {
                id: row.get(1),
                level: row.opt::<String>(3).map(Into::into),
                ranks: row.get::<Vec<i64>>(4).into_iter().map(|r| r as u64).collect(),
                open_hour: row.get::<TimestampWithTimeZone>(5).into_inner(),
                lines_before: row.get(6),
                noticed_at: row.opt::<TimestampWithTimeZone>(7).map_or(i64::MIN, TimestampWithTimeZone::into_inner),
                first_hour: row.opt::<TimestampWithTimeZone>(8).map(TimestampWithTimeZone::into_inner),
                alarm: None,
                place: None,
            };
            (row.get::<String>(2), stored)
        },
    );
    // A row that is known of one of these patterns and levels, and is none of them, was given up by the session that began or took the new one.
    let loaded: HashSet<i64> = rows.iter().map(|(_, row)| row.id).collect();
    for (pattern, row) in rows {
        let former = learned.rows(&pattern).iter().filter(|r| r.level == row.level && !loaded.contains(&r.id));
        let former: Vec<i64> = former.map(|r| r.id).collect();
        for id in former {
            learned.remove_row(id);
        }
        learned.put_row(&pattern, row);
    }
}

/// Registers a source of which nothing is known.
pub fn create(session: &Session<'_>, source: &str) -> Learned {
    let made = session.rows(
        "INSERT INTO pgedge._log_sources (source, epoch) VALUES ($1, pg_current_xact_id()::text::int8)
         ON CONFLICT (source) DO NOTHING RETURNING source_no, epoch",
        &[spi::text(source)],
        |row| Learned::new(row.get(1), row.get(2)),
    );
    // With the lock held there is no conflict but with a row that this transaction cannot see, and that is a 40001.
    made.into_iter().next().expect("INSERT … RETURNING answers its row")
}

/// Makes a change known: sessions whose copy is older load what has a larger number than theirs.
pub fn advance(session: &Session<'_>, learned: &Learned) {
    session.run(
        "UPDATE pgedge._log_sources SET last_no = $2 WHERE source_no = $1",
        &[spi::int4(learned.no), spi::int8(learned.last_no)],
    );
}

/// Stores new shapes and deletes forgotten ones.
pub fn change_shapes(session: &Session<'_>, learned: &Learned, added: &[&str], forgotten: &[&str]) {
    if !added.is_empty() {
        session.run(
            "INSERT INTO pgedge._log_shapes (source_no, no, shape) SELECT $1, $2 + v.i, v.shape FROM unnest($3) WITH ORDINALITY AS v(shape, i)",
            &[spi::int4(learned.no), spi::int8(learned.last_no), spi::texts(added.iter().copied())],
        );
    }
    if !forgotten.is_empty() {
        session.run(
            "DELETE FROM pgedge._log_shapes WHERE source_no = $1 AND shape = ANY ($2)",
            &[spi::int4(learned.no), spi::texts(forgotten.iter().copied())],
        );
    }
}

/// Stores rows as they are in the cache, all with the number `learned.last_no`.
pub fn put_rows(session: &Session<'_>, learned: &mut Learned, ids: &[i64]) {
    let no = learned.last_no;
    let rows: Vec<(String, Row)> =
        ids.iter().filter_map(|id| learned.by_id(*id).map(|(p, r)| (p.to_owned(), r.clone()))).collect();
    // An array of arrays must be rectangular, so the ranks travel as text.
    let ranks: Vec<String> = rows
        .iter()
        .map(|(_, r)| {
            format!("{{{}}}", r.ranks.iter().map(|rank| (*rank as i64).to_string()).collect::<Vec<_>>().join(","))
        })
        .collect();
    session.run(
        "INSERT INTO pgedge._log_rows AS r (row_id, source_no, no, pattern, level, sample_ranks, open_hour, lines_before, noticed_at, first_hour)
         SELECT v.id, $1, $2, v.pattern, v.level, v.ranks::int8[], v.open_hour, v.lines_before, nullif(v.noticed_at, '-infinity'), nullif(v.first_hour, '-infinity')
         FROM unnest($3, $4, $5, $6, $7, $8, $9, $10) AS v(id, pattern, level, ranks, open_hour, lines_before, noticed_at, first_hour)
         ON CONFLICT (row_id) DO UPDATE SET source_no = excluded.source_no, no = excluded.no, pattern = excluded.pattern, level = excluded.level,
            sample_ranks = excluded.sample_ranks, open_hour = excluded.open_hour, lines_before = excluded.lines_before, noticed_at = excluded.noticed_at,
            first_hour = excluded.first_hour",
        &[
            spi::int4(learned.no),
            spi::int8(no),
            spi::int8s(rows.iter().map(|(_, r)| r.id)),
            spi::texts(rows.iter().map(|(p, _)| p.as_str())),
            spi::text_options(rows.iter().map(|(_, r)| r.level.as_deref())),
            spi::texts(ranks.iter().map(String::as_str)),
            spi::times(rows.iter().map(|(_, r)| r.open_hour)),
            spi::int8s(rows.iter().map(|(_, r)| r.lines_before)),
            // the least timestamp is -infinity
            spi::times(rows.iter().map(|(_, r)| r.noticed_at)),
            spi::times(rows.iter().map(|(_, r)| r.first_hour.unwrap_or(i64::MIN))),
        ],
    );
}

/// Forgets rows of `aggregated_logs` that are no longer those of a pattern.
pub fn remove_rows(session: &Session<'_>, learned: &Learned, ids: &[i64]) {
    session.run(
        "WITH gone AS (DELETE FROM pgedge._log_rows r WHERE r.source_no = $1 AND r.row_id = ANY ($2) RETURNING r.row_id)
         DELETE FROM pgedge._log_hours h USING gone g WHERE h.row_id = g.row_id",
        &[spi::int4(learned.no), spi::int8s(ids.iter().copied())],
    );
}

/// Lines of a row in an hour.
pub struct Hour {
    /// The row.
    pub row_id: i64,
    /// The hour, as microseconds since 2000-01-01 UTC.
    pub hour: i64,
    /// The lines.
    pub lines: i64,
}

/// Adds lines to hours that are not the latest of their rows.
pub fn add_hours(session: &Session<'_>, hours: &[Hour]) {
    session.run(
        "INSERT INTO pgedge._log_hours AS h (row_id, hour, lines)
         SELECT v.id, v.hour, sum(v.lines) FROM unnest($1, $2, $3) AS v(id, hour, lines) GROUP BY v.id, v.hour
         ON CONFLICT (row_id, hour) DO UPDATE SET lines = h.lines + excluded.lines",
        &[
            spi::int8s(hours.iter().map(|h| h.row_id)),
            spi::times(hours.iter().map(|h| h.hour)),
            spi::int8s(hours.iter().map(|h| h.lines)),
        ],
    );
}

/// Forgets hours that are further before the given one than is kept.
pub fn expire_hours(session: &Session<'_>, ids: &[i64], before: i64) {
    session.run(
        "DELETE FROM pgedge._log_hours WHERE row_id = ANY ($1) AND hour < $2",
        &[spi::int8s(ids.iter().copied()), spi::time(before)],
    );
}

/// Moves the hours of rows to the rows that they end in.
pub fn move_hours(session: &Session<'_>, from: &[i64], to: &[i64]) {
    session.run(
        "WITH gone AS (DELETE FROM pgedge._log_hours WHERE row_id = ANY ($1) RETURNING row_id, hour, lines)
         INSERT INTO pgedge._log_hours AS h (row_id, hour, lines)
         SELECT m.ends, g.hour, sum(g.lines) FROM gone g JOIN unnest($1, $2) AS m(id, ends) ON m.id = g.row_id GROUP BY m.ends, g.hour
         ON CONFLICT (row_id, hour) DO UPDATE SET lines = h.lines + excluded.lines",
        &[spi::int8s(from.iter().copied()), spi::int8s(to.iter().copied())],
    );
}

/// A pattern that became another one.
pub struct Step {
    /// The row that has the new pattern.
    pub id: i64,
    /// The row that had the old one; the same when it only changed its pattern.
    pub former_id: i64,
    /// Their level.
    pub level: Option<String>,
    /// The old pattern.
    pub old: String,
    /// The new pattern.
    pub new: String,
    /// Lines that the old row had.
    pub lines: i64,
}

/// Writes down what became of patterns, and forgets the oldest steps of a source that has very many.
pub fn add_lineage(session: &Session<'_>, learned: &Learned, source: &str, steps: &[Step]) {
    session.run(
        "INSERT INTO pgedge._log_lineage (source_no, source, row_id, former_id, level, old_pattern, new_pattern, lines)
         SELECT $1, nullif($2, ''), v.* FROM unnest($3, $4, $5, $6, $7, $8) AS v(row_id, former_id, level, old_pattern, new_pattern, lines)",
        &[
            spi::int4(learned.no),
            spi::text(source),
            spi::int8s(steps.iter().map(|s| s.id)),
            spi::int8s(steps.iter().map(|s| s.former_id)),
            spi::text_options(steps.iter().map(|s| s.level.as_deref())),
            spi::texts(steps.iter().map(|s| s.old.as_str())),
            spi::texts(steps.iter().map(|s| s.new.as_str())),
            spi::int8s(steps.iter().map(|s| s.lines)),
        ],
    );
    session.run(
        "DELETE FROM pgedge._log_lineage l WHERE l.source_no = $1
         AND l.step_no <= (SELECT o.step_no FROM pgedge._log_lineage o WHERE o.source_no = $1 ORDER BY o.step_no DESC OFFSET $2 LIMIT 1)",
        &[spi::int4(learned.no), spi::int8(MAX_LINEAGE)],
    );
}
