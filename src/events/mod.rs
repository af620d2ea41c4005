//! The event queue: its settings, and the step from the caller's rights to those of the table's owner. The rest is `sql/events.sql`.
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::prelude::*;

use crate::errors;

/// `pgedge.retry_base`: the delay before the second attempt, in milliseconds; doubled with every further one.
static RETRY_BASE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
/// `pgedge.retry_cap`: the longest delay between two attempts, in milliseconds.
static RETRY_CAP: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);
/// `pgedge.notify`: whether an insert into `claude_events` notifies the channel `pgedge_events`.
static NOTIFY: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Declares the settings of the queue. Called once, when the library is loaded.
pub fn define_settings() {
    GucRegistry::define_int_guc(
        c"pgedge.retry_base",
        c"Delay before a failed event's second attempt; it doubles with every further attempt.",
        c"Jitter takes up to half of it off. fail_events(retry_after => ...) overrides it.",
        &RETRY_BASE,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pgedge.retry_cap",
        c"Longest delay between two attempts of a failed event.",
        c"Caps the exponential backoff that starts at pgedge.retry_base.",
        &RETRY_CAP,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pgedge.notify",
        c"Whether a transaction that adds events notifies the channel pgedge_events when it commits.",
        c"One notification a transaction. Switch it off where consumers poll: NOTIFY takes a global lock at commit.",
        &NOTIFY,
        GucContext::Userset,
        GucFlags::default(),
    );
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
    // SAFETY: as above.
    if writes && unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() } {
        errors::fail(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot change the event queue in a read-only transaction",
            "Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.",
        );
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
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return None;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}
