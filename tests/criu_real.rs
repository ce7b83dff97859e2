// SPDX-License-Identifier: Apache-2.0
//! The CRIU client against a real CRIU: version, dump, restore, and what happens when a party dies or says no.
//!
//! The tests need root and a CRIU that works on the running kernel. Where there is none they say so and do nothing;
//! with `MIGRATE_TEST_ALL=1` they fail instead. They run one at a time, each in a mount namespace of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use migrate::criu::{
    AfterDump, Criu, CriuClient, DumpRequest, ManageCgroups, Notify, RestoreRequest, RestoreStats, Restored,
    Session, Silent, SpawnOptions,
};
use migrate::sys::fd::above_stdio;
use migrate::sys::swrk::{self, Launch, Place};
use migrate::{Error, ErrorKind, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, geteuid};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A place to run CRIU in, or `None`, said aloud, where that is not possible.
fn ready() -> Option<(Criu, MutexGuard<'static, ()>)> {
    let found = if geteuid().is_root() {
        Criu::find(None).and_then(|criu| CriuClient::spawn(&criu, SpawnOptions::default()).map(|_| criu))
    } else {
        Err(Error::new(ErrorKind::PermissionDenied, "not root"))
    };
    match found {
        Ok(criu) => {
            let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace for this thread");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("make it private");
            Some((criu, turn))
        }
        Err(error) => {
            assert!(std::env::var_os("MIGRATE_TEST_ALL").is_none(), "CRIU must work here: {}", error.chain());
            // The test harness shows this only with --nocapture; there is no other way to say "ignored" at run time.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("ignored, because CRIU cannot be used: {}\n", error.chain()).as_bytes(),
            );
            None
        }
    }
}

/// A process to dump; killed and reaped at the end of its test, however that ends.
struct Target(i32);

impl Target {
    /// A program that waits, in its own session, with `/dev/null` and nothing of ours open.
    fn start() -> Self {
        Self::run("/bin/sleep", &["1000"])
    }

    fn run(program: &str, args: &[&str]) -> Self {
        let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
        let null = above_stdio(null.as_fd()).expect("duplicate");
        // Not `Command`: whoever runs the tests may have left descriptors open that a dump would stumble over.
        let launch = Launch {
            program: Path::new(program),
            args,
            env: Vec::new(),
            session: Session::Own,
            stdio: [null.as_fd(); 3],
            third: None,
            fds: &[],
            place: Place {
                cgroup: None,
                tasks: Vec::new(),
                join: Vec::new(),
                namespaces: CloneFlags::empty(),
            },
        };
        Self(swrk::spawn(&launch).expect("start the process to dump").pid().as_raw())
    }

    fn name(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.0)).expect("its name")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0)
    }

    /// Waits until it has a child.
    fn only_child(&self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0));
            if let Ok(pid) = children.expect("the process is there").trim().parse() {
                return pid;
            }
            assert!(Instant::now() < deadline, "no child of {} in ten seconds", self.0);
            std::thread::yield_now();
        }
    }

    fn runs_untraced(&self) -> bool {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the process is there");
        let field =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default();
        field("TracerPid:") == "0" && field("State:").starts_with(['S', 'R'])
    }

    fn reap(&self) -> nix::Result<WaitStatus> {
        waitpid(self.pid(), None)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Only as long as it is our child, so never somebody else's process of that number.
        if let Ok(WaitStatus::StillAlive) = waitpid(self.pid(), Some(WaitPidFlag::WNOHANG)) {
            // With its children: they are in the process group that it leads.
            killpg(self.pid(), Signal::SIGKILL).expect("kill it");
            self.reap().expect("reap it");
        }
    }
}

fn request<'a>(target: &Target, images: &'a File) -> DumpRequest<'a> {
    request_for(target.0, images)
}

fn request_for(pid: i32, images: &File) -> DumpRequest<'_> {
    let mut request = DumpRequest::new(pid, images.as_fd());
    request.options.manage_cgroups = ManageCgroups::Ignore;
    request
}

/// Remembers what CRIU told.
#[derive(Default)]
struct Record(Vec<String>);

impl Notify for Record {
    fn pre_dump(&mut self) -> Result<()> {
        self.0.push("pre-dump".to_owned());
        Ok(())
    }
    fn network_lock(&mut self) -> Result<()> {
        self.0.push("network-lock".to_owned());
        Ok(())
    }
    fn network_unlock(&mut self) {
        self.0.push("network-unlock".to_owned());
    }
    fn query_external(&mut self) -> Result<Vec<String>> {
        self.0.push("query-ext-files".to_owned());
        Ok(Vec::new())
    }
    fn post_dump(&mut self) -> Result<()> {
        self.0.push("post-dump".to_owned());
        Ok(())
    }
    fn pre_restore(&mut self) -> Result<()> {
        self.0.push("pre-restore".to_owned());
        Ok(())
    }
    fn setup_namespaces(&mut self, pid: i32) -> Result<()> {
        self.0.push(format!("setup-namespaces {pid}"));
        Ok(())
    }
    fn post_setup_namespaces(&mut self) -> Result<()> {
        self.0.push("post-setup-namespaces".to_owned());
        Ok(())
    }
    fn post_restore(&mut self, pid: i32) -> Result<()> {
        self.0.push(format!("post-restore {pid}"));
        Ok(())
    }
    fn pre_resume(&mut self) {
        self.0.push("pre-resume".to_owned());
    }
    fn post_resume(&mut self) {
        self.0.push("post-resume".to_owned());
    }
}

