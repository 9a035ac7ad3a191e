//! What a row can do to the site, and ask it.

use super::{Error, IN_SYNC_LIMIT, Lab, POLL, SWITCHOVER_LIMIT};
use crate::disk::Disk;
use crate::network::{Node, Plane};
use crate::site::Status;
use crate::wire::{Distance, Wire};
use serde_json::json;
use std::io;
use std::time::{Duration, Instant};

impl Lab {
    pub fn cut(&mut self, node: Node, plane: Plane) -> Result<(), Error> {
        Ok(self.network.cut(node, plane)?)
    }

    pub fn heal(&mut self, node: Node, plane: Plane) -> Result<(), Error> {
        Ok(self.network.heal(node, plane)?)
    }

    pub fn cut_one_way(&mut self, from: Node, to: Node, plane: Plane) -> Result<(), Error> {
        Ok(self.network.cut_one_way(from, to, plane)?)
    }

    /// Resets the connection between the arrays that has carried most.
    pub fn break_busiest_lane(&mut self) -> Result<(), Error> {
        let port = self.network.busiest_connection(Node::A, &Node::B.ip(Plane::Replication))?;
        Ok(self.network.break_connection(Node::A, port)?)
    }

    /// The same connection stands still instead, with what is in it.
    pub fn stall_busiest_lane(&mut self) -> Result<(), Error> {
        let port = self.network.busiest_connection(Node::A, &Node::B.ip(Plane::Replication))?;
        Ok(self.network.stall_connection(Node::A, port)?)
    }

    /// That leg is long from now on, until all is healed.
    pub fn lengthen(&mut self, node: Node, plane: Plane, distance: Distance) -> Result<(), Error> {
        self.wires.push(Wire::insert(self.network.leg(node, plane), distance)?);
        Ok(())
    }

    pub fn heal_all(&mut self) -> Result<(), Error> {
        self.wires.clear();
        Ok(self.network.heal_all()?)
    }

