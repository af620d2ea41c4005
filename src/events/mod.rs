//! The event queue over `claude_events`.
//!
//! The table says what is durable: pending, processed, dead, cancelled, attempts that failed. Leases, and how far claims have come, are in
//! shared memory ([`segment`], `pgedge_leases`), so a claim writes nothing; [`claim`] reads the table's indexes directly. What finishes
//! events is SQL (`sql/events.sql`), fenced by the leases ([`lease`]) and bound to the transaction's end ([`ledger`]).
use pgrx::prelude::*;

use crate::errors;

pub mod claim;
mod feed;
mod finish;
pub mod lease;
mod ledger;
mod limits;
mod segment;
mod settings;
mod table;
pub mod wake;

pub use settings::define as define_settings;

/// FNV-1a of a name; never 0. It decides only what is looked at: rows are compared in full, except that two ordering keys of one hash
/// (1 in 2^64) would wait for each other.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)).max(1)
}

/// 64 random bits. They are fetched by the page, since a system call each would be a tenth of a claim.
fn random_bits() -> u64 {
    thread_local! {
        static STORE: core::cell::RefCell<Vec<u64>> = const { core::cell::RefCell::new(Vec::new()) };
    }
    STORE.with_borrow_mut(|store| {
        if store.is_empty() {
            let mut bits = [0_u64; 64];
            // SAFETY: writes the bytes of `bits`.
            if !unsafe { pg_sys::pg_strong_random(bits.as_mut_ptr().cast(), size_of_val(&bits)) } {
                errors::fail(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    "the system gives no random numbers",
                    "See the server's log.",
                );
            }
            store.extend(bits);
        }
        store.pop().unwrap_or_default()
    })
}

/// The length of a lease in microseconds. Errors: 22004, 22023.
fn lease_micros(lease: Option<pgrx::datum::Interval>) -> i64 {
    micros("lease", "Say for how long the events are yours", "5 minutes", lease)
}

/// The length of the interval `name` in microseconds, positive and up to a year. Errors: 22004, 22023.
fn micros(name: &str, advice: &str, example: &str, interval: Option<pgrx::datum::Interval>) -> i64 {
    let Some(interval) = interval else {
        errors::fail(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{name} must not be null"),
            format!("{advice}, e.g. '{example}'."),
        )
    };
    // As PostgreSQL compares intervals: a month has 30 days.
    let days = i128::from(interval.months()) * 30 + i128::from(interval.days());
    let micros = days * 86_400_000_000 + i128::from(interval.micros());
    if micros <= 0 || micros > 366 * 86_400_000_000 {
        errors::fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{name} \"{}\" is out of range", shown(&interval)),
            format!("Give a {name} longer than 0 and of at most a year, e.g. '{example}'."),
        );
    }
    micros as i64
}

/// An interval as the session writes it.
fn shown(interval: &pgrx::datum::Interval) -> String {
    let mut copy = pg_sys::Interval { time: interval.micros(), day: interval.days(), month: interval.months() };
    // SAFETY: interval_out reads an Interval and gives a C string.
    unsafe {
        let text: Option<pg_sys::Datum> =
            pgrx::direct_function_call_as_datum(pg_sys::interval_out, &[Some(pg_sys::Datum::from(&raw mut copy))]);
        text.map_or_else(String::new, |t| core::ffi::CStr::from_ptr(t.cast_mut_ptr()).to_string_lossy().into_owned())
    }
}

/// Error 25006 unless this transaction may write.
fn check_may_write() {
    // SAFETY: plain reads of this session's own state.
    if unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() } {
        errors::fail(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot change the event queue in a read-only transaction",
            "Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.",
        );
    }
}

thread_local! {
    /// For the oid of a function of ours, the schema of the tables: neither changes while the extension exists.
    static SCHEMA: core::cell::Cell<(pg_sys::Oid, pg_sys::Oid)> = const { core::cell::Cell::new((pg_sys::InvalidOid, pg_sys::InvalidOid)) };
}