#[test]
fn one_process_tells_its_version_its_features_and_dumps() {
    let Some((criu, _turn)) = ready() else { return };
    let images = tempfile::tempdir().expect("temporary directory");
    let dir = File::open(images.path()).expect("open it");
    let target = Target::start();
    let mut client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    assert!(client.version() >= migrate::criu::MINIMUM);
    let leader = nix::unistd::getsid(Some(Pid::from_raw(client.pid()))).expect("its session");
    assert_eq!(leader.as_raw(), client.pid(), "criu leads its own session");
    client.features().expect("features");
    let mut record = Record::default();
    let mut dump = request(&target, &dir);
    dump.after = AfterDump::Run;
    let dumped = client.dump(&dump, &mut record).expect("dump");
    let stats = dumped.stats.expect("statistics");
    assert!(!stats.frozen.is_zero() && stats.pages_written > 0, "{stats:?}");
    assert_eq!(record.0, ["pre-dump", "query-ext-files", "post-dump"]);
    assert!(images.path().join("inventory.img").exists());
    assert!(target.runs_untraced());
}

#[test]
fn a_dumped_process_comes_back_as_our_child() {
    let Some((criu, _turn)) = ready() else { return };
    let images = tempfile::tempdir().expect("temporary directory");
    let work = tempfile::tempdir().expect("temporary directory");
    let dir = File::open(images.path()).expect("open it");
    let work_dir = File::open(work.path()).expect("open it");
    let target = Target::start();
    let mut dump = request(&target, &dir);
    dump.options.work_dir = Some(work_dir.as_fd());
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    assert!(client.dump(&dump, &mut Silent).expect("dump").stats.is_some());
    assert!(work.path().join("dump.log").exists() && !images.path().join("dump.log").exists());
    assert_eq!(target.reap(), Ok(WaitStatus::Signaled(target.pid(), Signal::SIGKILL, false)));

    let mut restore = RestoreRequest::new(dir.as_fd());
    restore.options.manage_cgroups = ManageCgroups::Ignore;
    restore.options.work_dir = Some(work_dir.as_fd());
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    let mut record = Record::default();
    let Restored { pid, pidfd, .. } = client.restore(&restore, &mut record).expect("restore");
    assert_eq!(pid, target.0);
    assert_eq!(target.name(), "sleep\n");
    assert!(target.runs_untraced());
    // No namespaces of its own, so nothing of them to set up.
    let told = [
        "pre-restore".to_owned(),
        format!("post-restore {pid}"),
        "pre-resume".to_owned(),
        "post-resume".to_owned(),
    ];
    assert_eq!(record.0, told);
    assert!(!RestoreStats::read(work_dir.as_fd()).expect("statistics").restoring.is_zero());
    kill(target.pid(), Signal::SIGTERM).expect("end it");
    let ended = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).expect("it is our child");
    assert_eq!(ended, WaitStatus::Signaled(target.pid(), Signal::SIGTERM, false));
}

#[test]
fn what_a_notification_refuses_does_not_happen() {
    struct Refuses(&'static str);
    impl Refuses {
        fn answer(&self, script: &str) -> Result<()> {
            if self.0 == script { Err(Error::new(ErrorKind::Storage, "the disk is full")) } else { Ok(()) }
        }
    }
    impl Notify for Refuses {
        fn pre_dump(&mut self) -> Result<()> {
            self.answer("pre-dump")
        }
        fn post_dump(&mut self) -> Result<()> {
            self.answer("post-dump")
        }
        fn query_external(&mut self) -> Result<Vec<String>> {
            self.answer("query-ext-files").map(|()| Vec::new())
        }
        fn post_restore(&mut self, _pid: i32) -> Result<()> {
            self.answer("post-restore")
        }
    }
    let Some((criu, _turn)) = ready() else { return };
    let images = tempfile::tempdir().expect("temporary directory");
    let dir = File::open(images.path()).expect("open it");
    let target = Target::start();
    for script in ["pre-dump", "query-ext-files", "post-dump"] {
        let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
        let error = client.dump(&request(&target, &dir), &mut Refuses(script)).expect_err(script);
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Storage, "the disk is full"));
        assert!(
            error.cleanup_failures().is_empty(),
            "no echo of it: {}",
            error.cleanup_failures()[0].chain()
        );
        assert!(target.runs_untraced(), "{script}");
    }
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    client.dump(&request(&target, &dir), &mut Silent).expect("dump");
    target.reap().expect("reap it");
    let mut restore = RestoreRequest::new(dir.as_fd());
    restore.options.manage_cgroups = ManageCgroups::Ignore;
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    let error = client.restore(&restore, &mut Refuses("post-restore")).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Storage);
    // Killed by CRIU, and as our child left to us to reap.
    let gone = target.reap();
    assert!(
        matches!(gone, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) | Err(nix::errno::Errno::ECHILD)),
        "{gone:?}"
    );
}

