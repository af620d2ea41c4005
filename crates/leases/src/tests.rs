use super::*;

/// Owns what a segment would.
struct Memory {
    state: Box<State>,
    slots: Vec<Slot>,
    by_id: Vec<u32>,
    by_key: Vec<u32>,
}

impl Memory {
    fn new(n: usize) -> Self {
        let slot = Slot {
            id: 0,
            token: 0,
            expires_at: 0,
            claimed_at: 0,
            key: 0,
            kind: 0,
            wait_xid: 0,
            attempt: 0,
            lost: 0,
            place: 0,
            passed_kind: 0,
            passed_lane: 0,
            next_id: 0,
            next_key: 0,
            next: 0,
            prev: 0,
            lane: 0,
            state: 0,
            worker_len: 0,
            worker: [0; WORKER_BYTES],
        };
        let state = State {
            empty: 0,
            free: 0,
            leased: 0,
            heads: [0; LANES],
            tails: [0; LANES],
            next_expiry: 0,
            claims: 0,
            epoch: 0,
            due_at: 0,
            walk_at: 0,
            retain_at: 0,
            retain_page: 0,
            groups: [Group::default(); GROUPS],
            stragglers: [Straggler::default(); STRAGGLERS],
            straggler_count: 0,
            limits: [Limit::new("", 0, None, None, false, 0); LIMITS],
            limit_count: 0,
            limits_wanted: 0,
            limits_read: 0,
            key_from: [0; KEY_BYTES],
            key_from_len: 0,
        };
        let mut m = Self { state: Box::new(state), slots: vec![slot; n], by_id: vec![0; 7], by_key: vec![0; 3] };
        m.queue().reset();
        m
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots, &mut self.by_id, &mut self.by_key)
    }
}

fn request(id: i64, token: i64, expires_at: i64) -> Request<'static> {
    Request { id, lane: 5, place: 0, kind: 1, key: 0, token, expires_at, claimed_at: 0, attempts: 0, worker: "w" }
}

#[test]
fn a_lease_excludes_others_until_it_is_finished() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    assert_eq!(q.lease(&request(7, 1, 10)), Leasing::Granted);
    assert_eq!(q.lease(&request(7, 2, 10)), Leasing::Taken);
    assert!(q.hold(7, 2).is_none() && q.hold(8, 1).is_none());
    assert_eq!(q.hold(7, 1).map(|s| s.attempt), Some(1));
    assert!(q.hold(7, 1).is_none(), "held once");
    q.sweep(100);
    assert_eq!(q.lease(&request(7, 2, 10)), Leasing::Taken, "what is being finished does not expire");
    q.unhold(7, 1, Condition::Leased);
    assert!(q.hold(7, 1).is_some());
    q.finish(7, 1);
    assert!(q.find(7).is_none() && q.state.leased == 0);
}

#[test]
fn an_expired_lease_counts_and_its_holder_may_finish_until_it_is_claimed() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.lease(&request(7, 1, 10));
    q.sweep(9);
    assert!(q.first_free(5).is_none());
    assert!(!q.extend(7, 1, 10, 50) && q.extend(7, 1, 9, 20));
    q.sweep(20);
    assert_eq!(q.first_free(5), q.find(7));
    let before = q.hold(7, 1).unwrap();
    assert_eq!(before.condition(), Condition::Free);
    q.unhold(7, 1, before.condition());
    assert_eq!(q.first_free(5), q.find(7));
    assert_eq!(q.lease(&request(7, 2, 50)), Leasing::Granted);
    assert_eq!(q.slot(q.find(7).unwrap()).attempt, 2);
    assert!(q.hold(7, 1).is_none());
    q.release(7, 1);
    assert!(q.first_free(5).is_none());
    q.release(7, 2);
    assert_eq!(q.lease(&request(7, 3, 50)), Leasing::Granted);
    assert_eq!(q.slot(q.find(7).unwrap()).attempt, 2, "given back unused");
}

