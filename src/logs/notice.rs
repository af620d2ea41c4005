//! Events for a new error pattern or a spike, when `pgedge.log_events` is on: at most one an hour for each pattern, level and source.
use std::collections::HashMap;

use pgedge_logminer::Level;
use pgrx::prelude::*;
use serde_json::json;

use super::LOG_EVENTS;
use super::aggregate::{Outcome, Work};
use super::batch::Tally;
use super::cache::Alarm;
use super::spi::{self, Session};
use super::table::{self, Target};
use super::timestamp::{self, HOUR};
use super::trends;

/// Priority of the events: 1 to 3 wake the consumer at once.
const PRIORITY: i32 = 3;

struct Notice {
    event_type: &'static str,
    payload: String,
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
        let is_error = delta.level.and_then(Level::parse).is_some_and(|level| level >= Level::Error);
        let mut payload = json!({
            "id": outcome.id, "message_pattern": delta.pattern, "level": delta.level,
            "source": (!work.source.is_empty()).then_some(work.source), "count": outcome.count, "sample": sample(&delta.tally),
        });
        let event_type = if outcome.is_new && is_error {
            "log.new_pattern"
        } else if let Some(alarm) = spike {
            payload["observed"] = json!(observed);
            payload["expected"] = json!(alarm.expected);
            "log.spike"
        } else {
            continue;
        };
        row.noticed_at = now;
        work.touched.insert(outcome.id);
        notices.push(Notice { event_type, payload: payload.to_string() });
    }
    if !notices.is_empty() {
        insert(target, &notices);
    }
}

fn sample<'a>(tally: &'a Tally<'_>) -> Option<&'a str> {
    tally.samples.texts().next()
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
    let session = Session { table: &events, writes: true };
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
