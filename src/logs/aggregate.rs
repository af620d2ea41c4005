//! `aggregate_logs`: a batch of lines into the rows of their patterns.
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pgrx::prelude::*;

use super::batch::{Batch, Line, SourceBatch, Tally};
use super::cache::{self, Learned, Row};
use super::direct::Addition;
use super::learn;
use super::metadata;
use super::samples::{self, Samples};
use super::store::{self, Hour};
use super::table::{self, Delta, Limits, Target};
use super::text::Body;
use super::timestamp::{self, HOUR};
use super::{TREND_HOURS, input, notice};
use crate::errors;
use crate::jsonb::{Jsonb, utf8};
use crate::spi::Session;

// The SQL declarations are in `sql/logs.sql`: these answer their rows in one tuplestore. One by one, as pgrx does it, each row would pay
// for the change of user and search_path again.

/// Aggregates the lines of a JSON body.
#[pg_extern(sql = false)]
fn aggregate_logs_entries(entries: Jsonb<'_>, fcinfo: pg_sys::FunctionCallInfo) {
    let answer = aggregate(|limits, batch| input::entries(&entries, limits, batch));
    put_rows(fcinfo, &answer);
}

/// The same for a body that comes as text: what drivers send when they are not told a type.
#[pg_extern(sql = false)]
fn aggregate_logs_text(entries: &str, fcinfo: pg_sys::FunctionCallInfo) {
    let answer = match Body::parse(entries) {
        Some(body) => aggregate(|limits, batch| body.read(limits, batch)),
        None => {
            let entries = Jsonb::parse(entries);
            aggregate(|limits, batch| input::entries(&entries, limits, batch))
        }
    };
    put_rows(fcinfo, &answer);
}

/// Aggregates lines of one level and source.
#[pg_extern(sql = false)]
fn aggregate_logs_lines(
    messages: Option<Array<'_, &str>>,
    level: Option<&str>,
    source: Option<&str>,
    seen_at: Option<TimestampWithTimeZone>,
    fcinfo: pg_sys::FunctionCallInfo,
) {
    // SAFETY: a plain read of this backend's state.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32;
    let answer = aggregate(|limits, batch| {
        // now(), which is the default, is no time of the lines' own
        let at = seen_at.map(|at| timestamp::finite(at, "seen_at")).filter(|at| *at != timestamp::now());
        let at = at.unwrap_or_else(timestamp::of_call);
        let level =
            level.map(|l| input::checked(|| "level".into(), "level", l, limits.level)).filter(|l| !l.is_empty());
        let source = source.map_or("", |s| input::checked(|| "source".into(), "source", s, limits.source));
        // A NULL is no line.
        for message in messages.iter().flat_map(Array::iter).flatten() {
            // as the elements of an array come, nobody has looked at them
            let message = if is_utf8 { message } else { utf8(message.as_bytes()) };
            batch.add(&Line { message, level, source, at, metadata: None }, |_, _| {});
        }
    });
    put_rows(fcinfo, &answer);
}

