//! Block devices for tests, where loop devices are allowed.

/// A block device over a file, gone when dropped; `None` where this is not allowed.
pub(super) struct LoopDevice {
    pub device: std::path::PathBuf,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    pub fn new(bytes: u64, sector: u32) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let made = std::process::Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(file.path())
            .output()
            .ok()?;
        let device = String::from_utf8(made.stdout).ok()?.trim().into();
        made.status.success().then_some(Self { device, _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