    pub fn kill(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.process(node)?.kill()?)
    }

    pub fn start(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.process(node)?.start()?)
    }

    pub fn freeze(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.process(node)?.freeze()?)
    }

    pub fn thaw(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.process(node)?.thaw()?)
    }

    /// SIGTERM, and waits for the end, which an array owes its hosts within a few seconds.
    pub fn terminate(&mut self, node: Node) -> Result<(), Error> {
        let process = self.site.process(node)?;
        process.terminate()?;
        process.wait_end(Duration::from_secs(15))?;
        Ok(())
    }

    pub fn wipe(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.wipe(node)?)
    }

    pub fn wipe_volumes(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.wipe_volumes(node)?)
    }

    /// Keeps what a node that is down has, for [`Lab::restore`].
    pub fn back_up(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.back_up(node)?)
    }

    /// A node that is down gets back what it had then.
    pub fn restore(&mut self, node: Node) -> Result<(), Error> {
        Ok(self.site.restore(node)?)
    }

    /// The disk of its own that the row asked for.
    pub fn disk(&mut self, node: Node) -> Result<&mut Disk, Error> {
        match &mut self.disk {
            Some((of, disk)) if *of == node => Ok(disk),
            _ => Err(Error::Lab(io::Error::other("the row has no disk of its own there"))),
        }
    }

    /// Writes from the guest to blocks of the raw device that nothing was written to before; what `dd` says.
    pub fn write_new_blocks(&mut self) -> Result<String, Error> {
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        let script = format!(
            "timeout 30 dd if=/dev/urandom of={} bs=1M count=8 seek={} oflag=direct 2>&1 || true",
            load.raw_device(),
            self.next_new_mib
        );
        self.next_new_mib += 8;
        Ok(self.guest.sh(&script, Duration::from_secs(40))?)
    }

    pub fn status(&mut self, node: Node) -> Result<Status, Error> {
        Ok(self.site.status(node)?)
    }

    pub fn resync_bytes(&mut self, node: Node) -> Result<u64, Error> {
        Ok(self.site.resync_bytes(node)?)
    }

    /// Blocks that an array could not read and has written anew since it started.
    pub fn mended_blocks(&mut self, node: Node) -> Result<u64, Error> {
        Ok(self.site.mended_blocks(node)?)
    }

    /// Regions whose content of before the resync an array keeps, of all volumes.
    pub fn kept_regions(&mut self, node: Node) -> Result<u64, Error> {
        let groups = self.site.groups(node)?;
        let volumes = groups.iter().flat_map(|group| group["volumes"].as_array().into_iter().flatten());
        Ok(volumes.filter_map(|volume| volume["kept"]["regions"].as_u64()).sum())
    }

    pub fn note(&mut self, key: &str, value: u64) {
        self.notes.insert(key.to_owned(), json!(value));
    }

    /// Restarts an array in order, so that it serves with the fault switch set.
    pub fn restart_with_fault(&mut self, node: Node, fault: &str) -> Result<(), Error> {
        let process = self.site.process(node)?;
        process.kill()?;
        process.set_environment(vec![("TWINLUN_FAULT".to_owned(), fault.to_owned())]);
        process.start()?;
        self.wait_in_sync()?;
        if !self.status(node)?.serves {
            self.switch_over()?;
        }
        Ok(())
    }

    pub fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let end = Instant::now() + limit;
        loop {
            // An array that was just started does not answer yet.
            let last = holds(self);
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = last.err().map_or(String::new(), |error| format!(" ({error})"));
                let states: Vec<_> = [Node::A, Node::B]
                    .map(|node| self.site.status(node).map_or_else(|e| e.to_string(), |s| format!("{s:?}")))
                    .into();
                return Err(Error::Wrong(format!(
                    "not within {} s: {what}{why}; {}",
                    limit.as_secs(),
                    states.join("; ")
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    pub fn wait_in_sync(&mut self) -> Result<(), Error> {
        self.wait("both arrays in sync and one serving", IN_SYNC_LIMIT, |lab| {
            let (a, b) = (lab.status(Node::A)?, lab.status(Node::B)?);
            Ok(a.in_sync && b.in_sync && a.serves != b.serves)
        })
    }

    pub fn primary(&mut self) -> Result<Node, Error> {
        Ok(if self.status(Node::A)?.serves { Node::A } else { Node::B })
    }

    /// Asks the serving array to switch over and waits until the other serves.
    pub fn switch_over(&mut self) -> Result<(), Error> {
        let from = self.primary()?;
        self.site.switch_over(from)?;
        let to = if from == Node::A { Node::B } else { Node::A };
        self.wait("the switchover is done", SWITCHOVER_LIMIT, |lab| {
            Ok(lab.status(to)?.serves && lab.status(to)?.in_sync)
        })
    }

    /// Commands that the outside client saw completed by an array.
    pub fn served_by(&mut self, node: Node) -> Result<u64, Error> {
        let index = usize::from(node == Node::B);
        let status = self.outside()?.status()?;
        Ok(status["paths"][index]["served"].as_u64().unwrap_or(0))
    }

    /// Takes the guest's figures now; what follows is the outside client's alone.
    pub fn guest_rests(&mut self) -> Result<(), Error> {
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        let phase = load.phase(&mut self.guest)?;
        load.pause(&mut self.guest)?;
        self.guest_phase = Some(phase);
        Ok(())
    }

    /// No host does anything until the row is over.
    pub fn all_rest(&mut self) -> Result<(), Error> {
        self.guest_rests()?;
        Ok(self.outside()?.order("pause")?)
    }

    /// Resident memory in KiB, and CPU time so far in ticks of 10 ms.
    pub fn usage(&mut self, node: Node) -> Result<(u64, u64), Error> {
        Ok(self.site.process(node)?.usage()?)
    }

    /// Only the raw device of the guest is written to from here on.
    pub fn only_raw(&mut self) -> Result<(), Error> {
        self.outside()?.order("pause")?;
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        Ok(load.pause_file(&mut self.guest)?)
    }
}
