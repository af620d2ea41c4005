//! Embeddings that lie out of line, fetched many at a time.
//!
//! pgvector stores vectors EXTERNAL: when a row exceeds 2 kB (384 dimensions and some 400 bytes of text) its vector moves to the TOAST relation.
//! Detoasting opens that relation and its index and descends the index for each row: 3 µs of a scan that takes 0.4 µs a row otherwise. Here the
//! pointers of many rows wait, are sorted by value id, and one walk along the index reads them: rows that were stored together have ids that follow
//! each other, so most are found without a descent, on the heap page that the one before was on.
//!
//! This is as safe as detoasting at once: a pointer is good as long as the row it came from is visible to a snapshot that is held, and the
//! statement's snapshot is held until the aggregate has given its result. Values are read under the same kind of snapshot as detoasting reads them,
//! and whatever looks irregular is left to the server's own detoasting.
use core::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::varlena::{varatt_is_1b_e, vardata_any, varsize_any_exhdr, vartag_external};

use super::prefetch::Prefetch;
use crate::pgvector::{Element, elements_of_body, with_embedding};

/// A pointer to a value in a TOAST relation, as it stands in a row.
#[derive(Clone, Copy)]
struct Pointer {
    external: pg_sys::varatt_external,
}

const BYTES: usize = pg_sys::VARHDRSZ_EXTERNAL + size_of::<pg_sys::varatt_external>();
const EXTSIZE_MASK: u32 = (1 << 30) - 1;

impl Pointer {
    /// The pointer in a datum, unless the value is in the row, compressed, or out of line in another way.
    ///
    /// # Safety
    /// `datum` must be a varlena.
    #[inline]
    unsafe fn of(datum: pg_sys::Datum) -> Option<Pointer> {
        let value: *const pg_sys::varlena = datum.cast_mut_ptr();
        // SAFETY: the caller's promise; an on-disk pointer is followed by its struct, at any alignment.
        unsafe {
            if !varatt_is_1b_e(value) || u32::from(vartag_external(value)) != pg_sys::vartag_external::VARTAG_ONDISK {
                return None;
            }
            let external =
                value.cast::<u8>().add(pg_sys::VARHDRSZ_EXTERNAL).cast::<pg_sys::varatt_external>().read_unaligned();
            let pointer = Pointer { external };
            (pointer.stored() == external.va_rawsize as usize - pg_sys::VARHDRSZ).then_some(pointer)
        }
    }

    /// Bytes stored.
    fn stored(&self) -> usize {
        (self.external.va_extinfo & EXTSIZE_MASK) as usize
    }

    fn key(&self) -> (u32, u32) {
        (self.external.va_toastrelid.to_u32(), self.external.va_valueid.to_u32())
    }

    /// The value by the server's own detoasting.
    fn detoast<T: Element, R>(&self, f: impl FnOnce(&[T]) -> R) -> R {
        let mut datum = [0u8; BYTES];
        (datum[0], datum[1]) =
            (if cfg!(target_endian = "big") { 0x80 } else { 0x01 }, pg_sys::vartag_external::VARTAG_ONDISK as u8);
        // SAFETY: room for the struct behind the two bytes of the header; together they are the pointer that `of` read.
        unsafe {
            datum
                .as_mut_ptr()
                .add(pg_sys::VARHDRSZ_EXTERNAL)
                .cast::<pg_sys::varatt_external>()
                .write_unaligned(self.external);
            with_embedding(pg_sys::Datum::from(datum.as_ptr()), f)
        }
    }
}

/// Rows whose embeddings wait to be fetched, each with an `I`.
pub struct Waiting<I> {
    rows: Vec<(Pointer, Option<I>)>,
    /// Of the rows, which hold the pointers.
    pointers: Prefetch,
    /// Of the TOAST relation's chunks.
    chunks: Prefetch,
}

/// Rows that wait at most.
const ROWS: usize = 1024;
/// Index entries of other values that are passed over before the index is descended anew.
const SKIPS: u32 = 12;

impl<I> Waiting<I> {
    /// None waiting.
    pub fn new() -> Self {
        Waiting { rows: Vec::new(), pointers: Prefetch::default(), chunks: Prefetch::default() }
    }

    /// Takes the row when its embedding lies out of line; gives the `id` back when it is to be read at once.
    ///
    /// # Safety
    /// `datum` must be a pgvector value, of a row that a snapshot held until the next [`Waiting::fetch`] sees.
    #[inline]
    pub unsafe fn take(&mut self, id: I, datum: pg_sys::Datum) -> Result<(), I> {
        // SAFETY: the caller's promise.
        match unsafe { Pointer::of(datum) } {
            Some(pointer) => {
                self.rows.push((pointer, Some(id)));
                Ok(())
            }
            None => Err(id),
        }
    }

