//! NEON: tiles of 6 rows × 12 queries in the lane form `fmla v, v, v[i]`: eighteen sums, three registers of queries and six of rows
//! in the thirty-two. Only the queries are packed. With SDOT the same loop on int8; without it `smull`, `smlal2`, `sadalp`.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::{EXACT_LANES, Kernels, Range8, Test, TileF32, TileI8, exact_finish, product, scalar, squared_difference};

const MR: usize = 6;
const NV: usize = 3;
const NR: usize = NV * 4;

pub(super) static KERNELS: Kernels = Kernels {
    mr: MR,
    nr: NR,
    i8_range: Range8 { max: 127, offset: 0, lane_norm: f32::INFINITY },
    i8_blocks: false,
    i8_from: 24,
    asks_ahead: usize::MAX,
    tile_f32,
    tile_i8: tile_i8_mull,
    dot_norm,
    dot_norm_f16,
    widen,
    quantise: scalar::quantise,
    take: scalar::take,
    exact_dot,
    exact_l2,
    exact_rows: scalar::EXACT_MR,
    exact_columns: scalar::EXACT_NR,
    exact_dot_tile: scalar::exact_dot_tile,
    exact_l2_tile: scalar::exact_l2_tile,
};

pub(super) static KERNELS_DOT: Kernels = Kernels {
    mr: MR,
    nr: NR,
    i8_range: Range8 { max: 127, offset: 0, lane_norm: f32::INFINITY },
    i8_blocks: false,
    i8_from: 24,
    asks_ahead: usize::MAX,
    tile_f32,
    tile_i8: tile_i8_dot,
    dot_norm,
    dot_norm_f16,
    widen,
    quantise: scalar::quantise,
    take: scalar::take,
    exact_dot,
    exact_l2,
    exact_rows: scalar::EXACT_MR,
    exact_columns: scalar::EXACT_NR,
    exact_dot_tile: scalar::exact_dot_tile,
    exact_l2_tile: scalar::exact_l2_tile,
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

/// `asm!` with the eighteen sums `a00` to `a52` of `$acc` as operands.
macro_rules! with_sums {
    ($acc:ident, $($code:tt)*) => {{
        let [
            [mut a00, mut a01, mut a02],
            [mut a10, mut a11, mut a12],
            [mut a20, mut a21, mut a22],
            [mut a30, mut a31, mut a32],
            [mut a40, mut a41, mut a42],
            [mut a50, mut a51, mut a52],
        ] = $acc;
        asm!(
            $($code)*
            a00 = inout(vreg) a00, a01 = inout(vreg) a01, a02 = inout(vreg) a02,
            a10 = inout(vreg) a10, a11 = inout(vreg) a11, a12 = inout(vreg) a12,
            a20 = inout(vreg) a20, a21 = inout(vreg) a21, a22 = inout(vreg) a22,
            a30 = inout(vreg) a30, a31 = inout(vreg) a31, a32 = inout(vreg) a32,
            a40 = inout(vreg) a40, a41 = inout(vreg) a41, a42 = inout(vreg) a42,
            a50 = inout(vreg) a50, a51 = inout(vreg) a51, a52 = inout(vreg) a52,
            options(readonly, nostack)
        );
        $acc = [[a00, a01, a02], [a10, a11, a12], [a20, a21, a22], [a30, a31, a32], [a40, a41, a42], [a50, a51, a52]];
    }};
}

/// The loop of a tile: in each of `$turns` > 0 turns sixteen bytes of every row and four times NR lanes of the panel.
/// Written out, because the compiler stores the sums to the stack at every step when it makes the loop of `fmla` itself (26 % of the peak of
/// Neoverse N1 by `make bench-arm`, 67 % of that of Cortex-A72).
/// `fmla` on floats and `sdot` on bytes differ in nothing else. `ldur`, since the scaled form is two operations in the model of Neoverse N1.
macro_rules! tile_loop {
    ($acc:ident, $op:literal, $q:literal, $x:literal, $rows:expr, $stride:expr, $panel:expr, $turns:expr) => {{
        let rows: *const u8 = $rows;
        let stride: usize = $stride;
        with_sums!(
            $acc,
            "2:",
            "ldur {q0:q}, [{panel}]",
            "ldur {q1:q}, [{panel}, #16]",
            "ldr {x0:q}, [{r0}], #16",
            "ldr {x1:q}, [{r1}], #16",
            "ldr {x2:q}, [{r2}], #16",
            "ldr {x3:q}, [{r3}], #16",
            "ldr {x4:q}, [{r4}], #16",
            "ldr {x5:q}, [{r5}], #16",
            "ldur {q2:q}, [{panel}, #32]",
            "subs {turns}, {turns}, #1",
            lane_step!($op, $q, $x, "0"),
            "ldur {q0:q}, [{panel}, #48]",
            "ldur {q1:q}, [{panel}, #64]",
            "ldur {q2:q}, [{panel}, #80]",
            lane_step!($op, $q, $x, "1"),
            "ldur {q0:q}, [{panel}, #96]",
            "ldur {q1:q}, [{panel}, #112]",
            "ldur {q2:q}, [{panel}, #128]",
            lane_step!($op, $q, $x, "2"),
            "ldur {q0:q}, [{panel}, #144]",
            "ldur {q1:q}, [{panel}, #160]",
            "ldur {q2:q}, [{panel}, #176]",
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
            x0 = out(vreg) _, x1 = out(vreg) _, x2 = out(vreg) _, x3 = out(vreg) _, x4 = out(vreg) _, x5 = out(vreg) _,
            q0 = out(vreg) _, q1 = out(vreg) _, q2 = out(vreg) _,
        );
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

/// Eight dimensions of three rows with four queries (`$v` is their register's number): two 16-bit products are added, which fits (2·127²), before
/// `sadalp` widens them. The sums of query pairs 0, 1 go to rows 0–2 of the sums, those of pairs 2, 3 to rows 3–5.
macro_rules! mull_step {
    ($v:literal, $at:literal, $next:literal) => {
        concat!(
            "ldur {q0:q}, [{panel}, #",
            $at,
            "]\n",
            "ldur {q1:q}, [{panel}, #",
            $next,
            "]\n",
            "smull {t0:v}.8h, {q0:v}.8b, {x0:v}.8b\n",
            "smull2 {t1:v}.8h, {q0:v}.16b, {x0:v}.16b\n",
            "smull {t2:v}.8h, {q0:v}.8b, {x2:v}.8b\n",
            "smull2 {t3:v}.8h, {q0:v}.16b, {x2:v}.16b\n",
            "smull {t4:v}.8h, {q0:v}.8b, {x4:v}.8b\n",
            "smull2 {t5:v}.8h, {q0:v}.16b, {x4:v}.16b\n",
            "smlal {t0:v}.8h, {q1:v}.8b, {x1:v}.8b\n",
            "smlal2 {t1:v}.8h, {q1:v}.16b, {x1:v}.16b\n",
            "smlal {t2:v}.8h, {q1:v}.8b, {x3:v}.8b\n",
            "smlal2 {t3:v}.8h, {q1:v}.16b, {x3:v}.16b\n",
            "smlal {t4:v}.8h, {q1:v}.8b, {x5:v}.8b\n",
            "smlal2 {t5:v}.8h, {q1:v}.16b, {x5:v}.16b\n",
            "sadalp {a0",
            $v,
            ":v}.4s, {t0:v}.8h\n",
            "sadalp {a3",
            $v,
            ":v}.4s, {t1:v}.8h\n",
            "sadalp {a1",
            $v,
            ":v}.4s, {t2:v}.8h\n",
            "sadalp {a4",
            $v,
            ":v}.4s, {t3:v}.8h\n",
            "sadalp {a2",
            $v,
            ":v}.4s, {t4:v}.8h\n",
            "sadalp {a5",
            $v,
            ":v}.4s, {t5:v}.8h\n"
        )
    };
}

/// The loop of the int8 tile without dotprod: in each of `$turns` > 0 turns eight bytes of three rows and eight times NR bytes of the panel.
macro_rules! mull_loop {
    ($acc:ident, $rows:expr, $stride:expr, $panel:expr, $turns:expr) => {{
        let rows: *const u8 = $rows;
        let stride: usize = $stride;
        with_sums!(
            $acc,
            "2:",
            "ld1r {{{x0:v}.4s}}, [{r0}], #4",
            "ld1r {{{x1:v}.4s}}, [{r0}], #4",
            "ld1r {{{x2:v}.4s}}, [{r1}], #4",
            "ld1r {{{x3:v}.4s}}, [{r1}], #4",
            "ld1r {{{x4:v}.4s}}, [{r2}], #4",
            "ld1r {{{x5:v}.4s}}, [{r2}], #4",
            "subs {turns}, {turns}, #1",
            mull_step!("0", "0", "48"),
            mull_step!("1", "16", "64"),
            mull_step!("2", "32", "80"),
            "add {panel}, {panel}, #96",
            "b.ne 2b",
            panel = inout(reg) $panel => _,
            turns = inout(reg) $turns => _,
            r0 = inout(reg) rows => _,
            r1 = inout(reg) rows.wrapping_add(stride) => _,
            r2 = inout(reg) rows.wrapping_add(2 * stride) => _,
            x0 = out(vreg) _, x1 = out(vreg) _, x2 = out(vreg) _, x3 = out(vreg) _, x4 = out(vreg) _, x5 = out(vreg) _,
            q0 = out(vreg) _, q1 = out(vreg) _,
            t0 = out(vreg) _, t1 = out(vreg) _, t2 = out(vreg) _, t3 = out(vreg) _, t4 = out(vreg) _, t5 = out(vreg) _,
        );
    }};
}

/// Without dotprod. Rows are taken three at a time, since each pair of queries needs its own register of sums.
///
/// # Safety
/// The pointers of `t` are valid as [`TileI8`] says.
#[target_feature(enable = "neon")]
unsafe fn tile_i8_mull(t: &TileI8) -> bool {
    let mut sums = [[vdupq_n_s32(0); NV]; MR];
    for r0 in (0..MR).step_by(3) {
        let mut acc = [[vdupq_n_s32(0); NV]; MR];
        if t.k > 0 {
            // SAFETY: k is a multiple of 8; each of the MR rows holds at least k bytes, `panel` k × NR.
            unsafe { mull_loop!(acc, t.rows.add(r0 * t.stride), t.stride, t.panel, t.k / 8) };
        }
        for r in 0..3 {
            for v in 0..NV {
                sums[r0 + r][v] = vpaddq_s32(acc[r][v], acc[r + 3][v]);
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
