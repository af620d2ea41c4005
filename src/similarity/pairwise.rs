//! Vectors given as arguments: one against many, and many against many.
use half::f16;
use pgedge_similarity::Simd;
use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arrays::Flat;
use super::call::{Call, sql_function};
use super::{checked, metric_named};
use crate::errors::fail;
use crate::pgvector::{Element, Embedding};

/// Cells of a matrix at most: what PostgreSQL allows in an array.
const MAX_CELLS: usize = 0x3fff_ffff / 8;

/// query, candidates, metric → real[]
fn batch_similarity<T: Element + Into<f32>>(call: &mut Call) -> pg_sys::Datum {
    // SAFETY: the types that sql/similarity.sql declares; the function is strict.
    unsafe {
        let metric: &str = call.need(2, "metric");
        let metric = metric_named(metric);
        let widen = |v: &[T], out: &mut Vec<f32>| {
            out.clear();
            out.extend(v.iter().map(|&x| x.into()));
        };
        let (mut query, mut row) = (Vec::new(), Vec::new());
        widen(Embedding::<T>::from_raw(call.arg(0).expect("strict")).as_slice(), &mut query);
        let candidates = call.need::<Array<'_, Embedding<'_, T>>>(1, "candidates");
        let score = Simd::detect().scores_with(metric, &query);
        let mut scores = Vec::with_capacity(candidates.len());
        for (n, candidate) in candidates.iter().enumerate() {
            scores.push(candidate.map(|vector| {
                widen(vector.as_slice(), &mut row);
                checked(score(&row))
            }));
            if n % 1024 == 0 {
                pgrx::check_for_interrupts!();
            }
        }
        scores.into_datum().expect("an array")
    }
}

/// a, b, metric → real[][]
fn similarity_matrix<T: Element + Into<f32>>(call: &mut Call) -> pg_sys::Datum {
    // SAFETY: the types that sql/similarity.sql declares.
    let (a, b, metric) = unsafe {
        let Some(a) = call.arg(0) else { return call.null() };
        let Some(metric) = call.get::<&str>(2) else { return call.null() };
        (Flat::read::<T>(a), call.arg(1).map(|b| Flat::read::<T>(b)), metric_named(metric))
    };
    let b = b.as_ref().unwrap_or(&a);
    if a.count() > 0 && b.count() > 0 && a.dim != b.dim {
        super::dimensions_differ(a.dim, b.dim);
    }
    if a.len.saturating_mul(b.len) > MAX_CELLS {
        fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a matrix of {} × {} cells exceeds the largest array, of {MAX_CELLS}", a.len, b.len),
            "Ask for it in parts, or for what matters in it: pgedge.batch_search, pgedge.similar_pairs.",
        );
    }
    let (datum, cells) = new_matrix(&a, b);
    if !cells.is_empty() {
        fill(metric, &a, b, cells);
    }
    datum
}

fn fill(metric: pgedge_similarity::Metric, a: &Flat, b: &Flat, cells: &mut [f32]) {
    checked(pgedge_similarity::similarity_matrix(Simd::detect(), metric, a.dim, &a.values, &b.values, cells, || {
        pgrx::check_for_interrupts!();
        Ok(())
    }));
}

/// A `real[]` of a.len × b.len whose rows and columns of NULL vectors are NULL, and the room of its other cells, in order.
///
/// NULLs take no room in an array's data, so that room is a whole matrix by itself.
fn new_matrix<'a>(a: &Flat, b: &Flat) -> (pg_sys::Datum, &'a mut [f32]) {
    // SAFETY: an array of two dimensions is laid out as utils/array.h says: header, dimensions, lower bounds, null bitmap, data. The caller writes every
    // cell before it returns the array or reads one.
    unsafe {
        if a.len == 0 || b.len == 0 {
            return (pg_sys::Datum::from(pg_sys::construct_empty_array(pg_sys::FLOAT4OID)), &mut []);
        }
        let (total, filled) = (a.len * b.len, a.count() * b.count());
        let nulls = filled < total;
        let head = size_of::<pg_sys::ArrayType>() + 4 * size_of::<i32>();
        let bitmap = if nulls { total.div_ceil(8) } else { 0 };
        let start = (head + bitmap).next_multiple_of(8);
        let bytes = start + filled * 4;
        // The cells are all written later; only what precedes them is cleared, as clearing half a gigabyte cannot be interrupted.
        let array: *mut u8 = pg_sys::palloc(bytes).cast();
        array.write_bytes(0, start);
        pgrx::varlena::set_varsize_4b(array.cast(), bytes as i32);
        let header = &mut *array.cast::<pg_sys::ArrayType>();
        (header.ndim, header.elemtype) = (2, pg_sys::FLOAT4OID);
        header.dataoffset = if nulls { start as i32 } else { 0 };
        let shape: *mut i32 = array.add(size_of::<pg_sys::ArrayType>()).cast();
        for (i, value) in [a.len as i32, b.len as i32, 1, 1].into_iter().enumerate() {
            *shape.add(i) = value;
        }
        if nulls {
            for &i in &a.places {
                pgrx::check_for_interrupts!();
                for &j in &b.places {
                    let cell = i as usize * b.len + j as usize;
                    *array.add(head + cell / 8) |= 1 << (cell % 8);
                }
            }
        }
        // Without NULLs the data follows the bounds at the next maximally aligned place, which is the same one.
        (pg_sys::Datum::from(array), core::slice::from_raw_parts_mut(array.add(start).cast(), filled))
    }
}

/// → text
fn simd_level(_: &mut Call) -> pg_sys::Datum {
    pgedge_similarity::level_name().into_datum().expect("not NULL")
}

sql_function!(pgedge_batch_similarity, pg_finfo_pgedge_batch_similarity, batch_similarity::<f32>);
sql_function!(pgedge_batch_similarity_half, pg_finfo_pgedge_batch_similarity_half, batch_similarity::<f16>);
sql_function!(pgedge_similarity_matrix, pg_finfo_pgedge_similarity_matrix, similarity_matrix::<f32>);
sql_function!(pgedge_similarity_matrix_half, pg_finfo_pgedge_similarity_matrix_half, similarity_matrix::<f16>);
sql_function!(pgedge_simd_level, pg_finfo_pgedge_simd_level, simd_level);
