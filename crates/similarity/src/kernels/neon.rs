//! NEON: tiles of 6 rows × 12 queries in the lane form `fmla v, v, v[i]`: eighteen sums, three registers of queries and six of rows
//! in the thirty-two. Only the queries are packed. With SDOT the same loop on int8; without it `smull`, `smlal2`, `sadalp`.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::{EXACT_LANES, Kernels, Test, TileF32, TileI8, exact_finish, product, scalar, squared_difference};

const MR: usize = 6;
const NV: usize = 3;
const NR: usize = NV * 4;

pub(super) static KERNELS: Kernels = Kernels {
    mr: MR,
    nr: NR,
    i8_row_max: 127,
    i8_query_max: 127,
    i8_row_offset: 0,
    i8_blocks: false,
    i8_gains: true,
    tile_f32,
    tile_i8: tile_i8_mull,
    dot_norm,
    dot_norm_f16,
    widen,
    quantise: scalar::quantise,
    exact_dot,
    exact_l2,
};

pub(super) static KERNELS_DOT: Kernels = Kernels {
    mr: MR,
    nr: NR,
    i8_row_max: 127,
    i8_query_max: 127,
    i8_row_offset: 0,
    i8_blocks: false,
    i8_gains: true,
    tile_f32,
    tile_i8: tile_i8_dot,
    dot_norm,
    dot_norm_f16,
    widen,
    quantise: scalar::quantise,
    exact_dot,
    exact_l2,
};

type Sums = [[float32x4_t; NV]; MR];

/// The 18 multiply-adds of lane `$i` of the rows with the queries in `q0`, `q1`, `q2`.
macro_rules! lane_step {
    ($op:literal, $q:literal, $x:literal, $i:literal) => {
        concat!(
            lane_step!(@v $op, "0", $q, $x, $i),
            lane_step!(@v $op, "1", $q, $x, $i),
            lane_step!(@v $op, "2", $q, $x, $i)
        )
    };
    (@v $op:literal, $v:literal, $q:literal, $x:literal, $i:literal) => {
        concat!(
            $op, " {a0", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x0:v}", $x, "[", $i, "]\n",
            $op, " {a1", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x1:v}", $x, "[", $i, "]\n",
            $op, " {a2", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x2:v}", $x, "[", $i, "]\n",
            $op, " {a3", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x3:v}", $x, "[", $i, "]\n",
            $op, " {a4", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x4:v}", $x, "[", $i, "]\n",
            $op, " {a5", $v, ":v}.4s, {q", $v, ":v}", $q, ", {x5:v}", $x, "[", $i, "]\n"
        )
    };
}

