//! `complete_events`, and what `pgedge.event_retention` deletes as events are completed.
//!
//! The statement is planned once a session and then kept: interpreting it in PL/pgSQL cost as much as running it.
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

use super::segment::{self, Segment};
use super::{lease, ledger, settings};
use crate::{errors, session, spi};
use pgedge_leases::Slot;

/// Pages of the table that are looked through at a time for what retention deletes.
const PAGES: u32 = 32;
/// How many times as long as such a look took the next one waits, when it found something and when it did not.
const PAUSE: [i64; 2] = [4, 20];
/// Between two walks through the table: at least so long, or a tenth of the retention, up to an hour (µs).
const WALKS: (i64, i64) = (1_000_000, 3_600_000_000);
/// After a failure, and until a look is over; and while constraints forbid it.
const AFTER_FAILURE: i64 = 60_000_000;
const FORBIDDEN: i64 = 600_000_000;

const ONE: &str = "UPDATE ONLY %T e SET status = 'processed', processed_at = now(), attempts = $2, claimed_by = $3, claimed_at = $4 \
                   WHERE e.id = $1 AND e.status IS NOT DISTINCT FROM 'pending' RETURNING e.id::bigint, e.status IS NOT DISTINCT FROM 'processed'";
const MANY: &str = "UPDATE ONLY %T e SET status = 'processed', processed_at = now(), attempts = h.attempt, claimed_by = h.worker, claimed_at = h.claimed \
                    FROM unnest($1, $2, $3, $4) h(id, attempt, worker, claimed) \
                    WHERE e.id = h.id AND e.status IS NOT DISTINCT FROM 'pending' RETURNING e.id::bigint, e.status IS NOT DISTINCT FROM 'processed'";

/// Marks held events processed, as the table's owner; the ids of those that still waited and are processed now, whatever triggers did.
fn mark(table: pg_sys::Oid, held: &[Slot]) -> Vec<i64> {
    let name = super::qualified_name(table);
    let session = spi::Session { table: &name, delta_type: pg_sys::InvalidOid, writes: true };
    let done = Spi::connect(|_| {
        let read = |row: spi::Row<'_>| row.get::<bool>(2).then(|| row.get::<i64>(1));
        if let [one] = held {
            let args = [
                spi::int8(one.id),
                spi::int4(one.attempt),
                spi::text_option(lease::worker(one)),
                spi::time(one.claimed_at),
            ];
            session.rows(ONE, &args, read)
        } else {
            let args = [
                spi::int8s(held.iter().map(|s| s.id)),
                spi::int4s(held.iter().map(|s| s.attempt)),
                spi::text_options(held.iter().map(lease::worker)),
                spi::times(held.iter().map(|s| s.claimed_at)),
            ];
            session.rows(MANY, &args, read)
        }
    });
    done.into_iter().flatten().collect()
}

