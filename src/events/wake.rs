//! Waking consumers: at most one NOTIFY a transaction, none while all consumers are busy, none lost.
//!
//! A claim that finds nothing says so in the segment before it looks a last time ([`Consumers`]). A transaction that makes events ready looks
//! there as it begins to commit, and notifies if a consumer is idle; until it has committed it is counted, and a claim that finds
//! nothing waits for those. So either the consumer sees the event, or it is notified. Busy consumers cost no NOTIFY, whose global
//! lock would make committers wait for each other. Before the first claim there is no segment: then each session notifies once a
//! second at most, and the first claims wait for those that commit without.
use std::cell::Cell;

use pgedge_leases::Announcement;
#[cfg(doc)]
use pgedge_leases::Consumers;
use pgrx::prelude::*;

use super::segment::{self, Found, Segment};
use super::{check_may_write, claim, limits, settings, table_oid};
use crate::session;

/// Who only listens, and never claims, is notified at least so often (µs).
const AT_LEAST: i64 = 1_000_000;
/// How often a waiting session looks for events that became due (ms).
const LOOK_EVERY: i64 = 250;

const CHANNEL: &core::ffi::CStr = c"pgedge_events";

thread_local! {
    /// The table that this transaction put events in.
    static PENDING: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// Where it counts as about to commit, and what it announces.
    static COMMITS: Cell<Option<(Segment, Announcement)>> = const { Cell::new(None) };
    /// Where it told all consumers to look again, which is true once it has committed.
    static NUDGES: Cell<Option<Segment>> = const { Cell::new(None) };
    /// When this session last notified while there was no segment (µs); 0 for never.
    static NOTIFIED_AT: Cell<i64> = const { Cell::new(0) };
    /// Where this session stands among those that wait, and at which place.
    static WAITS: Cell<Option<(Segment, usize)>> = const { Cell::new(None) };
}

unsafe extern "C-unwind" {
    fn Async_Notify(channel: *const core::ffi::c_char, payload: *const core::ffi::c_char);
}

/// This transaction makes events of the table ready.
pub fn pend(table: pg_sys::Oid) {
    super::ledger::register();
    PENDING.set(Some(table));
}

/// Whether this session still has to do with a segment.
pub fn mentions(segment: Segment) -> bool {
    let there = |s: Option<Segment>| s.is_some_and(|s| s.is(segment));
    there(COMMITS.get().map(|c| c.0)) || there(NUDGES.get()) || there(WAITS.get().map(|w| w.0))
}

/// Just before a transaction commits.
pub fn before_commit() {
    let Some(table) = PENDING.take() else { return };
    let now = session::clock();
    let is_due = |last| is_due_again(last, now);
    let may = settings::notify();
    match segment::look(table) {
        Found::Ours(segment) => {
            let announcement = segment.consumers().begin(now, may, is_due);
            COMMITS.set(Some((segment, announcement)));
            if announcement != Announcement::Quiet {
                notify();
            }
        }
        // Nobody has claimed since the server's start, so nobody is idle; a listener is to hear that there is something.
        Found::Nothing if may && (is_due(NOTIFIED_AT.get()) || !segment::stays_absent(table)) => {
            NOTIFIED_AT.set(now);
            notify();
        }
        // Those who claim by another version of the library cannot be asked.
        Found::Foreign if may => notify(),
        Found::Nothing | Found::Foreign => {}
    }
}

/// Whether what is to be done at least so often, and was last done then, is to be done again.
fn is_due_again(last: i64, now: i64) -> bool {
    session::is_due(last.saturating_add(AT_LEAST), now, AT_LEAST)
}

/// Sends a notification when this transaction commits.
fn notify() {
    // SAFETY: in a transaction that has not yet sent its notifications; the guard turns its errors into ours.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(CHANNEL.as_ptr(), c"".as_ptr())) }
}

/// After a transaction's end.
pub fn after_end(committed: bool) {
    PENDING.set(None);
    if !committed {
        NOTIFIED_AT.set(0);
    }
    let nudged = NUDGES.take();
    if let Some(segment) = nudged.filter(|_| !committed) {
        segment.consumers().undo_nudge();
    }
    leave();
    if let Some((segment, announcement)) = COMMITS.take() {
        segment.consumers().end(announcement, committed);
        if committed {
            wake(segment);
        }
    }
}

