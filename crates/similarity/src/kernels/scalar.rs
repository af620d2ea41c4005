//! Portable kernels: always compiled, always tested, and the definition of what the others compute.

use half::f16;

use super::{
    EXACT_LANES, ExactTile, I8_BLOCK, Kernels, Quantised, Range8, TileF32, TileI8, exact_finish, product,
    squared_difference,
};

const MR: usize = 4;
const NR: usize = 8;
/// Rows and columns of an exact tile, and the lanes that it sums at a time: eight registers of two lanes where that is their width.
pub(crate) const EXACT_MR: usize = 2;
pub(crate) const EXACT_NR: usize = 2;
const EXACT_WIDTH: usize = 4;

/// Lanes of the f32 pair sums; the error bound in `bound.rs` counts on at least sixteen.
const LANES: usize = 16;

pub(crate) static KERNELS: Kernels = Kernels {
    mr: MR,
    nr: NR,
    i8_range: Range8 { max: 127, offset: 0, lane_norm: f32::INFINITY },
    i8_blocks: false,
    i8_from: usize::MAX,
    asks_ahead: usize::MAX,
    tile_f32,
    tile_i8,
    dot_norm,
    dot_norm_f16,
    widen,
    quantise,
    take,
    exact_dot,
    exact_l2,
    exact_rows: EXACT_MR,
    exact_columns: EXACT_NR,
    exact_dot_tile,
    exact_l2_tile,
};

/// # Safety
/// The pointers of `t` are valid as [`TileF32`] says.
unsafe fn tile_f32(t: &TileF32) -> bool {
    let mut acc = [[0f32; NR]; MR];
    for d in 0..t.k {
        // SAFETY: `panel` holds k × nr floats, each row at least k.
        let q = unsafe { &*t.panel.add(d * NR).cast::<[f32; NR]>() };
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { *t.rows.add(r * t.stride + d) };
            for j in 0..NR {
                acc[j] += x * q[j];
            }
        }
    }
    if !(t.first && t.last) {
        // SAFETY: `partial` holds mr × nr floats when not both flags are set.
        let partial = unsafe { std::slice::from_raw_parts_mut(t.partial, MR * NR) };
        for (p, a) in partial.iter_mut().zip(acc.as_flattened_mut()) {
            if !t.first {
                *a += *p;
            }
            *p = *a;
        }
    }
    // SAFETY: the arrays of `test` hold mr and nr values.
    t.last && unsafe { test(&acc, &t.test) }
}

/// # Safety
/// The arrays of `t` hold MR and NR values.
unsafe fn test(acc: &[[f32; NR]; MR], t: &super::Test) -> bool {
    let mut masks = [0u32; MR];
    for (r, mask) in masks.iter_mut().enumerate() {
        // SAFETY: by the contract.
        let (scale, bias) = unsafe { (*t.scale.add(r), *t.bias.add(r)) };
        for (j, sum) in acc[r].iter().enumerate() {
            let value = sum * scale + bias;
            // SAFETY: by the contract.
            let below = value < unsafe { *t.threshold.add(j) };
            *mask |= u32::from(!below) << j;
        }
    }
    let any = masks.iter().any(|&m| m != 0);
    if any {
        // SAFETY: `hits` holds mr masks.
        unsafe { std::slice::from_raw_parts_mut(t.hits, MR) }.copy_from_slice(&masks);
    }
    any
}

/// # Safety
/// The pointers of `t` are valid as [`TileI8`] says.
unsafe fn tile_i8(t: &TileI8) -> bool {
    let mut acc = [[0i32; NR]; MR];
    for group in 0..t.k / 4 {
        // SAFETY: `panel` holds k × nr bytes, each row at least k.
        let q = unsafe { &*t.panel.add(group * NR * 4).cast::<[[i8; 4]; NR]>() };
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { *t.rows.add(r * t.stride + group * 4).cast::<[i8; 4]>() };
            for j in 0..NR {
                for i in 0..4 {
                    acc[j] += i32::from(x[i]) * i32::from(q[j][i]);
                }
            }
        }
    }
    let mut values = [[0f32; NR]; MR];
    for r in 0..MR {
        for j in 0..NR {
            // SAFETY: `query_scale` holds nr values. The offset is 0 at this level, so `init` is too.
            values[r][j] = acc[r][j] as f32 * unsafe { *t.query_scale.add(j) };
        }
    }
    // SAFETY: the arrays of `test` hold mr and nr values.
    unsafe { test(&values, &t.test) }
}

fn dot_norm(x: &[f32], q: &[f32]) -> (f32, f32) {
    let (mut dots, mut norms) = ([0f32; LANES], [0f32; LANES]);
    for (x, q) in x.chunks(LANES).zip(q.chunks(LANES)) {
        for (i, (&x, &q)) in x.iter().zip(q).enumerate() {
            dots[i] += x * q;
            norms[i] += x * x;
        }
    }
    (dots.iter().sum(), norms.iter().sum())
}