/// Answers rows in a tuplestore.
fn put_rows(fcinfo: pg_sys::FunctionCallInfo, rows: &[AnswerRow]) {
    // SAFETY: fcinfo is the live call frame of a function that returns a table of the columns below; the tuplestore copies the values.
    unsafe {
        let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        // the caller's description of the rows, where it has one: to put one together from the catalog takes longer than to answer them
        let described = !result.is_null() && !(*result).expectedDesc.is_null();
        pg_sys::InitMaterializedSRF(fcinfo, if described { pg_sys::MAT_SRF_USE_EXPECTED_DESC } else { 0 });
        for (id, pattern, level, source, lines, is_new) in rows {
            let mut values = [
                (*id).into_datum(),
                pattern.as_str().into_datum(),
                level.as_deref().into_datum(),
                source.as_deref().into_datum(),
                (*lines).into_datum(),
                (*is_new).into_datum(),
            ];
            let mut nulls = values.map(|v| v.is_none());
            let mut values = values.each_mut().map(|v| v.unwrap_or(pg_sys::Datum::from(0)));
            pg_sys::tuplestore_putvalues(
                (*result).setResult,
                (*result).setDesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Refuses a call from inside a call: a trigger on the tables that logs into them.
struct Once;

impl Once {
    fn enter() -> Self {
        if RUNNING.replace(true) {
            errors::fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aggregate_logs() was called while it was running",
                "A trigger on a table that it writes calls it. Let the trigger hand over to something that runs later.",
            );
        }
        Self
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

/// The lines of one source on their way into the tables.
pub struct Work<'a> {
    /// The source; empty for none.
    pub source: &'a str,
    /// What is known of it.
    pub learned: Learned,
    /// Whether that changed in this call.
    pub changed: bool,
    /// What to add, by pattern and level.
    pub deltas: Vec<Delta<'a>>,
    /// Rows that got another state in this call and are to be stored.
    pub touched: BTreeSet<i64>,
}

impl Work<'_> {
    /// Begins a change: what is stored from now on has a number that no other session has seen.
    pub fn change(&mut self) {
        if !self.changed {
            self.changed = true;
            self.learned.last_no += 1;
        }
    }
}

/// A row that got lines.
pub struct Outcome {
    /// Its id.
    pub id: i64,
    /// The lines.
    pub lines: i64,
    /// Its count with them.
    pub count: i64,
    /// Whether it is new.
    pub is_new: bool,
}

fn aggregate<'a>(read: impl FnOnce(&Limits, &mut Batch<'a>)) -> Vec<AnswerRow> {
    let _once = Once::enter();
    table::check_writable();
    let target = Target::find();
    let mut batch = Batch::default();
    read(target.limits(), &mut batch);
    batch.finish();
    // Levels that lines name, in a column that was made narrower.
    for level in batch.levels() {
        input::checked(|| "the level that a line names".into(), "level", level, target.limits().level);
    }
    let lines = batch.len() as i64;
    let mut sources = batch.sources;
    sources.sort_by_key(|s| s.source);
    let target = Target::find_locked(target, sources.iter().map(|s| store::lock_number(s.source)));
    let limits = target.limits();
    let mut answer: Vec<_> = Spi::connect_mut(|_| {
        let session = Session { table: &target.name, delta_type: target.delta_type, writes: true };
        sources.into_iter().flat_map(|source| one_source(&session, &target, limits, source)).collect()
    });
    debug_assert_eq!(answer.iter().map(|row| row.4).sum::<i64>(), lines);
    answer.sort_by_key(|row| row.0);
    answer
}

type AnswerRow = (i32, String, Option<String>, Option<String>, i64, bool);

fn one_source(session: &Session<'_>, target: &Target, limits: &Limits, batch: SourceBatch<'_>) -> Vec<AnswerRow> {
    let (learned, created) = match store::load(session, target.extension, batch.source) {
        Some(learned) => (learned, false),
        None => (store::create(session, batch.source), true),
    };
    let mut work = Work { source: batch.source, learned, changed: false, deltas: Vec::new(), touched: BTreeSet::new() };
    if created {
        work.change();
    }
    let patterns = learn::learn(session, target, limits, &mut work, &batch.groups);
    work.deltas = deltas(batch, patterns);
    let outcomes = write(session, target, limits, &mut work);
    track_hours(session, &mut work, &outcomes);
    notice::raise(session, target, &mut work, &outcomes);
    if !work.touched.is_empty() {
        work.change();
        let touched: Vec<i64> = work.touched.iter().copied().collect();
        store::put_rows(session, &mut work.learned, &touched);
    }
    if work.changed {
        store::advance(session, &work.learned);
    }
    let source = (!work.source.is_empty()).then(|| work.source.to_owned());
    let rows = work.deltas.iter().zip(&outcomes).map(|(delta, outcome)| {
        (
            id_of(outcome.id),
            delta.pattern.clone(),
            delta.level.map(str::to_owned),
            source.clone(),
            outcome.lines,
            outcome.is_new,
        )
    });
    let rows = rows.collect();
    cache::put_back(work.source, work.learned, work.changed);
    rows
}

fn id_of(id: i64) -> i32 {
    i32::try_from(id).unwrap_or_else(|_| {
        errors::fail(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("the id {id} of a row of aggregated_logs is larger than an integer"),
            "aggregate_logs() answers ids as integer; prune_logs() and restart the sequence of aggregated_logs.id.",
        )
    })
}

/// The groups of one source as what to add to each pattern and level, in the order of those.
fn deltas<'a>(batch: SourceBatch<'a>, patterns: Vec<Rc<str>>) -> Vec<Delta<'a>> {
    let mut merged: BTreeMap<(Rc<str>, Option<&'a str>), Tally<'a>> = BTreeMap::new();
    for (group, pattern) in batch.groups.into_iter().zip(patterns) {
        let key = (pattern, group.level);
        match merged.entry(key) {
            std::collections::btree_map::Entry::Vacant(e) => {
                e.insert(group.tally);
            }
            std::collections::btree_map::Entry::Occupied(mut e) => e.get_mut().merge(&group.tally),
        }
    }
    merged
        .into_iter()
        .map(|((pattern, level), tally)| Delta {
            pattern: pattern.to_string(),
            level,
            source: batch.source,
            tally,
            samples: None,
        })
        .collect()
}