    /// Asks for the memory of rows to come, in a scan of rows like the one with this pointer.
    #[inline]
    pub fn note(&mut self, datum: pg_sys::Datum) {
        self.pointers.note(datum.cast_mut_ptr(), BYTES);
    }

    /// Whether it is time to fetch.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.rows.len() >= ROWS
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Gives every waiting row to `each`, in the order of their values.
    pub fn fetch<T: Element>(&mut self, mut each: impl FnMut(I, &[T])) {
        let mut rows = core::mem::take(&mut self.rows);
        rows.sort_unstable_by_key(|(pointer, _)| pointer.key());
        for group in rows.chunk_by_mut(|a, b| a.0.key().0 == b.0.key().0) {
            let relation = group[0].0.external.va_toastrelid;
            Walk::open(relation, &mut self.chunks).fetch(group, &mut each);
        }
        rows.clear();
        self.rows = rows;
    }
}

/// A walk along the index of a TOAST relation.
struct Walk<'a> {
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    key: pg_sys::ScanKeyData,
    snapshot: Box<pg_sys::SnapshotData>,
    /// A value of several chunks, or one that does not lie aligned.
    buffer: Vec<u64>,
    prefetch: &'a mut Prefetch,
}

/// A chunk where it lies: until the walk moves on.
struct Chunk {
    value: u32,
    sequence: i32,
}