#[test]
fn a_key_is_busy_while_one_of_it_is_out() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.lease(&Request { key: 9, ..request(1, 1, 10) });
    assert!(q.key_is_busy(9) && !q.key_is_busy(8));
    q.release(1, 1);
    assert!(!q.key_is_busy(9) && q.find(1).is_none());
    q.lease(&Request { key: 9, ..request(1, 2, 10) });
    q.sweep(10);
    assert!(!q.key_is_busy(9) && q.first_free(5).is_none());
    q.lease(&Request { key: 9, ..request(1, 3, 20) });
    assert_eq!(q.slot(q.find(1).unwrap()).attempt, 2);
}

#[test]
fn memory_is_bounded() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    assert!(
        q.remember(1, 1, 0, 0, 0)
            && q.remember(2, 1, 0, 0, 0)
            && q.remember(2, 1, 0, 0, 0)
            && !q.remember(3, 1, 0, 0, 0)
    );
    assert_eq!(q.lease(&request(3, 1, 9)), Leasing::Granted);
    assert_eq!(q.lease(&request(4, 1, 9)), Leasing::Granted);
    assert_eq!(q.lease(&request(5, 1, 9)), Leasing::Full);
    assert_eq!(q.lease(&request(2, 1, 9)), Leasing::Granted);
    for i in 0..STRAGGLERS as u64 {
        assert!(q.advance(0, 1, (i, 0), &[i]));
    }
    assert!(!q.advance(0, 1, (1000, 0), &[999]), "a cursor does not pass what cannot be remembered");
    assert!(q.advance(0, 1, (1000, 0), &[5, 1001]));
    q.set_straggler(5, 11, 0);
    assert!(q.advance(0, 1, (1001, 0), &[1001]));
}

#[test]
fn which_lanes_a_transaction_was_passed_in() {
    let mut m = Memory::new(1);
    let mut q = m.queue();
    assert!(!q.is_passed(3, 0), "there is no cursor yet");
    let (a, b) = (q.group(11), q.group(12));
    assert!(q.advance(a, 3, (5, i64::MIN), &[5]) && q.advance(b, 3, (7, 1), &[]));
    assert!(q.is_passed(3, 5) && q.is_passed(3, 7) && !q.is_passed(3, 8), "by one cursor or another");
    assert!(!q.is_passed(2, 5) && !q.is_passed(10, 1), "in this lane alone");
}

#[test]
fn cursors_belong_to_filters() {
    let mut m = Memory::new(1);
    let mut q = m.queue();
    let a = q.group(11);
    assert!(q.advance(a, 3, (5, 6), &[]) && q.advance(a, 3, (4, 9), &[]));
    assert_eq!(q.cursor(a, 3), (5, 6));
    for filter in 100..100 + GROUPS as u64 {
        q.state.claims += 1;
        q.group(filter);
    }
    let a = q.group(11);
    assert_eq!(q.cursor(a, 3), (0, i64::MIN), "forgotten, so it starts again");
}

#[test]
fn limits_count_leases_and_tokens() {
    let mut m = Memory::new(8);
    let mut q = m.queue();
    q.lease(&request(1, 1, 10));
    q.set_limits(&[
        Limit::new("t", 1, Some(2), None, false, 0),
        Limit::new("r", 2, None, Some(2.0), false, 0),
        Limit::new("p", 3, None, None, true, 0),
    ]);
    assert_eq!((q.allowance(1, 5, 0), q.allowance(3, 5, 0), q.allowance(4, 5, 0)), (1, 0, 5));
    q.lease(&request(2, 1, 10));
    assert_eq!(q.allowance(1, 5, 0), 0);
    q.hold(2, 1);
    assert_eq!(q.allowance(1, 5, 0), 0);
    q.finish(2, 1);
    q.sweep(10);
    assert_eq!(q.allowance(1, 5, 0), 2);
    assert_eq!(q.allowance(2, 5, 0), 2);
    q.spend(2);
    q.spend(2);
    assert_eq!((q.allowance(2, 5, 0), q.allowance(2, 5, 500_000), q.allowance(2, 5, 9_000_000)), (0, 1, 2));
}