/// The loop of a tile: in each of `$turns` > 0 turns sixteen bytes of every row and four times NR lanes of the panel.
/// Written out, because the compiler stores the sums to the stack at every step when it makes this loop itself (43 % of the peak of a Cortex-A76).
/// `fmla` on floats and `sdot` on bytes differ in nothing else.
macro_rules! tile_loop {
    ($acc:ident, $op:literal, $q:literal, $x:literal, $rows:expr, $stride:expr, $panel:expr, $turns:expr) => {{
        let rows: *const u8 = $rows;
        let stride: usize = $stride;
        let [
            [mut a00, mut a01, mut a02],
            [mut a10, mut a11, mut a12],
            [mut a20, mut a21, mut a22],
            [mut a30, mut a31, mut a32],
            [mut a40, mut a41, mut a42],
            [mut a50, mut a51, mut a52],
        ] = $acc;
        asm!(
            "2:",
            "ldp {q0:q}, {q1:q}, [{panel}]",
            "ldr {x0:q}, [{r0}], #16",
            "ldr {x1:q}, [{r1}], #16",
            "ldr {x2:q}, [{r2}], #16",
            "ldr {x3:q}, [{r3}], #16",
            "ldr {x4:q}, [{r4}], #16",
            "ldr {x5:q}, [{r5}], #16",
            "ldr {q2:q}, [{panel}, #32]",
            "subs {turns}, {turns}, #1",
            lane_step!($op, $q, $x, "0"),
            "ldp {q0:q}, {q1:q}, [{panel}, #48]",
            "ldr {q2:q}, [{panel}, #80]",
            lane_step!($op, $q, $x, "1"),
            "ldp {q0:q}, {q1:q}, [{panel}, #96]",
            "ldr {q2:q}, [{panel}, #128]",
            lane_step!($op, $q, $x, "2"),
            "ldp {q0:q}, {q1:q}, [{panel}, #144]",
            "ldr {q2:q}, [{panel}, #176]",
            "add {panel}, {panel}, #192",
            lane_step!($op, $q, $x, "3"),
            "b.ne 2b",
            panel = inout(reg) $panel => _,
            turns = inout(reg) $turns => _,
            r0 = inout(reg) rows => _,
            r1 = inout(reg) rows.wrapping_add(stride) => _,
            r2 = inout(reg) rows.wrapping_add(2 * stride) => _,
            r3 = inout(reg) rows.wrapping_add(3 * stride) => _,
            r4 = inout(reg) rows.wrapping_add(4 * stride) => _,
            r5 = inout(reg) rows.wrapping_add(5 * stride) => _,
            a00 = inout(vreg) a00, a01 = inout(vreg) a01, a02 = inout(vreg) a02,
            a10 = inout(vreg) a10, a11 = inout(vreg) a11, a12 = inout(vreg) a12,
            a20 = inout(vreg) a20, a21 = inout(vreg) a21, a22 = inout(vreg) a22,
            a30 = inout(vreg) a30, a31 = inout(vreg) a31, a32 = inout(vreg) a32,
            a40 = inout(vreg) a40, a41 = inout(vreg) a41, a42 = inout(vreg) a42,
            a50 = inout(vreg) a50, a51 = inout(vreg) a51, a52 = inout(vreg) a52,
            x0 = out(vreg) _, x1 = out(vreg) _, x2 = out(vreg) _, x3 = out(vreg) _, x4 = out(vreg) _, x5 = out(vreg) _,
            q0 = out(vreg) _, q1 = out(vreg) _, q2 = out(vreg) _,
            options(readonly, nostack)
        );
        $acc = [[a00, a01, a02], [a10, a11, a12], [a20, a21, a22], [a30, a31, a32], [a40, a41, a42], [a50, a51, a52]];
    }};
}

/// # Safety
/// The pointers of `t` are valid as [`TileF32`] says.
#[target_feature(enable = "neon")]
unsafe fn tile_f32(t: &TileF32) -> bool {
    let mut acc: Sums = [[vdupq_n_f32(0.0); NV]; MR];
    if t.k > 0 {
        // SAFETY: k is a multiple of 4; each of the MR rows holds at least k floats, `panel` k × NR.
        unsafe { tile_loop!(acc, "fmla", ".4s", ".s", t.rows.cast(), t.stride * 4, t.panel, t.k / 4) };
    }
    if !(t.first && t.last) {
        for (i, acc) in acc.as_flattened_mut().iter_mut().enumerate() {
            // SAFETY: `partial` holds MR × NR floats.
            unsafe {
                let p = t.partial.add(i * 4);
                if !t.first {
                    *acc = vaddq_f32(*acc, vld1q_f32(p));
                }
                vst1q_f32(p, *acc);
            }
        }
        if !t.last {
            return false;
        }
    }
    // SAFETY: the arrays of `test` hold MR and NR values.
    unsafe { test(&acc, &t.test) }
}

/// # Safety
/// The arrays of `t` hold MR and NR values.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn test(acc: &Sums, t: &Test) -> bool {
    let mut threshold = [vdupq_n_f32(0.0); NV];
    for (v, threshold) in threshold.iter_mut().enumerate() {
        // SAFETY: NR thresholds.
        *threshold = unsafe { vld1q_f32(t.threshold.add(v * 4)) };
    }
    // All lanes below their thresholds: nothing to report. NaN is below nothing.
    let mut below = [[vdupq_n_u32(0); NV]; MR];
    let mut all = vdupq_n_u32(u32::MAX);
    for r in 0..MR {
        // SAFETY: MR scales and biases.
        let (scale, bias) = unsafe { (*t.scale.add(r), vdupq_n_f32(*t.bias.add(r))) };
        for v in 0..NV {
            below[r][v] = vcltq_f32(vfmaq_n_f32(bias, acc[r][v], scale), threshold[v]);
            all = vandq_u32(all, below[r][v]);
        }
    }
    if vminvq_u32(all) != 0 {
        return false;
    }
    // SAFETY: four integers.
    let bits = unsafe { vld1q_u32([1u32, 2, 4, 8].as_ptr()) };
    for (r, below) in below.iter().enumerate() {
        let mut mask = 0;
        for (v, &below) in below.iter().enumerate() {
            mask |= vaddvq_u32(vbicq_u32(bits, below)) << (v * 4);
        }
        // SAFETY: `hits` holds MR masks.
        unsafe { *t.hits.add(r) = mask };
    }
    true
}

