//! The aggregate `top_k` and its private twin `_top_k`, which gives the state's bytes to `batch_search`.
//!
//! The functions are written by hand, because an aggregate with `internal` state made by pgrx cannot run in parallel. They cost a few
//! nanoseconds a row: the queries are read once a group, an embedding that lies in the row is read where it lies, an id is copied only into the tile.

use std::rc::Rc;

use half::f16;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arrays::Flat;
use super::call::{Call, sql_function};
use super::id::{Id, IdType};
use super::prefetch::Prefetch;
use super::state::{Batch, RowElement, State};
use super::{limit_of, metric_named, positive_k};
use crate::errors::fail;

// Arguments of the transition function: state, id, embedding, queries, k, metric, min_similarity.
const ID: usize = 1;
const EMBEDDING: usize = 2;
const QUERIES: usize = 3;
const K: usize = 4;
const METRIC: usize = 5;
const LIMIT: usize = 6;

/// What a call site (`fn_extra`) keeps from group to group: the packed queries, which groups share.
struct Site {
    batch: Rc<Batch>,
    /// Whether the arguments after the embedding are the same for every row by their form.
    constant: bool,
}

/// A state in an aggregate's memory.
struct Group {
    state: State,
    /// The queries that further rows must come with, where their form does not make sure of it.
    check: Option<Rc<Batch>>,
    prefetch: Prefetch,
}

impl Group {
    /// # Safety
    /// `datum` must come from [`Group::keep`], in the same aggregate.
    unsafe fn of<'a>(datum: pg_sys::Datum) -> &'a mut Group {
        // SAFETY: the caller's promise; PostgreSQL calls an aggregate's functions one after the other.
        unsafe { &mut *datum.cast_mut_ptr::<Group>() }
    }

    /// Puts the group where it lives until `context` is reset.
    fn keep(self, context: pg_sys::MemoryContext) -> pg_sys::Datum {
        pg_sys::Datum::from(pgrx::PgMemoryContexts::For(context).leak_and_drop_on_delete(self))
    }
}

fn top_k_trans<T: RowElement>(call: &mut Call) -> pg_sys::Datum {
    let state = call.arg(0);
    let Some(embedding) = call.arg(EMBEDDING) else {
        return state.unwrap_or_else(|| call.null());
    };
    let Some(id) = call.arg(ID) else { super::null_id() };
    let state = state.unwrap_or_else(|| start::<T>(call));
    // SAFETY: the state is ours; the arguments have the declared types.
    unsafe {
        let group = Group::of(state);
        if let Some(batch) = &group.check {
            same_arguments(call, &group.state, batch);
        }
        if group.state.places.is_empty() {
            return state; // no queries, in no number of dimensions
        }
        let Group { state, prefetch, .. } = group;
        state.row(id, embedding, |state, row: Option<&[T]>| {
            let Some(row) = row else { return state.waiting.note(embedding) };
            let (at, bytes) = (row.as_ptr().cast(), size_of_val(row));
            match state.ahead() {
                Some((ahead, tile)) => prefetch.note_for(at, bytes, ahead, tile),
                None => prefetch.note(at, bytes),
            }
        });
    }
    state
}

struct Arguments {
    metric: pgedge_similarity::Metric,
    k: i32,
    limit: Option<f32>,
    queries: Flat,
}

fn arguments(call: &Call) -> Arguments {
    // SAFETY: the declared types: int, text, real, vector[].
    unsafe {
        let k: i32 = call.need(K, "k");
        positive_k(k);
        let metric: &str = call.need(METRIC, "metric");
        let limit = limit_of(call.get(LIMIT));
        let queries = call
            .arg(QUERIES)
            .map_or(Flat { dim: 0, values: Vec::new(), places: Vec::new(), len: 0 }, |array| Flat::read::<f32>(array));
        Arguments { metric: metric_named(metric), k, limit, queries }
    }
}

/// The state of a new group.
fn start<T: RowElement>(call: &Call) -> pg_sys::Datum {
    let context = call.aggregate_context();
    let Arguments { metric, k, limit, queries } = arguments(call);
    let ids = IdType::new(call.type_of(ID), call.collation());
    // SAFETY: fn_extra is this function's own; what it points to lives as long as fn_mcxt.
    unsafe {
        let info = (*call.raw()).flinfo;
        let mut site = (*info).fn_extra.cast::<Site>();
        if site.is_null() {
            let new = Site { constant: constant_arguments(call), batch: Rc::new(Batch::new(metric, queries)) };
            site = pgrx::PgMemoryContexts::For((*info).fn_mcxt).leak_and_drop_on_delete(new);
            (*info).fn_extra = site.cast();
        } else if !(*site).batch.is(metric, &queries) {
            (*site).batch = Rc::new(Batch::new(metric, queries));
        }
        let state = State::new::<T>(&(*site).batch, ids, k, limit, is_asked_again(call));
        let check = (!(*site).constant).then(|| Rc::clone(&(*site).batch));
        Group { state, check, prefetch: Prefetch::default() }.keep(context)
    }
}

