//! The tile kernels of x86, written once and instantiated for AVX2 (6 × 16) and AVX-512 (12 × 32).
//!
//! The rows are read by broadcast, the queries from the packed panel: per dimension `MR` broadcasts, `NV` loads and `MR·NV` multiply-adds,
//! all sums in registers. `$isa!` puts the instruction set's attribute on the function (see `mod.rs`).

/// Where the rows of a group of six lie, from the first. The compiler must not know that they are multiples of one number: it would rather compute each
/// from the one before, at every step, than address it by a register of its own.
#[inline(always)]
pub(super) fn offsets(stride: usize) -> [usize; 6] {
    let offsets = std::array::from_fn(|r| r * stride);
    #[cfg(target_arch = "x86_64")]
    let offsets = offsets.map(|mut offset: usize| {
        // SAFETY: no instructions.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) offset, options(pure, nomem, nostack, preserves_flags)) };
        offset
    });
    offsets
}

/// The f32 tile. `$nlt(value, threshold)` gives the mask of "not less than".
macro_rules! f32_tile {
    ($name:ident, $isa:ident, $mr:literal, $nv:literal, $lanes:literal, $zero:ident, $load:ident, $store:ident, $set1:ident, $fma:ident, $add:ident, $nlt:ident) => {
        $isa! {
            /// # Safety
            /// The CPU has the features, and the pointers of `t` are valid as `TileF32` says.
            unsafe fn $name(t: &TileF32) -> bool {
                const NR: usize = $nv * $lanes;
                let mut acc = [[$zero(); $nv]; $mr];
                let mut panel = t.panel;
                let offsets = $crate::kernels::x86_tile::offsets(t.stride);
                let mut rows: [*const f32; $mr / 6] = std::array::from_fn(|g| t.rows.wrapping_add(g * 6 * t.stride));
                for _ in 0..t.k {
                    // SAFETY: `panel` holds k × NR floats and each of the MR rows at least k.
                    unsafe {
                        let mut q = [$zero(); $nv];
                        for (v, q) in q.iter_mut().enumerate() {
                            *q = $load(panel.add(v * $lanes));
                        }
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let x = $set1(*rows[r / 6].add(offsets[r % 6]));
                            for v in 0..$nv {
                                acc[v] = $fma(x, q[v], acc[v]);
                            }
                        }
                        panel = panel.add(NR);
                        rows = rows.map(|row| row.add(1));
                    }
                }
                if !(t.first && t.last) {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        for (v, acc) in acc.iter_mut().enumerate() {
                            // SAFETY: `partial` holds MR × NR floats.
                            unsafe {
                                let p = t.partial.add(r * NR + v * $lanes);
                                if !t.first {
                                    *acc = $add(*acc, $load(p));
                                }
                                $store(p, *acc);
                            }
                        }
                    }
                    if !t.last {
                        return false;
                    }
                }
                let mut masks = [0u32; $mr];
                let mut any = 0;
                for (r, mask) in masks.iter_mut().enumerate() {
                    // SAFETY: `scale` and `bias` hold MR values, `threshold` NR.
                    unsafe {
                        let (scale, bias) = ($set1(*t.test.scale.add(r)), $set1(*t.test.bias.add(r)));
                        for v in 0..$nv {
                            let threshold = $load(t.test.threshold.add(v * $lanes));
                            *mask |= $nlt($fma(acc[r][v], scale, bias), threshold) << (v * $lanes);
                        }
                    }
                    any |= *mask;
                }
                if any != 0 {
                    // SAFETY: `hits` holds MR masks.
                    unsafe { t.test.hits.cast::<[u32; $mr]>().write(masks) };
                }
                any != 0
            }
        }
    };
}

