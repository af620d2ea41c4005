//! AVX2 + FMA + F16C: tiles of 6 rows × 16 queries, twelve sums in the sixteen registers.

use std::arch::x86_64::*;

use half::f16;

use super::x86_tile::{dot_norm, exact_sum, f32_tile, i8_block_tile, i8_finish, i8_tile};
use super::{EXACT_LANES, Kernels, PAD, Quantised, TileF32, TileI8, exact_finish, product, squared_difference};

/// Rows (offset to unsigned) and queries take ±90: two products of at most 180·90 then fit `maddubs`' 16 bits, which saturate.
const I8_MAX: i32 = 90;

pub(super) static KERNELS: Kernels = Kernels {
    mr: 6,
    nr: 16,
    i8_row_max: I8_MAX,
    i8_query_max: I8_MAX,
    i8_row_offset: I8_MAX,
    i8_blocks: true,
    i8_gains: true,
    tile_f32,
    tile_i8,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen,
    quantise,
    exact_dot,
    exact_l2,
};

/// Mask of the lanes where `a` is not less than `b`; NaN counts as not less.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn not_less(a: __m256, b: __m256) -> u32 {
    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, b)) as u32
}

f32_tile!(
    tile_f32,
    avx2,
    6,
    2,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    not_less
);

/// Four products a 32-bit lane, widened at once: never overflows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot4(acc: __m256i, x: __m256i, q: __m256i) -> __m256i {
    _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, q), _mm256_set1_epi16(1)))
}

i8_finish!(
    finish,
    avx2,
    6,
    2,
    8,
    __m256i,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_cvtepi32_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    not_less
);
i8_tile!(tile_i8_wide, avx2, 6, 2, 8, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_set1_epi32, dot4, finish);
i8_block_tile!(
    tile_i8_blocks,
    avx2,
    6,
    2,
    8,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_set1_epi32,
    _mm256_set1_epi16,
    _mm256_maddubs_epi16,
    _mm256_madd_epi16,
    _mm256_add_epi16,
    _mm256_add_epi32,
    finish
);

/// # Safety
/// The CPU has the features, and the pointers of `t` are valid as [`TileI8`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_i8(t: &TileI8) -> bool {
    // SAFETY: passed on; the block form only when its sums fit.
    unsafe { if t.fits16 { tile_i8_blocks(t) } else { tile_i8_wide(t) } }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// # Safety
/// Eight halves can be read at `p`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load_f16(p: *const __m128i) -> __m256 {
    // SAFETY: by the contract.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p) })
}

dot_norm!(
    dot_norm_f32,
    avx2,
    f32,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    sum,
    |x| x
);
dot_norm!(
    dot_norm_f16,
    avx2,
    f16,
    8,
    _mm256_setzero_ps,
    load_f16,
    _mm256_loadu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    sum,
    f16::to_f32
);

/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn widen(x: &[f16], out: &mut [f32]) {
    let n = x.len().min(out.len());
    let mut d = 0;
    while d + 8 <= n {
        // SAFETY: d + 8 ≤ both lengths.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(d), load_f16(x.as_ptr().add(d).cast())) };
        d += 8;
    }
    for (o, x) in out[d..n].iter_mut().zip(&x[d..n]) {
        *o = x.to_f32();
    }
}

exact_sum!(
    exact_dot,
    avx2,
    4,
    4,
    _mm256_setzero_pd,
    _mm_loadu_ps,
    _mm256_cvtps_pd,
    _mm256_storeu_pd,
    |acc, a, b| _mm256_fmadd_pd(a, b, acc),
    product
);
exact_sum!(
    exact_l2,
    avx2,
    4,
    4,
    _mm256_setzero_pd,
    _mm_loadu_ps,
    _mm256_cvtps_pd,
    _mm256_storeu_pd,
    |acc, a, b| {
        let d = _mm256_sub_pd(a, b);
        _mm256_add_pd(acc, _mm256_mul_pd(d, d))
    },
    squared_difference
);

/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantise(x: &[f32], out: &mut [u8], max: i32, offset: i32) -> Quantised {
    assert!(x.len() == out.len() && x.len().is_multiple_of(PAD));
    let mut largest = [_mm256_setzero_ps(); 4];
    for x in x.as_chunks::<32>().0 {
        for (v, l) in largest.iter_mut().enumerate() {
            // SAFETY: v < 4, 32 floats.
            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(v * 8)) };
            *l = _mm256_max_ps(*l, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
        }
    }
    let all = _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]), _mm256_max_ps(largest[2], largest[3]));
    let mut lanes = [0f32; 8];
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), all) };
    let largest = lanes.iter().fold(0f32, |m, &v| m.max(v));
    let scale = largest / max as f32;
    let inverse = if largest > 0.0 { max as f32 / largest } else { 0.0 };
    let (vscale, vinverse, voffset) = (_mm256_set1_ps(scale), _mm256_set1_ps(inverse), _mm256_set1_epi8(offset as i8));
    let mut residuals = [_mm256_setzero_ps(); 4];
    let mut lane2 = _mm_setzero_si128();
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let mut ints = [_mm256_setzero_si256(); 4];
        for v in 0..4 {
            // SAFETY: v < 4, 32 floats.
            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(v * 8)) };
            ints[v] = _mm256_cvtps_epi32(_mm256_mul_ps(x, vinverse));
            let r = _mm256_fnmadd_ps(vscale, _mm256_cvtepi32_ps(ints[v]), x);
            residuals[v] = _mm256_fmadd_ps(r, r, residuals[v]);
        }
        let (a, b) = (_mm256_packs_epi32(ints[0], ints[1]), _mm256_packs_epi32(ints[2], ints[3]));
        for block in [a, b] {
            // Even 32-bit lanes hold the squares of the dimensions 0, 1 modulo 4, odd lanes those of 2, 3, as the 16-bit sums will meet them.
            let squares = _mm256_madd_epi16(block, block);
            let squares = _mm_add_epi32(_mm256_castsi256_si128(squares), _mm256_extracti128_si256::<1>(squares));
            lane2 = _mm_max_epi32(lane2, _mm_add_epi32(squares, _mm_shuffle_epi32::<0b01_00_11_10>(squares)));
        }
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_add_epi8(bytes, voffset)) };
    }
    let residual2 =
        sum(_mm256_add_ps(_mm256_add_ps(residuals[0], residuals[1]), _mm256_add_ps(residuals[2], residuals[3])));
    let lane2 = _mm_extract_epi32::<0>(lane2).max(_mm_extract_epi32::<1>(lane2)) as u32;
    Quantised { scale, residual2, lane2 }
}
