// SPDX-License-Identifier: Apache-2.0
//! What prctl(2) and its relatives set for one process.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid};

use super::proc::{of_a_child, read, status, stays};
use super::{Made, child, made, path, sys};
use crate::lifecycle::{Checked, During as _, PATIENCE, expect_alive, expect_eq};

super::exhibits![
    process_name,
    not_dumpable,
    no_new_privileges,
    keep_capabilities,
    secure_bits,
    personality,
    execution_umask,
    oom_score,
    core_dump_filter,
    resource_limits,
    membarrier,
    executable,
    deleted_executable,
    command_line,
];

/// A name that no file has.
fn process_name() -> Made {
    let read = || prctl::get_name().map(|name| name.to_string_lossy().into_owned()).during("PR_GET_NAME");
    of_a_child(|| prctl::set_name(c"a ) b\tc(\xc3\xa9").during("PR_SET_NAME"), read, "a ) b\tc(\u{e9}")
}

fn dumpable() -> Result<String, String> {
    prctl::get_dumpable().map(|yes| yes.to_string()).during("PR_GET_DUMPABLE")
}

/// Nobody may look into it without privileges.
fn not_dumpable() -> Made {
    of_a_child(|| prctl::set_dumpable(false).during("PR_SET_DUMPABLE"), dumpable, "false")
}

/// A promise that cannot be taken back.
fn no_new_privileges() -> Made {
    let read = || prctl::get_no_new_privs().map(|yes| yes.to_string()).during("PR_GET_NO_NEW_PRIVS");
    of_a_child(|| prctl::set_no_new_privs().during("PR_SET_NO_NEW_PRIVS"), read, "true")
}

/// Capabilities stay over the next change of the user id.
fn keep_capabilities() -> Made {
    let read = || prctl::get_keepcaps().map(|yes| yes.to_string()).during("PR_GET_KEEPCAPS");
    of_a_child(|| prctl::set_keepcaps(true).during("PR_SET_KEEPCAPS"), read, "true")
}

/// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP` and their locks.
fn secure_bits() -> Made {
    let read =
        || sys::process::attribute(libc::PR_GET_SECUREBITS).map(|bits| bits.to_string()).during("prctl");
    of_a_child(|| sys::process::set_attribute(libc::PR_SET_SECUREBITS, 0b1111).during("prctl"), read, "15")
}

/// The layout of old programs, and a kernel that calls itself 2.6.
fn personality() -> Made {
    const WANTED: u64 = 0x0020_0000 | 0x0002_0000 | 0x0004_0000;
    of_a_child(
        || sys::process::set_personality(WANTED).during("personality"),
        || {
            let release =
                nix::sys::utsname::uname().during("uname")?.release().to_string_lossy()[..4].to_owned();
            Ok(format!("{:x} {release}", sys::process::personality().during("personality")?))
        },
        "260000 2.6.",
    )
}

/// What new files are made without.
fn execution_umask() -> Made {
    of_a_child(
        || {
            umask(Mode::from_bits_retain(0o137));
            Ok(())
        },
        || {
            let at = path(&format!("masked-{}", getpid()));
            drop(File::create(&at).during("create")?);
            let mode = fs::metadata(&at).during("stat")?.mode();
            fs::remove_file(&at).during("unlink")?;
            Ok(format!("{:o} {}", mode, status(getpid(), "Umask")?))
        },
        "100640 0137",
    )
}

/// Whom the kernel kills first.
fn oom_score() -> Made {
    const AT: &str = "/proc/self/oom_score_adj";
    of_a_child(
        || fs::write(AT, "731").during(AT),
        || fs::read_to_string(AT).map(|text| text.trim().to_owned()).during(AT),
        "731",
    )
}

/// Which mappings a core file has.
fn core_dump_filter() -> Made {
    const AT: &str = "/proc/self/coredump_filter";
    of_a_child(
        || fs::write(AT, "0x7d").during(AT),
        || fs::read_to_string(AT).map(|text| text.trim().to_owned()).during(AT),
        "0000007d",
    )
}

/// Every limit there is, each with its own numbers; one of them at work.
fn resource_limits() -> Made {
    let limits = sys::process::LIMITS;
    let mut wanted = Vec::new();
    for (place, limit) in limits.into_iter().enumerate() {
        let (_, hard) = sys::process::limit(limit).during("getrlimit")?;
        // Lower than what is there, without harm, and different from each other.
        let hard = hard.min(1 << 40).saturating_sub(place as u64);
        let soft = if limit == libc::RLIMIT_NOFILE { 100 } else { hard - hard / 8 };
        wanted.push((soft, hard));
    }
    let (asked, must_be) = (wanted.clone(), format!("{wanted:?} 100"));
    let mut child = super::Child::start(move || {
        for (limit, wanted) in limits.into_iter().zip(asked) {
            sys::process::set_limit(limit, wanted).during("setrlimit")?;
        }
        Ok(move |_: &str| {
            let is = limits.iter().map(|limit| sys::process::limit(*limit)).collect::<Result<Vec<_>, _>>();
            let mut opened = Vec::new();
            while let Ok(file) = File::open("/proc/self/stat") {
                opened.push(file);
            }
            let highest = opened.iter().map(std::os::fd::AsRawFd::as_raw_fd).max().unwrap_or(0) + 1;
            Ok(format!("{:?} {highest}", is.during("getrlimit")?))
        })
    })?;
    made(move || child.expect("limits, and the first descriptor that is refused", &must_be))
}