fn dot_norm_f16(x: &[f16], q: &[f32]) -> (f32, f32) {
    let (mut dots, mut norms) = ([0f32; LANES], [0f32; LANES]);
    for (x, q) in x.chunks(LANES).zip(q.chunks(LANES)) {
        for (i, (x, &q)) in x.iter().zip(q).enumerate() {
            let x = x.to_f32();
            dots[i] += x * q;
            norms[i] += x * x;
        }
    }
    (dots.iter().sum(), norms.iter().sum())
}

pub(super) fn widen(x: &[f16], out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = x.to_f32();
    }
}

pub(crate) fn quantise(x: &[f32], out: &mut [u8], range: Range8) -> Quantised {
    let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let lane = if range.lane_norm < f32::INFINITY { largest_lane(x) } else { 0.0 };
    let (_, norm2) = dot_norm(x, x);
    let steps = range.steps(largest, lane);
    let scale = largest / steps;
    let inverse = if largest > 0.0 { steps / largest } else { 0.0 };
    let mut residuals = [0f32; LANES];
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        for (i, (&x, out)) in x.iter().zip(out).enumerate() {
            let v = (x * inverse).round_ties_even() as i32;
            // Only a row the bounds call irregular can be out of range.
            let v = v.clamp(-range.max, range.max);
            *out = (v + range.offset) as u8;
            let r = x - scale * v as f32;
            residuals[i] += r * r;
        }
    }
    Quantised { scale, residual2: residuals.iter().sum(), norm2 }
}

pub(crate) fn take(from: &[f32], row: &mut [f32], out: &mut [u8], range: Range8) -> Quantised {
    row[..from.len()].copy_from_slice(from);
    quantise(row, out, range)
}

/// The largest norm over the dimensions of a block that share a 16-bit lane: those with one value of d/2 modulo 2.
pub(crate) fn largest_lane(x: &[f32]) -> f32 {
    let lanes = x.chunks(I8_BLOCK).map(|x| {
        let mut sums = [0f32; 2];
        for (d, v) in x.iter().enumerate() {
            sums[d / 2 % 2] += v * v;
        }
        sums[0].max(sums[1])
    });
    lanes.fold(0f32, f32::max).sqrt()
}

fn exact_dot(x: &[f32], y: &[f32]) -> f64 {
    exact(x, y, product)
}

fn exact_l2(x: &[f32], y: &[f32]) -> f64 {
    exact(x, y, squared_difference)
}

#[inline(always)]
fn exact(x: &[f32], y: &[f32], term: impl Fn(f64, f64) -> f64 + Copy) -> f64 {
    let mut lanes = [0f64; EXACT_LANES];
    for (x, y) in x.as_chunks::<EXACT_LANES>().0.iter().zip(y.as_chunks::<EXACT_LANES>().0) {
        for i in 0..EXACT_LANES {
            lanes[i] += term(f64::from(x[i]), f64::from(y[i]));
        }
    }
    exact_finish(lanes, x, y, term)
}

/// # Safety
/// The pointers of `t` are valid as [`ExactTile`] says, for two rows and two columns.
pub(crate) unsafe fn exact_dot_tile(t: &ExactTile) {
    // SAFETY: by the contract.
    unsafe { exact_tile(t, product) }
}

/// # Safety
/// As [`exact_dot_tile`].
pub(crate) unsafe fn exact_l2_tile(t: &ExactTile) {
    // SAFETY: by the contract.
    unsafe { exact_tile(t, squared_difference) }
}

/// # Safety
/// As [`exact_dot_tile`].
#[inline(always)]
unsafe fn exact_tile(t: &ExactTile, term: impl Fn(f64, f64) -> f64) {
    let mut lanes = [[[0f64; EXACT_LANES]; EXACT_NR]; EXACT_MR];
    for from in (0..EXACT_LANES).step_by(EXACT_WIDTH) {
        let mut acc = [[[0f64; EXACT_WIDTH]; EXACT_NR]; EXACT_MR];
        for d in (from..t.k).step_by(EXACT_LANES) {
            // SAFETY: d + EXACT_WIDTH ≤ k, the values of each row and column.
            let at = |start: *const f64, i: usize| unsafe { *start.add(i * t.k + d).cast::<[f64; EXACT_WIDTH]>() };
            let columns: [_; EXACT_NR] = std::array::from_fn(|j| at(t.columns, j));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = at(t.rows, r);
                for (acc, y) in acc.iter_mut().zip(&columns) {
                    for i in 0..EXACT_WIDTH {
                        acc[i] += term(x[i], y[i]);
                    }
                }
            }
        }
        for (lanes, acc) in lanes.as_flattened_mut().iter_mut().zip(acc.as_flattened()) {
            lanes[from..from + EXACT_WIDTH].copy_from_slice(acc);
        }
    }
    for (i, lanes) in lanes.as_flattened().iter().enumerate() {
        // SAFETY: `out` holds a value for each pair.
        unsafe { t.out.add(i).write(exact_finish(*lanes, &[], &[], product)) };
    }
}
