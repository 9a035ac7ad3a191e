//! The traces of ARBITRATION.md that concern arbitration alone, as scripts; each is run with its
//! rule and, in test builds, without.

use super::*;

impl World {
    /// Two arrays in sync, leases granted by both, nothing under way.
    fn in_sync() -> Self {
        let mut world = Self::new(11);
        world.scripted = true;
        world.time = 1_000_000_000;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            world.connect(a, b);
        }
        world.pass(12_000); // the witness's first period of promise
        world.wish(0, Some(Transition::Join));
        world.pass(1000);
        world.wish(0, None);
        assert_eq!(world.nodes[0].arbiter.chosen().in_sync, InSync::Both);
        assert_eq!(world.serving(), [Side::A]);
        world
    }

    fn wish(&mut self, at: usize, intent: Option<Transition>) {
        let holding = matches!(intent, Some(Transition::SwitchOver | Transition::HandOver));
        let env = Environment { intent, holding, drained: holding, ..self.nodes[at].arbiter.env };
        self.nodes[at].arbiter.set_environment(env);
    }

    /// One message or write, the first there is. False: nothing is under way.
    fn one(&mut self) -> bool {
        let pending = (0..self.pipes.len()).flat_map(|pipe| [(pipe, 0), (pipe, 1)]);
        let found = pending.into_iter().find(|&(pipe, end)| !self.pipes[pipe].to[end].is_empty());
        if let Some((pipe, end)) = found {
            self.deliver(pipe, end);
            return true;
        }
        let writes = |world: &Self, at: usize| match at {
            WITNESS => world.witness_writing.len(),
            TWIN => world.twin.as_ref().map_or(0, |twin| twin.writing.len()),
            _ => world.nodes[at].writing.len(),
        };
        let Some(at) = (0..4).find(|&at| writes(self, at) != 0) else { return false };
        self.write_over(at);
        true
    }

    fn quiet(&mut self) {
        while self.one() {
            self.check();
        }
        self.check();
    }

    /// Time passes; everything under way arrives.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(50) {
            self.time += 50_000_000;
            for at in 0..2 {
                self.tick(at);
            }
            self.quiet();
        }
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            if !self.one() {
                self.time += 10_000_000;
                for at in 0..2 {
                    self.tick(at);
                }
            }
            self.check();
        }
        panic!("never\n{}", self.trace.join("\n"));
    }

    fn pipe(&self, a: usize, b: usize) -> Option<usize> {
        self.pipes.iter().position(|pipe| pipe.ends == [a.min(b), a.max(b)])
    }

    fn sever(&mut self, a: usize, b: usize) {
        self.cut[link(a, b)] = true;
        if let Some(pipe) = self.pipe(a, b) {
            self.disconnect(pipe);
        }
    }

    fn heal(&mut self, a: usize, b: usize) {
        self.cut[link(a, b)] = false;
        self.connect(a.min(b), a.max(b));
    }

    /// What travels from `from` to `to` is lost.
    fn lose(&mut self, from: usize, to: usize) {
        let pipe = self.pipe(from, to).unwrap();
        let end = usize::from(from < to);
        self.pipes[pipe].to[end].clear();
    }

    fn vote(&self, at: usize) -> Option<Config> {
        self.nodes[at].arbiter.vote()
    }
}

/// T1, with *drop* in place of pre-elect: an accepted value is not a chosen one.
fn t1() {
    let mut world = World::in_sync();
    world.wish(0, Some(Transition::Drop));
    world.wish(1, Some(Transition::Promote));
    world.until(|world| world.nodes[0].disk.vote.is_some());
    world.sever(0, 1);
    world.sever(0, 2);
    world.restart(0);
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
}

/// W has been lost to both for long enough, and A wishes to pre-elect.
fn witness_lost() -> World {
    let mut world = World::in_sync();
    world.sever(0, 2);
    world.sever(1, 2);
    world.pass(2100);
    assert_eq!(world.serving(), [Side::A]);
    world.wish(0, Some(Transition::PreElect));
    world
}

/// T1 as it was first found: A votes for pre-elect, the accept to B is lost.
fn t1_pre_elect() {
    let mut world = witness_lost();
    world.until(|world| {
        let accept = |message: &Message| matches!(message.body, Body::Accept { .. });
        world.pipe(0, 1).is_some_and(|pipe| world.pipes[pipe].to[1].iter().flatten().any(accept))
    });
    world.sever(0, 1);
    world.heal(1, 2);
    world.wish(0, Some(Transition::Drop));
    world.wish(1, Some(Transition::Promote));
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
    // A's vote is in nobody's way.
    world.heal(0, 1);
    world.pass(1000);
    assert_eq!(world.serving(), [Side::B]);
    assert_eq!(world.vote(0), None);
}

