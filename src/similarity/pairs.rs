//! `similar_pairs`: all pairs of one relation within a limit. Blocks of rows are the queries; the relation streams past each block.
use std::sync::Arc;

use half::f16;
use pgedge_similarity::{Error, Metric, Queries, Range, Scanner, Simd, Sink, queries_for_budget};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::blocks::{Block, Reader, Row};
use super::call::{Call, Rows, sql_function};
use super::id::IdType;
use super::relation::{Source, VectorTypes, Wanted};
use super::sorter::PairSorter;
use super::state::interrupt;
use super::{checked, limit_of, metric_named};
use crate::errors::fail;
use crate::pgvector::Element;

/// Takes each pair once, from its smaller row.
struct Pairs {
    rows: Vec<Row>,
    /// Whether `rows` is in order.
    in_order: bool,
    found: Range<Row>,
    ids: IdType,
    sorter: PairSorter,
}

/// Pairs that wait to be handed on, at most.
const MOST_WAITING: usize = 1024;

impl Sink<Row> for Pairs {
    fn limit(&self, q: usize) -> u32 {
        self.found.limit(q)
    }

    fn offer(&mut self, q: usize, key: u32, row: &Row) -> Result<bool, Error> {
        let taken = self.rows[q] < *row && self.found.offer(q, key, row)?;
        if self.found.len() == MOST_WAITING {
            self.give();
        }
        Ok(taken)
    }

    fn useful(&self, row: &Row, queries: usize) -> usize {
        if self.in_order { self.rows.partition_point(|r| r < row) } else { queries }
    }
}

impl Pairs {
    /// Hands on the pairs found.
    fn give(&mut self) {
        if self.found.is_empty() {
            return;
        }
        for (q, row, score) in self.found.take() {
            self.sorter.put(&self.rows[q as usize].id, &row.id, score);
        }
        self.ids.enter();
    }
}

/// min_similarity, source, max_pairs, relation, embedding_column, id_column, metric
fn similar_pairs(call: &mut Call) -> pg_sys::Datum {
    let mut rows = Rows::start(call);
    // SAFETY: the types that sql/similarity.sql declares.
    unsafe {
        let limit = limit_of(Some(call.need(0, "min_similarity"))).expect("not NULL");
        let wanted_source: Option<&str> = call.get(1);
        let most = call.get(2).inspect(|&most| not_negative(most));
        let metric = metric_named(call.need(6, "metric"));
        let (embedding, id) = (call.need_name(4, "embedding_column"), call.need_name(5, "id_column"));
        let wanted =
            Wanted { relation: call.get(3), embedding: &embedding, id: &id, by_source: wanted_source.is_some() };
        Spi::connect(|_| {
            let source = Source::find(&wanted, &VectorTypes::find());
            let ids = source.id_type;
            if most == Some(0) {
                return;
            }
            let sorter = PairSorter::new(metric, ids, most);
            let sorter = if source.half {
                search::<f16>(&source, wanted_source, metric, limit, sorter)
            } else {
                search::<f32>(&source, wanted_source, metric, limit, sorter)
            };
            let mut printer = ids.printer();
            sorter.finish(most, |a, b, score| {
                rows.push(|| [Some(printer.text(&a)), Some(printer.text(&b)), score.into_datum()]);
            });
        });
    }
    call.null()
}

fn not_negative(most: i64) {
    if most < 0 {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("max_pairs must not be negative, but is {most}"),
            "Give the number of pairs wanted, best first, or NULL for all.",
        );
    }
}

fn search<T: Value>(
    source: &Source,
    wanted_source: Option<&str>,
    metric: Metric,
    limit: f32,
    mut sorter: PairSorter,
) -> PairSorter {
    let ids = source.id_type;
    let reader = Reader::new(source, wanted_source, true);
    let mut blocks = Reader::new(source, wanted_source, true).blocks();
    while let Some(Block { rows, values, dim }) = blocks.next(block_rows) {
        ids.enter();
        let queries = Arc::new(checked(Queries::with_interrupt(Simd::detect(), metric, dim, &values, interrupt)));
        drop(values);
        let first = rows.iter().min().expect("a block has rows").clone();
        let in_order = rows.is_sorted();
        let sink = Pairs { rows, in_order, found: checked(Range::new(metric, limit)), ids, sorter };
        let mut scan = checked(Scanner::new(queries, sink));
        // Rows before the block have met it already, as blocks of their own.
        reader.stream_after(&first, |row, vector: &[T]| {
            checked(T::push_to(&mut scan, row, vector));
            scan.sink_mut().give();
        });
        let mut sink = checked(scan.finish());
        sink.give();
        sorter = sink.sorter;
    }
    sorter
}

/// Rows of a block, so that half of work_mem holds them; the other half is for the rows as they are read.
fn block_rows(dim: usize) -> usize {
    // SAFETY: a setting of this backend, in kB.
    let budget = unsafe { pg_sys::work_mem } as usize * 1024 / 2;
    queries_for_budget::<Row>(Simd::detect(), dim, 1, budget).min(4096)
}

/// An element type of rows.
trait Value: Element {
    fn push_to(scan: &mut Scanner<Row, Pairs>, row: Row, vector: &[Self]) -> Result<(), Error>
    where
        Self: Sized;
}

impl Value for f32 {
    fn push_to(scan: &mut Scanner<Row, Pairs>, row: Row, vector: &[f32]) -> Result<(), Error> {
        scan.push(row, vector)
    }
}

impl Value for f16 {
    fn push_to(scan: &mut Scanner<Row, Pairs>, row: Row, vector: &[f16]) -> Result<(), Error> {
        scan.push_f16(row, vector)
    }
}

sql_function!(pgedge_similar_pairs, pg_finfo_pgedge_similar_pairs, similar_pairs);
