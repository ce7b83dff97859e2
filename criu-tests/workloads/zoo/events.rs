// SPDX-License-Identifier: Apache-2.0
//! Descriptors that tell of events: epoll, eventfd, signalfd, pidfd, and those that watch files.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags as InotifyFlags, Inotify};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::held::{Absences, fdinfo, flags_of};
use super::sys::files;
use super::{Child, Made, made, path};
use crate::lifecycle::{Checked, During as _, expect_eq};
use crate::sys;

super::exhibits![
    epoll_level,
    epoll_edge,
    epoll_once,
    epoll_nested,
    epoll_of_a_duplicate,
    event_counter,
    event_counter_beyond_32_bits,
    event_semaphore,
    signal_descriptor,
    process_descriptor,
    descriptor_of_a_dead_process,
    inotify_directory,
    inotify_file,
    inotify_once,
    fanotify_file,
    fanotify_mount,
    inotify_with_unread_events,
    event_counter_of_two_processes,
    epoll_of_two_processes,
    notification_of_a_directory,
];

/// A set with the reading end of a pipe in it.
struct Watched {
    epoll: Epoll,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Watched {
    fn new(flags: EpollFlags, data: u64) -> Result<Self, String> {
        let (reader, writer) = std::io::pipe().during("pipe")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
        epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN | flags, data)).during("epoll_ctl")?;
        Ok(Self { epoll, reader, writer })
    }

    fn write(&mut self) -> Checked {
        self.writer.write_all(b"x").during("write")
    }

    fn read(&mut self) -> Checked {
        self.reader.read_exact(&mut [0]).during("read")
    }

    /// The data of what is ready now.
    fn expect_ready(&self, when: &str, expected: &[u64]) -> Checked {
        let mut events = [EpollEvent::empty(); 4];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).during("epoll_wait")?;
        let ready: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
        expect_eq(when, ready.as_slice(), expected)
    }

    fn members(&self) -> Result<usize, String> {
        fdinfo(&self.epoll.0, "tfd").map(|members| members.len())
    }
}

/// Ready as long as there is something.
fn epoll_level() -> Made {
    let mut watched = Watched::new(EpollFlags::empty(), 1 << 40)?;
    made(move || {
        watched.expect_ready("ready when empty", &[])?;
        watched.write()?;
        watched.expect_ready("ready", &[1 << 40])?;
        watched.expect_ready("ready again", &[1 << 40])?;
        watched.read()?;
        expect_eq("members", watched.members()?, 1)
    })
}

/// Told once for each arrival.
fn epoll_edge() -> Made {
    let mut watched = Watched::new(EpollFlags::EPOLLET, 5)?;
    made(move || {
        watched.write()?;
        watched.expect_ready("ready", &[5])?;
        watched.expect_ready("ready again", &[])?;
        watched.write()?;
        watched.expect_ready("ready after more", &[5])?;
        watched.read().and_then(|()| watched.read())
    })
}

/// Told once and not again until it is asked for again; the set is checkpointed when it is not to tell.
fn epoll_once() -> Made {
    let mut watched = Watched::new(EpollFlags::EPOLLONESHOT, 6)?;
    watched.write()?;
    watched.expect_ready("ready", &[6])?;
    made(move || {
        watched.expect_ready("ready though told already", &[])?;
        let mut again = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 6);
        watched.epoll.modify(&watched.reader, &mut again).during("epoll_ctl")?;
        watched.expect_ready("ready when asked again", &[6])
    })
}

/// A set that is a member of a set.
fn epoll_nested() -> Made {
    let mut watched = Watched::new(EpollFlags::empty(), 7)?;
    let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("epoll_create1")?;
    outer.add(&watched.epoll.0, EpollEvent::new(EpollFlags::EPOLLIN, 8)).during("epoll_ctl")?;
    made(move || {
        let mut events = [EpollEvent::empty(); 4];
        expect_eq("outer", outer.wait(&mut events, EpollTimeout::ZERO).during("epoll_wait")?, 0)?;
        watched.write()?;
        expect_eq("outer", outer.wait(&mut events, EpollTimeout::ZERO).during("epoll_wait")?, 1)?;
        expect_eq("data", events[0].data(), 8)?;
        watched.expect_ready("inner", &[7])?;
        watched.read()
    })
}