/// Adds the deltas to their rows: one UPDATE for those that are there, one INSERT for the others. One outcome for each delta.
fn write(session: &Session<'_>, target: &Target, limits: &Limits, work: &mut Work<'_>) -> Vec<Outcome> {
    let known = work.deltas.iter().map(|d| work.learned.row(&d.pattern, d.level).map(|r| r.id));
    let mut rows = Rows { ids: known.collect(), counts: vec![None; work.deltas.len()] };
    update_known(session, target, limits, work, &rows.ids, &mut rows.counts);
    let missing = rows.missing();
    let mut new = BTreeSet::new();
    if !missing.is_empty() {
        work.change();
        // A known row that was not updated was deleted or changed by someone else: it is theirs now.
        let lost: Vec<i64> = missing.iter().filter_map(|&i| rows.ids[i]).collect();
        if !lost.is_empty() {
            store::remove_rows(session, &work.learned, &lost);
            for id in &lost {
                work.learned.remove_row(*id);
            }
            for &i in &missing {
                work.deltas[i].samples = None;
            }
        }
        adopt(session, target, limits, work, &missing, &mut rows);
        let absent = rows.missing();
        insert_new(session, target, limits, work, &absent, &mut rows);
        new.extend(absent);
    }
    let row = |i: usize| rows.ids[i].zip(rows.counts[i]).expect("each delta has a row by now");
    (0..work.deltas.len())
        .map(|i| {
            let (id, count) = row(i);
            Outcome { id, lines: work.deltas[i].tally.count, count, is_new: new.contains(&i) }
        })
        .collect()
}

/// The rows of the deltas, in their order.
struct Rows {
    /// Their ids, as far as they are known.
    ids: Vec<Option<i64>>,
    /// Their counts once they got their lines.
    counts: Vec<Option<i64>>,
}

impl Rows {
    /// The deltas whose lines no row has got yet.
    fn missing(&self) -> Vec<usize> {
        (0..self.counts.len()).filter(|&i| self.counts[i].is_none()).collect()
    }
}

