//! The inner loops, one module per instruction set, behind one table of functions.
//!
//! Three kinds:
//! - *tile* kernels: `mr` rows × `nr` packed queries, which test a threshold in registers and report only which pairs passed;
//! - *pair* kernels in f32, for scans with too few queries for a tile, and for the norms;
//! - *exact* kernels in f64, which give every final score. They are defined so that each level returns the same bits.

use half::f16;

use crate::simd::Level;

pub(crate) mod scalar;

// The attributes of the x86 levels, by which `x86_tile` and `avx512` make their functions.
#[cfg(target_arch = "x86_64")]
macro_rules! avx2 {
    ($($function:tt)*) => { #[target_feature(enable = "avx2,fma,f16c")] $($function)* };
}
#[cfg(target_arch = "x86_64")]
macro_rules! avx512 {
    ($($function:tt)*) => { #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")] $($function)* };
}
#[cfg(target_arch = "x86_64")]
macro_rules! avx512vnni {
    ($($function:tt)*) => { #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c")] $($function)* };
}
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as intrinsics;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", test))]
mod x86_tile;

/// Lanes of the exact sums: element `i` is added to lane `i % EXACT_LANES`, whatever the width of the registers.
pub(crate) const EXACT_LANES: usize = 16;

/// Rows and packed panels are padded with zeros to a multiple of this many dimensions.
pub(crate) const PAD: usize = 32;

/// Dimensions of one block of the int8 kernels that sum in 16 bits (see `x86_tile`); the last block may be shorter.
pub(crate) const I8_BLOCK: usize = 128;

/// For those kernels the largest norm, before rounding, of a quantised vector over the dimensions of a block that share a 16-bit lane.
/// Rounding moves each of the 64 by at most a half, and the norm by at most √64/2, so it stays below √32767.
pub(crate) const I8_LANE_NORM: f32 = 176.9;
const _: () = assert!(I8_BLOCK == 128 && (176.9 + 4.0) * (176.9 + 4.0) * 1.0001 < 32767.0);

/// No kernel has more rows in a register tile.
pub(crate) const MAX_MR: usize = 12;

/// One call of an f32 tile kernel.
pub(crate) struct TileF32 {
    /// `mr` rows, `stride` floats apart.
    pub rows: *const f32,
    pub stride: usize,
    /// `k × nr` floats: for each dimension the values of `nr` queries.
    pub panel: *const f32,
    /// Dimensions of this call, a multiple of 4.
    pub k: usize,
    /// `mr × nr` partial sums, used when `first` and `last` are not both set.
    pub partial: *mut f32,
    pub first: bool,
    pub last: bool,
    pub test: Test,
}

/// The test at the end of a tile: pair (r, j) is a hit unless `sum·scale[r] + bias[r] < threshold[j]`.
/// Written as "unless less", so that NaN is a hit.
pub(crate) struct Test {
    pub scale: *const f32,
    pub bias: *const f32,
    pub threshold: *const f32,
    /// `mr` masks, bit j for query j; written only when there is a hit.
    pub hits: *mut u32,
}

/// One call of an int8 tile kernel (the fields that x86 alone reads are there everywhere, so that the engine is one). `sum` is the integer product times `query_scale[j]`.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct TileI8 {
    /// `mr` rows of bytes, `stride` apart, with the level's offset added.
    pub rows: *const u8,
    pub stride: usize,
    /// `k/4 × nr × 4` bytes: for each four dimensions the values of `nr` queries.
    pub panel: *const i8,
    /// Dimensions, a multiple of [`PAD`].
    pub k: usize,
    /// `nr` integers: minus the offset times the sum of the query.
    pub init: *const i32,
    /// For the 16-bit blocks: for each block `2·nr` integers, minus the offset times the sums of each 16-bit lane.
    pub block_init: *const i16,
    pub query_scale: *const f32,
    /// A line of memory to ask for at the first step, and how far on the next one is: for levels whose [`Kernels::asks_ahead`].
    pub ahead: *const u8,
    pub ahead_step: isize,
    pub test: Test,
}

/// One call of an exact tile kernel: every one of some rows with every one of some columns.
pub(crate) struct ExactTile {
    /// Rows in f64, `k` values each, one after the other.
    pub rows: *const f64,
    /// Columns likewise.
    pub columns: *const f64,
    /// Dimensions, padded with zeros to a multiple of [`EXACT_LANES`].
    pub k: usize,
    /// A value for each pair, by rows: the bits that `exact_dot` or `exact_l2` gives.
    pub out: *mut f64,
}

/// What quantising a row gives besides the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quantised {
    /// `x ≈ scale · X`.
    pub scale: f32,
    /// Σ (x − scale·X)², computed in f32.
    pub residual2: f32,
    /// Σ x², computed in f32 with a longest chain of additions no longer than `dot_norm`'s.
    pub norm2: f32,
}

/// How finely the vectors of an int8 pass are quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range8 {
    /// The largest magnitude.
    pub max: i32,
    /// What is added to the bytes of rows.
    pub offset: i32,
    /// The largest norm over a 16-bit lane of a block; ∞ where nothing is summed in 16 bits.
    pub lane_norm: f32,
}

