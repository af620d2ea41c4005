//! A plain table, read page by page and without the executor.
//!
//! A scan by the executor takes a row at a time through the scan, the projection and the aggregate, in the order of the line pointers, which is that
//! of falling addresses. That cost more than reading the memory. Here a page is pinned, pruned, and its tuples are looked at under its lock with the server's
//! own visibility rules, as the server's sequential scan does it (`heapgetpage`); those that the snapshot sees are then taken in the order in which they lie.
//! Pages are pinned a little ahead, so that their memory can be asked for while other rows are scored.
//!
//! What the executor would do beyond that is left to it: row-level security, children and partitions, views, conditions, other access methods, parallel
//! plans, serializable transactions, snapshots that may be too old, and extensions that watch what is read ([`Heap::open`]).
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::VecDeque;

use pgedge_similarity::Ahead;
use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys;
use pgrx::varlena::varsize_any;

use super::relation::Source;
use super::state::{RowElement, State};

/// A table that is open and locked.
pub struct Heap {
    relation: pg_sys::Relation,
    columns: Columns,
}

impl Heap {
    /// The table of `source`, `None` when the executor must read it.
    pub fn open(source: &Source) -> Option<Heap> {
        // Columns with numbers below 1 are the server's own, ctid and tableoid.
        if !source.is_one_table || source.is_filtered() || source.id_number < 1 {
            return None;
        }
        // SAFETY: `source` has locked the relation; a descriptor lives as long as its relation is open.
        unsafe {
            let relation = pg_sys::table_open(source.oid, pg_sys::AccessShareLock as i32);
            if !may_be_read(relation) {
                pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
                return None;
            }
            let columns = Columns::new((*relation).rd_att, [source.id_number, source.embedding_number]);
            Some(Heap { relation, columns })
        }
    }

    /// Whether this process alone is done with so many queries before a parallel plan would be.
    ///
    /// An estimate, in pages read from the cache by this process. A tile of 64 queries takes about as long as reading its rows, the executor as long
    /// again, and starting workers as 4,300 pages, where `parallel_setup_cost` is what it is by default. A worker counts as half a process: it waits for the same
    /// memory, and often shares its core. (Measured on Zen 3 and Cascade Lake; it decides speed, not results.)
    pub fn beats_workers(&self, queries: usize) -> bool {
        let pages = self.pages();
        let workers = self.workers(pages);
        // SAFETY: settings of this backend.
        let (start, wanted) = unsafe { (pg_sys::parallel_setup_cost * 4.3, pg_sys::debug_parallel_query != 0) };
        if workers == 0 || wanted {
            return workers == 0;
        }
        let (pages, scoring) = (f64::from(pages), queries as f64 / 64.0);
        pages * (1.0 + scoring) <= start + pages * (2.0 + scoring) / (1.0 + f64::from(workers) / 2.0)
    }

