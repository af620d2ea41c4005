//! AVX-512 F + BW, and VNNI where present: tiles of 12 rows × 32 queries, twenty-four sums in the thirty-two registers.
//!
//! This file is compiled twice: with the processor's instructions, and for the tests with those of `emulated`, which run anywhere.
//! So it names no instruction set itself: `avx512!` and `avx512vnni!` put the attribute on a function (or not), `intrinsics` is the one or the other.

use half::f16;

use super::intrinsics::*;
use super::x86_tile::{dot_norm, exact_sum, f32_tile, i8_block_tile, i8_finish, i8_tile};
use super::{
    EXACT_LANES, Kernels, PAD, Quantised, RANGE_MADDUBS, Range8, TileF32, TileI8, avx2, exact_finish, product, squared_difference,
};

pub(super) static KERNELS: Kernels = Kernels {
    mr: 12,
    nr: 32,
    i8_range: RANGE_MADDUBS,
    i8_blocks: true,
    i8_gains: true,
    tile_f32,
    tile_i8,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen: avx2::widen,
    quantise: avx2::quantise,
    exact_dot,
    exact_l2,
};

pub(super) static KERNELS_VNNI: Kernels = Kernels {
    mr: 12,
    nr: 32,
    // `vpdpbusd` adds four products into 32 bits without saturating: the whole of int8 can be used.
    i8_range: Range8 { max: 127, offset: 128, lane_norm: f32::INFINITY },
    i8_blocks: false,
    i8_gains: true,
    tile_f32,
    tile_i8: tile_i8_vnni,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen: avx2::widen,
    quantise,
    exact_dot,
    exact_l2,
};

avx512! {
    /// Mask of the lanes where `a` is not less than `b`; NaN counts as not less.
    #[inline]
    fn not_less(a: __m512, b: __m512) -> u32 {
        u32::from(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b))
    }
}

f32_tile!(
    tile_f32,
    avx512,
    12,
    2,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    not_less
);

i8_finish!(
    finish,
    avx512,
    12,
    2,
    16,
    __m512i,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_cvtepi32_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    not_less
);
i8_tile!(
    tile_i8_vnni,
    avx512vnni,
    12,
    2,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_set1_epi32,
    _mm512_dpbusd_epi32,
    finish
);
i8_block_tile!(
    tile_i8,
    avx512,
    12,
    2,
    16,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_set1_epi32,
    _mm512_set1_epi16,
    _mm512_maddubs_epi16,
    _mm512_madd_epi16,
    _mm512_add_epi16,
    _mm512_add_epi32,
    finish
);

avx512! {
    #[inline]
    fn sum(v: __m512) -> f32 {
        _mm512_reduce_add_ps(v)
    }
}

avx512! {
    /// # Safety
    /// Sixteen halves can be read at `p`.
    #[inline]
    unsafe fn load_f16(p: *const __m256i) -> __m512 {
        // SAFETY: by the contract.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p) })
    }
}

dot_norm!(
    dot_norm_f32,
    avx512,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    sum,
    |x| x
);
dot_norm!(
    dot_norm_f16,
    avx512,
    f16,
    16,
    _mm512_setzero_ps,
    load_f16,
    _mm512_loadu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    sum,
    f16::to_f32
);

exact_sum!(
    exact_dot,
    avx512,
    2,
    8,
    _mm512_setzero_pd,
    _mm256_loadu_ps,
    _mm512_cvtps_pd,
    _mm512_storeu_pd,
    |acc, a, b| _mm512_fmadd_pd(a, b, acc),
    product
);
exact_sum!(
    exact_l2,
    avx512,
    2,
    8,
    _mm512_setzero_pd,
    _mm256_loadu_ps,
    _mm512_cvtps_pd,
    _mm512_storeu_pd,
    |acc, a, b| {
        let d = _mm512_sub_pd(a, b);
        _mm512_add_pd(acc, _mm512_mul_pd(d, d))
    },
    squared_difference
);

avx512! {
    /// For ranges without a bound on lanes, as VNNI's: two looks at a row in the first-level cache.
    ///
    /// # Safety
    /// The CPU has the features.
    unsafe fn quantise(x: &[f32], out: &mut [u8], range: Range8) -> Quantised {
        assert!(x.len() == out.len() && x.len().is_multiple_of(PAD) && range.lane_norm == f32::INFINITY);
        let (mut largest, mut squares) = ([_mm512_setzero_ps(); 2], [_mm512_setzero_ps(); 2]);
        for x in x.as_chunks::<32>().0 {
            for v in 0..2 {
                // SAFETY: v < 2, 32 floats.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(v * 16)) };
                largest[v] = _mm512_max_ps(largest[v], _mm512_abs_ps(x));
                squares[v] = _mm512_fmadd_ps(x, x, squares[v]);
            }
        }
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(largest[0], largest[1]));
        let norm2 = sum(_mm512_add_ps(squares[0], squares[1]));
        let steps = range.max as f32;
        let scale = largest / steps;
        let inverse = if largest > 0.0 { steps / largest } else { 0.0 };
        let (vscale, vinverse) = (_mm512_set1_ps(scale), _mm512_set1_ps(inverse));
        let offset = _mm_set1_epi8(range.offset as i8);
        let mut residuals = [_mm512_setzero_ps(); 2];
        for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            for (v, residual) in residuals.iter_mut().enumerate() {
                // SAFETY: v < 2, 32 floats and 32 bytes.
                unsafe {
                    let x = _mm512_loadu_ps(x.as_ptr().add(v * 16));
                    let ints = _mm512_cvtps_epi32(_mm512_mul_ps(x, vinverse));
                    let r = _mm512_fnmadd_ps(vscale, _mm512_cvtepi32_ps(ints), x);
                    *residual = _mm512_fmadd_ps(r, r, *residual);
                    let bytes = _mm_add_epi8(_mm512_cvtepi32_epi8(ints), offset);
                    _mm_storeu_si128(out.as_mut_ptr().add(v * 16).cast(), bytes);
                }
            }
        }
        Quantised { scale, residual2: sum(_mm512_add_ps(residuals[0], residuals[1])), norm2 }
    }
}
