//! All scores of a against b.

use crate::Error;
use crate::buffer::Aligned;
use crate::error::reserve;
use crate::kernels::{EXACT_LANES, ExactTile, MAX_EXACT};
use crate::metric::Metric;
use crate::simd::Simd;

/// Bytes of the columns that are kept in f64 at a time: half of a 512 kB second-level cache.
const BLOCK_BYTES: usize = 256 * 1024;

/// Fills `out` (row-major, a × b) with the exact scores of every vector of `a` against every vector of `b`, both row-major with `dim` values each.
/// The values are those of [`Simd::score`], whatever the level. When `a` and `b` are one slice, each pair is scored once. `interrupt` is called every few
/// hundred pairs; its error ends the work.
///
/// Errors: [`Error::Shape`] when the lengths do not fit; [`Error::OutOfMemory`].
pub fn similarity_matrix(
    simd: Simd,
    metric: Metric,
    dim: usize,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    mut interrupt: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    if dim == 0 || !a.len().is_multiple_of(dim) || !b.len().is_multiple_of(dim) {
        return Err(Error::Shape("the vectors must be whole and of at least one dimension"));
    }
    let (rows, columns) = (a.len() / dim, b.len() / dim);
    if rows.checked_mul(columns) != Some(out.len()) {
        return Err(Error::Shape("the output must have a × b values"));
    }
    let symmetric = std::ptr::eq(a, b);
    let kernels = simd.kernels();
    let (mr, nr, k) = (kernels.exact_rows, kernels.exact_columns, dim.next_multiple_of(EXACT_LANES));
    let kernel = if metric == Metric::L2 { kernels.exact_l2_tile } else { kernels.exact_dot_tile };
    let (a2, b2) = (norms(simd, metric, dim, a)?, norms(simd, metric, dim, b)?);
    let block = (BLOCK_BYTES / (k * 8)).clamp(1, 64).next_multiple_of(nr).min(columns.next_multiple_of(nr));
    let mut packed_columns = Aligned::zeroed(block * k)?;
    let mut packed_rows = Aligned::zeroed(mr * k)?;
    let mut sums = [0f64; MAX_EXACT];
    for j0 in (0..columns).step_by(block.max(1)) {
        let j1 = columns.min(j0 + block);
        pack(&mut packed_columns, k, dim, &b[j0 * dim..j1 * dim]);
        // Of a symmetric matrix the rows up to the block's last column, so every pair (i, j) with i ≤ j.
        let rows = if symmetric { j1 } else { rows };
        for i0 in (0..rows).step_by(mr) {
            interrupt()?;
            let i1 = rows.min(i0 + mr);
            pack(&mut packed_rows, k, dim, &a[i0 * dim..i1 * dim]);
            for j in (j0..j1).step_by(nr) {
                let tile = ExactTile {
                    rows: packed_rows.as_ptr(),
                    columns: packed_columns[(j - j0) * k..].as_ptr(),
                    k,
                    out: sums.as_mut_ptr(),
                };
                // SAFETY: a `Simd` exists only for levels of this CPU; there are mr packed rows, nr packed columns from here, and room for mr × nr sums.
                unsafe { kernel(&tile) };
                for (i, sums) in (i0..i1).zip(sums.chunks(nr)) {
                    for (j, &sum) in (j..j1).zip(sums) {
                        let score = metric.of_sum(sum, a2[i], b2[j]);
                        out[i * columns + j] = score;
                        if symmetric {
                            out[j * columns + i] = score;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// The squared norms of vectors; zeros where the metric has no use for them.
fn norms(simd: Simd, metric: Metric, dim: usize, vectors: &[f32]) -> Result<Vec<f64>, Error> {
    let mut norms = Vec::new();
    reserve(&mut norms, vectors.len() / dim)?;
    let norm = |v: &[f32]| if metric == Metric::Cosine { simd.exact_dot(v, v) } else { 0.0 };
    norms.extend(vectors.chunks_exact(dim).map(norm));
    Ok(norms)
}

/// Vectors in f64, `k` values for each. What lies beyond each one's `dim` is zero and stays so.
fn pack(out: &mut [f64], k: usize, dim: usize, vectors: &[f32]) {
    for (out, vector) in out.chunks_exact_mut(k).zip(vectors.chunks_exact(dim)) {
        for (out, &v) in out.iter_mut().zip(vector) {
            *out = f64::from(v);
        }
    }
}