impl Walk<'_> {
    fn open(relation: pg_sys::Oid, prefetch: &mut Prefetch) -> Walk<'_> {
        // SAFETY: a row that is visible keeps its TOAST relation in being; the relation's one valid index is on (chunk_id, chunk_seq).
        unsafe {
            let relation = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
            let mut index: pg_sys::Relation = null_mut();
            for oid in pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(relation)).iter_oid() {
                let open = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
                if index.is_null() && (*(*open).rd_index).indisvalid {
                    index = open;
                } else {
                    pg_sys::index_close(open, pg_sys::NoLock as i32);
                }
            }
            assert!(!index.is_null(), "a TOAST relation has a valid index");
            let snapshot = Box::new(toast_snapshot());
            let seen = (&raw const *snapshot).cast_mut();
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(relation, index, seen, 1, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(relation, index, seen, null_mut(), 1, 0);
            // Asked for before the first rescan: the entries themselves, to see whose chunk one is without reading the heap.
            (*scan).xs_want_itup = true;
            let mut key = core::mem::zeroed();
            pg_sys::ScanKeyInit(
                &mut key,
                1,
                pg_sys::BTGreaterEqualStrategyNumber as u16,
                pg_sys::F_OIDGE.into(),
                pg_sys::Datum::from(0),
            );
            let slot = pg_sys::table_slot_create(relation, null_mut());
            Walk { relation, index, scan, slot, key, snapshot, buffer: Vec::new(), prefetch }
        }
    }

    /// Gives each row of `rows`, which are sorted by value, to `each`.
    fn fetch<I, T: Element>(mut self, rows: &mut [(Pointer, Option<I>)], each: &mut impl FnMut(I, &[T])) {
        let (mut next, mut done) = (0, 0);
        while next < rows.len() {
            self.descend(rows[next].0.key().1);
            next = self.along(rows, next, each);
            if next - done >= 64 {
                pgrx::check_for_interrupts!();
                done = next;
            }
        }
        self.close();
    }

    /// Walks from the value of row `next`, and says which row to go on with.
    fn along<I, T: Element>(
        &mut self,
        rows: &mut [(Pointer, Option<I>)],
        mut next: usize,
        each: &mut impl FnMut(I, &[T]),
    ) -> usize {
        let mut skipped = 0;
        while next < rows.len() {
            let wanted = rows[next].0.key().1;
            let end = next + rows[next..].iter().take_while(|(pointer, _)| pointer.key().1 == wanted).count();
            let Some(chunk) = self.step() else { break };
            if chunk.value < wanted {
                skipped += 1;
                if skipped > SKIPS {
                    return next;
                }
                continue;
            }
            // A chunk beyond: the one wanted is not there, and the one met may be wanted next, so both are looked for anew.
            let here = chunk.value == wanted && chunk.sequence == 0;
            let bytes = rows[next].0.stored();
            let fetched = here
                && self.body(bytes, &mut |elements: &[T]| {
                    for (_, id) in &mut rows[next..end] {
                        each(id.take().expect("each row once"), elements);
                    }
                });
            if !fetched {
                irregular(&mut rows[next..end], each);
                return end;
            }
            (next, skipped) = (end, 0);
        }
        if next < rows.len() {
            // The index has come to its end.
            irregular(&mut rows[next..], each);
        }
        rows.len()
    }

    fn descend(&mut self, value: u32) {
        self.key.sk_argument = pg_sys::Datum::from(value);
        // SAFETY: the scan is open with one key.
        unsafe { pg_sys::index_rescan(self.scan, &mut self.key, 1, null_mut(), 0) };
    }

    /// The next entry of the index.
    fn step(&mut self) -> Option<Chunk> {
        // SAFETY: the scan is open; an entry is an IndexTuple of (oid, int4), neither NULL, behind a header of eight bytes.
        unsafe {
            if pg_sys::index_getnext_tid(self.scan, pg_sys::ScanDirection::ForwardScanDirection).is_null() {
                return None;
            }
            let columns = (*self.scan).xs_itup.cast::<u8>().add(8);
            Some(Chunk { value: columns.cast::<u32>().read(), sequence: columns.add(4).cast::<i32>().read() })
        }
    }

    /// The bytes of the chunk that `step` met.
    fn chunk(&mut self) -> Option<&[u8]> {
        // SAFETY: the slot is of the relation, whose third column is the chunk's data; the slot pins the page it lies on.
        unsafe {
            if !pg_sys::index_fetch_heap(self.scan, self.slot) {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(self.slot, 3);
            let data: *const pg_sys::varlena = (*(*self.slot).tts_values.add(2)).cast_mut_ptr();
            if varatt_is_1b_e(data) {
                return None;
            }
            let chunk: &[u8] = core::slice::from_raw_parts(vardata_any(data).cast(), varsize_any_exhdr(data));
            self.prefetch.note(chunk.as_ptr(), chunk.len());
            Some(chunk)
        }
    }

    /// Gives the elements of the value whose first chunk `step` met, of so many `bytes`, to `f`. `false` when something is not as it should be.
    fn body<T: Element>(&mut self, bytes: usize, f: &mut impl FnMut(&[T])) -> bool {
        let Some(first) = self.chunk() else { return false };
        if first.len() == bytes
            && let Some(elements) = elements_of_body(first)
        {
            f(elements);
            return true;
        }
        let mut buffer = core::mem::take(&mut self.buffer);
        let complete = self.gather(bytes, &mut buffer);
        if complete {
            // SAFETY: `gather` filled that many bytes.
            let body = unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), bytes) };
            if let Some(elements) = elements_of_body(body) {
                f(elements);
                self.buffer = buffer;
                return true;
            }
        }
        self.buffer = buffer;
        false
    }

    /// Puts the chunks of a value together, from the one that the slot holds.
    fn gather(&mut self, bytes: usize, buffer: &mut Vec<u64>) -> bool {
        buffer.clear();
        if buffer.try_reserve(bytes.div_ceil(8)).is_err() {
            return false;
        }
        buffer.resize(bytes.div_ceil(8), 0);
        let (mut filled, mut sequence) = (0, 0);
        loop {
            let Some(chunk) = self.chunk() else { return false };
            if chunk.is_empty() || chunk.len() > bytes - filled {
                return false;
            }
            // SAFETY: within the buffer, by the check above.
            unsafe {
                buffer.as_mut_ptr().cast::<u8>().add(filled).copy_from_nonoverlapping(chunk.as_ptr(), chunk.len())
            };
            filled += chunk.len();
            sequence += 1;
            if filled == bytes {
                return true;
            }
            match self.step() {
                Some(next) if next.sequence == sequence => {}
                _ => return false,
            }
        }
    }

    fn close(self) {
        // SAFETY: all were opened by `open`.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as i32);
            pg_sys::table_close(self.relation, pg_sys::AccessShareLock as i32);
        }
        drop(self.snapshot);
    }
}

/// What is not found as expected is the server's to find, or to complain of.
fn irregular<I, T: Element>(rows: &mut [(Pointer, Option<I>)], each: &mut impl FnMut(I, &[T])) {
    for (pointer, id) in rows {
        let id = id.take().expect("each row once");
        pointer.detoast(|elements: &[T]| each(id, elements));
    }
}

/// The snapshot that detoasting uses: it sees every chunk, since a visible row vouches for its value.
fn toast_snapshot() -> pg_sys::SnapshotData {
    // SAFETY: zeros are a valid SnapshotData; the oldest snapshot is held by this transaction.
    unsafe {
        let mut snapshot: pg_sys::SnapshotData = core::mem::zeroed();
        snapshot.snapshot_type = pg_sys::SnapshotType::SNAPSHOT_TOAST;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        {
            let oldest = pg_sys::GetOldestSnapshot();
            assert!(!oldest.is_null(), "a query has a snapshot");
            (snapshot.lsn, snapshot.whenTaken) = ((*oldest).lsn, (*oldest).whenTaken);
        }
        snapshot
    }
}
