// SPDX-License-Identifier: Apache-2.0
//! Inside the container: from the re-executed runtime to the container's program, one stage after the other.
//! Single-threaded, and the only place where the engine changes its own process.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchdir, setgroups, sethostname, setresgid, setresuid};

use super::mount_sources::Requests;
use super::plan::InitPlan;
use super::sync::{Failure, InitSide};
use crate::engine::console::ConsolePlan;
use crate::engine::lsm::{self, KeyLabel};
use crate::engine::process::ProcessPlan;
use crate::engine::rootfs::OwnSources;
use crate::engine::seccomp::Filter;
use crate::engine::user_namespace::UserNamespacePlan;
use crate::engine::{console, program, rootfs};
use crate::sys::procfs::Procfs;
use crate::{Context, Error, Result, sys};

/// Becomes the container's program. Returns only when that fails.
pub(super) fn run(plan: &InitPlan, channel: &InitSide) -> Result<Infallible> {
    // Not the container's /proc, which may be missing or a trap (CVE-2025-52881), nor the host's where that can be helped: one
    // could go up from there.
    let own_fds = Procfs::open()
        .and_then(|procfs| procfs.open_own("fd", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC))
        .context(|| "open the directory of this process's descriptors")?;
    let fifo = take(plan.fifo)?;
    let mount_namespace = take(plan.mount_namespace)?;
    let user_namespace = take(plan.join_user_namespace)?;
    let attributes = plan.lsm.attributes()?;
    plan.attributes.set_affinity()?;
    enter_namespaces(plan, channel)?;
    if let (Some(namespace), Some(user)) = (user_namespace, plan.user_namespace) {
        join_user_namespace(&namespace, user)?;
    }
    let setgroups_denied = setgroups_denied()?;
    join_keyring(plan, &attributes)?;
    if let Some(namespace) = mount_namespace {
        setns(namespace, CloneFlags::CLONE_NEWNS).context(|| "setns(CLONE_NEWNS)")?;
    }
    if let Some(root) = take(plan.root)? {
        rootfs::enter_root(root.as_fd())?;
    }
    match &plan.rootfs {
        Some(rootfs) => {
            let prepared = match take(plan.mount_sources)?.map(Requests) {
                Some(sources) => rootfs::prepare(rootfs, &sources)?,
                None => rootfs::prepare(rootfs, &OwnSources)?,
            };
            run_early_hooks(plan, channel, Some(prepared.root()))?;
            set_up_console(plan.console.as_ref(), Some(&prepared), &own_fds)?;
            prepared.enter()?.protect()?;
        }
        None => {
            run_early_hooks(plan, channel, None)?;
            set_up_console(plan.console.as_ref(), None, &own_fds)?;
        }
    }
    plan.attributes.apply()?;
    plan.lsm.apply(&attributes)?;
    channel.ready()?;
    let process = &plan.process;
    // Before the profile, which may forbid to ask for the directory's name.
    let in_directory = program::enter_directory(&process.cwd)?;
    close_to_program(plan.preserved)?;
    let mut filter = Pending(plan.seccomp.as_ref());
    if process.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().context(|| "prctl(PR_SET_NO_NEW_PRIVS, 1)")?;
    } else {
        // It takes a right that the process is about to lose.
        filter.load(channel)?;
    }
    become_user(process, setgroups_denied)?;
    if !in_directory {
        program::retry_directory(&process.cwd)?;
    }
    process.capabilities.apply()?;
    let environment = program::environment(process);
    let path = program::find(&process.args[0], &environment)?;
    let program = Program::new(&path, plan, &environment)?;
    if filter.asks_others() {
        // Later there is no runtime any more to tell them.
        filter.load(channel)?;
    }
    let Some(fifo) = fifo else { return program.execute(filter, channel) };
    sys::process::end_on_signals().context(|| "sigaction()")?;
    channel.waiting()?;
    // From here on `create` is not waited for: it is `start` that learns what happens.
    let start = wait_at_fifo(&own_fds, &fifo)?;
    drop((own_fds, fifo));
    let run = || {
        if plan.hooks.has_start_container() {
            // They run in the container, so its profile is for them too.
            filter.load(channel)?;
            plan.hooks.start_container(&environment)?;
        }
        program.execute(filter, channel)
    };
    run().inspect_err(|error| tell_start(start, error))
}

