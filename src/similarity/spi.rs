//! Queries run for the caller: read-only, in the snapshot of the calling statement, with the caller's privileges, in parallel where the planner likes.
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::call::c_string;
use crate::errors::fail;

/// A parameter: its type and its value.
pub type Param = (pg_sys::Oid, Option<pg_sys::Datum>);

/// Runs a SELECT that gives one row of one column and returns that value, `None` when it is NULL or there is no row.
/// The value lives until the surrounding `Spi::connect` ends.
///
/// pgrx's own calls take a new snapshot whenever the transaction has written something, so the passes of one search could see different rows;
/// `read_only` here keeps the caller's.
pub fn select_value(query: &str, params: &[Param]) -> Option<pg_sys::Datum> {
    let query = c_string(query);
    let mut types: Vec<_> = params.iter().map(|p| p.0).collect();
    let mut values: Vec<_> = params.iter().map(|p| p.1.unwrap_or(pg_sys::Datum::from(0))).collect();
    let nulls: Vec<core::ffi::c_char> =
        params.iter().map(|p| if p.1.is_some() { b' ' } else { b'n' } as core::ffi::c_char).collect();
    // SAFETY: an SPI connection is open, and the arrays have `params.len()` elements.
    unsafe {
        let code = pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            params.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            true,
            0,
        );
        if code != pg_sys::SPI_OK_SELECT as i32 {
            fail(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("SPI gave {code}"),
                "This is a bug of pgedge; please report it.",
            );
        }
        let table = pg_sys::SPI_tuptable;
        if (*table).numvals == 0 {
            return None;
        }
        let mut null = false;
        let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut null);
        (!null).then_some(value)
    }
}

/// Frees the result of the last [`select_value`].
pub fn free() {
    // SAFETY: an SPI connection is open; NULL is allowed.
    unsafe { pg_sys::SPI_freetuptable(pg_sys::SPI_tuptable) };
}
