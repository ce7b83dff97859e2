// SPDX-License-Identifier: Apache-2.0
//! Readiness of a container's program for the service manager that started the runtime (sd_notify(3)).
//!
//! ```text
//!   program ── READY=1 ─▶ /run/notify/notify.sock ═ S/sd-notify/notify.sock ─▶ NotifyProxy ── READY=1, MAINPID=… ─▶ $NOTIFY_SOCKET
//! ```
//!
//! The program does not get at the service manager's own socket: of what it says only its being ready is passed on.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind as IoKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use serde_json::{Value, json};

use super::InitProcess;
use crate::spec::oci::{Mount, Spec};
use crate::sys::fd::proc_path;
use crate::{Context, Result, sys};

/// The directory in the container's, and the socket in that. Podman has a `notify` of its own, which it mounts to the same place.
const DIRECTORY: &str = "sd-notify";
const SOCKET: &str = "notify.sock";

/// The directory in the container.
const INSIDE: &str = "/run/notify";

/// How long the service manager may take to confirm that it has read everything.
const BARRIER: Duration = Duration::from_secs(30);

/// Messages are shorter, in bytes.
const LONGEST: usize = 4096;

/// Whether a configuration comes from a container that was prepared for this.
pub(super) fn is_prepared(config: &Spec) -> bool {
    service_manager_mount(config).is_some()
}

/// Which of the mounts of a configuration leads to the service manager: it gets another source with each container.
pub fn service_manager_mount(config: &Spec) -> Option<usize> {
    let ours = |mount: &Mount| {
        let source = mount.source().as_deref();
        mount.destination() == Path::new(INSIDE) && source.is_some_and(|source| source.ends_with(DIRECTORY))
    };
    config.mounts().iter().flatten().position(ours)
}

/// Makes the directory in the container's, and changes the configuration so that the program finds it.
pub(super) fn prepare(dir: &Path, config: &mut Value) -> Result<()> {
    let directory = dir.join(DIRECTORY);
    fs::create_dir(&directory)
        .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o755)))
        .context(|| format!("make {}", directory.display()))?;
    if let Some(mount) = config["mounts"].as_array_mut().into_iter().flatten().find(|mount| is_ours(mount)) {
        // It was another container's, which this one goes on as: the program has the path already.
        mount["source"] = json!(directory);
        return Ok(());
    }
    let mount = json!({
        "destination": INSIDE,
        "source": directory,
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    });
    append(&mut config["mounts"], mount);
    append(&mut config["process"]["env"], format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}").into());
    Ok(())
}

/// Nobody else binds a directory of this name to this place. One that somebody else binds there is that one's to keep.
fn is_ours(mount: &Value) -> bool {
    let source = mount["source"].as_str().map(Path::new);
    mount["destination"] == INSIDE && source.is_some_and(|source| source.ends_with(DIRECTORY))
}

fn append(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = Value::Array(vec![item]),
    }
}

/// The socket that a container's program speaks to, and the one that hears of it.
#[derive(Debug)]
pub struct NotifyProxy {
    inside: UnixDatagram,
    host: UnixDatagram,
}

