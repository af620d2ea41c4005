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
    pages: Pages,
}

/// Bytes of what [`Ahead::page`] takes: a page of the server.
const PAGE: usize = 8192;

/// Pages that come after the run, wherever they lie. When there are too many, those that have waited longest are about to be read and are left out.
#[derive(Clone, Copy, Debug, Default)]
struct Pages {
    at: [usize; Ahead::PAGES],
    first: usize,
    len: usize,
}

impl Pages {
    fn push(&mut self, page: usize) {
        if self.len == Ahead::PAGES {
            self.pop();
        }
        self.at[(self.first + self.len) % Ahead::PAGES] = page;
        self.len += 1;
    }

    fn first(&self) -> Option<usize> {
        (self.len > 0).then(|| self.at[self.first])
    }

    fn pop(&mut self) -> Option<usize> {
        let page = self.first()?;
        self.first = (self.first + 1) % Ahead::PAGES;
        self.len -= 1;
        Some(page)
    }
}

impl Ahead {
    /// From here on, in this direction. `each` row asks for so many lines until a tile knows better. There is nothing to ask for yet.
    pub fn start(&mut self, at: *const u8, down: bool, each: usize) {
        *self = Ahead { at: at as usize / LINE * LINE, lines: 0, down, each, pages: Pages::default() };
    }

    /// Pages that [`Ahead::page`] can take before they are asked for.
    pub const PAGES: usize = 32;

    /// Pages follow, which need not lie together. `each` row asks for so many lines until a tile knows better.
    pub fn start_pages(&mut self, each: usize) {
        *self = Ahead { each, ..Ahead::default() };
    }

    /// One page more.
    #[inline]
    pub fn page(&mut self, at: *const u8) {
        self.pages.push(at as usize / LINE * LINE);
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
        let mut left = self.each;
        while left > 0 {
            let (mut at, step, lines) = self.next(left);
            if lines == 0 {
                return;
            }
            for _ in 0..lines {
                touch(at);
                at = at.wrapping_offset(step);
            }
            left -= lines;
        }
    }

    /// What a tile could not ask for is left to the rows until the next one.
    pub(crate) fn share(&mut self, rows: usize) {
        self.each = (self.lines + self.pages.len * (PAGE / LINE)).div_ceil(rows);
    }

    /// At most so many lines that lie together, which the caller asks for: the first, what leads to the next, how many.
    #[inline]
    pub(crate) fn next(&mut self, most: usize) -> (*const u8, isize, usize) {
        if self.lines == 0
            && let Some(page) = self.pages.pop()
        {
            (self.at, self.lines, self.down) = (page, PAGE / LINE, false);
        }
        while self.lines < most && !self.down && self.pages.first() == Some(self.at + self.lines * LINE) {
            self.pages.pop();
            self.lines += PAGE / LINE;
        }
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
    fn pages_are_asked_for_in_their_order() {
        let mut ahead = Ahead::default();
        ahead.start_pages(7);
        let pages: Vec<usize> = (0..3).map(|i| 1_000_000 * (9 - i) / LINE * LINE).collect();
        pages.iter().for_each(|&page| ahead.page(page as *const u8));
        let mut asked = Vec::new();
        for most in [100, 100, 5, 200, 200] {
            let (at, step, lines) = ahead.next(most);
            assert!(lines <= most);
            asked.extend((0..lines).map(|i| at as usize + step as usize * i));
        }
        assert_eq!(asked.len(), 100 + 28 + 5 + 123 + 128);
        let expected = pages.iter().flat_map(|page| (0..PAGE / LINE).map(move |i| page + i * LINE));
        assert!(asked.into_iter().eq(expected));
        assert_eq!(ahead.next(1).2, 0);
        // The rows' share, across the end of a page.
        pages.iter().for_each(|&page| ahead.page(page as *const u8));
        ahead.share(2);
        assert_eq!(ahead.each, 3 * PAGE / LINE / 2);
        ahead.ask();
        assert_eq!((ahead.lines, ahead.pages.len), (PAGE / LINE / 2, 1));
        // Too many: the first are left out.
        for i in 0..Ahead::PAGES + 4 {
            ahead.page((i * PAGE) as *const u8);
        }
        assert_eq!((ahead.pages.len, ahead.pages.pop()), (Ahead::PAGES, Some(4 * PAGE)));
    }

    #[test]
    fn tiles_and_rows_share_the_asking() {
        use crate::{Metric, Pass, Queries, Scanner, Simd, TopK};

        for simd in Simd::available() {
            let (dim, rows) = (64, 24);
            let flat: Vec<f32> = (0..40 * dim).map(|i| (i * i % 23) as f32 - 11.0).collect();
            let queries = std::sync::Arc::new(Queries::new(simd, Metric::Cosine, dim, &flat).unwrap());
            let asked = dim / queries.kernels().asks_ahead * queries.panels() * (rows / queries.kernels().mr);
            let top = TopK::<i64>::new(Metric::Cosine, 40, 3, None).unwrap();
            let mut scan = Scanner::with_pass(queries, top, Pass::Int8, rows).unwrap();
            assert_eq!(scan.tile_rows(), rows);
            scan.ahead_mut().start(flat.as_ptr().cast(), false, 1);
            scan.ahead_mut().extend(100_000 * LINE);
            for (id, row) in flat.chunks_exact(dim).take(rows).enumerate() {
                assert_eq!(scan.ahead_mut().lines, 100_000);
                scan.push(id as i64, row).unwrap();
            }
            let left = 100_000 - asked;
            let ahead = scan.ahead_mut();
            assert_eq!((ahead.lines, ahead.each), (left, left.div_ceil(rows)), "{simd:?}");
            ahead.ask();
            assert_eq!(ahead.lines, left - ahead.each);
        }
    }
}
