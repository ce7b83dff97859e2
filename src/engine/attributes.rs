// SPDX-License-Identifier: Apache-2.0
//! How the container's process is scheduled and finds memory: decided here, set by init on itself, kept by the program.

use serde::{Deserialize, Serialize};

use crate::spec::oci::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use crate::spec::parse_list;
use crate::sys::scheduling::{self, Affinity, SchedAttr};
use crate::{Context, Error, ErrorKind, Result};

/// What init sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    scheduler: Option<SchedAttr>,
    /// Class and level.
    io_priority: Option<(u8, u8)>,
    personality: Option<u32>,
    /// Mode with flags, and nodes.
    memory_policy: Option<(u32, Vec<u32>)>,
    /// The processors of a process that joins a container; all when there are none.
    processors: Vec<u32>,
    /// Whether the container is bound to some processors, which not every policy goes with.
    has_cpuset: bool,
}

impl Attributes {
    /// What a process and its container's configuration ask for; both have been judged.
    pub(super) fn new(process: &Process, linux: Option<&Linux>) -> Self {
        let cpu = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.cpu().as_ref());
        Self {
            scheduler: process.scheduler().as_ref().map(sched_attr),
            io_priority: process.io_priority().map(|priority| {
                let class = match priority.class() {
                    IOPriorityClass::IoprioClassRt => 1,
                    IOPriorityClass::IoprioClassBe => 2,
                    IOPriorityClass::IoprioClassIdle => 3,
                };
                (class, priority.priority().clamp(0, 7) as u8)
            }),
            personality: linux.and_then(|l| l.personality().as_ref()).map(|personality| {
                if let Some(flags) = personality.flags().as_ref().filter(|flags| !flags.is_empty()) {
                    tracing::warn!(?flags, "linux.personality.flags are ignored");
                }
                match personality.domain() {
                    LinuxPersonalityDomain::PerLinux => 0,
                    LinuxPersonalityDomain::PerLinux32 => 8,
                }
            }),
            memory_policy: linux.and_then(|l| l.memory_policy().as_ref()).map(memory_policy),
            processors: Vec::new(),
            has_cpuset: cpu.is_some_and(|cpu| cpu.cpus().as_deref().is_some_and(|cpus| !cpus.is_empty())),
        }
    }

    /// The same for a process that joins a container, on the processors that its configuration gives.
    pub(super) fn of_joining(process: &Process, linux: Option<&Linux>) -> Self {
        let processors = process
            .exec_cpu_affinity()
            .as_ref()
            .and_then(|affinity| affinity.cpu_affinity_final().as_deref())
            .map(list)
            .unwrap_or_default();
        Self { processors, ..Self::new(process, linux) }
    }

    /// In init: the runtime may be bound to some processors, which is nothing to its containers. What they may have is
    /// their cpuset's to say.
    ///
    /// # Errors
    /// `execCPUAffinity.final` when the container has none of them.
    pub(super) fn set_affinity(&self) -> Result<()> {
        if !self.processors.is_empty() {
            return Affinity::of(&self.processors).set().context(|| {
                format!("sched_setaffinity(process.execCPUAffinity.final {:?})", self.processors)
            });
        }
        match Affinity::all().set() {
            // A scheduling policy that is inherited may forbid it, and a kernel without it has one processor.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EBUSY | libc::ENOSYS)) => {
                tracing::debug!(error = %e, "affinity not reset");
                Ok(())
            }
            other => other.context(|| "sched_setaffinity(all)"),
        }
    }

    /// In init, as root: everything else.
    ///
    /// # Errors
    /// The field that the kernel refuses.
    pub(super) fn apply(&self) -> Result<()> {
        if let Some(plan) = &self.scheduler {
            set_scheduler(*plan, self.has_cpuset)?;
        }
        if let Some((class, level)) = self.io_priority {
            scheduling::set_io_priority(class, level)
                .context(|| format!("ioprio_set(process.ioPriority, class {class}, priority {level})"))?;
        }
        if let Some(domain) = self.personality {
            scheduling::set_personality(domain)
                .context(|| format!("personality(linux.personality {domain:#x})"))?;
        }
        if let Some((mode, nodes)) = &self.memory_policy {
            let attempt = || format!("set_mempolicy(linux.memoryPolicy {mode:#x}, nodes {nodes:?})");
            match scheduling::set_memory_policy(*mode, nodes) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    let message = format!("{}: invalid argument", attempt());
                    return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(
                        "the mode, its flags and the nodes do not go together, or a node is not there",
                    ));
                }
                other => other.context(attempt)?,
            }
        }
        Ok(())
    }
}

