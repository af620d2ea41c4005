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
        Level::Neon | Level::NeonDot => peak_neon(rounds),
        _ => 0,
    }
}

macro_rules! peak {
    ($name:ident, $features:literal, $lanes:literal, $set1:path, $fma:path) => {
        #[target_feature(enable = $features)]
        fn $name(rounds: usize) -> u64 {
            let (a, b) = ($set1(std::hint::black_box(1.0)), $set1(std::hint::black_box(1e-9)));
            let mut acc = [b; 12];
            for _ in 0..rounds {
                for acc in &mut acc {
                    *acc = $fma(*acc, a, b);
                }
            }
            std::hint::black_box(acc);
            rounds as u64 * 12 * $lanes * 2
        }
    };
}

#[cfg(target_arch = "x86_64")]
peak!(peak_avx2, "avx2,fma", 8, std::arch::x86_64::_mm256_set1_ps, std::arch::x86_64::_mm256_fmadd_ps);
#[cfg(target_arch = "x86_64")]
peak!(peak_avx512, "avx512f", 16, std::arch::x86_64::_mm512_set1_ps, std::arch::x86_64::_mm512_fmadd_ps);
#[cfg(target_arch = "aarch64")]
peak!(peak_neon, "neon", 4, std::arch::aarch64::vdupq_n_f32, std::arch::aarch64::vfmaq_f32);

/// Runs the f32 tile kernel `rounds` times over `groups` row groups and one panel of `dim` dimensions (a multiple of 16); gives the operations done.
pub fn tile_f32(simd: Simd, dim: usize, groups: usize, rounds: usize) -> u64 {
    use crate::kernels::{MAX_MR, Test, TileF32};
    let kernels = simd.kernels();
    let (mr, nr) = (kernels.mr, kernels.nr);
    let rows = crate::buffer::Aligned::<f32>::zeroed(dim * mr * groups).expect("memory");
    let panel = crate::buffer::Aligned::<f32>::zeroed(dim * nr).expect("memory");
    let (ones, high) = ([1.0f32; 64], [1.0f32; 64]);
    let mut hits = [0u32; MAX_MR];
    for _ in 0..rounds {
        for g in 0..groups {
            let call = TileF32 {
                rows: rows[g * mr * dim..].as_ptr(),
                stride: dim,
                panel: panel.as_ptr(),
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
    (rounds * groups * mr * nr * dim * 2) as u64
}
