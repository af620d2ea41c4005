//! A plain table, read page by page and without the executor.
//!
//! A scan by the executor takes a row at a time through the scan, the projection and the aggregate, in the order of the line pointers, which is that
//! of falling addresses. That cost more than reading the memory. Here a page is pinned, pruned, and its tuples are looked at under its lock with the server's
//! own visibility rules, as the server's sequential scan does it (`heapgetpage`); those that the snapshot sees are then taken in the order in which they lie.
//! Pages are looked for a little ahead, so that their memory can be asked for while other rows are scored. Workers of the server take a part of the pages where
//! that is sooner ([`workers`]).
//!
//! What the executor would do beyond that is left to it: row-level security, children and partitions, views, conditions, other access methods,
//! serializable transactions, snapshots that may be too old, and extensions that watch what is read ([`Heap::open`]).
use pgedge_similarity::Ahead;
use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys;

use super::id::IdType;
use super::relation::Source;
use super::state::{RowElement, State};
use columns::Columns;
pub use scan::Blocks;
use scan::{Page, Scan};

mod columns;
mod scan;
pub mod workers;

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
        // SAFETY: `source` has locked the relation and found its columns.
        unsafe {
            let relation = pg_sys::table_open(source.oid, pg_sys::AccessShareLock as i32);
            if !may_be_read(relation) {
                pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
                return None;
            }
            Some(Heap::of(relation, [source.id_number, source.embedding_number]))
        }
    }

    /// A table that another process of this search has opened.
    ///
    /// # Safety
    /// It must be one that [`Heap::open`] opens, with these columns, an id and an embedding.
    unsafe fn reopen(table: pg_sys::Oid, columns: [pg_sys::AttrNumber; 2]) -> Heap {
        // SAFETY: the caller's promise.
        unsafe { Heap::of(pg_sys::table_open(table, pg_sys::AccessShareLock as i32), columns) }
    }

    /// # Safety
    /// The relation must be open, and have these columns.
    unsafe fn of(relation: pg_sys::Relation, columns: [pg_sys::AttrNumber; 2]) -> Heap {
        // SAFETY: the caller's promise; a descriptor lives as long as its relation is open.
        Heap { relation, columns: unsafe { Columns::new((*relation).rd_att, columns) } }
    }

    /// Workers to search with for so many queries, perhaps none; `None` where a plan is to do it, because the caller wants to see one that is parallel.
    ///
    /// An estimate decides, in pages read from the cache by this process. A tile of 64 queries takes about as long as reading its rows, and starting workers as
    /// 9,000 pages (twelve milliseconds), where `parallel_setup_cost` is what it is by default. A worker counts as half a process: it waits for the same memory, and
    /// often shares its core. (Measured on Zen 3; it decides speed, not results.)
    pub fn workers(&self, queries: usize, ids: &IdType) -> Option<i32> {
        let pages = self.pages();
        let workers = self.most_workers(pages);
        // SAFETY: settings of this backend, and its state.
        let (start, wanted, busy) = unsafe {
            (pg_sys::parallel_setup_cost * 9.0, pg_sys::debug_parallel_query != 0, pg_sys::IsInParallelMode())
        };
        if workers == 0 || busy || !ids.is_parallel_safe() {
            return Some(0);
        }
        let work = f64::from(pages) * (1.0 + queries as f64 / 64.0);
        let sooner = start + work / (1.0 + f64::from(workers) / 2.0) < work;
        (!wanted).then_some(if sooner { workers } else { 0 })
    }

    /// Workers that the planner would ask for (`compute_parallel_worker`), no more than there are further processors.
    fn most_workers(&self, pages: u32) -> i32 {
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

    /// The number of its pages by now.
    pub fn pages(&self) -> u32 {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Gives every row of `blocks` that the snapshot of the calling statement sees, and that has an embedding, to `state`.
    pub fn search<T: RowElement>(&self, state: &mut State, blocks: Blocks<'_>) {
        // SAFETY: an active snapshot is there while a function runs, and stays until it ends.
        let mut scan = unsafe { Scan::begin(self.relation, pg_sys::GetActiveSnapshot(), blocks) };
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
            // An unlogged table is empty on a standby, and has no file; the server says so.
            && (class.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT || !pg_sys::RecoveryInProgress())
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

/// Pages to be ahead at least.
const SHORT: usize = 3;

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
