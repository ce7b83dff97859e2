// SPDX-License-Identifier: Apache-2.0
//! Programs that check themselves, one subcommand each, for containers that are moved while they run.
//!
//! A workload (`counter`, `crowd`, `dirty`, `files`, `pipes`, `scribe`, `tcp`, `threads`, `timers`, `tree`, `zoo` for one object of many, and `obstacle`
//! for one that cannot be moved) verifies everything it holds on every tick and
//! tells so in the file given with `--status`. The other subcommands are the tests' tools: `agent` answers questions about system calls, `calls` makes them, `inspect` prints what a
//! process sees, `hog` takes what it can get, `hold` stops a CRIU at a notification, `hook` writes down what a hook sees, `notify` tells a service manager that it is ready, `orphan` leaves a process behind, `pulse` shows when it did not run, `server` answers out of its memory, `exit` ends with a code, `host-init` is the first process of a test's host, `fake-criu` answers like a
//! CRIU that is too old or that refuses.

mod agent;
mod calls;
mod counter;
mod crowd;
mod dirty;
mod fake_criu;
mod files;
mod hog;
mod hold;
mod hook;
mod host_init;
mod inspect;
mod lifecycle;
mod notify;
mod obstacle;
mod options;
mod orphan;
mod pipes;
mod pulse;
mod report;
mod scribe;
mod server;
mod sys;
mod tcp;
mod threads;
mod timers;
mod tree;
mod zoo;

use std::io::Write as _;
use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    // A command to run or CRIU's own arguments may follow `--`; they are not options of ours.
    let options = match Options::parse(args.take_while(|a| a != "--")) {
        Ok(options) => options,
        Err(why) => return failed(&name, &why),
    };
    match name.as_str() {
        "counter" => lifecycle::run("counter", &options, counter::Counter::new),
        "crowd" => lifecycle::run("crowd", &options, crowd::Crowd::new),
        "crowd-clients" => lifecycle::run("crowd-clients", &options, crowd::Clients::new),
        "dirty" => lifecycle::run("dirty", &options, dirty::Dirty::new),
        "files" => lifecycle::run("files", &options, files::Files::new),
        "pipes" => lifecycle::run("pipes", &options, pipes::Pipes::new),
        "pipes-peer" => outcome(&name, pipes::peer(&options)),
        "scribe" => lifecycle::run("scribe", &options, scribe::Scribe::new),
        "tcp" => lifecycle::run("tcp", &options, tcp::Tcp::new),
        "tcp-peer" => outcome(&name, tcp::peer(&options)),
        "threads" => lifecycle::run("threads", &options, threads::Threads::new),
        "timers" => lifecycle::run("timers", &options, timers::Timers::new),
        "tree" => lifecycle::run("tree", &options, tree::Tree::new),
        "zoo" if options.has("list") => outcome(&name, zoo::list()),
        "zoo" if options.has("make") => {
            outcome(&name, zoo::try_to_make(options.value("make").unwrap_or_default()))
        }
        "zoo" => lifecycle::run("zoo", &options, zoo::Zoo::new),
        "agent" => outcome(&name, agent::run(&options)),
        "calls" => outcome(&name, calls::run(&options)),
        "inspect" => outcome(&name, inspect::run(&options)),
        "obstacle" => lifecycle::run("obstacle", &options, obstacle::Obstacle::new),
        "exit" => match options.number("code", 0).map(u8::try_from) {
            Ok(Ok(code)) => ExitCode::from(code),
            _ => failed(&name, "--code takes a number from 0 to 255"),
        },
        "hog" => outcome(&name, hog::run(&options)),
        "hold" => outcome(&name, hold::run(&options)),
        "hook" => outcome(&name, hook::run(&options)),
        "orphan" => outcome(&name, orphan::run(&options)),
        "notify" => outcome(&name, notify::run(&options)),
        "pulse" => outcome(&name, pulse::run(&options)),
        "server" => outcome(&name, server::run(&options)),
        "host-init" => outcome(&name, host_init::run(&options)),
        "fake-criu" => outcome(&name, fake_criu::run(&options)),
        _ => failed(&name, "no such workload"),
    }
}

fn outcome(name: &str, result: Result<(), String>) -> ExitCode {
    result.map_or_else(|why| failed(name, &why), |()| ExitCode::SUCCESS)
}

fn failed(name: &str, why: &str) -> ExitCode {
    complain(&format!("{name}: {why}"));
    ExitCode::from(2)
}

/// Says something on stderr, where there is one.
pub(crate) fn complain(text: &str) {
    // Standard error may be /dev/null or closed: there is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "workload {text}");
}
