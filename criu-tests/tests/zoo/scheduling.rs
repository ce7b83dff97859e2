// SPDX-License-Identifier: Apache-2.0
//! How threads are scheduled.

use std::path::Path;

use serde_json::{Value, json};

/// On cgroup v1 a cgroup has no time for real-time threads unless it is given some.
fn real_time_budget(config: &mut Value) {
    if Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        config["linux"]["resources"]["cpu"] = json!({"realtimePeriod": 1_000_000, "realtimeRuntime": 50_000});
    }
}

exhibits![
    nice,
    policies,
    real_time => |row| row.capabilities(&["CAP_SYS_NICE"]).config(real_time_budget),
    processors,
    processors_of_a_thread,
    io_priority,
    timer_slack,
];
