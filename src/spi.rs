//! Prepared statements that live as long as the session.
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

/// How a statement is planned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// Once, by keys: never by a scan of the whole table, though the table is empty when the session begins.
    ByKey,
    /// Each time anew, for its parameters.
    Anew,
}

thread_local! {
    /// Statements by the address of their text, with the table and the type that they were prepared for.
    static PLANS: RefCell<HashMap<usize, (String, pg_sys::Oid, pg_sys::SPIPlanPtr)>> = RefCell::default();
}

/// Where statements run: `%T` in them is the name of the table. Lives inside an open SPI connection.
pub struct Session<'a> {
    /// Schema-qualified, quoted name of the table.
    pub table: &'a str,
    /// The composite type that statements may have as a parameter. One made anew (`DROP EXTENSION`, `CREATE EXTENSION`) has another OID,
    /// and PostgreSQL does not plan anew for the type of a parameter.
    pub delta_type: pg_sys::Oid,
    /// Whether the function may write. Each statement of one that may sees what was committed before it; those of one that may not see
    /// what the calling query sees.
    pub writes: bool,
}

/// Keeps the planner from scans of whole tables while it lives.
struct KeysOnly([bool; 4]);

impl KeysOnly {
    fn begin() -> Self {
        use pg_sys::{enable_bitmapscan, enable_hashjoin, enable_mergejoin, enable_seqscan};
        // SAFETY: plain settings of this backend, used by the planner; brought back when this is dropped, on errors too.
        unsafe {
            let before = Self([enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin]);
            (enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin) = (false, false, false, false);
            before
        }
    }
}

impl Drop for KeysOnly {
    fn drop(&mut self) {
        use pg_sys::{enable_bitmapscan, enable_hashjoin, enable_mergejoin, enable_seqscan};
        // SAFETY: see begin.
        unsafe { [enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin] = self.0 }
    }
}

/// Whether a kept statement has a plan that its next run takes: what it runs, such as users' triggers, then plans under the caller's settings.
///
/// # Safety
/// The statement is one of ours.
unsafe fn is_planned(plan: pg_sys::SPIPlanPtr) -> bool {
    // SAFETY: a statement's sources are a list that lives as long as it does.
    unsafe {
        let sources = pgrx::PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        pg_sys::SPI_plan_is_valid(plan) && sources.iter_ptr().all(|s| !(*s).gplan.is_null())
    }
}

impl Session<'_> {
    /// Runs a statement, preparing it at its first use.
    pub fn run(&self, text: &'static str, args: &[DatumWithOid<'_>]) {
        self.rows(text, args, |_| ());
    }

    /// Runs a statement for its rows.
    pub fn rows<T>(&self, text: &'static str, args: &[DatumWithOid<'_>], read: impl FnMut(Row<'_>) -> T) -> Vec<T> {
        self.planned(Planned::ByKey, text, args, read)
    }

    /// Runs a statement for its rows.
    pub fn planned<T>(
        &self,
        planned: Planned,
        text: &'static str,
        args: &[DatumWithOid<'_>],
        mut read: impl FnMut(Row<'_>) -> T,
    ) -> Vec<T> {
        let plan = self.plan(planned, text, args);
        let mut values: Vec<pg_sys::Datum> =
            args.iter().map(|a| a.datum().map_or(pg_sys::Datum::from(0), |d| d.sans_lifetime())).collect();
        let nulls: Vec<core::ffi::c_char> =
            args.iter().map(|a| if a.datum().is_some() { b' ' } else { b'n' } as core::ffi::c_char).collect();
        // SAFETY: the statement is kept.
        let _keys = (planned == Planned::ByKey && !unsafe { is_planned(plan) }).then(KeysOnly::begin);
        // SAFETY: a connection is open; the plan is kept, and its parameters are as many and of the types that it was prepared for. The
        // rows are read before their table is freed.
        unsafe {
            let code = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), !self.writes, 0);
            check(code, text);
            let table = pg_sys::SPI_tuptable;
            if table.is_null() {
                return Vec::new();
            }
            let rows = core::slice::from_raw_parts((*table).vals, (*table).numvals as usize);
            let found = rows.iter().map(|tuple| read(Row { tuple: *tuple, table: &*table })).collect();
            pg_sys::SPI_freetuptable(table);
            found
        }
    }

    fn plan(&self, planned: Planned, text: &'static str, args: &[DatumWithOid<'_>]) -> pg_sys::SPIPlanPtr {
        let key = text.as_ptr() as usize;
        let ours = |known: &&(String, pg_sys::Oid, _)| known.0 == self.table && known.1 == self.delta_type;
        let known = PLANS.with_borrow(|plans| plans.get(&key).filter(ours).map(|known| known.2));
        known.unwrap_or_else(|| {
            let mut types: Vec<pg_sys::Oid> = args.iter().map(DatumWithOid::oid).collect();
            let full = CString::new(text.replace("%T", self.table)).expect("a statement has no zero byte");
            let options = match planned {
                Planned::ByKey => pg_sys::CURSOR_OPT_GENERIC_PLAN,
                Planned::Anew => pg_sys::CURSOR_OPT_CUSTOM_PLAN,
            };
            // SAFETY: a connection is open, and the arrays have one length. A plan for a table that was renamed or made anew elsewhere
            // stays allocated: this happens next to never.
            let plan = unsafe {
                let plan =
                    pg_sys::SPI_prepare_cursor(full.as_ptr(), types.len() as i32, types.as_mut_ptr(), options as i32);
                if plan.is_null() {
                    check(pg_sys::SPI_result, text);
                }
                check(pg_sys::SPI_keepplan(plan), text);
                plan
            };
            PLANS.with_borrow_mut(|plans| plans.insert(key, (self.table.to_owned(), self.delta_type, plan)));
            plan
        })
    }
}

