//! What hosts saw of one block, kept as small as what may still be asked of it: every order of the
//! operations so far that makes the block a register, each as the value it leaves.

use std::collections::BTreeSet;

/// Values and operations of a script, each below this.
const LIMIT: usize = 8;

/// One order that is possible: the value now, which open writes came in it already, and what each open
/// operation that reads could have read since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Order {
    value: u8,
    written: u8,
    seen: [u8; LIMIT],
}

/// What an operation does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    Read,
    Write,
    /// Writes where it finds this value.
    CompareAndWrite(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    orders: BTreeSet<Order>,
    /// Operations that may still take effect, or read.
    open: [Option<Effect>; LIMIT],
}

impl Block {
    /// Holds zero.
    pub fn new() -> Self {
        let order = Order { value: 0, written: 0, seen: [0; LIMIT] };
        Self { orders: BTreeSet::from([order]), open: [None; LIMIT] }
    }

    /// The operation, whose value is its number and one, begins.
    pub fn begin(&mut self, number: usize, effect: Effect) {
        self.open[number] = Some(effect);
        if effect != Effect::Write {
            self.change(|order| {
                order.seen[number] = 1 << order.value;
                true
            });
        }
        self.close_over();
    }

    fn change(&mut self, mut keep: impl FnMut(&mut Order) -> bool) {
        let orders = core::mem::take(&mut self.orders);
        self.orders = orders.into_iter().filter_map(|mut order| keep(&mut order).then_some(order)).collect();
    }

    /// An open write may come at any time.
    fn close_over(&mut self) {
        let mut fresh: Vec<Order> = self.orders.iter().copied().collect();
        while let Some(order) = fresh.pop() {
            for (number, effect) in (0_u8..).zip(self.open) {
                let comes = match effect {
                    Some(Effect::Write) => true,
                    Some(Effect::CompareAndWrite(expected)) => order.value == expected,
                    Some(Effect::Read) | None => false,
                };
                if !comes || order.written & 1 << number != 0 {
                    continue;
                }
                let mut next = Order { value: number + 1, written: order.written | 1 << number, ..order };
                for (seen, effect) in next.seen.iter_mut().zip(self.open) {
                    if effect.is_some_and(|effect| effect != Effect::Write) {
                        *seen |= 1 << next.value;
                    }
                }
                if self.orders.insert(next) {
                    fresh.push(next);
                }
            }
        }
    }

    fn end(&mut self, number: usize, mut keep: impl FnMut(&Order) -> bool) -> bool {
        self.open[number] = None;
        self.change(|order| {
            let kept = keep(order);
            order.written &= !(1 << number);
            order.seen[number] = 0;
            kept
        });
        !self.orders.is_empty()
    }

    /// Answered: it wrote. False: then this block was no register.
    pub fn wrote(&mut self, number: usize) -> bool {
        self.end(number, |order| order.written & 1 << number != 0)
    }

    pub fn read(&mut self, number: usize, value: u8) -> bool {
        self.end(number, |order| order.seen[number] & 1 << value != 0)
    }

    /// A comparison that found something else.
    pub fn differed(&mut self, number: usize, expected: u8) -> bool {
        self.end(number, |order| {
            order.written & 1 << number == 0 && order.seen[number] & !(1 << expected) != 0
        })
    }

    /// It took no effect, and never will.
    pub fn killed(&mut self, number: usize) -> bool {
        self.end(number, |order| order.written & 1 << number == 0)
    }

    /// It took effect or did not; from now on nothing more comes of it.
    pub fn closed(&mut self, number: usize) -> bool {
        self.end(number, |_| true)
    }

    /// May the block hold this now?
    pub fn may_hold(&self, value: u8) -> bool {
        self.orders.iter().any(|order| order.value == value)
    }
}

fn block(begun: &[(usize, Effect)]) -> Block {
    let mut block = Block::new();
    for (number, effect) in begun {
        block.begin(*number, *effect);
    }
    block
}

/// Histories that are known to be good or bad.
pub fn knows_a_register() -> bool {
    let mut lost = block(&[(0, Effect::Write)]);
    let mut good = lost.wrote(0);
    lost.begin(1, Effect::Read);
    good &= !lost.read(1, 0); // a write that was answered is lost
    let mut back = block(&[(0, Effect::Write), (1, Effect::Read)]);
    good &= back.read(1, 1);
    back.begin(2, Effect::Read);
    good &= !back.read(2, 0); // a read went back
    let mut late = block(&[(0, Effect::Write), (1, Effect::Read)]);
    good &= late.read(1, 0);
    late.begin(2, Effect::Read);
    good &= late.read(2, 1); // a write that is open may come late
    let mut ghost = block(&[(0, Effect::Write)]);
    good &= ghost.wrote(0);
    ghost.begin(1, Effect::Write);
    good &= ghost.wrote(1) && !ghost.may_hold(1) && ghost.may_hold(2); // it came again
    let mut killed = block(&[(0, Effect::Write), (1, Effect::Read)]);
    good &= killed.killed(0) && !killed.read(1, 1); // a write that was killed was read
    let mut closed = block(&[(0, Effect::Write)]);
    good &= closed.closed(0) && closed.may_hold(0) && closed.may_hold(1);
    closed.begin(1, Effect::Read);
    good && closed.read(1, 0) && !closed.may_hold(1) // it came after its end
}

pub fn knows_a_comparison() -> bool {
    let begun = [(0, Effect::CompareAndWrite(0)), (1, Effect::CompareAndWrite(0))];
    let (mut both, mut one, mut none) = (block(&begun), block(&begun), block(&begun));
    both.wrote(0)
        && !both.wrote(1)
        && one.wrote(0)
        && one.differed(1, 0)
        && none.killed(0)
        && !none.differed(1, 0)
}
