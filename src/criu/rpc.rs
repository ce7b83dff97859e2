// SPDX-License-Identifier: Apache-2.0
//! CRIU's protocol on one connection: a request out, notifications answered, a response in.
//!
//! ```text
//! us                                  criu swrk
//! criu_req{type, opts}  ────────────▶
//!                       ◀────────────  criu_resp{NOTIFY, script, pid} [+ descriptor]   any number of times
//! criu_req{NOTIFY, notify_success} ─▶
//!                       ◀────────────  criu_resp{type, success, cr_errno, cr_errmsg}
//! ```
//! One message is one packet. Knows the socket and the messages; of the process at the other end only whether it lives: the
//! processes that CRIU makes hold its end of the socket as well, and when it is killed they wait for it for ever.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use protobuf::{Message, MessageField};
use rust_criu::rust_criu_protobuf::rpc::{Criu_opts, Criu_req, Criu_req_type, Criu_resp};

use super::notify::{Event, Notify, dispatch};
use crate::sys::{pidfd, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

/// CRIU's messages have some hundred bytes; its longest carries one log line.
const MAX_PACKET: usize = 256 * 1024;

/// Our end of the socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    /// CRIU's process.
    peer: OwnedFd,
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) struct Reply {
    /// The last message, or why none came.
    pub(super) outcome: Outcome,
    /// The first error of a notification, whatever CRIU said to it.
    pub(super) objection: Option<Error>,
    /// The first restored process, opened while CRIU still held it.
    pub(super) init: Option<Init>,
    /// Whether CRIU has told that the restored processes run, which is the last thing that it does. Until then its death lets go of
    /// those that it has not yet let go itself, and not all of them survive that.
    pub(super) resumed: bool,
}

impl Reply {
    /// Whether CRIU went away when nothing was left for it to do.
    pub(super) fn is_of_the_dead(&self) -> bool {
        self.resumed && self.objection.is_none() && matches!(self.outcome, Outcome::Closed)
    }
}

/// The response, or what took its place.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Box<Criu_resp>),
    /// CRIU closed its end, or has ended.
    Closed,
    /// The socket failed, or what came is not CRIU's protocol.
    Broken(Error),
}

/// A process that cannot be mistaken for another.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, peer: OwnedFd) -> Self {
        Self { socket, peer }
    }

    /// Sends a request and serves notifications until its response.
    pub(super) fn call(&mut self, request: &Criu_req, notify: &mut dyn Notify) -> Reply {
        let mut reply = Reply { outcome: Outcome::Closed, objection: None, init: None, resumed: false };
        reply.outcome = self.exchange(request, notify, &mut reply).unwrap_or_else(Outcome::Broken);
        reply
    }

    /// Tells CRIU that nothing more will come; what it still sends is lost.
    pub(super) fn close(self) {
        drop(self.socket);
    }

    fn exchange(
        &mut self,
        request: &Criu_req,
        notify: &mut dyn Notify,
        reply: &mut Reply,
    ) -> Result<Outcome> {
        if !self.send(request)? {
            return Ok(Outcome::Closed);
        }
        loop {
            if !self.wait(notify)? {
                return Ok(Outcome::Closed);
            }
            let packet = seqpacket::receive(self.socket.as_fd(), MAX_PACKET)
                .context_kind(ErrorKind::CriuFailed, || "receive from criu")?;
            let Some(packet) = packet else { return Ok(Outcome::Closed) };
            let response = Criu_resp::parse_from_bytes(&packet.bytes)
                .context_kind(ErrorKind::CriuFailed, || "decode a message of criu")?;
            if response.type_() != Criu_req_type::NOTIFY {
                return Ok(Outcome::Answered(Box::new(response)));
            }
            let released = |notify: &mut dyn Notify| match response.notify.script() {
                "post-restore" => notify.before_release(self.socket.as_fd()),
                _ => Ok(()),
            };
            let notified = notified(&response, packet.fds, notify, reply);
            let answer = match notified.and_then(|external| released(notify).map(|()| external)) {
                Ok(external) => acknowledgement(external),
                Err(error) => {
                    reply.objection.get_or_insert(error);
                    refusal()
                }
            };
            if !self.send(&answer)? {
                return Ok(Outcome::Closed);
            }
        }
    }

    /// False if CRIU is gone.
    fn send(&mut self, request: &Criu_req) -> Result<bool> {
        let bytes =
            request.write_to_bytes().context_kind(ErrorKind::InvalidInput, || "encode a message for criu")?;
        match seqpacket::send(self.socket.as_fd(), &bytes) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
            other => other.map(|()| true).context(|| format!("send {} bytes to criu", bytes.len())),
        }
    }

    /// Waits until there is something to receive, with a word to the caller when its patience ends. False if CRIU has
    /// ended and all that it sent has been received.
    fn wait(&self, notify: &mut dyn Notify) -> Result<bool> {
        let mut silent = Duration::ZERO;
        loop {
            let patience = notify.patience();
            let timeout = patience.map_or(PollTimeout::NONE, |time| {
                PollTimeout::try_from(time.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
            });
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let mut fds =
                [self.socket.as_fd(), self.peer.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) => {
                    silent = silent.saturating_add(patience.unwrap_or_default());
                    notify.silence(silent);
                }
                Ok(_) if ready(&fds[0]) => return Ok(true),
                // Its last words may have come between the looks at the two.
                Ok(_) => {
                    return poll(&mut fds[..1], PollTimeout::ZERO).map(|n| n > 0).context(|| "wait for criu");
                }
                Err(e) => return Err(e).context(|| "wait for criu"),
            }
        }
    }
}