/// SPI's own errors are negative codes; SQL errors never come back here.
fn check(code: i32, text: &str) {
    assert!(code >= 0, "SPI error {code}: {text}");
}

/// A result row.
pub struct Row<'a> {
    tuple: pg_sys::HeapTuple,
    table: &'a pg_sys::SPITupleTable,
}

impl Row<'_> {
    /// Column `i`, from 1; NULL is None.
    pub fn opt<T: FromDatum + IntoDatum>(&self, i: usize) -> Option<T> {
        // SAFETY: the tuple belongs to the table; the statement gives the column the type that T is read from.
        unsafe {
            let mut null = false;
            let datum = pg_sys::SPI_getbinval(self.tuple, self.table.tupdesc, i as i32, &mut null);
            T::from_polymorphic_datum(datum, null, T::type_oid())
        }
    }

    /// Column `i` that is never NULL.
    pub fn get<T: FromDatum + IntoDatum>(&self, i: usize) -> T {
        self.opt(i).unwrap_or_else(|| panic!("column {i} is NULL"))
    }
}

fn arg<'a, T: IntoDatum>(value: T, oid: pg_sys::Oid) -> DatumWithOid<'a> {
    // SAFETY: each function below gives the OID of the type that its value becomes.
    unsafe { DatumWithOid::new(value, oid) }
}

/// An `int4`.
pub fn int4<'a>(value: i32) -> DatumWithOid<'a> {
    arg(value, pg_sys::INT4OID)
}

/// An `int8`.
pub fn int8<'a>(value: i64) -> DatumWithOid<'a> {
    arg(value, pg_sys::INT8OID)
}

/// A `text`.
pub fn text<'a>(value: &str) -> DatumWithOid<'a> {
    arg(value, pg_sys::TEXTOID)
}

/// A `text` that may be NULL.
pub fn text_option<'a>(value: Option<&str>) -> DatumWithOid<'a> {
    arg(value, pg_sys::TEXTOID)
}

/// An `int4[]`.
pub fn int4s<'a>(values: impl IntoIterator<Item = i32>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::INT4ARRAYOID)
}

/// An `int8[]`.
pub fn int8s<'a>(values: impl IntoIterator<Item = i64>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::INT8ARRAYOID)
}

/// A `bool[]`.
pub fn bools<'a>(values: impl IntoIterator<Item = bool>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::BOOLARRAYOID)
}

/// A `text[]`.
pub fn texts<'a, 'b>(values: impl IntoIterator<Item = &'b str>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::TEXTARRAYOID)
}

/// A `text[]` that may hold NULLs.
pub fn text_options<'a, 'b>(values: impl IntoIterator<Item = Option<&'b str>>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::TEXTARRAYOID)
}

/// A `timestamptz[]` from microseconds since 2000-01-01 UTC.
pub fn times<'a>(values: impl IntoIterator<Item = i64>) -> DatumWithOid<'a> {
    let values: Vec<pg_sys::Datum> = values.into_iter().map(pg_sys::Datum::from).collect();
    // SAFETY: timestamptz is an 8-byte type passed by value, its datum the number of microseconds.
    unsafe {
        let array = pg_sys::construct_array(
            values.as_ptr().cast_mut(),
            values.len() as i32,
            pg_sys::TIMESTAMPTZOID,
            8,
            true,
            pg_sys::TYPALIGN_DOUBLE as core::ffi::c_char,
        );
        DatumWithOid::new(pg_sys::Datum::from(array), pg_sys::TIMESTAMPTZARRAYOID)
    }
}

/// An `interval`.
pub fn interval<'a>(value: Interval) -> DatumWithOid<'a> {
    arg(value, pg_sys::INTERVALOID)
}

/// A `timestamptz`.
pub fn time<'a>(value: i64) -> DatumWithOid<'a> {
    arg(pg_sys::Datum::from(value), pg_sys::TIMESTAMPTZOID)
}

/// An array of a composite type from the columns of its elements.
///
/// One array, since `unnest` of several is a function scan with a tuplestore for each: a hundred microseconds a call.
pub fn records<'a, const N: usize>(
    type_oid: pg_sys::Oid,
    rows: impl Iterator<Item = [Option<pg_sys::Datum>; N]>,
) -> DatumWithOid<'a> {
    // SAFETY: the type has N columns of the types of the values; everything is allocated in the current memory context, as are the values.
    unsafe {
        let columns = pg_sys::lookup_rowtype_tupdesc_copy(type_oid, -1);
        assert_eq!((*columns).natts as usize, N, "columns of the composite type");
        let mut values: Vec<pg_sys::Datum> = rows
            .map(|row| {
                let nulls = row.map(|v| v.is_none());
                let values = row.map(|v| v.unwrap_or(pg_sys::Datum::from(0)));
                let tuple = pg_sys::heap_form_tuple(columns, values.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
                pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
            })
            .collect();
        let array = pg_sys::construct_array(
            values.as_mut_ptr(),
            values.len() as i32,
            type_oid,
            -1,
            false,
            pg_sys::TYPALIGN_DOUBLE as core::ffi::c_char,
        );
        DatumWithOid::new(pg_sys::Datum::from(array), pg_sys::get_array_type(type_oid))
    }
}