impl NotifyProxy {
    /// Listens for a container that was created for this; `None` for another. `host` is the value of `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// When nobody is at `host`.
    pub(super) fn listen(dir: &Path, host: &OsStr) -> Result<Option<Self>> {
        let directory = dir.join(DIRECTORY);
        if !directory.is_dir() {
            return Ok(None);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened =
            open(&directory, flags, Mode::empty()).context(|| format!("open {}", directory.display()))?;
        // However long the path is, an address has room for this one.
        let path = proc_path(opened.as_fd()).join(SOCKET);
        let listen = || {
            match fs::remove_file(&path) {
                // Of a `start` that was killed.
                Err(e) if e.kind() != IoKind::NotFound => return Err(e),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let inside = listen().context(|| format!("listen at {}/{SOCKET}", directory.display()))?;
        let host = connect(host).context(|| format!("connect to NOTIFY_SOCKET {}", host.display()))?;
        Ok(Some(Self { inside, host }))
    }

    /// Waits until the program is ready, tells the service manager so and that the program is its main process now, and
    /// waits until that has read it. The end of the container ends the waiting too, after what it said before.
    ///
    /// # Errors
    /// When the service manager has gone away.
    pub fn wait(&self, init: InitProcess) -> Result<()> {
        loop {
            let pidfd = sys::pidfd::open(init.pid()).ok().filter(|_| init.is_alive());
            if let Some(pidfd) = &pidfd {
                let mut fds = [
                    PollFd::new(self.inside.as_fd(), PollFlags::POLLIN),
                    PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Err(nix::errno::Errno::EINTR) => continue,
                    other => other.context(|| "poll the notify socket")?,
                };
            }
            if self.pass_on(init.pid)? {
                return self.barrier().context(|| "wait for the service manager");
            }
            if pidfd.is_none() {
                return Ok(());
            }
        }
    }

    /// Passes on what has come: whether the program was ready. `main` is who the service manager is to watch.
    pub(super) fn pass_on(&self, main: i32) -> Result<bool> {
        let mut message = [0; LONGEST];
        loop {
            let length = match self.inside.recv(&mut message) {
                Ok(length) => length,
                Err(e) if e.kind() == IoKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == IoKind::Interrupted => continue,
                Err(e) => return Err(e).context(|| "read the notify socket"),
            };
            let Some(ready) = ready(&message[..length]) else { continue };
            let told = self.host.send(&[ready, b"\n"].concat());
            told.and_then(|_| self.host.send(format!("MAINPID={main}\n").as_bytes()))
                .context(|| "tell the service manager that the container is ready")?;
            return Ok(true);
        }
    }

    /// Where messages of the program arrive.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// sd_notify_barrier(3): the service manager closes the descriptor that is sent when it has read all before it.
    fn barrier(&self) -> io::Result<()> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let (bytes, fds) = ([IoSlice::new(b"BARRIER=1")], [theirs.as_raw_fd()]);
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(self.host.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        drop(theirs);
        let time = PollTimeout::try_from(BARRIER).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)], time) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => return Err(io::Error::new(IoKind::TimedOut, "it did not confirm in 30 s")),
                other => return Ok(other.map(drop)?),
            }
        }
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(Path::new(address))?,
    }
    Ok(socket)
}

/// The line that says so, of a message.
fn ready(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_passed_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("host");
        let host = UnixDatagram::bind(&path).expect("bind");
        assert!(NotifyProxy::listen(dir.path(), path.as_os_str()).expect("no error").is_none());
        let mut config = json!({"process": {"env": ["A=1"]}});
        prepare(dir.path(), &mut config).expect("prepare");
        assert_eq!(config["mounts"][0]["destination"], json!("/run/notify"));
        assert_eq!(config["process"]["env"], json!(["A=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]));
        let other = tempfile::tempdir().expect("tempdir");
        let mut moved = config.clone();
        prepare(other.path(), &mut moved).expect("prepare");
        assert_eq!(moved["mounts"][0]["source"], json!(other.path().join("sd-notify")));
        assert_eq!(moved["process"], config["process"]);
        let mut podmans =
            json!({"mounts": [{"destination": "/run/notify", "source": "/run/c/userdata/notify"}]});
        let before = podmans["mounts"][0].clone();
        assert!(!is_ours(&before));
        prepare(tempfile::tempdir().expect("tempdir").path(), &mut podmans).expect("prepare");
        assert_eq!(podmans["mounts"][0], before);
        for _ in ["first", "after one that was killed"] {
            let proxy =
                NotifyProxy::listen(dir.path(), path.as_os_str()).expect("listen").expect("it is there");
            let program = UnixDatagram::unbound().expect("socket");
            program.connect(dir.path().join("sd-notify/notify.sock")).expect("connect");
            assert!(!proxy.pass_on(7).expect("nothing has come"));
            program.send(b"STATUS=still busy\nMAINPID=1").expect("send");
            program.send(b"STATUS=done\nREADY=1\nMAINPID=1").expect("send");
            assert!(proxy.pass_on(7).expect("pass on"));
            let mut message = [0; 100];
            for expected in ["READY=1\n", "MAINPID=7\n"] {
                let length = host.recv(&mut message).expect("receive");
                assert_eq!(String::from_utf8_lossy(&message[..length]), expected);
            }
        }
    }
}
