//! When to look for a new leader, and when to let another one: pure, no clock, no I/O.
//!
//! This is what the Raft library lacks: the pre-vote of Ongaro's dissertation (section 9.6), with
//! the leader check of its section 4.2.3. A candidate first asks, and writes nothing; only when a
//! majority says that it hears no leader either, and that the candidate's log is not behind, is
//! the term raised. So a node that was cut off comes back with the term it left with.

use std::collections::BTreeSet;
use std::time::Duration;

/// The time since some fixed instant.
pub(crate) type Time = Duration;

/// The longest time between two elections of one node that keep failing.
const MAX_TIMEOUT: Duration = Duration::from_secs(6);

/// How often in a row a voter asks again soon when another still heard the leader.
const SOON_AGAIN: u32 = 4;

/// The place of a log's last entry: term, then index. The greater one has seen more.
pub(crate) type LastLog = Option<(u64, u64)>;

#[derive(Debug)]
pub(crate) struct Election {
    min: Duration,
    max: Duration,
    rng: u64,
    heard: Option<Time>,
    /// Since when the time counts after which this node stands.
    since: Time,
    timeout: Duration,
    failures: u32,
    denials: u32,
}

/// What this node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) leads: bool,
    pub(crate) votes: bool,
    pub(crate) only_voter: bool,
    /// A message of a leader is being worked on (a slow disk does not make a leader dead).
    pub(crate) busy_following: bool,
}

