// SPDX-License-Identifier: Apache-2.0
//! How CRIU names the table of nftables with which it keeps packets away: after its run since 4.1, which its log tells, and
//! before after the first dumped process. A name is cut to what fits in its buffer. Finds it by that, and removes it.

use std::io;
use std::os::fd::AsFd;

use crate::sys::netlink::Netfilter;

/// What each of them begins with.
pub const PREFIX: &str = "CRIU-";

/// CRIU has a buffer of 32 bytes for `inet `, the name and a zero byte; less than this names no run.
const SHORTEST: usize = 16;

/// Whether a table is the one of the run with this log, or of this first process.
pub fn is_of_run(table: &str, log: &[u8], init: Option<i32>) -> bool {
    let Some(name) = table.strip_prefix(PREFIX) else { return false };
    if init.is_some_and(|pid| name == pid.to_string()) {
        return true;
    }
    run_ids(log).any(|run| is_named_after(name, run))
}

/// Whether a table is the one of the run with this id.
pub fn is_of(table: &str, run: &str) -> bool {
    table.strip_prefix(PREFIX).is_some_and(|name| is_named_after(name, run))
}

fn is_named_after(name: &str, run: &str) -> bool {
    name.len() >= SHORTEST && run.starts_with(name)
}

/// Removes the tables of these names from a network namespace. Tells whether there was one.
///
/// # Errors
/// Those of netlink; a kernel without nftables has no tables.
pub fn remove(namespace: &(impl AsFd + Sync), is_its: impl Fn(&str) -> bool) -> io::Result<bool> {
    let netfilter = match Netfilter::in_namespace(namespace) {
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(false),
        opened => opened?,
    };
    let mut removed = false;
    for table in netfilter.tables()?.iter().filter(|table| is_its(&table.name)) {
        removed |= netfilter.delete_table(table)?;
    }
    Ok(removed)
}

/// The ids of the run: lines at the beginning of the log say `CRIU run id = 59a31c04-…`, one for each process that CRIU
/// has come through since it was started.
fn run_ids(log: &[u8]) -> impl Iterator<Item = &str> {
    let lines = log.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| Some(line.split_once("CRIU run id = ")?.1.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] =
        b"(00.0) CRIU run id = 36fbaf7c-175b-4963-9353-e4e401c874aa\n(00.0) CRIU run id = 59a31c04-350b-49b9-9812-000000000001\n(00.1) Version: 4.2.1\n";

    #[test]
    fn only_the_table_of_the_run_is_its() {
        let table = [
            ("CRIU-59a31c04-350b-49b9-98", LOG, None, true),
            ("CRIU-59a31c04-350b-49b9-9812-000000000001", LOG, None, true),
            ("CRIU-36fbaf7c-175b-4963-93", LOG, None, true),
            ("CRIU-59a31c04-350b-49b9-99", LOG, None, false),
            ("CRIU-59a3", LOG, None, false),
            ("CRIU-", LOG, None, false),
            ("59a31c04-350b-49b9-98", LOG, None, false),
            ("CRIU-59a31c04-350b-49b9-98", b"", None, false),
            ("CRIU-4711", b"", Some(4711), true),
            ("CRIU-4711", LOG, Some(47), false),
            ("mine", LOG, Some(4711), false),
        ];
        for (name, log, init, expected) in table {
            assert_eq!(is_of_run(name, log, init), expected, "{name}");
        }
        let run = "59a31c04-350b-49b9-9812-000000000001";
        let of_run = |name: &str| is_of(name, run);
        assert!(of_run("CRIU-59a31c04-350b-49b9-98") && of_run(&format!("CRIU-{run}")));
        assert!(!of_run("CRIU-") && !of_run("CRIU-59a31c04-350b-49b9-99") && !of_run(run));
    }
}