/// Adds the deltas of rows that are known, their samples first where those change, and puts down the new counts.
fn update_known(
    session: &Session<'_>,
    target: &Target,
    limits: &Limits,
    work: &mut Work<'_>,
    ids: &[Option<i64>],
    counts: &mut [Option<i64>],
) {
    let mut wanted = Vec::new();
    for (delta, id) in work.deltas.iter().zip(ids) {
        let Some(row) = id.and_then(|_| work.learned.row(&delta.pattern, delta.level)) else { continue };
        if delta.tally.samples.offered().any(|rank| samples::matters(&row.ranks, rank) && !row.ranks.contains(&rank)) {
            wanted.push(row.id);
        }
    }
    let stored = if wanted.is_empty() { Vec::new() } else { target.as_owner(|| table::read(session, wanted)) };
    for stored in stored {
        let Some(i) = ids.iter().position(|id| *id == Some(stored.id)) else { continue };
        let Some((_, row)) = work.learned.by_id(stored.id) else { continue };
        let Some(mut all) = Samples::stored(stored.samples.as_deref(), &row.ranks) else { continue };
        all.merge(&work.deltas[i].tally.samples);
        let ranks: Vec<u64> = all.ranks().collect();
        if ranks != row.ranks {
            row.ranks = ranks;
            work.deltas[i].samples = Some(all.to_json());
            work.touched.insert(stored.id);
        }
    }
    let mut numbers = Vec::with_capacity(ids.len());
    let mut additions = Vec::with_capacity(ids.len());
    for (i, (delta, id)) in work.deltas.iter().zip(ids).enumerate() {
        if let Some(id) = *id {
            let place = work.learned.row(&delta.pattern, delta.level).and_then(|row| row.place);
            numbers.push(i);
            additions.push(Addition { id, place, delta });
        }
    }
    if additions.is_empty() {
        return;
    }
    let answer = target.as_owner(|| table::update(session, target, &additions, limits));
    for (i, added) in numbers.into_iter().zip(answer) {
        counts[i] = added.map(|added| added.count);
        if let Some((_, row)) = ids[i].and_then(|id| work.learned.by_id(id)) {
            row.place = added.and_then(|added| added.place);
        }
    }
}

/// Takes rows that are there already, though nobody knew, as those of their patterns.
fn adopt(
    session: &Session<'_>,
    target: &Target,
    limits: &Limits,
    work: &mut Work<'_>,
    missing: &[usize],
    rows: &mut Rows,
) {
    let unknown: Vec<&Delta<'_>> = missing.iter().map(|&i| &work.deltas[i]).collect();
    let found = target.as_owner(|| table::existing(session, work.source, &unknown));
    let mut adopted = vec![None; rows.ids.len()];
    for (&i, id) in missing.iter().zip(found) {
        adopted[i] = id;
    }
    if adopted.iter().all(Option::is_none) {
        return;
    }
    let stored = target.as_owner(|| table::read(session, adopted.iter().flatten().copied()));
    for stored in stored {
        let Some(i) = adopted.iter().position(|id| *id == Some(stored.id)) else { continue };
        let delta = &work.deltas[i];
        let ranks = Samples::stored(stored.samples.as_deref(), &[]).map_or_else(Vec::new, |s| s.ranks().collect());
        let row = Row { lines_before: stored.count, first_hour: None, ..new_row(stored.id, delta, ranks) };
        let pattern = delta.pattern.clone();
        work.learned.put_row(&pattern, row);
        work.touched.insert(stored.id);
        rows.ids[i] = Some(stored.id);
    }
    update_known(session, target, limits, work, &adopted, &mut rows.counts);
}

/// The row of a delta, without any lines yet.
fn new_row(id: i64, delta: &Delta<'_>, ranks: Vec<u64>) -> Row {
    Row {
        id,
        level: delta.level.map(Into::into),
        place: None,
        ranks,
        first_hour: delta.tally.hours.first_key_value().map(|(hour, _)| *hour * HOUR),
        open_hour: delta.tally.hours.last_key_value().map_or(0, |(hour, _)| *hour) * HOUR,
        lines_before: 0,
        noticed_at: i64::MIN,
        alarm: None,
    }
}

