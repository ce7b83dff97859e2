// SPDX-License-Identifier: Apache-2.0
//! Taking a write back: from what its file showed before to the value that brings that about again. Pure.

use super::Write;

/// Files that show one line per device and take one line per write, with what stands for "no limit" there.
const PER_DEVICE: [(&str, &str); 10] = [
    ("blkio.throttle.read_bps_device", "0"),
    ("blkio.throttle.write_bps_device", "0"),
    ("blkio.throttle.read_iops_device", "0"),
    ("blkio.throttle.write_iops_device", "0"),
    ("blkio.weight_device", "0"),
    ("blkio.leaf_weight_device", "0"),
    ("blkio.bfq.weight_device", "0"),
    ("io.bfq.weight", "default"),
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("rdma.max", "hca_handle=max hca_object=max"),
];

impl Write {
    /// What to write to `file` so that it shows again what it showed `before` (without white space at its end) this
    /// write put `value` there.
    pub(in super::super) fn undone(file: &str, value: &str, before: &str) -> String {
        let first_line = before.lines().next().unwrap_or_default();
        match file {
            "memory.oom_control" => {
                first_line.rsplit(' ').next().filter(|n| !n.is_empty()).unwrap_or("0").to_owned()
            }
            // The default among lines for devices.
            "io.weight" | "io.bfq.weight" | "blkio.bfq.weight" if !value.contains(' ') => {
                first_line.to_owned()
            }
            "net_prio.ifpriomap" => line_of(value, before)
                .map_or_else(|| format!("{} 0", value.split(' ').next().unwrap_or_default()), str::to_owned),
            _ => match PER_DEVICE.iter().find(|(name, _)| *name == file) {
                Some((_, unlimited)) => line_of(value, before).map_or_else(
                    || format!("{} {unlimited}", value.split(' ').next().unwrap_or_default()),
                    str::to_owned,
                ),
                // An empty cpuset of v2 means the one above; nothing at all is no write to the kernel.
                None if before.is_empty() => "\n".to_owned(),
                None => before.to_owned(),
            },
        }
    }
}

/// The line that begins with the same word.
fn line_of<'a>(value: &str, before: &'a str) -> Option<&'a str> {
    let key = value.split(' ').next();
    before.lines().find(|line| line.split(' ').next() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_value_comes_back() {
        for (file, value, before, undone) in [
            ("memory.max", "100", "max", "max"),
            ("cpu.max", "100 1000", "max 100000", "max 100000"),
            ("cpuset.cpus", "1", "", "\n"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 3", "0"),
            ("io.weight", "50", "default 100\n8:0 3", "default 100"),
            ("io.bfq.weight", "8:0 5", "default 100\n8:0 3", "8:0 3"),
            ("io.bfq.weight", "8:16 5", "default 100\n8:0 3", "8:16 default"),
            ("io.max", "8:0 rbps=5", "", "8:0 rbps=max wbps=max riops=max wiops=max"),
            (
                "io.max",
                "8:0 rbps=5",
                "8:0 rbps=1 wbps=max riops=max wiops=max",
                "8:0 rbps=1 wbps=max riops=max wiops=max",
            ),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:16 7", "8:0 0"),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:16 7\n8:0 9", "8:0 9"),
            ("net_prio.ifpriomap", "eth0 3", "lo 0\neth0 1", "eth0 1"),
        ] {
            assert_eq!(Write::undone(file, value, before), undone, "{file} {value}");
        }
    }
}
