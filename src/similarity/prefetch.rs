//! Asks for the next page's memory while the executor works on this one.
//!
//! A heap scan hands out the tuples of a page one after the other; a table that was read into the cache in one go lies there page after page, and rows of
//! one size lie at the same places of each. The processor's own prefetcher needs a few misses to notice each new row, and stops at its end: a scan
//! would wait for memory most of the time. So each row asks for the row at its place on the page to come, into the second-level cache: far
//! enough ahead that memory goes on working while a tile is scored. (Asking for the very next row instead, into the first-level cache, left a third of the
//! time to be waited, and the tile's queries then lost their place there.)

/// Where the last rows were, and so where later ones will be.
#[derive(Default)]
pub struct Prefetch {
    last: isize,
    /// The first row of this page.
    first: isize,
    /// From the first row of a page to that of the next.
    jump: isize,
}

const LINE: isize = 64;
const PAGE: isize = 8192;
/// The server's buffers are aligned to this much.
const ALIGNMENT: isize = 4096;
/// Pages that are farther from each other do not follow a pattern.
const FAR: isize = 4 * PAGE;

impl Prefetch {
    /// Notes a row of `bytes` at `row` and asks for the one a page later. A wrong guess costs a little bandwidth; a prefetch never faults.
    #[inline]
    pub fn note(&mut self, row: *const u8, bytes: usize) {
        let (at, bytes) = (row as isize, bytes as isize);
        let step = at.wrapping_sub(self.last);
        self.last = at;
        let new_page = !(-PAGE..0).contains(&step);
        if new_page {
            self.jump = at.wrapping_sub(self.first);
            self.first = at;
        }
        if self.jump.wrapping_abs() > FAR {
            return;
        }
        let next = at.wrapping_add(self.jump);
        if new_page {
            // The page's header and the places of its tuples: the first row lies at the page's end.
            let end = at.wrapping_add(bytes + ALIGNMENT - 1) & !(ALIGNMENT - 1);
            touch(end.wrapping_add(self.jump - PAGE));
        }
        // The tuple's header comes before the vector.
        for line in (-LINE..bytes).step_by(LINE as usize) {
            touch(next.wrapping_add(line));
        }
    }
}

#[inline(always)]
fn touch(at: isize) {
    let at = at as *const u8;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may be given any address; SSE is part of x86-64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may be given any address.
    unsafe {
        core::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