fn notified(
    response: &Criu_resp,
    fds: Vec<OwnedFd>,
    notify: &mut dyn Notify,
    reply: &mut Reply,
) -> Result<Vec<String>> {
    let (script, pid) = (response.notify.script(), response.notify.pid);
    tracing::debug!(script, pid, "criu notifies");
    reply.resumed |= script == "post-resume";
    if let ("post-restore", Some(pid)) = (script, pid) {
        let pidfd = pidfd::open(Pid::from_raw(pid)).context(|| format!("pidfd_open({pid})"))?;
        reply.init = Some(Init { pid, pidfd });
    }
    dispatch(Event { script, pid, fds }, notify)
}

fn acknowledgement(external: Vec<String>) -> Criu_req {
    let mut request = Criu_req::new();
    request.set_type(Criu_req_type::NOTIFY);
    request.set_notify_success(true);
    if !external.is_empty() {
        let mut opts = Criu_opts::new();
        // A required field of the message; -1 is its "none".
        opts.set_images_dir_fd(-1);
        opts.external = external;
        request.opts = MessageField::some(opts);
    }
    request
}

fn refusal() -> Criu_req {
    let mut request = Criu_req::new();
    request.set_type(Criu_req_type::NOTIFY);
    request.set_notify_success(false);
    request
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use std::thread;

    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
    use rust_criu::rust_criu_protobuf::rpc::Criu_notify;

    use super::*;
    use crate::criu::Silent;

    /// CRIU's end of the socket, played by a test.
    struct Server(OwnedFd);

    impl Server {
        fn receive(&self) -> Option<Criu_req> {
            let packet = seqpacket::receive(self.0.as_fd(), MAX_PACKET).expect("receive")?;
            Some(Criu_req::parse_from_bytes(&packet.bytes).expect("a request"))
        }

        fn send(&self, response: &Criu_resp, fds: &[&OwnedFd]) {
            self.send_bytes(&response.write_to_bytes().expect("encode"), fds);
        }

        fn send_bytes(&self, bytes: &[u8], fds: &[&OwnedFd]) {
            let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
            let control = [ControlMessage::ScmRights(&raw)];
            let control = if fds.is_empty() { &[][..] } else { &control[..] };
            let flags = MsgFlags::MSG_NOSIGNAL;
            sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
                .expect("send");
        }

        /// Sends a notification and waits for what is answered.
        fn notify(&self, script: &str, pid: Option<i32>, fds: &[&OwnedFd]) -> Criu_req {
            let mut notify = Criu_notify::new();
            notify.set_script(script.to_owned());
            notify.pid = pid;
            let mut response = answer(Criu_req_type::NOTIFY, true);
            response.notify = MessageField::some(notify);
            self.send(&response, fds);
            self.receive().expect("an answer to a notification")
        }
    }

    fn answer(kind: Criu_req_type, success: bool) -> Criu_resp {
        let mut response = Criu_resp::new();
        response.set_type(kind);
        response.set_success(success);
        response
    }

    /// Sends a dump request to a server that a thread plays.
    fn against(
        notify: &mut dyn Notify,
        server: impl FnOnce(Server, Criu_req) + Send + 'static,
    ) -> (Reply, Connection) {
        let (ours, theirs) = seqpacket::pair().expect("socket pair");
        let thread = thread::spawn(move || {
            let server_end = Server(theirs);
            let request = server_end.receive().expect("a request");
            server(server_end, request);
        });
        let mut request = Criu_req::new();
        request.set_type(Criu_req_type::DUMP);
        let mut connection = Connection::new(ours, a_process_that_lives());
        let reply = connection.call(&request, notify);
        thread.join().expect("the server's own checks");
        (reply, connection)
    }

    #[test]
    fn a_criu_that_goes_away_has_done_its_work_only_after_the_processes_run() {
        for (script, done) in [("pre-resume", false), ("post-resume", true)] {
            let (reply, _) = against(&mut Silent, move |server, _| {
                server.notify(script, None, &[]);
            });
            assert_eq!(reply.is_of_the_dead(), done, "{script}: {reply:?}");
        }
        let (reply, _) = against(&mut Silent, |server, _| {
            server.notify("post-resume", None, &[]);
            server.send(&answer(Criu_req_type::RESTORE, false), &[]);
        });
        assert!(!reply.is_of_the_dead(), "{reply:?}");
    }

    #[test]
    fn a_request_its_notifications_and_its_response() {
        #[derive(Default)]
        struct Caller(Vec<&'static str>);
        impl Notify for Caller {
            fn pre_dump(&mut self) -> Result<()> {
                self.0.push("pre-dump");
                Ok(())
            }
            fn query_external(&mut self) -> Result<Vec<String>> {
                self.0.push("query");
                Ok(vec!["file[1:2]".to_owned()])
            }
            fn post_dump(&mut self) -> Result<()> {
                self.0.push("post-dump");
                Ok(())
            }
        }
        let mut caller = Caller::default();
        let (reply, _) = against(&mut caller, |server, request| {
            assert_eq!(request.type_(), Criu_req_type::DUMP);
            for script in ["pre-dump", "of-the-future", "post-dump"] {
                let answered = server.notify(script, None, &[]);
                assert!(answered.type_() == Criu_req_type::NOTIFY && answered.notify_success(), "{script}");
                assert!(answered.opts.is_none());
            }
            let answered = server.notify("query-ext-files", None, &[]);
            assert_eq!(answered.opts.external, ["file[1:2]"]);
            server.send(&answer(Criu_req_type::DUMP, true), &[]);
        });
        assert_eq!(caller.0, ["pre-dump", "post-dump", "query"]);
        assert!(matches!(&reply.outcome, Outcome::Answered(r) if r.success()), "{reply:?}");
        assert!(reply.objection.is_none() && reply.init.is_none());
    }

    #[test]
    fn a_refusal_reaches_criu_and_stays_the_callers_own_error() {
        struct Refuses;
        impl Notify for Refuses {
            fn network_lock(&mut self) -> Result<()> {
                Err(Error::new(ErrorKind::Storage, "the disk is full"))
            }
            fn post_dump(&mut self) -> Result<()> {
                Err(Error::new(ErrorKind::System, "a later error"))
            }
        }
        let (reply, _) = against(&mut Refuses, |server, _| {
            assert!(!server.notify("network-lock", None, &[]).notify_success());
            assert!(!server.notify("post-dump", None, &[]).notify_success());
            let mut response = answer(Criu_req_type::DUMP, false);
            response.set_cr_errmsg("Error (criu/x.c:1): RPC client reported script error".to_owned());
            server.send(&response, &[]);
        });
        assert!(matches!(&reply.outcome, Outcome::Answered(r) if !r.success()));
        assert_eq!(reply.objection.map(|e| e.to_string()).as_deref(), Some("the disk is full"));
    }

    #[test]
    fn a_server_that_goes_away_is_an_end_not_an_error() {
        let (reply, mut connection) = against(&mut Silent, |server, _| {
            server.notify("pre-dump", None, &[]);
        });
        assert!(matches!(reply.outcome, Outcome::Closed), "{reply:?}");
        // Nor is it a signal when the next request finds nobody.
        let reply = connection.call(&refusal(), &mut Silent);
        assert!(matches!(reply.outcome, Outcome::Closed), "{reply:?}");
    }

    fn a_process_that_lives() -> OwnedFd {
        pidfd::open(Pid::this()).expect("a pidfd of our own")
    }

    #[test]
    fn a_server_that_has_ended_is_gone_though_others_hold_its_socket() {
        let mut child = std::process::Command::new("true").spawn().expect("start a process");
        let peer = pidfd::open(Pid::from_raw(child.id() as i32)).expect("its pidfd");
        child.wait().expect("it ends");
        let (ours, theirs) = seqpacket::pair().expect("socket pair");
        // What it has sent before counts.
        let held = Server(theirs);
        held.send(&answer(Criu_req_type::DUMP, true), &[]);
        let mut connection = Connection::new(ours, peer);
        let reply = connection.call(&refusal(), &mut Silent);
        assert!(matches!(reply.outcome, Outcome::Answered(_)), "{reply:?}");
        let reply = connection.call(&refusal(), &mut Silent);
        assert!(matches!(reply.outcome, Outcome::Closed), "{reply:?}");
        drop(held);
    }

    #[test]
    fn garbage_and_oversize_packets_are_refused() {
        let (reply, _) = against(&mut Silent, |server, _| server.send_bytes(&[0xff; 64], &[]));
        assert!(
            matches!(&reply.outcome, Outcome::Broken(e) if e.kind() == ErrorKind::CriuFailed),
            "{reply:?}"
        );
        let (reply, _) = against(&mut Silent, |server, _| {
            let size = MAX_PACKET + 1;
            setsockopt(&server.0, sockopt::SndBufForce, &(4 * size)).expect("a larger buffer");
            server.send_bytes(&vec![0; size], &[]);
        });
        let Outcome::Broken(error) = &reply.outcome else { panic!("{reply:?}") };
        assert!(error.chain().contains("packet of 262145 bytes"), "{}", error.chain());
        // Far above the usual buffer of 64 KiB, still within the limit.
        let (reply, _) = against(&mut Silent, |server, _| {
            let mut response = answer(Criu_req_type::DUMP, false);
            response.set_cr_errmsg("x".repeat(100_000));
            server.send(&response, &[]);
        });
        assert!(
            matches!(&reply.outcome, Outcome::Answered(r) if r.cr_errmsg().len() == 100_000),
            "{reply:?}"
        );
    }

    #[test]
    fn descriptors_and_pids_come_with_their_notifications() {
        #[derive(Default)]
        struct Terminal(Option<OwnedFd>, Option<i32>);
        impl Notify for Terminal {
            fn orphan_pts_master(&mut self, master: OwnedFd) -> Result<()> {
                self.0 = Some(master);
                Ok(())
            }
            fn post_restore(&mut self, pid: i32) -> Result<()> {
                self.1 = Some(pid);
                Ok(())
            }
        }
        let own = i32::try_from(std::process::id()).expect("a pid");
        let mut caller = Terminal::default();
        let (reply, _) = against(&mut caller, move |server, _| {
            let (read, write) = nix::unistd::pipe().expect("pipe");
            assert!(server.notify("orphan-pts-master", None, &[&write]).notify_success());
            drop((read, write));
            assert!(server.notify("post-restore", Some(own), &[]).notify_success());
            server.send(&answer(Criu_req_type::RESTORE, true), &[]);
        });
        let master = caller.0.expect("a descriptor came");
        let flags = nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_GETFD).expect("its flags");
        assert_eq!(flags, libc::FD_CLOEXEC);
        assert_eq!(caller.1, Some(own));
        assert_eq!(reply.init.map(|init| init.pid), Some(own));
    }

    #[test]
    fn silence_is_reported_until_criu_speaks() {
        struct Impatient(mpsc::Sender<()>, Duration);
        impl Notify for Impatient {
            fn patience(&self) -> Option<Duration> {
                (self.1 < Duration::from_millis(30)).then_some(Duration::from_millis(10))
            }
            fn silence(&mut self, how_long: Duration) {
                self.1 = how_long;
                if how_long >= Duration::from_millis(30) {
                    self.0.send(()).expect("the server waits");
                }
            }
        }
        let (sender, receiver) = mpsc::channel();
        let mut caller = Impatient(sender, Duration::ZERO);
        let (reply, _) = against(&mut caller, move |server, _| {
            receiver.recv().expect("the caller's word");
            server.send(&answer(Criu_req_type::DUMP, true), &[]);
        });
        assert!(matches!(reply.outcome, Outcome::Answered(_)));
        assert_eq!(caller.1, Duration::from_millis(30));
    }
}
