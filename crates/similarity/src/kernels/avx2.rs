//! AVX2 + FMA + F16C: tiles of 6 rows × 16 queries, twelve sums in the sixteen registers.

use std::arch::asm;
use std::arch::x86_64::*;

use half::f16;

use super::x86_tile::{dot_norm, exact_sum, exact_tile, f32_tile, i8_finish};
use super::{
    EXACT_LANES, ExactTile, I8_BLOCK, Kernels, PAD, Quantised, RANGE_MADDUBS, Range8, TileF32, TileI8, exact_finish,
    product, squared_difference,
};

pub(super) static KERNELS: Kernels = Kernels {
    mr: 6,
    nr: 16,
    i8_range: RANGE_MADDUBS,
    i8_blocks: true,
    i8_from: 4,
    asks_ahead: 8,
    tile_f32,
    tile_i8,
    dot_norm: dot_norm_f32,
    dot_norm_f16,
    widen,
    quantise,
    take,
    exact_dot,
    exact_l2,
    exact_rows: 3,
    exact_columns: 4,
    exact_dot_tile,
    exact_l2_tile,
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
/// Four dimensions of two vectors of queries with one row (`$x`), whose sums are in `$a` and `$b`.
macro_rules! i8_row {
    ($x:literal, $a:literal, $b:literal, $at:literal) => {
        concat!(
            "vpbroadcastd {x}, dword ptr [",
            $x,
            " + ",
            $at,
            "]\n",
            "vpmaddubsw {t}, {x}, {q0}\n",
            "vpmaddubsw {x}, {x}, {q1}\n",
            "vpaddw {",
            $a,
            "}, {",
            $a,
            "}, {t}\n",
            "vpaddw {",
            $b,
            "}, {",
            $b,
            "}, {x}\n"
        )
    };
}

/// Four dimensions of a tile: `$at` bytes into the rows, `$low` and `$high` into the panel.
macro_rules! i8_step {
    ($at:literal, $low:literal, $high:literal) => {
        concat!(
            "vmovdqu {q0}, ymmword ptr [{panel} + ",
            $low,
            "]\nvmovdqu {q1}, ymmword ptr [{panel} + ",
            $high,
            "]\n",
            i8_row!("{r0}", "a0", "b0", $at),
            i8_row!("{r0} + {stride}", "a1", "b1", $at),
            i8_row!("{r0} + 2*{stride}", "a2", "b2", $at),
            i8_row!("{r3}", "a3", "b3", $at),
            i8_row!("{r3} + {stride}", "a4", "b4", $at),
            i8_row!("{r3} + 2*{stride}", "a5", "b5", $at),
        )
    };
}

/// The loop of [`tile_i8`]: `turns` > 0 times sixteen dimensions, added to the 16-bit sums `acc`.
///
/// Written out, since the order matters: the products of a row before its sums, four steps to a turn, no sum in memory. As compiled from intrinsics it took
/// 3.3 ns a step of four dimensions on Zen 3, this takes 2.5; multiplications and additions alone, without a load, take 2.5 as well. Two lines of memory that
/// are needed later are asked for at each turn, from `ahead` on.
///
/// # Safety
/// The CPU has AVX2. Each of the six rows, `stride` apart, holds 16·`turns` bytes from `rows`, and `panel` sixteen times as many.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn add_products(
    acc: &mut [[__m256i; 2]; 6],
    rows: *const u8,
    stride: usize,
    panel: *const i8,
    turns: usize,
    ahead: &mut *const u8,
    ahead_step: isize,
) {
    let [[a0, b0], [a1, b1], [a2, b2], [a3, b3], [a4, b4], [a5, b5]] = acc;
    // SAFETY: reads what the caller vouches for, writes registers.
    unsafe {
        asm!(
            ".p2align 5",
            "2:",
            "prefetcht1 byte ptr [{ahead}]",
            i8_step!("0", "0", "32"),
            i8_step!("4", "64", "96"),
            "prefetcht1 byte ptr [{ahead} + {ahead_step}]",
            i8_step!("8", "128", "160"),
            i8_step!("12", "192", "224"),
            "lea {ahead}, [{ahead} + 2*{ahead_step}]",
            "add {panel}, 256",
            "add {r0}, 16",
            "add {r3}, 16",
            "dec {turns}",
            "jnz 2b",
            panel = inout(reg) panel => _,
            r0 = inout(reg) rows => _,
            r3 = inout(reg) rows.wrapping_add(3 * stride) => _,
            stride = in(reg) stride,
            turns = inout(reg) turns => _,
            ahead = inout(reg) *ahead,
            ahead_step = in(reg) ahead_step,
            a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, a2 = inout(ymm_reg) *a2,
            a3 = inout(ymm_reg) *a3, a4 = inout(ymm_reg) *a4, a5 = inout(ymm_reg) *a5,
            b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1, b2 = inout(ymm_reg) *b2,
            b3 = inout(ymm_reg) *b3, b4 = inout(ymm_reg) *b4, b5 = inout(ymm_reg) *b5,
            q0 = out(ymm_reg) _, q1 = out(ymm_reg) _, x = out(ymm_reg) _, t = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }
}

/// The int8 tile: 16-bit sums over a block of dimensions, as `x86_tile::i8_block_tile` explains.
///
/// # Safety
/// The CPU has the features, and the pointers of `t` are valid as [`TileI8`] says.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_i8(t: &TileI8) -> bool {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; 6];
    let (mut panel, mut init, mut ahead) = (t.panel, t.block_init, t.ahead);
    for from in (0..t.k).step_by(I8_BLOCK) {
        let size = (t.k - from).min(I8_BLOCK);
        // SAFETY: `block_init` holds 2·16 integers for each block, each row `k` bytes, `panel` 16·k; blocks are of a multiple of 32 dimensions.
        let mut acc = unsafe {
            let start = [_mm256_loadu_si256(init.cast()), _mm256_loadu_si256(init.add(16).cast())];
            let mut acc = [start; 6];
            add_products(&mut acc, t.rows.add(from), t.stride, panel, size / 16, &mut ahead, t.ahead_step);
            init = init.add(32);
            panel = panel.add(16 * size);
            acc
        };
        for (sum, acc) in sums.as_flattened_mut().iter_mut().zip(acc.as_flattened_mut()) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*acc, ones));
        }
    }
    // SAFETY: the arrays hold 6 and 16 values.
    unsafe { finish(&sums, t) }
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

