//! `match_log`: the stored pattern of a line, without writing anything.
use pgedge_logminer as miner;
use pgrx::prelude::*;

use super::cache::{self, Row};
use super::mineable;
use super::store;
use super::table::Target;
use crate::spi::{self, Session};

/// The row that a line belongs to now. See the COMMENT in `sql/logs.sql`.
#[pg_extern(schema = "pgedge", stable, parallel_restricted, security_definer, cost = 1000)]
#[search_path(pg_catalog, pg_temp)]
fn match_log(
    message: Option<&str>,
    source: default!(Option<&str>, "NULL"),
    level: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(id, i32), name!(message_pattern, String))> {
    let found =
        message.and_then(|message| find(message, source.filter(|s| !s.is_empty()), level.filter(|l| !l.is_empty())));
    TableIterator::new(found.and_then(|(id, pattern)| Some((i32::try_from(id).ok()?, pattern))))
}

fn find(message: &str, source: Option<&str>, level: Option<&str>) -> Option<(i64, String)> {
    let target = Target::find();
    target.columns();
    let line = mineable(message);
    let event = miner::parse(&line);
    let shape = miner::shape_of_message(&event.message);
    let of_line = event.level.map(miner::Level::name);
    Spi::connect(|_| {
        let session = Session { table: &target.name, delta_type: target.delta_type, writes: false };
        let first = in_source(&session, &target, source.unwrap_or(""), &shape, level, of_line);
        if first.is_some() || source.is_some() {
            return first;
        }
        // No source was given and the lines without a source have no such pattern: the others, one after the other.
        let others = session.rows(
            "SELECT s.source FROM pgedge._log_sources s WHERE s.source <> '' ORDER BY s.source",
            &[],
            |row| row.get::<String>(1),
        );
        others.iter().find_map(|source| {
            check_for_interrupts!();
            in_source(&session, &target, source, &shape, level, of_line)
        })
    })
}

fn in_source(
    session: &Session<'_>,
    target: &Target,
    source: &str,
    shape: &str,
    level: Option<&str>,
    of_line: Option<&str>,
) -> Option<(i64, String)> {
    let learned = store::load(session, target.extension, source)?;
    let pattern = learned.set.pattern(shape).unwrap_or_else(|| learned.set.cover(shape));
    let found = (!learned.rows(&pattern).is_empty()).then_some(pattern).and_then(|pattern| {
        let ids = preferred(learned.rows(&pattern), level, of_line);
        // As its owner, who may have put a view with functions in its place.
        let there = target.as_owner(|| {
            session.rows(
                "SELECT a.id::int8, a.level::text FROM %T a WHERE a.id = ANY ($1) AND a.message_pattern = $2
                 AND CASE WHEN $3 = '' THEN a.source IS NULL ELSE a.source = $3 END",
                &[spi::int8s(ids.iter().copied()), spi::text(&pattern), spi::text(source)],
                |row| (row.get::<i64>(1), row.opt::<String>(2)),
            )
        });
        let level_of = |id| learned.rows(&pattern).iter().find(|row| row.id == id).and_then(|row| row.level.as_deref());
        let found = ids.into_iter().find(|&id| there.iter().any(|(i, l)| *i == id && l.as_deref() == level_of(id)));
        found.map(|id| (id, pattern))
    });
    cache::put_back(source, learned, false);
    found
}

/// The rows that the level allows, the best first: without a level that of the line, then none, then the oldest.
fn preferred(rows: &[Row], level: Option<&str>, of_line: Option<&str>) -> Vec<i64> {
    let mut ranked: Vec<(u8, i64)> = rows
        .iter()
        .filter(|row| level.is_none() || row.level.as_deref() == level)
        .map(|row| {
            let own = row.level.as_deref();
            (if own == level.or(of_line) { 0 } else { 1 + u8::from(own.is_some()) }, row.id)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, id)| id).collect()
}