/// In the user namespace that the process ends up in: a keyring's name is known in its own alone.
fn join_keyring(plan: &InitPlan, attributes: &lsm::Attributes) -> Result<()> {
    let Some(keyring) = &plan.keyring else { return Ok(()) };
    plan.lsm.label_keys(attributes, KeyLabel::Set)?;
    keyring.join()?;
    plan.lsm.label_keys(attributes, KeyLabel::Clear)
}

/// The profile of a container, until it is loaded.
struct Pending<'a>(Option<&'a Filter>);

impl Pending<'_> {
    fn asks_others(&self) -> bool {
        self.0.is_some_and(Filter::asks_others)
    }

    fn load(&mut self, channel: &InitSide) -> Result<()> {
        let Some(filter) = self.0.take() else { return Ok(()) };
        filter.load()?.map_or(Ok(()), |questions| channel.listener(questions.as_fd()))
    }
}

/// Nothing of the runtime may reach the program (CVE-2024-21626). What is opened after this is closed by execve anyway.
fn close_to_program(preserved: u32) -> Result<()> {
    let first = preserved.saturating_add(3) as i32;
    sys::fd::cloexec_from(first).context(|| format!("close_range({first}, CLOEXEC)"))
}

/// The hooks that run when the root file system is there and the host's files still are.
fn run_early_hooks(plan: &InitPlan, channel: &InitSide, root: Option<BorrowedFd<'_>>) -> Result<()> {
    if plan.hooks.runtime {
        channel.rootfs_ready()?;
    }
    if !plan.hooks.has_create_container() {
        return Ok(());
    }
    if let Some(root) = root {
        fchdir(root).context(|| "chdir to the root file system")?;
    }
    plan.hooks.create_container()
}

fn set_up_console(
    plan: Option<&ConsolePlan>,
    root: Option<&rootfs::Prepared<'_>>,
    own_fds: &OwnedFd,
) -> Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    let Some(socket) = take(Some(plan.socket))? else { return Ok(()) };
    console::set_up(plan, socket.as_fd(), root, own_fds.as_fd()).context(|| "make the container's terminal")
}

fn take(number: Option<i32>) -> Result<Option<OwnedFd>> {
    number.map(sys::fd::take_inherited).transpose().context(|| "take over a descriptor from the runtime")
}

/// What belongs to the namespaces that the clone has made, while the host's `/proc` is still in reach.
fn enter_namespaces(plan: &InitPlan, channel: &InitSide) -> Result<()> {
    // In a user namespace the runtime has done it: nobody there has the right.
    let is_inside = plan.user_namespace.is_some() && plan.join_user_namespace.is_none();
    if let (Some(score), false) = (plan.process.oom_score_adj, is_inside) {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .context(|| format!("write {score} to /proc/self/oom_score_adj"))?;
    }
    if plan.network.from_outside {
        // Kernel parameters and hooks may be about these interfaces.
        channel.network_wanted()?;
    }
    if plan.network.loopback {
        sys::net::bring_loopback_up().context(|| "bring the loopback interface up")?;
    }
    if let Some(name) = &plan.hostname {
        sethostname(name).context(|| format!("sethostname({name:?})"))?;
    }
    if let Some(name) = &plan.domainname {
        sys::process::set_domain_name(name).context(|| format!("setdomainname({name:?})"))?;
    }
    write_sysctls(&plan.sysctls)
}

/// Whether nobody in this user namespace may change his supplementary groups: one that was made without privilege, be it
/// the container's or that of the runtime itself.
fn setgroups_denied() -> Result<bool> {
    const FILE: &str = "/proc/self/setgroups";
    Ok(fs::read_to_string(FILE).context(|| format!("read {FILE}"))?.trim_end() == "deny")
}