/// The descriptor that was added is closed, a duplicate of it keeps the membership.
fn epoll_of_a_duplicate() -> Made {
    let mut watched = Watched::new(EpollFlags::empty(), 9)?;
    let duplicate = watched.reader.try_clone().during("dup")?;
    watched.reader = duplicate;
    made(move || {
        watched.write()?;
        watched.expect_ready("ready", &[9])?;
        watched.read()
    })
}

/// A counter that is read as a whole.
fn event_counter() -> Made {
    counter(1 << 20)
}

/// One that counts bytes or nanoseconds.
fn event_counter_beyond_32_bits() -> Made {
    counter(1 << 33)
}

fn counter(step: u64) -> Made {
    let event = EventFd::from_value_and_flags(5, EfdFlags::EFD_NONBLOCK).during("eventfd")?;
    let mut held = 5;
    made(move || {
        expect_eq("O_NONBLOCK", flags_of(&event)? & libc::O_NONBLOCK, libc::O_NONBLOCK)?;
        expect_eq("counter", event.read().during("read")?, held)?;
        expect_eq("counter when read", event.read(), Err(Errno::EAGAIN))?;
        held += step;
        event.write(held).during("write").map(drop)
    })
}

/// A counter that is read one by one.
fn event_semaphore() -> Made {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
    let event = EventFd::from_value_and_flags(3, flags).during("eventfd")?;
    made(move || {
        for _ in 0..3 {
            expect_eq("one", event.read().during("read")?, 1)?;
        }
        expect_eq("counter when read", event.read(), Err(Errno::EAGAIN))?;
        event.write(3).during("write").map(drop)
    })
}

/// Signals that wait to be read.
fn signal_descriptor() -> Made {
    let signals = [libc::SIGUSR2, libc::SIGRTMIN() + 2];
    sys::block(&signals).during("block signals")?;
    let fd = sys::signalfd(&signals).during("signalfd")?;
    let queue =
        move || signals.iter().try_for_each(|signal| sys::queue_to_self(*signal, 42)).during("sigqueue");
    queue()?;
    let mask = fdinfo(&fd, "sigmask")?;
    made(move || {
        expect_eq("mask", &fdinfo(&fd, "sigmask")?, &mask)?;
        for signal in signals {
            let taken = sys::read_signalfd(fd.as_fd()).during("read")?;
            expect_eq("signal", taken.map(|t| (t.number, t.value)), Some((signal, 42)))?;
        }
        expect_eq("more", sys::read_signalfd(fd.as_fd()).during("read")?, None)?;
        queue()
    })
}

/// Of a process that lives.
fn process_descriptor() -> Made {
    let mut child = Child::start(|| Ok(|_: &str| Ok(std::process::id().to_string())))?;
    let fd = files::pidfd(child.pid()).during("pidfd_open")?;
    made(move || {
        files::signal_through(&fd, 0).during("pidfd_send_signal")?;
        expect_eq("pid", fdinfo(&fd, "Pid")?, vec![child.pid().to_string()])?;
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        expect_eq("waitid", waitid(Id::PIDFd(fd.as_fd()), look), Ok(WaitStatus::StillAlive))?;
        child.expect("pid", &child.pid().to_string())
    })
}

/// Of a process that is gone and reaped.
fn descriptor_of_a_dead_process() -> Made {
    let pid = sys::fork(|| 0).during("fork")?;
    let fd = files::pidfd(pid).during("pidfd_open")?;
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED).during("waitid")?;
    made(move || {
        let sent = files::signal_through(&fd, 0).err().and_then(|e| e.raw_os_error());
        expect_eq("pidfd_send_signal", sent, Some(libc::ESRCH))?;
        expect_eq("pid", fdinfo(&fd, "Pid")?, vec!["-1".to_owned()])
    })
}