/// F5, F11, F12: pre-elected, the primary goes on without anybody, a restart excepted (T16); the
/// witness is enrolled again when it is back.
#[test]
fn a_pre_elected_primary_goes_on_alone() {
    let mut world = witness_lost();
    world.pass(500);
    world.wish(0, None);
    let chosen = world.nodes[0].arbiter.chosen();
    assert_eq!((chosen.quorum, chosen.in_sync), (Quorum::PrimaryAlone, InSync::Both));
    assert_eq!(world.nodes[1].arbiter.chosen(), chosen);
    world.sever(0, 1);
    world.wish(0, Some(Transition::Drop));
    world.wish(1, Some(Transition::Promote));
    world.heal(1, 2); // B has the witness: it is not promoted all the same
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::A]);
    assert_eq!(world.nodes[0].arbiter.chosen().in_sync, InSync::Primary);
    world.restart(0);
    world.pass(5000);
    assert_eq!(world.serving(), [], "T16");
    world.heal(0, 2);
    world.wish(0, Some(Transition::ReEnrol));
    world.pass(1000);
    assert_eq!(world.serving(), [Side::A]);
    assert_eq!(world.nodes[0].arbiter.chosen().quorum, Quorum::Majority);
}

/// T17: an array that hears the witness does not agree; what was refused stands in nobody's way.
fn t17() {
    let mut world = World::in_sync();
    world.sever(0, 2);
    world.pass(2100);
    world.wish(0, Some(Transition::PreElect));
    world.pass(3000);
    assert_eq!(world.nodes[0].arbiter.chosen().quorum, Quorum::Majority);
    world.wish(0, None);
    world.pass(1000);
    assert_eq!(world.vote(0), None, "withdrawn");
    world.sever(0, 1);
    world.wish(1, Some(Transition::Promote));
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
}

/// A vote for pre-elect that B holds as well is chosen, and finished whoever asks.
#[test]
fn a_pre_elect_that_both_voted_for_is_finished() {
    let mut world = witness_lost();
    world.until(|world| world.nodes[1].disk.vote.is_some());
    world.restart(0);
    world.wish(0, None);
    // B hears the witness again meanwhile.
    world.heal(1, 2);
    world.pass(1000);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.nodes[0].arbiter.chosen().quorum, Quorum::PrimaryAlone);
    assert_eq!(world.serving(), [Side::A]);
}

/// T2: the promise to a primary binds the own vote as well.
fn t2_own_vote() {
    let mut world = World::in_sync();
    world.sever(0, 2);
    world.pass(4000); // A serves by B's grants alone
    world.deaf[1] = true;
    world.wish(1, Some(Transition::Promote));
    world.pass(2000);
    assert_eq!(world.serving(), [Side::A]);
}

/// T2: a voter that voted for B grants nothing to A.
fn t2_grant() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.wish(1, Some(Transition::Promote));
    // W hears nothing of A until its promise is over; B's accept is voted for by W.
    world.sever(0, 2);
    world.until(|world| {
        let vote = world.witness_disk.groups.get(&GROUP).and_then(|record| record.vote);
        vote.is_some()
    });
    // A is back at W before B's commit.
    let pipe = world.pipe(1, 2).unwrap();
    let held = core::mem::take(&mut world.pipes[pipe].to[0]);
    world.heal(0, 2);
    for _ in 0..40 {
        world.time += 1_000_000;
        world.tick(0);
        for end in [1, 0] {
            let pipe = world.pipe(0, 2).unwrap();
            world.deliver(pipe, end);
        }
        world.write_over(WITNESS);
    }
    let pipe = world.pipe(1, 2).unwrap();
    world.pipes[pipe].to[0] = held;
    world.pass(3000);
    assert_eq!(world.serving(), [Side::B]);
}

/// T3: from its vote for another on an array serves nothing until that epoch is decided.
fn t3() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.sever(0, 2);
    world.sever(1, 2);
    world.pass(4000);
    assert_eq!(world.serving(), []);
    // A asks W; the grant travels for long.
    world.heal(0, 2);
    world.until(|world| {
        let pipe = world.pipe(0, 2).unwrap();
        let grants = |message: &Message| matches!(message.body, Body::Granted { .. });
        world.pipes[pipe].to[0].iter().flatten().any(grants)
    });
    let pipe = world.pipe(0, 2).unwrap();
    let held = core::mem::take(&mut world.pipes[pipe].to[0]);
    // B's promote reaches A as a voter.
    world.heal(0, 1);
    world.lose(0, 1);
    world.deaf[1] = true;
    world.wish(1, Some(Transition::Promote));
    world.until(|world| world.nodes[1].arbiter.is_primary());
    world.sever(0, 1);
    let pipe = world.pipe(0, 2).unwrap();
    world.pipes[pipe].to[0] = held;
    world.quiet();
    world.pass(1000);
    assert_eq!(world.serving(), [Side::B]);
}

