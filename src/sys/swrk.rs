// SPDX-License-Identifier: Apache-2.0
//! Starts a worker process that must outlive a crash of ours: own session, no parent-death signal, and exactly the
//! file descriptors that it is given, under the numbers that they have here. Must not know CRIU.

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::fd::above_stdio;
pub use super::spawn::Session;
use super::spawn::{self, Program, Signals, Spawn, SpawnFailure};
use crate::{Context, ErrorKind, Result};

/// What to start and with what.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program, by path; `PATH` is not searched.
    pub program: &'a Path,
    /// The arguments after the program's name.
    pub args: &'a [&'a str],
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The session.
    pub session: Session,
    /// Its standard input, output and error: numbers of 4 or more here.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What becomes its descriptor 3.
    pub third: Option<BorrowedFd<'a>>,
    /// Its further descriptors: numbers of 4 or more, which they keep. Nothing else of ours stays open in it.
    pub fds: &'a [BorrowedFd<'a>],
    /// Where it runs.
    pub place: Place<'a>,
}

/// The cgroups and namespaces that the worker and its children are in from their first instruction.
#[derive(Debug)]
pub struct Place<'a> {
    /// A cgroup v2 directory.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The `tasks` files of cgroup v1 directories.
    pub tasks: Vec<BorrowedFd<'a>>,
    /// Namespaces to join.
    pub join: Vec<(BorrowedFd<'a>, CloneFlags)>,
    /// Namespaces to make there: a cgroup namespace, rooted in these cgroups.
    pub namespaces: CloneFlags,
}

/// A started worker, to be waited for once.
#[derive(Debug)]
pub struct Worker {
    pid: Pid,
    ended: Option<WaitStatus>,
}

/// Starts a worker. Every signal has its default action in it and none is blocked but `SIGPIPE`, so that a write to
/// a caller that has died is an error for the worker and not its death, unless it decides otherwise itself.
///
/// # Errors
/// The call that failed, the execution of the program included; [`ErrorKind::InvalidInput`] for a NUL byte in a string.
pub fn spawn(launch: &Launch<'_>) -> Result<Worker> {
    let c_string = |text: Vec<u8>| {
        CString::new(text).context_kind(ErrorKind::InvalidInput, || "make a C string of an argument")
    };
    let program = c_string(launch.program.as_os_str().as_bytes().to_vec())?;
    let mut argv = vec![program.clone()];
    for arg in launch.args {
        argv.push(c_string(arg.as_bytes().to_vec())?);
    }
    let mut envp = Vec::with_capacity(launch.env.len());
    for (name, value) in &launch.env {
        let mut entry = name.clone().into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        envp.push(c_string(entry)?);
    }
    let (report, low) = pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
    let theirs = above_stdio(low.as_fd()).context(|| "dup")?;
    drop(low);
    let child = spawn::spawn(&Spawn {
        program: Program::Path(program),
        argv,
        envp,
        stdio: launch.stdio,
        report: theirs.as_fd(),
        inherit: launch.fds.to_vec(),
        third: launch.third,
        join: launch.place.join.clone(),
        namespaces: CloneFlags::empty(),
        ids: (0, 0),
        outside: None,
        cgroup: launch.place.cgroup,
        enter: launch.place.tasks.clone(),
        unshare: launch.place.namespaces,
        session: launch.session,
        signals: Signals::Default,
    })?;
    drop(theirs);
    let mut worker = Worker { pid: child.pid, ended: None };
    // End of file: the program was executed.
    let mut packet = Vec::new();
    std::fs::File::from(report).read_to_end(&mut packet).context(|| "wait for execve")?;
    if let Some(failure) = SpawnFailure::decode(&packet) {
        worker.wait().context(|| format!("waitpid({})", child.pid))?;
        return failure.into_result();
    }
    Ok(worker)
}

