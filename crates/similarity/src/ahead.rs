//! Memory that is read soon, asked for while the arithmetic goes on.

/// A line of the caches of every processor that this is for.
const LINE: usize = 64;

/// A run of memory that the caller is going to read after the rows it has pushed, and how much of it may be asked for by now.
///
/// The rows of a large table come from memory, the tiles work in the caches. Asked for in bursts, between tiles, the lines waited for each other, since a core
/// has room for ten or twenty that are under way, and memory lay idle while a tile was scored. So the tile kernels ask for a line at every step. Nothing is
/// read: a wrong guess costs bandwidth, and no address is an invalid one to ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// The next line.
    at: usize,
    /// Lines that may still be asked for.
    lines: usize,
    /// Whether the lines follow each other downwards.
    down: bool,
    /// Lines that each row asks for, beside those that the tiles ask for.
    each: usize,
}

impl Ahead {
    /// From here on, in this direction. `each` row asks for so many lines until a tile knows better. There is nothing to ask for yet.
    pub fn start(&mut self, at: *const u8, down: bool, each: usize) {
        *self = Ahead { at: at as usize / LINE * LINE, lines: 0, down, each };
    }

    /// So many bytes more.
    #[inline]
    pub fn extend(&mut self, bytes: usize) {
        self.lines += bytes / LINE;
    }

    /// Forgets what has not been asked for.
    #[inline]
    pub fn stop(&mut self) {
        self.lines = 0;
    }

    /// Asks for a row's share.
    #[inline]
    pub fn ask(&mut self) {
        let (mut at, step, lines) = self.next(self.each);
        for _ in 0..lines {
            touch(at);
            at = at.wrapping_offset(step);
        }
    }

    /// What a tile could not ask for is left to the rows until the next one.
    pub(crate) fn share(&mut self, rows: usize) {
        self.each = self.lines.div_ceil(rows);
    }

    /// At most so many lines, which the caller asks for: the first, what leads to the next, how many.
    #[inline]
    pub(crate) fn next(&mut self, most: usize) -> (*const u8, isize, usize) {
        let lines = most.min(self.lines);
        let (at, step) = (self.at as *const u8, if self.down { -(LINE as isize) } else { LINE as isize });
        self.lines -= lines;
        self.at = self.at.wrapping_add_signed(step * lines as isize);
        (at, step, lines)
    }
}

/// Asks for a line, into the second-level cache: the first is the tile's.
#[inline(always)]
pub fn touch(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch may be given any address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch may be given any address.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_asked_for_twice_or_left_out() {
        for down in [false, true] {
            let sign = if down { -1 } else { 1 };
            let start = 1_000_000 / LINE * LINE;
            let mut ahead = Ahead::default();
            // Somewhere within a line, and nothing may be asked for yet.
            ahead.start((start + 17) as *const u8, down, 7);
            assert_eq!(ahead.next(10).2, 0);
            let mut asked = Vec::new();
            for bytes in [8192, 8192, 0, 640] {
                ahead.extend(bytes);
                for most in [96, 5, 0, 60] {
                    let (at, step, lines) = ahead.next(most);
                    assert!(lines <= most);
                    asked.extend((0..lines).map(|i| at as isize + step * i as isize));
                }
                let lines = ahead.lines;
                ahead.ask();
                asked.extend((0..lines - ahead.lines).map(|_| 0));
            }
            assert_eq!(asked.len() + ahead.lines, (8192 + 8192 + 640) / LINE);
            for (i, &at) in asked.iter().enumerate().filter(|&(_, &at)| at != 0) {
                assert_eq!(at, start as isize + sign * (i * LINE) as isize);
            }
            ahead.stop();
            assert_eq!(ahead.next(10).2, 0);
        }
    }

    #[test]
    fn tiles_and_rows_share_the_asking() {
        use crate::{Metric, Pass, Queries, Scanner, Simd, TopK};

        for simd in Simd::available() {
            let (dim, rows) = (64, 24);
            let flat: Vec<f32> = (0..40 * dim).map(|i| (i * i % 23) as f32 - 11.0).collect();
            let queries = std::sync::Arc::new(Queries::new(simd, Metric::Cosine, dim, &flat).unwrap());
            let steps = queries.panels() * (rows / queries.kernels().mr) * dim / 4;
            let top = TopK::<i64>::new(Metric::Cosine, 40, 3, None).unwrap();
            let mut scan = Scanner::with_pass(queries, top, Pass::Int8, rows).unwrap();
            assert_eq!(scan.tile_rows(), rows);
            scan.ahead_mut().start(flat.as_ptr().cast(), false, 1);
            scan.ahead_mut().extend(100_000 * LINE);
            for (id, row) in flat.chunks_exact(dim).take(rows).enumerate() {
                assert_eq!(scan.ahead_mut().lines, 100_000);
                scan.push(id as i64, row).unwrap();
            }
            let left = 100_000 - if scan.queries().kernels().asks_ahead { steps } else { 0 };
            let ahead = scan.ahead_mut();
            assert_eq!((ahead.lines, ahead.each), (left, left.div_ceil(rows)), "{simd:?}");
            ahead.ask();
            assert_eq!(ahead.lines, left - ahead.each);
        }
    }
}
