//! Exact batch similarity in SQL: `batch_similarity`, `similarity_matrix`, the parallel aggregate `top_k`, and on top of it
//! `batch_search`, `knn_join` and `similar_pairs`. The kernels are in `crates/similarity`; here arguments are read and rows are fed.
use pgedge_similarity::{Error, Metric};
use pgrx::prelude::*;

use crate::errors::fail;

mod aggregate;
mod arrays;
mod blocks;
mod call;
#[cfg(feature = "pg16")]
mod heap;
mod id;
mod join;
mod pairs;
mod pairwise;
mod prefetch;
mod relation;
mod search;
mod sorter;
mod spi;
mod state;
mod toast;

extension_sql_file!("../../sql/similarity.sql", name = "similarity", requires = ["schema"]);

/// The metric of that name, or 22023.
fn metric_named(name: &str) -> Metric {
    Metric::from_name(name).unwrap_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unknown metric \"{name}\""),
            "The metrics are 'cosine' (similarity, 1 best), 'l2' (distance, 0 best) and 'ip' (inner product, larger best).",
        )
    })
}

/// k as a number of rows, or 22023.
fn positive_k(k: i32) -> usize {
    if k < 1 {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("k must be at least 1, not {k}"),
            "k is how many rows to find for each query.",
        );
    }
    k as usize
}

/// A limit of the similarity (of the distance, for l2): not NaN, or 22023.
fn limit_of(limit: Option<f32>) -> Option<f32> {
    if limit.is_some_and(f32::is_nan) {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "min_similarity must be a number, not NaN",
            "Give the least similarity to accept; for 'l2' the largest distance; NULL for no limit.",
        );
    }
    limit
}

/// A row that is to be found must have a name to be called by (22004).
fn null_id() -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        "the id of a row with an embedding is NULL",
        "Leave such rows out: FILTER (WHERE id IS NOT NULL), or a view.",
    )
}

/// pgvector's own words for it (22000).
fn dimensions_differ(expected: usize, found: usize) -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("different vector dimensions {expected} and {found}"),
        "Compare vectors of one model; declare the column vector(n), so that no others get in.",
    )
}

/// The value, or the error with its SQLSTATE.
fn checked<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(Error::Dimension { expected, found }) => dimensions_differ(expected, found),
        Err(error @ Error::OutOfMemory { .. }) => fail(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            error.to_string(),
            "Ask for fewer queries or a smaller k at a time, or lower work_mem.",
        ),
        Err(error @ Error::Mismatch(_)) => fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            error.to_string(),
            "queries, k, metric and min_similarity must be the same in every row of a group.",
        ),
        Err(error) => fail(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            error.to_string(),
            "This is a bug of pgedge; please report it.",
        ),
    }
}

#[cfg(any(test, feature = "pg_test"))]
mod tests;
