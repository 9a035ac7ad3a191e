//! What an operator's verb does on both arrays, step by step as `group::membership` orders them, with everything
//! that is in a daemon's objects: members, exports, sizes. A step is durable before the next begins; a crash forgets
//! the verb, and keeps or loses the change of the objects that was being written.

use twinlun::arbitration::{Config, Connection};
use twinlun::group::membership::{self, At, Growth, Step as Stage};
use twinlun::group::{Command, Enrolment, Event as Happened, PathView, Refused, enrolment};
use twinlun::store::objects::{change_counts, may_be_overwritten};

use crate::control::{PeerText, side};
use crate::faults::Step;
use crate::host::MS;
use crate::layout::PER_REGION;
use crate::shared::Told;
use crate::world::World;

/// How long the other array may take to answer.
const REQUEST: u64 = 10_000 * MS;

/// A process that stands still is looked at again after this.
const STANDS_STILL: u64 = 50 * MS;

/// One volume in the objects of an array: durable.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// Of its group.
    pub member: bool,
    /// To hosts.
    pub exported: bool,
    /// Regions.
    pub size: u64,
    /// Regions that its data have; more than `size` only between two steps of a growth.
    pub data: u64,
}

/// A volume in a group's state.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    pub volume: usize,
    pub exported: bool,
    pub size: u64,
}

