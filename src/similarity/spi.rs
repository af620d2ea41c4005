//! Queries run for the caller: read-only, in the snapshot of the calling statement, with the caller's privileges, in parallel where the planner likes.
//!
//! pgrx's own calls take a new snapshot whenever the transaction has written something, so the passes of one search could see different rows;
//! `read_only` here keeps the caller's. Each of these needs an open SPI connection (`Spi::connect`).
use core::ffi::{CStr, c_char};
use core::ptr::null_mut;
use std::ffi::CString;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::call::c_string;
use crate::errors::fail;

/// A parameter: its type and its value.
pub type Param = (pg_sys::Oid, Option<pg_sys::Datum>);

/// A query with its parameters `$1`, `$2`, …
pub struct Statement {
    text: CString,
    params: Vec<Param>,
}

/// The parameters in the form of `SPI_…_with_args`.
struct Arguments {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<c_char>,
}

impl Statement {
    /// A SELECT. Identifiers in it must have been quoted.
    pub fn new(text: &str, params: &[Param]) -> Statement {
        Statement { text: c_string(text), params: params.to_vec() }
    }

    fn arguments(&self) -> Arguments {
        Arguments {
            types: self.params.iter().map(|p| p.0).collect(),
            values: self.params.iter().map(|p| p.1.unwrap_or(pg_sys::Datum::from(0))).collect(),
            nulls: self.params.iter().map(|p| if p.1.is_some() { b' ' } else { b'n' } as c_char).collect(),
        }
    }

    /// The first column of the first row, `None` when it is NULL or there is no row. The value lives until [`free`] or the end of the connection.
    pub fn value(&self) -> Option<pg_sys::Datum> {
        // SAFETY: a connection is open; SPI puts the rows into its own table when it is given no receiver.
        unsafe {
            self.execute(null_mut());
            let table = pg_sys::SPI_tuptable;
            if (*table).numvals == 0 {
                return None;
            }
            let mut null = false;
            let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut null);
            (!null).then_some(value)
        }
    }

    /// Gives each row to `row` as it leaves the executor, where it lies: nothing is kept or copied.
    pub fn stream(&self, row: &mut dyn FnMut(&[pg_sys::Datum], &[bool])) {
        let mut receiver = Receiver {
            head: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(start),
                rShutdown: Some(ignore),
                rDestroy: Some(ignore),
                // SPI takes DestNone for a result that nobody wants; nothing looks at the others.
                mydest: pg_sys::CommandDest::DestTuplestore,
            },
            row,
        };
        // SAFETY: a connection is open; the receiver outlives the execution.
        unsafe { self.execute((&raw mut receiver).cast()) };
    }

    /// Runs the statement in the caller's snapshot.
    ///
    /// Arrays stay parameters, everything else may become a constant of the plan, as partial indexes and the pruning of partitions want it. A plan
    /// travels to the workers as text: a batch of 1,000 queries written and read in that way cost all that a worker gained.
    ///
    /// # Safety
    /// A connection must be open, and `receiver` NULL or good until the end of the execution.
    unsafe fn execute(&self, receiver: *mut pg_sys::DestReceiver) {
        // SAFETY: the caller's promise; makeParamList has room for as many as it was told.
        unsafe {
            let list = pg_sys::makeParamList(self.params.len() as i32);
            for (i, &(oid, value)) in self.params.iter().enumerate() {
                let array = pg_sys::get_element_type(oid) != pg_sys::Oid::INVALID;
                *(*list).params.as_mut_ptr().add(i) = pg_sys::ParamExternData {
                    value: value.unwrap_or(pg_sys::Datum::from(0)),
                    isnull: value.is_none(),
                    pflags: if array { 0 } else { pg_sys::PARAM_FLAG_CONST as u16 },
                    ptype: oid,
                };
            }
            let options = pg_sys::SPIExecuteOptions {
                params: list,
                read_only: true,
                allow_nonatomic: false,
                must_return_tuples: true,
                tcount: 0,
                dest: receiver,
                owner: null_mut(),
            };
            check(pg_sys::SPI_execute_extended(self.text.as_ptr(), &options));
        }
    }

    /// Starts to read the rows in portions.
    pub fn open(&self) -> Cursor {
        let mut arguments = self.arguments();
        // SAFETY: a connection is open, and the arrays have one length.
        Cursor(unsafe {
            pg_sys::SPI_cursor_open_with_args(
                core::ptr::null(),
                self.text.as_ptr(),
                arguments.types.len() as i32,
                arguments.types.as_mut_ptr(),
                arguments.values.as_mut_ptr(),
                arguments.nulls.as_ptr(),
                true,
                pg_sys::CURSOR_OPT_NO_SCROLL as i32,
            )
        })
    }
}

fn check(code: i32) {
    if code != pg_sys::SPI_OK_SELECT as i32 {
        // SAFETY: a constant string for every code.
        let code = unsafe { CStr::from_ptr(pg_sys::SPI_result_code_string(code)) }.to_string_lossy();
        fail(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("SPI gave {code}"),
            "This is a bug of pgedge; please report it.",
        );
    }
}

/// Frees the result of the last [`Statement::value`].
pub fn free() {
    // SAFETY: a connection is open; NULL is allowed.
    unsafe { pg_sys::SPI_freetuptable(pg_sys::SPI_tuptable) };
}

/// A query read in portions. Other queries may run between them.
pub struct Cursor(pg_sys::Portal);

impl Cursor {
    /// Gives the next rows, at most `most`, to `row`, and says how many there were. They are gone afterwards.
    pub fn fetch(&mut self, most: usize, mut row: impl FnMut(&[pg_sys::Datum], &[bool])) -> usize {
        // SAFETY: the portal is open, and the tuples are of its descriptor.
        unsafe {
            pg_sys::SPI_cursor_fetch(self.0, true, most as core::ffi::c_long);
            let table = pg_sys::SPI_tuptable;
            let (count, descriptor) = ((*table).numvals as usize, (*table).tupdesc);
            let columns = (*descriptor).natts as usize;
            let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); columns], vec![false; columns]);
            for i in 0..count {
                pg_sys::heap_deform_tuple(*(*table).vals.add(i), descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                row(&values, &nulls);
            }
            free();
            count
        }
    }

    /// Ends the query.
    pub fn close(self) {
        // SAFETY: the portal is open.
        unsafe { pg_sys::SPI_cursor_close(self.0) };
    }
}

#[repr(C)]
struct Receiver<'a> {
    head: pg_sys::DestReceiver,
    row: &'a mut dyn FnMut(&[pg_sys::Datum], &[bool]),
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, this: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the executor gives back the receiver that `stream` gave it; its head comes first.
    unsafe {
        let receiver = &mut *this.cast::<Receiver<'_>>();
        let columns = (*(*slot).tts_tupleDescriptor).natts as usize;
        if ((*slot).tts_nvalid as usize) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns as i32);
        }
        let values = core::slice::from_raw_parts((*slot).tts_values, columns);
        let nulls = core::slice::from_raw_parts((*slot).tts_isnull, columns);
        (receiver.row)(values, nulls);
    }
    true
}

unsafe extern "C-unwind" fn start(_: *mut pg_sys::DestReceiver, _: i32, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn ignore(_: *mut pg_sys::DestReceiver) {}
