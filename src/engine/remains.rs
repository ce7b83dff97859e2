// SPDX-License-Identifier: Apache-2.0
//! The end of what a container leaves: its first process, its directory, and what it has made elsewhere. Must not know
//! why it ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lock::lock;
use super::state::load_config;
use super::{Container, ContainerId, InitProcess, State, StateRoot};
use crate::cgroup::{Cgroup, Hierarchies, kept_frozen};
use crate::{Context, Error, ErrorKind, Result, sys};

/// How long a killed process may take to go.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// What the name of a removed container's directory begins with; no id has a `~`.
const REMNANT: &str = ".removed~";

/// How often a killed process is roused, and looked for, while it does not end.
const ROUSE_INTERVAL: Duration = Duration::from_millis(5);

/// How long a process of a container that keeps freezing itself is roused after it was sent SIGKILL by a command that
/// does not wait for its end.
const ROUSE_DEADLINE: Duration = Duration::from_millis(100);

/// Kills a process and waits for its end; `rouse` sees to it that it can end, as long as it has not.
pub(super) fn kill_process(process: InitProcess, rouse: impl FnMut()) -> Result<()> {
    let pidfd = match sys::pidfd::open(process.pid()) {
        Ok(pidfd) => pidfd,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(e) => return Err(e).context(|| format!("pidfd_open({})", process.pid)),
    };
    if !process.is_alive() {
        return Ok(());
    }
    match sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
            return Err(e).context(|| format!("kill process {}", process.pid));
        }
        _ => {}
    }
    if ends(process, &pidfd, END_DEADLINE, rouse)? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::System,
        format!("process {} did not end within {} s of SIGKILL", process.pid, END_DEADLINE.as_secs()),
    )
    .with_hint(format!("{}; then try again", process.why_it_stays())))
}

impl InitProcess {
    /// What keeps it, although it was killed, and what to do about that.
    pub fn why_it_stays(&self) -> String {
        why_it_stays(self.pid().as_raw())
    }
}

fn why_it_stays(pid: i32) -> String {
    if let Some(cgroup) = kept_frozen(pid) {
        return format!("it is in {}, which somebody else has frozen: thaw that", cgroup.display());
    }
    match fs::read_to_string(format!("/proc/{pid}/wchan")) {
        Ok(waits) if waits == "zap_pid_ns_processes" => {
            "a process of its pid namespace has ended, and its parent outside of the container does not collect it: \
             end or continue that one (`ps -eo pid,ppid,stat,args` shows the process with state Z)"
                .to_owned()
        }
        _ => format!("it hangs in the kernel (state D): look at /proc/{pid}/stack and at its storage"),
    }
}

/// Whether it ends in time.
fn ends(process: InitProcess, pidfd: &OwnedFd, time: Duration, mut rouse: impl FnMut()) -> Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        rouse();
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = sys::pidfd::wait_ended(pidfd, left.min(ROUSE_INTERVAL))
            .context(|| format!("wait for process {}", process.pid))?;
        if ended || left.is_zero() {
            return Ok(ended);
        }
    }
}

/// Removes what a container that did not come to be has made elsewhere.
pub(super) fn remove_unfinished(paths: &[PathBuf]) -> Vec<Error> {
    let remove = |path: &PathBuf| match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            if let Some(mountpoint) = mountpoint_beneath(path)? {
                return Err(mounted_inside(&mountpoint));
            }
            fs::remove_dir_all(path).context(|| format!("remove {}", path.display()))
        }
        Ok(_) => fs::remove_file(path).context(|| format!("remove {}", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).context(|| format!("stat {}", path.display())),
    };
    paths.iter().filter_map(|path| remove(path).err()).collect()
}

impl Container {
    /// Ends and removes a container whose record cannot be read: its cgroup is where its configuration puts it. A mount
    /// that it has made on the host, and hooks for its end, are not known any more.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is nothing of it; what could not be removed, and then its directory stays.
    pub fn remove_damaged(root: &StateRoot, id: &ContainerId) -> Result<()> {
        let root = root.find(id)?;
        let dir = root.dir(id);
        if !dir.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("container does not exist: {id}")));
        }
        let _lock = lock(&dir).context(|| format!("lock container {id}"))?;
        if let Ok(config) = load_config(&dir) {
            let linux = config.spec.linux().as_ref();
            let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
            let cgroup = Cgroup::plan(&Hierarchies::detect()?, path, id.as_str())?;
            let gone = |result: Result<()>| match result {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => Ok(()),
                other => other.context(|| format!("remove container {id}")),
            };
            gone(cgroup.thaw_all())?;
            gone(cgroup.kill_all())?;
            gone(cgroup.destroy())?;
        }
        root.release(&dir, false)
    }
}

