//! Pairs in order: PostgreSQL's own sort, in work_mem and then in temporary files.
use core::ffi::c_int;

use pgedge_similarity::Metric;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::id::{Id, IdType};

/// Sorts pairs of ids by score, best first, then by the ids in the order of their type.
pub struct PairSorter {
    sort: *mut pg_sys::Tuplesortstate,
    slot: *mut pg_sys::TupleTableSlot,
    ids: IdType,
}

const COLUMNS: usize = 3;

impl PairSorter {
    /// An empty one. Only the first `bound` pairs are wanted, when there is a bound.
    pub fn new(metric: Metric, ids: IdType, bound: Option<i64>) -> PairSorter {
        // SAFETY: the descriptor and the arrays have three columns; operators and collations are those of the column types.
        unsafe {
            let descriptor = pg_sys::CreateTemplateTupleDesc(COLUMNS as c_int);
            let types = [pg_sys::FLOAT4OID, ids.oid, ids.oid];
            for (i, oid) in types.into_iter().enumerate() {
                pg_sys::TupleDescInitEntry(descriptor, i as i16 + 1, core::ptr::null(), oid, -1, 0);
            }
            let operators = pg_sys::lookup_type_cache(
                pg_sys::FLOAT4OID,
                (pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR) as c_int,
            );
            let by_score = if metric == Metric::L2 { (*operators).lt_opr } else { (*operators).gt_opr };
            let by_id = (*pg_sys::lookup_type_cache(ids.oid, pg_sys::TYPECACHE_LT_OPR as c_int)).lt_opr;
            let options = if bound.is_some() { pg_sys::TUPLESORT_ALLOWBOUNDED } else { pg_sys::TUPLESORT_NONE };
            let sort = pg_sys::tuplesort_begin_heap(
                descriptor,
                COLUMNS as c_int,
                [1, 2, 3].as_mut_ptr(),
                [by_score, by_id, by_id].as_mut_ptr(),
                [pg_sys::Oid::INVALID, ids.collation, ids.collation].as_mut_ptr(),
                [false; COLUMNS].as_mut_ptr(),
                pg_sys::work_mem,
                core::ptr::null_mut(),
                options as c_int,
            );
            if let Some(bound) = bound {
                pg_sys::tuplesort_set_bound(sort, bound);
            }
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
            PairSorter { sort, slot, ids }
        }
    }

    /// A pair; its ids are put in order.
    pub fn put(&mut self, a: &Id, b: &Id, score: f32) {
        self.ids.enter();
        let (a, b) = if b < a { (b, a) } else { (a, b) };
        // SAFETY: a tuple of the slot's descriptor; tuplesort copies it.
        unsafe {
            let mut values = [score.into_datum().expect("not NULL"), self.ids.datum(a), self.ids.datum(b)];
            let (columns, mut nulls) = ((*self.slot).tts_tupleDescriptor, [false; COLUMNS]);
            #[cfg(not(feature = "pg18"))]
            let tuple = pg_sys::heap_form_minimal_tuple(columns, values.as_mut_ptr(), nulls.as_mut_ptr());
            #[cfg(feature = "pg18")]
            let tuple = pg_sys::heap_form_minimal_tuple(columns, values.as_mut_ptr(), nulls.as_mut_ptr(), 0);
            pg_sys::ExecStoreMinimalTuple(tuple, self.slot, true);
            pg_sys::tuplesort_puttupleslot(self.sort, self.slot);
            pg_sys::ExecClearTuple(self.slot);
        }
    }

    /// All pairs in order, as (a, b, score).
    pub fn finish(self, most: Option<i64>, mut pair: impl FnMut(Id, Id, f32)) {
        // SAFETY: as above; columns are not NULL. The values read live until the next row.
        unsafe {
            pg_sys::tuplesort_performsort(self.sort);
            let mut left = most.unwrap_or(i64::MAX);
            while left > 0 && pg_sys::tuplesort_gettupleslot(self.sort, true, false, self.slot, core::ptr::null_mut()) {
                pg_sys::slot_getsomeattrs_int(self.slot, COLUMNS as c_int);
                let value = |i: usize| *(*self.slot).tts_values.add(i);
                let score = f32::from_bits(value(0).value() as u32);
                pair(self.ids.read(value(1)), self.ids.read(value(2)), score);
                left -= 1;
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::tuplesort_end(self.sort);
        }
    }
}
