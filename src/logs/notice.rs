//! Events for a new error pattern or a spike, when `pgedge.log_events` is on: at most one an hour for each pattern, level and source, and
//! a limited number for each source and for the database.
//!
//! `pgedge._log_notices` remembers the last hour's, under a hash of pattern and level, so that a row that was deleted and begun again is
//! still known. It has no more rows than the limit of the database.
use std::collections::{HashMap, HashSet};

use pgedge_logminer::Level;
use pgrx::prelude::*;
use serde_json::json;

use super::LOG_EVENTS;
use super::aggregate::{Outcome, Work};
use super::batch::Tally;
use super::cache::Alarm;
use super::table::{self, Target};
use super::timestamp::{self, HOUR};
use super::trends;
use crate::spi::{self, Planned, Session};

/// Priority of the events: 1 to 3 wake the consumer at once.
const PRIORITY: i32 = 3;

/// Events an hour of a source.
const MOST_OF_SOURCE: usize = 20;
/// Events an hour of all sources; calls at the same moment do not see each other's.
const MOST_OF_ALL: usize = 100;

struct Notice {
    event_type: &'static str,
    payload: String,
    row: i64,
    digest: i64,
    /// The worst come first, of those the most frequent.
    rank: (std::cmp::Reverse<Option<Level>>, std::cmp::Reverse<i64>),
}

/// The hash of a pattern and level.
fn digest(pattern: &str, level: Option<&str>) -> i64 {
    pgedge_logminer::stable_hash(format!("{}\n{pattern}", level.unwrap_or("")).as_bytes()) as i64
}

/// Raises the events that the outcomes of a call ask for.
pub fn raise(session: &Session<'_>, target: &Target, work: &mut Work<'_>, outcomes: &[Outcome]) {
    if !LOG_EVENTS.get() {
        return;
    }
    let now = timestamp::now();
    set_alarms(session, work, outcomes, now.div_euclid(HOUR) * HOUR);
    let mut notices = Vec::new();
    for (delta, outcome) in work.deltas.iter().zip(outcomes) {
        let Some((_, row)) = work.learned.by_id(outcome.id) else { continue };
        if row.noticed_at > now - HOUR {
            continue;
        }
        let observed = outcome.count - row.lines_before;
        let spike = row.alarm.filter(|alarm| alarm.hour == row.open_hour && observed >= alarm.from);
        let level = delta.level.and_then(Level::parse);
        // An import of old lines tells nothing new.
        let is_news = outcome.is_new && level >= Some(Level::Error) && delta.tally.last > now - HOUR;
        let mut payload = json!({
            "id": outcome.id, "message_pattern": delta.pattern, "level": delta.level,
            "source": (!work.source.is_empty()).then_some(work.source), "count": outcome.count, "sample": sample(&delta.tally),
        });
        let event_type = if is_news {
            "log.new_pattern"
        } else if let Some(alarm) = spike {
            payload["observed"] = json!(observed);
            payload["expected"] = json!(alarm.expected);
            "log.spike"
        } else {
            continue;
        };
        notices.push(Notice {
            event_type,
            payload: payload.to_string(),
            row: outcome.id,
            digest: digest(&delta.pattern, delta.level),
            rank: (std::cmp::Reverse(level), std::cmp::Reverse(outcome.lines)),
        });
    }
    if notices.is_empty() {
        return;
    }
    // Stable: deltas are in the order of their patterns.
    notices.sort_by_key(|notice| notice.rank);
    let notices = within_limits(session, work.source, notices, now);
    for notice in &notices {
        if let Some((_, row)) = work.learned.by_id(notice.row) {
            row.noticed_at = now;
        }
        work.touched.insert(notice.row);
    }
    if !notices.is_empty() {
        insert(target, &notices);
    }
}

