// SPDX-License-Identifier: Apache-2.0
//! The limits that a process which restores others could not live under: it and its helpers are more tasks, take memory and
//! processor time, and read the images, all in the container's cgroup.

use crate::spec::oci::LinuxResources;

/// Files of v2 that hold such limits; `linux.resources.unified` names them directly.
const FILES: [&str; 4] = ["memory.", "pids.", "cpu.max", "io.max"];

/// These limits without those. What decides where and with what priority processes run stays. So does the time for
/// real-time threads: a cgroup of v1 has none unless it is given some, and CRIU says nothing when it cannot give a thread
/// its policy back.
pub fn without_tight_limits(resources: &LinuxResources) -> LinuxResources {
    let mut left = resources.clone();
    left.set_memory(None).set_pids(None).set_block_io(None).set_hugepage_limits(None);
    if let Some(cpu) = left.cpu_mut() {
        cpu.set_quota(None).set_period(None).set_burst(None);
    }
    if let Some(unified) = left.unified_mut() {
        unified.retain(|file, _| !FILES.iter().any(|tight| file.starts_with(tight)));
    }
    left
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_weights_and_time_for_real_time_threads_stay() {
        let all: LinuxResources = serde_json::from_value(json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 1048576}, "pids": {"limit": 1}, "blockIO": {"weight": 10},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "cpu": {"shares": 2, "quota": 1000, "period": 100_000, "cpus": "0",
                    "realtimePeriod": 1_000_000, "realtimeRuntime": 50_000},
            "unified": {"memory.high": "1", "pids.max": "1", "cpu.max": "1000", "cpu.weight": "7"}
        }))
        .expect("resources");
        let left = serde_json::to_value(without_tight_limits(&all)).expect("json");
        let cpu = json!({"shares": 2, "realtimeRuntime": 50_000, "realtimePeriod": 1_000_000, "cpus": "0"});
        assert_eq!(left["cpu"], cpu);
        assert_eq!(left["unified"], json!({"cpu.weight": "7"}));
        assert_eq!(left["devices"], json!([{"allow": false, "access": "rwm"}]));
        for gone in ["memory", "pids", "blockIO", "hugepageLimits"] {
            assert!(left.get(gone).is_none(), "{gone}");
        }
    }
}
