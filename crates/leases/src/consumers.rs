//! Whom a transaction that makes events ready has to tell, without a lock: committers only touch these few words.
//!
//! A consumer that finds nothing says so ([`Consumers::found_nothing`]) and then looks at those who are committing; a committer says that it
//! is committing and then looks for such a consumer ([`Consumers::announces`]). All accesses are sequentially consistent, so at least one
//! of two sees the other: the committer notifies, or the consumer waits for it and looks once more.
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};

/// Sessions that can wait at a time for something to do.
pub const WAITERS: usize = 64;

/// Who waits for events, and who is about to commit some. All zero bytes are a valid state: nobody, and nothing was ever announced.
#[derive(Debug)]
#[repr(C)]
pub struct Consumers {
    /// When a notification was sent last.
    notified_at: AtomicI64,
    /// Transactions on their way to commit that sent no notification.
    quiet: AtomicU32,
    /// A consumer found nothing since the last notification.
    idle: AtomicBool,
    /// Sessions that wait, by number; 0 for a free place.
    waiters: [AtomicU32; WAITERS],
}

impl Default for Consumers {
    fn default() -> Self {
        Self {
            notified_at: AtomicI64::new(0),
            quiet: AtomicU32::new(0),
            idle: AtomicBool::new(false),
            waiters: [const { AtomicU32::new(0) }; WAITERS],
        }
    }
}

impl Consumers {
    /// Whether a transaction that is about to commit has to notify: a consumer is idle, or `is_due` of the last notification's time. If not,
    /// it counts as quiet until [`Self::settle`].
    pub fn announces(&self, now: i64, is_due: impl Fn(i64) -> bool) -> bool {
        self.quiet.fetch_add(1, SeqCst);
        if self.idle.swap(false, SeqCst) || is_due(self.notified_at.load(SeqCst)) {
            self.notified_at.store(now, SeqCst);
            self.settle();
            return true;
        }
        false
    }

    /// A quiet transaction is over.
    pub fn settle(&self) {
        let one_less = |quiet: u32| Some(quiet.saturating_sub(1));
        let _ = self.quiet.fetch_update(SeqCst, SeqCst, one_less);
    }

    /// Whether no quiet transaction is on its way.
    pub fn is_settled(&self) -> bool {
        self.quiet.load(SeqCst) == 0
    }

    /// A consumer found nothing, or the transaction that announced something was rolled back: the next one is to notify.
    /// True when that was known already, so that nothing was announced meanwhile.
    pub fn found_nothing(&self) -> bool {
        self.idle.swap(true, SeqCst)
    }

    /// A place among those that wait, for a session of this number, which is not 0; None when there is none left.
    pub fn enlist(&self, session: u32) -> Option<usize> {
        self.waiters.iter().position(|place| place.compare_exchange(0, session, SeqCst, SeqCst).is_ok())
    }

    /// Gives a place back.
    pub fn leave(&self, place: usize) {
        self.waiters[place].store(0, SeqCst);
    }

    /// The sessions that wait.
    pub fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.waiters.iter().map(|place| place.load(SeqCst)).filter(|&session| session != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn idle_consumers_are_told_once_and_quiet_ones_counted() {
        let c = Consumers::default();
        let never = |_| false;
        assert!(!c.announces(1, never));
        assert!(!c.is_settled());
        assert!(!c.found_nothing(), "it was not known");
        assert!(c.announces(2, never));
        assert!(!c.announces(3, never), "told already");
        c.settle();
        c.settle();
        assert!(c.is_settled());
        c.settle();
        assert!(c.is_settled(), "no wrap-around");
        assert!(!c.found_nothing());
        assert!(c.found_nothing());
        assert!(c.announces(9, |last| last == 2), "due by the last notification's time");
        assert!(c.announces(10, |last| last == 9));
    }

    #[test]
    fn places_are_given_out_once() {
        let c = Consumers::default();
        let places: Vec<_> = (1..=WAITERS as u32).map(|n| c.enlist(n)).collect();
        assert_eq!(places, (0..WAITERS).map(Some).collect::<Vec<_>>());
        assert_eq!(c.enlist(99), None);
        c.leave(7);
        assert_eq!(c.waiting().count(), WAITERS - 1);
        assert_eq!(c.enlist(99), Some(7));
        assert!(c.waiting().any(|n| n == 99));
    }

    /// Committers and one consumer that sleeps until it is told: it never sleeps while something is there.
    #[test]
    fn nobody_sleeps_through_a_commit() {
        const EACH: u64 = 5_000;
        let (c, committed, told) = (Consumers::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..EACH {
                        // Just where it matters which of the two comes first, the other may run.
                        let must = c.announces(0, |_| {
                            std::thread::yield_now();
                            false
                        });
                        committed.fetch_add(1, SeqCst);
                        if must {
                            told.fetch_add(1, SeqCst);
                        } else {
                            c.settle();
                        }
                    }
                });
            }
            s.spawn(|| {
                let mut seen = 0;
                while seen < 2 * EACH {
                    let heard = told.load(SeqCst);
                    let now = committed.load(SeqCst);
                    if now > seen {
                        seen = now;
                        continue;
                    }
                    if !(c.found_nothing() && c.is_settled()) {
                        while !c.is_settled() {
                            std::thread::yield_now();
                        }
                        if committed.load(SeqCst) > seen {
                            continue;
                        }
                    }
                    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
                    while told.load(SeqCst) == heard {
                        assert!(std::time::Instant::now() < deadline, "slept with {seen} seen of {}", committed.load(SeqCst));
                        std::thread::yield_now();
                    }
                }
            });
        });
    }
}
