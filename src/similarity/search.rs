//! `batch_search`: a relation searched for a block of queries at a time.
#[cfg(feature = "pg16")]
use half::f16;
use pgedge_similarity::{Hit, Simd, queries_for_budget};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::aggregate::hit_columns;
use super::arrays::{Flat, vector_array};
use super::call::{Call, Rows, sql_function};
#[cfg(feature = "pg16")]
use super::heap::workers::{Task, Team};
#[cfg(feature = "pg16")]
use super::heap::{Blocks, Heap};
use super::id::{Id, IdType};
use super::relation::{Source, VectorTypes, Wanted};
use super::spi::{Statement, free};
#[cfg(feature = "pg16")]
use super::state::RowElement;
use super::state::State;
use super::{limit_of, metric_named, positive_k};

/// What a search asks for, beside the queries.
pub struct Question<'a> {
    /// Rows of each query.
    pub k: i32,
    /// The metric's name, checked.
    pub metric: &'a str,
    /// The worst similarity to accept.
    pub limit: Option<f32>,
    /// The value of `source` to keep to.
    pub source: Option<&'a str>,
}

impl Question<'_> {
    /// Queries that a pass can take within a part of work_mem: at least 1.
    pub fn most_queries(&self, ids: &IdType, dim: usize, part: usize) -> usize {
        // SAFETY: a setting of this backend, in kB. A pass's result travels as one value, so it stays far below 1 GB.
        let budget = (unsafe { pg_sys::work_mem } as usize).saturating_mul(1024).min(256 << 20) / part;
        // What an id owns outside its entry counts as more entries.
        let entry = 32;
        let k = (self.k as usize).saturating_mul(entry + ids.usual_heap_bytes()) / entry;
        queries_for_budget::<Id>(Simd::detect(), dim, k, budget).max(1)
    }

    /// Queries of each pass: within work_mem, and of about one size.
    pub fn block(&self, ids: &IdType, dim: usize, queries: usize) -> usize {
        let passes = queries.div_ceil(self.most_queries(ids, dim, 1)).max(1);
        queries.div_ceil(passes).max(1)
    }

    /// Searches `source` for the queries, `most` at a time, fewer where the rows found turn out to need more room. `take` gets the number of
    /// each query, from 0, and its rows. Needs an SPI connection.
    pub fn ask_all(
        &self,
        source: &Source,
        types: &VectorTypes,
        values: &[f32],
        dim: usize,
        mut most: usize,
        mut take: impl FnMut(usize, Vec<Hit<Id>>),
    ) {
        let (mut from, count) = (0, values.len() / dim);
        while from < count {
            let to = count.min(from + most);
            let queries = Block { values: &values[from * dim..to * dim], dim, array: None };
            let Some(mut state) = self.ask(source, types, &queries) else { return };
            let complete = state.complete();
            most = most.min(complete);
            state.drain(|place, found| take(from + place as usize, found));
            from += complete;
        }
    }

    /// Searches `source` for a block of queries, or for as many of the first as there is room for ([`State::complete`]). `None` when no row has an
    /// embedding. Needs an SPI connection.
    fn ask(&self, source: &Source, types: &VectorTypes, queries: &Block<'_>) -> Option<State> {
        #[cfg(feature = "pg16")]
        if let Some(state) = self.ask_heap(source, queries) {
            return Some(state);
        }
        let array = queries.array.unwrap_or_else(|| vector_array(queries.values, queries.dim, types.vector));
        let state = self.ask_executor(source, types, array);
        if queries.array.is_none() {
            // SAFETY: made above.
            unsafe { pg_sys::pfree(array.cast_mut_ptr()) };
        }
        state
    }

    /// Page by page, by this process and perhaps workers; `None` when the executor must do it.
    #[cfg(feature = "pg16")]
    fn ask_heap(&self, source: &Source, queries: &Block<'_>) -> Option<State> {
        let heap = Heap::open(source)?;
        let state = heap.workers(queries.count(), &source.id_type).map(|workers| {
            let task = Task {
                relation: source.oid,
                columns: [source.id_number, source.embedding_number],
                half: source.half,
                id_type: source.id_type.oid,
                collation: source.id_type.collation,
                metric: metric_named(self.metric),
                k: self.k,
                limit: self.limit,
                dim: queries.dim,
                queries: queries.count(),
                pages: heap.pages(),
            };
            let search = if source.half { Self::search::<f16> } else { Self::search::<f32> };
            search(&heap, workers, &task, queries.values, source.id_type)
        });
        heap.close();
        state
    }

    #[cfg(feature = "pg16")]
    fn search<T: RowElement>(heap: &Heap, workers: i32, task: &Task, values: &[f32], ids: IdType) -> State {
        // The workers start while the queries are packed.
        let team = if workers > 0 { Team::start(workers, task, values) } else { None };
        let mut state = task.begin::<T>(values, ids);
        match team {
            None => heap.search::<T>(&mut state, Blocks::all(task.pages)),
            Some(team) => {
                if team.needs_leader() {
                    heap.search::<T>(&mut state, team.blocks());
                }
                team.finish(|found| state.merge(&mut State::deserialise(found)));
            }
        }
        state
    }

    /// By a plan of the server's, which may be parallel.
    fn ask_executor(&self, source: &Source, types: &VectorTypes, queries: pg_sys::Datum) -> Option<State> {
        let query = format!(
            "SELECT pgedge._top_k(t.{}, t.{}, $1, $2, $3, $4){}",
            source.id,
            source.embedding,
            source.scanned_part(5)
        );
        let mut params = vec![
            (types.array, Some(queries)),
            (pg_sys::INT4OID, self.k.into_datum()),
            (pg_sys::TEXTOID, self.metric.into_datum()),
            (pg_sys::FLOAT4OID, self.limit.into_datum()),
        ];
        if let Some(source) = self.source {
            params.push((pg_sys::TEXTOID, source.into_datum()));
        }
        let bytes = Statement::new(&query, &params).value()?;
        // SAFETY: `_top_k` gives bytea.
        let bytes = unsafe { <&[u8]>::from_datum(bytes, false) }?;
        let state = State::deserialise(bytes);
        free();
        Some(state)
    }
}

