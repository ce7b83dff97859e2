// SPDX-License-Identifier: Apache-2.0
//! Commands on a host: what is started, while it runs, what came of it.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
    pub fn start(self) -> Running {
        let captured = || tempfile::tempfile().expect("make a file for captured output");
        let (out, err) = (captured(), captured());
        let copy = |file: &File| OwnedFd::from(file.try_clone().expect("dup"));
        let fds = [
            self.stdin.unwrap_or_else(null),
            self.stdout.unwrap_or_else(|| copy(&out)),
            self.stderr.unwrap_or_else(|| copy(&err)),
        ];
        let stream = UnixStream::connect(&self.socket).expect("connect to the host");
        stream.set_read_timeout(Some(LONGEST)).expect("SO_RCVTIMEO");
        let request = Request::Start { argv: self.argv.clone(), env: self.env, cwd: self.cwd };
        send_stdio(&stream, fds.each_ref().map(AsFd::as_fd)).expect("send descriptors to the host");
        send(&stream, &request).expect("send the command to the host");
        match receive::<Reply>(&stream) {
            Ok(Some(Reply::Started { pid })) => Running { stream, pid, argv: self.argv, out, err },
            other => panic!("{:?} did not start: {other:?}", self.argv),
        }
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes too long.
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
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => panic!("send a signal: {e}"),
            _ => {}
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it takes too long.
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
