//! Whom a transaction that makes events ready has to tell, without a lock: committers only touch these few words.
//!
//! A consumer that finds nothing says so ([`Consumers::found_nothing`]), waits for those who are committing, and looks once more. A committer
//! says that it is committing and then looks for consumers that nobody has told since ([`Consumers::begin`]); they count as told when a
//! transaction that notifies has committed, not before, so one that fails or hangs keeps no other from telling them. All accesses are
//! sequentially consistent, so at least one of two sees the other: the committer notifies, or the consumer waits for it and looks again.
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Sessions that can wait at a time for something to do.
pub const WAITERS: usize = 64;

/// Who waits for events, and who is about to commit some. All zero bytes are a valid state: nobody, and nothing was ever announced.
#[derive(Debug)]
#[repr(C)]
pub struct Consumers {
    /// When a notification was sent last.
    notified_at: AtomicI64,
    /// When consumers were last told to look again since a commit takes long.
    nudged_at: AtomicI64,
    /// How often a consumer found nothing.
    idle: AtomicU64,
    /// How many of these were told since.
    told: AtomicU64,
    /// Transactions on their way to commit.
    committing: AtomicU32,
    /// There may be some that are not counted, from before this was there.
    doubtful: AtomicBool,
    /// Sessions that wait, by number; 0 for a free place.
    waiters: [AtomicU32; WAITERS],
}

impl Default for Consumers {
    fn default() -> Self {
        Self {
            notified_at: AtomicI64::new(0),
            nudged_at: AtomicI64::new(0),
            idle: AtomicU64::new(0),
            told: AtomicU64::new(0),
            committing: AtomicU32::new(0),
            doubtful: AtomicBool::new(false),
            waiters: [const { AtomicU32::new(0) }; WAITERS],
        }
    }
}

/// What a transaction that is about to commit tells whom, to be handed to [`Consumers::end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// It sends no notification.
    Quiet,
    /// It notifies so many consumers that found nothing.
    Notifies(u64),
}

impl Consumers {
    /// A transaction is about to commit. It has to notify when a consumer is idle, or the last notification is so long ago that another one
    /// `is_due` — if it `may`. Counts until [`Self::end`].
    pub fn begin(&self, now: i64, may: bool, is_due: impl Fn(i64) -> bool) -> Announcement {
        self.committing.fetch_add(1, SeqCst);
        if !may {
            return Announcement::Quiet;
        }
        let (idle, told) = (self.idle.load(SeqCst), self.told.load(SeqCst));
        if idle > told || is_due(self.notified_at.load(SeqCst)) {
            self.notified_at.store(now, SeqCst);
            return Announcement::Notifies(idle);
        }
        Announcement::Quiet
    }

    /// That transaction is over.
    pub fn end(&self, announcement: Announcement, committed: bool) {
        match announcement {
            Announcement::Notifies(idle) if committed => {
                self.told.fetch_max(idle, SeqCst);
            }
            // The next one is due again.
            Announcement::Notifies(_) => self.notified_at.store(0, SeqCst),
            Announcement::Quiet => {}
        }
        let one_less = |n: u32| Some(n.saturating_sub(1));
        let _ = self.committing.fetch_update(SeqCst, SeqCst, one_less);
    }

    /// Whether no transaction is on its way to commit.
    pub fn is_settled(&self) -> bool {
        !self.is_doubtful() && self.committing.load(SeqCst) == 0
    }

    /// There may be transactions on their way that are not counted, or none any more.
    pub fn set_doubtful(&self, doubtful: bool) {
        self.doubtful.store(doubtful, SeqCst);
    }

