//! Which kernels this machine gets.

use pgedge_similarity::{Level, Simd, level_name};

#[test]
fn the_best_level_that_is_there_is_taken() {
    let best = Simd::detect().level();
    assert!(best.is_available());
    assert!(level_name().starts_with(best.name()));
    assert!(Level::ALL.iter().all(|&level| level <= best || !level.is_available()));
    if cfg!(target_arch = "aarch64") {
        assert!(best >= Level::Neon, "NEON is part of every ARMv8");
    }
}

/// `scripts/test-arm.sh` says what each emulated core has.
#[test]
fn the_level_is_the_expected_one() {
    match std::env::var("PGEDGE_EXPECT_LEVEL") {
        Ok(expected) => assert_eq!(Simd::detect().level().name(), expected),
        Err(_) => println!("skipped: PGEDGE_EXPECT_LEVEL does not say which level this machine should have"),
    }
}
