//! AVX-512 F + BW, and VNNI where present: tiles of 12 rows × 32 queries, twenty-four sums in the thirty-two registers.
//!
//! This file is compiled twice: with the processor's instructions, and for the tests with those of `emulated`, which run anywhere.
//! So it names no instruction set itself: `avx512!` and `avx512vnni!` put the attribute on a function (or not), `intrinsics` is the one or the other.

use half::f16;

use super::intrinsics::*;
use super::x86_tile::{dot_norm, exact_sum, exact_tile, f32_tile, i8_block_tile, i8_finish, i8_tile};
use super::{
    EXACT_LANES, ExactTile, Kernels, PAD, Quantised, RANGE_MADDUBS, Range8, TileF32, TileI8, avx2, exact_finish,
    product, squared_difference,
};

pub(super) static KERNELS: Kernels = Kernels {
    mr: 12,
    nr: 32,
    i8_range: RANGE_MADDUBS,
    i8_blocks: true,
    i8_from: 16,
    asks_ahead: usize::MAX,
    tile_f32,
    tile_i8,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen: avx2::widen,
    quantise: avx2::quantise,
    take: avx2::take,
    exact_dot,
    exact_l2,
    exact_rows: 4,
    exact_columns: 6,
    exact_dot_tile,
    exact_l2_tile,
};

pub(super) static KERNELS_VNNI: Kernels = Kernels {
    mr: 12,
    nr: 32,
    // `vpdpbusd` adds four products into 32 bits without saturating: the whole of int8 can be used.
    i8_range: Range8 { max: 127, offset: 128, lane_norm: f32::INFINITY },
    i8_blocks: false,
    i8_from: 4,
    asks_ahead: 4,
    tile_f32,
    tile_i8: tile_i8_vnni,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen: avx2::widen,
    quantise,
    take,
    exact_dot,
    exact_l2,
    exact_rows: 4,
    exact_columns: 6,
    exact_dot_tile,
    exact_l2_tile,
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
    /// The sum of sixteen lanes, in the order of `exact_finish`: by halves.
    #[inline]
    fn exact_lanes(lanes: [__m512d; 2]) -> f64 {
        _mm512_reduce_add_pd(_mm512_add_pd(lanes[0], lanes[1]))
    }
}

exact_tile!(exact_dot_tile, avx512, 4, 6, 2, 8, _mm512_setzero_pd, _mm512_loadu_pd, exact_lanes, |acc, a, b| {
    _mm512_fmadd_pd(a, b, acc)
});
exact_tile!(exact_l2_tile, avx512, 4, 6, 2, 8, _mm512_setzero_pd, _mm512_loadu_pd, exact_lanes, |acc, a, b| {
    let d = _mm512_sub_pd(a, b);
    _mm512_add_pd(acc, _mm512_mul_pd(d, d))
});

/// Of `vrangeps`: the larger of the two magnitudes, its sign cleared. One operation where `abs` and `max` are two.
const LARGER_MAGNITUDE: i32 = 0b1011;

/// The largest magnitudes so far and the sums of squares, each in four registers: as many as hide the latency of an operation.
type Sizes = ([__m512; 4], [__m512; 4]);

avx512vnni! {
    /// Takes 32 values in, by the registers from `at` on.
    #[inline]
    fn add_sizes(sizes: &mut Sizes, at: usize, x: [__m512; 2]) {
        let (largest, squares) = sizes;
        for (v, x) in (at..).zip(x) {
            largest[v] = _mm512_range_ps::<LARGER_MAGNITUDE>(largest[v], x);
            squares[v] = _mm512_fmadd_ps(x, x, squares[v]);
        }
    }
}

avx512vnni! {
    #[inline]
    fn load_32(x: &[f32; 32]) -> [__m512; 2] {
        // SAFETY: 32 floats.
        unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] }
    }
}