#[test]
fn a_failure_names_its_cause_and_its_log() {
    let Some((criu, _turn)) = ready() else { return };
    let images = tempfile::tempdir().expect("temporary directory");
    let dir = File::open(images.path()).expect("open it");
    // A stale log must not be quoted.
    std::fs::write(images.path().join("dump.log"), "(00.1) Error (criu/a.c:1): from yesterday\n")
        .expect("write");
    // Its session has a leader that it can see: CRIU says something else where none is in sight.
    let leader = Target::run("/bin/sh", &["-c", "sleep 1000 & wait"]);
    let target = leader.only_child();
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    let error = client.dump(&request_for(target, &dir), &mut Silent).expect_err("it leads no session");
    assert_eq!(error.kind(), ErrorKind::CriuFailed);
    assert_eq!(error.to_string(), format!("criu could not dump process {target}"));
    assert!(error.chain().contains("session leader"), "{}", error.chain());
    assert!(!error.chain().contains("RLIMIT"), "{}", error.chain());
    let explained = migrate::diagnose::explained(error, migrate::diagnose::Context::default);
    let hint = explained.hint().expect("a remedy");
    assert!(hint.contains("--shell-job") && hint.contains("dump.log"), "{hint}");

    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    let restore = RestoreRequest::new(dir.as_fd());
    let error = client.restore(&restore, &mut Silent).expect_err("there are no images");
    assert!(error.chain().starts_with("criu could not restore the processes: "), "{}", error.chain());
}

/// Holds a dump in `post-dump` for ever; started by the test below, which kills it.
#[test]
#[ignore = "is the process that another test kills"]
fn the_client_that_is_killed() {
    struct Hold;
    impl Notify for Hold {
        fn post_dump(&mut self) -> Result<()> {
            use std::io::Write;
            writeln!(std::io::stderr(), "holding").expect("tell the parent");
            loop {
                nix::unistd::pause();
            }
        }
    }
    let (Ok(target), Ok(images)) = (std::env::var("TARGET_PID"), std::env::var("TARGET_IMAGES")) else {
        return;
    };
    let dir = File::open(images).expect("open the images");
    let criu = Criu::find(None).expect("criu");
    let client = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    use std::io::Write;
    writeln!(std::io::stderr(), "criu {}", client.pid()).expect("tell the parent");
    let mut request = DumpRequest::new(target.parse().expect("a pid"), dir.as_fd());
    request.options.manage_cgroups = ManageCgroups::Ignore;
    client.dump(&request, &mut Hold).expect("this process is killed first");
}

#[test]
fn a_killed_client_leaves_the_target_running_and_criu_ends_by_itself() {
    let Some((_criu, _turn)) = ready() else { return };
    nix::sys::prctl::set_child_subreaper(true).expect("criu becomes our child when the client dies");
    let images = tempfile::tempdir().expect("temporary directory");
    let target = Target::start();
    let mut client = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_client_that_is_killed", "--ignored", "--nocapture"])
        .env("TARGET_PID", target.0.to_string())
        .env("TARGET_IMAGES", images.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the client");
    let mut criu = None;
    for line in BufReader::new(client.stderr.take().expect("its standard error")).lines() {
        let line = line.expect("a line");
        if let Some(pid) = line.strip_prefix("criu ") {
            criu = pid.parse::<i32>().ok();
        }
        if line == "holding" {
            break;
        }
    }
    let criu = Pid::from_raw(criu.expect("the client told criu's pid"));
    client.kill().expect("kill the client");
    client.wait().expect("reap it");
    let ended = waitpid(criu, None).expect("criu is ours now");
    assert!(matches!(ended, WaitStatus::Exited(_, code) if code != 0), "criu fails by itself: {ended:?}");
    assert!(target.runs_untraced(), "the target goes on");
    // And it can be dumped again.
    let criu = Criu::find(None).expect("criu");
    let dir = File::open(images.path()).expect("open the images");
    let again = CriuClient::spawn(&criu, SpawnOptions::default()).expect("start criu");
    let mut dump = request(&target, &dir);
    dump.after = AfterDump::Run;
    again.dump(&dump, &mut Silent).expect("dump again");
    assert!(Path::new(images.path()).join("inventory.img").exists());
}