/// How a container's processes end. A frozen process of cgroup v1 does not even die; one that may write to its own
/// freezer can have frozen itself after the SIGKILL and after it was thawed: a write that was under way is finished first.
impl Container {
    /// Thaws it after a SIGKILL, until its first process has ended or had the time to.
    pub(super) fn let_die(&self, signal: i32) -> Result<()> {
        if signal != libc::SIGKILL {
            return Ok(());
        }
        let cgroup = self.cgroup()?;
        let mut thawed = Ok(());
        let mut thaw = || thawed = thaw_if_frozen(&cgroup);
        match self.init() {
            None => thaw(),
            Some(init) => match sys::pidfd::open(init.pid()) {
                Ok(pidfd) if init.is_alive() => drop(ends(init, &pidfd, ROUSE_DEADLINE, thaw)?),
                Ok(_) => thaw(),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => thaw(),
                Err(e) => return Err(e).context(|| format!("pidfd_open({})", init.pid)),
            },
        }
        thawed
    }

    pub(super) fn end_processes(&self, cgroup: &Cgroup) -> Result<()> {
        let mut thawed = Ok(());
        let killed =
            self.init().map_or(Ok(()), |init| kill_process(init, || thawed = thaw_if_frozen(cgroup)));
        match (killed, cgroup.kill_all()) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error), other) => Err(error.with_cleanup([thawed.err(), other.err()].into_iter().flatten())),
            (Ok(()), Err(error)) => Err(error.with_cleanup(thawed.err())),
        }
    }
}

fn thaw_if_frozen(cgroup: &Cgroup) -> Result<()> {
    match cgroup.thaw_all() {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => Ok(()),
        thawed => thawed,
    }
}

/// Unmounts what a container without a mount namespace has mounted in its root file system.
pub(super) fn remove_host_mounts(state: &State) -> Result<()> {
    match state.host_mount {
        Some(known) => known.unbind(&state.rootfs).context(|| "unmount the container's mounts"),
        None => Ok(()),
    }
}

fn mounted_inside(mountpoint: &Path) -> Error {
    let message = format!("{} is mounted inside of what is to be removed", mountpoint.display());
    Error::new(ErrorKind::WrongStatus, message).with_hint("unmount it and delete the container again")
}