    /// Workers that the planner would ask for (`compute_parallel_worker`), no more than there are further processors.
    fn workers(&self, pages: u32) -> i32 {
        // SAFETY: settings of this backend; options of a relation that is open, of the kind that tables and materialized views have.
        let (most, least, option) = unsafe {
            let options = (*self.relation).rd_options.cast::<pg_sys::StdRdOptions>();
            (
                pg_sys::max_parallel_workers_per_gather.min(pg_sys::max_parallel_workers),
                pg_sys::min_parallel_table_scan_size,
                if options.is_null() { -1 } else { (*options).parallel_workers },
            )
        };
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        // SAFETY: the relation is open. No worker can read what this session has to itself.
        let own = unsafe { (*(*self.relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP };
        let most = if own { 0 } else { most.min(processors as i32 - 1).max(0) };
        // One from the least size on, one more for each time it is three times that.
        let by_size = (pages / least.max(1) as u32).checked_ilog(3).map_or(i32::from(least == 0), |n| n as i32 + 1);
        (if option >= 0 { option } else { by_size }).min(most)
    }

    fn pages(&self) -> u32 {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Gives every row that the snapshot of the calling statement sees, and that has an embedding, to `state`.
    pub fn search<T: RowElement>(&self, state: &mut State) {
        // SAFETY: an active snapshot is there while a function runs, and stays until it ends.
        let mut scan = unsafe { Scan::begin(self.relation, pg_sys::GetActiveSnapshot()) };
        // What detoasting and comparing ids leave behind.
        let mut scratch = PgMemoryContexts::new("pgedge rows of a page");
        while scan.advance(|page| {
            if let Some((ahead, _)) = state.ahead() {
                ahead.page(page);
            }
        }) {
            if scan.lead == 0 {
                scan.lead = lead(&scan.page(), state).min(scan.most());
            }
            let page = scan.page();
            // SAFETY: the tuples are of the relation, and the page stays pinned until the next is asked for; nothing made for one page is used by the next.
            unsafe {
                scratch.switch_to(|_| self.push::<T>(&page, state));
                scratch.reset();
            }
        }
        // SAFETY: as above: what waits is fetched before the snapshot goes.
        unsafe { scratch.switch_to(|_| state.found()) };
        scan.end();
    }

    /// # Safety
    /// `page` must be of this table.
    unsafe fn push<T: RowElement>(&self, page: &Page<'_>, state: &mut State) {
        for tuple in page.tuples() {
            // SAFETY: the caller's promise; the columns' types were checked by `Source`.
            unsafe {
                let [id, embedding] = self.columns.read(&tuple);
                let Some(embedding) = embedding else { continue };
                let Some(id) = id else { super::null_id() };
                if let Some((ahead, _)) = state.ahead() {
                    ahead.ask();
                }
                state.row(id, embedding, |_, _: Option<&[T]>| {});
            }
        }
    }

    /// Closes the table, whose lock stays until the transaction ends.
    pub fn close(self) {
        // SAFETY: opened by `open`.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) };
    }
}

/// Whether nothing but a sequential scan of the heap stands between the caller and the rows.
///
/// # Safety
/// The relation must be open.
unsafe fn may_be_read(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; look-ups, and variables of this backend.
    unsafe {
        let class = &*(*relation).rd_rel;
        core::ptr::eq((*relation).rd_tableam, pg_sys::GetHeapamTableAmRoutine())
            && class.relispopulated
            && pg_sys::check_enable_rls((*relation).rd_id, pg_sys::Oid::INVALID, true)
                != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
            && (&raw const pg_sys::ExecutorCheckPerms_hook).read().is_none()
            && pg_sys::XactIsoLevel != pg_sys::XACT_SERIALIZABLE as i32
            // Rows that the snapshot should see may be gone; the server's scans look in every page whether they are.
            && pg_sys::old_snapshot_threshold < 0
            // A query names the table with its schema, which must be open to the caller.
            && pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, class.relnamespace, pg_sys::GetUserId(), pg_sys::ACL_USAGE.into())
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// How many pages to be ahead of the rows, for rows like those of this page: those that fill a tile, so that memory brings them while tiles are scored. 0
/// when it has none.
fn lead(page: &Page<'_>, state: &mut State) -> usize {
    let (Some((ahead, tile)), Some(tuple)) = (state.ahead(), page.tuples().next()) else { return 0 };
    let page = pg_sys::BLCKSZ as usize;
    // The lines of a row; twice that, where a tile's lead is to be gained first.
    let lines = tuple.bytes.div_ceil(64) + 1;
    ahead.start_pages(if tile > 0 { lines * 2 } else { lines });
    // SAFETY: settings of this server.
    let most = unsafe { pg_sys::NBuffers / pg_sys::MaxBackends.max(1) } as usize;
    (tile * tuple.bytes / page + SHORT).min(most).clamp(1, Ahead::PAGES)
}

/// Buffers that are tried after that of the last page.
const GUESSES: usize = 3;
/// Pages to be ahead at least.
const SHORT: usize = 3;

/// A sequential scan: begun as the server begins one, which chooses the ring of buffers and counts the scan, and then read page by page. It is known of
/// some pages ahead where they lie.
struct Scan {
    scan: pg_sys::HeapScanDesc,
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    /// The present page and its buffer, 0 when there is none.
    block: u32,
    buffer: pg_sys::Buffer,
    /// The pages to come.
    coming: VecDeque<Coming>,
    /// The next one to be looked for, and the buffer of the one before it.
    next: u32,
    last: pg_sys::Buffer,
    /// Pages to be ahead.
    lead: usize,
    /// Numbers, from 1, of the line pointers of the present page whose tuples are seen.
    visible: Vec<pg_sys::OffsetNumber>,
}

/// A page that comes next, in a buffer where it was seen or, where that was not guessed, is pinned: the server looks for a pin among eight, and for more
/// in a table.
struct Coming {
    buffer: pg_sys::Buffer,
    pinned: bool,
}

impl Scan {
    /// # Safety
    /// The relation must be open, and the snapshot good until [`Scan::end`].
    unsafe fn begin(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot) -> Scan {
        use pg_sys::ScanOptions::*;
        let flags = SO_TYPE_SEQSCAN | SO_ALLOW_STRAT | SO_ALLOW_PAGEMODE;
        // SAFETY: the caller's promise; no keys, and no parallel scan.
        let scan = unsafe { pg_sys::heap_beginscan(relation, snapshot, 0, null_mut(), null_mut(), flags).cast() };
        let (coming, visible) = (VecDeque::new(), Vec::new());
        Scan { scan, relation, snapshot, block: 0, buffer: 0, coming, next: 0, last: 0, lead: 0, visible }
    }

    /// Goes on to the next page, `false` at the end. `told` hears where the pages lie that come next.
    fn advance(&mut self, mut told: impl FnMut(*const u8)) -> bool {
        pgrx::check_for_interrupts!();
        // SAFETY: the scan is open, and the buffers were pinned here.
        unsafe {
            if self.buffer != 0 {
                pg_sys::ReleaseBuffer(core::mem::take(&mut self.buffer));
            }
            while self.coming.len() <= self.lead && self.next < (*self.scan).rs_nblocks {
                let coming = self.find(self.next);
                self.last = coming.buffer;
                self.next += 1;
                told(page_of(coming.buffer));
                self.coming.push_back(coming);
            }
            self.block = self.next - self.coming.len() as u32;
            let Some(coming) = self.coming.pop_front() else { return false };
            self.buffer = if coming.pinned { coming.buffer } else { self.pin_again(coming.buffer) };
            if (*page_of(self.buffer).cast::<pg_sys::PageHeaderData>()).pd_prune_xid != pg_sys::InvalidTransactionId {
                pg_sys::heap_page_prune_opt(self.relation, self.buffer);
            }
            self.look(self.buffer);
            true
        }
    }

    /// Pages that may be pinned ahead: a buffer of the ring that is still pinned when its turn comes is replaced by one from the cache.
    fn most(&self) -> usize {
        // SAFETY: the scan is open.
        unsafe {
            let ring = (*self.scan).rs_strategy;
            if ring.is_null() { usize::MAX } else { (pg_sys::GetAccessStrategyBufferCount(ring) as usize / 2).max(1) }
        }
    }

    /// The present page.
    fn page(&self) -> Page<'_> {
        // SAFETY: its buffer is pinned until the next `advance`.
        Page { start: unsafe { page_of(self.buffer) }, visible: &self.visible }
    }

    /// The pages of a table that was read into the cache in one go lie in buffers that follow each other, or nearly so: seen where it is guessed to be, a page
    /// need not be looked for in the table of all buffers, which is a wait for memory.
    unsafe fn find(&mut self, block: u32) -> Coming {
        if self.last > 0 {
            // SAFETY: only buffers that there are.
            let guess = (self.last + 1..)
                .take(GUESSES)
                .find(|&guess| unsafe { guess <= pg_sys::NBuffers && holds(guess, (*self.relation).rd_locator, block) });
            if let Some(buffer) = guess {
                return Coming { buffer, pinned: false };
            }
        }
        Coming { buffer: self.pin(block), pinned: true }
    }

    fn pin(&mut self, block: u32) -> pg_sys::Buffer {
        // SAFETY: the scan is open.
        unsafe {
            let (mode, main) = (pg_sys::ReadBufferMode::RBM_NORMAL, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::ReadBufferExtended(self.relation, main, block, mode, (*self.scan).rs_strategy)
        }
    }

    /// Pins the present page, which was seen in this buffer, or where it is by now.
    fn pin_again(&mut self, buffer: pg_sys::Buffer) -> pg_sys::Buffer {
        // SAFETY: the scan is open, and there is such a buffer; the server looks whether it holds the page.
        unsafe {
            let main = pg_sys::ForkNumber::MAIN_FORKNUM;
            if !pg_sys::ReadRecentBuffer((*self.relation).rd_locator, main, self.block, buffer) {
                return self.pin(self.block);
            }
            if (*self.scan).rs_strategy.is_null() {
                used(buffer);
            }
        }
        self.count(|counts| {
            counts.blocks_fetched += 1;
            counts.blocks_hit += 1;
        });
        buffer
    }

    /// Notes which tuples of the pinned page the snapshot sees.
    unsafe fn look(&mut self, buffer: pg_sys::Buffer) {
        self.visible.clear();
        // SAFETY: the page is pinned, and locked while its line pointers and the tuples' headers are looked at.
        unsafe {
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let page = page_of(buffer);
            let header = &*page.cast::<pg_sys::PageHeaderData>();
            // As for the server: a hint of the primary's that a standby's snapshot may not have come to.
            let all = header.pd_flags as u32 & pg_sys::PD_ALL_VISIBLE != 0 && !(*self.snapshot).takenDuringRecovery;
            for (number, pointer) in (1..).zip(line_pointers(page)) {
                if pointer.lp_flags() == pg_sys::LP_NORMAL && (all || self.sees(buffer, number, pointer)) {
                    self.visible.push(number);
                }
            }
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            self.count(|counts| counts.tuples_returned += self.visible.len() as i64);
        }
    }

    /// Adds to the table's statistics, where they are kept.
    fn count(&self, add: impl FnOnce(&mut pg_sys::PgStat_TableCounts)) {
        // SAFETY: the relation is open; its statistics are this backend's own until they are reported.
        unsafe {
            if let Some(status) = (*self.relation).pgstat_info.as_mut() {
                add(&mut status.counts);
            }
        }
    }

    unsafe fn sees(&self, buffer: pg_sys::Buffer, number: u16, pointer: &pg_sys::ItemIdData) -> bool {
        // SAFETY: the tuple of a normal line pointer, in a page that is pinned and locked.
        unsafe {
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pointer.lp_len(),
                t_self: pg_sys::ItemPointerData {
                    ip_blkid: pg_sys::BlockIdData { bi_hi: (self.block >> 16) as u16, bi_lo: self.block as u16 },
                    ip_posid: number,
                },
                t_tableOid: (*self.relation).rd_id,
                t_data: page_of(buffer).add(pointer.lp_off() as usize).cast_mut().cast(),
            };
            pg_sys::HeapTupleSatisfiesVisibility(&mut tuple, self.snapshot, buffer)
        }
    }

    fn end(self) {
        // SAFETY: the scan is open.
        unsafe {
            let ahead = self.coming.iter().filter(|coming| coming.pinned).map(|coming| coming.buffer);
            Some(self.buffer).filter(|&buffer| buffer != 0).into_iter().chain(ahead).for_each(|buffer| pg_sys::ReleaseBuffer(buffer));
            pg_sys::heap_endscan(self.scan.cast());
        }
    }
}

/// Whether the page was in this buffer a moment ago. Nothing keeps it there.
///
/// # Safety
/// There must be such a buffer among the shared ones.
unsafe fn holds(buffer: pg_sys::Buffer, file: pg_sys::RelFileLocator, block: u32) -> bool {
    // SAFETY: the caller's promise; other processes change the words, each of which is read as a whole.
    unsafe {
        let tag = &raw mut (*pg_sys::BufferDescriptors.add(buffer as usize - 1)).bufferdesc.tag;
        let word = |place: *mut u32| AtomicU32::from_ptr(place).load(Ordering::Relaxed);
        word(&raw mut (*tag).blockNum) == block
            && word((&raw mut (*tag).relNumber).cast()) == file.relNumber.to_u32()
            && word((&raw mut (*tag).dbOid).cast()) == file.dbOid.to_u32()
            && word((&raw mut (*tag).spcOid).cast()) == file.spcOid.to_u32()
            && word((&raw mut (*tag).forkNum).cast()) == pg_sys::ForkNumber::MAIN_FORKNUM as u32
    }
}

/// Notes that a pinned buffer was used, as the server's own pinning does: one that never was is the first to be given to another page.
///
/// # Safety
/// The buffer must be a pinned one of the shared ones.
unsafe fn used(buffer: pg_sys::Buffer) {
    use pg_sys::{BM_LOCKED, BM_MAX_USAGE_COUNT, BUF_USAGECOUNT_MASK, BUF_USAGECOUNT_ONE};
    // SAFETY: the caller's promise; the server changes the word atomically as well, and leaves it alone while another has it locked.
    unsafe {
        let state = &raw mut (*pg_sys::BufferDescriptors.add(buffer as usize - 1)).bufferdesc.state.value;
        let state = AtomicU32::from_ptr(state);
        let _ = state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |old| {
            let most = BM_MAX_USAGE_COUNT * BUF_USAGECOUNT_ONE;
            (old & BM_LOCKED == 0 && old & BUF_USAGECOUNT_MASK < most).then_some(old + BUF_USAGECOUNT_ONE)
        });
    }
}

/// The line pointers of a page.
///
/// # Safety
/// The page must be pinned.
unsafe fn line_pointers<'a>(page: *const u8) -> &'a [pg_sys::ItemIdData] {
    // SAFETY: they stand between the header and `pd_lower`; a new page, of zeros, has none.
    unsafe {
        let header = page.cast::<pg_sys::PageHeaderData>();
        let first: *const pg_sys::ItemIdData = (&raw const (*header).pd_linp).cast();
        let bytes = ((*header).pd_lower as usize).saturating_sub(first.cast::<u8>().offset_from(page) as usize);
        core::slice::from_raw_parts(first, bytes / size_of::<pg_sys::ItemIdData>())
    }
}

/// Where the page in a buffer lies (`BufferGetPage`).
///
/// # Safety
/// The buffer must be pinned.
unsafe fn page_of(buffer: pg_sys::Buffer) -> *const u8 {
    // SAFETY: shared buffers are counted from 1, those of the backend alone from −1.
    unsafe {
        if buffer < 0 {
            (*pg_sys::LocalBufferBlockPointers.offset(-buffer as isize - 1)).cast()
        } else {
            pg_sys::BufferBlocks.cast::<u8>().offset((buffer as isize - 1) * pg_sys::BLCKSZ as isize)
        }
    }
}

/// A pinned page.
struct Page<'a> {
    start: *const u8,
    /// Numbers, from 1, of the line pointers whose tuples are seen.
    visible: &'a [pg_sys::OffsetNumber],
}

/// A tuple where it lies.
struct Tuple {
    header: *const pg_sys::HeapTupleHeaderData,
    bytes: usize,
}

impl Page<'_> {
    /// The tuples, the last first: a page is filled from its end.
    fn tuples(&self) -> impl Iterator<Item = Tuple> {
        // SAFETY: the page is pinned.
        let pointers = unsafe { line_pointers(self.start) };
        // SAFETY: the numbers are of normal line pointers, whose tuples lie in the page.
        self.visible.iter().rev().map(move |&number| unsafe {
            let pointer = &pointers[number as usize - 1];
            Tuple { header: self.start.add(pointer.lp_off() as usize).cast(), bytes: pointer.lp_len() as usize }
        })
    }
}

