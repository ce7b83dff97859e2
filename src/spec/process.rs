// SPDX-License-Identifier: Apache-2.0
//! Judges how a process is scheduled and finds memory: `process.scheduler`, `ioPriority`, `execCPUAffinity`,
//! `linux.personality` and `linux.memoryPolicy`. Pure.

use super::oci::{Linux, LinuxSchedulerPolicy, Process, Scheduler};
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
    // Which modes, nodes and flags go together is the kernel's to say.
    if let Some(nodes) = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty()) {
        parse_list(nodes).map_err(|rule| {
            invalid("linux.memoryPolicy.nodes", &format!("{rule}: invalid memory policy nodes"))
        })?;
    }
    Ok(())
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
    fn a_memory_policy_is_refused_in_the_words_that_clients_look_for() {
        let judge = |policy: Value| judge(|v| v["linux"]["memoryPolicy"] = policy);
        for good in [
            json!({}),
            json!({"mode": "MPOL_DEFAULT"}),
            json!({"mode": "MPOL_LOCAL", "nodes": ""}),
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1"}),
        ] {
            judge(good.clone()).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for (bad, said) in [
            (json!({"nodes": "0-7"}), "invalid memory policy mode"),
            (json!({"mode": "INTERLEAVE", "nodes": "0"}), "invalid memory policy mode"),
            (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["badflag"]}), "invalid memory policy flag"),
            (json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"}), "invalid memory policy node"),
        ] {
            let error = judge(bad.clone()).expect_err("refused");
            assert!(error.chain().contains(said), "{bad}: {}", error.chain());
            assert!(error.chain().contains("linux.memoryPolicy"), "{bad}: {}", error.chain());
        }
    }

    #[test]
    fn who_names_no_user_means_root() {
        let process = crate::spec::parse_process(br#"{"cwd": "/", "args": ["x"], "user": {"uid": 7}}"#);
        assert_eq!(
            (process.as_ref().map(|p| p.user().uid()).ok(), process.map(|p| p.user().gid()).ok()),
            (Some(7), Some(0))
        );
        let process = crate::spec::parse_process(br#"{"cwd": "/", "args": ["x"]}"#).expect("a process");
        assert_eq!(process.user().uid(), 0);
    }
}
