//! What the SQL functions of the queue ask of the leases in memory. `relation` is always the table.
use pgrx::prelude::*;

use super::ledger::{self, Deed};
use super::{check_may_write, hash, lease_micros, segment, wake};
use crate::session;
use pgedge_leases::{Condition, Slot};

/// Who holds an event; None for a worker without a name.
pub(super) fn worker(slot: &Slot) -> Option<&str> {
    Some(slot.worker()).filter(|w| !w.is_empty())
}

fn time(micros: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(micros).unwrap_or_else(|_| pgrx::datum::clock_timestamp())
}

/// The events of `ids` that `lease_token` still holds, ascending; nobody else can have them until this transaction ends. They are done with
/// when it commits, or claimable again if `release`.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_hold")]
#[allow(clippy::type_complexity)]
fn hold(
    relation: pg_sys::Oid,
    ids: Vec<Option<i64>>,
    lease_token: i64,
    release: bool,
) -> TableIterator<
    'static,
    (
        name!(ids, Vec<i64>),
        name!(attempts, Vec<i32>),
        name!(workers, Vec<Option<String>>),
        name!(claimed, Vec<TimestampWithTimeZone>),
    ),
> {
    let slots = take(relation, ids.into_iter().flatten().collect(), lease_token, release);
    let (mut held, mut attempts, mut workers, mut claimed) = (vec![], vec![], vec![], vec![]);
    for slot in slots {
        held.push(slot.id);
        attempts.push(slot.attempt);
        workers.push(worker(&slot).map(str::to_owned));
        claimed.push(time(slot.claimed_at));
    }
    TableIterator::once((held, attempts, workers, claimed))
}

/// As above, as slots.
pub(super) fn take(relation: pg_sys::Oid, mut wanted: Vec<i64>, lease_token: i64, release: bool) -> Vec<Slot> {
    check_may_write();
    wanted.sort_unstable();
    wanted.dedup();
    let Some(segment) = segment::find(relation) else { return vec![] };
    let mut slots = Vec::with_capacity(wanted.len());
    let mut locked = segment.lock();
    slots.extend(wanted.into_iter().filter_map(|id| locked.queue.hold(id, lease_token)));
    let epoch = locked.queue.state.epoch;
    // What waited for these, the next of its key or of its type, may go once they are finished.
    let limited = |kind| locked.queue.limits().iter().any(|l| l.kind == kind);
    if slots.iter().any(|s: &Slot| s.key != 0 || limited(s.kind)) {
        wake::pend(relation);
    }
    for slot in &slots {
        let before = slot.condition();
        let deed = if release { Deed::Releases(before) } else { Deed::Finishes(before) };
        ledger::note(segment, epoch, slot.id, lease_token, deed);
    }
    slots
}

/// Lets live leases end at now + lease; the ids of those that it reached.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, name = "_events_extend")]
fn extend(
    relation: pg_sys::Oid,
    ids: Vec<Option<i64>>,
    lease_token: i64,
    lease: Option<pgrx::datum::Interval>,
) -> Vec<i64> {
    check_may_write();
    let micros = lease_micros(lease);
    let Some(segment) = segment::find(relation) else { return vec![] };
    let now = session::clock();
    let mut locked = segment.lock();
    ids.into_iter()
        .flatten()
        .filter(|&id| locked.queue.extend(id, lease_token, now, now.saturating_add(micros)))
        .collect()
}

/// When this transaction commits, those who hold these events now, or held them last, do not.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_revoke")]
fn revoke(relation: pg_sys::Oid, ids: Vec<Option<i64>>) {
    revoke_all(relation, ids.into_iter().flatten());
}

fn revoke_all(relation: pg_sys::Oid, ids: impl Iterator<Item = i64>) {
    let Some(segment) = segment::find(relation) else { return };
    let mut known = vec![];
    let epoch = {
        let locked = segment.lock();
        let token = |id| locked.queue.find(id).map(|at| (id, locked.queue.slot(at).token));
        known.extend(ids.filter_map(token));
        locked.queue.state.epoch
    };
    if !known.is_empty() {
        wake::pend(relation);
    }
    for (id, token) in known {
        ledger::note(segment, epoch, id, token, Deed::Revokes);
    }
}

/// When this transaction commits, whoever holds this event now holds one of another ordering key.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, name = "_events_rekey")]
fn rekey(relation: pg_sys::Oid, id: i64, ordering_key: Option<&str>) {
    let Some(segment) = segment::find(relation) else { return };
    let (token, epoch) = {
        let locked = segment.lock();
        (locked.queue.find(id).map(|at| locked.queue.slot(at).token), locked.queue.state.epoch)
    };
    if let Some(token) = token {
        wake::pend(relation);
        ledger::note(segment, epoch, id, token, Deed::Rekeys(ordering_key.map_or(0, hash)));
    }
}

/// When this transaction commits, nothing is leased or remembered: the table was emptied.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_empty")]
fn empty(relation: pg_sys::Oid) {
    if let Some(segment) = segment::find(relation) {
        let epoch = segment.lock().queue.state.epoch;
        ledger::note(segment, epoch, 0, 0, Deed::Empties);
    }
}

/// The events in someone's hands.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_leases")]
#[allow(clippy::type_complexity)]
fn leases(
    relation: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(id, i64),
        name!(worker, Option<String>),
        name!(attempt, i32),
        name!(lease_token, i64),
        name!(claimed_at, TimestampWithTimeZone),
        name!(lease_expires_at, TimestampWithTimeZone),
    ),
> {
    let mut slots = vec![];
    if let Some(segment) = segment::find(relation) {
        let locked = segment.lock();
        slots.extend(
            locked
                .queue
                .slots()
                .iter()
                .filter(|s| matches!(s.condition(), Condition::Leased | Condition::Held))
                .copied(),
        );
    }
    TableIterator::new(
        slots
            .into_iter()
            .map(|s| (s.id, worker(&s).map(str::to_owned), s.attempt, s.token, time(s.claimed_at), time(s.expires_at))),
    )
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_events_deleted() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// Row trigger on the table: an unfinished event was deleted, so nobody holds it once this transaction commits.
///
/// # Safety
/// Called by the function manager as a trigger.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_events_deleted(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = wake::trigger_data(fcinfo, "pgedge_events_deleted");
    // SAFETY: the trigger's data are there while it runs, and a row trigger has a row; the id is read as the type that it has.
    unsafe {
        let (rel, row) = ((*data).tg_relation, (*data).tg_trigtuple);
        let id = pg_sys::get_attnum((*rel).rd_id, c"id".as_ptr());
        if !row.is_null() && id != pg_sys::InvalidAttrNumber as i16 {
            let mut null = false;
            let datum = pg_sys::heap_getattr(row, id.into(), (*rel).rd_att, &mut null);
            let id = match pg_sys::get_atttype((*rel).rd_id, id) {
                _ if null => None,
                pg_sys::INT4OID => Some(i64::from(datum.value() as i32)),
                pg_sys::INT8OID => Some(datum.value() as i64),
                _ => None,
            };
            revoke_all((*rel).rd_id, id.into_iter());
            // The next event of its key may go.
            let key = pg_sys::get_attnum((*rel).rd_id, c"ordering_key".as_ptr());
            if key != pg_sys::InvalidAttrNumber as i16 && !pg_sys::heap_attisnull(row, key.into(), (*rel).rd_att) {
                wake::pend((*rel).rd_id);
            }
        }
    }
    pg_sys::Datum::from(0)
}