/// What is needed of a column to find the next one.
struct Column {
    /// Bytes, −1 for a varlena, −2 for a C string.
    length: i16,
    alignment: usize,
    by_value: bool,
}

/// Two columns of a table, and what stands before them.
struct Columns {
    descriptor: pg_sys::TupleDesc,
    /// The columns up to the last one wanted.
    before: Vec<Column>,
    /// Places, from 0, of the two.
    wanted: [usize; 2],
}

impl Columns {
    /// # Safety
    /// `descriptor` must be that of a table with columns of these numbers.
    unsafe fn new(descriptor: pg_sys::TupleDesc, numbers: [pg_sys::AttrNumber; 2]) -> Columns {
        let wanted = numbers.map(|number| number as usize - 1);
        // SAFETY: the caller's promise.
        let attributes = unsafe { (*descriptor).attrs.as_slice((*descriptor).natts as usize) };
        let column = |a: &pg_sys::FormData_pg_attribute| Column {
            length: a.attlen,
            alignment: match a.attalign as u8 {
                b'c' => 1,
                b's' => 2,
                b'i' => 4,
                _ => 8,
            },
            by_value: a.attbyval,
        };
        let before = attributes[..=wanted[0].max(wanted[1])].iter().map(column).collect();
        Columns { descriptor, before, wanted }
    }