/// Becomes the root of a user namespace, or who sets the container up in its place.
fn join_user_namespace(namespace: &OwnedFd, user: UserNamespacePlan) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER).context(|| "setns(CLONE_NEWUSER)")?;
    match setgroups(&[]) {
        // Denied in this namespace: the runtime's groups stay, as nobody's.
        Ok(()) | Err(nix::errno::Errno::EPERM) => {}
        Err(e) => return Err(e).context(|| "setgroups([]) in the user namespace"),
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid).context(|| format!("setresgid({gid}) in the user namespace"))?;
    setresuid(uid, uid, uid).context(|| format!("setresuid({uid}) in the user namespace"))
}

/// Into a procfs that nobody can have covered: a value meant for a parameter must not reach another (CVE-2025-52881).
fn write_sysctls(sysctls: &[(String, String)]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let procfs = Procfs::open().context(|| "take hold of procfs")?;
    for (path, value) in sysctls {
        procfs
            .open_file(&format!("sys/{path}"), OFlag::O_WRONLY)
            .and_then(|file| File::from(file).write_all(value.as_bytes()))
            .context(|| format!("write {value:?} to /proc/sys/{path}"))?;
    }
    Ok(())
}

/// From root to the process's user, whose own capabilities are set when it is in its directory. Irreversible.
fn become_user(process: &ProcessPlan, setgroups_denied: bool) -> Result<()> {
    nix::sys::stat::umask(Mode::from_bits_truncate(process.umask));
    program::own_stdio(process.uid)?;
    process.capabilities.drop_bounding()?;
    let groups: Vec<Gid> = process.additional_gids.iter().copied().map(Gid::from_raw).collect();
    if !(setgroups_denied && groups.is_empty()) {
        setgroups(&groups).context(|| format!("setgroups({:?})", process.additional_gids))?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    setresgid(gid, gid, gid).context(|| format!("setresgid({gid})"))?;
    setresuid(uid, uid, uid).context(|| format!("setresuid({uid})"))
}

/// Opening the fifo for writing waits for its reader, which is `start`. It stays open until the program is executed:
/// that is how `start` knows.
fn wait_at_fifo(own_fds: &OwnedFd, fifo: &OwnedFd) -> Result<File> {
    let name = CString::new(fifo.as_raw_fd().to_string()).context(|| "name the fifo")?;
    let opened = loop {
        match openat(own_fds, name.as_c_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.context(|| "open the exec fifo")?,
        }
    };
    let mut start = File::from(opened);
    match start.write_all(b"0") {
        // A `start` that was killed in this moment has said all that it had to say.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context(|| "write to the exec fifo")?,
    }
    Ok(start)
}

/// Why the program does not run. A `start` that was killed does not hear it, and there is nobody else to tell.
fn tell_start(mut start: File, error: &Error) {
    if let Ok(bytes) = serde_json::to_vec(&Failure::from(error)) {
        drop(start.write_all(&bytes));
    }
}

/// A program that is ready to be executed, so that little is left to do under its profile.
struct Program<'a> {
    path: &'a Path,
    image: sys::process::Image,
}

impl<'a> Program<'a> {
    fn new(path: &'a Path, plan: &InitPlan, environment: &[(String, String)]) -> Result<Self> {
        let c_string = |text: Vec<u8>| CString::new(text).context(|| "make a C string of an argument");
        let program = c_string(path.as_os_str().as_encoded_bytes().to_vec())?;
        let argv =
            plan.process.args.iter().map(|a| c_string(a.clone().into_bytes())).collect::<Result<Vec<_>>>()?;
        let envp = environment
            .iter()
            .map(|(name, value)| c_string(format!("{name}={value}").into_bytes()))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { path, image: sys::process::Image::new(program, argv, envp) })
    }

    fn execute(&self, mut filter: Pending<'_>, channel: &InitSide) -> Result<Infallible> {
        sys::process::reset_signals().context(|| "reset the signals")?;
        filter.load(channel)?;
        Err(program::cannot_execute(self.path, &self.image.execute()))
    }
}
