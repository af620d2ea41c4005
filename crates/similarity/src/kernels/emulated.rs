//! The AVX-512 kernels on any processor, for the tests: `avx512.rs` compiled once more, against the plain Rust of [`intrinsics`] and without the
//! attributes that ask the processor for anything. Not every machine that builds this has AVX-512; its tiles, masks, tails and constants are tested by this.
//! Where the processor has it (Zen 4 was tried), the same tests run on the real instructions as well.

use super::{
    EXACT_LANES, ExactTile, Kernels, PAD, Quantised, RANGE_MADDUBS, Range8, TileF32, TileI8, exact_finish, product,
    squared_difference, x86_tile,
};

macro_rules! avx512 {
    ($($function:tt)*) => { $($function)* };
}
macro_rules! avx512vnni {
    ($($function:tt)*) => { $($function)* };
}

// Twice on purpose.
#[allow(clippy::duplicate_mod)]
#[path = "avx512.rs"]
mod avx512;

/// The table of an AVX-512 level.
pub(crate) fn of(level: crate::Level) -> &'static Kernels {
    if level == crate::Level::Avx512Vnni { &avx512::KERNELS_VNNI } else { &avx512::KERNELS }
}

/// What the AVX-512 levels take from AVX2, which has tests of its own.
mod avx2 {
    pub(super) use crate::kernels::scalar::{quantise, take, widen};
}

/// The instructions that the kernels use, after the operations in Intel's Intrinsics Guide. Names and signatures are those of `std::arch::x86_64`.
#[allow(non_camel_case_types)]
mod intrinsics {
    use half::f16;

    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m128i(pub(crate) [u8; 16]);
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m256(pub(crate) [f32; 8]);
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m256i(pub(crate) [u8; 32]);
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m512(pub(crate) [f32; 16]);
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m512d(pub(crate) [f64; 8]);
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub(crate) struct __m512i(pub(crate) [u8; 64]);

    pub(crate) const _CMP_NLT_UQ: i32 = 5;

    impl __m512i {
        fn of_i16(f: impl Fn(usize) -> i16) -> Self {
            let lanes: [[u8; 2]; 32] = std::array::from_fn(|i| f(i).to_le_bytes());
            __m512i(*lanes.as_flattened().as_array().expect("64 bytes"))
        }

        fn of_i32(f: impl Fn(usize) -> i32) -> Self {
            let lanes: [[u8; 4]; 16] = std::array::from_fn(|i| f(i).to_le_bytes());
            __m512i(*lanes.as_flattened().as_array().expect("64 bytes"))
        }

        fn i16(&self, i: usize) -> i16 {
            i16::from_le_bytes(self.0.as_chunks().0[i])
        }

        fn i32(&self, i: usize) -> i32 {
            i32::from_le_bytes(self.0.as_chunks().0[i])
        }
    }

    /// Loads of any alignment.
    macro_rules! load {
        ($($load:ident($from:ty) -> $register:ident;)*) => { $(
            /// # Safety
            /// As many bytes as the register has can be read at `p`.
            pub(crate) unsafe fn $load(p: *const $from) -> $register {
                // SAFETY: by the contract; any bits are a register.
                unsafe { p.cast::<$register>().read_unaligned() }
            }
        )* };
    }
    /// Stores of any alignment.
    macro_rules! store {
        ($($store:ident($register:ident) -> $to:ty;)*) => { $(
            /// # Safety
            /// As many bytes as the register has can be written at `p`.
            pub(crate) unsafe fn $store(p: *mut $to, a: $register) {
                // SAFETY: by the contract.
                unsafe { p.cast::<$register>().write_unaligned(a) }
            }
        )* };
    }
    load! {
        _mm256_loadu_ps(f32) -> __m256;
        _mm256_loadu_si256(__m256i) -> __m256i;
        _mm512_loadu_ps(f32) -> __m512;
        _mm512_loadu_pd(f64) -> __m512d;
        _mm512_loadu_si512(__m512i) -> __m512i;
    }
    store! {
        _mm512_storeu_ps(__m512) -> f32;
        _mm512_storeu_pd(__m512d) -> f64;
        _mm_storeu_si128(__m128i) -> __m128i;
    }

