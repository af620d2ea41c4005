//! All scores of a against b.

use crate::Error;
use crate::metric::Metric;
use crate::simd::Simd;

/// Fills `out` (row-major, a × b) with the exact scores of every vector of `a` against every vector of `b`, both row-major with `dim` values each.
/// The values are those of [`Simd::score`], whatever the level. `interrupt` is called once for each vector of `a`; its error ends the work.
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
    let columns = b.len() / dim;
    if (a.len() / dim).checked_mul(columns) != Some(out.len()) {
        return Err(Error::Shape("the output must have a × b values"));
    }
    if columns == 0 {
        return Ok(());
    }
    let norms = |v: &[f32]| if metric == Metric::Cosine { simd.exact_dot(v, v) } else { 0.0 };
    let mut b_norms = Vec::new();
    crate::error::reserve(&mut b_norms, columns)?;
    b_norms.extend(b.chunks_exact(dim).map(norms));
    for (x, out) in a.chunks_exact(dim).zip(out.chunks_exact_mut(columns)) {
        interrupt()?;
        let x2 = norms(x);
        for ((y, &y2), out) in b.chunks_exact(dim).zip(&b_norms).zip(out) {
            *out = simd.score_with_norms(metric, x, x2, y, y2);
        }
    }
    Ok(())
}
