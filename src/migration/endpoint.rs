// SPDX-License-Identifier: Apache-2.0
//! Where the other host is, and the way there: a unix socket, an agent, or a program such as ssh that starts `migrate receive` there.
//!
//! | written | means |
//! | --- | --- |
//! | `unix:PATH`, `unix://PATH` | whoever listens at this path: `migrate receive --listen` |
//! | `tls://HOST[:PORT]` | the agent of that host, which is trusted under this name ([`super::agent`]) |
//! | `[USER@]HOST`, `ssh://[USER@]HOST[:PORT]` | `ssh HOST migrate receive` |
//!
//! Must not know what is said there.

use std::ffi::OsString;
use std::fmt;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::agent::{self, Tls};
use super::protocol::{Receiver, Sender};
use crate::sys::pidfd;
use crate::{Context, Error, ErrorKind, Result};

/// By itself ssh would wait for hours for a host that is gone without a word, and the container would stand still meanwhile.
const SSH: &str = "ssh -oServerAliveInterval=5 -oServerAliveCountMax=3";

/// How long the program may take to end when nothing is said any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the other host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// At a unix socket.
    Unix(PathBuf),
    /// At an agent.
    Tls {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Where ssh leads to.
    Ssh {
        /// `[USER@]HOST`.
        host: String,
        /// The port, if it is not the usual one.
        port: Option<u16>,
    },
}

/// How a program such as ssh is used, and who this host is where none is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shell {
    /// The program and its first arguments, separated by spaces.
    pub command: String,
    /// The program there, and its first arguments, as its shell takes them.
    pub remote: String,
    /// Further arguments of `receive`.
    pub receive: Vec<String>,
    /// The directory with this host's key and those that it trusts.
    #[serde(default = "agent_directory")]
    pub agent: PathBuf,
}

fn agent_directory() -> PathBuf {
    agent::DIRECTORY.into()
}

