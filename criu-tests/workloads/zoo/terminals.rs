// SPDX-License-Identifier: Apache-2.0
//! Pseudoterminals whose both ends are in the container.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use nix::unistd::{getpid, setsid, tcgetpgrp};

use super::held::{open, same_bytes, when_back};
use super::sys::terminals::{control, number_of, set_number, set_window, window};
use super::{Child, Made, made, proc};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_eq};

super::exhibits![
    terminal_pair,
    several_terminals,
    terminal_that_nobody_has_opened,
    locked_terminal,
    terminal_of_packets,
    exclusive_terminal,
    terminal_settings,
    controlling_terminal,
    terminal_with_unread_data,
    terminal_of_two_processes,
];

fn master() -> Result<(PtyMaster, String), String> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).during("open /dev/ptmx")?;
    grantpt(&master).during("grantpt")?;
    unlockpt(&master).during("unlockpt")?;
    let name = ptsname_r(&master).during("ptsname")?;
    Ok((master, name))
}

fn slave(name: &str) -> Result<File, String> {
    open(name.as_ref(), OFlag::O_RDWR | OFlag::O_NOCTTY)
}

fn pair() -> Result<(PtyMaster, File, String), String> {
    let (master, name) = master()?;
    let slave = slave(&name)?;
    let mut settings = tcgetattr(&slave).during("tcgetattr")?;
    nix::sys::termios::cfmakeraw(&mut settings);
    tcsetattr(&slave, SetArg::TCSANOW, &settings).during("tcsetattr")?;
    Ok((master, slave, name))
}

/// What is written at one end comes at the other, both ways.
fn talk(mut master: &PtyMaster, mut slave: &File) -> Checked {
    let mut bytes = [0; 64];
    master.write_all(b"to the program").during("write to the master")?;
    let got = slave.read(&mut bytes).during("read from the slave")?;
    same_bytes(&bytes[..got], b"to the program")?;
    slave.write_all(b"to the screen").during("write to the slave")?;
    let got = master.read(&mut bytes).during("read from the master")?;
    same_bytes(&bytes[..got], b"to the screen")
}

fn terminal_pair() -> Made {
    let (master, slave, name) = pair()?;
    made(when_back(move || {
        expect_eq("name", ptsname_r(&master).during("ptsname")?, name.clone())?;
        talk(&master, &slave)
    }))
}

/// With a gap between their numbers.
fn several_terminals() -> Made {
    let mut all = (0..6).map(|_| pair()).collect::<Result<Vec<_>, _>>()?;
    drop(all.remove(2));
    made(when_back(move || {
        for (master, slave, name) in &all {
            expect_eq("name", &ptsname_r(master).during("ptsname")?, name)?;
            talk(master, slave)?;
        }
        Ok(())
    }))
}

/// The other end has a name, and can be opened when it is needed.
fn terminal_that_nobody_has_opened() -> Made {
    let (master, name) = master()?;
    made(when_back(move || {
        expect_eq("name", ptsname_r(&master).during("ptsname")?, name.clone())?;
        let mut settings = tcgetattr(&master).during("tcgetattr")?;
        nix::sys::termios::cfmakeraw(&mut settings);
        let slave = slave(&name)?;
        tcsetattr(&slave, SetArg::TCSANOW, &settings).during("tcsetattr")?;
        talk(&master, &slave)
    }))
}

/// The other end cannot be opened yet.
fn locked_terminal() -> Made {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).during("open /dev/ptmx")?;
    let name = ptsname_r(&master).during("ptsname")?;
    made(move || {
        expect_eq("locked", number_of(&master.as_fd(), libc::TIOCGPTLCK).during("TIOCGPTLCK")?, 1)?;
        expect_eq("whether it opens", slave(&name).is_ok(), false)
    })
}

/// The master is told with a byte of its own what each read is.
fn terminal_of_packets() -> Made {
    let (mut master, mut slave, _) = pair()?;
    set_number(&master.as_fd(), libc::TIOCPKT, 1).during("TIOCPKT")?;
    made(when_back(move || {
        expect_eq("mode", number_of(&master.as_fd(), libc::TIOCGPKT).during("TIOCGPKT")?, 1)?;
        slave.write_all(b"text").during("write")?;
        let mut bytes = [0; 64];
        loop {
            let got = master.read(&mut bytes).during("read")?;
            // Other bytes tell of changes: a restore sets the terminal anew.
            if bytes[0] == 0 {
                return same_bytes(&bytes[..got], b"\0text");
            }
        }
    }))
}

