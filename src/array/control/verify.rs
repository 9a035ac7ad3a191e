//! Verifies of this array's groups: begun and given up here, their ends told in the event log.

use crate::arbitration::GroupId;
use crate::mirror::{Finding, VerifyEnd, VerifyRefused, VerifyReport, VolumeId};
use crate::volume::{Verified, Volume};

use super::super::handle::now_seconds;
use super::Controller;

/// Extents named in one line of the log; the rest is in `showrcopy`.
const NAMED_MAX: usize = 8;

impl Controller {
    /// Begins to compare both copies of these volumes, with their names. `None`: this array takes no part
    /// in the group.
    pub fn verify(
        &mut self,
        group: GroupId,
        volumes: &[(VolumeId, String)],
        repair: bool,
    ) -> Option<Result<(), VerifyRefused>> {
        let entry = self.groups.get(&group)?;
        let name_of = |volume: &Volume| volumes.iter().find(|(id, _)| *id == volume.id());
        let members: Vec<(Volume, String)> = entry
            .members
            .iter()
            .filter_map(|volume| Some((volume.clone(), name_of(volume)?.1.clone())))
            .collect();
        if members.iter().any(|(volume, _)| volume.with(|core, _, _| core.verifies())) {
            return Some(Err(VerifyRefused::Busy));
        }
        for (at, (volume, name)) in members.iter().enumerate() {
            if let Err(refused) = volume.begin_verify(name, repair, now_seconds()) {
                for (begun, _) in &members[..at] {
                    begun.with(|core, context, out| core.cancel_verify(context, out));
                }
                return Some(Err(refused));
            }
        }
        let names: Vec<&str> = members.iter().map(|(_, name)| name.as_str()).collect();
        let repair = if repair { ", what differs is repaired" } else { "" };
        self.say(group, format!("verify of {} begins{repair}", names.join(", ")));
        Some(Ok(()))
    }

    /// Gives up what is under way; `None`: this array takes no part in the group.
    pub fn cancel_verify(&mut self, group: GroupId) -> Option<()> {
        for volume in &self.groups.get(&group)?.members {
            volume.with(|core, context, out| core.cancel_verify(context, out));
        }
        self.tell_verified();
        Some(())
    }

    /// Tells the ends of verifies that have ended.
    pub(super) fn tell_verified(&self) {
        let now = now_seconds();
        for (group, entry) in &self.groups {
            for verified in entry.members.iter().filter_map(|volume| volume.take_verified(now)) {
                self.say(*group, describe(&verified));
            }
        }
    }

    fn say(&self, group: GroupId, text: String) {
        let epoch = self.groups.get(&group).map(|entry| entry.control().chosen().epoch.0);
        self.parts.log.add(self.names.get(&group).cloned(), epoch, text);
    }
}

/// The end of a verify in words.
fn describe(verified: &Verified) -> String {
    let Verified { name, report, .. } = verified;
    let VerifyReport { regions, compared, reached, differing, repaired, mended, end, .. } = report;
    let end = end.unwrap_or(VerifyEnd::Complete);
    let mut text = format!("verify of {name} {end}: {compared} of {regions} MiB compared");
    if end != VerifyEnd::Complete {
        text += &format!(", everything before LBA {reached} among them");
    }
    if *mended > 0 {
        text += &format!(
            "; in {mended} of them something could not be read here and was written anew with the other array's \
             blocks"
        );
    }
    if *differing == 0 {
        return text + "; no block differs";
    }
    text += &format!("; {differing} blocks are not alike, {repaired} of them were made so:");
    for (at, difference) in report.differences.iter().take(NAMED_MAX).enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let (first, last) = (difference.extent.lba, difference.extent.end().saturating_sub(1));
        text += &format!("{comma} LBA {first} to {last} {}", finding(difference.finding));
    }
    let more = report.differences.len().saturating_sub(NAMED_MAX) as u64 + report.left_out;
    if more > 0 {
        text += &format!(", and {more} more");
    }
    text
}

/// What is wrong with an extent, in words.
pub const fn finding(finding: Finding) -> &'static str {
    match finding {
        Finding::Differs => "differs",
        Finding::UnreadableThere => "cannot be read on the other array",
        Finding::Lost => "cannot be read on either array",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Extent;
    use crate::mirror::Difference;

    fn report(end: VerifyEnd) -> VerifyReport {
        VerifyReport {
            repair: true,
            regions: 64,
            compared: 64,
            reached: 131_072,
            differing: 0,
            repaired: 0,
            mended: 0,
            differences: Vec::new(),
            left_out: 0,
            end: Some(end),
        }
    }

    fn said(report: VerifyReport) -> String {
        describe(&Verified { name: "v0".into(), began: 1, ended: Some(2), report })
    }

    #[test]
    fn the_end_of_a_verify_is_told_with_what_was_found() {
        assert_eq!(
            said(report(VerifyEnd::Complete)),
            "verify of v0 complete: 64 of 64 MiB compared; no block differs"
        );
        let cut = VerifyReport { compared: 7, reached: 14_336, ..report(VerifyEnd::NotInSync) };
        assert_eq!(
            said(cut),
            "verify of v0 cut short: the copies are no longer in sync: 7 of 64 MiB compared, everything before \
             LBA 14336 among them; no block differs"
        );
        let one = |lba| Difference { extent: Extent::new(lba, 8), finding: Finding::Differs, repaired: true };
        let found = VerifyReport {
            differing: 72,
            repaired: 72,
            differences: (0..9).map(|at| one(at * 16)).collect(),
            left_out: 3,
            ..report(VerifyEnd::Complete)
        };
        let text = said(found);
        assert!(
            text.contains("72 blocks are not alike, 72 of them were made so: LBA 0 to 7 differs, LBA 16")
        );
        assert!(text.ends_with(", and 4 more"), "{text}");
    }
}
