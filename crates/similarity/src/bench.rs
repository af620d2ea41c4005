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