/// The int8 tile. `$dot(acc, rows, queries)` adds the products of four unsigned and four signed bytes to each 32-bit lane.
macro_rules! i8_tile {
    ($name:ident, $isa:ident, $mr:literal, $nv:literal, $lanes:literal, $zero:ident, $load:ident, $set1_epi32:ident, $dot:ident, $finish:ident) => {
        $isa! {
            /// # Safety
            /// The CPU has the features, and the pointers of `t` are valid as `TileI8` says.
            unsafe fn $name(t: &TileI8) -> bool {
                const NR: usize = $nv * $lanes;
                let mut acc = [[$zero(); $nv]; $mr];
                for v in 0..$nv {
                    // SAFETY: `init` holds NR integers.
                    let init = unsafe { $load(t.init.add(v * $lanes).cast()) };
                    for acc in &mut acc {
                        acc[v] = init;
                    }
                }
                let mut panel = t.panel;
                let offsets = $crate::kernels::x86_tile::offsets(t.stride);
                let mut rows: [*const u8; $mr / 6] = std::array::from_fn(|g| t.rows.wrapping_add(g * 6 * t.stride));
                let mut ahead = t.ahead;
                for _ in (0..t.k).step_by(4) {
                    $crate::ahead::touch(ahead);
                    ahead = ahead.wrapping_offset(t.ahead_step);
                    // SAFETY: `panel` holds k × NR bytes and each of the MR rows at least k.
                    unsafe {
                        let mut q = [$zero(); $nv];
                        for (v, q) in q.iter_mut().enumerate() {
                            *q = $load(panel.add(v * $lanes * 4).cast());
                        }
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let x = $set1_epi32(rows[r / 6].add(offsets[r % 6]).cast::<i32>().read_unaligned());
                            for v in 0..$nv {
                                acc[v] = $dot(acc[v], x, q[v]);
                            }
                        }
                        panel = panel.add(NR * 4);
                        rows = rows.map(|row| row.add(4));
                    }
                }
                // SAFETY: the arrays hold MR and NR values.
                unsafe { $finish(&acc, t) }
            }
        }
    };
}

/// The int8 tile whose inner loop sums in 16 bits: two operations for 4 × lanes products instead of three.
///
/// A 16-bit lane takes, over a block of [`super::I8_BLOCK`] dimensions, half of the products of one pair. The sums may wrap on the way;
/// the result is right modulo 2¹⁶, and so right when the true signed sum fits, which by Cauchy–Schwarz holds when
/// the norms of the two quantised vectors over those dimensions have a product ≤ 32767: the quantiser sees to that ([`super::I8_LANE_NORM`]).
/// `block_init` takes away what the offset of the rows added. `maddubs` itself does not saturate: 2·(2·90)·90 < 32768.
macro_rules! i8_block_tile {
    ($name:ident, $isa:ident, $mr:literal, $nv:literal, $lanes:literal, $zero:ident, $load:ident, $set1_epi32:ident, $set1_epi16:ident,
     $maddubs:ident, $madd:ident, $add16:ident, $add32:ident, $finish:ident) => {
        $isa! {
            /// # Safety
            /// The CPU has the features, and the pointers of `t` are valid as `TileI8` says.
            unsafe fn $name(t: &TileI8) -> bool {
                const NR: usize = $nv * $lanes;
                let mut sums = [[$zero(); $nv]; $mr];
                let offsets = $crate::kernels::x86_tile::offsets(t.stride);
                let mut rows: [*const u8; $mr / 6] = std::array::from_fn(|g| t.rows.wrapping_add(g * 6 * t.stride));
                let (mut panel, mut init) = (t.panel, t.block_init);
                for from in (0..t.k).step_by($crate::kernels::I8_BLOCK) {
                    let mut acc = [[$zero(); $nv]; $mr];
                    for v in 0..$nv {
                        // SAFETY: `block_init` holds 2·NR integers for each block.
                        let start = unsafe { $load(init.add(v * $lanes * 2).cast()) };
                        for acc in &mut acc {
                            acc[v] = start;
                        }
                    }
                    // SAFETY: one more block follows or this is one past the end.
                    init = unsafe { init.add(NR * 2) };
                    for _ in 0..(t.k - from).min($crate::kernels::I8_BLOCK) / 4 {
                        // SAFETY: `panel` holds k × NR bytes and each of the MR rows at least k.
                        unsafe {
                            let mut q = [$zero(); $nv];
                            for (v, q) in q.iter_mut().enumerate() {
                                *q = $load(panel.add(v * $lanes * 4).cast());
                            }
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = $set1_epi32(rows[r / 6].add(offsets[r % 6]).cast::<i32>().read_unaligned());
                                for v in 0..$nv {
                                    acc[v] = $add16(acc[v], $maddubs(x, q[v]));
                                }
                            }
                            panel = panel.add(NR * 4);
                            rows = rows.map(|row| row.add(4));
                        }
                    }
                    let ones = $set1_epi16(1);
                    for (sums, acc) in sums.iter_mut().zip(&acc) {
                        for v in 0..$nv {
                            // Volatile, or the compiler would keep these in registers and spill them around the inner loop.
                            // SAFETY: a place in `sums`, borrowed here.
                            unsafe {
                                let sum = &raw mut sums[v];
                                sum.write_volatile($add32(sum.read_volatile(), $madd(acc[v], ones)));
                            }
                        }
                    }
                }
                // SAFETY: the arrays hold MR and NR values.
                unsafe { $finish(&sums, t) }
            }
        }
    };
}