/// A `bigint[]` argument of one dimension without NULLs. Errors: 2202E, 22004.
///
/// # Safety
/// The argument is a `bigint[]`.
unsafe fn ids(fcinfo: pg_sys::FunctionCallInfo, n: usize) -> Vec<i64> {
    let null = |problem: String| -> ! {
        let hint = "Pass the ids that claim_events returned; an empty array is fine.";
        errors::fail(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, problem, hint)
    };
    // SAFETY: a detoasted array; its elements are eight bytes each and aligned, with no NULLs between them once that is checked.
    unsafe {
        let Some(datum) = pgrx::fcinfo::pg_getarg_datum(fcinfo, n) else { null("ids must not be null".into()) };
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let shown = || {
            let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_ARRAY_OUT), Datum::from(array));
            core::ffi::CStr::from_ptr(text).to_string_lossy().chars().take(100).collect::<String>()
        };
        if (*array).ndim > 1 {
            errors::fail(
                PgSqlErrorCode::ERRCODE_ARRAY_ELEMENT_ERROR,
                format!("ids must be one-dimensional: {}", shown()),
                "Pass the ids that claim_events returned as one array, e.g. ARRAY[1, 2].",
            );
        }
        if pg_sys::array_contains_nulls(array) {
            null(format!("ids must not contain nulls: {}", shown()));
        }
        if (*array).ndim == 0 {
            return vec![];
        }
        let dims = array.add(1).cast::<i32>();
        let count = pg_sys::ArrayGetNItems((*array).ndim, dims) as usize;
        let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>() * (*array).ndim as usize;
        let from = if (*array).dataoffset == 0 { header.next_multiple_of(8) } else { (*array).dataoffset as usize };
        std::slice::from_raw_parts(array.cast::<u8>().add(from).cast::<i64>(), count).to_vec()
    }
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_complete_events() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `complete_events(ids, lease_token)`: see its COMMENT. SECURITY DEFINER; the table is changed as its owner, whose triggers so never run as
/// superuser.
///
/// # Safety
/// Called by the function manager, as sql/events.sql declares it.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_complete_events(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: the arguments have the types that the declaration says; materialize mode, as for claim_events().
    let (ids, token, result, function) = unsafe {
        let ids = ids(fcinfo, 0);
        let token = pgrx::fcinfo::pg_getarg::<i64>(fcinfo, 1).unwrap_or_else(|| {
            errors::fail(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "lease_token must not be null",
                "Pass the lease_token that claim_events returned.",
            )
        });
        pg_sys::InitMaterializedSRF(fcinfo, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
        (ids, token, (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>(), (*(*fcinfo).flinfo).fn_oid)
    };
    super::check_may_write();
    let table = super::table_oid(function);
    super::table::check_columns(table);
    // SAFETY: opened and closed here; the lock stays until the transaction ends.
    unsafe {
        let rel = pg_sys::table_open(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        pg_sys::table_close(rel, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    let held = lease::take(table, ids, token, false);
    if held.is_empty() {
        return Datum::from(0);
    }
    retain(table);
    let mut done = errors::intact(|| super::as_role(super::owner(table), || mark(table, &held)));
    done.sort_unstable();
    done.dedup();
    let left: Vec<i64> = held.iter().map(|s| s.id).filter(|id| done.binary_search(id).is_err()).collect();
    if let (false, Some(segment)) = (left.is_empty(), segment::find(table)) {
        // Finished by someone else, which a claim will see; or a trigger or a policy kept it as it was, and it waits again.
        ledger::release_instead(segment, token, &left);
        super::wake::pend(table);
    }
    for id in done {
        // SAFETY: InitMaterializedSRF made the store and the descriptor, of one bigint.
        unsafe {
            let (mut value, mut null) = (Datum::from(id), false);
            pg_sys::tuplestore_putvalues((*result).setResult, (*result).setDesc, &raw mut value, &raw mut null);
        }
    }
    Datum::from(0)
}

/// Takes the turn to look for what retention deletes, if it is time: the page to look at first.
fn turn(segment: Segment) -> Option<u32> {
    let now = session::clock();
    let locked = segment.lock();
    let state = &mut *locked.queue.state;
    if !session::is_due(state.retain_at, now, WALKS.1) {
        return None;
    }
    state.retain_at = now + AFTER_FAILURE;
    Some(state.retain_page)
}

/// Deletes finished events older than `pgedge.event_retention`: those on the next few pages of the table, now and then, with a fifth of one
/// session's time at most. Going through the table by pages needs no index and visits nothing twice; no lock is waited for long.
fn retain(table: pg_sys::Oid) {
    let seconds = settings::retention();
    if seconds < 0 {
        return;
    }
    let Some(segment) = segment::find(table) else { return };
    let Some(first) = turn(segment) else { return };
    let started = session::clock();
    let deleted = Spi::get_one_with_args::<i64>(
        "SELECT pgedge._events_retain($1, $2, $3)",
        &[i64::from(seconds).into(), i64::from(first).into(), i64::from(PAGES).into()],
    );
    // SAFETY: opened and closed here.
    let pages = unsafe {
        let rel = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(rel, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(rel, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pages
    };
    let now = session::clock();
    let locked = segment.lock();
    let state = &mut *locked.queue.state;
    state.retain_page = first.saturating_add(PAGES);
    let over = state.retain_page >= pages;
    if over {
        state.retain_page = 0;
    }
    let walk = if over { (i64::from(seconds) * 100_000).clamp(WALKS.0, WALKS.1) } else { 0 };
    state.retain_at = match deleted {
        Ok(Some(-2)) => now + FORBIDDEN,
        Ok(Some(n)) if n >= 0 => now + ((now - started) * PAUSE[usize::from(n == 0)]).max(walk).min(WALKS.1),
        _ => now + AFTER_FAILURE,
    };
}