/// What is to be changed.
#[derive(Clone, Debug)]
pub enum Change {
    Enter {
        volume: usize,
    },
    Leave {
        volume: usize,
        serves: bool,
    },
    Grow {
        volume: usize,
        to: u64,
    },
    /// This array takes part in the group again.
    Enrol {
        group: usize,
        chosen: Config,
    },
    /// The other array's state of the group is taken over.
    Adopt {
        group: usize,
        told: Told,
        volumes: Vec<Shared>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Todo {
    Member(Stage),
    Growth {
        volume: usize,
        to: u64,
        step: Growth,
    },
    Enrolment(Enrolment),
    /// A copy that is enrolled counts for nothing.
    Anew {
        volume: usize,
    },
    /// The objects of the state.
    State,
    /// The control hears of it.
    Tell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Held { ticket: u64 },
    Reply { number: u64 },
    Written { token: u32, durable: bool },
    Marked { volume: usize },
}

/// A verb under way on one array.
#[derive(Clone, Debug)]
pub struct Verb {
    change: Change,
    todo: Vec<Todo>,
    next: usize,
    wait: Wait,
    /// The other array's request; none: the operator's command.
    caller: Option<(Connection, u64)>,
    /// The members are held.
    holds: bool,
    /// The objects were not what the verb had found when it began.
    refused: bool,
}

impl World {
    fn group_of(&self, change: &Change) -> usize {
        match change {
            Change::Enter { volume } | Change::Leave { volume, .. } | Change::Grow { volume, .. } => {
                self.plan.volumes[*volume].group
            }
            Change::Adopt { group, .. } | Change::Enrol { group, .. } => *group,
        }
    }

    /// An operator's verb is under way for the group at this array.
    pub fn is_changing(&self, a: usize, g: usize) -> bool {
        self.arrays[a].verbs.iter().any(|verb| verb.caller.is_none() && self.group_of(&verb.change) == g)
    }

    /// As the operator gives it here: checked, the members held, then step by step.
    pub fn begin_verb(&mut self, a: usize, change: Change) {
        let g = self.group_of(&change);
        let view = self.arrays[a].group(g).and_then(|group| group.control.view());
        let allowed = match change {
            Change::Enter { volume } => {
                PathView::may_change_members(view.as_ref()).is_ok() && !self.arrays[a].copies[volume].member
            }
            Change::Leave { .. } => {
                PathView::may_change_members(view.as_ref()).is_ok()
                    && PathView::goes_on_exporting(view.as_ref())
            }
            Change::Grow { .. } => PathView::may_grow(view.as_ref()),
            Change::Adopt { .. } | Change::Enrol { .. } => true,
        };
        if !allowed {
            return;
        }
        self.say(|| format!("VERB at {a}: {change:?}"));
        let todo = self.steps(&change, At::Here);
        let members = matches!(change, Change::Enter { .. } | Change::Leave { .. });
        let ticket = u64::from(self.new_token());
        let wait = if members { Wait::Held { ticket } } else { Wait::Nothing };
        self.arrays[a].verbs.push(Verb {
            change,
            todo,
            next: 0,
            wait,
            caller: None,
            holds: members,
            refused: false,
        });
        if members {
            self.tell(a, g, Happened::Command { ticket, command: Command::HoldMembers });
        } else {
            self.go_on(a);
        }
    }

    pub fn is_enrolling(&self, a: usize, g: usize) -> bool {
        let enrols = |verb: &Verb| matches!(verb.change, Change::Enrol { group, .. } if group == g);
        self.arrays[a].verbs.iter().any(enrols)
    }

    pub fn begin_enrolment(&mut self, a: usize, group: usize, chosen: Config) {
        self.begin_verb(a, Change::Enrol { group, chosen });
    }

    fn steps(&self, change: &Change, at: At) -> Vec<Todo> {
        let grow = |volume: usize, to: u64, mirrored: bool| {
            membership::growth(mirrored).iter().map(move |step| Todo::Growth { volume, to, step: *step })
        };
        match change {
            Change::Enter { .. } => membership::entry(at).iter().map(|step| Todo::Member(*step)).collect(),
            Change::Leave { .. } => membership::leaving(at).iter().map(|step| Todo::Member(*step)).collect(),
            Change::Grow { volume, to } => grow(*volume, *to, at == At::Here).collect(),
            Change::Enrol { group, .. } => {
                let members = (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == *group);
                let copies: Vec<Todo> = members.map(|volume| Todo::Anew { volume }).collect();
                let steps = enrolment().iter().flat_map(|step| match step {
                    Enrolment::Copies => copies.clone(),
                    step => vec![Todo::Enrolment(*step)],
                });
                steps.collect()
            }
            Change::Adopt { volumes, .. } => {
                let grown = volumes.iter().flat_map(|shared| grow(shared.volume, shared.size, false));
                grown.chain([Todo::State, Todo::Tell]).collect()
            }
        }
    }

    /// A command ended that a verb may wait for.
    pub fn members_held(&mut self, a: usize, ticket: u64, result: Result<(), Refused>) {
        let waits = |verb: &Verb| verb.wait == Wait::Held { ticket };
        let Some(at) = self.arrays[a].verbs.iter().position(waits) else { return };
        if result.is_ok() {
            self.arrays[a].verbs[at].wait = Wait::Nothing;
            // Not in the middle of what the control has said.
            self.at(0, Step::VerbsGoOn { array: a });
        } else {
            self.arrays[a].verbs.remove(at);
        }
    }

    /// Unless the process stands still.
    pub fn verbs_go_on(&mut self, a: usize) {
        if self.arrays[a].paused || self.arrays[a].control_stalled {
            return self.at(STANDS_STILL, Step::VerbsGoOn { array: a });
        }
        self.go_on(a);
    }

    /// The other array asks.
    pub fn asked_by_peer(&mut self, a: usize, connection: Connection, number: u64, change: Change) {
        let change = match change {
            Change::Leave { volume, .. } => {
                let view = self.arrays[a].group(self.plan.volumes[volume].group);
                let view = view.and_then(|group| group.control.view());
                Change::Leave { volume, serves: PathView::goes_on_exporting(view.as_ref()) }
            }
            other => other,
        };
        let there = |volume: usize| self.arrays[a].copies[volume].member;
        let todo = match change {
            // It is so already.
            Change::Enter { volume } if there(volume) => Vec::new(),
            Change::Leave { volume, .. } if !there(volume) => Vec::new(),
            _ => self.steps(&change, At::There),
        };
        if let Change::Enter { volume } = change
            && !there(volume)
            && !may_be_overwritten(self.arrays[a].copies[volume].exported)
        {
            return self.say_to_peer(a, connection, PeerText::Reply { number, done: false });
        }
        let caller = Some((connection, number));
        self.arrays[a].verbs.push(Verb {
            change,
            todo,
            next: 0,
            wait: Wait::Nothing,
            caller,
            holds: false,
            refused: false,
        });
        self.go_on(a);
    }

    pub fn peer_replied(&mut self, a: usize, number: u64, done: bool) {
        let waits = |verb: &Verb| verb.wait == Wait::Reply { number };
        let Some(at) = self.arrays[a].verbs.iter().position(waits) else { return };
        if done {
            self.arrays[a].verbs[at].wait = Wait::Nothing;
            self.arrays[a].verbs[at].next += 1;
            self.go_on(a);
        } else {
            self.end_verb(a, at, false);
        }
    }

    /// The other array does not answer in time.
    pub fn request_is_late(&mut self, a: usize, number: u64) {
        if self.arrays[a].paused || self.arrays[a].control_stalled {
            return self.at(STANDS_STILL, Step::RequestIsLate { array: a, number });
        }
        self.peer_replied(a, number, false);
    }

    /// The link is gone, and with it the answers that were waited for.
    pub fn requests_are_lost(&mut self, a: usize) {
        while let Some(at) =
            self.arrays[a].verbs.iter().position(|verb| matches!(verb.wait, Wait::Reply { .. }))
        {
            self.end_verb(a, at, false);
        }
    }

    fn end_verb(&mut self, a: usize, at: usize, done: bool) {
        let verb = self.arrays[a].verbs.remove(at);
        self.say(|| format!("VERB at {a} ends, {done}: {:?}", verb.change));
        if let Some((connection, number)) = verb.caller {
            self.say_to_peer(a, connection, PeerText::Reply { number, done });
        }
        if verb.holds {
            let g = self.group_of(&verb.change);
            self.tell(a, g, Happened::MembersSettled);
        }
    }

    /// Every verb that waits for nothing takes its next steps.
    fn go_on(&mut self, a: usize) {
        while let Some(at) = self.arrays[a].verbs.iter().position(|verb| verb.wait == Wait::Nothing) {
            let verb = &self.arrays[a].verbs[at];
            let Some(todo) = verb.todo.get(verb.next).copied() else {
                self.end_verb(a, at, true);
                continue;
            };
            if !self.take_step(a, at, todo) {
                self.end_verb(a, at, false);
            } else if let Some(verb) = self.arrays[a].verbs.get_mut(at)
                && verb.wait == Wait::Nothing
            {
                verb.next += 1;
            }
        }
    }

    fn write_objects(&mut self, a: usize, at: usize) {
        let token = self.new_token();
        self.arrays[a].verbs[at].wait = Wait::Written { token, durable: false };
        self.begin_sync(a, token);
    }

    /// False: the verb ends here.
    fn take_step(&mut self, a: usize, at: usize, todo: Todo) -> bool {
        let change = self.arrays[a].verbs[at].change.clone();
        let g = self.group_of(&change);
        let started = self.arrays[a].objects[g].policy.started;
        match (todo, &change) {
            (Todo::Member(Stage::Ask) | Todo::Growth { step: Growth::Ask, .. }, _) => {
                let Some(connection) = self.arrays[a].control else { return false };
                let number = u64::from(self.new_token());
                self.arrays[a].verbs[at].wait = Wait::Reply { number };
                self.at(REQUEST, Step::RequestIsLate { array: a, number });
                let text = PeerText::Ask { number, change };
                self.say_to_peer(a, Connection(u64::from(connection)), text);
            }
            (Todo::Member(Stage::Copy), Change::Enter { volume }) => {
                self.arrays[a].kept[*volume] = crate::keeping::Keeping::default();
            }
            (Todo::Member(Stage::Mark), Change::Enter { volume }) => {
                self.arrays[a].verbs[at].wait = Wait::Marked { volume: *volume };
                self.with_volume(a, *volume, 0, |core, _, out| core.disown(out));
                self.look_at_marks(a);
            }
            (Todo::Member(Stage::Join), Change::Enter { volume }) => {
                let Copy { member, exported, .. } = self.arrays[a].copies[*volume];
                let asked = self.arrays[a].verbs[at].caller.is_some();
                if member || (asked && !may_be_overwritten(exported)) {
                    return false;
                }
                self.write_objects(a, at);
            }
            (Todo::Member(Stage::Leave), Change::Leave { volume, .. }) => {
                if started || !self.arrays[a].copies[*volume].member {
                    return false;
                }
                self.write_objects(a, at);
            }
            (Todo::Member(Stage::Enrol), Change::Enter { volume }) => {
                let full = self.arrays[a].verbs[at].caller.is_none();
                self.enrol_one(a, *volume, full);
                self.tell(a, g, Happened::MembersChanged);
            }
            (Todo::Member(Stage::Withdraw), Change::Leave { volume, .. }) => {
                self.arrays[a].volumes[*volume].member = false;
                self.watch_member(a, *volume);
                self.with_volume(a, *volume, 0, |core, cx, out| core.withdraw(cx, out));
                self.tell(a, g, Happened::MembersChanged);
            }
            (Todo::Member(Stage::Share), _) => {
                let sequence = self.arrays[a].objects[g].state;
                self.tell(a, g, Happened::GroupState { sequence });
                self.send_group_state(a, g);
            }
            (Todo::Growth { volume, to, step: Growth::Data }, _)
                if self.arrays[a].copies[volume].data < to =>
            {
                self.write_objects(a, at);
            }
            (Todo::Growth { volume, to, step: Growth::Size }, _)
                if self.arrays[a].copies[volume].size < to =>
            {
                self.write_objects(a, at);
            }
            (Todo::Growth { volume, to, step: Growth::Tell }, _) => {
                let blocks = to * twinlun::mirror::REGION_BLOCKS;
                self.with_volume(a, volume, 0, |core, _, _| core.grow(blocks));
            }
            (Todo::Growth { .. }, _) => {}
            (Todo::Enrolment(Enrolment::Begin), _) => self.enrolled(a, g),
            (Todo::Enrolment(_), _) => self.write_objects(a, at),
            (Todo::Anew { volume }, _) => {
                self.arrays[a].verbs[at].wait = Wait::Marked { volume };
                self.with_volume(a, volume, 0, |core, _, out| core.disown(out));
                self.look_at_marks(a);
            }
            (Todo::State, Change::Adopt { told, volumes, .. }) => {
                let fits = volumes.iter().all(|shared| self.arrays[a].copies[shared.volume].member);
                if !fits || self.is_older_state(a, g, *told) {
                    return false;
                }
                let held = self.arrays[a].objects[g];
                let same = (held.told, held.state) == (Some(told.term), told.sequence)
                    && self
                        .exports_as_told(a, g, volumes)
                        .iter()
                        .all(|&(v, is)| self.arrays[a].copies[v].exported == is);
                if !same {
                    self.write_objects(a, at);
                }
            }
            (Todo::Tell, Change::Adopt { told, .. }) => self.hold_state(a, g, *told),
            _ => self.violate(format!("{todo:?} is no step of {change:?}")),
        }
        true
    }

    /// The objects on disk are changed.
    fn change_objects(&mut self, a: usize, at: usize) {
        let verb = &self.arrays[a].verbs[at];
        let (change, todo, first) = (verb.change.clone(), verb.todo[verb.next], verb.caller.is_none());
        let g = self.group_of(&change);
        match (todo, change) {
            (Todo::Member(Stage::Join), Change::Enter { volume }) => {
                let Copy { member, exported, .. } = self.arrays[a].copies[volume];
                if member || (!first && !may_be_overwritten(exported)) {
                    return self.arrays[a].verbs[at].refused = true;
                }
                self.arrays[a].copies[volume].member = true;
                self.arrays[a].objects[g].state += u64::from(change_counts(!first));
                self.note_entry(volume);
            }
            (Todo::Member(Stage::Leave), Change::Leave { volume, serves }) => {
                if !self.arrays[a].copies[volume].member || self.arrays[a].objects[g].policy.started {
                    return self.arrays[a].verbs[at].refused = true;
                }
                let copy = &mut self.arrays[a].copies[volume];
                copy.member = false;
                copy.exported &= serves;
                self.arrays[a].objects[g].state += u64::from(change_counts(!first));
                self.note_leaving(a, volume);
            }
            (Todo::Growth { volume, to, step: Growth::Data }, _) => {
                let copy = &mut self.arrays[a].copies[volume];
                copy.data = copy.data.max(to);
            }
            (Todo::Growth { volume, to, step: Growth::Size }, _) => {
                let copy = &mut self.arrays[a].copies[volume];
                copy.size = copy.size.max(to);
            }
            (Todo::Enrolment(Enrolment::Vote), Change::Enrol { group, chosen }) => {
                self.write_first_vote(a, group, chosen);
            }
            (Todo::Enrolment(Enrolment::Present), Change::Enrol { group, chosen }) => {
                self.arrays[a].absent[group] = false;
                self.arrays[a].objects[group].policy.started = true;
                self.note_present(a, group, &chosen);
            }
            (Todo::State, Change::Adopt { told, volumes, .. }) => {
                let fits = volumes.iter().all(|shared| self.arrays[a].copies[shared.volume].member);
                if !fits || self.is_older_state(a, g, told) {
                    return self.arrays[a].verbs[at].refused = true;
                }
                for (v, exported) in self.exports_as_told(a, g, &volumes) {
                    self.arrays[a].copies[v].exported = exported;
                }
                let held = &mut self.arrays[a].objects[g];
                (held.state, held.told) = (told.sequence, Some(told.term));
            }
            _ => {}
        }
    }

    /// The exports of this array's members, by what the primary tells.
    fn exports_as_told(&self, a: usize, g: usize, volumes: &[Shared]) -> Vec<(usize, bool)> {
        let members = (0..self.plan.volumes.len())
            .filter(|&v| self.plan.volumes[v].group == g && self.arrays[a].copies[v].member);
        members.map(|v| (v, volumes.iter().any(|shared| shared.volume == v && shared.exported))).collect()
    }

    fn written_by(&self, a: usize, token: u32) -> Option<usize> {
        let writes = |verb: &Verb| matches!(verb.wait, Wait::Written { token: of, .. } if of == token);
        self.arrays[a].verbs.iter().position(writes)
    }

    /// On the disk, whether the process knows it or not. True: the token was of the objects.
    pub fn objects_durable(&mut self, a: usize, token: u32) -> bool {
        let Some(at) = self.written_by(a, token) else { return false };
        self.change_objects(a, at);
        self.arrays[a].verbs[at].wait = Wait::Written { token, durable: true };
        true
    }

    /// The process learns of it.
    pub fn objects_written(&mut self, a: usize, token: u32) -> bool {
        let Some(at) = self.written_by(a, token) else { return false };
        if self.arrays[a].verbs[at].refused {
            self.end_verb(a, at, false);
            return true;
        }
        self.arrays[a].verbs[at].wait = Wait::Nothing;
        self.arrays[a].verbs[at].next += 1;
        self.go_on(a);
        true
    }

    /// After a map was written: verbs that wait for marks.
    pub fn look_at_marks(&mut self, a: usize) {
        let marked = |array: &crate::array::Array, verb: &Verb| match verb.wait {
            Wait::Marked { volume } => !array.volumes[volume].core.status().map_pending,
            _ => false,
        };
        let mut any = false;
        for at in 0..self.arrays[a].verbs.len() {
            if marked(&self.arrays[a], &self.arrays[a].verbs[at]) {
                self.arrays[a].verbs[at].wait = Wait::Nothing;
                self.arrays[a].verbs[at].next += 1;
                any = true;
            }
        }
        if any {
            self.go_on(a);
        }
    }

    /// The process dies: its verbs are forgotten, and what was being written of the objects is there, or not.
    pub fn forget_verbs(&mut self, a: usize) {
        for at in 0..self.arrays[a].verbs.len() {
            let unwritten = matches!(self.arrays[a].verbs[at].wait, Wait::Written { durable: false, .. });
            if unwritten && self.rng.coin() {
                self.change_objects(a, at);
            }
        }
        self.arrays[a].verbs.clear();
        for v in 0..self.plan.volumes.len() {
            // What the objects do not know of is cut off at the next start.
            let size = self.arrays[a].copies[v].size;
            self.arrays[a].copies[v].data = size;
            let from = size as usize * PER_REGION;
            self.arrays[a].store.volumes[v][from..].fill(0);
        }
    }

    /// A member that the running group's control is to know.
    fn enrol_one(&mut self, a: usize, v: usize, full: bool) {
        let Some(config) = self.arrays[a].chosen(self.plan.volumes[v].group) else { return };
        self.arrays[a].volumes[v].member = true;
        self.watch_member(a, v);
        self.with_volume(a, v, 0, |core, cx, out| core.enrol(side(a), &config, full, cx, out));
    }
}