/// The end of the int8 tiles: to f32, times the scales, test.
macro_rules! i8_finish {
    ($name:ident, $isa:ident, $mr:literal, $nv:literal, $lanes:literal, $int:ident, $load:ident, $set1:ident, $convert:ident, $mul:ident, $fma:ident, $nlt:ident) => {
        $isa! {
            /// # Safety
            /// The CPU has the features, and the arrays of `t` hold MR and NR values.
            #[inline]
            unsafe fn $name(acc: &[[$int; $nv]; $mr], t: &TileI8) -> bool {
                let mut masks = [0u32; $mr];
                let mut any = 0;
                for (r, mask) in masks.iter_mut().enumerate() {
                    // SAFETY: by the contract.
                    unsafe {
                        let (scale, bias) = ($set1(*t.test.scale.add(r)), $set1(*t.test.bias.add(r)));
                        for v in 0..$nv {
                            let threshold = $load(t.test.threshold.add(v * $lanes));
                            let sum = $mul($convert(acc[r][v]), $load(t.query_scale.add(v * $lanes)));
                            *mask |= $nlt($fma(sum, scale, bias), threshold) << (v * $lanes);
                        }
                    }
                    any |= *mask;
                }
                if any != 0 {
                    // SAFETY: `hits` holds MR masks.
                    unsafe { t.test.hits.cast::<[u32; $mr]>().write(masks) };
                }
                any != 0
            }
        }
    };
}

/// Exact sums in f64: sixteen lanes, `$nv` registers of `$lanes`.
macro_rules! exact_sum {
    ($name:ident, $isa:ident, $nv:literal, $lanes:literal, $zero:ident, $load:ident, $widen:ident, $store:ident, |$acc:ident, $a:ident, $b:ident| $step:expr, $term:ident) => {
        $isa! {
            /// # Safety
            /// The CPU has the features.
            unsafe fn $name(x: &[f32], y: &[f32]) -> f64 {
                let n = x.len();
                assert_eq!(n, y.len());
                let mut acc = [$zero(); $nv];
                let (xp, yp) = (x.as_ptr(), y.as_ptr());
                for d in (0..n - n % EXACT_LANES).step_by(EXACT_LANES) {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: d + EXACT_LANES ≤ n, the length of both.
                        let (x, y) = unsafe { ($load(xp.add(d + v * $lanes)), $load(yp.add(d + v * $lanes))) };
                        let ($a, $b) = ($widen(x), $widen(y));
                        let $acc = *acc;
                        *acc = $step;
                    }
                }
                let mut lanes = [0f64; EXACT_LANES];
                for (v, acc) in acc.iter().enumerate() {
                    // SAFETY: $nv × $lanes = EXACT_LANES.
                    unsafe { $store(lanes.as_mut_ptr().add(v * $lanes), *acc) };
                }
                exact_finish(lanes, x, y, $term)
            }
        }
    };
}

