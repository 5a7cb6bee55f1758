//! What the system says of this process.

use std::fs;

/// Memory and descriptors, where the system tells them (Linux).
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Bytes of memory that are its own now.
    pub resident_bytes: Option<u64>,
    /// Descriptors that are open.
    pub open_descriptors: Option<u64>,
}

impl Process {
    /// As it is now.
    pub fn now() -> Self {
        // The directory is open while it is counted.
        let open_descriptors = fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1));
        Self { resident_bytes: resident_bytes(), open_descriptors }
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