/// The schema that the extension was created in.
#[cfg(not(feature = "pg15"))]
fn extension_schema() -> pg_sys::Oid {
    // SAFETY: catalog lookups; the extension exists, since a function of it runs.
    unsafe { pg_sys::get_extension_schema(pg_sys::get_extension_oid(c"pgedge".as_ptr(), false)) }
}

/// As above; PostgreSQL 15 keeps its lookup to itself.
#[cfg(feature = "pg15")]
fn extension_schema() -> pg_sys::Oid {
    let query = "SELECT e.extnamespace FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'pgedge'";
    Spi::get_one(query).ok().flatten().unwrap_or(pg_sys::InvalidOid)
}

/// The table `claude_events`, for a function of ours. Error 42P01 when it is gone.
fn table_oid(function: pg_sys::Oid) -> pg_sys::Oid {
    let (known, mut schema) = SCHEMA.get();
    // SAFETY: catalog lookups.
    let table = unsafe {
        if known != function {
            schema = extension_schema();
            SCHEMA.set((function, schema));
        }
        pg_sys::get_relname_relid(c"claude_events".as_ptr(), schema)
    };
    if table == pg_sys::InvalidOid {
        errors::fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            "table \"claude_events\" does not exist",
            "Create it with: SELECT pgedge.create_tables();",
        );
    }
    table
}

/// The table of this database's event queue, wherever its schema was renamed to. Error 42P01.
#[pg_extern(schema = "pgedge", stable, parallel_safe, name = "_events_table")]
fn events_table(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: flinfo is that of this call.
    table_oid(unsafe { (*(*fcinfo).flinfo).fn_oid })
}

/// Does something as another role.
fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the user is put back here, or by the transaction's abort.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
    }
    let done = work();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    done
}

/// Changes a setting until the level of settings that the caller began ends.
fn set_for_now(name: &core::ffi::CStr, value: &core::ffi::CStr) {
    // SAFETY: both strings are copied.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Runs a statement, schema-qualified throughout, as another role; %t in it stands for the table. That role's triggers do not look for names where
/// the caller's search_path says. How many rows it changed.
fn run_as(role: pg_sys::Oid, table: pg_sys::Oid, sql: &str, args: &[pgrx::datum::DatumWithOid<'_>]) -> u64 {
    let statement = sql.replace("%t", &qualified_name(table));
    // SAFETY: ended below, or by the transaction's abort.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set_for_now(c"search_path", c"pg_catalog, pg_temp");
    let done = errors::intact(|| {
        as_role(role, || Spi::connect_mut(|client| client.update(&statement, None, args).map(|rows| rows.len() as u64)))
    });
    // SAFETY: as above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    done.unwrap_or_else(|error| {
        errors::fail(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("the event queue could not run \"{sql}\": {error}"),
            "This is a bug in pgedge.",
        )
    })
}