/// Whether this is `_top_k`, whose caller asks again for the queries that it gave up: the one that gives bytea.
fn is_asked_again(call: &Call) -> bool {
    // SAFETY: called in an aggregate.
    unsafe {
        let aggref = pg_sys::AggGetAggref(call.raw());
        !aggref.is_null() && pg_sys::get_func_rettype((*aggref).aggfnoid) == pg_sys::BYTEAOID
    }
}

/// Whether queries, k, metric and min_similarity cannot change within a group: nothing in them depends on the row or on chance.
fn constant_arguments(call: &Call) -> bool {
    // SAFETY: called in an aggregate, whose expression lives as long as the plan.
    unsafe {
        let aggref = pg_sys::AggGetAggref(call.raw());
        if aggref.is_null() {
            return false;
        }
        pgrx::PgList::<pg_sys::TargetEntry>::from_pg((*aggref).args).iter_ptr().skip(QUERIES - 1).all(|entry| {
            let node = (*entry).expr.cast();
            !pg_sys::contain_var_clause(node) && !pg_sys::contain_volatile_functions(node)
        })
    }
}

/// Refuses a row that asks for something else than the first row of its group (22023).
fn same_arguments(call: &Call, state: &State, batch: &Batch) {
    let Arguments { metric, k, limit, queries } = arguments(call);
    if state.k != k || state.limit != limit || !batch.is(metric, &queries) {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "queries, k, metric and min_similarity differ between the rows of a group",
            "They must be the same for all rows: give them as parameters, constants or scalar sub-selects, or group by them.",
        );
    }
}

fn top_k_combine(call: &mut Call) -> pg_sys::Datum {
    let context = call.aggregate_context();
    // SAFETY: both are states of this aggregate.
    unsafe {
        match (call.arg(0), call.arg(1)) {
            (None, None) => call.null(),
            (Some(state), None) => state,
            (None, Some(other)) => {
                let other = Group::of(other);
                Group { state: other.state.take(), check: None, prefetch: Prefetch::default() }.keep(context)
            }
            (Some(state), Some(other)) => {
                Group::of(state).state.merge(&mut Group::of(other).state);
                state
            }
        }
    }
}

/// The state as `bytea`: `serialfunc`, and the final function of `_top_k`.
fn top_k_bytes(call: &mut Call) -> pg_sys::Datum {
    call.aggregate_context();
    let Some(state) = call.arg(0) else { return call.null() };
    // SAFETY: a state of this aggregate.
    let bytes = unsafe { Group::of(state) }.state.serialise();
    // MaxAllocSize, less the header.
    if bytes.len() > 0x3fff_fff0 {
        fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("the rows found take {} bytes, more than a value can have", bytes.len()),
            "Lower k, or give fewer queries at a time.",
        );
    }
    // SAFETY: the length was looked at.
    unsafe { bytea(&bytes) }
}

/// Bytes between two calls of the interrupt check: some tenths of a millisecond, fresh memory included.
const COPIED: usize = 1 << 20;

/// A `bytea` with these bytes. It may be hundreds of megabytes, so that it can be cancelled.
///
/// # Safety
/// There must be fewer bytes than an allocation may have.
unsafe fn bytea(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: the allocation has room for the header and the bytes.
    unsafe {
        let datum: *mut u8 = pg_sys::palloc(bytes.len() + pg_sys::VARHDRSZ).cast();
        pgrx::varlena::set_varsize_4b(datum.cast(), (bytes.len() + pg_sys::VARHDRSZ) as i32);
        let mut to = datum.add(pg_sys::VARHDRSZ);
        for some in bytes.chunks(COPIED) {
            pgrx::check_for_interrupts!();
            to.copy_from_nonoverlapping(some.as_ptr(), some.len());
            to = to.add(some.len());
        }
        pg_sys::Datum::from(datum)
    }
}

fn top_k_deserial(call: &mut Call) -> pg_sys::Datum {
    call.aggregate_context();
    // SAFETY: declared bytea.
    let Some(bytes) = (unsafe { call.get::<&[u8]>(0) }) else { return call.null() };
    // The state goes with the row it came in; combining takes it over.
    // SAFETY: a context is always current.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    Group { state: State::deserialise(bytes), check: None, prefetch: Prefetch::default() }.keep(context)
}

/// All rows found, as an array of `pgedge.hit`.
fn top_k_final(call: &mut Call) -> pg_sys::Datum {
    // SAFETY: the frame's own function; an array type whose elements are of a composite type of (int, int, text, real).
    unsafe {
        let element = pg_sys::get_element_type(pg_sys::get_fn_expr_rettype((*call.raw()).flinfo));
        let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(element, -1);
        let mut array = Tuples::new(element);
        if let Some(state) = call.arg(0) {
            let state = &mut Group::of(state).state;
            let mut printer = state.ids.printer();
            let mut scratch = pgrx::PgMemoryContexts::new("pgedge hits");
            state.drain(|place, found| {
                for (n, some) in found.chunks(HITS).enumerate() {
                    pgrx::check_for_interrupts!();
                    scratch.switch_to(|_| {
                        for (rank, hit) in (n * HITS..).zip(some) {
                            let mut values = hit_columns(place, rank, hit, printer.text(&hit.id));
                            let mut nulls = [false; 4];
                            array.push(pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr()));
                        }
                    });
                    scratch.reset();
                }
            });
        }
        array.finish()
    }
}

