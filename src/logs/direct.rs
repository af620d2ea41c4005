//! Reads and writes single rows by their key without a statement: for a few rows, starting and ending an executor costs as much as the rows.
//!
//! Only what an UPDATE of an ordinary table would do is done here. Where it would do more (triggers, rules, row security, checks, generated
//! columns, other types) or where a row is not as expected, the row is left to the statement, which has the last word.
#[cfg(any(feature = "pg16", feature = "pg17"))]
use std::cell::Cell;
use std::collections::HashMap;

use pgrx::prelude::*;

use super::store::Generation;
#[cfg(any(feature = "pg16", feature = "pg17"))]
use super::table::Column;
use super::table::{Delta, Limits, Target};

/// The generation of a source by its number, as it was last committed; None when the row is not there or is that of another source.
pub fn generation(sources: pg_sys::Oid, no: i32, source: &str) -> Option<Generation> {
    const COLUMNS: usize = 4;
    // SAFETY: the table is the extension's own, and its key is its replica identity; the tuple is read before the scan ends. On an error
    // the end of the transaction releases what is open.
    unsafe {
        let relation = pg_sys::table_open(sources, pg_sys::AccessShareLock as i32);
        let index = pg_sys::RelationGetReplicaIndex(relation);
        let mut found = None;
        if index != pg_sys::InvalidOid && (*(*relation).rd_att).natts == COLUMNS as i32 {
            with_snapshot(|snapshot| {
                let mut key = equal(1, pg_sys::F_INT4EQ, pg_sys::Datum::from(no));
                let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &mut key);
                let tuple = pg_sys::systable_getnext(scan);
                if !tuple.is_null() {
                    let (mut values, mut nulls) = ([pg_sys::Datum::from(0); COLUMNS], [false; COLUMNS]);
                    pg_sys::heap_deform_tuple(tuple, (*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                    if <&str>::from_datum(values[1], nulls[1]) == Some(source) {
                        found =
                            Some(Generation { no, epoch: values[2].value() as i64, last_no: values[3].value() as i64 });
                    }
                }
                pg_sys::systable_endscan(scan);
            });
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        found
    }
}

/// A scan key for the column `attribute`.
fn equal(attribute: i16, function: u32, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: the function is the built-in equality of the column's type.
    unsafe {
        let strategy = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, attribute, strategy, pg_sys::Oid::from_u32(function), value);
    }
    key
}

/// Runs `f` with a snapshot of now that sees what this transaction did, as the statements of a function that writes have.
///
/// # Safety
/// The transaction must not keep its first snapshot.
unsafe fn with_snapshot(f: impl FnOnce(pg_sys::Snapshot)) {
    // SAFETY: pushed and popped in pairs; the end of the transaction pops it after an error.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        f(pg_sys::GetActiveSnapshot());
        pg_sys::PopActiveSnapshot();
    }
}