/// T6, rule 12: what a witness forgot it does not vote on.
fn t6() {
    let mut world = World::in_sync();
    world.old_image = world.witness_disk.clone();
    world.sever(0, 1);
    world.sever(0, 2);
    world.wish(1, Some(Transition::Promote));
    world.until(|world| world.nodes[1].arbiter.is_primary());
    world.sever(1, 2);
    // W is restored to the state before it voted for B.
    let now = world.now(WITNESS);
    let mut out = Vec::new();
    let image = Some(world.old_image.clone());
    world.witness = WitnessCore::start(Timers::default(), image, false, Incarnation([9; 16]), now, &mut out);
    world.carry_out_witness(out);
    world.wish(0, Some(Transition::Drop));
    world.heal(0, 2);
    world.pass(12_000);
    assert_eq!(world.serving(), [Side::B]);
}

/// Rule 12: a blank witness made no promise and grants nothing.
fn blank_witness() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.pass(4000); // A serves by W's grants
    world.sever(0, 2);
    world.sever(1, 2);
    let now = world.now(WITNESS);
    let mut out = Vec::new();
    world.witness = WitnessCore::start(Timers::default(), None, false, Incarnation([9; 16]), now, &mut out);
    world.carry_out_witness(out);
    world.wish(1, Some(Transition::Promote));
    world.heal(1, 2);
    world.pass(1500);
    assert_eq!(world.serving(), [Side::A]);
    world.pass(30_000);
    assert_eq!(world.serving(), []);
}

/// Rule 12: two witnesses are alive at once; A has the new one, B the enrolled one. Both arrays must
/// enrol it.
fn two_witnesses() {
    let mut world = World::in_sync();
    world.start_twin(None);
    world.pass(11_000);
    world.connect(0, TWIN);
    world.wish(0, Some(Transition::ReEnrol));
    world.until(|world| world.nodes[0].disk.vote.is_some());
    world.sever(0, 1); // what A says to B is lost
    world.wish(1, Some(Transition::Promote));
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
    world.connect(1, TWIN); // the other one, which was never enrolled
    world.pass(5000);
    assert_eq!(world.serving(), [Side::B], "alone in sync it needs none");
    world.heal(0, 1);
    world.pass(1000);
    assert_eq!(world.nodes[0].arbiter.chosen().primary, Side::B);
}

/// T18: the holder's own vote for another is no vote against its lease.
fn t18() {
    let mut world = World::in_sync();
    world.wish(0, Some(Transition::SwitchOver));
    world.pass(1000);
    assert_eq!(world.serving(), [Side::B]);
}

/// T19: a witness that kept its incarnation keeps its promise.
fn t19() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.wish(1, Some(Transition::Promote));
    world.sever(1, 2);
    world.pass(4000); // A serves by W's lease alone, B's promise is over
    world.sever(0, 2);
    let now = world.now(WITNESS);
    let mut out = Vec::new();
    let image = Some(world.witness_disk.clone());
    world.witness = WitnessCore::start(Timers::default(), image, true, Incarnation([9; 16]), now, &mut out);
    world.carry_out_witness(out);
    world.heal(1, 2);
    world.pass(1500);
    assert_eq!(world.serving(), [Side::A]);
    world.pass(4000);
    assert_eq!(world.serving(), [Side::B]);
}

/// T20: a promote that W refuses leaves no vote behind.
fn t20() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.pass(3500); // B's promise is over, W's runs on
    world.wish(1, Some(Transition::Promote));
    world.pass(1000);
    assert_eq!(world.vote(1), None);
    world.wish(1, None);
    world.heal(0, 1);
    world.sever(0, 2);
    world.sever(1, 2);
    world.pass(4000);
    assert_eq!(world.serving(), [Side::A]);
}

/// T20: should such a vote stand all the same, the primary gets past it by *drop*.
#[test]
fn a_vote_in_the_way_is_dropped_past() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.wish(1, Some(Transition::Promote));
    world.sever(0, 2);
    world.until(|world| world.witness.record(GROUP).is_some_and(|record| record.vote.is_some()));
    // B never hears that W voted.
    world.sever(1, 2);
    world.wish(1, None);
    world.restart(1);
    world.heal(0, 1);
    world.heal(0, 2);
    world.pass(500);
    assert_eq!(world.nodes[0].arbiter.vote_in_the_way(), Some(Voter::Witness));
    world.wish(0, Some(Transition::Drop));
    world.pass(2000);
    assert_eq!(world.serving(), [Side::A]);
    assert_eq!(world.nodes[0].arbiter.chosen().in_sync, InSync::Primary);
    assert_eq!(world.nodes[0].arbiter.vote_in_the_way(), None);
}

