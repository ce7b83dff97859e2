// SPDX-License-Identifier: Apache-2.0
//! The clocks of a new time namespace: `linux.timeOffsets` as the kernel takes them (time_namespaces(7)).
//!
//! They can be set as long as no process is in the namespace, so they are written from outside.

use std::fs;

use nix::unistd::Pid;

use crate::spec::oci::Spec;
use crate::{Context, Result};

/// The text for `/proc/PID/timens_offsets`; `None` when nothing is to be changed.
pub(super) fn text(spec: &Spec) -> Option<String> {
    let offsets = spec.linux().as_ref()?.time_offsets().as_ref()?;
    let mut lines: Vec<String> = offsets
        .iter()
        .map(|(clock, offset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
        })
        .collect();
    lines.sort();
    (!lines.is_empty()).then(|| lines.concat())
}

/// Sets the clocks of the time namespace that the children of the process will be in.
///
/// # Errors
/// When the kernel refuses: `ERANGE` for a clock that would run before 0 or out of range.
pub(super) fn write(pid: Pid, text: &str) -> Result<()> {
    fs::write(format!("/proc/{pid}/timens_offsets"), text)
        .context(|| format!("write linux.timeOffsets ({:?}) to /proc/{pid}/timens_offsets", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_clock_is_a_line() {
        let spec = |offsets| {
            serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": {"timeOffsets": offsets}}))
                .expect("valid")
        };
        let both = json!({"monotonic": {"secs": 172_800, "nanosecs": 5}, "boottime": {"secs": -604_800}});
        assert_eq!(text(&spec(both)).as_deref(), Some("boottime -604800 0\nmonotonic 172800 5\n"));
        assert_eq!(text(&spec(json!({}))), None);
    }
}
