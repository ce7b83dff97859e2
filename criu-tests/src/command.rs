// SPDX-License-Identifier: Apache-2.0
//! Commands on a host: what is started, while it runs, what came of it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::protocol::{Reply, Request, receive, send, send_stdio};

/// How long a command may take.
const LONGEST: Duration = Duration::from_secs(60);

/// A command to be started on a host.
#[derive(Debug)]
pub struct Command {
    socket: String,
    argv: Vec<String>,
    env: Option<Vec<(String, String)>>,
    cwd: String,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Command {
    pub(crate) fn new(socket: &str, cwd: &str, argv: Vec<String>) -> Self {
        Self {
            socket: socket.to_owned(),
            argv,
            env: None,
            cwd: cwd.to_owned(),
            stdin: None,
            stdout: None,
            stderr: None,
        }
    }

    /// The whole environment of the command; without this it is the test's.
    #[must_use]
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.env = Some(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        self
    }

    /// Standard input, `/dev/null` otherwise.
    #[must_use]
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(fd.into());
        self
    }

    /// Standard output, captured otherwise.
    #[must_use]
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(fd.into());
        self
    }

    /// Standard error, captured otherwise.
    #[must_use]
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(fd.into());
        self
    }

    /// Nothing is captured, all three are `/dev/null`: for commands that leave their descriptors to a container.
    #[must_use]
    pub fn without_stdio(mut self) -> Self {
        self.stdin = Some(null());
        self.stdout = Some(null());
        self.stderr = Some(null());
        self
    }

    /// Starts the command.
    ///
    /// # Panics
    /// When the host cannot start it.
    #[track_caller]
    pub fn start(self) -> Running {
        self.try_start().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_start(self) -> Result<Running, String> {
        let why = |e: io::Error| format!("{:?} does not start: {e}", self.argv);
        let (out, err) = (tempfile::tempfile().map_err(why)?, tempfile::tempfile().map_err(why)?);
        let or = |given: Option<OwnedFd>, file: &File| match given {
            Some(fd) => Ok(fd),
            None => file.try_clone().map(OwnedFd::from).map_err(why),
        };
        let fds = [self.stdin.unwrap_or_else(null), or(self.stdout, &out)?, or(self.stderr, &err)?];
        let stream = UnixStream::connect(&self.socket).map_err(why)?;
        stream.set_read_timeout(Some(LONGEST)).map_err(why)?;
        send_stdio(&stream, fds.each_ref().map(AsFd::as_fd)).map_err(why)?;
        let request = Request::Start { argv: self.argv.clone(), env: self.env, cwd: self.cwd };
        send(&stream, &request).map_err(why)?;
        match receive::<Reply>(&stream) {
            Ok(Some(Reply::Started { pid })) => Ok(Running { stream, pid, argv: self.argv, out, err }),
            other => Err(format!("{:?} does not start: {other:?}", self.argv)),
        }
    }

    /// Runs the command to its end, or as far as it gets, and does not care: for cleaning up.
    pub(crate) fn run_if_possible(self) {
        if let Ok(running) = self.try_start() {
            let _ = receive::<Reply>(&running.stream);
        }
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes too long.
    #[track_caller]
    pub fn run(self) -> Output {
        self.start().wait()
    }
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("open /dev/null").into()
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    stream: UnixStream,
    pid: i32,
    argv: Vec<String>,
    out: File,
    err: File,
}

impl Running {
    /// The process id on the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends the command, and nothing else, a signal. Harmless when it has ended.
    ///
    /// # Panics
    /// When the host is gone.
    pub fn signal(&self, signal: Signal) {
        match send(&self.stream, &Request::Signal { number: signal as i32 }) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => panic!("send a signal: {e}"),
            _ => {}
        }
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the connection to the host cannot be looked at.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("poll") > 0
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it takes too long.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        match receive::<Reply>(&self.stream) {
            Ok(Some(Reply::Ended { code })) => {
                Output { code, stdout: text(&mut self.out), stderr: text(&mut self.err), argv: self.argv }
            }
            other => panic!(
                "{:?} does not end: {other:?}\nstdout: {}\nstderr: {}",
                self.argv,
                text(&mut self.out),
                text(&mut self.err)
            ),
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read captured output");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What came of a command.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or 128 + the signal that killed it.
    pub code: i32,
    /// What it wrote to standard output, unless that was redirected.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    argv: Vec<String>,
}

impl Output {
    /// Asserts success and gives standard output.
    ///
    /// # Panics
    /// When the command failed.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert!(self.code == 0, "{:?} failed with {}:\n{}{}", self.argv, self.code, self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts failure with this code and an `error:` line that holds each of the fragments; gives standard error.
    ///
    /// # Panics
    /// When it is not so.
    #[track_caller]
    pub fn failed(self, code: i32, fragments: &[&str]) -> String {
        let said = &self.stderr;
        assert!(self.code == code, "{:?} ended with {}, not {code}:\n{said}", self.argv, self.code);
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors[..] else {
            panic!("{:?}: not one `error:` line but {}:\n{said}", self.argv, errors.len())
        };
        for fragment in fragments {
            assert!(error.contains(fragment), "{:?}: {fragment:?} is not in\n{said}", self.argv);
        }
        assert!(!said.contains("panicked"), "{:?}:\n{said}", self.argv);
        self.stderr
    }
}
