//! Workers of the server that take a part of a table's pages: a parallel context as the executor's plans and index builds have it, which gives each worker the
//! leader's transaction, snapshot, user and settings, and brings its errors to the leader.
//!
//! Leader and workers take pages from a counter, so that a worker that starts late or is slow has fewer. Each worker sends what it found when there are no more.
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::AtomicU32;
use std::path::Path;

use half::f16;
use pgedge_hostinfo as hostinfo;
use pgedge_similarity::Metric;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::{Blocks, Heap};
use crate::errors::fail;
use crate::similarity::arrays::Flat;
use crate::similarity::id::IdType;
use crate::similarity::state::{Batch, RowElement, State};

/// What is searched, and for what: the same for all processes of a search.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Task {
    pub relation: pg_sys::Oid,
    /// Numbers of its id and embedding columns.
    pub columns: [pg_sys::AttrNumber; 2],
    /// Whether the embeddings are `halfvec`.
    pub half: bool,
    /// The type of the ids, and their collation.
    pub id_type: pg_sys::Oid,
    pub collation: pg_sys::Oid,
    pub metric: Metric,
    pub k: i32,
    pub limit: Option<f32>,
    /// Dimensions and number of the queries.
    pub dim: usize,
    pub queries: usize,
    /// The number of the table's pages.
    pub pages: u32,
}

/// A task in the memory that leader and workers share. The queries follow it.
#[repr(C)]
struct Shared {
    /// [`STAMP`] of the leader, before anything that another library may lay out otherwise.
    stamp: u64,
    /// The leader's, for `pg_stat_activity`.
    query_id: u64,
    /// The next page that nobody has taken.
    next: AtomicU32,
    task: Task,
}

