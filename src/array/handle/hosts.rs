//! Hosts and their VLUNs.

use uuid::Uuid;

use crate::store::objects::{Host, Kind, ObjectError, Vlun};

use super::{CommandError, Handle, now_seconds};

impl Handle {
    /// `createhost`.
    ///
    /// # Errors
    /// A bad or taken name, an initiator that belongs to another host.
    pub async fn create_host(
        &self,
        name: &str,
        iqns: Vec<String>,
        persona: u8,
    ) -> Result<Host, CommandError> {
        let (id, created) = (0, now_seconds());
        let host = Host {
            id,
            name: name.to_owned(),
            uuid: Uuid::new_v4(),
            iqns,
            persona,
            comment: String::new(),
            created,
        };
        self.update(move |objects| objects.add_host(host).cloned()).await
    }

    /// Replaces the initiators of a host; groups whose volumes it sees tell the other array.
    ///
    /// # Errors
    /// An initiator that belongs to another host; a primary that is not reached.
    pub async fn set_host(&self, name: &str, iqns: Vec<String>, persona: u8) -> Result<(), CommandError> {
        let owned = name.to_owned();
        self.update_shared(move |objects| objects.set_host(&owned, iqns.clone(), persona).map(drop)).await
    }

    /// `removehost`.
    ///
    /// # Errors
    /// The host still sees a volume.
    pub async fn remove_host(&self, name: &str) -> Result<(), CommandError> {
        let name = name.to_owned();
        self.update(move |objects| objects.remove_host(&name).map(drop)).await
    }

    /// `createvlun`. `lun`: `None` takes the lowest free one. The same export again is answered as
    /// done. For a mirrored volume both arrays export it before this returns, if they are linked.
    ///
    /// # Errors
    /// No such volume or host, a LUN that is taken; a primary that is not reached.
    pub async fn create_vlun(
        &self,
        volume: &str,
        host: &str,
        lun: Option<u16>,
    ) -> Result<Vlun, CommandError> {
        let (volume, host) = (volume.to_owned(), host.to_owned());
        self.update_shared(move |objects| {
            if let (Some(v), Some(h)) = (objects.volume_named(&volume), objects.host_named(&host))
                && let Some(known) = objects.vluns_of_host(h.uuid).find(|known| known.volume == v.uuid)
                && lun.is_none_or(|lun| lun == known.lun)
            {
                return Ok(known.clone());
            }
            objects.add_vlun(&volume, &host, lun)
        })
        .await
    }

    /// `removevlun`.
    ///
    /// # Errors
    /// No such export; a primary that is not reached.
    pub async fn remove_vlun(&self, volume: &str, host: &str, lun: u16) -> Result<(), CommandError> {
        let (volume, host) = (volume.to_owned(), host.to_owned());
        self.update_shared(move |objects| {
            let known = objects.volume_named(&volume).zip(objects.host_named(&host));
            let known = known.and_then(|(v, h)| objects.vluns_of_host(h.uuid).find(|l| l.volume == v.uuid));
            if known.is_some_and(|known| known.lun != lun) {
                let name = format!("of volume {volume} to host {host} with LUN {lun}");
                return Err(ObjectError::Missing { kind: Kind::Vlun, name });
            }
            objects.remove_vlun(&volume, &host).map(drop)
        })
        .await
    }
}