fn qualified_name(table: pg_sys::Oid) -> String {
    // SAFETY: the table is locked by the caller, so both names are there.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
        let name = pg_sys::quote_qualified_identifier(schema, pg_sys::get_rel_name(table));
        core::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Marks events dead whose last attempt expired.
fn write_spent(segment: segment::Segment, table: pg_sys::Oid, token: i64, spent: &[claim::Spent]) {
    for s in spent {
        let written = run_as(
            owner(table),
            table,
            "UPDATE %t e SET status = 'dead', attempts = $2, last_error = $3, run_at = NULL WHERE e.id OPERATOR(pg_catalog.=) $1 AND e.status::pg_catalog.text OPERATOR(pg_catalog.=) 'pending'::pg_catalog.text",
            &[s.id.into(), s.attempts.into(), s.error.as_str().into()],
        );
        if written == 0 {
            ledger::release_instead(segment, token, &[s.id]);
        }
    }
}

/// Gives events that a restore brought from another server a place in this one's queue; all of them at once. How many. The place of some may be
/// this very transaction, which had not begun when they were found.
fn replace_foreign(table: pg_sys::Oid, foreign: &[i64]) -> u64 {
    if foreign.is_empty() {
        return 0;
    }
    run_as(
        owner(table),
        table,
        "UPDATE %t e SET qx = pg_catalog.pg_current_xact_id() FROM (SELECT o.id FROM %t o WHERE o.lane IS NOT NULL AND o.qx OPERATOR(pg_catalog.>=) pg_catalog.pg_current_xact_id() FOR UPDATE SKIP LOCKED) f WHERE e.id OPERATOR(pg_catalog.=) f.id",
        &[],
    )
}

/// Gives claimable events a place before the cursors. How many.
fn displace(table: pg_sys::Oid, ids: &[i64]) -> u64 {
    if ids.is_empty() {
        return 0;
    }
    run_as(
        owner(table),
        table,
        "UPDATE %t e SET run_at = NULL, qx = pg_catalog.pg_current_xact_id() FROM (SELECT o.id FROM %t o WHERE o.id OPERATOR(pg_catalog.=) ANY ($1) AND o.status::pg_catalog.text OPERATOR(pg_catalog.=) 'pending'::pg_catalog.text AND (o.run_at IS NULL OR o.run_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) FOR UPDATE SKIP LOCKED) d WHERE e.id OPERATOR(pg_catalog.=) d.id",
        &[ids.to_vec().into()],
    )
}

/// Says in the server's log that events were found where none should be.
fn report_strays(ids: &[i64]) {
    if let Some(first) = ids.first() {
        pgrx::log!(
            "pgedge: {} waiting events, the first with id {first}, were not in the event queue's order and are put back; were they written with triggers disabled?",
            ids.len()
        );
    }
}

/// Switches the current user to the owner of `relation` until the calling SECURITY DEFINER function ends.
///
/// The functions of the queue are SECURITY DEFINER, so that a consumer needs EXECUTE on them and nothing on the table. They belong to a
/// superuser, but the table belongs to whoever the user made its owner, who may put triggers on it: those must not run as superuser.
/// So the functions call this before they touch the table, and go on with the rights of its owner, as referential integrity does.
///
/// Errors: 42501 when the caller is no SECURITY DEFINER function, 42P01 when the table is gone, 25006 in a read-only transaction.
///
/// The previous user comes back when the SECURITY DEFINER function returns (`fmgr_security_definer`) or its transaction aborts.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_as_owner")]
fn _events_as_owner(relation: &str, writes: bool) {
    // SAFETY: plain reads of this backend's own state.
    let in_definer = unsafe { pg_sys::InLocalUserIdChange() };
    if !in_definer {
        errors::fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "pgedge._events_as_owner can only be called by the functions of pgedge",
            "Call the public functions, e.g. pgedge.claim_events().",
        );
    }
    if writes {
        check_may_write();
    }
    match owner_of(relation) {
        // SAFETY: the owner is a role; the flag says that this change is local to the function, as it already is.
        Some(owner) => unsafe {
            let (mut user, mut context) = (pg_sys::InvalidOid, 0);
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        },
        None => errors::fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("table \"{relation}\" does not exist"),
            "Create it with: SELECT pgedge.create_tables();",
        ),
    }
}

/// The owner of a relation named `schema.table`, quoted where needed; None when there is none.
fn owner_of(relation: &str) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(relation).ok()?;
    // SAFETY: the strings and lists are palloc'd in the current context, which outlives this call; a lookup without a lock is enough,
    // since the statement that follows locks the table by the same name and checks the owner's rights again.
    unsafe {
        #[cfg(not(feature = "pg15"))]
        let list = pg_sys::stringToQualifiedNameList(name.as_ptr(), core::ptr::null_mut());
        #[cfg(feature = "pg15")]
        let list = pg_sys::stringToQualifiedNameList(name.as_ptr());
        let range = pg_sys::makeRangeVarFromNameList(list);
        let oid = pg_sys::RangeVarGetRelidExtended(
            range,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            core::ptr::null_mut(),
        );
        if oid == pg_sys::InvalidOid {
            return None;
        }
        if relation.ends_with("claude_events") {
            table::check_columns(oid);
        }
        Some(owner(oid))
    }
}

/// The owner of a table; invalid when there is no such table.
fn owner(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the tuple is held while it is read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}
