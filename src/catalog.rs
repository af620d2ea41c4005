//! Whether what was looked up in the catalogs may have changed: a function that is called thousands of times a second need not look again each time.
use std::cell::Cell;

use pgrx::prelude::*;

thread_local! {
    /// What this session heard of changes; none before it began to listen.
    static CHANGES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number that is another one once this session heard of a change of any relation (its name, owner, columns, indexes, …), schema or type.
/// PostgreSQL tells at the start of each transaction, with each lock of a relation, and after each statement of the session's own.
pub fn version() -> u64 {
    CHANGES.get().unwrap_or_else(|| {
        // SAFETY: registered once a session; the functions live as long as the library, which is never unloaded.
        unsafe {
            let none = pg_sys::Datum::from(0);
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), none);
            for cache in [pg_sys::SysCacheIdentifier::NAMESPACEOID, pg_sys::SysCacheIdentifier::TYPEOID] {
                pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(entry_changed), none);
            }
        }
        CHANGES.set(Some(0));
        0
    })
}

fn changed() {
    CHANGES.set(CHANGES.get().map(|n| n + 1));
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, _relation: pg_sys::Oid) {
    changed();
}

#[pg_guard]
unsafe extern "C-unwind" fn entry_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    changed();
}
