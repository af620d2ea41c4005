//! Which instructions the kernels may use, found once per process.
//!
//! A [`Simd`] can only be obtained for a level this CPU has, so holding one is the proof the kernels need.

use std::fmt;
use std::sync::OnceLock;

use crate::kernels::{self, Kernels};

/// An instruction-set level. Every level gives the same scores, bit for bit, and so the same order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Level {
    /// Portable Rust; always there.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F and BW.
    Avx512,
    /// The same with VNNI, which multiplies int8 four at a time.
    Avx512Vnni,
    /// aarch64 as on Cortex-A72; the baseline there.
    Neon,
    /// aarch64 with the SDOT instruction, as on Cortex-A76.
    NeonDot,
}

impl Level {
    /// Every level of every architecture, worst first.
    pub const ALL: [Level; 6] =
        [Level::Scalar, Level::Avx2, Level::Avx512, Level::Avx512Vnni, Level::Neon, Level::NeonDot];

    /// The level's own name. [`level_name`] says more about the CPU.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2+fma",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512+vnni",
            Level::Neon => "neon",
            Level::NeonDot => "neon+dotprod",
        }
    }

    /// Whether this CPU has the level (and, for the levels of another architecture, whether this build does).
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = || has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = || avx2() && has!("avx512f") && has!("avx512bw");
            match self {
                Level::Scalar => true,
                Level::Avx2 => avx2(),
                Level::Avx512 => avx512(),
                Level::Avx512Vnni => avx512() && has!("avx512dq") && has!("avx512vnni"),
                Level::Neon | Level::NeonDot => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            match self {
                Level::Scalar | Level::Neon => true,
                Level::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
                _ => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Level::Scalar
        }
    }
}

/// The kernels of one level, usable on this CPU.
#[derive(Clone, Copy)]
pub struct Simd {
    level: Level,
    kernels: &'static Kernels,
}

impl Simd {
    /// The best level of this CPU, detected on the first call.
    pub fn detect() -> Simd {
        static BEST: OnceLock<Level> = OnceLock::new();
        let level = *BEST.get_or_init(|| {
            let mut best = Level::Scalar;
            for level in Level::ALL {
                if level.is_available() {
                    best = level;
                }
            }
            best
        });
        Simd { level, kernels: kernels::of(level) }
    }

    /// The kernels of `level`, or `None` where the CPU lacks it.
    pub fn new(level: Level) -> Option<Simd> {
        level.is_available().then(|| Simd { level, kernels: kernels::of(level) })
    }

    /// Every level this CPU has, for tests and comparisons.
    pub fn available() -> Vec<Simd> {
        Level::ALL.into_iter().filter_map(Simd::new).collect()
    }

    /// The AVX-512 levels with their instructions emulated, for the tests of any CPU.
    #[cfg(test)]
    pub(crate) fn emulated() -> [Simd; 2] {
        [Level::Avx512, Level::Avx512Vnni].map(|level| Simd { level, kernels: kernels::emulated::of(level) })
    }

    /// The level of these kernels.
    pub fn level(self) -> Level {
        self.level
    }

    pub(crate) fn kernels(self) -> &'static Kernels {
        self.kernels
    }
}

impl fmt::Debug for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Simd({})", self.level.name())
    }
}

/// What the best level is, with the features of the CPU that matter: `avx512+vnni`, `avx2+fma`, `neon+dotprod+fp16`, `scalar`.
pub fn level_name() -> String {
    #[cfg_attr(not(target_arch = "aarch64"), allow(unused_mut))]
    let mut name = Simd::detect().level().name().to_owned();
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("fp16") {
        name.push_str("+fp16");
    }
    name
}
