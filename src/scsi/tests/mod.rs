//! Command by command, against the bytes of the standards.

mod access;
mod attention;
mod medium;
mod mode;
mod random;
mod reports;
mod vital;

use super::{
    Access, AccessState, Addressed, Arrival, Changes, DataIn, Execution, Identity, Limits, LogicalUnit, Lun,
    Medium, Nexus, Port, PortGroup, Reply, Sense, Space, Status, UnitAttention, View, execute,
};

/// One unit of 2^21 blocks (1 GiB) at LUN 0, one nexus that has heard its first attention.
struct Rig {
    unit: LogicalUnit,
    access: Access,
    port: Port,
    luns: Vec<Lun>,
    inventory: u64,
    changes: Changes,
    space: Option<Space>,
    nexus: Nexus,
    /// Data-in that the initiator takes.
    room: u32,
    out: Vec<u8>,
}

const BLOCKS: u64 = 1 << 21;

fn lun(number: u16) -> Lun {
    Lun::new(number).unwrap()
}

impl Rig {
    fn fresh() -> Self {
        let identity = Identity {
            naa: [0x60, 2, 0xac, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 3, 4],
            serial: "TWL0000001".into(),
            vendor: Identity::field("TWINLUN"),
            product: Identity::field("VV"),
            revision: Identity::field("0.1"),
        };
        let unit = LogicalUnit {
            identity,
            blocks: BLOCKS,
            thin: true,
            write_cache: false,
            limits: Limits::default(),
        };
        let own = PortGroup { id: 1, state: AccessState::ActiveOptimized, ports: vec![1, 2] };
        Self {
            unit,
            access: Access { own, other: None, transition_s: 5, told: true },
            port: Port {
                relative: 2,
                name: "iqn.2026-01.test:a,t,0x0001".into(),
                device: "iqn.2026-01.test:a".into(),
            },
            luns: vec![lun(0)],
            inventory: 1,
            changes: Changes::default(),
            space: None,
            nexus: Nexus::new(UnitAttention::PowerOn),
            room: u32::MAX,
            out: Vec::new(),
        }
    }

    fn new() -> Self {
        let mut rig = Self::fresh();
        assert_eq!(rig.refused(&[0; 6]), Sense::new(super::SenseKey::UnitAttention, 0x29, 0));
        rig
    }

    fn thick() -> Self {
        let mut rig = Self::new();
        rig.unit.thin = false;
        rig
    }

    fn at(state: AccessState) -> Self {
        let mut rig = Self::new();
        rig.access.own.state = state;
        rig
    }

    fn run_at(&mut self, number: u16, cdb: &[u8], data: &[u8]) -> Execution {
        let addressed = Addressed {
            lun: lun(number),
            unit: &self.unit,
            access: &self.access,
            changes: self.changes,
            space: self.space,
        };
        let unit = self.luns.contains(&lun(number)).then_some(addressed);
        let view = View { port: &self.port, luns: &self.luns, inventory: self.inventory, unit };
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        execute(&view, &mut self.nexus, &Arrival { cdb: &whole, data, room: self.room }, &mut self.out)
    }

    fn run(&mut self, cdb: &[u8], data: &[u8]) -> Execution {
        self.run_at(0, cdb, data)
    }

    fn reply(&mut self, cdb: &[u8], data: &[u8]) -> Reply {
        match self.run(cdb, data) {
            Execution::Done(reply) => reply,
            Execution::Medium(medium) => panic!("{cdb:02x?}: {medium:?}"),
        }
    }

    fn medium(&mut self, cdb: &[u8], data: &[u8]) -> Medium {
        match self.run(cdb, data) {
            Execution::Medium(medium) => medium,
            Execution::Done(reply) => panic!("{cdb:02x?}: {reply:?}"),
        }
    }

    /// The parameter data of a command that is answered GOOD.
    fn ask(&mut self, cdb: &[u8]) -> Vec<u8> {
        let reply = self.reply(cdb, &[]);
        assert_eq!((reply.status, reply.sense), (Status::Good, None), "{cdb:02x?}");
        assert_eq!(reply.data_in, if self.out.is_empty() { DataIn::None } else { DataIn::Parameter });
        self.out.clone()
    }

    fn good(&mut self, cdb: &[u8], data: &[u8]) {
        let reply = self.reply(cdb, data);
        assert_eq!(
            (reply.status, reply.sense, reply.data_in),
            (Status::Good, None, DataIn::None),
            "{cdb:02x?}"
        );
    }

    fn refused_with(&mut self, cdb: &[u8], data: &[u8]) -> Sense {
        let reply = self.reply(cdb, data);
        assert_eq!((reply.status, reply.data_in), (Status::CheckCondition, DataIn::None), "{cdb:02x?}");
        assert!(self.out.is_empty());
        reply.sense.unwrap()
    }

    fn refused(&mut self, cdb: &[u8]) -> Sense {
        self.refused_with(cdb, &[])
    }
}

/// A ten-byte media CDB.
fn cdb_10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, e, f, 0]
}

/// A sixteen-byte media CDB.
fn cdb_16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
