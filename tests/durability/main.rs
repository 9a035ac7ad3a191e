//! The `stable` promise through whole daemons: an answer GOOD means that both copies are on stable
//! storage, and what was answered is there after any loss of power. See `docs/DURABILITY.md`.

#[cfg(feature = "testing")]
mod blocks;
#[cfg(feature = "testing")]
mod calls;
mod disk;
#[cfg(feature = "testing")]
mod flushes;
#[path = "../host/initiator.rs"]
#[allow(dead_code, reason = "the multipath host uses the rest")]
mod initiator;
#[cfg(feature = "testing")]
mod judge;
#[cfg(feature = "testing")]
mod kills;
#[path = "../host/ledger.rs"]
#[allow(dead_code, reason = "the multipath host uses the rest")]
mod ledger;
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "the tests with mutations use the rest"))]
mod lun;
#[cfg(feature = "testing")]
mod order;
#[cfg(feature = "testing")]
mod rig;
#[path = "../pair/site.rs"]
#[allow(dead_code, reason = "the tests of the pair use the rest")]
mod site;
mod sizes;
#[path = "../host/stamp.rs"]
#[allow(dead_code, reason = "the multipath host uses the rest")]
mod stamp;
