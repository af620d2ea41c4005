//! Asks for memory that the executor will read, while it works on what is there.
//!
//! A heap scan hands out the tuples of a page one after the other; a table that was read into the cache in one go lies there page after page, and rows of
//! one size lie at the same places of each. The processor's own prefetcher needs a few misses to notice each new row, and stops at its end: a scan
//! would wait for memory most of the time.
use pgedge_similarity::{Ahead, touch};

/// Where the last rows were, and so where later ones will be.
#[derive(Default)]
pub struct Prefetch {
    last: isize,
    /// The first row of this page.
    first: isize,
    /// From the first row of a page to that of the next.
    jump: isize,
    /// Bytes of the rows of this page.
    bytes: usize,
    run: Run,
}

/// Pages that follow each other in memory, and are full of rows: a whole table, or what a parallel scan gives out at a time.
#[derive(Default)]
struct Run {
    /// From a page to the next, up or down; 0 when there is no run.
    step: isize,
    /// Pages since it began.
    pages: usize,
    /// Pages of the one before, and so of this one as far as is known.
    expected: usize,
    /// Pages that have been asked for.
    asked: usize,
}

const LINE: isize = 64;
const PAGE: isize = 8192;
/// The server's buffers are aligned to this much.
const ALIGNMENT: isize = 4096;
/// Pages that are farther from each other do not follow a pattern.
const FAR: isize = 4 * PAGE;
/// A shorter run is chance.
const SHORT: usize = 4;

impl Prefetch {
    /// Notes a row of `bytes` at `row` and asks for the one a page later. A wrong guess costs a little bandwidth; a prefetch never faults.
    ///
    /// Into the second-level cache, and far enough ahead that memory goes on working for a while. (Asking for the very next row instead, into the first-level
    /// cache, left a third of the time to be waited, and a tile's queries then lost their place there.)
    #[inline]
    pub fn note(&mut self, row: *const u8, bytes: usize) {
        let new_page = self.step(row as isize);
        self.ask_a_page_later(row as isize, bytes as isize, new_page);
    }

    /// As [`note`](Prefetch::note), of a row that goes into a tile of so many rows (0: that is scored at once). In a run of pages all memory of the rows to
    /// come is asked for a tile ahead, a part by the tiles (see [`Ahead`]), the rest row by row.
    #[inline]
    pub fn note_for(&mut self, row: *const u8, bytes: usize, ahead: &mut Ahead, tile: usize) {
        let at = row as isize;
        let last_jump = self.jump;
        let new_page = self.step(at);
        if new_page {
            self.follow(at, bytes, last_jump, ahead, tile);
            self.bytes = 0;
        }
        self.bytes += bytes;
        if self.run.step != 0 {
            ahead.ask();
        } else {
            self.ask_a_page_later(at, bytes as isize, new_page);
        }
    }

    /// At a new page: goes on with the run, begins one, or ends it.
    fn follow(&mut self, at: isize, bytes: usize, last_jump: isize, ahead: &mut Ahead, tile: usize) {
        let (jump, run) = (self.jump, &mut self.run);
        let full = self.bytes * 4 >= PAGE as usize * 3;
        if full && run.step != 0 && jump == run.step {
            run.pages += 1;
            if run.pages > run.expected {
                run.expected = usize::MAX;
            }
        } else {
            let (step, expected) = if full && run.pages > SHORT {
                // What a parallel scan is given next is as long, and lies elsewhere.
                (run.step, run.pages)
            } else if full && jump == last_jump && jump.wrapping_abs() == PAGE {
                (jump, usize::MAX)
            } else {
                *run = Run::default();
                return ahead.stop();
            };
            *run = Run { step, pages: 1, expected, asked: 0 };
            // The page's end, where its first row is; from there to the next page.
            let end = at.wrapping_add(bytes as isize + ALIGNMENT - 1) & !(ALIGNMENT - 1);
            let from = if step < 0 { end.wrapping_sub(PAGE + LINE) } else { end };
            // A row's lines and those between the rows; twice that, where a tile's lead is to be gained first.
            let lines = (PAGE as usize * bytes / self.bytes).div_ceil(LINE as usize);
            ahead.start(from as *const u8, step < 0, if tile > 0 { lines * 2 } else { lines });
        }
        let lead = tile * bytes / self.bytes + 2;
        let most = (run.pages + lead).min(run.expected) - 1;
        if most > run.asked {
            ahead.extend((most - run.asked) * PAGE as usize);
            run.asked = most;
        }
    }

    /// Takes a row's place down; whether it is the first of a page.
    #[inline]
    fn step(&mut self, at: isize) -> bool {
        let step = at.wrapping_sub(self.last);
        self.last = at;
        let new_page = !(-PAGE..0).contains(&step);
        if new_page {
            self.jump = at.wrapping_sub(self.first);
            self.first = at;
        }
        new_page
    }

    #[inline]
    fn ask_a_page_later(&self, at: isize, bytes: isize, new_page: bool) {
        if self.jump.wrapping_abs() > FAR {
            return;
        }
        let next = at.wrapping_add(self.jump);
        if new_page {
            // The page's header and the places of its tuples: the first row lies at the page's end.
            let end = at.wrapping_add(bytes + ALIGNMENT - 1) & !(ALIGNMENT - 1);
            touch(end.wrapping_add(self.jump - PAGE) as *const u8);
        }
        // The tuple's header comes before the vector.
        for line in (-LINE..bytes).step_by(LINE as usize) {
            touch(next.wrapping_add(line) as *const u8);
        }
    }
}