/// For `maddubs`: rows (offset to unsigned) and queries take ±90, so that two products of at most 180·90 fit its 16 bits, which saturate.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) const RANGE_MADDUBS: Range8 = Range8 { max: 90, offset: 90, lane_norm: I8_LANE_NORM };

impl Range8 {
    /// The magnitude that the largest one of a vector becomes: `max`, or less where the norm over a lane must stay within bounds, and then a whole
    /// number, so that vectors of ±1 stay exact. `lane` is the largest norm over a lane; at most √64 times `largest`, so this is at least 22.
    pub(crate) fn steps(&self, largest: f32, lane: f32) -> f32 {
        let most = self.lane_norm * largest;
        if most < self.max as f32 * lane { (most / lane).floor() } else { self.max as f32 }
    }
}

/// The functions of one level. All are unsafe because the CPU must have the level; [`crate::Simd`] is the proof.
pub(crate) struct Kernels {
    /// Rows and queries in a register tile.
    pub mr: usize,
    pub nr: usize,
    /// How rows and queries are quantised.
    pub i8_range: Range8,
    /// Whether `tile_i8` sums in 16 bits, in blocks.
    pub i8_blocks: bool,
    /// From so many queries on the int8 pass is faster than f32 at this level; `usize::MAX` for never.
    pub i8_from: usize,
    /// `tile_i8` asks for a line of memory each so many dimensions; `usize::MAX` for never.
    pub asks_ahead: usize,
    pub tile_f32: unsafe fn(&TileF32) -> bool,
    pub tile_i8: unsafe fn(&TileI8) -> bool,
    /// (x·q, x·x) in f32.
    pub dot_norm: unsafe fn(&[f32], &[f32]) -> (f32, f32),
    pub dot_norm_f16: unsafe fn(&[f16], &[f32]) -> (f32, f32),
    pub widen: unsafe fn(&[f16], &mut [f32]),
    /// Quantises a row (padded with zeros to `PAD`) into bytes.
    pub quantise: unsafe fn(&[f32], &mut [u8], Range8) -> Quantised,
    /// As `quantise`, of a row that is copied into its place in a tile (whose rest is zeros) on the way.
    pub take: unsafe fn(&[f32], &mut [f32], &mut [u8], Range8) -> Quantised,
    pub exact_dot: unsafe fn(&[f32], &[f32]) -> f64,
    pub exact_l2: unsafe fn(&[f32], &[f32]) -> f64,
    /// The same for rows × columns of a tile at a time.
    pub exact_rows: usize,
    pub exact_columns: usize,
    pub exact_dot_tile: unsafe fn(&ExactTile),
    pub exact_l2_tile: unsafe fn(&ExactTile),
}

/// No exact tile has more pairs.
pub(crate) const MAX_EXACT: usize = 24;

/// The table of `level`, which the build must have.
pub(crate) fn of(level: Level) -> &'static Kernels {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &avx512::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => &avx512::KERNELS_VNNI,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => &neon::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Level::NeonDot => &neon::KERNELS_DOT,
        _ => &scalar::KERNELS,
    }
}

/// Adds the last `x.len() % EXACT_LANES` elements and sums the lanes in the one order all levels use. NaN is given one bit pattern.
#[inline(always)]
pub(crate) fn exact_finish(mut lanes: [f64; EXACT_LANES], x: &[f32], y: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let done = x.len() - x.len() % EXACT_LANES;
    for (lane, (&a, &b)) in lanes.iter_mut().zip(x[done..].iter().zip(&y[done..])) {
        *lane += term(f64::from(a), f64::from(b));
    }
    let mut width = EXACT_LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    if lanes[0].is_nan() { f64::NAN } else { lanes[0] }
}

/// The term of an inner product. The product of two f32 is exact in f64, so fused and unfused sums agree.
#[inline(always)]
pub(crate) fn product(a: f64, b: f64) -> f64 {
    a * b
}

/// The term of a squared distance, rounded after each operation on every level (never fused).
#[inline(always)]
pub(crate) fn squared_difference(a: f64, b: f64) -> f64 {
    let d = a - b;
    d * d
}