/// Sets the latches of those that wait.
pub fn wake(segment: Segment) {
    for number in segment.consumers().waiting() {
        // SAFETY: the number is that of a slot of the array of all sessions, which is never freed; a latch too many does no harm.
        unsafe {
            let all = &*pg_sys::ProcGlobal;
            if number <= all.allProcCount {
                pg_sys::SetLatch(&raw mut (*all.allProcs.add(number as usize - 1)).procLatch);
            }
        }
    }
}

/// A claim found nothing, and something may be about to be committed that sends no notification. True when it must look once more.
pub fn nothing_found(segment: Segment) -> bool {
    let consumers = segment.consumers();
    consumers.found_nothing();
    let settled = session::wait_until(segment::PATIENCE_MS, || {
        if consumers.is_doubtful() && segment.is_known_to_all() {
            consumers.set_doubtful(false);
        }
        consumers.is_settled()
    });
    if !settled && settings::notify() {
        // A commit takes long, on a slow disk or for a standby. Whoever listens looks again in a second, this consumer too.
        let now = session::clock();
        if consumers.nudge(now, |last| is_due_again(last, now)) {
            super::ledger::register();
            NUDGES.set(Some(segment));
            notify();
        }
    }
    !session::keeps_snapshot()
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_events_wake() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// Statement trigger on the table: this transaction makes events ready.
///
/// # Safety
/// Called by the function manager as a trigger.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_events_wake(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo, "pgedge_events_wake");
    // SAFETY: the relation is open while the trigger runs.
    pend(unsafe { (*(*data).tg_relation).rd_id });
    pg_sys::Datum::from(0)
}

/// What a trigger was fired for. Error 39P01 when the function was not called as one.
pub fn trigger_data(fcinfo: pg_sys::FunctionCallInfo, name: &str) -> *mut pg_sys::TriggerData {
    // SAFETY: the function manager's call information; a trigger's context is checked by its node tag.
    unsafe {
        let context = (*fcinfo).context;
        if !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData {
            return context.cast();
        }
    }
    crate::errors::fail(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        format!("the function of {name} can only be called as a trigger"),
        format!("It is the trigger {name} on claude_events."),
    )
}

/// Likewise, for functions.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_made_ready")]
fn made_ready(relation: pg_sys::Oid) {
    pend(relation);
}

/// Waits until an event (of these types) can be claimed, or for `timeout` at most.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, name = "_wait_for_events")]
fn wait_for_events(
    timeout: Option<pgrx::datum::Interval>,
    event_types: Option<Vec<Option<String>>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> bool {
    check_may_write();
    let limit = super::micros("timeout", "Say how long to wait", "30 seconds", timeout) / 1_000;
    // SAFETY: flinfo is that of this call.
    let table = table_oid(unsafe { (*(*fcinfo).flinfo).fn_oid });
    let segment = segment::get(table, settings::max_leases());
    let types: Option<Vec<String>> = event_types.map(|t| t.into_iter().flatten().collect());
    let start = session::clock();
    enlist(segment);
    loop {
        limits::refresh(segment);
        if claim::anything(segment, table, types.as_deref()) {
            leave();
            return true;
        }
        let left = limit - (session::clock() - start) / 1_000;
        if left <= 0 {
            leave();
            return false;
        }
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        // SAFETY: this session's own latch.
        unsafe {
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                events as i32,
                left.min(LOOK_EVERY) as core::ffi::c_long,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        pgrx::check_for_interrupts!();
    }
}

/// Takes a place among those that wait; without one the session only looks now and then.
fn enlist(segment: Segment) {
    super::ledger::register();
    // SAFETY: this session's slot is one of the array of all sessions. The number in the slot has another name in every other version.
    let me = unsafe { pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) } as u32 + 1;
    if let Some(place) = segment.consumers().enlist(me) {
        WAITS.set(Some((segment, place)));
    }
}

/// Gives that place back.
pub fn leave() {
    if let Some((segment, place)) = WAITS.take() {
        segment.consumers().leave(place);
    }
}