/// # Safety
/// The arrays of `t` hold MR and NR values.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn finish(acc: &[[int32x4_t; NV]; MR], t: &TileI8) -> bool {
    let mut sums: Sums = [[vdupq_n_f32(0.0); NV]; MR];
    for v in 0..NV {
        // SAFETY: NR scales.
        let scale = unsafe { vld1q_f32(t.query_scale.add(v * 4)) };
        for r in 0..MR {
            sums[r][v] = vmulq_f32(vcvtq_f32_s32(acc[r][v]), scale);
        }
    }
    // SAFETY: by the contract.
    unsafe { test(&sums, &t.test) }
}

/// # Safety
/// The CPU has dotprod, and the pointers of `t` are valid as [`TileI8`] says.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_i8_dot(t: &TileI8) -> bool {
    let mut acc = [[vdupq_n_s32(0); NV]; MR];
    if t.k > 0 {
        // SAFETY: k is a multiple of 16; each of the MR rows holds at least k bytes, `panel` k × NR.
        unsafe { tile_loop!(acc, "sdot", ".16b", ".4b", t.rows, t.stride, t.panel, t.k / 16) };
    }
    // SAFETY: by the contract.
    unsafe { finish(&acc, t) }
}

/// Without dotprod: two 16-bit products are added (2·127² fits) before `sadalp` widens them. Rows are taken three at a time, since each pair
/// of queries needs its own register of sums.
///
/// # Safety
/// The pointers of `t` are valid as [`TileI8`] says.
#[target_feature(enable = "neon")]
unsafe fn tile_i8_mull(t: &TileI8) -> bool {
    let mut sums = [[vdupq_n_s32(0); NV]; MR];
    for r0 in (0..MR).step_by(3) {
        let mut acc = [[[vdupq_n_s32(0); 2]; NV]; 3];
        let mut panel = t.panel;
        for d in (0..t.k).step_by(8) {
            let mut x = [[vdup_n_s8(0); 2]; 3];
            for (r, x) in x.iter_mut().enumerate() {
                // SAFETY: each row holds at least k bytes and k is a multiple of 8.
                let bytes = unsafe { vreinterpret_s32_s8(vld1_s8(t.rows.add((r0 + r) * t.stride + d).cast())) };
                *x = [vreinterpret_s8_s32(vdup_lane_s32::<0>(bytes)), vreinterpret_s8_s32(vdup_lane_s32::<1>(bytes))];
            }
            for v in 0..NV {
                // SAFETY: `panel` holds k × NR bytes.
                let (q0, q1) = unsafe { (vld1q_s8(panel.add(v * 16)), vld1q_s8(panel.add(NR * 4 + v * 16))) };
                for r in 0..3 {
                    let low = vmlal_s8(vmull_s8(vget_low_s8(q0), x[r][0]), vget_low_s8(q1), x[r][1]);
                    acc[r][v][0] = vpadalq_s16(acc[r][v][0], low);
                    let high = vmlal_s8(vmull_s8(vget_high_s8(q0), x[r][0]), vget_high_s8(q1), x[r][1]);
                    acc[r][v][1] = vpadalq_s16(acc[r][v][1], high);
                }
            }
            // SAFETY: eight dimensions were used.
            panel = unsafe { panel.add(8 * NR) };
        }
        for r in 0..3 {
            for v in 0..NV {
                sums[r0 + r][v] = vpaddq_s32(acc[r][v][0], acc[r][v][1]);
            }
        }
    }
    // SAFETY: by the contract.
    unsafe { finish(&sums, t) }
}

/// Four halves as f32s: `fcvtl`, which every ARMv8 has; the intrinsic is not stable in this compiler.
///
/// # Safety
/// Eight bytes can be read at `p`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load_f16(p: *const f16) -> float32x4_t {
    // SAFETY: by the contract.
    let halves = unsafe { vld1_u16(p.cast()) };
    let out: float32x4_t;
    // SAFETY: registers only.
    unsafe {
        asm!("fcvtl {o:v}.4s, {i:v}.4h", o = out(vreg) out, i = in(vreg) halves, options(pure, nomem, nostack, preserves_flags))
    };
    out
}