impl Worker {
    /// Its process id, valid until [`Worker::wait`] has returned.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end and reaps it; further calls tell the same again.
    ///
    /// # Errors
    /// `ECHILD` when somebody else in this process has reaped it.
    pub fn wait(&mut self) -> nix::Result<WaitStatus> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        loop {
            match waitpid(self.pid, None) {
                Err(Errno::EINTR) => {}
                other => {
                    let ended = other?;
                    self.ended = Some(ended);
                    return Ok(ended);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    fn anywhere() -> Place<'static> {
        Place { cgroup: None, tasks: Vec::new(), join: Vec::new(), namespaces: CloneFlags::empty() }
    }

    /// Runs a shell script with its output in a file and returns that.
    fn run(script: &str, session: Session, fds: &[BorrowedFd<'_>]) -> String {
        run_program("/bin/sh", &["-c", script], session, fds)
    }

    fn run_program(program: &str, args: &[&str], session: Session, fds: &[BorrowedFd<'_>]) -> String {
        let mut output = tempfile::tempfile().expect("temporary file");
        let null = File::open("/dev/null").expect("/dev/null");
        let null = above_stdio(null.as_fd()).expect("duplicate");
        let copy = above_stdio(output.as_fd()).expect("duplicate");
        let mut worker = spawn(&Launch {
            program: Path::new(program),
            args,
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            session,
            stdio: [null.as_fd(), copy.as_fd(), null.as_fd()],
            third: None,
            fds,
            place: anywhere(),
        })
        .expect("spawn the program");
        assert_eq!(worker.wait(), Ok(WaitStatus::Exited(worker.pid(), 0)), "{args:?}");
        let mut text = String::new();
        output.rewind().expect("rewind");
        output.read_to_string(&mut text).expect("read the output");
        text
    }

    #[test]
    fn only_the_given_descriptors_arrive_and_keep_their_numbers() {
        let given = above_stdio(tempfile::tempfile().expect("a file").as_fd()).expect("duplicate");
        let number = given.as_raw_fd();
        let _other = tempfile::tempfile().expect("another file");
        let seen = run(&format!("echo one >&{number}; ls /proc/self/fd"), Session::Own, &[given.as_fd()]);
        let mut expected = vec!["0".to_owned(), "1".into(), "2".into(), number.to_string()];
        // `ls` itself opens the directory, with the first free number.
        expected.push(if number == 3 { "4".into() } else { "3".into() });
        let mut seen: Vec<String> = seen.split_whitespace().map(str::to_owned).collect();
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
        let mut file = File::from(given);
        let mut text = String::new();
        file.rewind().expect("rewind");
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "one\n");
    }

    #[test]
    fn a_descriptor_without_close_on_exec_stays_behind() {
        let leaky = tempfile::tempfile().expect("temporary file");
        let fd = fcntl(&leaky, FcntlArg::F_DUPFD_CLOEXEC(200)).expect("duplicate");
        // SAFETY: just made.
        let high = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl(&high, FcntlArg::F_SETFD(FdFlag::empty())).expect("clear close-on-exec");
        let seen = run(&format!("[ ! -e /proc/self/fd/{fd} ] && echo gone"), Session::Own, &[]);
        assert_eq!(seen, "gone\n");
    }

    #[test]
    fn the_session_is_as_asked_and_only_sigpipe_is_blocked() {
        let script = "cut -d' ' -f6 /proc/$$/stat; echo $$";
        let own = run(script, Session::Own, &[]);
        let lines: Vec<&str> = own.lines().collect();
        assert_eq!(lines.first(), lines.get(1), "leads its session: {own}");
        let callers = run(script, Session::Callers, &[]);
        let ours = nix::unistd::getsid(None).expect("getsid").to_string();
        assert_eq!(callers.lines().next(), Some(ours.as_str()));
        // Not by a shell: it empties its mask.
        let blocked = run_program("/bin/grep", &["SigBlk", "/proc/self/status"], Session::Own, &[]);
        assert_eq!(blocked, "SigBlk:\t0000000000001000\n");
    }

    #[test]
    fn a_missing_program_is_an_error_of_spawn() {
        let null = File::open("/dev/null").expect("/dev/null");
        let null = above_stdio(null.as_fd()).expect("duplicate");
        let error = spawn(&Launch {
            program: Path::new("/nonexistent/criu"),
            args: &[],
            env: Vec::new(),
            session: Session::Own,
            stdio: [null.as_fd(); 3],
            third: None,
            fds: &[],
            place: anywhere(),
        })
        .expect_err("there is no such program");
        assert_eq!(error.to_string(), "execve");
        assert!(error.is_errno(libc::ENOENT), "{}", error.chain());
    }
}
