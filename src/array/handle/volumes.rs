//! Volumes as operators make and remove them.

use uuid::Uuid;

use crate::array::dying;
use crate::array::rpc::PeerRequest;
use crate::array::volumes::OpenError;
use crate::block::BLOCK;
use crate::group::PathView;
use crate::group::membership::{self, Growth};
use crate::mirror::WritePromise;
use crate::store::objects::{Kind, Provisioning, VirtualVolume};

use super::{CommandError, Handle, missing, now_seconds};

/// Smallest volume, and the unit sizes are rounded to by callers: WSAPI counts in MiB.
pub const MIB: u64 = 1 << 20;
/// Largest volume (DESIGN: 64 TiB).
pub const VOLUME_MAX: u64 = 64 << 40;

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct NewVolume {
    pub name: String,
    pub size_bytes: u64,
    /// Data file or device; default: a file of `data_dir`.
    pub path: Option<std::path::PathBuf>,
    pub full: bool,
    pub comment: String,
    pub promise: WritePromise,
}

/// A new NAA type 6 designator (SPC-5 7.7.3.6.5). The OUI is from the locally administered space;
/// the rest is the volume's UUID.
fn naa(uuid: Uuid) -> [u8; 16] {
    let mut naa = uuid.into_bytes();
    naa[0] = 0x60;
    naa[1] = 0x2a;
    naa
}

impl Handle {
    /// `createvv`.
    ///
    /// # Errors
    /// A bad or taken name, a size the file system cannot hold (with its limit), a full disk.
    pub async fn create_volume(&self, new: NewVolume) -> Result<VirtualVolume, CommandError> {
        let uuid = Uuid::new_v4();
        self.make_volume(new, uuid, naa(uuid)).await
    }

    pub(super) async fn make_volume(
        &self,
        new: NewVolume,
        uuid: Uuid,
        naa: [u8; 16],
    ) -> Result<VirtualVolume, CommandError> {
        if new.size_bytes == 0 || !new.size_bytes.is_multiple_of(MIB) || new.size_bytes > VOLUME_MAX {
            return Err(CommandError::BadSize(new.size_bytes));
        }
        self.blocking(move |this| {
            let volume = VirtualVolume {
                id: 0,
                path: new.path.unwrap_or_else(|| this.data_dir.volume(&new.name)),
                name: new.name,
                uuid,
                naa,
                size_bytes: new.size_bytes,
                provisioning: if new.full { Provisioning::Full } else { Provisioning::Thin },
                comment: new.comment,
                created: now_seconds(),
                copy: 0,
                promise: new.promise,
            };
            // Names are checked before a file is made under one.
            this.objects.snapshot().as_ref().clone().add_volume(volume.clone())?;
            this.volumes.create(&volume)?;
            let wanted = volume.clone();
            let added = this.objects.update(|objects| objects.add_volume(wanted).cloned());
            match added {
                Ok(Ok(volume)) => Ok(volume),
                refused => {
                    if let Err(error) = this.volumes.remove(&volume) {
                        tracing::warn!(%error, "files of a volume that could not be made are left behind");
                    }
                    Ok(refused??)
                }
            }
        })
        .await
    }

    /// `growvv`: both copies of a mirrored volume grow, the other array's first, then hosts are told (UA
    /// 2A/09).
    ///
    /// # Errors
    /// A bad size, one that the file system of either array cannot hold, a full disk; a mirrored volume whose
    /// group is not in sync, or not primary here.
    pub async fn grow_volume(&self, name: &str, by_bytes: u64) -> Result<VirtualVolume, CommandError> {
        let snapshot = self.snapshot();
        let volume = snapshot.volume_named(name).cloned().ok_or_else(|| missing(Kind::Volume, name))?;
        let size = volume.size_bytes.saturating_add(by_bytes);
        if by_bytes == 0 || !size.is_multiple_of(MIB) || size > VOLUME_MAX {
            return Err(CommandError::BadSize(size));
        }
        if let Some(group) = snapshot.group_of_volume(volume.uuid) {
            if !PathView::may_grow(self.view(group.group_id()).as_ref()) {
                return Err(CommandError::GrowsInSync { volume: name.to_owned(), group: group.name.clone() });
            }
            for step in membership::growth(true) {
                self.grow_by(volume.uuid, size, *step).await?;
            }
        } else {
            self.grow_local(volume.uuid, size).await?;
        }
        let grown = self.snapshot().volume(volume.uuid).cloned();
        grown.ok_or_else(|| missing(Kind::Volume, name))
    }

    /// This array's copy grows; one that is as large already stays.
    pub(super) async fn grow_local(&self, volume: Uuid, size_bytes: u64) -> Result<(), CommandError> {
        let known = self.snapshot().volume(volume).cloned();
        let Some(known) = known.filter(|known| size_bytes > known.size_bytes) else { return Ok(()) };
        if size_bytes > VOLUME_MAX {
            return Err(CommandError::BadSize(size_bytes));
        }
        if self.volumes.get(known.volume_id()).is_some() {
            for step in membership::growth(false) {
                self.grow_by(volume, size_bytes, *step).await?;
            }
        }
        Ok(())
    }

    async fn grow_by(&self, volume: Uuid, size_bytes: u64, step: Growth) -> Result<(), CommandError> {
        if step == Growth::Ask {
            self.ask_peer(PeerRequest::GrowVolume { volume, size_bytes }).await?;
            dying::at("grown_there");
            return Ok(());
        }
        self.blocking(move |this| {
            let Some(known) = this.snapshot().volume(volume).cloned() else { return Ok(()) };
            let Some(open) = this.volumes.get(known.volume_id()) else { return Ok(()) };
            match step {
                Growth::Ask => {}
                Growth::Data => {
                    if open.file().size_bytes() < size_bytes {
                        open.file().grow(size_bytes).map_err(OpenError::from)?;
                    }
                }
                // Known before anybody may write there: what a crash leaves unknown is undone at the start.
                Growth::Size => {
                    this.objects.update(|objects| objects.grow_volume(volume, size_bytes).map(|_| ()))??;
                }
                Growth::Tell => {
                    open.with(|core, _, _| core.grow(size_bytes / u64::from(BLOCK)));
                    this.exports.rebuild(this);
                    let (name, mib) = (&known.name, size_bytes / MIB);
                    this.log.add(None, None, format!("volume {name} has grown to {mib} MiB"));
                }
            }
            Ok(())
        })
        .await
    }

    /// `removevv`.
    ///
    /// # Errors
    /// The volume is exported or in a group.
    pub async fn remove_volume(&self, name: &str) -> Result<(), CommandError> {
        let name = name.to_owned();
        self.blocking(move |this| {
            let volume = this.objects.update(|objects| objects.remove_volume(&name))??;
            this.exports.rebuild(this);
            Ok(this.volumes.remove(&volume)?)
        })
        .await
    }
}