avx512vnni! {
    /// For ranges without a bound on lanes, as VNNI's.
    ///
    /// # Safety
    /// The CPU has the features.
    unsafe fn quantise(x: &[f32], out: &mut [u8], range: Range8) -> Quantised {
        let mut sizes = ([_mm512_setzero_ps(); 4], [_mm512_setzero_ps(); 4]);
        let (whole, rest) = x.as_chunks::<64>();
        for x in whole {
            let (a, b) = halves(x);
            add_sizes(&mut sizes, 0, load_32(a));
            add_sizes(&mut sizes, 2, load_32(b));
        }
        for x in rest.as_chunks::<32>().0 {
            add_sizes(&mut sizes, 0, load_32(x));
        }
        to_bytes(x, sizes, out, range)
    }
}

/// Two halves of a chunk.
#[inline(always)]
fn halves(x: &[f32; 64]) -> (&[f32; 32], &[f32; 32]) {
    let (a, b) = x.split_at(32);
    (a.try_into().expect("32"), b.try_into().expect("32"))
}

avx512vnni! {
    /// As [`quantise`], of a row that is copied on the way.
    ///
    /// # Safety
    /// The CPU has the features.
    unsafe fn take(from: &[f32], row: &mut [f32], out: &mut [u8], range: Range8) -> Quantised {
        assert!(from.len() <= row.len() && row.len().is_multiple_of(PAD));
        let mut sizes = ([_mm512_setzero_ps(); 4], [_mm512_setzero_ps(); 4]);
        let (whole, rest) = from.as_chunks::<64>();
        let (copies, tail) = row.split_at_mut(from.len() - rest.len());
        for (x, copy) in whole.iter().zip(copies.as_chunks_mut::<64>().0) {
            let (a, b) = halves(x);
            let (a, b) = (load_32(a), load_32(b));
            // SAFETY: 64 floats.
            unsafe {
                _mm512_storeu_ps(copy.as_mut_ptr(), a[0]);
                _mm512_storeu_ps(copy.as_mut_ptr().add(16), a[1]);
                _mm512_storeu_ps(copy.as_mut_ptr().add(32), b[0]);
                _mm512_storeu_ps(copy.as_mut_ptr().add(48), b[1]);
            }
            add_sizes(&mut sizes, 0, a);
            add_sizes(&mut sizes, 2, b);
        }
        // The row's rest is zeros, to a whole number of 32.
        tail[..rest.len()].copy_from_slice(rest);
        for (half, x) in tail[..rest.len().next_multiple_of(PAD)].as_chunks::<32>().0.iter().enumerate() {
            add_sizes(&mut sizes, half * 2, load_32(x));
        }
        to_bytes(row, sizes, out, range)
    }
}

/// Added to a number of magnitude below 2²², this leaves it rounded to an integer, to the nearest and ties to even, in the low bits of the sum.
const TO_INTEGER: f32 = 1.5 * (1u32 << 23) as f32;

avx512vnni! {
    /// The bytes of a row, whose sizes are known.
    #[inline]
    fn to_bytes(x: &[f32], sizes: Sizes, out: &mut [u8], range: Range8) -> Quantised {
        assert!(x.len() == out.len() && x.len().is_multiple_of(PAD) && range.lane_norm == f32::INFINITY);
        let ([a, b, c, d], [e, f, g, h]) = sizes;
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)));
        let norm2 = sum(_mm512_add_ps(_mm512_add_ps(e, f), _mm512_add_ps(g, h)));
        let steps = range.max as f32;
        let scale = largest / steps;
        let inverse = if largest > 0.0 { steps / largest } else { 0.0 };
        let (vscale, vinverse) = (_mm512_set1_ps(scale), _mm512_set1_ps(inverse));
        // Scaled, rounded and given the offset by one operation; the byte is the lowest of the sum.
        let to_integer = _mm512_set1_ps(TO_INTEGER + range.offset as f32);
        let mut residuals = [_mm512_setzero_ps(); 2];
        for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            for (v, x) in load_32(x).into_iter().enumerate() {
                let shifted = _mm512_fmadd_ps(x, vinverse, to_integer);
                let r = _mm512_fnmadd_ps(vscale, _mm512_sub_ps(shifted, to_integer), x);
                residuals[v] = _mm512_fmadd_ps(r, r, residuals[v]);
                let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(shifted));
                // SAFETY: 32 bytes.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().add(v * 16).cast(), bytes) };
            }
        }
        Quantised { scale, residual2: sum(_mm512_add_ps(residuals[0], residuals[1])), norm2 }
    }
}