/// The sum of sixteen lanes, in the order of `exact_finish`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn exact_lanes(lanes: [__m256d; 4]) -> f64 {
    let eight = [_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3])];
    let four = _mm256_add_pd(eight[0], eight[1]);
    let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
    _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
}

exact_tile!(exact_dot_tile, avx2, 3, 4, 4, 4, _mm256_setzero_pd, _mm256_loadu_pd, exact_lanes, |acc, a, b| {
    _mm256_fmadd_pd(a, b, acc)
});
exact_tile!(exact_l2_tile, avx2, 3, 4, 4, 4, _mm256_setzero_pd, _mm256_loadu_pd, exact_lanes, |acc, a, b| {
    let d = _mm256_sub_pd(a, b);
    _mm256_add_pd(acc, _mm256_mul_pd(d, d))
});

/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantise(x: &[f32], out: &mut [u8], range: Range8) -> Quantised {
    to_bytes(x, sizes::<false>(x, &mut []), out, range)
}

/// Copies as it measures: what comes from memory is read once.
///
/// # Safety
/// The CPU has the features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn take(from: &[f32], row: &mut [f32], out: &mut [u8], range: Range8) -> Quantised {
    let sizes = if from.len() == row.len() {
        sizes::<true>(from, row)
    } else {
        row[..from.len()].copy_from_slice(from);
        sizes::<false>(row, &mut [])
    };
    to_bytes(row, sizes, out, range)
}

/// The bytes of a row, whose sizes are known.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn to_bytes(x: &[f32], (largest, lane, norm2): (f32, f32, f32), out: &mut [u8], range: Range8) -> Quantised {
    assert!(x.len() == out.len() && x.len().is_multiple_of(PAD));
    let steps = range.steps(largest, lane);
    let scale = largest / steps;
    let inverse = if largest > 0.0 { steps / largest } else { 0.0 };
    let (vscale, vinverse) = (_mm256_set1_ps(scale), _mm256_set1_ps(inverse));
    let voffset = _mm256_set1_epi8(range.offset as i8);
    let mut residuals = [_mm256_setzero_ps(); 4];
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
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_add_epi8(bytes, voffset)) };
    }
    let residual2 =
        sum(_mm256_add_ps(_mm256_add_ps(residuals[0], residuals[1]), _mm256_add_ps(residuals[2], residuals[3])));
    Quantised { scale, residual2, norm2 }
}

/// The largest magnitude, the largest norm over a 16-bit lane of a block (`scalar::largest_lane`), and the sum of squares, of a multiple of 32 values,
/// which are copied if `COPY` says so.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sizes<const COPY: bool>(x: &[f32], copy: &mut [f32]) -> (f32, f32, f32) {
    assert!(x.len().is_multiple_of(PAD) && (!COPY || copy.len() == x.len()));
    let mut to = copy.as_mut_ptr();
    let mut largest = [_mm256_setzero_ps(); 4];
    let (mut lanes2, mut norm2) = (_mm_setzero_ps(), _mm_setzero_ps());
    for x in x.chunks(I8_BLOCK) {
        let mut squares = [_mm256_setzero_ps(); 2];
        for x in x.as_chunks::<32>().0 {
            for (v, l) in largest.iter_mut().enumerate() {
                // SAFETY: v < 4, 32 floats.
                let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(v * 8)) };
                if COPY {
                    // SAFETY: as many values as in `x`, which came before them.
                    unsafe {
                        _mm256_storeu_ps(to, x);
                        to = to.add(8);
                    }
                }
                *l = _mm256_max_ps(*l, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
                squares[v % 2] = _mm256_fmadd_ps(x, x, squares[v % 2]);
            }
        }
        // By d modulo 4; 0 and 1 are one lane, 2 and 3 the other.
        let squares = _mm256_add_ps(squares[0], squares[1]);
        let squares = _mm_add_ps(_mm256_castps256_ps128(squares), _mm256_extractf128_ps::<1>(squares));
        lanes2 = _mm_max_ps(lanes2, _mm_add_ps(squares, _mm_movehdup_ps(squares)));
        norm2 = _mm_add_ps(norm2, squares);
    }
    let all = _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]), _mm256_max_ps(largest[2], largest[3]));
    let all = _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
    let all = _mm_max_ps(all, _mm_movehl_ps(all, all));
    let largest = _mm_cvtss_f32(_mm_max_ss(all, _mm_movehdup_ps(all)));
    let lane2 = _mm_cvtss_f32(_mm_max_ss(lanes2, _mm_movehl_ps(lanes2, lanes2)));
    let norm2 = _mm_add_ps(norm2, _mm_movehl_ps(norm2, norm2));
    let norm2 = _mm_cvtss_f32(_mm_add_ss(norm2, _mm_movehdup_ps(norm2)));
    (largest, lane2.sqrt(), norm2)
}
