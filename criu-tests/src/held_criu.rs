// SPDX-License-Identifier: Apache-2.0
//! A CRIU that stands still at a notification of the test's choice, so that the moment of a kill is exact.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::command::Running;
use crate::host::Host;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

/// Where CRIU stands still: at the notification that this script would be run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The script.
    pub script: &'static str,
    /// Whether CRIU has the answer already.
    pub answered: bool,
}

/// A command that waits for its CRIU, which stands still.
#[derive(Debug)]
pub struct HeldCriu {
    /// The command.
    pub command: Running,
    tracer: Running,
    criu: String,
}

impl Host {
    /// Starts a command of `migrate` without standard streams and holds the CRIU that it starts.
    ///
    /// # Panics
    /// When CRIU does not come to that moment.
    #[track_caller]
    pub fn hold_criu(&self, args: &[&str], moment: Moment) -> HeldCriu {
        self.hold_later_criu(args, moment, 0)
    }

    /// [`Host::hold_criu`] for a command that starts so many others before.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub fn hold_later_criu(&self, args: &[&str], moment: Moment, before: usize) -> HeldCriu {
        let file = |name: &str| {
            let path = self.path(&format!("held-{name}"));
            // Of the time before.
            let _ = fs::remove_file(&path);
            path
        };
        let [door, pid, traced, go, held, pass] = ["criu", "pid", "traced", "go", "held", "pass"].map(file);
        fs::write(&pass, "x".repeat(before)).expect("write how many may pass");
        let real = crate::criu();
        let script = format!(
            "#!/bin/sh\nleft=$(cat {pass}); [ -z \"$left\" ] || {{ printf %s \"${{left#x}}\" > {pass}; exec {real} \"$@\"; }}\n[ -e {go} ] || {{ echo $$ > {pid}; until [ -e {go} ]; do sleep 0.01; done; }}\nexec {real} \"$@\"\n"
        );
        fs::write(&door, script).expect("write the wrapper");
        fs::set_permissions(&door, fs::Permissions::from_mode(0o755)).expect("chmod");
        let args = [&["--criu", &door][..], args].concat();
        let command = self.migrate_command(&args).without_stdio().start();
        let criu = wait_until(PATIENCE, "CRIU is at the door", || {
            let text = fs::read_to_string(&pid).unwrap_or_default();
            text.strip_suffix('\n').map(str::to_owned).ok_or(text)
        });
        let workload = programs::workload();
        let Moment { script, answered } = moment;
        let mut hold =
            vec![&workload, "hold", "--pid", &criu, "--script", script, "--traced", &traced, "--held", &held];
        hold.extend(answered.then_some("--answered"));
        let tracer = self.command(&hold).start();
        let appears = |path: &str| {
            wait_until(PATIENCE, path, || match fs::exists(path).unwrap_or(false) {
                true => Ok(true),
                false if tracer.has_ended() => Ok(false),
                false => Err("not yet"),
            })
        };
        let reached = appears(&traced) && {
            fs::write(&go, "").expect("let CRIU in");
            appears(&held)
        };
        if !reached {
            fs::write(&go, "").expect("let CRIU in");
            let (tracer, command) = (tracer.wait(), command.wait());
            let log = fs::read_to_string(self.path("migrate.log")).unwrap_or_default();
            panic!("{moment:?} is not reached: {tracer:?}\n{command:?}\n{log}");
        }
        HeldCriu { command, tracer, criu }
    }

    fn sees_the_end_of(&self, criu: &str) {
        wait_until(PATIENCE, "CRIU ends", || {
            if self.has_process(criu) { Err(self.processes()) } else { Ok(()) }
        });
    }

    /// Whether a process of this number is on the host.
    fn has_process(&self, pid: &str) -> bool {
        fs::exists(self.outside(&format!("/proc/{pid}"))).unwrap_or(false)
    }
}

impl HeldCriu {
    /// Kills CRIU; gives the command.
    pub fn kill(self, host: &Host) -> Running {
        host.command(&["sh", "-c", &format!("kill -KILL {}", self.criu)]).run().succeeded();
        self.tracer.signal(Signal::SIGKILL);
        self.tracer.wait();
        self.command
    }

    /// Lets CRIU go on; gives the command.
    pub fn release(self) -> Running {
        self.tracer.signal(Signal::SIGKILL);
        self.tracer.wait();
        self.command
    }

    /// Kills the command and whatever it has started for connections, and lets CRIU go on without it until it ends.
    pub fn kill_command(self, host: &Host) {
        self.command.signal(Signal::SIGKILL);
        host.signal_served(Signal::SIGKILL);
        let criu = self.criu.clone();
        self.release().wait();
        host.sees_the_end_of(&criu);
    }

    /// Stops the command, lets CRIU go on until `there` says so, and kills it; gives the command, which goes on.
    pub fn kill_later(self, host: &Host, there: impl Fn() -> bool) -> Running {
        self.command.signal(Signal::SIGSTOP);
        host.signal_served(Signal::SIGSTOP);
        let criu = self.criu.clone();
        let command = self.release();
        wait_until(PATIENCE, "CRIU comes as far", || if there() { Ok(()) } else { Err(host.processes()) });
        host.command(&["sh", "-c", &format!("kill -KILL {criu}")]).run().succeeded();
        host.signal_served(Signal::SIGCONT);
        command.signal(Signal::SIGCONT);
        command
    }

    /// Kills both, so that neither sees the other's end.
    pub fn kill_both(self, host: &Host) {
        self.command.signal(Signal::SIGSTOP);
        self.command.signal(Signal::SIGKILL);
        let criu = self.criu.clone();
        self.kill(host).wait();
        host.sees_the_end_of(&criu);
    }
}