/// Adds lines to rows; answers the new counts of those that it could. The caller has the rights of the table's owner.
#[cfg(not(any(feature = "pg16", feature = "pg17")))]
pub fn update(_: &Target, _: &[(i64, &Delta<'_>)], _: &Limits) -> HashMap<i64, i64> {
    HashMap::new()
}

/// Adds lines to rows; answers the new counts of those that it could. The caller has the rights of the table's owner.
#[cfg(any(feature = "pg16", feature = "pg17"))]
pub fn update(target: &Target, deltas: &[(i64, &Delta<'_>)], limits: &Limits) -> HashMap<i64, i64> {
    let mut counts = HashMap::new();
    if crate::session::keeps_snapshot() || !limits.columns.are_usual() {
        return counts;
    }
    // SAFETY: the relation is open and locked as an UPDATE does it until the transaction ends.
    unsafe {
        let relation = pg_sys::table_open(target.relation, pg_sys::RowExclusiveLock as i32);
        if is_ordinary(relation) {
            let estate = pg_sys::CreateExecutorState();
            let mut indexes = pg_sys::ResultRelInfo { type_: pg_sys::NodeTag::T_ResultRelInfo, ..Default::default() };
            pg_sys::InitResultRelInfo(&mut indexes, relation, 0, core::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(&mut indexes, false);
            if let Some(key) = key_index(&indexes, &limits.columns) {
                with_snapshot(|snapshot| {
                    let mut writer = Writer {
                        relation,
                        estate,
                        indexes: &mut indexes,
                        columns: &limits.columns,
                        most: limits.count,
                        shown: Cell::new(None),
                    };
                    writer.write(key, snapshot, deltas, &mut counts);
                });
            }
            pg_sys::ExecCloseIndices(&mut indexes);
            pg_sys::FreeExecutorState(estate);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
    counts
}

/// Whether an UPDATE of this relation does nothing but write rows and index entries.
///
/// # Safety
/// The relation must be open.
#[cfg(any(feature = "pg16", feature = "pg17"))]
unsafe fn is_ordinary(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller keeps the relation open.
    unsafe {
        let class = &*(*relation).rd_rel;
        let constraints = (*(*relation).rd_att).constr;
        let ordinary = class.relkind == pg_sys::RELKIND_RELATION as core::ffi::c_char
            && class.relam == pg_sys::HEAP_TABLE_AM_OID
            && !class.relhasrules
            && !class.relhastriggers
            && !class.relhassubclass
            && !class.relispartition
            && !class.relrowsecurity
            && (constraints.is_null() || (*constraints).num_check == 0 && !(*constraints).has_generated_stored)
            // one by one, since having any of several is enough for that check
            && [pg_sys::ACL_SELECT, pg_sys::ACL_UPDATE].into_iter().all(|right| {
                pg_sys::pg_class_aclcheck((*relation).rd_id, pg_sys::GetUserId(), u64::from(right))
                    == pg_sys::AclResult::ACLCHECK_OK
            });
        if ordinary {
            pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
        }
        ordinary
    }
}

/// The unique index over the id alone; None when there is none, or when an index asks for more than an entry. Tells the others whether what
/// is written changes their keys, which is a hint for the index.
///
/// # Safety
/// The indexes must be open.
#[cfg(any(feature = "pg16", feature = "pg17"))]
unsafe fn key_index(indexes: &pg_sys::ResultRelInfo, columns: &super::table::Columns) -> Option<pg_sys::Relation> {
    let n = usize::try_from(indexes.ri_NumIndices).ok().filter(|n| *n > 0)?;
    let changed = [Column::Count, Column::FirstSeen, Column::LastSeen, Column::Metadata, Column::Samples]
        .map(|c| columns.number(c));
    let mut key = None;
    // SAFETY: both arrays have as many elements.
    unsafe {
        let relations = core::slice::from_raw_parts(indexes.ri_IndexRelationDescs, n);
        let infos = core::slice::from_raw_parts(indexes.ri_IndexRelationInfo, n);
        for (relation, info) in relations.iter().zip(infos) {
            let (form, info) = (&*(**relation).rd_index, &mut **info);
            if !form.indimmediate || form.indcheckxmin || !info.ii_ExclusionOps.is_null() {
                return None;
            }
            let attributes = &info.ii_IndexAttrNumbers[..info.ii_NumIndexAttrs as usize];
            let plain = info.ii_Expressions.is_null() && info.ii_Predicate.is_null();
            info.ii_CheckedUnchanged = true;
            info.ii_IndexUnchanged = plain && !attributes.iter().any(|a| changed.contains(a));
            let unique = info.ii_Unique && form.indisvalid && (*(**relation).rd_rel).relam == pg_sys::BTREE_AM_OID;
            if unique && plain && attributes == [columns.number(Column::Id)] {
                key = Some(*relation);
            }
        }
    }
    key
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
struct Writer<'a> {
    relation: pg_sys::Relation,
    estate: *mut pg_sys::EState,
    indexes: &'a mut pg_sys::ResultRelInfo,
    columns: &'a super::table::Columns,
    /// The largest count.
    most: i64,
    /// A time and what the session's clock shows then: most lines of a call have one time.
    shown: Cell<Option<(i64, pg_sys::Datum)>>,
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
impl Writer<'_> {
    /// # Safety
    /// Relation, indexes and executor state must be open, `key` one of the indexes, the snapshot active.
    unsafe fn write(
        &mut self,
        key: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        deltas: &[(i64, &Delta<'_>)],
        counts: &mut HashMap<i64, i64>,
    ) {
        // SAFETY: see above; slots and scan are closed at the end, or by the end of the transaction.
        unsafe {
            let old = pg_sys::table_slot_create(self.relation, core::ptr::null_mut());
            let new = pg_sys::MakeSingleTupleTableSlot((*self.relation).rd_att, &raw const pg_sys::TTSOpsHeapTuple);
            let scan = pg_sys::index_beginscan(self.relation, key, snapshot, 1, 0);
            let wide = self.columns.type_of(Column::Id) == pg_sys::INT8OID;
            let equality = if wide { pg_sys::F_INT8EQ } else { pg_sys::F_INT4EQ };
            for (id, delta) in deltas {
                if !wide && i32::try_from(*id).is_err() {
                    continue;
                }
                // By the index each time, though the session knows where it put the row: a scan of it is what prunes the table's pages.
                let mut wanted = equal(1, equality, pg_sys::Datum::from(*id));
                pg_sys::index_rescan(scan, &mut wanted, 1, core::ptr::null_mut(), 0);
                let found = pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, old);
                let count = found.then(|| self.change(old, new, delta)).flatten();
                if let Some(count) = count
                    && self.store(old, new, snapshot)
                {
                    counts.insert(*id, count);
                }
            }
            pg_sys::index_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(new);
            pg_sys::ExecDropSingleTupleTableSlot(old);
        }
    }

    /// Puts the row with the lines added into `new` and answers its count; None when it is not the delta's row any more, or is full.
    ///
    /// # Safety
    /// `old` must hold a row of the relation.
    unsafe fn change(
        &self,
        old: *mut pg_sys::TupleTableSlot,
        new: *mut pg_sys::TupleTableSlot,
        delta: &Delta<'_>,
    ) -> Option<i64> {
        // SAFETY: the columns are there and of the types that they are read as: the caller has looked at `are_usual`.
        unsafe {
            let attributes = (*(*self.relation).rd_att).natts;
            pg_sys::slot_getsomeattrs_int(old, attributes);
            let n = attributes as usize;
            let values = core::slice::from_raw_parts((*old).tts_values, n);
            let nulls = core::slice::from_raw_parts((*old).tts_isnull, n);
            let at = |column| self.columns.number(column) as usize - 1;
            let value = |column| (!nulls[at(column)]).then(|| values[at(column)]);
            let text = |column| value(column).and_then(|datum| <&str>::from_datum(datum, false));
            let integer = |column, v: pg_sys::Datum| {
                let wide = self.columns.type_of(column) == pg_sys::INT8OID;
                if wide { v.value() as i64 } else { i64::from(v.value() as i32) }
            };
            if text(Column::Pattern) != Some(&*delta.pattern)
                || text(Column::Level) != delta.level
                || text(Column::Source) != (!delta.source.is_empty()).then_some(delta.source)
            {
                return None;
            }
            let before = value(Column::Count).map_or(0, |v| integer(Column::Count, v));
            let count = before.checked_add(delta.tally.count).filter(|count| *count <= self.most)?;
            let earlier = |a: pg_sys::Datum, b: pg_sys::Datum| (a.value() as i64) < b.value() as i64;
            let mut set: Vec<(Column, pg_sys::Datum)> = vec![(Column::Count, pg_sys::Datum::from(count))];
            let first = self.local(delta.tally.first)?;
            if value(Column::FirstSeen).is_none_or(|known| earlier(first, known)) {
                set.push((Column::FirstSeen, first));
            }
            let last = self.local(delta.tally.last)?;
            if value(Column::LastSeen).is_none_or(|known| earlier(known, last)) {
                set.push((Column::LastSeen, last));
            }
            if let Some(json) = delta.tally.metadata.to_json()
                && let Some(merged) = merged(value(Column::Metadata), &json)
            {
                set.push((Column::Metadata, merged));
            }
            if let Some(json) = &delta.samples {
                set.push((Column::Samples, jsonb(json)?));
            }
            let (mut put, mut none, mut replace) = (values.to_vec(), nulls.to_vec(), vec![false; n]);
            for (column, datum) in set {
                (put[at(column)], none[at(column)], replace[at(column)]) = (datum, false, true);
            }
            let mut owned = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(old, false, &mut owned);
            let descriptor = (*self.relation).rd_att;
            let tuple =
                pg_sys::heap_modify_tuple(tuple, descriptor, put.as_mut_ptr(), none.as_mut_ptr(), replace.as_mut_ptr());
            pg_sys::ExecStoreHeapTuple(tuple, new, true);
            (*new).tts_tableOid = (*self.relation).rd_id;
            Some(count)
        }
    }

    /// A time as the session's clock shows it.
    fn local(&self, at: i64) -> Option<pg_sys::Datum> {
        if let Some((_, shown)) = self.shown.get().filter(|known| known.0 == at) {
            return Some(shown);
        }
        // SAFETY: the conversion of timestamptz to timestamp, both passed by value.
        let shown = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::timestamptz_timestamp, &[Some(pg_sys::Datum::from(at))])
        }?;
        self.shown.set(Some((at, shown)));
        Some(shown)
    }

    /// Writes the row; false when someone else changed it just now.
    ///
    /// # Safety
    /// `old` must hold the row as the snapshot sees it, `new` what it becomes.
    unsafe fn store(
        &mut self,
        old: *mut pg_sys::TupleTableSlot,
        new: *mut pg_sys::TupleTableSlot,
        snapshot: pg_sys::Snapshot,
    ) -> bool {
        use pg_sys::TU_UpdateIndexes::{TU_None, TU_Summarizing};
        let mut failure = pg_sys::TM_FailureData::default();
        let mut mode = pg_sys::LockTupleMode::LockTupleExclusive;
        let mut entries = TU_None;
        // SAFETY: see above.
        unsafe {
            let mut place = (*old).tts_tid;
            let command = pg_sys::GetCurrentCommandId(true);
            let nothing = core::ptr::null_mut();
            let result = pg_sys::table_tuple_update(
                self.relation,
                &mut place,
                new,
                command,
                snapshot,
                nothing,
                true,
                &mut failure,
                &mut mode,
                &mut entries,
            );
            if result != pg_sys::TM_Result::TM_Ok {
                return false;
            }
            if entries != TU_None {
                let none = core::ptr::null_mut();
                let summarizing = entries == TU_Summarizing;
                pg_sys::ExecInsertIndexTuples(
                    self.indexes,
                    new,
                    self.estate,
                    true,
                    false,
                    none,
                    core::ptr::null_mut(),
                    summarizing,
                );
                let context = (*self.estate).es_per_tuple_exprcontext;
                if !context.is_null() {
                    pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                }
            }
        }
        true
    }
}

/// A `jsonb` from its text.
#[cfg(any(feature = "pg16", feature = "pg17"))]
fn jsonb(json: &str) -> Option<pg_sys::Datum> {
    let text = std::ffi::CString::new(json).ok()?;
    // SAFETY: the input function of jsonb with its one argument; the text outlives the call.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr()))]) }
}

/// What the metadata becomes with these keys set; None when it stays as it is.
#[cfg(any(feature = "pg16", feature = "pg17"))]
fn merged(known: Option<pg_sys::Datum>, json: &str) -> Option<pg_sys::Datum> {
    let Some(known) = known else { return jsonb(json) };
    // SAFETY: functions of jsonb with values of that type.
    unsafe {
        let kind = pgrx::direct_function_call::<&str>(pg_sys::jsonb_typeof, &[Some(known)]);
        if kind != Some("object") {
            return None;
        }
        let all = pgrx::direct_function_call_as_datum(pg_sys::jsonb_concat, &[Some(known), Some(jsonb(json)?)])?;
        if pgrx::direct_function_call::<bool>(pg_sys::jsonb_eq, &[Some(all), Some(known)])? {
            return None;
        }
        let text = pgrx::direct_function_call::<&core::ffi::CStr>(pg_sys::jsonb_out, &[Some(all)])?;
        (text.to_bytes().len() <= super::metadata::MAX_BYTES).then_some(all)
    }
}