/// Removes a container's directory, with the bundle if it is the container's own.
///
/// A bundle holds what a stranger made, and an operator may have mounted something in it: what is mounted there is
/// not ours to empty.
pub(super) fn remove_container_dir(dir: &Path, root: &Path, owns_bundle: bool) -> Result<()> {
    let has_directories = fs::read_dir(dir)
        .context(|| format!("list {}", dir.display()))?
        .filter_map(io::Result::ok)
        .any(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    if (owns_bundle || has_directories)
        && let Some(mountpoint) = mountpoint_beneath(dir)?
    {
        return Err(mounted_inside(&mountpoint));
    }
    let inode = fs::metadata(dir).context(|| format!("stat {}", dir.display()))?.ino();
    let remnant = root.join(format!("{REMNANT}{inode}"));
    fs::rename(dir, &remnant).context(|| format!("remove {}", dir.display()))?;
    remove_remnant(&remnant).context(|| format!("remove {}", remnant.display()))
}

/// Another command may be at it as well.
fn remove_remnant(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what killed commands have left of containers that are gone. What cannot be removed is in nobody's way.
pub(super) fn remove_remnants(root: &Path) {
    let is_remnant =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(REMNANT.as_bytes());
    for entry in fs::read_dir(root).into_iter().flatten().flatten().filter(is_remnant) {
        if let Err(error) = remove_remnant(&entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "remnant of a container not removed");
        }
    }
}

fn mountpoint_beneath(dir: &Path) -> Result<Option<PathBuf>> {
    // The table names no path that leads through a symbolic link, as a state root may.
    let dir = fs::canonicalize(dir).context(|| format!("resolve {}", dir.display()))?;
    let mounts = sys::mountinfo::read().context(|| "read /proc/thread-self/mountinfo")?;
    Ok(mounts.into_iter().map(|m| m.mount_point).find(|point| *point != dir && point.starts_with(&dir)))
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::cgroup::Version;

    #[test]
    fn what_is_mounted_inside_is_found_through_a_link_and_under_any_name() {
        assert!(nix::unistd::geteuid().is_root(), "mounting needs root");
        let dir = tempfile::tempdir().expect("tempdir");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        let inside = real.join("web/a\nb c");
        fs::create_dir_all(&inside).expect("mkdir");
        std::os::unix::fs::symlink(&real, &link).expect("symlink");
        let found = sys::namespace::in_private_mount_namespace(|_| {
            let before = mountpoint_beneath(&link.join("web")).expect("read the table");
            mount(None::<&Path>, &inside, Some("tmpfs"), MsFlags::empty(), None::<&Path>).expect("mount");
            (
                before,
                remove_container_dir(&link.join("web"), &link, true).expect_err("it is mounted").to_string(),
            )
        });
        let (before, error) = found.expect("unshare");
        assert_eq!(before, None);
        assert!(error.contains("is mounted inside"), "{error}");
        assert!(inside.is_dir());
    }

    #[test]
    fn what_keeps_a_killed_process_is_told() {
        let hierarchies = Hierarchies::detect().expect("this host has cgroups");
        let id = format!("migrate-test-stays-{}", std::process::id());
        let place = format!("/{id}");
        let cgroup = Cgroup::plan(&hierarchies, Some(Path::new(&place)), &id).expect("a valid id");
        cgroup.create().expect("this test needs root: it makes a cgroup");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let told = cgroup.apply(pid).and_then(|()| cgroup.freeze()).map(|()| why_it_stays(pid));
        cgroup.kill_all().and_then(|()| cgroup.destroy()).expect("the test's cgroup can be removed");
        child.wait().expect("it is a child");
        let told = told.expect("it enters the cgroup and freezes");
        // Only the freezer of v1 holds what was killed; in v2's it dies.
        let v1 = hierarchies.with_controller("freezer").is_some_and(|found| found.version() == Version::V1);
        assert_eq!(told.contains(&format!("freezer/{id}, which somebody")), v1, "{told}");
        assert!(why_it_stays(pid).contains("hangs in the kernel"), "it is gone");
    }

    /// A child of this process that runs a child of its own, and that one's pid.
    fn parent_of_one(program: &str, arguments: &[&str]) -> (std::process::Child, i32) {
        let mut command = std::process::Command::new(program);
        let child = command.args(arguments).args(["sleep", "600"]).spawn().expect(program);
        let pid = only_child(child.id());
        (child, pid)
    }

    fn only_child(parent: u32) -> i32 {
        let children = format!("/proc/{parent}/task/{parent}/children");
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            let found = fs::read_to_string(&children).expect("it lives");
            if let Some(pid) = found.split_whitespace().next() {
                return pid.parse().expect("a pid");
            }
            assert!(Instant::now() < deadline, "{parent} has no child");
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_init_whose_namespace_holds_one_that_nobody_collects_is_told_of() {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        let (mut outer, init) = parent_of_one("unshare", &["--pid", "--fork"]);
        let namespace = format!("--pid=/proc/{init}/ns/pid");
        let (mut entering, entered) = parent_of_one("nsenter", &[&namespace]);
        let parent = Pid::from_raw(i32::try_from(entering.id()).expect("a pid"));
        kill(parent, Signal::SIGSTOP).expect("stop the parent");
        // Until it stands still it may collect its child after all.
        let stands_still =
            || fs::read_to_string(format!("/proc/{parent}/stat")).expect("it lives").contains(") T ");
        let deadline = Instant::now() + END_DEADLINE;
        while !stands_still() {
            assert!(Instant::now() < deadline, "the parent does not stop");
            std::thread::yield_now();
        }
        for pid in [entered, init] {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        }
        let deadline = Instant::now() + END_DEADLINE;
        let mut told = why_it_stays(init);
        while !told.contains("does not collect it") && Instant::now() < deadline {
            std::thread::yield_now();
            told = why_it_stays(init);
        }
        kill(parent, Signal::SIGCONT).expect("continue the parent");
        entering.wait().expect("it collects its child");
        outer.wait().expect("it collects init");
        assert!(told.contains("does not collect it"), "{told}");
    }

    #[test]
    fn a_directory_that_was_half_removed_is_no_container_and_goes_with_the_next() {
        let root = tempfile::tempdir().expect("tempdir");
        let (next, half) = (root.path().join("next"), root.path().join(format!("{REMNANT}7")));
        for dir in [&next, &half] {
            fs::create_dir_all(dir.join("inside")).expect("mkdir");
            fs::write(dir.join("checkpoint.json"), "{}").expect("write");
        }
        let state_root = StateRoot::at(root.path()).expect("a state root");
        assert_eq!(state_root.ids().expect("list").len(), 1);
        state_root.release(&next, true).expect("remove");
        assert_eq!(fs::read_dir(root.path()).expect("list").count(), 0);
    }
}
