// SPDX-License-Identifier: Apache-2.0
//! The machines of a test that needs two kernels: the one that it runs on, and one at the other end of a cable, which it may crash
//! (docs/vm-lab.md).

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::wait::wait_until;

/// How long a machine may take to do what is a matter of seconds: its processor is an emulated one, and starts again after a crash.
pub const MACHINE_PATIENCE: Duration = Duration::from_secs(180);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Where the test runs.
    Here,
    /// The other one.
    There,
}

impl Machine {
    /// The one that it is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Here => Self::There,
            Self::There => Self::Here,
        }
    }

    /// Its name, by which the other one reaches it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Here => "a",
            Self::There => "b",
        }
    }

    /// A script for its shell.
    pub fn shell(self, script: &str) -> Command {
        let words: &[&str] = match self {
            Self::Here => &["sh", "-c"],
            Self::There => &["ssh", "-oBatchMode=yes", "-oConnectTimeout=5", "-oLogLevel=ERROR", "b"],
        };
        let [program, arguments @ ..] = words else { unreachable!("there is a program") };
        let mut command = Command::new(program);
        command.args(arguments).arg(script).stdin(Stdio::null());
        command
    }

    /// Runs it, and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(self, script: &str) -> String {
        let output = self.shell(script).output().expect("start a shell");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stderr);
        assert!(output.status.success(), "{self:?}: {script}: {}\n{said}", output.status);
        text(&output.stdout)
    }

    /// What its kernel calls this boot; nothing while it is not up.
    pub fn boot(self) -> Option<String> {
        let output = self.shell("cat /proc/sys/kernel/random/boot_id").stderr(Stdio::null()).output();
        output.ok().filter(|output| output.status.success()).map(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.trim().to_owned()
        })
    }

    /// Waits until it is up, in another boot than `before`, and gives the present one.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn comes_up(self, before: &str) -> String {
        wait_until(MACHINE_PATIENCE, "the machine is up", || {
            let boot = self.boot();
            boot.clone().filter(|boot| boot != before).ok_or(boot)
        })
    }

    /// A script that waits there, with its connection open, for each `read -r _` until it is told to go on.
    ///
    /// # Panics
    /// When it does not begin.
    #[track_caller]
    pub fn armed(self, script: &str) -> Armed {
        let mut command = self.shell(&format!("echo armed; {script}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a shell");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut armed = Armed { child, stdin, said: BufReader::new(stdout.expect("stdout is a pipe")) };
        assert_eq!(armed.line(), "armed");
        armed
    }
}

/// What a machine does to itself that crashes: no file system is synced, nobody is told.
pub const CRASH: &str = "echo b >/proc/sysrq-trigger";

/// A script that waits.
#[derive(Debug)]
pub struct Armed {
    child: Child,
    stdin: Option<ChildStdin>,
    said: BufReader<std::process::ChildStdout>,
}

impl Armed {
    /// Lets it go on, at once.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn go_on(&mut self) {
        let stdin = self.stdin.as_mut().expect("it is open as long as this is there");
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).expect("tell the script to go on");
    }

    /// The next line that it prints.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).expect("hear the script");
        assert!(read > 0, "the script has ended: {:?}", self.child.try_wait());
        line.trim_end().to_owned()
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
