//! For the benchmarks: the peak of this core's multiply-adds, to compare the tiles with.

use crate::simd::{Level, Simd};

/// Multiply-adds of independent registers only; gives the operations (two for a multiply-add) done. Runs `rounds` × some hundred operations.
pub fn fma_peak(simd: Simd, rounds: usize) -> u64 {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` exists only for levels of this CPU.
        Level::Avx2 => unsafe { peak_avx2(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Vnni => unsafe { peak_avx512(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Level::Neon | Level::NeonDot => unsafe { peak_neon(rounds) },
        _ => 0,
    }
}

/// Numbers without a pattern, between −8e-3 and 8e-3: on zeros or constants a core draws less power and may run faster than on data.
fn fill(values: &mut [f32]) {
    let mut state = 1u32;
    for v in values {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        *v = (state >> 8) as f32 * 1e-9 - 8e-3;
    }
}

macro_rules! peak {
    ($name:ident, $features:literal, $lanes:literal, $load:path, $fma:path) => {
        #[target_feature(enable = $features)]
        fn $name(rounds: usize) -> u64 {
            let mut data = [0f32; 14 * $lanes];
            fill(&mut data);
            // SAFETY: there are 14 registers' worth of values.
            let register = |i: usize| unsafe { $load(data.as_ptr().add(i * $lanes)) };
            let x: [_; 4] = std::array::from_fn(register);
            let q: [_; 2] = std::array::from_fn(|i| register(4 + i));
            let mut acc: [_; 8] = std::array::from_fn(|i| register(6 + i));
            for _ in 0..rounds {
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = $fma(x[i / 2], q[i % 2], *acc);
                }
            }
            std::hint::black_box(acc);
            rounds as u64 * 8 * $lanes * 2
        }
    };
}

#[cfg(target_arch = "x86_64")]
peak!(peak_avx2, "avx2,fma", 8, std::arch::x86_64::_mm256_loadu_ps, std::arch::x86_64::_mm256_fmadd_ps);
#[cfg(target_arch = "x86_64")]
peak!(peak_avx512, "avx512f", 16, std::arch::x86_64::_mm512_loadu_ps, std::arch::x86_64::_mm512_fmadd_ps);
#[cfg(target_arch = "aarch64")]
peak!(peak_neon, "neon", 4, std::arch::aarch64::vld1q_f32, neon_fma);

/// The order of operands of the x86 intrinsics.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn neon_fma(
    x: std::arch::aarch64::float32x4_t,
    q: std::arch::aarch64::float32x4_t,
    acc: std::arch::aarch64::float32x4_t,
) -> std::arch::aarch64::float32x4_t {
    std::arch::aarch64::vfmaq_f32(acc, x, q)
}

/// Runs the f32 tile kernel `rounds` times over `groups` row groups and `panels` panels of `dim` dimensions (a multiple of 16); gives the operations done.
pub fn tile_f32(simd: Simd, dim: usize, groups: usize, panels: usize, rounds: usize) -> u64 {
    use crate::kernels::{MAX_MR, Test, TileF32};
    let kernels = simd.kernels();
    let (mr, nr) = (kernels.mr, kernels.nr);
    let mut rows = crate::buffer::Aligned::<f32>::zeroed(dim * mr * groups).expect("memory");
    let mut panel = crate::buffer::Aligned::<f32>::zeroed(dim * nr * panels).expect("memory");
    fill(&mut rows);
    fill(&mut panel);
    let (ones, high) = ([1.0f32; 64], [1.0f32; 64]);
    let mut hits = [0u32; MAX_MR];
    for _ in 0..rounds {
        for (p, g) in (0..panels).flat_map(|p| (0..groups).map(move |g| (p, g))) {
            let call = TileF32 {
                rows: rows[g * mr * dim..].as_ptr(),
                stride: dim,
                panel: panel[p * dim * nr..].as_ptr(),
                k: dim,
                partial: std::ptr::null_mut(),
                first: true,
                last: true,
                test: Test {
                    scale: ones.as_ptr(),
                    bias: [0.0f32; 64].as_ptr(),
                    threshold: high.as_ptr(),
                    hits: hits.as_mut_ptr(),
                },
            };
            // SAFETY: the arrays are as large as `TileF32` says, and the CPU has the level.
            assert!(!unsafe { (kernels.tile_f32)(&call) });
        }
    }
    (rounds * panels * groups * mr * nr * dim * 2) as u64
}

/// As [`tile_f32`] with the int8 kernel.
pub fn tile_i8(simd: Simd, dim: usize, groups: usize, panels: usize, rounds: usize) -> u64 {
    use crate::kernels::{I8_BLOCK, MAX_MR, Test, TileI8};
    let kernels = simd.kernels();
    let (mr, nr) = (kernels.mr, kernels.nr);
    let mut rows = crate::buffer::Aligned::<u8>::zeroed(dim * mr * groups).expect("memory");
    let mut panel = crate::buffer::Aligned::<i8>::zeroed(dim * nr * panels).expect("memory");
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 28) as u8
    };
    rows.iter_mut().for_each(|b| *b = next());
    panel.iter_mut().for_each(|b| *b = next() as i8);
    let block_init = vec![0i16; dim.div_ceil(I8_BLOCK) * nr * 2];
    let (ones, zeros, high) = ([1.0f32; 64], [0.0f32; 64], [1e30f32; 64]);
    let mut hits = [0u32; MAX_MR];
    for _ in 0..rounds {
        for (p, g) in (0..panels).flat_map(|p| (0..groups).map(move |g| (p, g))) {
            let call = TileI8 {
                rows: rows[g * mr * dim..].as_ptr(),
                stride: dim,
                panel: panel[p * dim * nr..].as_ptr(),
                k: dim,
                init: [0i32; 64].as_ptr(),
                block_init: block_init.as_ptr(),
                query_scale: ones.as_ptr(),
                ahead: panel.as_ptr().cast(),
                ahead_step: 0,
                test: Test {
                    scale: ones.as_ptr(),
                    bias: zeros.as_ptr(),
                    threshold: high.as_ptr(),
                    hits: hits.as_mut_ptr(),
                },
            };
            // SAFETY: the arrays are as large as `TileI8` says, and the CPU has the level.
            assert!(!unsafe { (kernels.tile_i8)(&call) });
        }
    }
    (rounds * panels * groups * mr * nr * dim * 2) as u64
}