/// Those that may still be raised in this hour, and remembers them.
fn within_limits(session: &Session<'_>, source: &str, mut notices: Vec<Notice>, now: i64) -> Vec<Notice> {
    // What another session deletes just now is skipped: calls for different sources do not wait for each other.
    session.run(
        "DELETE FROM pgedge._log_notices n USING
            (SELECT o.source, o.digest FROM pgedge._log_notices o WHERE o.noticed_at <= $1 FOR UPDATE SKIP LOCKED) gone
         WHERE n.source = gone.source AND n.digest = gone.digest",
        &[spi::time(now - HOUR)],
    );
    let raised = session.planned(
        Planned::Anew,
        "SELECT n.source, n.digest FROM pgedge._log_notices n WHERE n.noticed_at > $1",
        &[spi::time(now - HOUR)],
        |row| (row.get::<String>(1), row.get::<i64>(2)),
    );
    let ours: HashSet<i64> = raised.iter().filter(|(of, _)| of == source).map(|(_, digest)| *digest).collect();
    notices.retain(|notice| !ours.contains(&notice.digest));
    notices.truncate(MOST_OF_SOURCE.saturating_sub(ours.len()).min(MOST_OF_ALL.saturating_sub(raised.len())));
    if !notices.is_empty() {
        session.run(
            "INSERT INTO pgedge._log_notices AS n (source, digest, noticed_at) SELECT $1, v.digest, $2 FROM unnest($3) AS v(digest)
             ON CONFLICT (source, digest) DO UPDATE SET noticed_at = excluded.noticed_at",
            &[spi::text(source), spi::time(now), spi::int8s(notices.iter().map(|n| n.digest))],
        );
    }
    notices
}

fn sample(tally: &Tally<'_>) -> Option<String> {
    tally.samples.first()
}

/// Finds out, once an hour, from how many lines this hour is a spike for each row that got lines.
fn set_alarms(session: &Session<'_>, work: &mut Work<'_>, outcomes: &[Outcome], hour: i64) {
    let mut wanted = Vec::new();
    for outcome in outcomes {
        if let Some((_, row)) = work.learned.by_id(outcome.id)
            && row.open_hour == hour
            && row.alarm.is_none_or(|alarm| alarm.hour != hour)
        {
            wanted.push(outcome.id);
        }
    }
    if wanted.is_empty() {
        return;
    }
    let found: HashMap<i64, (Vec<i64>, i64)> = session
        .rows(
            "SELECT h.row_id, array_agg(h.lines), min(h.hour) FROM pgedge._log_hours h
             WHERE h.row_id = ANY ($1) AND h.hour >= $2 AND h.hour < $3 GROUP BY h.row_id",
            &[spi::int8s(wanted.iter().copied()), spi::time(hour - trends::BASELINE_HOURS * HOUR), spi::time(hour)],
            |row| (row.get::<i64>(1), (row.get::<Vec<i64>>(2), row.get::<TimestampWithTimeZone>(3).into_inner())),
        )
        .into_iter()
        .collect();
    for id in wanted {
        let Some((_, row)) = work.learned.by_id(id) else { continue };
        let mut alarm = Alarm { hour, from: i64::MAX, expected: 0.0 };
        if let Some((lines, first)) = found.get(&id) {
            let hours = (hour - first) / HOUR;
            if hours >= trends::LEAST_HOURS {
                let usual = trends::baseline(lines.iter().copied(), hours);
                alarm = Alarm { hour, from: usual.alarm(), expected: usual.median };
            }
        }
        row.alarm = Some(alarm);
    }
}

/// A plain insert, as any client's: the queue's own trigger does the rest.
fn insert(target: &Target, notices: &[Notice]) {
    let Some((events, owner)) = target.sibling(c"claude_events") else {
        warning!("pgedge: table claude_events does not exist, so pgedge.log_events has no effect");
        return;
    };
    let session = Session { table: &events, delta_type: target.delta_type, writes: true };
    table::as_user(owner, || {
        session.run(
            "INSERT INTO %T (event_type, payload, priority) SELECT v.event_type, v.payload::jsonb, $3 FROM unnest($1, $2) AS v(event_type, payload)",
            &[
                spi::texts(notices.iter().map(|n| n.event_type)),
                spi::texts(notices.iter().map(|n| n.payload.as_str())),
                spi::int4(PRIORITY),
            ],
        );
    });
}