/// Tells libraries apart: a session keeps the one that it began with, a worker has the one that is installed by now. It is made of the version and of the
/// layout of what is shared.
const STAMP: u64 = {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let (mut stamp, mut i) =
        (0xcbf2_9ce4_8422_2325 ^ (size_of::<Shared>() << 8 | core::mem::offset_of!(Task, pages)) as u64, 0);
    while i < version.len() {
        stamp = (stamp ^ version[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    stamp
};

// What is found where in that memory. The server's own keys are far above.
const SHARED: u64 = 1;
const QUEUES: u64 = 2;
const BUFFER_USAGE: u64 = 3;
const WAL_USAGE: u64 = 4;
const QUERY_TEXT: u64 = 5;

/// Bytes of the queue from each worker. It goes through it in parts if it has found more.
const QUEUE: usize = 64 * 1024;

/// What the server itself puts into the memory that is shared, some 200 kB (settings, snapshots, libraries), and room for what others take meanwhile.
const ROOM: usize = 1024 * 1024;

/// Workers that search.
pub struct Team {
    context: *mut pg_sys::ParallelContext,
    queues: Vec<*mut pg_sys::shm_mq_handle>,
    shared: *const Shared,
    buffer_usage: *mut pg_sys::BufferUsage,
    wal_usage: *mut pg_sys::WalUsage,
}

impl Team {
    /// Starts as many of `workers` workers as the server has left, perhaps none; `None` where there is no room for the memory that they would share, which the
    /// server takes for an error. Until [`Team::finish`] nothing may be written: the server calls that
    /// parallel mode. An error ends them with the transaction, or the subtransaction, that it ends.
    pub fn start(workers: i32, task: &Task, queries: &[f32]) -> Option<Team> {
        if !has_room(ROOM + size_of_val(queries) + workers as usize * 2 * QUEUE) {
            return None;
        }
        // SAFETY: the order that access/parallel.h prescribes; room is asked for before it is taken.
        unsafe {
            pg_sys::EnterParallelMode();
            let context =
                pg_sys::CreateParallelContext(c"$libdir/pgedge".as_ptr(), c"pgedge_search_worker".as_ptr(), workers);
            let count = workers as usize;
            let text = pg_sys::debug_query_string;
            let text = if text.is_null() { &[] } else { core::ffi::CStr::from_ptr(text).to_bytes_with_nul() };
            let sizes = [
                size_of::<Shared>() + size_of_val(queries),
                count * QUEUE,
                count * size_of::<pg_sys::BufferUsage>(),
                count * size_of::<pg_sys::WalUsage>(),
                text.len(),
            ];
            for size in sizes {
                // shm_toc_estimate_chunk and shm_toc_estimate_keys
                (*context).estimator.space_for_chunks += size.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
                (*context).estimator.number_of_keys += 1;
            }
            pg_sys::InitializeParallelDSM(context);
            let toc = (*context).toc;
            let place = |key: u64| {
                let place = pg_sys::shm_toc_allocate(toc, sizes[key as usize - 1]);
                pg_sys::shm_toc_insert(toc, key, place);
                place
            };
            let shared: *mut Shared = place(SHARED).cast();
            let query_id = pg_sys::pgstat_get_my_query_id();
            shared.write(Shared { stamp: STAMP, query_id, next: AtomicU32::new(0), task: *task });
            queries_of(shared).copy_from_nonoverlapping(queries.as_ptr(), queries.len());
            let space: *mut u8 = place(QUEUES).cast();
            let (buffer_usage, wal_usage) = (place(BUFFER_USAGE).cast(), place(WAL_USAGE).cast());
            if !text.is_empty() {
                place(QUERY_TEXT).cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
            }
            // Without room for the memory that is shared there are no workers.
            let mut queues = Vec::new();
            for n in 0..(*context).nworkers as usize {
                let queue = pg_sys::shm_mq_create(space.add(n * QUEUE).cast(), QUEUE);
                pg_sys::shm_mq_set_receiver(queue, pg_sys::MyProc);
                queues.push(pg_sys::shm_mq_attach(queue, (*context).seg, null_mut()));
            }
            pg_sys::LaunchParallelWorkers(context);
            for queue in queues.drain((*context).nworkers_launched as usize..) {
                pg_sys::shm_mq_detach(queue);
            }
            for (n, &queue) in queues.iter().enumerate() {
                pg_sys::shm_mq_set_handle(queue, (*(*context).worker.add(n)).bgwhandle);
            }
            Some(Team { context, queues, shared, buffer_usage, wal_usage })
        }
    }

    /// The pages that are left for this process.
    pub fn blocks(&self) -> Blocks<'_> {
        // SAFETY: the memory is there until the team ends.
        unsafe { Blocks::shared(&(*self.shared).next, (*self.shared).task.pages) }
    }

    /// Whether this process has to search: without workers, or if leaders are to take part.
    pub fn needs_leader(&self) -> bool {
        // SAFETY: a setting of this backend.
        self.queues.is_empty() || unsafe { pg_sys::parallel_leader_participation }
    }

    /// Waits for the workers, and gives what each has found to `take`, which may not write. An error of a worker is one of the caller's.
    pub fn finish(self, mut take: impl FnMut(&[u8])) {
        // SAFETY: the context and the queues are those of `start`.
        unsafe {
            for &queue in &self.queues {
                let (mut bytes, mut data) = (0, null_mut());
                if pg_sys::shm_mq_receive(queue, &mut bytes, &mut data, false) != pg_sys::shm_mq_result::SHM_MQ_SUCCESS
                {
                    // If it has told why, this is where it is heard.
                    pg_sys::WaitForParallelWorkersToFinish(self.context);
                    fail(
                        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
                        "a worker of the search ended without a result",
                        "The server's log may say why. max_parallel_workers_per_gather = 0 searches without workers.",
                    );
                }
                take(core::slice::from_raw_parts(data.cast::<u8>(), bytes));
                // This frees its buffer, which lives as long as the whole call else.
                pg_sys::shm_mq_detach(queue);
            }
            pg_sys::WaitForParallelWorkersToFinish(self.context);
            for n in 0..self.queues.len() {
                pg_sys::InstrAccumParallelQuery(self.buffer_usage.add(n), self.wal_usage.add(n));
            }
            pg_sys::DestroyParallelContext(self.context);
            pg_sys::ExitParallelMode();
        }
    }
}

/// Whether a segment of so many bytes can be had: a container's `/dev/shm` is often small. The server's other kinds of memory are not looked at.
fn has_room(bytes: usize) -> bool {
    // SAFETY: a setting of this server.
    let posix = unsafe { pg_sys::dynamic_shared_memory_type } == pg_sys::DSM_IMPL_POSIX as i32;
    !posix || hostinfo::space(Path::new("/dev/shm")).is_none_or(|space| space.free >= bytes as u64)
}

/// Where the queries are.
fn queries_of(shared: *mut Shared) -> *mut f32 {
    shared.wrapping_add(1).cast()
}

/// What a worker runs.
///
/// # Safety
/// Called by the server with the memory that [`Team::start`] filled.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pgedge_search_worker(segment: *mut pg_sys::dsm_segment, toc: *mut pg_sys::shm_toc) {
    // SAFETY: the caller's promise; what a worker uses of the arrays is its own.
    unsafe {
        let worker = pg_sys::ParallelWorkerNumber as usize;
        let text = pg_sys::shm_toc_lookup(toc, QUERY_TEXT, true);
        pg_sys::debug_query_string = text.cast();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.cast());
        let find = |key| pg_sys::shm_toc_lookup(toc, key, false);
        let queue = pg_sys::shm_mq_attach(own_queue(find(QUEUES), worker), segment, null_mut());
        let shared: *mut Shared = find(SHARED).cast();
        if (*shared).stamp != STAMP {
            fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the library of pgedge was replaced while this session was open",
                "Connect again, or SET max_parallel_workers_per_gather = 0.",
            );
        }
        pg_sys::pgstat_report_query_id((*shared).query_id, false);
        pg_sys::InstrStartParallelQuery();
        let task = (*shared).task;
        let values = core::slice::from_raw_parts(queries_of(shared), task.dim * task.queries);
        let blocks = Blocks::shared(&(*shared).next, task.pages);
        let bytes = if task.half { task.search::<f16>(values, blocks) } else { task.search::<f32>(values, blocks) };
        pg_sys::InstrEndParallelQuery(
            find(BUFFER_USAGE).cast::<pg_sys::BufferUsage>().add(worker),
            find(WAL_USAGE).cast::<pg_sys::WalUsage>().add(worker),
        );
        // MaxAllocSize
        if bytes.len() > 0x3fff_ffff {
            fail(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("the rows that a worker found take {} bytes, more than it can send", bytes.len()),
                "Lower k, give fewer queries at a time, or SET max_parallel_workers_per_gather = 0.",
            );
        }
        // A leader that has gone needs nothing.
        pg_sys::shm_mq_send(queue, bytes.len(), bytes.as_ptr().cast(), false, true);
        pg_sys::shm_mq_detach(queue);
    }
}

