//! Prepared statements that live as long as the session.
use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiHeapTupleData, SpiTupleTable};

thread_local! {
    /// Statements by the address of their text and whether they may write, and the table that they were prepared for.
    static PLANS: RefCell<HashMap<(usize, bool), (String, &'static OwnedPreparedStatement)>> = RefCell::default();
}

/// Where statements run: `%T` in them is the name of the table.
pub struct Session<'a, 'conn> {
    /// The SPI connection.
    pub client: &'a SpiClient<'conn>,
    /// Schema-qualified, quoted name of the table.
    pub table: &'a str,
    /// Whether the function may write. If not, statements see what the calling query sees.
    pub writes: bool,
}

impl<'conn> Session<'_, 'conn> {
    /// Runs a statement, preparing it at its first use. Each statement of a function that writes sees what was committed before it.
    pub fn run(&self, text: &'static str, args: &[DatumWithOid<'_>]) -> SpiTupleTable<'conn> {
        let plan = self.plan(text, args);
        self.client.select(plan, None, args).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Runs a statement for its rows.
    pub fn rows<T>(
        &self,
        text: &'static str,
        args: &[DatumWithOid<'_>],
        mut read: impl FnMut(Row<'_, 'conn>) -> T,
    ) -> Vec<T> {
        self.run(text, args).map(|row| read(Row(&row))).collect()
    }

    fn plan(&self, text: &'static str, args: &[DatumWithOid<'_>]) -> &'static OwnedPreparedStatement {
        let key = (text.as_ptr() as usize, self.writes);
        let known =
            PLANS.with_borrow(|plans| plans.get(&key).filter(|(table, _)| table == self.table).map(|(_, plan)| *plan));
        known.unwrap_or_else(|| {
            let types: Vec<PgOid> = args.iter().map(|a| PgOid::from(a.oid())).collect();
            let text = text.replace("%T", self.table);
            let plan = if self.writes {
                self.client.prepare_mut(text.as_str(), &types)
            } else {
                self.client.prepare(text.as_str(), &types)
            };
            // Leaked on purpose: a destructor would run after PostgreSQL's memory contexts are gone.
            let plan: &'static _ = Box::leak(Box::new(plan.unwrap_or_else(|e| panic!("{e}: {text}")).keep()));
            // A plan for a table that was renamed or made anew elsewhere stays allocated: this happens next to never.
            PLANS.with_borrow_mut(|plans| plans.insert(key, (self.table.to_owned(), plan)));
            plan
        })
    }
}

/// A result row.
pub struct Row<'a, 'conn>(&'a SpiHeapTupleData<'conn>);

impl Row<'_, '_> {
    /// Column `i`, from 1; NULL is None.
    pub fn opt<T: FromDatum + IntoDatum>(&self, i: usize) -> Option<T> {
        self.0.get(i).unwrap_or_else(|e| panic!("column {i}: {e}"))
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

/// An `int8[]`.
pub fn int8s<'a>(values: impl IntoIterator<Item = i64>) -> DatumWithOid<'a> {
    arg(values.into_iter().collect::<Vec<_>>(), pg_sys::INT8ARRAYOID)
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