macro_rules! dot_norm {
    ($name:ident, $element:ty, $load:ident, $to_f32:expr) => {
        #[target_feature(enable = "neon")]
        fn $name(x: &[$element], q: &[f32]) -> (f32, f32) {
            let n = x.len();
            assert_eq!(n, q.len());
            let (mut dots, mut norms) = ([vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
            let mut d = 0;
            while d + 16 <= n {
                for v in 0..4 {
                    // SAFETY: d + 16 ≤ n, the length of both.
                    let (x, q) = unsafe { ($load(x.as_ptr().add(d + v * 4)), vld1q_f32(q.as_ptr().add(d + v * 4))) };
                    dots[v] = vfmaq_f32(dots[v], x, q);
                    norms[v] = vfmaq_f32(norms[v], x, x);
                }
                d += 16;
            }
            let (mut dot, mut norm) = (0f32, 0f32);
            for (x, q) in x[d..].iter().zip(&q[d..]) {
                let x: f32 = $to_f32(*x);
                dot = x.mul_add(*q, dot);
                norm = x.mul_add(x, norm);
            }
            dot += vaddvq_f32(vaddq_f32(vaddq_f32(dots[0], dots[1]), vaddq_f32(dots[2], dots[3])));
            norm += vaddvq_f32(vaddq_f32(vaddq_f32(norms[0], norms[1]), vaddq_f32(norms[2], norms[3])));
            (dot, norm)
        }
    };
}

dot_norm!(dot_norm, f32, vld1q_f32, |x| x);
dot_norm!(dot_norm_f16, f16, load_f16, f16::to_f32);

#[target_feature(enable = "neon")]
fn widen(x: &[f16], out: &mut [f32]) {
    let n = x.len().min(out.len());
    let mut d = 0;
    while d + 4 <= n {
        // SAFETY: d + 4 ≤ both lengths.
        unsafe { vst1q_f32(out.as_mut_ptr().add(d), load_f16(x.as_ptr().add(d))) };
        d += 4;
    }
    for (o, x) in out[d..n].iter_mut().zip(&x[d..n]) {
        *o = x.to_f32();
    }
}

macro_rules! exact_sum {
    ($name:ident, |$acc:ident, $a:ident, $b:ident| $step:expr, $term:ident) => {
        #[target_feature(enable = "neon")]
        fn $name(x: &[f32], y: &[f32]) -> f64 {
            let n = x.len();
            assert_eq!(n, y.len());
            let mut acc = [vdupq_n_f64(0.0); EXACT_LANES / 2];
            for d in (0..n - n % EXACT_LANES).step_by(EXACT_LANES) {
                for v in 0..EXACT_LANES / 4 {
                    // SAFETY: d + EXACT_LANES ≤ n, the length of both.
                    let (x, y) =
                        unsafe { (vld1q_f32(x.as_ptr().add(d + v * 4)), vld1q_f32(y.as_ptr().add(d + v * 4))) };
                    let ($acc, $a, $b) = (acc[2 * v], vcvt_f64_f32(vget_low_f32(x)), vcvt_f64_f32(vget_low_f32(y)));
                    acc[2 * v] = $step;
                    let ($acc, $a, $b) = (acc[2 * v + 1], vcvt_high_f64_f32(x), vcvt_high_f64_f32(y));
                    acc[2 * v + 1] = $step;
                }
            }
            let mut lanes = [0f64; EXACT_LANES];
            for (v, acc) in acc.iter().enumerate() {
                // SAFETY: 2 × EXACT_LANES / 2 values.
                unsafe { vst1q_f64(lanes.as_mut_ptr().add(v * 2), *acc) };
            }
            exact_finish(lanes, x, y, $term)
        }
    };
}

exact_sum!(exact_dot, |acc, a, b| vfmaq_f64(acc, a, b), product);
exact_sum!(
    exact_l2,
    |acc, a, b| {
        let d = vsubq_f64(a, b);
        vaddq_f64(acc, vmulq_f64(d, d))
    },
    squared_difference
);
