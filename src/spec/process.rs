// SPDX-License-Identifier: Apache-2.0
//! Judges how a process is scheduled and finds memory: `process.scheduler`, `ioPriority`, `execCPUAffinity`,
//! `linux.personality` and `linux.memoryPolicy`. Pure.

use super::oci::{
    Linux, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use super::validate::invalid;
use crate::Result;

/// No kernel is built for more processors or memory nodes.
const MOST: u32 = 8192;

/// The numbers of a list as the kernel writes it: `0-3,7`.
///
/// # Errors
/// What is wrong with it, to follow the name of its field.
pub fn parse_list(text: &str) -> std::result::Result<Vec<u32>, String> {
    let number = |part: &str| {
        part.trim()
            .parse::<u32>()
            .ok()
            .filter(|n| *n < MOST)
            .ok_or_else(|| format!("has `{part}`, which is no number below {MOST}"))
    };
    let mut numbers = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => numbers.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return Err(format!("has `{part}`, which runs backwards"));
                }
                numbers.extend(first..=last);
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

pub(super) fn validate(process: &Process, field: &str) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        validate_scheduler(scheduler, &format!("{field}.scheduler"))?;
    }
    if let Some(priority) = process.io_priority()
        && !(0..=7).contains(&priority.priority())
    {
        return Err(invalid(&format!("{field}.ioPriority.priority"), "must be from 0 to 7"));
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (list, name) in [(affinity.initial(), "initial"), (affinity.cpu_affinity_final(), "final")] {
            if let Some(text) = list.as_deref().filter(|text| !text.is_empty()) {
                parse_list(text)
                    .map_err(|rule| invalid(&format!("{field}.execCPUAffinity.{name}"), &rule))?;
            }
        }
    }
    Ok(())
}

fn validate_scheduler(scheduler: &Scheduler, field: &str) -> Result<()> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedRr};
    let policy = *scheduler.policy();
    if scheduler.nice().is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(invalid(&format!("{field}.nice"), "must be from -20 to 19"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, SchedFifo | SchedRr) {
        return Err(invalid(&format!("{field}.priority"), "is only for SCHED_FIFO and SCHED_RR"));
    }
    if priority < 0 {
        return Err(invalid(&format!("{field}.priority"), "must not be negative"));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if policy != SchedDeadline && times.iter().any(|time| time.is_some_and(|t| t != 0)) {
        return Err(invalid(field, "has runtime, deadline or period, which are only for SCHED_DEADLINE"));
    }
    Ok(())
}

pub(super) fn validate_linux(linux: &Linux) -> Result<()> {
    let Some(policy) = linux.memory_policy() else { return Ok(()) };
    let field = |name: &str| format!("linux.memoryPolicy.{name}");
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    if let Some(nodes) = nodes {
        parse_list(nodes).map_err(|rule| invalid(&field("nodes"), &rule))?;
    }
    let flags = policy.flags().as_deref().unwrap_or_default();
    let has = |flag: MemoryPolicyFlagType| flags.contains(&flag);
    if has(MemoryPolicyFlagType::MpolFStaticNodes) && has(MemoryPolicyFlagType::MpolFRelativeNodes) {
        return Err(invalid(
            &field("flags"),
            "cannot have both MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES",
        ));
    }
    use MemoryPolicyModeType::{MpolBind, MpolDefault, MpolLocal, MpolPreferred, MpolPreferredMany};
    let mode = policy.mode();
    if has(MemoryPolicyFlagType::MpolFNumaBalancing) && !matches!(mode, MpolBind | MpolPreferredMany) {
        return Err(invalid(
            &field("flags"),
            "can have MPOL_F_NUMA_BALANCING only with MPOL_BIND and MPOL_PREFERRED_MANY",
        ));
    }
    match (mode, nodes) {
        (MpolDefault | MpolLocal, Some(_)) => {
            Err(invalid(&field("nodes"), &format!("must be empty with {mode}")))
        }
        (MpolDefault | MpolLocal, None) if !flags.is_empty() => {
            Err(invalid(&field("flags"), &format!("must be empty with {mode}")))
        }
        // Without nodes it is that of the processor: MPOL_LOCAL.
        (MpolPreferred, None) if !flags.is_empty() => {
            Err(invalid(&field("flags"), "need nodes with MPOL_PREFERRED"))
        }
        (MpolDefault | MpolLocal | MpolPreferred, _) | (_, Some(_)) => Ok(()),
        (_, None) => Err(invalid(&field("nodes"), &format!("must name nodes for {mode}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{Config, template, validate};

    #[test]
    fn lists_are_those_of_the_kernel() {
        assert_eq!(parse_list("0-2,5, 7").expect("a list"), [0, 1, 2, 5, 7]);
        assert_eq!(parse_list("1,1-2").expect("a list"), [1, 2]);
        for bad in ["", "x", "3-1", "1,,2", "-1", "9999"] {
            parse_list(bad).expect_err(bad);
        }
    }

    fn judge(edit: impl FnOnce(&mut Value)) -> Result<()> {
        let mut value = template(false);
        edit(&mut value);
        validate(&Config::parse(serde_json::to_vec(&value).expect("JSON"))?.spec)
    }

    #[test]
    fn each_rule_names_its_field() {
        for (scheduler, field) in [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "nice"),
            (json!({"policy": "SCHED_BATCH", "priority": 3}), "priority"),
            (json!({"policy": "SCHED_OTHER", "runtime": 3}), "scheduler"),
        ] {
            let error = judge(|v| v["process"]["scheduler"] = scheduler).expect_err(field);
            assert!(error.to_string().contains(field), "{error}");
        }
        let error =
            judge(|v| v["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8}));
        assert!(error.expect_err("8").to_string().contains("process.ioPriority.priority"));
        let error = judge(|v| v["process"]["execCPUAffinity"] = json!({"final": "x"})).expect_err("x");
        assert!(error.to_string().contains("process.execCPUAffinity.final"), "{error}");
    }

    #[test]
    fn every_flag_of_the_specification_is_read() {
        let flags = [
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ];
        judge(|v| v["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE", "flags": flags}))
            .expect("valid");
    }

    #[test]
    fn a_memory_policy_goes_with_its_nodes_and_flags() {
        let judge = |policy: Value| judge(|v| v["linux"]["memoryPolicy"] = policy);
        for good in [
            json!({"mode": "MPOL_DEFAULT"}),
            json!({"mode": "MPOL_LOCAL", "nodes": ""}),
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            json!({"mode": "MPOL_PREFERRED"}),
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1"}),
        ] {
            judge(good.clone()).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in [
            json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
            json!({"mode": "MPOL_BIND"}),
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
            json!({"mode": "MPOL_BIND", "nodes": "all"}),
            json!({"mode": "MPOL_WHATEVER"}),
        ] {
            let error = judge(bad.clone()).expect_err("refused");
            assert!(error.chain().contains("linux.memoryPolicy"), "{bad}: {}", error.chain());
        }
    }
}