impl Default for Shell {
    fn default() -> Self {
        let (command, remote) = (SSH.to_owned(), "migrate".to_owned());
        Self { command, remote, receive: Vec::new(), agent: agent_directory() }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("destination {text:?} {why}"))
                .with_hint("write [USER@]HOST, ssh://[USER@]HOST[:PORT], tls://HOST[:PORT] or unix:PATH"))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { refuse("names no socket") } else { Ok(Self::Unix(path.into())) };
        }
        if let Some(rest) = text.strip_prefix("tls://") {
            return match agent::address(rest) {
                Some((host, port)) => Ok(Self::Tls { host, port }),
                None => refuse("names no host"),
            };
        }
        let (host, port) = match text.strip_prefix("ssh://") {
            None if text.contains("://") => return refuse("is of a kind that is not known"),
            None => (text, None),
            Some(rest) => match rest.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => match port.parse() {
                    Ok(port) => (host, Some(port)),
                    Err(_) => return refuse("has a port that is none"),
                },
                _ => (rest, None),
            },
        };
        // ssh would take it for an option, or its shell for something else.
        let odd = |c: char| c.is_whitespace() || c.is_control() || "'\"`$\\;&|<>(){}*?!#/".contains(c);
        if host.is_empty() || host.starts_with('-') || host.contains("@-") || host.contains(odd) {
            return refuse("names no host");
        }
        Ok(Self::Ssh { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls://{host}:{port}"),
            Self::Ssh { host, port: None } => f.write_str(host),
            Self::Ssh { host, port: Some(port) } => write!(f, "ssh://{host}:{port}"),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// The way to the other host, as long as it is open.
#[derive(Debug)]
pub struct Connection {
    way: Way,
    child: Option<Child>,
}

/// What it goes over.
#[derive(Debug, Clone)]
enum Way {
    Plain(Arc<UnixStream>),
    Encrypted(Arc<Tls>),
}

impl Way {
    fn cut(&self) {
        match self {
            Self::Plain(stream) => drop(stream.shutdown(Shutdown::Both)),
            Self::Encrypted(tls) => tls.cut(),
        }
    }
}

impl Connection {
    /// Opens it.
    ///
    /// # Errors
    /// Nobody listens, or the program cannot be started.
    pub fn open(endpoint: &Endpoint, shell: &Shell) -> Result<Self> {
        let (host, port) = match endpoint {
            Endpoint::Unix(path) => {
                let stream =
                    UnixStream::connect(path).context(|| format!("connect to {}", path.display()))?;
                return Ok(Self { way: Way::Plain(Arc::new(stream)), child: None });
            }
            Endpoint::Tls { host, port } => {
                let way = Way::Encrypted(agent::connect(host, *port, &shell.agent)?);
                return Ok(Self { way, child: None });
            }
            Endpoint::Ssh { host, port } => (host, port),
        };
        let (stream, theirs) = UnixStream::pair().context(|| "make a socket pair")?;
        let mut words = shell.command.split_whitespace();
        let program = words.next().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "the command that leads to the other host is empty")
        })?;
        let mut command = Command::new(program);
        command.args(words);
        if let Some(port) = port {
            command.args(["-p", &port.to_string()]);
        }
        command.arg(host).arg(shell.line());
        let output = theirs.try_clone().context(|| "duplicate a socket")?;
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(output)));
        let child = command.spawn().context(|| format!("start {program}"))?;
        Ok(Self { way: Way::Plain(Arc::new(stream)), child: Some(child) })
    }

    /// Both ends.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn split(&self) -> Result<(Sender, Receiver)> {
        match &self.way {
            Way::Plain(stream) => {
                let clone = || stream.try_clone().context(|| "duplicate a socket");
                Ok((Sender::new(Box::new(clone()?)), Receiver::new(Box::new(clone()?))))
            }
            Way::Encrypted(tls) => {
                Ok((Sender::new(Box::new(tls.writer())), Receiver::new(Box::new(tls.reader()))))
            }
        }
    }

    /// What breaks the connection, from wherever.
    pub fn breaker(&self) -> Breaker {
        Breaker(self.way.clone())
    }

    /// Closes it in order: what was said arrives, and the program may come to its end.
    pub fn close(self) {
        match &self.way {
            Way::Plain(stream) => drop(stream.shutdown(Shutdown::Write)),
            Way::Encrypted(tls) => tls.end(),
        }
        if let Some(pidfd) =
            self.child.as_ref().and_then(|child| pidfd::open(Pid::from_raw(child.id() as i32)).ok())
        {
            let _ = pidfd::wait_ended(&pidfd, PATIENCE);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.way.cut();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Breaks a connection.
#[derive(Debug, Clone)]
pub struct Breaker(Way);

impl Breaker {
    /// What is being written fails, and what is being read ends.
    pub fn cut(&self) {
        self.0.cut();
    }
}

impl Shell {
    /// What the shell there is given.
    fn line(&self) -> OsString {
        let mut line = format!("{} receive", self.remote);
        for word in &self.receive {
            line.push_str(&format!(" '{}'", word.replace('\'', r"'\''")));
        }
        line.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_read_as_it_is_written() {
        let ssh = |host: &str, port| Endpoint::Ssh { host: host.to_owned(), port };
        let tls = |host: &str, port| Endpoint::Tls { host: host.to_owned(), port };
        for (text, endpoint) in [
            ("unix:///run/x.sock", Endpoint::Unix("/run/x.sock".into())),
            ("unix:x.sock", Endpoint::Unix("x.sock".into())),
            ("host", ssh("host", None)),
            ("root@host.example", ssh("root@host.example", None)),
            ("ssh://host", ssh("host", None)),
            ("ssh://root@host:2222", ssh("root@host", Some(2222))),
            ("ssh://[::1]:22", ssh("[::1]", Some(22))),
            ("tls://host", tls("host", agent::PORT)),
            ("tls://10.0.0.1:99", tls("10.0.0.1", 99)),
            ("tls://[fe80::1%eth0]", tls("fe80::1%eth0", agent::PORT)),
            ("tls://[::1]:99", tls("::1", 99)),
        ] {
            let read: Endpoint = text.parse().expect(text);
            assert_eq!(read, endpoint);
            assert_eq!(read.to_string().parse::<Endpoint>().expect("its own text"), endpoint);
        }
    }

    #[test]
    fn what_ssh_or_a_shell_would_take_for_something_else_is_no_host() {
        for text in [
            "",
            "-oProxyCommand=x",
            "ssh://-oProxyCommand=x",
            "a b",
            "a;b",
            "$(x)",
            "tls://",
            "tls://root@h",
            "tls://h:",
            "tls://h:0",
            "tls://h:99999",
            "tls://::1",
            "tls://[::1",
            "tls://[h]x",
            "http://h",
            "ssh://h:x",
            "unix:",
            "u@-x",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn arguments_for_the_other_side_are_quoted_for_its_shell() {
        let shell =
            Shell { receive: vec!["--map-mount".into(), "/a=/it's; reboot".into()], ..Shell::default() };
        assert_eq!(shell.line(), r"migrate receive '--map-mount' '/a=/it'\''s; reboot'");
    }
}