/// Hits whose tuples are made between two calls of the interrupt check, in memory that is then used again.
const HITS: usize = 1024;

/// An array of composite values that grows where it lies. The server's own function takes values that all exist already, so twice the memory, and
/// copies hundreds of megabytes of them without a look at interrupts.
struct Tuples {
    element: pg_sys::Oid,
    context: pg_sys::MemoryContext,
    /// The array, its header included; NULL before the first element.
    array: *mut u8,
    room: usize,
    bytes: usize,
    len: usize,
}

impl Tuples {
    /// Header, one dimension, its lower bound: what precedes the elements of an array without NULLs (`ARR_OVERHEAD_NONULLS(1)`).
    const HEAD: usize = (size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>()).next_multiple_of(8);
    /// What an allocation may have (`MaxAllocSize`).
    const MOST: usize = 0x3fff_ffff;

    /// An empty array in the current memory context.
    ///
    /// # Safety
    /// `element` must be a composite type.
    unsafe fn new(element: pg_sys::Oid) -> Tuples {
        // SAFETY: a context is always current.
        let context = unsafe { pg_sys::CurrentMemoryContext };
        Tuples { element, context, array: core::ptr::null_mut(), room: 0, bytes: Self::HEAD, len: 0 }
    }

    /// # Safety
    /// `tuple` must be of the element type, made by `heap_form_tuple`, whose tuples are composite values too.
    unsafe fn push(&mut self, tuple: pg_sys::HeapTuple) {
        // SAFETY: the caller's promise; `reserve` makes room for the tuple and what aligns the next one.
        unsafe {
            let (data, bytes) = ((*tuple).t_data.cast::<u8>(), (*tuple).t_len as usize);
            let aligned = bytes.next_multiple_of(8);
            self.reserve(aligned);
            let to = self.array.add(self.bytes);
            to.copy_from_nonoverlapping(data, bytes);
            to.add(bytes).write_bytes(0, aligned - bytes);
            self.bytes += aligned;
            self.len += 1;
        }
    }

    /// Room for so many more bytes, or an ERROR (54000).
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes + more;
        if needed <= self.room {
            return;
        }
        if needed > Self::MOST {
            fail(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the result of top_k is larger than 1 GB",
                "Lower k, give fewer queries at a time, or use pgedge.batch_search, whose result has no such limit.",
            );
        }
        self.room = needed.max(self.room * 2).clamp(1024, Self::MOST);
        // SAFETY: `array` is NULL or was allocated here. What is large grows by being moved in the address space, not copied.
        self.array = unsafe {
            if self.array.is_null() {
                pg_sys::MemoryContextAlloc(self.context, self.room).cast()
            } else {
                pg_sys::repalloc(self.array.cast(), self.room).cast()
            }
        };
    }

    fn finish(self) -> pg_sys::Datum {
        // SAFETY: an array of one dimension is laid out as utils/array.h says; `HEAD` bytes of room are for what is written here.
        unsafe {
            if self.len == 0 {
                return pg_sys::Datum::from(pg_sys::construct_empty_array(self.element));
            }
            self.array.write_bytes(0, Self::HEAD);
            pgrx::varlena::set_varsize_4b(self.array.cast(), self.bytes as i32);
            let header = &mut *self.array.cast::<pg_sys::ArrayType>();
            (header.ndim, header.elemtype) = (1, self.element);
            let shape: *mut i32 = self.array.add(size_of::<pg_sys::ArrayType>()).cast();
            (*shape, *shape.add(1)) = (self.len as i32, 1);
            pg_sys::Datum::from(self.array)
        }
    }
}

/// query_no, rank, id, similarity.
pub fn hit_columns(place: u32, rank: usize, hit: &pgedge_similarity::Hit<Id>, id: pg_sys::Datum) -> [pg_sys::Datum; 4] {
    let score = hit.score.into_datum().expect("not NULL");
    [pg_sys::Datum::from(place as i32 + 1), pg_sys::Datum::from(rank as i32 + 1), id, score]
}

sql_function!(pgedge_top_k_trans, pg_finfo_pgedge_top_k_trans, top_k_trans::<f32>);
sql_function!(pgedge_top_k_trans_half, pg_finfo_pgedge_top_k_trans_half, top_k_trans::<f16>);
sql_function!(pgedge_top_k_combine, pg_finfo_pgedge_top_k_combine, top_k_combine);
sql_function!(pgedge_top_k_bytes, pg_finfo_pgedge_top_k_bytes, top_k_bytes);
sql_function!(pgedge_top_k_deserial, pg_finfo_pgedge_top_k_deserial, top_k_deserial);
sql_function!(pgedge_top_k_final, pg_finfo_pgedge_top_k_final, top_k_final);