impl Election {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64, now: Time) -> Self {
        let mut election = Self {
            min,
            max,
            rng: seed,
            heard: None,
            since: now,
            timeout: max,
            failures: 0,
            denials: 0,
        };
        election.draw();
        election
    }

    /// A leader of this term or a later one spoke.
    pub(crate) fn heard_leader(&mut self, now: Time) {
        self.heard = Some(now);
        self.since = now;
        self.start_anew();
    }

    /// This node gave its vote: the candidate gets the time to win.
    pub(crate) fn voted(&mut self, now: Time) {
        self.since = now;
        if self.denials > 0 {
            self.denials = 0;
            self.draw();
        }
    }

    /// When this node was last told, or decided, something that its time to stand counts from.
    pub(crate) fn since(&self) -> Time {
        self.since
    }

    /// Others would not vote for this node, and said so. Most often their leases have a moment left, as the leader's last
    /// words reached them later: they are asked again soon, a few times.
    pub(crate) fn denied(&mut self, now: Time) {
        if self.denials >= SOON_AGAIN {
            return;
        }
        self.denials += 1;
        self.failures = self.failures.saturating_sub(1);
        self.since = now;
        let span = u64::try_from((self.min / 4).as_micros()).unwrap_or(u64::MAX);
        self.timeout = self.min / 8 + Duration::from_micros(self.random() % span.max(1));
    }

    /// The leader said that it is going: its lease is void.
    pub(crate) fn leader_left(&mut self) {
        self.heard = None;
    }

    /// Whether a leader is alive, as far as this node can tell.
    pub(crate) fn leader_alive(&self, now: Time) -> bool {
        self.heard_within(now, self.min)
    }

    /// Whether a leader spoke within `span`.
    pub(crate) fn heard_within(&self, now: Time, span: Duration) -> bool {
        self.heard
            .is_some_and(|heard| now.saturating_sub(heard) < span)
    }

    /// Whether to stand for election now. If so, that counts as tried.
    pub(crate) fn due(&mut self, now: Time, standing: Standing) -> bool {
        if standing.leads {
            // It has to wait its turn again when it leads no more.
            self.since = now;
            self.start_anew();
            return false;
        }
        if standing.busy_following {
            self.heard_leader(now);
            return false;
        }
        if !standing.votes {
            return false;
        }
        if now.saturating_sub(self.since) < self.timeout
            && !(standing.only_voter && self.failures == 0)
        {
            return false;
        }
        self.since = now;
        self.failures = (self.failures + 1).min(8);
        self.draw();
        true
    }

    /// Whether this node would vote for a candidate, were it asked now.
    pub(crate) fn would_grant(
        &self,
        now: Time,
        leads: bool,
        candidate: LastLog,
        own: LastLog,
    ) -> bool {
        !leads && !self.leader_alive(now) && candidate >= own
    }

    fn start_anew(&mut self) {
        if self.failures > 0 || self.denials > 0 {
            (self.failures, self.denials) = (0, 0);
            self.draw();
        }
    }

    /// A new random timeout; longer after failures, so that voters with slow disks, whose votes
    /// take long, get through in the end.
    fn draw(&mut self) {
        let span = u64::try_from((self.max - self.min).as_micros()).unwrap_or(u64::MAX);
        let base = self.min + Duration::from_micros(self.random() % span.max(1));
        let grown = base.mul_f64(1.4f64.powi(self.failures.saturating_sub(1) as i32));
        self.timeout = grown.min(MAX_TIMEOUT.max(base));
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Whether `granted` is a majority of every set of voters (two of them while they change).
pub(crate) fn is_quorum(configs: &[BTreeSet<u64>], granted: &BTreeSet<u64>) -> bool {
    !configs.is_empty()
        && configs
            .iter()
            .all(|voters| voters.intersection(granted).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOTER: Standing = Standing {
        leads: false,
        votes: true,
        only_voter: false,
        busy_following: false,
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn election(seed: u64) -> Election {
        Election::new(ms(800), ms(1400), seed, ms(0))
    }

    #[test]
    fn the_only_voter_does_not_wait() {
        let sole = Standing {
            only_voter: true,
            ..VOTER
        };
        assert!(election(1).due(ms(0), sole));
    }

    #[test]
    fn a_slow_disk_under_a_living_leader_causes_no_election() {
        let mut e = election(1);
        let busy = Standing {
            busy_following: true,
            ..VOTER
        };
        assert!(!e.due(ms(60_000), busy));
        assert!(!e.due(ms(60_100), VOTER));
    }

    #[test]
    fn who_hears_a_leader_or_knows_more_grants_nothing() {
        let mut e = election(1);
        e.heard_leader(ms(1000));
        assert!(!e.would_grant(ms(1700), false, Some((9, 9)), None));
        assert!(e.would_grant(ms(1800), false, Some((9, 9)), None));
        assert!(!e.would_grant(ms(1800), true, Some((9, 9)), None));
        assert!(!e.would_grant(ms(1800), false, Some((1, 9)), Some((2, 3))));
        e.heard_leader(ms(2000));
        e.leader_left();
        assert!(e.would_grant(ms(2001), false, None, None));
    }

    fn stands_after(e: &mut Election, now: u64) -> u64 {
        (0..).find(|t| e.due(ms(now + t), VOTER)).unwrap()
    }

    #[test]
    fn a_vote_or_a_leader_s_word_makes_what_was_asked_before_void() {
        let mut e = election(1);
        let asked_at = stands_after(&mut e, 0);
        assert_eq!(e.since(), ms(asked_at));
        e.voted(ms(asked_at + 1));
        assert_ne!(e.since(), ms(asked_at));
        let mut e = election(1);
        let asked_at = stands_after(&mut e, 0);
        e.heard_leader(ms(asked_at + 1));
        assert_ne!(e.since(), ms(asked_at));
    }

    #[test]
    fn who_is_denied_asks_again_soon_but_not_for_ever() {
        let mut e = election(1);
        e.heard_leader(ms(0));
        let mut now = stands_after(&mut e, 0);
        for _ in 0..SOON_AGAIN {
            e.denied(ms(now));
            let waited = stands_after(&mut e, now);
            assert!((100..=300).contains(&waited), "{waited}");
            now += waited;
        }
        e.denied(ms(now));
        assert!(stands_after(&mut e, now) >= 800);
    }

    #[test]
    fn a_leader_and_a_candidate_get_their_full_time_also_from_one_who_was_denied() {
        let mut e = election(1);
        let now = stands_after(&mut e, 0);
        e.denied(ms(now));
        e.heard_leader(ms(now + 50));
        assert!(stands_after(&mut e, now + 50) >= 800);
        e.denied(ms(5000));
        e.voted(ms(5050));
        assert!(stands_after(&mut e, 5050) >= 800);
    }

    proptest! {
        #[test]
        fn a_voter_stands_between_the_two_timeouts_and_not_while_a_leader_speaks(
            seed: u64, beats in 0u64..20,
        ) {
            let mut e = election(seed);
            let mut now = 0;
            for _ in 0..beats {
                now += 799;
                prop_assert!(!e.due(ms(now), VOTER));
                e.heard_leader(ms(now));
            }
            let stood = (0..).find(|t| e.due(ms(now + t), VOTER)).unwrap();
            prop_assert!((800..=1400).contains(&stood), "{}", stood);
        }

        #[test]
        fn failing_elections_get_rarer_but_never_stop(seed: u64) {
            let mut e = election(seed);
            let mut now = 0;
            for _ in 0..20 {
                let waited = (0..).find(|t| e.due(ms(now + t), VOTER)).unwrap();
                prop_assert!(waited <= 6000);
                now += waited;
            }
        }

        #[test]
        fn two_quorums_of_one_configuration_always_meet(
            voters in prop::collection::btree_set(1u64..9, 1..7),
            a in prop::collection::btree_set(1u64..9, 0..9),
            b in prop::collection::btree_set(1u64..9, 0..9),
        ) {
            let configs = [voters.clone()];
            if is_quorum(&configs, &a) && is_quorum(&configs, &b) {
                prop_assert!(a.intersection(&b).any(|id| voters.contains(id)));
            }
        }
    }
}