/// The process has told the kernel that it will want barriers.
fn membarrier() -> Made {
    // `MEMBARRIER_CMD_{PRIVATE_EXPEDITED, REGISTER_PRIVATE_EXPEDITED}` and the same for `PRIVATE_EXPEDITED_SYNC_CORE`.
    let [barrier, register, core, register_core] = [1 << 3, 1 << 4, 1 << 5, 1 << 6];
    let all = move || {
        let result = |command| match sys::process::membarrier(command) {
            Ok(_) => "done".to_owned(),
            Err(e) => e.to_string(),
        };
        Ok(format!("{} {}", result(barrier), result(core)))
    };
    of_a_child(
        || {
            sys::process::membarrier(register).during("membarrier")?;
            sys::process::membarrier(register_core).map(drop).during("membarrier")
        },
        all,
        "done done",
    )
}

/// `/proc/self/exe` is the file that was started.
fn executable() -> Made {
    stays("executable", (true, "/workload".to_owned()), || {
        let link = fs::read_link("/proc/self/exe").during("readlink")?;
        let (is, named) =
            (fs::metadata("/proc/self/exe").during("stat")?, fs::metadata(&link).during("stat")?);
        Ok(((is.dev(), is.ino()) == (named.dev(), named.ino()), link.to_string_lossy().into_owned()))
    })
}

/// Another program, which counts.
struct Other {
    pid: Pid,
    counted: String,
}

impl Other {
    fn start(mut command: Command, arguments: &[&str]) -> Result<Self, String> {
        let at = path("other");
        command.args(["counter", "--memory", "65536", "--tick-ms", "2", "--status"]).arg(&at).args(arguments);
        let spawned = command.stdin(Stdio::null()).spawn().during("start another program")?;
        let pid = Pid::from_raw(spawned.id().cast_signed());
        child::keep(pid);
        let mut new = Self { pid, counted: String::new() };
        new.goes_on().map(|()| new)
    }

    fn goes_on(&mut self) -> Checked {
        let begun = std::time::Instant::now();
        loop {
            expect_alive(self.pid)?;
            let report = fs::read_to_string(path("other")).unwrap_or_default();
            if report.contains("\nok=yes\n") && report != self.counted {
                self.counted = report;
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the other program does not go on: {report}"));
            }
            std::thread::yield_now();
        }
    }
}

/// A program that runs on though its file is gone.
fn deleted_executable() -> Made {
    let at = path("program");
    fs::copy("/proc/self/exe", &at).during("copy")?;
    let mut other = Other::start(Command::new(&at), &[])?;
    fs::remove_file(&at).during("unlink")?;
    let must_be = format!("{} (deleted)", at.display());
    made(move || {
        other.goes_on()?;
        let link = fs::read_link(format!("/proc/{}/exe", other.pid)).during("readlink")?;
        expect_eq("executable", link.to_string_lossy().as_ref(), must_be.as_str())
    })
}

/// Arguments, environment and what the kernel told the program besides.
fn command_line() -> Made {
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, "another name");
    command.env_clear().env("ZOO", "a=b c").env("EMPTY", "");
    let mut other = Other::start(command, &["--own", "ä\tb"])?;
    let pid = other.pid;
    let cut = |text: String| text.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>();
    let line = cut(read(pid, "cmdline")?);
    expect_eq("arguments", (line[0].as_str(), line[line.len() - 1].as_str()), ("another name", "ä\tb"))?;
    let mut environment = cut(read(pid, "environ")?);
    environment.sort();
    expect_eq("environment", environment.as_slice(), &["EMPTY=".to_owned(), "ZOO=a=b c".to_owned()])?;
    let auxv = fs::read(format!("/proc/{pid}/auxv")).during("auxv")?;
    made(move || {
        other.goes_on()?;
        expect_eq("arguments", cut(read(pid, "cmdline")?), line.clone())?;
        let mut is = cut(read(pid, "environ")?);
        is.sort();
        expect_eq("environment", is, environment.clone())?;
        expect_eq("auxiliary vector", fs::read(format!("/proc/{pid}/auxv")).during("auxv")?, auxv.clone())
    })
}