    /// One operation a lane.
    macro_rules! lanes {
        ($($name:ident($($a:ident),*) -> $register:ident, |$($x:ident),*| $lane:expr;)*) => { $(
            pub(crate) fn $name($($a: $register),*) -> $register {
                $register(std::array::from_fn(|i| { $(let $x = $a.0[i];)* $lane }))
            }
        )* };
    }
    lanes! {
        _mm512_add_ps(a, b) -> __m512, |x, y| x + y;
        _mm512_mul_ps(a, b) -> __m512, |x, y| x * y;
        _mm512_fmadd_ps(a, b, c) -> __m512, |x, y, z| x.mul_add(y, z);
        _mm512_fnmadd_ps(a, b, c) -> __m512, |x, y, z| (-x).mul_add(y, z);
        _mm512_sub_ps(a, b) -> __m512, |x, y| x - y;
        _mm512_max_ps(a, b) -> __m512, |x, y| if x > y { x } else { y };
        _mm512_add_pd(a, b) -> __m512d, |x, y| x + y;
        _mm512_sub_pd(a, b) -> __m512d, |x, y| x - y;
        _mm512_mul_pd(a, b) -> __m512d, |x, y| x * y;
        _mm512_fmadd_pd(a, b, c) -> __m512d, |x, y, z| x.mul_add(y, z);
    }