    /// The two values, `None` for NULL. Those passed by reference lie in the tuple.
    ///
    /// # Safety
    /// `tuple` must be a row of the table, and its page pinned.
    #[inline]
    unsafe fn read(&self, tuple: &Tuple) -> [Option<pg_sys::Datum>; 2] {
        let mut values = [None; 2];
        // SAFETY: a tuple is laid out as htup_details.h and tupmacs.h say.
        unsafe {
            let header = &*tuple.header;
            let stored = (u32::from(header.t_infomask2) & pg_sys::HEAP_NATTS_MASK) as usize;
            let nulls = (u32::from(header.t_infomask) & pg_sys::HEAP_HASNULL != 0).then(|| header.t_bits.as_ptr());
            let mut at = tuple.header.cast::<u8>().add(header.t_hoff as usize);
            let start = at;
            for (n, column) in self.before.iter().enumerate().take(stored) {
                if nulls.is_some_and(|bits| *bits.add(n / 8) & 1 << (n % 8) == 0) {
                    continue;
                }
                at = column.begin(at, start);
                for (value, &wanted) in values.iter_mut().zip(&self.wanted) {
                    if n == wanted {
                        *value = Some(column.datum(at));
                    }
                }
                at = column.end(at);
            }
            for (value, &wanted) in values.iter_mut().zip(&self.wanted) {
                if wanted >= stored {
                    *value = missing(self.descriptor, wanted);
                }
            }
        }
        values
    }
}