/// What the watch has seen, by name.
fn seen(inotify: &Inotify) -> Result<Vec<(AddWatchFlags, Option<String>)>, String> {
    match inotify.read_events() {
        Ok(events) => {
            let name = |name: Option<std::ffi::OsString>| name.map(|n| n.to_string_lossy().into_owned());
            Ok(events.into_iter().map(|event| (event.mask, name(event.name))).collect())
        }
        Err(Errno::EAGAIN) => Ok(Vec::new()),
        Err(errno) => Err(format!("read: {errno}")),
    }
}

/// Does something that the watch tells with these events at last. CRIU loses what nobody has read yet (docs/criu-limits.md):
/// after a checkpoint in between it is done again, and another one does not come so soon.
fn told(
    inotify: &Inotify,
    expected: &[(AddWatchFlags, Option<String>)],
    act: impl Fn() -> Checked,
) -> Checked {
    let mut events = Vec::new();
    for _ in 0..2 {
        act()?;
        events = seen(inotify)?;
        if events.ends_with(expected) {
            return Ok(());
        }
    }
    expect_eq("events", events, expected.to_vec())
}

fn inotify() -> Result<Inotify, String> {
    Inotify::init(InotifyFlags::IN_NONBLOCK | InotifyFlags::IN_CLOEXEC).during("inotify_init1")
}

/// Tells what happens in a directory.
fn inotify_directory() -> Made {
    let at = path("watched");
    fs::create_dir(&at).during("mkdir")?;
    let inotify = inotify()?;
    let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
    let watch = inotify.add_watch(&at, mask).during("inotify_add_watch")?;
    made(move || {
        expect_eq("events before", seen(&inotify)?, Vec::new())?;
        let name = Some("new".to_owned());
        let expected = [(AddWatchFlags::IN_CREATE, name.clone()), (AddWatchFlags::IN_DELETE, name)];
        told(&inotify, &expected, || {
            fs::write(at.join("new"), "").and_then(|()| fs::remove_file(at.join("new"))).during("touch")
        })?;
        // Asked for again, the same watch has the same number.
        expect_eq("watch", inotify.add_watch(&at, mask).during("inotify_add_watch")?, watch)
    })
}

/// Tells of a file.
fn inotify_file() -> Made {
    let at = path("watched");
    fs::write(&at, "").during("write")?;
    let inotify = inotify()?;
    inotify
        .add_watch(&at, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_NOWRITE)
        .during("inotify_add_watch")?;
    made(move || {
        // What CRIU itself opened when it dumped may be told, too; the last two are ours.
        let expected = [(AddWatchFlags::IN_OPEN, None), (AddWatchFlags::IN_CLOSE_NOWRITE, None)];
        told(&inotify, &expected, || fs::File::open(&at).map(drop).during("open"))
    })
}

/// Watches that are over with their first event, and have not had it. One has it whenever the process comes back.
fn inotify_once() -> Made {
    let inotify = inotify()?;
    let mut watched: Vec<_> = (0..8).map(|n| path(&format!("watched-{n}"))).collect();
    for at in &watched {
        fs::write(at, "").during("write")?;
        let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        inotify.add_watch(at, mask).during("inotify_add_watch")?;
    }
    let mut absences = Absences::default();
    made(move || {
        if !absences.is_back()? {
            return expect_eq("events", seen(&inotify)?, Vec::new());
        }
        let at = watched.pop().ok_or("the process was away too often")?;
        fs::write(&at, "more").and_then(|()| fs::write(&at, "again")).during("write")?;
        let expected = vec![(AddWatchFlags::IN_MODIFY, None), (AddWatchFlags::IN_IGNORED, None)];
        expect_eq("events", seen(&inotify)?, expected)
    })
}

fn fanotify(mark: MarkFlags, at: &str) -> Result<Fanotify, String> {
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_NONBLOCK | InitFlags::FAN_CLOEXEC;
    let group = Fanotify::init(flags, EventFFlags::O_RDONLY).during("fanotify_init")?;
    let mask = MaskFlags::FAN_CLOSE_WRITE;
    group
        .mark(MarkFlags::FAN_MARK_ADD | mark, mask, nix::fcntl::AT_FDCWD, Some(at))
        .during("fanotify_mark")?;
    Ok(group)
}