/// Exact sums of `$mr` rows with `$nr` columns in f64: `$nv` sweeps along the dimensions, each for `$lanes` of the sixteen lanes, all sums of a sweep in
/// registers. `$finish` adds the sweeps' sums of one pair in the order of `exact_finish`.
macro_rules! exact_tile {
    ($name:ident, $isa:ident, $mr:literal, $nr:literal, $nv:literal, $lanes:literal, $zero:ident, $load:ident, $finish:ident, |$acc:ident, $a:ident, $b:ident| $step:expr) => {
        $isa! {
            /// # Safety
            /// The CPU has the features, and the pointers of `t` are valid as `ExactTile` says.
            unsafe fn $name(t: &ExactTile) {
                let mut sums = [[[$zero(); $nr]; $mr]; $nv];
                for (v, sums) in sums.iter_mut().enumerate() {
                    let mut acc = [[$zero(); $nr]; $mr];
                    for d in (v * $lanes..t.k).step_by(EXACT_LANES) {
                        // SAFETY: d + lanes ≤ k, the values of each row and column.
                        let rows: [_; $mr] = std::array::from_fn(|r| unsafe { $load(t.rows.add(r * t.k + d)) });
                        for j in 0..$nr {
                            // SAFETY: as above.
                            let $b = unsafe { $load(t.columns.add(j * t.k + d)) };
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let ($a, $acc) = (rows[r], acc[j]);
                                acc[j] = $step;
                            }
                        }
                    }
                    *sums = acc;
                }
                for r in 0..$mr {
                    for j in 0..$nr {
                        // SAFETY: `out` holds a value for each pair.
                        unsafe { t.out.add(r * $nr + j).write($finish(std::array::from_fn(|v| sums[v][r][j]))) };
                    }
                }
            }
        }
    };
}

/// (x·q, x·x) in f32 with four accumulators each. `$load` reads f32s, or halves as f32s.
macro_rules! dot_norm {
    ($name:ident, $isa:ident, $element:ty, $lanes:literal, $zero:ident, $load_x:ident, $load:ident, $fma:ident, $add:ident, $sum:ident, $to_f32:expr) => {
        $isa! {
            /// # Safety
            /// The CPU has the features.
            unsafe fn $name(x: &[$element], q: &[f32]) -> (f32, f32) {
                let n = x.len();
                assert_eq!(n, q.len());
                let (mut dots, mut norms) = ([$zero(); 4], [$zero(); 4]);
                let mut d = 0;
                while d + 4 * $lanes <= n {
                    for v in 0..4 {
                        // SAFETY: d + 4·lanes ≤ n, the length of both.
                        let (x, q) = unsafe {
                            ($load_x(x.as_ptr().add(d + v * $lanes).cast()), $load(q.as_ptr().add(d + v * $lanes)))
                        };
                        dots[v] = $fma(x, q, dots[v]);
                        norms[v] = $fma(x, x, norms[v]);
                    }
                    d += 4 * $lanes;
                }
                while d + $lanes <= n {
                    // SAFETY: d + lanes ≤ n.
                    let (x, q) = unsafe { ($load_x(x.as_ptr().add(d).cast()), $load(q.as_ptr().add(d))) };
                    dots[0] = $fma(x, q, dots[0]);
                    norms[0] = $fma(x, x, norms[0]);
                    d += $lanes;
                }
                let (mut dot, mut norm) = (0f32, 0f32);
                for (x, q) in x[d..].iter().zip(&q[d..]) {
                    let x: f32 = $to_f32(*x);
                    dot = x.mul_add(*q, dot);
                    norm = x.mul_add(x, norm);
                }
                dot += $sum($add($add(dots[0], dots[1]), $add(dots[2], dots[3])));
                norm += $sum($add($add(norms[0], norms[1]), $add(norms[2], norms[3])));
                (dot, norm)
            }
        }
    };
}

pub(super) use {dot_norm, exact_sum, exact_tile, f32_tile, i8_block_tile, i8_finish, i8_tile};