/// Adds rows for patterns that have none.
fn insert_new(
    session: &Session<'_>,
    target: &Target,
    limits: &Limits,
    work: &mut Work<'_>,
    absent: &[usize],
    rows: &mut Rows,
) {
    if absent.is_empty() {
        return;
    }
    for &i in absent {
        work.deltas[i].samples = Some(work.deltas[i].tally.samples.to_json());
    }
    let deltas: Vec<&Delta<'_>> = absent.iter().map(|&i| &work.deltas[i]).collect();
    let made = target.as_owner(|| table::insert(session, target, &deltas, limits));
    for (&i, id) in absent.iter().zip(made) {
        let delta = &work.deltas[i];
        let row = new_row(id, delta, delta.tally.samples.ranks().collect());
        let pattern = delta.pattern.clone();
        work.learned.put_row(&pattern, row);
        work.touched.insert(id);
        rows.ids[i] = Some(id);
        rows.counts[i] = Some(work.deltas[i].tally.count);
    }
}

/// Counts by hour. The lines of a row's latest hour are its count less `lines_before`, so while the hour lasts nothing is written; once a
/// later one begins, the lines of the one before are put down.
fn track_hours(session: &Session<'_>, work: &mut Work<'_>, outcomes: &[Outcome]) {
    let mut closed = Vec::new();
    let mut rolled = Vec::new();
    for (delta, outcome) in work.deltas.iter().zip(outcomes) {
        let Some((_, row)) = work.learned.by_id(outcome.id) else { continue };
        let Some((&latest, &in_latest)) = delta.tally.hours.last_key_value() else { continue };
        let latest = latest * HOUR;
        if delta.tally.hours.len() == 1 && latest == row.open_hour {
            continue;
        }
        work.touched.insert(outcome.id);
        let first = delta.tally.hours.first_key_value().map_or(latest, |(hour, _)| *hour * HOUR);
        row.first_hour = row.first_hour.map(|known| known.min(first));
        let open = row.open_hour;
        let earlier = delta.tally.hours.iter().map(|(h, n)| (h * HOUR, *n)).filter(|(h, _)| *h < latest.max(open));
        closed.extend(earlier.map(|(hour, lines)| Hour { row_id: outcome.id, hour, lines }));
        if latest > open {
            // A count that the user made smaller gives nothing rather than less than nothing.
            let lines = outcome.count - outcome.lines - row.lines_before;
            if lines > 0 {
                closed.push(Hour { row_id: outcome.id, hour: open, lines });
            }
            rolled.push(outcome.id);
            row.open_hour = latest;
            row.lines_before = outcome.count - in_latest;
        } else {
            let in_open = delta.tally.hours.get(&(open / HOUR)).copied().unwrap_or(0);
            row.lines_before += outcome.lines - in_open;
        }
    }
    if !closed.is_empty() {
        store::add_hours(session, &closed);
    }
    if !rolled.is_empty() {
        store::expire_hours(session, &rolled, timestamp::now() - i64::from(TREND_HOURS.get()) * HOUR);
    }
}

/// Metadata of rows that become one: later rows win, as later lines do; what does not fit is left out.
pub fn merged_metadata<'s>(rows: impl Iterator<Item = Option<&'s str>>) -> Option<String> {
    let mut all = metadata::Metadata::default();
    let mut foreign = None;
    for (i, json) in rows.enumerate() {
        let Some(json) = json else { continue };
        match serde_json::from_str::<BTreeMap<String, Box<serde_json::value::RawValue>>>(json) {
            Ok(object) => object.iter().for_each(|(key, value)| all.set(i, key, value.get().to_owned())),
            // the user's, no object: kept when there is nothing else
            Err(_) => foreign = Some(json.to_owned()),
        }
    }
    all.to_json().or(foreign)
}