    pub(crate) fn _mm512_setzero_ps() -> __m512 {
        __m512([0.0; 16])
    }
    pub(crate) fn _mm512_setzero_pd() -> __m512d {
        __m512d([0.0; 8])
    }
    pub(crate) fn _mm512_setzero_si512() -> __m512i {
        __m512i([0; 64])
    }
    pub(crate) fn _mm512_set1_ps(a: f32) -> __m512 {
        __m512([a; 16])
    }
    pub(crate) fn _mm512_set1_epi16(a: i16) -> __m512i {
        __m512i::of_i16(|_| a)
    }
    pub(crate) fn _mm512_set1_epi32(a: i32) -> __m512i {
        __m512i::of_i32(|_| a)
    }
    pub(crate) fn _mm512_add_epi16(a: __m512i, b: __m512i) -> __m512i {
        __m512i::of_i16(|i| a.i16(i).wrapping_add(b.i16(i)))
    }
    pub(crate) fn _mm512_add_epi32(a: __m512i, b: __m512i) -> __m512i {
        __m512i::of_i32(|i| a.i32(i).wrapping_add(b.i32(i)))
    }
    /// Two products of an unsigned byte of `a` and a signed one of `b`, their sum saturated to 16 bits.
    pub(crate) fn _mm512_maddubs_epi16(a: __m512i, b: __m512i) -> __m512i {
        let product = |i: usize| i32::from(a.0[i]) * i32::from(b.0[i] as i8);
        __m512i::of_i16(|i| (product(2 * i) + product(2 * i + 1)).clamp(i16::MIN.into(), i16::MAX.into()) as i16)
    }
    /// Two products of signed 16-bit values, added in 32 bits.
    pub(crate) fn _mm512_madd_epi16(a: __m512i, b: __m512i) -> __m512i {
        let product = |i: usize| i32::from(a.i16(i)) * i32::from(b.i16(i));
        __m512i::of_i32(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
    }
    /// VNNI: four products of an unsigned byte of `a` and a signed one of `b`, added to 32 bits without saturating.
    pub(crate) fn _mm512_dpbusd_epi32(src: __m512i, a: __m512i, b: __m512i) -> __m512i {
        let product = |i: usize| i32::from(a.0[i]) * i32::from(b.0[i] as i8);
        __m512i::of_i32(|i| (4 * i..4 * i + 4).fold(src.i32(i), |sum, j| sum.wrapping_add(product(j))))
    }
    pub(crate) fn _mm512_cvtepi32_ps(a: __m512i) -> __m512 {
        __m512(std::array::from_fn(|i| a.i32(i) as f32))
    }
    /// The low byte of each.
    pub(crate) fn _mm512_cvtepi32_epi8(a: __m512i) -> __m128i {
        __m128i(std::array::from_fn(|i| a.0[4 * i]))
    }
    pub(crate) fn _mm512_castps_si512(a: __m512) -> __m512i {
        __m512i::of_i32(|i| a.0[i].to_bits() as i32)
    }
    /// Only the operation in use: the larger magnitude; NaN where both are.
    pub(crate) fn _mm512_range_ps<const OPERATION: i32>(a: __m512, b: __m512) -> __m512 {
        const { assert!(OPERATION == 0b1011) };
        __m512(std::array::from_fn(|i| a.0[i].abs().max(b.0[i].abs())))
    }
    /// By halves, as that for `ps`.
    pub(crate) fn _mm512_reduce_add_pd(a: __m512d) -> f64 {
        let mut lanes = a.0;
        for width in [4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }
    pub(crate) fn _mm512_reduce_max_ps(a: __m512) -> f32 {
        a.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    pub(crate) fn _mm512_cvtps_pd(a: __m256) -> __m512d {
        __m512d(a.0.map(f64::from))
    }
    pub(crate) fn _mm512_cvtph_ps(a: __m256i) -> __m512 {
        __m512(std::array::from_fn(|i| f16::from_le_bytes(a.0.as_chunks().0[i]).to_f32()))
    }
    /// Only the predicate in use: unordered or not less.
    pub(crate) fn _mm512_cmp_ps_mask<const PREDICATE: i32>(a: __m512, b: __m512) -> u16 {
        const { assert!(PREDICATE == _CMP_NLT_UQ) };
        let not_less = |i: usize| a.0[i].partial_cmp(&b.0[i]).is_none_or(|o| o.is_ge());
        (0..16).fold(0, |mask, i| mask | u16::from(not_less(i)) << i)
    }
    /// By halves, as the instructions behind it go.
    pub(crate) fn _mm512_reduce_add_ps(a: __m512) -> f32 {
        let mut lanes = a.0;
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }
}

/// The emulated instructions against the processor's narrower ones.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_emulation_does_what_avx2_does() {
    use super::intrinsics as real;
    use intrinsics as ours;

    if !crate::Level::Avx2.is_available() {
        println!("skipped: this CPU lacks avx2+fma");
        return;
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    fn check(bytes: &[u8; 192]) {
        use real::*;
        let at = |i: usize| {
            // SAFETY: there are 192 bytes, i < 3.
            unsafe { ours::_mm512_loadu_si512(bytes.as_ptr().add(i * 64).cast()) }
        };
        let (a, b) = (at(0), at(1));
        for half in 0..2 {
            // SAFETY: as above.
            let half_of = |i: usize| unsafe { _mm256_loadu_si256(bytes.as_ptr().add(i * 64 + half * 32).cast()) };
            let (x, y) = (half_of(0), half_of(1));
            let same = |what: &str, got: ours::__m512i, want: __m256i| {
                let mut stored = [0u8; 32];
                // SAFETY: 32 bytes.
                unsafe { _mm256_storeu_si256(stored.as_mut_ptr().cast(), want) };
                assert_eq!(got.0[half * 32..][..32], stored, "{what}");
            };
            same("maddubs", ours::_mm512_maddubs_epi16(a, b), _mm256_maddubs_epi16(x, y));
            same("madd", ours::_mm512_madd_epi16(a, b), _mm256_madd_epi16(x, y));
            same("add16", ours::_mm512_add_epi16(a, b), _mm256_add_epi16(x, y));
            same("add32", ours::_mm512_add_epi32(a, b), _mm256_add_epi32(x, y));
            let same_floats = |what: &str, got: &[f32], want: __m256| {
                let mut stored = [0f32; 8];
                // SAFETY: 8 floats.
                unsafe { _mm256_storeu_ps(stored.as_mut_ptr(), want) };
                for (got, want) in got.iter().zip(&stored) {
                    assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{what}: {got} {want}");
                }
            };
            same_floats("convert", &ours::_mm512_cvtepi32_ps(a).0[half * 8..], _mm256_cvtepi32_ps(x));
            let floats = |i: usize| ours::_mm512_cvtepi32_ps(at(i));
            // SAFETY: sixteen floats each.
            let load = |v: &ours::__m512| unsafe { _mm256_loadu_ps(v.0.as_ptr().add(half * 8)) };
            let (p, q, r) = (floats(0), floats(1), floats(2));
            let fused = ours::_mm512_fmadd_ps(p, q, r);
            same_floats("fma", &fused.0[half * 8..], _mm256_fmadd_ps(load(&p), load(&q), load(&r)));
            // Raw bits: NaN, infinities and subnormal numbers among them.
            let raw = |i: usize| {
                // SAFETY: as above.
                unsafe { ours::_mm512_loadu_ps(bytes.as_ptr().add(i * 64).cast()) }
            };
            let (p, q) = (raw(0), raw(1));
            let mask = ours::_mm512_cmp_ps_mask::<{ ours::_CMP_NLT_UQ }>(p, q) >> (half * 8) & 0xff;
            let want = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(load(&p), load(&q)));
            assert_eq!(i32::from(mask), want);
        }
        // SAFETY: 32 and 16 bytes.
        unsafe {
            let halves = ours::_mm512_cvtph_ps(ours::_mm256_loadu_si256(bytes.as_ptr().cast()));
            let want = _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast()));
            let mut stored = [0f32; 8];
            _mm256_storeu_ps(stored.as_mut_ptr(), want);
            for (got, want) in halves.0.iter().zip(&stored) {
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
            }
        }
    }
    let mut state = 1u64;
    for round in 0..2000 {
        let mut bytes = [0u8; 192];
        for b in &mut bytes {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // The extremes often, so that sums saturate and wrap.
            *b = if round % 2 == 0 { [0, 0x7f, 0x80, 0xff][(state >> 62) as usize] } else { (state >> 56) as u8 };
        }
        // SAFETY: checked above.
        unsafe { check(&bytes) };
    }
}
