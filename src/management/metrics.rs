//! `/metrics` in the text format of Prometheus.

use std::fmt::Write;

use crate::array::Handle;
use crate::group::SyncStatus;
use crate::volume::{MENDED_BLOCKS, RESYNC_BYTES};

/// Everything that is measured, as of now.
pub fn render(handle: &Handle) -> String {
    let mut text = String::new();
    let mut head = |name: &str, kind: &str, help: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        std::mem::take(&mut text)
    };
    let objects = handle.snapshot();
    let views = handle.views.load();
    let mut out = String::new();
    out += &head("twinlun_sessions", "gauge", "iSCSI sessions logged in");
    let _ = writeln!(out, "twinlun_sessions {}", handle.sessions.list().len());
    out += &head("twinlun_volumes", "gauge", "virtual volumes");
    let _ = writeln!(out, "twinlun_volumes {}", objects.volumes().count());
    out += &head("twinlun_resync_bytes_total", "counter", "bytes sent by resyncs since the start");
    let resync = RESYNC_BYTES.load(std::sync::atomic::Ordering::Relaxed);
    let _ = writeln!(out, "twinlun_resync_bytes_total {resync}");
    out += &head(
        "twinlun_mended_blocks_total",
        "counter",
        "blocks of 4 KiB that could not be read here and were written anew with the other array's data",
    );
    let mended = MENDED_BLOCKS.load(std::sync::atomic::Ordering::Relaxed);
    let _ = writeln!(out, "twinlun_mended_blocks_total {mended}");
    out += &head("twinlun_group_serving", "gauge", "1: this array serves the group");
    for group in objects.groups() {
        let serves = views.get(&group.group_id()).is_some_and(|view| view.reason.is_none());
        let _ = writeln!(out, "twinlun_group_serving{{group=\"{}\"}} {}", group.name, u8::from(serves));
    }
    out += &head("twinlun_group_synced", "gauge", "1: both copies hold every acknowledged write");
    for group in objects.groups() {
        let synced = views.get(&group.group_id()).is_some_and(|view| view.sync == SyncStatus::Synced);
        let _ = writeln!(out, "twinlun_group_synced{{group=\"{}\"}} {}", group.name, u8::from(synced));
    }
    out += &head("twinlun_group_epoch", "gauge", "number of the committed configuration");
    for group in objects.groups() {
        let epoch = views.get(&group.group_id()).map_or(0, |view| view.epoch.0);
        let _ = writeln!(out, "twinlun_group_epoch{{group=\"{}\"}} {epoch}", group.name);
    }
    out
}