    /// Whether there may be such transactions.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(SeqCst)
    }

    /// Whether whatever is not visible to a snapshot taken from now on will be announced: a consumer that finds nothing with it can go to sleep.
    pub fn will_be_told(&self) -> bool {
        // In this order: what began to commit after the second look finds the consumer idle, or a notification was sent meanwhile.
        self.idle.load(SeqCst) > self.told.load(SeqCst) && self.is_settled()
    }

    /// A consumer found nothing: whoever begins to commit from now on notifies.
    pub fn found_nothing(&self) {
        self.idle.fetch_add(1, SeqCst);
    }

    /// Whether to tell all consumers to look again since a commit takes long: when the last time `is_due` again.
    pub fn nudge(&self, now: i64, is_due: impl Fn(i64) -> bool) -> bool {
        let last = self.nudged_at.load(SeqCst);
        is_due(last) && self.nudged_at.compare_exchange(last, now, SeqCst, SeqCst).is_ok()
    }

    /// Nobody was told: the transaction was rolled back.
    pub fn undo_nudge(&self) {
        self.nudged_at.store(0, SeqCst);
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

    const NEVER: fn(i64) -> bool = |_| false;
    use Announcement::{Notifies, Quiet};

    #[test]
    fn idle_consumers_are_told_until_somebody_has_committed() {
        let c = Consumers::default();
        let quiet = c.begin(1, true, NEVER);
        assert_eq!(quiet, Quiet);
        assert!(!c.is_settled() && !c.will_be_told());
        c.found_nothing();
        let (a, b) = (c.begin(2, true, NEVER), c.begin(3, true, NEVER));
        assert_eq!((a, b), (Notifies(1), Notifies(1)), "nobody has been told yet");
        c.end(a, false);
        assert_eq!(c.begin(4, false, NEVER), Quiet, "one that may not notify changes nothing");
        c.end(Quiet, true);
        let d = c.begin(4, true, NEVER);
        assert_eq!(d, Notifies(1), "the first was rolled back");
        c.found_nothing();
        c.end(b, true);
        c.end(d, true);
        c.end(quiet, true);
        assert!(c.is_settled());
        let e = c.begin(5, true, NEVER);
        assert_eq!(e, Notifies(2), "whoever found nothing meanwhile was not told");
        c.end(e, true);
        assert_eq!(c.begin(6, true, NEVER), Quiet);
        c.end(Quiet, true);
        c.end(Quiet, true);
        assert!(c.is_settled(), "no wrap-around");
        assert_eq!(c.begin(9, true, |last| last == 5), Notifies(2), "due by the last notification's time");
    }

    #[test]
    fn a_consumer_may_sleep_when_the_next_commit_is_announced() {
        let c = Consumers::default();
        assert!(!c.will_be_told());
        c.found_nothing();
        assert!(c.will_be_told());
        c.set_doubtful(true);
        assert!(!c.will_be_told());
        c.set_doubtful(false);
        let quietly = c.begin(1, false, NEVER);
        assert!(!c.will_be_told(), "one is on its way that says nothing");
        c.end(quietly, true);
        let a = c.begin(1, true, NEVER);
        c.end(a, true);
        assert!(!c.will_be_told(), "the others are told, so the next is quiet");
    }

    #[test]
    fn nudges_are_few() {
        let c = Consumers::default();
        let due = |now: i64| move |last: i64| now - last >= 10;
        assert!(c.nudge(10, due(10)));
        assert!(!c.nudge(19, due(19)));
        c.undo_nudge();
        assert!(c.nudge(19, due(19)));
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

    /// Committers, some of whom fail, and two consumers, each of events of its own, that sleep until they are told: neither ever sleeps while
    /// something of its own is there.
    #[test]
    fn nobody_sleeps_through_a_commit() {
        const EACH: u64 = 3_000;
        let (c, told) = (Consumers::default(), AtomicU64::new(0));
        let committed = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|s| {
            for own in &committed {
                s.spawn(|| {
                    for n in 0..EACH + EACH / 3 {
                        // Just where it matters which of two comes first, the other may run.
                        let announcement = c.begin(0, true, |_| {
                            std::thread::yield_now();
                            false
                        });
                        let commits = n % 4 != 3;
                        own.fetch_add(u64::from(commits), SeqCst);
                        std::thread::yield_now();
                        c.end(announcement, commits);
                        told.fetch_add(u64::from(commits && announcement != Quiet), SeqCst);
                    }
                });
            }
            for own in &committed {
                s.spawn(|| {
                    let (mut seen, mut looks) = (0, 0);
                    while seen < EACH {
                        looks += 1;
                        let heard = told.load(SeqCst);
                        let told_later = c.will_be_told();
                        std::thread::yield_now();
                        let now = own.load(SeqCst);
                        std::thread::yield_now();
                        if now > seen {
                            seen = now;
                            continue;
                        }
                        if !told_later {
                            c.found_nothing();
                            while !c.is_settled() {
                                std::thread::yield_now();
                            }
                            if own.load(SeqCst) > seen {
                                continue;
                            }
                        }
                        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
                        while told.load(SeqCst) == heard {
                            let there = own.load(SeqCst);
                            assert!(
                                std::time::Instant::now() < deadline,
                                "slept with {seen} seen of {there} at look {looks}"
                            );
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
    }
}