/// A transaction is over for others a moment before its end is noted here. Meanwhile a scan meets the event in its new place, and passes it.
#[test]
fn what_a_scan_passed_while_its_holder_gave_it_back_is_not_forgotten() {
    let leased_at = |place| Request { place, ..request(7, 1, 10) };
    for (held_from, met_at) in [(5, 9), (0, 9), (5, 0)] {
        let mut m = Memory::new(4);
        let mut q = m.queue();
        q.lease(&leased_at(held_from));
        q.hold(7, 1);
        assert!(q.meet(7, 3, met_at, 2) && q.remember(7, 3, met_at, 2, 0));
        q.finish(7, 1);
        let at = q.first_free(3).expect("in the lane where it was met");
        assert_eq!((q.slot(at).id, q.slot(at).kind, q.slot(at).lost), (7, 2, 0));
        assert!(!q.meet(7, 3, met_at, 2), "and free to take");
        assert_eq!(q.lease(&request(7, 2, 50)), Leasing::Granted);
        assert_eq!(q.slot(q.find(7).unwrap()).attempt, 1);
    }
    // Met where it was claimed: whoever finishes it finishes that.
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.lease(&leased_at(5));
    assert!(q.meet(7, 5, 5, 1));
    q.hold(7, 1);
    q.finish(7, 1);
    assert!(q.find(7).is_none());
    // Revoked, expired, released, or bound to a key before: the same.
    q.lease(&Request { key: 9, ..leased_at(0) });
    assert!(q.meet(7, 2, 8, 1));
    q.revoke(7, 2);
    assert!(q.key_is_busy(9), "someone else's");
    q.revoke(7, 1);
    assert!(q.first_free(2).is_some() && !q.key_is_busy(9));
    q.lease(&leased_at(0));
    assert!(q.meet(7, 4, 8, 3));
    q.sweep(10);
    assert_eq!(q.slot(q.first_free(4).unwrap()).kind, 3);
}

#[test]
fn a_revoked_token_is_stale_and_a_later_claim_is_not_its_business() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.lease(&request(7, 1, 10));
    q.sweep(10);
    q.revoke(7, 1);
    assert!(q.hold(7, 1).is_none() && q.first_free(5).is_some());
    q.lease(&request(7, 2, 20));
    q.revoke(7, 1);
    assert!(q.hold(7, 2).is_some());
}

#[test]
fn an_event_that_loses_its_key_can_be_remembered_and_one_that_gets_a_key_is_busy() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.lease(&Request { key: 9, ..request(7, 1, 10) });
    q.sweep(10);
    assert_eq!(q.slot(q.find(7).unwrap()).condition(), Condition::Idle);
    assert!(!q.meet(7, 5, 3, 1) && q.remember(7, 5, 3, 1, 0));
    assert_eq!(q.first_free(5), q.find(7));
    q.lease(&Request { key: 8, ..request(7, 2, 30) });
    assert!(q.key_is_busy(8) && !q.key_is_busy(9));
    q.relocate(q.find(7).unwrap(), 1, 1);
    assert!(q.key_is_busy(8) && q.first_free(1).is_none(), "only what is free moves");
}

#[test]
fn lost_attempts_of_events_that_are_no_more_leave_room() {
    let mut m = Memory::new(2);
    let mut q = m.queue();
    for id in 1..=9 {
        assert_eq!(q.lease(&Request { key: 5, ..request(id, 1, id) }), Leasing::Granted);
        q.sweep(id);
    }
}