fn exclusive_terminal() -> Made {
    let (master, slave, _) = pair()?;
    set_number(&slave.as_fd(), libc::TIOCEXCL, 0).during("TIOCEXCL")?;
    made(when_back(move || {
        expect_eq("exclusive", number_of(&slave.as_fd(), libc::TIOCGEXCL).during("TIOCGEXCL")?, 1)?;
        talk(&master, &slave)
    }))
}

/// Modes, characters, and the window's size.
fn terminal_settings() -> Made {
    let (master, slave, _) = pair()?;
    let mut settings = tcgetattr(&slave).during("tcgetattr")?;
    settings.input_flags |= InputFlags::IUTF8 | InputFlags::IXANY;
    settings.local_flags |= LocalFlags::ECHOK | LocalFlags::NOFLSH;
    settings.control_chars[SpecialCharacterIndices::VINTR as usize] = 0x11;
    settings.control_chars[SpecialCharacterIndices::VERASE as usize] = 0x7e;
    tcsetattr(&slave, SetArg::TCSANOW, &settings).during("tcsetattr")?;
    set_window(&master.as_fd(), (43, 132)).during("TIOCSWINSZ")?;
    let held = tcgetattr(&slave).during("tcgetattr")?;
    made(when_back(move || {
        expect_eq("settings", tcgetattr(&slave).during("tcgetattr")?, held.clone())?;
        expect_eq("window", window(&slave).during("TIOCGWINSZ")?, (43, 132))?;
        talk(&master, &slave)
    }))
}

/// A child leads a session on a terminal: it is its `/dev/tty`, and its group is in front.
fn controlling_terminal() -> Made {
    let (mut master, name) = master()?;
    let at = name.clone();
    let mut child = Child::start(move || {
        setsid().during("setsid")?;
        let own = slave(&at)?;
        control(&own).during("TIOCSCTTY")?;
        Ok(move |_: &str| {
            let front = tcgetpgrp(&own).during("tcgetpgrp")?;
            expect_eq("group in front", front, getpid())?;
            let mut terminal = open("/dev/tty".as_ref(), OFlag::O_RDWR)?;
            terminal.write_all(b"here").during("write")?;
            Ok(String::new())
        })
    })?;
    let known = proc::stat(child.pid())?[3..5].to_vec();
    made(when_back(move || {
        expect_eq("session and terminal", &proc::stat(child.pid())?[3..5], known.as_slice())?;
        child.check("write to /dev/tty")?;
        let mut bytes = [0; 64];
        let got = master.read(&mut bytes).during("read")?;
        same_bytes(&bytes[..got], b"here")
    }))
}

/// Text that was typed and not read, and text that was written and not shown.
fn terminal_with_unread_data() -> Made {
    let (mut master, mut slave, _) = pair()?;
    let unread = |fd: BorrowedFd<'_>| number_of(&fd, libc::FIONREAD).during("FIONREAD");
    let put = move |master: &mut PtyMaster, slave: &mut File| {
        master.write_all(b"typed").during("write")?;
        slave.write_all(b"shown").during("write")?;
        // The kernel carries it over when it has time.
        let begun = Instant::now();
        while (unread(slave.as_fd())?, unread(master.as_fd())?) != (5, 5) && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        Ok::<_, String>(())
    };
    put(&mut master, &mut slave)?;
    made(move || {
        for (fd, text) in [(slave.as_fd(), b"typed"), (master.as_fd(), b"shown")] {
            expect_eq("unread bytes", unread(fd)?, 5)?;
            let mut bytes = [0; 64];
            let got = nix::unistd::read(fd, &mut bytes).during("read")?;
            same_bytes(&bytes[..got], text)?;
        }
        put(&mut master, &mut slave)
    })
}

/// One has the master, the other the slave.
fn terminal_of_two_processes() -> Made {
    let (mut master, mut slave, _) = pair()?;
    let mut theirs = slave.try_clone().during("dup")?;
    let mut child = Child::start(move || {
        Ok(move |_: &str| {
            let mut bytes = [0; 64];
            let got = theirs.read(&mut bytes).during("read")?;
            same_bytes(&bytes[..got], b"question")?;
            theirs.write_all(b"answer").during("write").map(|()| String::new())
        })
    })?;
    made(when_back(move || {
        master.write_all(b"question").during("write")?;
        child.check("answer")?;
        let mut bytes = [0; 64];
        let got = master.read(&mut bytes).during("read")?;
        same_bytes(&bytes[..got], b"answer")?;
        slave.flush().during("flush")
    }))
}