/// T21: a re-enrol vote is decided although the witness it names is gone.
fn t21() {
    let mut world = World::in_sync();
    for round in [8, 9] {
        world.sever(0, 2);
        world.sever(1, 2);
        let now = world.now(WITNESS);
        let mut out = Vec::new();
        let fresh = Incarnation([round; 16]);
        world.witness = WitnessCore::start(Timers::default(), None, false, fresh, now, &mut out);
        world.carry_out_witness(out);
        world.pass(11_000);
        if round == 9 {
            break;
        }
        world.heal(0, 2);
        world.wish(0, Some(Transition::ReEnrol));
        world.until(|world| world.nodes[0].disk.vote.is_some());
        world.sever(0, 1);
    }
    world.wish(0, None);
    world.heal(0, 1);
    world.heal(0, 2);
    world.pass(3000);
    assert_eq!(world.nodes[0].arbiter.chosen().witness, Some(Incarnation([8; 16])));
    world.wish(0, Some(Transition::ReEnrol));
    world.pass(12_000);
    assert_eq!(world.nodes[0].arbiter.chosen().witness, Some(Incarnation([9; 16])));
    assert_eq!(world.serving(), [Side::A]);
}

/// T16: answers of a former connection are ignored, and alone a restarted primary needs contact.
fn t16() {
    let mut world = World::in_sync();
    world.wish(0, Some(Transition::Drop));
    world.pass(500);
    world.wish(0, None);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.sever(a, b);
    }
    world.pass(4000);
    assert_eq!(world.serving(), [Side::A], "solofree");
    world.restart(0);
    world.pass(60_000);
    assert_eq!(world.serving(), []);
    world.heal(0, 2);
    world.pass(100);
    assert_eq!(world.serving(), [Side::A]);
}

/// Grants are bound to the tenure: one of A's first term does not count in its second.
#[test]
fn a_grant_of_an_older_tenure_does_not_count() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.pass(900);
    world.tick(0);
    world.until(|world| {
        let pipe = world.pipe(0, 2).unwrap();
        world.pipes[pipe].to[0].iter().flatten().any(|message| matches!(message.body, Body::Granted { .. }))
    });
    let pipe = world.pipe(0, 2).unwrap();
    let late = core::mem::take(&mut world.pipes[pipe].to[0]);
    world.heal(0, 1);
    for at in [0, 1] {
        world.wish(at, Some(Transition::SwitchOver));
        world.pass(500);
        world.wish(at, None);
    }
    assert_eq!(world.nodes[0].arbiter.chosen().primary, Side::A);
    let before = world.nodes[0].arbiter.lease_end();
    let pipe = world.pipe(0, 2).unwrap();
    world.pipes[pipe].to[0] = late;
    world.quiet();
    assert_eq!(world.nodes[0].arbiter.lease_end(), before);
}

macro_rules! traces {
    ($($name:ident $(, $mutation:ident)?;)*) => {
        $(
            mod $name {
                #[test]
                fn holds() {
                    super::$name();
                }
                $(
                    #[cfg(feature = "testing")]
                    #[test]
                    fn is_found_without_its_rule() {
                        super::is_red(super::Mutation::$mutation, super::$name);
                    }
                )?
            }
        )*
    };
}

traces! {
    t1, T1ValueDecidesQuorum;
    t1_pre_elect, T1PreElectDecidesItself;
    t17, T17PreElectByOneView;
    t2_own_vote, T2OwnVoteIgnoresPromise;
    t2_grant, T2GrantAfterVote;
    t3, T3ServesAfterVote;
    t6, T6RestoredKeepsIncarnation;
    two_witnesses, R12ReEnrolByOneArray;
    blank_witness, R12BlankWitnessVotes;
    t16, T16NoContactNeeded;
    t18, T18OwnVoteRefused;
    t19, T19PromiseForgotten;
    t20, T20PromoteVotesFirst;
    t21, T21ReEnrolWaitsForWitness;
}

/// With the rule broken the script ends in a violation.
#[cfg(feature = "testing")]
fn is_red(broken: Mutation, script: fn()) {
    let run = std::thread::spawn(move || {
        mutation::set(Some(broken));
        script();
    });
    assert!(run.join().is_err(), "{broken:?} changes nothing");
}

#[path = "override_tests.rs"]
mod overrides;