/// The group tells that somebody has written to this file. What nobody has read when the process is dumped is lost.
fn told_of(group: &Fanotify, at: &std::path::Path) -> Checked {
    let events = loop {
        let witness = super::proc::Witness::new("/proc/self/stat")?;
        fs::write(at, "new").during("write")?;
        match group.read_events() {
            Err(Errno::EAGAIN) if witness.was_restored()? => {}
            events => break events.during("read")?,
        }
    };
    let paths = events.iter().filter_map(|event| {
        let fd = event.fd()?;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
    });
    expect_eq("files of the events", paths.collect::<Vec<_>>(), vec![at.to_owned()])
}

/// Marks one file.
fn fanotify_file() -> Made {
    let at = path("marked");
    fs::write(&at, "").during("write")?;
    let group = fanotify(MarkFlags::empty(), &at.to_string_lossy())?;
    made(move || told_of(&group, &at))
}

/// Marks a whole mount (`/scratch`).
fn fanotify_mount() -> Made {
    let group = fanotify(MarkFlags::FAN_MARK_MOUNT, "/scratch")?;
    let at = std::path::PathBuf::from("/scratch/file");
    made(move || told_of(&group, &at))
}

/// What has happened and nobody has read.
fn inotify_with_unread_events() -> Made {
    let at = path("watched");
    fs::create_dir(&at).during("mkdir")?;
    let inotify = inotify()?;
    inotify.add_watch(&at, AddWatchFlags::IN_CREATE).during("inotify_add_watch")?;
    fs::write(at.join("new"), "").during("write")?;
    made(move || {
        let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).during("poll")?;
        expect_eq("there is something to read", polled[0].any(), Some(true))
    })
}

/// One process adds, the other reads.
fn event_counter_of_two_processes() -> Made {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).during("eventfd")?;
    let theirs = event.as_fd().try_clone_to_owned().during("dup")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            nix::unistd::write(&theirs, &9_u64.to_ne_bytes()).during("write").map(|n| n.to_string())
        })
    })?;
    made(move || {
        expect_eq("counter before", event.read(), Err(Errno::EAGAIN))?;
        child.expect("write", "8")?;
        expect_eq("counter", event.read(), Ok(9))
    })
}

/// Parent and child have one set: what is added by the one is told to the other.
fn epoll_of_two_processes() -> Made {
    let mut watched = Watched::new(EpollFlags::empty(), 12)?;
    let theirs = watched.epoll.0.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        let epoll = Epoll(theirs);
        Ok(move |_: &str| {
            let mut events = [EpollEvent::empty(); 4];
            let count = epoll.wait(&mut events, EpollTimeout::ZERO).during("epoll_wait")?;
            Ok(format!("{count} {}", events[0].data()))
        })
    })?;
    made(move || {
        child.expect("ready", "0 0")?;
        watched.write()?;
        child.expect("ready when written to", "1 12")?;
        watched.read()
    })
}

/// `F_NOTIFY`: a signal when something happens in a directory.
fn notification_of_a_directory() -> Made {
    const F_NOTIFY: i32 = 1026;
    const DN_CREATE: i32 = 4;
    const DN_MULTISHOT: i32 = i32::MIN;
    sys::block(&[libc::SIGIO]).during("block SIGIO")?;
    let at = path("watched");
    fs::create_dir(&at).during("mkdir")?;
    let directory = fs::File::open(&at).during("open")?;
    files::fcntl(&directory, F_NOTIFY, DN_CREATE | DN_MULTISHOT).during("F_NOTIFY")?;
    made(move || {
        directory.metadata().during("fstat")?;
        fs::write(at.join("new"), "").and_then(|()| fs::remove_file(at.join("new"))).during("touch")?;
        let told = sys::take(&[libc::SIGIO], std::time::Duration::ZERO).during("sigtimedwait")?;
        expect_eq("signal", told.map(|taken| taken.number), Some(libc::SIGIO))
    })
}