/// The value of a column that was added after the row was written.
///
/// # Safety
/// The column must be one of the descriptor's.
#[cold]
unsafe fn missing(descriptor: pg_sys::TupleDesc, place: usize) -> Option<pg_sys::Datum> {
    let mut null = false;
    // SAFETY: the caller's promise.
    let value = unsafe { pg_sys::getmissingattr(descriptor, place as i32 + 1, &mut null) };
    (!null).then_some(value)
}

impl Column {
    /// Where the value begins that comes next after `at`.
    ///
    /// # Safety
    /// `at` must be the end of the value before, in a tuple whose data begin at `start`, which is aligned to 8.
    #[inline]
    unsafe fn begin(&self, at: *const u8, start: *const u8) -> *const u8 {
        // SAFETY: the caller's promise. A varlena with a short header is not aligned; the padding before another is zeros, a short header is not.
        unsafe {
            if self.length == -1 && *at != 0 {
                return at;
            }
            let offset = at.offset_from(start) as usize;
            start.add(offset.next_multiple_of(self.alignment))
        }
    }

    /// # Safety
    /// The column's value must begin at `at`.
    #[inline]
    unsafe fn datum(&self, at: *const u8) -> pg_sys::Datum {
        // SAFETY: the caller's promise; values passed by value have 1, 2, 4 or 8 bytes, and are aligned.
        unsafe {
            match (self.by_value, self.length) {
                (false, _) => pg_sys::Datum::from(at.cast_mut()),
                (true, 1) => pg_sys::Datum::from(*at.cast::<i8>()),
                (true, 2) => pg_sys::Datum::from(*at.cast::<i16>()),
                (true, 4) => pg_sys::Datum::from(*at.cast::<i32>()),
                (true, _) => pg_sys::Datum::from(*at.cast::<i64>()),
            }
        }
    }

    /// # Safety
    /// The column's value must begin at `at`.
    #[inline]
    unsafe fn end(&self, at: *const u8) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe {
            at.add(match self.length {
                -1 => varsize_any(at.cast()),
                -2 => core::ffi::CStr::from_ptr(at.cast()).count_bytes() + 1,
                bytes => bytes as usize,
            })
        }
    }
}
