//! `knn_join`: the k best rows of one relation for each row of another.
use pgrx::prelude::*;

use super::blocks::Reader;
use super::call::{Call, Rows, sql_function};
use super::relation::{Source, VectorTypes, Wanted};
use super::search::Question;
use super::{limit_of, metric_named, positive_k};

/// left, right, k, metric, min_similarity, left_embedding, left_id, right_embedding, right_id
fn knn_join(call: &mut Call) -> pg_sys::Datum {
    let mut rows = Rows::start(call);
    // SAFETY: the types that sql/similarity.sql declares.
    unsafe {
        let k: i32 = call.need(2, "k");
        positive_k(k);
        let metric: &str = call.need(3, "metric");
        metric_named(metric);
        let question = Question { k, metric, limit: limit_of(call.get(4)), source: None };
        let names = [(5, "left_embedding"), (6, "left_id"), (7, "right_embedding"), (8, "right_id")]
            .map(|(n, name)| call.need_name(n, name));
        let [left_embedding, left_id, right_embedding, right_id] = &names;
        let (left, right) = (call.need(0, "left"), call.need(1, "right"));
        Spi::connect(|_| {
            let types = VectorTypes::find();
            let find = |relation, embedding, id| {
                Source::find(&Wanted { relation: Some(relation), embedding, id, by_source: false }, &types)
            };
            let (left, right) = (find(left, left_embedding, left_id), find(right, right_embedding, right_id));
            join(&question, &left, &right, &types, &mut rows);
        });
    }
    call.null()
}

fn join(question: &Question<'_>, left: &Source, right: &Source, types: &VectorTypes, rows: &mut Rows) {
    let (mut left_printer, mut right_printer) = (left.id_type.printer(), right.id_type.printer());
    let mut blocks = Reader::new(left, None, false).blocks();
    while let Some(block) = blocks.next(|dim| question.most_queries(&right.id_type, dim, 2)) {
        let most = question.most_queries(&right.id_type, block.dim, 2);
        question.ask_all(right, types, &block.values, block.dim, most, |n, found| {
            let left = &block.rows[n].id;
            for (rank, hit) in found.iter().enumerate() {
                rows.push(|| {
                    [
                        Some(left_printer.text(left)),
                        (rank as i32 + 1).into_datum(),
                        Some(right_printer.text(&hit.id)),
                        hit.score.into_datum(),
                    ]
                });
            }
        });
    }
}

sql_function!(pgedge_knn_join, pg_finfo_pgedge_knn_join, knn_join);
