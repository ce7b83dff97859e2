// SPDX-License-Identifier: Apache-2.0
//! `migrate update`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{Global, parse_id, sizes};
use crate::engine::{ContainerId, RdtChange};
use crate::spec::ResourceChange;
use crate::{Context, Error, ErrorKind, Result};

/// More than this many bytes of resources are refused.
const LARGEST: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The container's id
    #[arg(value_name = "CONTAINER", value_parser = parse_id)]
    id: ContainerId,
    /// Read the limits from a file in the form of linux.resources and ignore the other flags; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// Schema of the L3 cache, with Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth, with Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// One limit a flag.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
struct Limits {
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    blkio_weight: Option<u16>,
    /// Period of the CPU limit, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_period: Option<u64>,
    /// CPU time in a period, in microseconds; -1 is unlimited
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up for bursts, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_burst: Option<u64>,
    /// Weight of CPU time, 2 to 262144
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    cpu_share: Option<u64>,
    /// Period of the realtime limit, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_period: Option<u64>,
    /// Realtime in a period, in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1: run when nothing else does; 0: do not
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// CPUs to run on
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, in bytes or with a unit (k, m, g); -1 is unlimited, and then swap is too
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = sizes::memory)]
    memory: Option<i64>,
    /// Memory that is the last to be reclaimed
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = sizes::memory)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = sizes::memory)]
    memory_swap: Option<i64>,
    /// Processes and threads; -1 is unlimited
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Accepted for old clients; no kernel keeps such a limit
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// Accepted for old clients
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let mut container = global.state_root()?.load(&self.id)?;
        let change = match &self.resources {
            Some(path) => ResourceChange::parse(&read(path)?)?,
            None => ResourceChange::from_value(self.limits.to_json())?,
        };
        let shares = RdtChange {
            l3_cache_schema: self.l3_cache_schema.clone(),
            mem_bw_schema: self.mem_bw_schema.clone(),
        };
        container.update_with(&change, &shares)
    }
}

impl Limits {
    /// Zero is what clients send for "leave it as it is".
    fn to_json(&self) -> Value {
        for (flag, value) in
            [("--kernel-memory", &self.kernel_memory), ("--kernel-memory-tcp", &self.kernel_memory_tcp)]
        {
            if value.is_some() {
                tracing::warn!(flag, "ignored: kernels keep no such limit");
            }
        }
        json!({
            "blockIO": {"weight": self.blkio_weight},
            "cpu": {
                "period": self.cpu_period,
                "quota": self.cpu_quota,
                "burst": self.cpu_burst,
                "shares": self.cpu_share,
                "realtimePeriod": self.cpu_rt_period,
                "realtimeRuntime": self.cpu_rt_runtime,
                "idle": self.cpu_idle,
                "cpus": self.cpuset_cpus,
                "mems": self.cpuset_mems,
            },
            "memory": {
                "limit": self.memory,
                "reservation": self.memory_reservation,
                "swap": self.memory_swap,
            },
            "pids": self.pids_limit.filter(|limit| *limit != 0).map(|limit| json!({"limit": limit})),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (name, read) = if path == Path::new("-") {
        ("the standard input".to_owned(), io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes))
    } else {
        let file = File::open(path);
        (path.display().to_string(), file.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)))
    };
    read.context(|| format!("read the resources from {name}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::new(ErrorKind::InvalidInput, format!("the resources in {name} are too long")));
    }
    Ok(bytes)
}
