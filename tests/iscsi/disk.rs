//! The real command set over a volume in memory, for clients that neither side wrote.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use twinlun::block::{BLOCK, Op, Outcome, Request};
use twinlun::iscsi::pdu::LoginStatus;
use twinlun::iscsi::{Candidate, TargetRecord};
use twinlun::portal::{Export, Exports, View};
use twinlun::scsi::{Access, AccessState, Changes, Identity, Limits, LogicalUnit, Lun, Port, PortGroup};
use twinlun::sys::buffer::Buffer;
use twinlun::volume::{BlockVolume, Completion, ReplyTo, Submitted, Ticket};

use crate::memory::TARGET;

pub const BLOCKS: u64 = 256 * 1024;

#[derive(Clone)]
pub struct MemoryVolume(Rc<RefCell<Vec<u8>>>);

impl BlockVolume for MemoryVolume {
    fn submit(&self, request: Request, data: Buffer, reply: ReplyTo) -> Submitted {
        let mut bytes = self.0.borrow_mut();
        let start = usize::try_from(request.extent.offset()).unwrap();
        let len = usize::try_from(request.extent.bytes()).unwrap();
        let place = match request.op {
            Op::Flush => &mut [][..],
            _ => &mut bytes[start..start + len],
        };
        let mut outcome = Outcome::Good;
        let mut answer = Buffer::empty();
        match request.op {
            Op::Read => answer = Buffer::copy_of(place),
            Op::Write => place.copy_from_slice(data.as_slice()),
            Op::WriteSame => {
                place.chunks_mut(BLOCK as usize).for_each(|block| block.copy_from_slice(data.as_slice()));
            }
            Op::WriteZeroes | Op::Unmap => place.fill(0),
            Op::CompareAndWrite => {
                let (compare, write) = data.as_slice().split_at(len);
                match place.iter().zip(compare).position(|(a, b)| a != b) {
                    Some(at) => outcome = Outcome::Miscompare { offset: u32::try_from(at).unwrap() },
                    None => place.copy_from_slice(write),
                }
            }
            Op::Flush => {}
        }
        Submitted::Done(Completion { tag: reply.tag, outcome, data: answer })
    }

    fn abort(&self, _: Ticket) {}
}

#[derive(Clone)]
pub struct Disk {
    volume: MemoryVolume,
    address: SocketAddr,
    resets: Arc<AtomicU64>,
}

impl Disk {
    pub fn new(address: SocketAddr) -> Self {
        let bytes = vec![0; usize::try_from(BLOCKS * u64::from(BLOCK)).unwrap()];
        Self { volume: MemoryVolume(Rc::new(RefCell::new(bytes))), address, resets: Arc::default() }
    }
}

impl Exports for Disk {
    type Volume = MemoryVolume;

    fn version(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    fn view(&self, _: &str, _: u16) -> View<MemoryVolume> {
        let mut naa = [0x11; 16];
        naa[0] = 0x60;
        let identity = Identity {
            naa,
            serial: "memory0001".into(),
            vendor: Identity::field("TWINLUN"),
            product: Identity::field("VV"),
            revision: Identity::field("0001"),
        };
        let unit = LogicalUnit {
            identity,
            blocks: BLOCKS,
            thin: true,
            write_cache: false,
            limits: Limits::default(),
        };
        let own = PortGroup { id: 1, state: AccessState::ActiveOptimized, ports: vec![1] };
        let export = Export {
            lun: Lun::new(0).unwrap(),
            id: 1,
            unit,
            access: Access { own, other: None, transition_s: 5, told: true },
            changes: Changes { access: 0, resets: self.resets.load(Ordering::Acquire) },
            space: None,
            volume: self.volume.clone(),
        };
        View { inventory: 1, exports: vec![export] }
    }

    fn port(&self, portal_group_tag: u16) -> Port {
        Port {
            relative: portal_group_tag,
            name: format!("{TARGET},t,0x{portal_group_tag:04x}"),
            device: TARGET.into(),
        }
    }

    fn admit(&self, _: &Candidate) -> Result<(), LoginStatus> {
        Ok(())
    }

    fn targets(&self, _: &Candidate) -> Vec<TargetRecord> {
        vec![TargetRecord { name: TARGET.into(), portals: vec![(self.address.to_string(), 1)] }]
    }

    fn reset(&self, _: Option<u64>) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }
}