fn sched_attr(scheduler: &Scheduler) -> SchedAttr {
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    SchedAttr {
        policy: match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).max(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }
}

fn set_scheduler(attributes: SchedAttr, has_cpuset: bool) -> Result<()> {
    match scheduling::set_scheduler(attributes) {
        // sched_setattr(2): a deadline is for threads that may run on all processors of the system.
        Err(e) if has_cpuset && e.raw_os_error() == Some(libc::EPERM) => Err(Error::new(
            ErrorKind::PermissionDenied,
            "process scheduler can't be used together with AllowedCPUs",
        )
        .with_source(e)
        .with_hint("remove process.scheduler or linux.resources.cpu.cpus from config.json")),
        other => other.context(|| format!("sched_setattr(process.scheduler, policy {})", attributes.policy)),
    }
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> (u32, Vec<u32>) {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let mode = policy.flags().iter().flatten().map(flag).fold(mode, |all, one| all | one);
    (mode, policy.nodes().as_deref().map(list).unwrap_or_default())
}

/// A list of a configuration that has been judged.
fn list(text: &str) -> Vec<u32> {
    parse_list(text).unwrap_or_default()
}

/// The processors that the calling thread, and what it starts meanwhile, is bound to until this is dropped.
#[derive(Debug)]
pub(super) struct BoundTo(Option<Affinity>);

impl BoundTo {
    /// `execCPUAffinity.initial`: those on which a process enters its container's cgroup.
    ///
    /// # Errors
    /// When the caller may not run on any of them.
    pub(super) fn initial(process: &Process) -> Result<Self> {
        let initial = process.exec_cpu_affinity().as_ref().and_then(|a| a.initial().as_deref());
        let Some(processors) = initial.map(list).filter(|list| !list.is_empty()) else {
            return Ok(Self(None));
        };
        let before = Affinity::now().context(|| "sched_getaffinity()")?;
        Affinity::of(&processors)
            .set()
            .context(|| format!("sched_setaffinity(process.execCPUAffinity.initial {processors:?})"))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for BoundTo {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|before| before.set()) {
            tracing::warn!(%error, "affinity of the calling thread not restored");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn process(more: &serde_json::Value) -> Process {
        let mut value = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
        let (all, more) = (value.as_object_mut().expect("an object"), more.as_object().expect("an object"));
        all.extend(more.clone());
        crate::spec::parse_process(value.to_string().as_bytes()).expect("a process")
    }

    #[test]
    fn names_become_the_kernels_numbers() {
        let linux: Linux = serde_json::from_value(json!({
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
            "resources": {"cpu": {"cpus": "0"}},
        }))
        .expect("linux");
        let process = process(&json!({
            "scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                          "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
            "execCPUAffinity": {"initial": "0", "final": "1-2"},
        }));
        let attributes = Attributes::of_joining(&process, Some(&linux));
        let scheduler =
            SchedAttr { policy: 6, flags: 5, runtime: 1, deadline: 2, period: 3, ..SchedAttr::default() };
        let expected = Attributes {
            scheduler: Some(scheduler),
            io_priority: Some((3, 4)),
            personality: Some(8),
            memory_policy: Some((2 | 1 << 15, vec![0, 1])),
            processors: vec![1, 2],
            has_cpuset: true,
        };
        assert_eq!(attributes, expected);
        assert_eq!(Attributes::new(&process, None).processors, Vec::<u32>::new(), "it is for exec");
    }
}
