//! Reads and writes single rows by their key without a statement: for a few rows, starting and ending an executor costs as much as the rows.
//!
//! Only what an UPDATE of an ordinary table would do is done here. Where it would do more (triggers, rules, row security, checks, generated
//! columns, other types) or where a row is not as expected, the row is left to the statement, which has the last word.
#[cfg(any(feature = "pg16", feature = "pg17"))]
use std::cell::Cell;

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

/// Where the versions of a row begin that are on one page: what the table's indexes have an entry of. It stays the same while updates need no
/// new entries.
pub type Place = pg_sys::ItemPointerData;

/// Lines to add to a row.
pub struct Addition<'a> {
    /// The row's id.
    pub id: i64,
    /// Where this session last found it. What stands there is looked at before it is believed.
    pub place: Option<Place>,
    /// The lines.
    pub delta: &'a Delta<'a>,
}

/// A row that got its lines.
#[derive(Clone, Copy)]
pub struct Added {
    /// Its count with them.
    pub count: i64,
    /// Where to find it the next time; None when that is not known.
    pub place: Option<Place>,
}

/// Adds lines to rows; None for those that are left to the statement. The caller has the rights of the table's owner.
#[cfg(not(any(feature = "pg16", feature = "pg17")))]
pub fn update(_: &Target, additions: &[Addition<'_>], _: &Limits) -> Vec<Option<Added>> {
    vec![None; additions.len()]
}

/// Adds lines to rows; None for those that are left to the statement. The caller has the rights of the table's owner.
#[cfg(any(feature = "pg16", feature = "pg17"))]
pub fn update(target: &Target, additions: &[Addition<'_>], limits: &Limits) -> Vec<Option<Added>> {
    if crate::session::keeps_snapshot() || !limits.columns.are_usual() {
        return vec![None; additions.len()];
    }
    // SAFETY: the relation is open and locked as an UPDATE does it until the transaction ends. What is known of its columns and indexes is
    // what is true under that lock: it is not used when this session heard of a change with it.
    unsafe {
        let relation = pg_sys::table_open(target.relation, pg_sys::RowExclusiveLock as i32);
        let mut answer = vec![None; additions.len()];
        if target.is_current() && is_ordinary(relation) {
            let mut indexes = Indexes { relation, columns: &limits.columns, open: None };
            if target.has_plain_indexes(|| indexes.are_plain()) {
                with_snapshot(|snapshot| {
                    let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
                    let mut writer =
                        Writer { relation, blocks, snapshot, indexes: &mut indexes, limits, shown: Cell::new(None) };
                    writer.write(additions, &mut answer);
                });
            }
            indexes.close();
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        answer
    }
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

/// The indexes of the table, opened when they are needed: to find a row whose place is not known, and when a row gets new entries. Neither is
/// usual, and opening them costs as much as writing two rows.
#[cfg(any(feature = "pg16", feature = "pg17"))]
struct Indexes<'a> {
    relation: pg_sys::Relation,
    columns: &'a super::table::Columns,
    open: Option<OpenIndexes>,
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
struct OpenIndexes {
    estate: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    /// The unique index over the id alone; None when there is none, or when an index asks for more than an entry.
    key: Option<pg_sys::Relation>,
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
impl Indexes<'_> {
    /// Opens and locks them as an UPDATE does.
    ///
    /// # Safety
    /// The relation must be open.
    unsafe fn open(&mut self) -> &OpenIndexes {
        let (relation, columns) = (self.relation, self.columns);
        self.open.get_or_insert_with(|| {
            // SAFETY: the structure lives as long as the executor state, in whose memory it is.
            unsafe {
                let estate = pg_sys::CreateExecutorState();
                let size = core::mem::size_of::<pg_sys::ResultRelInfo>();
                let info = pg_sys::MemoryContextAllocZero((*estate).es_query_cxt, size).cast::<pg_sys::ResultRelInfo>();
                (*info).type_ = pg_sys::NodeTag::T_ResultRelInfo;
                pg_sys::InitResultRelInfo(info, relation, 0, core::ptr::null_mut(), 0);
                pg_sys::ExecOpenIndices(info, false);
                OpenIndexes { estate, info, key: key_index(&*info, columns) }
            }
        })
    }

    /// Whether none of them asks for more than an entry, and one is that of the id.
    ///
    /// # Safety
    /// As for `open`.
    unsafe fn are_plain(&mut self) -> bool {
        // SAFETY: see above.
        unsafe { self.open() }.key.is_some()
    }

    /// Closes what was opened.
    ///
    /// # Safety
    /// As for `open`.
    unsafe fn close(&mut self) {
        if let Some(open) = self.open.take() {
            // SAFETY: opened above.
            unsafe {
                pg_sys::ExecCloseIndices(open.info);
                pg_sys::FreeExecutorState(open.estate);
            }
        }
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

/// Reads the version that the snapshot sees of the row whose place is given; false when there is none, or no such place (any more).
/// Prunes the page when that is due, as a scan of an index does: else pages fill up with old versions.
///
/// # Safety
/// The relation must be a heap, open and locked, of `blocks` blocks, which do not become fewer while it is; the slot one of its rows in buffers.
#[cfg(any(feature = "pg16", feature = "pg17"))]
unsafe fn fetch(
    relation: pg_sys::Relation,
    blocks: pg_sys::BlockNumber,
    mut place: Place,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: see above. The buffer stays pinned until it is the slot's, who unpins it. The search stands whatever is at a place of a page.
    unsafe {
        let block = pg_sys::ItemPointerGetBlockNumberNoCheck(&place);
        if block >= blocks {
            return false;
        }
        pg_sys::ExecClearTuple(slot);
        let tuple = &raw mut (*slot.cast::<pg_sys::BufferHeapTupleTableSlot>()).base.tupdata;
        let buffer = pg_sys::ReadBuffer(relation, block);
        pg_sys::heap_page_prune_opt(relation, buffer);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let nothing = core::ptr::null_mut();
        let found = pg_sys::heap_hot_search_buffer(&mut place, relation, buffer, snapshot, tuple, nothing, true);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
        if found {
            (*tuple).t_self = place;
            pg_sys::ExecStorePinnedBufferHeapTuple(tuple, slot, buffer);
        } else {
            pg_sys::ReleaseBuffer(buffer);
        }
        found
    }
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
struct Writer<'a, 'b> {
    relation: pg_sys::Relation,
    /// The table's blocks; it does not shrink while it is locked.
    blocks: pg_sys::BlockNumber,
    snapshot: pg_sys::Snapshot,
    indexes: &'a mut Indexes<'b>,
    limits: &'a Limits,
    /// A time and what the session's clock shows then: most lines of a call have one time.
    shown: Cell<Option<(i64, pg_sys::Datum)>>,
}

#[cfg(any(feature = "pg16", feature = "pg17"))]
impl Writer<'_, '_> {
    /// # Safety
    /// The relation must be open, the snapshot active.
    unsafe fn write(&mut self, additions: &[Addition<'_>], answer: &mut [Option<Added>]) {
        // SAFETY: see above; slots and scan are closed at the end, or by the end of the transaction.
        unsafe {
            let old = pg_sys::table_slot_create(self.relation, core::ptr::null_mut());
            let new = pg_sys::MakeSingleTupleTableSlot((*self.relation).rd_att, &raw const pg_sys::TTSOpsVirtual);
            let mut scan = None;
            for (addition, answer) in additions.iter().zip(answer) {
                let known =
                    addition.place.filter(|place| fetch(self.relation, self.blocks, *place, self.snapshot, old));
                let mut found = known.and_then(|place| Some((place, self.change(old, new, addition)?)));
                if found.is_none() {
                    let place = self.look_up(&mut scan, addition.id, old);
                    found = place.and_then(|place| Some((place, self.change(old, new, addition)?)));
                }
                *answer =
                    found.and_then(|(place, count)| Some(Added { count, place: Some(self.store(old, new, place)?) }));
            }
            if let Some(scan) = scan {
                pg_sys::index_endscan(scan);
            }
            pg_sys::ExecDropSingleTupleTableSlot(new);
            pg_sys::ExecDropSingleTupleTableSlot(old);
        }
    }

    /// Reads the row with this id and answers its place.
    ///
    /// # Safety
    /// As for `write`; the scan is one that this function began.
    unsafe fn look_up(
        &mut self,
        scan: &mut Option<pg_sys::IndexScanDesc>,
        id: i64,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> Option<Place> {
        let wide = self.limits.columns.type_of(Column::Id) == pg_sys::INT8OID;
        if !wide && i32::try_from(id).is_err() {
            return None;
        }
        // SAFETY: see above; the key's type is that of the column.
        unsafe {
            let key = self.indexes.open().key?;
            let scan = *scan.get_or_insert_with(|| pg_sys::index_beginscan(self.relation, key, self.snapshot, 1, 0));
            let equality = if wide { pg_sys::F_INT8EQ } else { pg_sys::F_INT4EQ };
            let mut wanted = equal(1, equality, pg_sys::Datum::from(id));
            pg_sys::index_rescan(scan, &mut wanted, 1, core::ptr::null_mut(), 0);
            loop {
                let entry = pg_sys::index_getnext_tid(scan, pg_sys::ScanDirection::ForwardScanDirection);
                // before the row is read: that makes it the place of the version that the snapshot sees
                let place = entry.as_ref().copied()?;
                if pg_sys::index_fetch_heap(scan, slot) {
                    return Some(place);
                }
            }
        }
    }

    /// Puts the row with the lines added into `new` and answers its count; None when it is not the row of the addition (any more), or is full.
    ///
    /// # Safety
    /// `old` must hold a row of the relation, and keep it as long as `new` is used.
    unsafe fn change(
        &self,
        old: *mut pg_sys::TupleTableSlot,
        new: *mut pg_sys::TupleTableSlot,
        addition: &Addition<'_>,
    ) -> Option<i64> {
        let (columns, delta) = (&self.limits.columns, addition.delta);
        // SAFETY: the columns are there and of the types that they are read as: the caller has looked at `are_usual`.
        unsafe {
            let attributes = (*(*self.relation).rd_att).natts;
            pg_sys::slot_getsomeattrs_int(old, attributes);
            let n = attributes as usize;
            let values = core::slice::from_raw_parts((*old).tts_values, n);
            let nulls = core::slice::from_raw_parts((*old).tts_isnull, n);
            let at = |column| columns.number(column) as usize - 1;
            let value = |column| (!nulls[at(column)]).then(|| values[at(column)]);
            let text = |column| value(column).and_then(|datum| <&str>::from_datum(datum, false));
            let integer = |column| {
                let wide = columns.type_of(column) == pg_sys::INT8OID;
                value(column).map(|v| if wide { v.value() as i64 } else { i64::from(v.value() as i32) })
            };
            if integer(Column::Id) != Some(addition.id)
                || text(Column::Pattern) != Some(&*delta.pattern)
                || text(Column::Level) != delta.level
                || text(Column::Source) != (!delta.source.is_empty()).then_some(delta.source)
            {
                return None;
            }
            let before = integer(Column::Count).unwrap_or(0);
            let count = before.checked_add(delta.tally.count).filter(|count| *count <= self.limits.count)?;
            let (first, last) = (self.local(delta.tally.first)?, self.local(delta.tally.last)?);
            pg_sys::ExecClearTuple(new);
            let put = core::slice::from_raw_parts_mut((*new).tts_values, n);
            let none = core::slice::from_raw_parts_mut((*new).tts_isnull, n);
            put.copy_from_slice(values);
            none.copy_from_slice(nulls);
            let mut set = |column, datum| (put[at(column)], none[at(column)]) = (datum, false);
            set(Column::Count, pg_sys::Datum::from(count));
            let earlier = |a: pg_sys::Datum, b: pg_sys::Datum| (a.value() as i64) < b.value() as i64;
            if value(Column::FirstSeen).is_none_or(|known| earlier(first, known)) {
                set(Column::FirstSeen, first);
            }
            if value(Column::LastSeen).is_none_or(|known| earlier(known, last)) {
                set(Column::LastSeen, last);
            }
            if let Some(json) = delta.tally.metadata.to_json()
                && let Some(merged) = merged(value(Column::Metadata), &json)
            {
                set(Column::Metadata, merged);
            }
            if let Some(json) = &delta.samples {
                set(Column::Samples, jsonb(json)?);
            }
            pg_sys::ExecStoreVirtualTuple(new);
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

    /// Writes the row and answers its place, given the one that it had; None when someone else changed it just now.
    ///
    /// # Safety
    /// `old` must hold the row as the snapshot sees it, `new` what it becomes.
    unsafe fn store(
        &mut self,
        old: *mut pg_sys::TupleTableSlot,
        new: *mut pg_sys::TupleTableSlot,
        place: Place,
    ) -> Option<Place> {
        use pg_sys::TU_UpdateIndexes::{TU_All, TU_None};
        let mut failure = pg_sys::TM_FailureData::default();
        let mut mode = pg_sys::LockTupleMode::LockTupleExclusive;
        let mut entries = TU_None;
        // SAFETY: see above.
        unsafe {
            let mut version = (*old).tts_tid;
            let command = pg_sys::GetCurrentCommandId(true);
            let nothing = core::ptr::null_mut();
            let result = pg_sys::table_tuple_update(
                self.relation,
                &mut version,
                new,
                command,
                self.snapshot,
                nothing,
                true,
                &mut failure,
                &mut mode,
                &mut entries,
            );
            if result != pg_sys::TM_Result::TM_Ok {
                return None;
            }
            if entries != TU_None {
                self.add_entries(new, entries);
            }
            Some(if entries == TU_All { (*new).tts_tid } else { place })
        }
    }

    /// Adds the index entries of a row that was written.
    ///
    /// # Safety
    /// As for `store`.
    unsafe fn add_entries(&mut self, new: *mut pg_sys::TupleTableSlot, entries: pg_sys::TU_UpdateIndexes::Type) {
        let summarizing = entries == pg_sys::TU_UpdateIndexes::TU_Summarizing;
        // SAFETY: see above.
        unsafe {
            let OpenIndexes { estate, info, .. } = *self.indexes.open();
            let (conflict, arbiters) = (core::ptr::null_mut(), core::ptr::null_mut());
            pg_sys::ExecInsertIndexTuples(info, new, estate, true, false, conflict, arbiters, summarizing);
            let context = (*estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
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
