// SPDX-License-Identifier: Apache-2.0
//! `host-init`: the first process of a test's host, which has its own mount, network and pid namespace.
//!
//! Brings the host up, starts commands on request (see `criu_tests::protocol`), reaps whatever is left to it, as the init
//! of a machine does, and ends with its standard input: the kernel then kills everything that still runs on the host.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use criu_tests::protocol::{Reply, Request, receive, send};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;
use crate::sys;

/// Serves until standard input ends.
pub(crate) fn run(options: &Options) -> Checked {
    let socket = options.value("socket").ok_or("--socket PATH is missing")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .during("make / private")?;
    mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).during("mount /run")?;
    sys::loopback_up().during("bring lo up")?;
    sys::block(&[libc::SIGCHLD]).during("block SIGCHLD")?;
    let mut host = Host {
        listener: UnixListener::bind(Path::new(socket)).during(socket)?,
        ended: sys::signalfd(&[libc::SIGCHLD]).during("signalfd")?,
        stdin: sys::inherited(0).during("stdin")?,
        commands: HashMap::new(),
    };
    let ready = sys::inherited(1).during("stdout")?;
    std::io::Write::write_all(&mut std::fs::File::from(ready), b"ready\n").during("say ready")?;
    while host.serve()? {}
    Ok(())
}

struct Host {
    listener: UnixListener,
    ended: OwnedFd,
    stdin: OwnedFd,
    /// The commands that run, and who asked for them.
    commands: HashMap<Pid, UnixStream>,
}

impl Host {
    /// Handles what has happened; false when the host is to go down.
    fn serve(&mut self) -> Result<bool, String> {
        let order: Vec<Pid> = self.commands.keys().copied().collect();
        let mut fds: Vec<PollFd<'_>> = [self.stdin.as_fd(), self.ended.as_fd(), self.listener.as_fd()]
            .into_iter()
            .chain(order.iter().map(|pid| self.commands[pid].as_fd()))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        poll(&mut fds, PollTimeout::NONE).during("poll")?;
        let happened: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();

        if happened[0] {
            return Ok(false);
        }
        for (pid, _) in order.iter().zip(&happened[3..]).filter(|(_, happened)| **happened) {
            self.obey(*pid);
        }
        if happened[1] {
            self.reap()?;
        }
        if happened[2] {
            let (stream, _) = self.listener.accept().during("accept")?;
            self.start(stream);
        }
        Ok(true)
    }

    /// A request for a command that runs, or the end of its connection.
    fn obey(&mut self, pid: Pid) {
        let Some(stream) = self.commands.get(&pid) else { return };
        match receive::<Request>(stream) {
            Ok(Some(Request::Signal { number })) => {
                // Not reaped yet, so the pid is still the command's own.
                let signal = Signal::try_from(number).ok();
                if let Err(errno) = kill(pid, signal) {
                    crate::complain(&format!("host-init: kill {pid}: {errno}"));
                }
            }
            // The command goes on without anybody to report to.
            _ => drop(self.commands.remove(&pid)),
        }
    }

    fn reap(&mut self) -> Checked {
        while sys::read_signalfd(self.ended.as_fd()).during("read the signalfd")?.is_some() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
                Ok(_) => continue,
                Err(errno) => return Err(format!("waitpid: {errno}")),
            };
            if let Some(stream) = self.commands.remove(&pid) {
                // The test may have lost interest.
                let _ = send(&stream, &Reply::Ended { code });
            }
        }
    }

    fn start(&mut self, stream: UnixStream) {
        let reply =
            sys::receive_descriptors(&stream).during("receive descriptors").and_then(|fds| match receive::<
                Request,
            >(
                &stream
            )
            .during("receive")?
            {
                Some(Request::Start { argv, env, cwd }) => command(&argv, env, &cwd, fds),
                other => Err(format!("the first request is {other:?}")),
            });
        match reply {
            Ok(pid) => {
                let _ = send(&stream, &Reply::Started { pid: pid.as_raw() });
                self.commands.insert(pid, stream);
            }
            Err(why) => drop(send(&stream, &Reply::Refused { why })),
        }
    }
}

fn command(
    argv: &[String],
    env: Option<Vec<(String, String)>>,
    cwd: &str,
    fds: Vec<OwnedFd>,
) -> Result<Pid, String> {
    let (program, args) = argv.split_first().ok_or("an empty command")?;
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| "not three descriptors")?;
    let mut command = Command::new(program);
    command.args(args).current_dir(cwd).stdin(stdin).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    if let Some(env) = env {
        command.env_clear().envs(env);
    }
    let child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}