/// Against a plain model, many random steps: the lists and the chains stay whole.
#[test]
fn random_steps_keep_it_whole() {
    let mut m = Memory::new(16);
    let mut q = m.queue();
    let mut seed = 42_u64;
    let mut next = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut now = 0;
    for step in 0..200_000_u64 {
        let id = next(24) as i64;
        let token = next(3) as i64 + 1;
        let key = if id % 3 == 0 { id as u64 % 5 + 1 } else { 0 };
        match next(12) {
            0 | 1 => {
                _ = q.lease(&Request { key, lane: (id % 10 + 1) as u8, ..request(id, token, now + next(20) as i64) });
            }
            2 if key == 0 => drop(q.remember(id, (id % 10 + 1) as u8, 0, 0, 0)),
            3 => drop(q.hold(id, token)),
            4 => q.finish(id, token),
            5 => q.unhold(id, token, Condition::Leased),
            6 => q.release(id, token),
            7 => drop(q.meet(id, (token + id) as u8 % 10 + 1, step % 5, 0)),
            8 => {
                if let Some(at) = q.find(id) {
                    q.relocate(at, (id % 7 + 1) as u8, 1);
                }
            }
            9 => {
                q.revoke(id, token);
            }
            _ => {
                now += 1;
                q.sweep(now);
            }
        }
        if step % 97 == 0 {
            check(&q);
        }
    }
}

fn check(q: &Queue<'_>) {
    let (mut free, mut leased) = (0, 0);
    for slot in q.slots() {
        match slot.condition() {
            Condition::Free => free += 1,
            Condition::Leased | Condition::Held => leased += 1,
            _ => {}
        }
        if slot.condition() != Condition::Empty {
            assert_eq!(q.slots()[q.find(slot.id).unwrap() as usize].id, slot.id);
        }
    }
    let mut listed = 0;
    for lane in 1..=LANES as u8 {
        let mut at = q.first_free(lane);
        while let Some(i) = at {
            assert_eq!((q.slot(i).condition(), q.slot(i).lane), (Condition::Free, lane));
            listed += 1;
            at = q.next_free(i);
        }
    }
    assert_eq!((free, leased, free), (q.state.free, q.state.leased, listed));
}

#[test]
fn leases_taken_after_the_table_was_emptied_outlive_that() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    q.set_limits(&[Limit::new("t", 1, Some(2), None, false, 0)]);
    for (id, token) in [(1, 10), (2, 10), (3, 11)] {
        assert_eq!(q.lease(&request(id, token, 50)), Leasing::Granted);
    }
    assert!(q.remember(4, 5, 0, 1, 0));
    let epoch = q.state.epoch;
    q.reset_keeping(&[(3, 11), (2, 99), (7, 11)]);
    assert_ne!(q.state.epoch, epoch);
    assert!(q.find(1).is_none() && q.find(2).is_none() && q.find(4).is_none());
    assert_eq!((q.state.leased, q.state.free, q.allowance(1, 9, 0)), (1, 0, 1));
    assert_eq!(q.lease(&request(3, 12, 60)), Leasing::Taken);
    q.sweep(51);
    assert_eq!(q.lease(&request(3, 12, 60)), Leasing::Granted, "it expires as it would have");
    assert!((10..13).all(|id| q.lease(&request(id, 13, 60)) == Leasing::Granted), "the others' room is free");
}

#[test]
fn a_leased_event_goes_over_to_another_key() {
    let mut m = Memory::new(4);
    let mut q = m.queue();
    assert_eq!(q.lease(&Request { key: 5, ..request(1, 10, 50) }), Leasing::Granted);
    q.change_key(1, 11, 6);
    assert!(q.key_is_busy(5) && !q.key_is_busy(6), "another token's holder changes nothing");
    q.change_key(1, 10, 6);
    assert!(!q.key_is_busy(5) && q.key_is_busy(6));
    q.change_key(1, 10, 0);
    assert!(!q.key_is_busy(6));
    q.change_key(1, 10, 6);
    q.release(1, 10);
    q.change_key(1, 0, 7);
    assert!(q.find(1).is_none(), "nothing is left of an event that is found by its key");
}
