//! The pages of a table one after another, and the tuples of each that a snapshot sees.
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::VecDeque;

use pgrx::pg_sys;

/// Buffers that are tried after that of the last page.
const GUESSES: usize = 3;

/// Which pages are read: all up to `end`, or what other processes leave of them.
pub struct Blocks<'a> {
    next: u32,
    until: u32,
    end: u32,
    shared: Option<&'a AtomicU32>,
}

/// Pages that a process takes from those that it shares at a time. They are asked for a tile ahead, so it can be left with as many and a tile more at the end.
const CHUNK: u32 = 32;

impl<'a> Blocks<'a> {
    /// Those before `end`.
    pub fn all(end: u32) -> Blocks<'a> {
        Blocks { next: 0, until: end, end, shared: None }
    }

    /// Those before `end` that nobody else takes from the counter, which begins with 0.
    pub fn shared(counter: &'a AtomicU32, end: u32) -> Blocks<'a> {
        Blocks { next: 0, until: 0, end, shared: Some(counter) }
    }
}

impl Iterator for Blocks<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.next == self.until {
            let counter = self.shared?;
            // Each process takes at most one chunk beyond the end, so the counter cannot wrap: no table has so many pages.
            if counter.load(Ordering::Relaxed) >= self.end {
                return None;
            }
            self.next = counter.fetch_add(CHUNK, Ordering::Relaxed).min(self.end);
            self.until = self.end.min(self.next.saturating_add(CHUNK));
            if self.next == self.until {
                return None;
            }
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// A sequential scan: begun as the server begins one, which chooses the ring of buffers and counts the scan, and then read page by page. It is known of
/// some pages ahead where they lie.
pub struct Scan<'a> {
    scan: pg_sys::HeapScanDesc,
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    /// The present page and its buffer, 0 when there is none.
    block: u32,
    buffer: pg_sys::Buffer,
    blocks: Blocks<'a>,
    /// The pages that come next, and the buffer of the last of them.
    coming: VecDeque<Coming>,
    last: pg_sys::Buffer,
    /// Pages to be ahead.
    pub lead: usize,
    /// Numbers, from 1, of the line pointers of the present page whose tuples are seen.
    visible: Vec<pg_sys::OffsetNumber>,
}

/// A page that comes next, in a buffer where it was seen or, where that was not guessed, is pinned: the server looks for a pin among eight, and for more
/// in a table.
struct Coming {
    block: u32,
    buffer: pg_sys::Buffer,
    pinned: bool,
}

impl<'a> Scan<'a> {
    /// # Safety
    /// The relation must be open, and the snapshot good until [`Scan::end`].
    pub unsafe fn begin(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot, blocks: Blocks<'a>) -> Scan<'a> {
        use pg_sys::ScanOptions::*;
        let flags = SO_TYPE_SEQSCAN | SO_ALLOW_STRAT | SO_ALLOW_PAGEMODE;
        // SAFETY: the caller's promise; no keys, and no parallel scan.
        let scan = unsafe { pg_sys::heap_beginscan(relation, snapshot, 0, null_mut(), null_mut(), flags).cast() };
        let (coming, visible) = (VecDeque::new(), Vec::new());
        Scan { scan, relation, snapshot, block: 0, buffer: 0, blocks, coming, last: 0, lead: 0, visible }
    }

    /// Goes on to the next page, `false` at the end. `told` hears where the pages lie that come next.
    pub fn advance(&mut self, mut told: impl FnMut(*const u8)) -> bool {
        pgrx::check_for_interrupts!();
        // SAFETY: the scan is open, and the buffers were pinned here.
        unsafe {
            if self.buffer != 0 {
                pg_sys::ReleaseBuffer(core::mem::take(&mut self.buffer));
            }
            while self.coming.len() <= self.lead {
                let Some(block) = self.blocks.next() else { break };
                let coming = self.find(block);
                self.last = coming.buffer;
                told(page_of(coming.buffer));
                self.coming.push_back(coming);
            }
            let Some(coming) = self.coming.pop_front() else { return false };
            self.block = coming.block;
            self.buffer = if coming.pinned { coming.buffer } else { self.pin_again(coming.buffer) };
            if (*page_of(self.buffer).cast::<pg_sys::PageHeaderData>()).pd_prune_xid != pg_sys::InvalidTransactionId {
                pg_sys::heap_page_prune_opt(self.relation, self.buffer);
            }
            self.look(self.buffer);
            true
        }
    }

    /// Pages that may be pinned ahead: a buffer of the ring that is still pinned when its turn comes is replaced by one from the cache.
    pub fn most(&self) -> usize {
        // SAFETY: the scan is open.
        unsafe {
            let ring = (*self.scan).rs_strategy;
            if ring.is_null() { usize::MAX } else { (pg_sys::GetAccessStrategyBufferCount(ring) as usize / 2).max(1) }
        }
    }

    /// The present page.
    pub fn page(&self) -> Page<'_> {
        // SAFETY: its buffer is pinned until the next `advance`.
        Page { start: unsafe { page_of(self.buffer) }, visible: &self.visible }
    }

    /// The pages of a table that was read into the cache in one go lie in buffers that follow each other, or nearly so: seen where it is guessed to be, a page
    /// need not be looked for in the table of all buffers, which is a wait for memory.
    unsafe fn find(&mut self, block: u32) -> Coming {
        if self.last > 0 {
            // SAFETY: only buffers that there are.
            let guess = (self.last + 1..).take(GUESSES).find(|&guess| unsafe {
                guess <= pg_sys::NBuffers && holds(guess, (*self.relation).rd_locator, block)
            });
            if let Some(buffer) = guess {
                return Coming { block, buffer, pinned: false };
            }
        }
        Coming { block, buffer: self.pin(block), pinned: true }
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

    pub fn end(self) {
        // SAFETY: the scan is open.
        unsafe {
            let ahead = self.coming.iter().filter(|coming| coming.pinned).map(|coming| coming.buffer);
            for buffer in ahead.chain((self.buffer != 0).then_some(self.buffer)) {
                pg_sys::ReleaseBuffer(buffer);
            }
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
pub struct Page<'a> {
    start: *const u8,
    /// Numbers, from 1, of the line pointers whose tuples are seen.
    visible: &'a [pg_sys::OffsetNumber],
}

/// A tuple where it lies.
pub struct Tuple {
    pub header: *const pg_sys::HeapTupleHeaderData,
    pub bytes: usize,
}

impl Page<'_> {
    /// The tuples, the last first: a page is filled from its end.
    pub fn tuples(&self) -> impl Iterator<Item = Tuple> {
        // SAFETY: the page is pinned.
        let pointers = unsafe { line_pointers(self.start) };
        // SAFETY: the numbers are of normal line pointers, whose tuples lie in the page.
        self.visible.iter().rev().map(move |&number| unsafe {
            let pointer = &pointers[number as usize - 1];
            Tuple { header: self.start.add(pointer.lp_off() as usize).cast(), bytes: pointer.lp_len() as usize }
        })
    }
}
