// SPDX-License-Identifier: Apache-2.0
//! The zoo: for each kernel object that CRIU carries and a container can own, a workload that holds and verifies it
//! (`workloads/zoo`), checkpointed and restored in place, or moved through an archive to a second host; both, one after the
//! other, when everything is asked for (`MIGRATE_TEST_FULL=1`). And what CRIU does not carry ([`limits`]): the checkpoint
//! fails, says why, and the container runs on. And what it carries in part ([`losses`]), or dumps and does not restore
//! ([`dead_ends`]).

#[macro_use]
mod row;

mod advice;
mod attributes;
mod credentials;
mod dead_ends;
mod events;
mod files;
mod futexes;
mod inet_sockets;
mod ipc;
mod limits;
mod limits_processes;
mod locks;
mod losses;
mod losses_processes;
mod memfds;
mod memory;
mod names;
mod namespaces;
mod pipes;
mod processes;
mod registers;
mod scheduling;
mod seccomp;
mod sharing;
mod signals;
mod terminals;
mod threads;
mod timers;
mod unix_sockets;
mod waits;

use std::collections::BTreeSet;
use std::process::Command;

/// The names in all tables.
const SHOWN: &[&[&str]] = &[
    advice::NAMES,
    attributes::NAMES,
    credentials::NAMES,
    dead_ends::NAMES,
    events::NAMES,
    files::NAMES,
    futexes::NAMES,
    inet_sockets::NAMES,
    ipc::NAMES,
    limits::NAMES,
    limits_processes::NAMES,
    locks::NAMES,
    losses::NAMES,
    losses_processes::NAMES,
    memfds::NAMES,
    memory::NAMES,
    names::NAMES,
    namespaces::NAMES,
    pipes::NAMES,
    processes::NAMES,
    registers::NAMES,
    scheduling::NAMES,
    seccomp::NAMES,
    sharing::NAMES,
    signals::NAMES,
    terminals::NAMES,
    threads::NAMES,
    timers::NAMES,
    unix_sockets::NAMES,
    waits::NAMES,
];

#[test]
fn every_exhibit_is_in_one_table() {
    let output =
        Command::new(criu_tests::workload()).args(["zoo", "--list"]).output().expect("run the workload");
    let text = String::from_utf8(output.stdout).expect("names are text");
    let exhibits: BTreeSet<&str> = text.lines().collect();
    let shown: Vec<&str> = SHOWN.concat();
    assert_eq!(
        exhibits,
        shown.iter().copied().collect(),
        "the workload's exhibits are not those of the tables"
    );
    assert_eq!(exhibits.len(), shown.len(), "one is shown twice: {shown:?}");
    assert_eq!(exhibits.len(), text.lines().count(), "one name stands for two exhibits");
}