/// Queries of one pass.
struct Block<'a> {
    /// The vectors, one after the other.
    values: &'a [f32],
    dim: usize,
    /// The same as a `vector[]`, where the caller gave one.
    array: Option<pg_sys::Datum>,
}

#[cfg(feature = "pg16")]
impl Block<'_> {
    fn count(&self) -> usize {
        self.values.len() / self.dim
    }
}

/// queries, k, metric, min_similarity, source, relation, embedding_column, id_column
fn batch_search(call: &mut Call) -> pg_sys::Datum {
    let mut rows = Rows::start(call);
    // SAFETY: the types that sql/similarity.sql declares.
    unsafe {
        let k: i32 = call.need(1, "k");
        positive_k(k);
        let metric: &str = call.need(2, "metric");
        metric_named(metric);
        let question = Question { k, metric, limit: limit_of(call.get(3)), source: call.get(4) };
        let wanted = Wanted {
            relation: call.get(5),
            embedding: &call.need_name(6, "embedding_column"),
            id: &call.need_name(7, "id_column"),
            by_source: question.source.is_some(),
        };
        let queries = call.arg(0).map(|array| (array, Flat::read::<f32>(array)));
        Spi::connect(|_| {
            let types = VectorTypes::find();
            let source = Source::find(&wanted, &types);
            let Some((array, flat)) = queries else { return };
            if flat.count() > 0 {
                search(&question, &source, &types, array, &flat, &mut rows);
            }
        });
    }
    call.null()
}

fn search(
    question: &Question<'_>,
    source: &Source,
    types: &VectorTypes,
    array: pg_sys::Datum,
    flat: &Flat,
    rows: &mut Rows,
) {
    let mut most = question.block(&source.id_type, flat.dim, flat.count());
    let mut printer = source.id_type.printer();
    let mut put = |place: u32, found: Vec<Hit<Id>>| {
        for (rank, hit) in found.iter().enumerate() {
            rows.push(|| hit_columns(place, rank, hit, printer.text(&hit.id)).map(Some));
        }
    };
    let mut done = 0;
    if most >= flat.count() && !flat.has_nulls() {
        // The caller's array as it is.
        let queries = Block { values: &flat.values, dim: flat.dim, array: Some(array) };
        let Some(mut state) = question.ask(source, types, &queries) else { return };
        done = state.complete();
        most = done;
        state.drain(&mut put);
    }
    let rest = &flat.values[done * flat.dim..];
    question.ask_all(source, types, rest, flat.dim, most, |n, found| put(flat.places[done + n], found));
}

sql_function!(pgedge_batch_search, pg_finfo_pgedge_batch_search, batch_search);
