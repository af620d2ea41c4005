//! `prune_logs`: deletes what was not seen for a time, and forgets it.
use std::collections::{BTreeSet, HashSet};

use pgrx::prelude::*;

use super::cache::{self, Learned};
use super::store;
use super::table::{self, Target};
use crate::errors;
use crate::spi::{self, Planned, Session};

/// Rows deleted at a time.
const CHUNK: i64 = 10_000;

/// Deletes the rows of `aggregated_logs` last seen longer ago than `older_than`. See the COMMENT in `sql/logs.sql`.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, security_definer, cost = 10000)]
#[search_path(pg_catalog, pg_temp)]
fn prune_logs(older_than: Interval) -> i64 {
    table::check_writable();
    let target = Target::find_locked(Target::find(), store::all_locks());
    target.columns();
    Spi::connect_mut(|_| {
        let session = Session { table: &target.name, delta_type: target.delta_type, writes: true };
        let cutoff = cutoff(&session, older_than);
        let hours =
            session.planned(Planned::Anew, "SELECT r.row_id, r.open_hour FROM pgedge._log_rows r", &[], |row| {
                (row.get::<i64>(1), row.get::<TimestampWithTimeZone>(2).into_inner())
            });
        let mut deleted = 0;
        let mut sources = BTreeSet::new();
        loop {
            check_for_interrupts!();
            let ids = target.as_owner(|| {
                // The second CASE is that of pgedge._log_last_seen, which the table's owner may not be able to call.
                session.planned(
                    Planned::Anew,
                    "DELETE FROM %T WHERE id = ANY (ARRAY(
                        SELECT o.id FROM %T o LEFT JOIN unnest($3, $4) AS r(id, hour) ON r.id = o.id
                        WHERE CASE WHEN r.hour IS NULL THEN o.last_seen < $1::timestamp ELSE CASE
                            WHEN o.last_seen::timestamptz < r.hour - interval '27 hours'
                              OR o.last_seen::timestamptz >= r.hour AND o.last_seen::timestamptz < r.hour + interval '1 hour' THEN o.last_seen::timestamptz
                            WHEN o.last_seen::timestamptz > now() THEN r.hour + interval '1 hour'
                            ELSE greatest(o.last_seen::timestamptz, r.hour + interval '1 hour') END < $1 END
                        ORDER BY o.id LIMIT $2))
                     RETURNING id::int8",
                    &[
                        spi::time(cutoff),
                        spi::int8(CHUNK),
                        spi::int8s(hours.iter().map(|(id, _)| *id)),
                        spi::times(hours.iter().map(|(_, hour)| *hour)),
                    ],
                    |row| row.get::<i64>(1),
                )
            });
            deleted += ids.len() as i64;
            sources.extend(forget_rows(&session, &ids));
            if (ids.len() as i64) < CHUNK {
                break;
            }
        }
        // Rows that someone else deleted. The table is read as its owner, who may have put a view with functions in its place.
        let known =
            session.planned(Planned::Anew, "SELECT r.row_id FROM pgedge._log_rows r", &[], |row| row.get::<i64>(1));
        let there: HashSet<i64> = target
            .as_owner(|| {
                session.planned(
                    Planned::Anew,
                    "SELECT a.id::int8 FROM %T a WHERE a.id = ANY ($1)",
                    &[spi::int8s(known.iter().copied())],
                    |row| row.get::<i64>(1),
                )
            })
            .into_iter()
            .collect();
        let orphans: Vec<i64> = known.into_iter().filter(|id| !there.contains(id)).collect();
        sources.extend(forget_rows(&session, &orphans));
        session.run("DELETE FROM pgedge._log_hours WHERE hour < $1", &[spi::time(cutoff)]);
        session.run("DELETE FROM pgedge._log_lineage WHERE changed_at < $1", &[spi::time(cutoff)]);
        for no in sources {
            check_for_interrupts!();
            forget_shapes(&session, &target, no);
        }
        deleted
    })
}

fn cutoff(session: &Session<'_>, older_than: Interval) -> i64 {
    // More than six thousand years ago there are no timestamps.
    let found = session.rows(
        "SELECT $1 < '0'::interval, $1::text, now() - greatest(least($1, '6000 years'::interval), '0'::interval)",
        &[spi::interval(older_than)],
        |row| (row.get::<bool>(1), row.get::<String>(2), row.get::<TimestampWithTimeZone>(3)),
    );
    let (negative, text, cutoff) = found.into_iter().next().expect("SELECT answers a row");
    if negative {
        errors::fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("older_than must not be negative: {text}"),
            "Give the age from which rows are deleted, e.g. '30 days'.",
        );
    }
    cutoff.into_inner()
}

/// Forgets rows that are gone; answers the numbers of their sources.
fn forget_rows(session: &Session<'_>, ids: &[i64]) -> Vec<i32> {
    if ids.is_empty() {
        return Vec::new();
    }
    session.run("DELETE FROM pgedge._log_hours WHERE row_id = ANY ($1)", &[spi::int8s(ids.iter().copied())]);
    session.rows(
        "DELETE FROM pgedge._log_rows WHERE row_id = ANY ($1) RETURNING source_no",
        &[spi::int8s(ids.iter().copied())],
        |row| row.get::<i32>(1),
    )
}

/// Forgets the shapes of a source whose patterns have no row any more, and the source when nothing is left of it. The patterns of the
/// others stay what they are: shapes that a pattern was derived from all have that pattern.
fn forget_shapes(session: &Session<'_>, target: &Target, no: i32) {
    let Some(source) = session
        .rows("SELECT s.source FROM pgedge._log_sources s WHERE s.source_no = $1", &[spi::int4(no)], |row| {
            row.get::<String>(1)
        })
        .pop()
    else {
        return;
    };
    let mut learned = Learned::new(no, 0);
    store::refresh(session, &mut learned);
    let dead: Vec<String> = learned
        .set
        .patterns()
        .into_iter()
        .filter(|(_, p)| learned.rows(p).is_empty())
        .map(|(s, _)| s.to_owned())
        .collect();
    session.run(
        "DELETE FROM pgedge._log_shapes WHERE source_no = $1 AND shape = ANY ($2)",
        &[spi::int4(no), spi::texts(dead.iter().map(String::as_str))],
    );
    if dead.len() == learned.set.len() && learned.all_rows().next().is_none() {
        session.run("DELETE FROM pgedge._log_sources WHERE source_no = $1", &[spi::int4(no)]);
    } else {
        session.run(
            "UPDATE pgedge._log_sources SET epoch = pg_current_xact_id()::text::int8, last_no = last_no + 1 WHERE source_no = $1",
            &[spi::int4(no)],
        );
    }
    cache::forget(target.extension, &source);
}