/// The queue into which worker `worker` of those with these queues sends.
///
/// # Safety
/// The queues must be there, and nobody else sends into this one.
unsafe fn own_queue(queues: *mut c_void, worker: usize) -> *mut pg_sys::shm_mq {
    // SAFETY: the caller's promise.
    unsafe {
        let queue = queues.cast::<u8>().add(worker * QUEUE).cast();
        pg_sys::shm_mq_set_sender(queue, pg_sys::MyProc);
        queue
    }
}

impl Task {
    /// The state with which each process begins.
    pub fn begin<T: RowElement>(&self, values: &[f32], ids: IdType) -> State {
        let batch = Batch::new(self.metric, Flat::plain(self.dim, values.to_vec()));
        State::new::<T>(&batch, ids, self.k, self.limit, true)
    }

    /// A worker's part: what it found.
    ///
    /// # Safety
    /// The task must be one that the leader has found good, and whose relation it has locked.
    unsafe fn search<T: RowElement>(&self, values: &[f32], blocks: Blocks<'_>) -> Vec<u8> {
        let mut state = self.begin::<T>(values, IdType::new(self.id_type, self.collation));
        // SAFETY: the caller's promise.
        let heap = unsafe { Heap::reopen(self.relation, self.columns) };
        heap.search::<T>(&mut state, blocks);
        heap.close();
        state.serialise()
    }
}
