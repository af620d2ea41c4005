//! Functions that PostgreSQL calls directly: `internal` aggregate state and sets of rows are beyond `#[pg_extern]`.
use core::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::errors::fail;

/// Exports `$body` (a `fn(&mut Call) -> pg_sys::Datum`) as the C symbol `$symbol`, which sql/similarity.sql names.
macro_rules! sql_function {
    ($symbol:ident, $finfo:ident, $body:expr) => {
        /// The call convention of the symbol.
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            static V1: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        /// Called by PostgreSQL alone.
        ///
        /// # Safety
        /// `fcinfo` is the frame of a call with the arguments that sql/similarity.sql declares.
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            // SAFETY: the caller's promise.
            let mut call = unsafe { $crate::similarity::call::Call::new(fcinfo) };
            ($body)(&mut call)
        }
    };
}
pub(crate) use sql_function;

/// The frame of a call.
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// # Safety
    /// `fcinfo` must be the frame of the present call.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Call(fcinfo)
    }

    /// The frame itself.
    pub fn raw(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    /// Argument `n`, `None` when it is NULL or was not passed.
    #[inline]
    pub fn arg(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the frame has `nargs` arguments.
        unsafe {
            let frame = &*self.0;
            if n >= frame.nargs as usize {
                return None;
            }
            let arg = frame.args.as_ptr().add(n);
            (!(*arg).isnull).then_some((*arg).value)
        }
    }

    /// Argument `n` as a Rust value.
    ///
    /// # Safety
    /// The argument must have been declared with the SQL type of `T`.
    pub unsafe fn get<T: FromDatum>(&self, n: usize) -> Option<T> {
        // SAFETY: the caller's promise.
        self.arg(n).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// Argument `n`, called `name`; NULL is an error (22004).
    ///
    /// # Safety
    /// As [`Call::get`].
    pub unsafe fn need<T: FromDatum>(&self, n: usize, name: &str) -> T {
        // SAFETY: the caller's promise.
        unsafe { self.get(n) }.unwrap_or_else(|| null_argument(name))
    }

    /// Argument `n`, of type `name`; NULL is an error (22004).
    ///
    /// # Safety
    /// The argument must have been declared `name`.
    pub unsafe fn need_name(&self, n: usize, name: &str) -> String {
        let Some(datum) = self.arg(n) else { null_argument(name) };
        // SAFETY: a name is a C string in its 64 bytes.
        unsafe { owned(datum.cast_mut_ptr()) }
    }

    /// The SQL type of argument `n`.
    pub fn type_of(&self, n: usize) -> pg_sys::Oid {
        // SAFETY: the frame's own function.
        unsafe { pg_sys::get_fn_expr_argtype((*self.0).flinfo, n as i32) }
    }

    /// The collation for comparisons.
    pub fn collation(&self) -> pg_sys::Oid {
        // SAFETY: the frame is live.
        unsafe { (*self.0).fncollation }
    }

    /// The result NULL.
    pub fn null(&mut self) -> pg_sys::Datum {
        // SAFETY: the frame is live.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::from(0)
    }

    /// The memory of the aggregate that this is called for; an error (55000) outside of one.
    pub fn aggregate_context(&self) -> pg_sys::MemoryContext {
        let mut context = core::ptr::null_mut();
        // SAFETY: the frame is live.
        if unsafe { pg_sys::AggCheckCallContext(self.0, &mut context) } == 0 {
            fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aggregate function called in non-aggregate context",
                "Call pgedge.top_k, not its parts.",
            );
        }
        context
    }
}

fn null_argument(name: &str) -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        format!("{name} must not be NULL"),
        "Give a value, or leave out an argument that has a default.",
    )
}

/// The rows of a set-returning function, kept in a tuplestore (memory up to work_mem, then a temporary file).
pub struct Rows {
    result: *mut pg_sys::ReturnSetInfo,
    scratch: pgrx::PgMemoryContexts,
    waiting: usize,
}

impl Rows {
    /// Starts the result of the present call.
    pub fn start(call: &Call) -> Rows {
        // SAFETY: the frame is live; a caller that cannot take a set gets an ERROR.
        let result = unsafe {
            pg_sys::InitMaterializedSRF(call.raw(), 0);
            (*call.raw()).resultinfo.cast()
        };
        Rows { result, scratch: pgrx::PgMemoryContexts::new("pgedge rows"), waiting: 0 }
    }

    /// One row. `values` makes the columns; what it allocates is freed later.
    pub fn push<const N: usize>(&mut self, values: impl FnOnce() -> [Option<pg_sys::Datum>; N]) {
        let result = self.result;
        // SAFETY: InitMaterializedSRF has made the store and the descriptor, and the SQL declaration has N columns.
        unsafe {
            self.scratch.switch_to(|_| {
                let columns = values();
                let mut datums = columns.map(|v| v.unwrap_or(pg_sys::Datum::from(0)));
                let mut nulls = columns.map(|v| v.is_none());
                pg_sys::tuplestore_putvalues(
                    (*result).setResult,
                    (*result).setDesc,
                    datums.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
            });
            self.waiting += 1;
            if self.waiting == 256 {
                self.scratch.reset();
                self.waiting = 0;
                pgrx::check_for_interrupts!();
            }
        }
    }
}

/// A C string of text that has no zero byte (SQL text and identifiers have none).
pub fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("SQL has no zero bytes")
}

/// The name in a `name` or C string of the server.
///
/// # Safety
/// `name` must be a valid C string.
pub unsafe fn owned(name: *const core::ffi::c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
