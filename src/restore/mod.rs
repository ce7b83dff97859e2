// SPDX-License-Identifier: Apache-2.0
//! The destination half: from images, or from one file, to a running container.
//!
//! ```text
//!  reserve the id ─▶ unpack and verify ─▶ configure ─▶ cgroup ─▶ mount points ─▶ criu restore ─▶ record
//!                    (archive only)                                          └ loopback up, init written down
//! ```
//!
//! Until the processes run, a failure undoes everything but the images, which the caller keeps. With
//! [`RestoreOptions::held`] they do not run even then.

mod allowed;
mod base;
mod failure;
mod fixups;
mod foreign;
mod guard;
mod hold;
mod import;
mod lock;
mod on_demand;
mod options;
mod volumes;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;

pub use allowed::allows;
pub use guard::guard_if_requested;
pub(crate) use import::{RESTORED_ROOTFS, unpack_options};
pub use lock::settle;
pub use on_demand::{can_bring_memory, provide_memory_if_requested};
pub use options::{MappedMount, RestoreOptions, Source};

use crate::archive::Progress;
use crate::cgroup::CgroupTree;
use crate::criu::{
    CONFIG_ANNOTATION, Criu, CriuClient, InheritFd, ManageCgroups, Notify, RestoreStats, SpawnOptions, Stdio,
    config_file, require_complete, require_root,
};
use crate::diagnose::explained;
use crate::engine::rootfs::prepare_mountpoints;
use crate::engine::{
    Container, ContainerId, LimitsDue, Namespaces, NewContainer, Ownership, ProcessIo, ResolvedIo, Resuming,
    SavedThreads, StateRoot, descriptors, image_files,
};
use crate::spec::kept_fields;
use crate::sys::fd::proc_path;
use crate::sys::namespace::{PrivateMounts, in_private_mount_namespace};
use crate::sys::proc::{anonymous_memory, namespace_inode};
use crate::{Context, Error, ErrorKind, Result};
use hold::Hold;
use lock::TakenLock;
use on_demand::Origin;

/// Where logs of restores that failed are kept.
const LOGS: &str = "/var/log/migrate";

/// Where the root file system is bound for CRIU, in the container's directory.
const CRIU_ROOT: &str = "criu-root";

/// Restores a container under this id. Its first process becomes a child of the caller; restored pipes of stdin,
/// stdout and stderr lead to `io`.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidConfig`] and [`ErrorKind::Unsupported`] name the field;
/// [`ErrorKind::InvalidArchive`]; [`ErrorKind::CriuUnusable`]; [`ErrorKind::CriuFailed`] with CRIU's reason;
/// [`ErrorKind::Storage`]. Nothing of the container is left behind, and the images or the archive are untouched: it
/// can be tried again.
pub fn restore(
    root: &StateRoot,
    id: ContainerId,
    source: Source,
    options: &RestoreOptions,
    io: ProcessIo,
    progress: &mut (dyn Progress + Send),
) -> Result<Container> {
    let context = match &source {
        Source::Archive { name, .. }
        | Source::File { name, .. }
        | Source::OnDemand { name, .. }
        | Source::Peer { name, .. } => {
            format!("restore container {id} from {name}")
        }
        Source::Images(_) => format!("restore container {id}"),
    };
    require_root().context(|| context.clone())?;
    fixups::check_lsm(options.lsm_profile.as_deref(), options.lsm_mount_context.as_deref())
        .context(|| context.clone())?;
    let criu = Criu::find(options.criu.as_deref())?;
    let ownership = match &options.held {
        Some((by, epoch)) => Ownership::Held { by: by.clone(), epoch: *epoch },
        None => Ownership::Here,
    };
    let mut new = NewContainer::reserve_owned(root, id, ownership)?;
    match run(&mut new, &criu, source, options, io, progress) {
        Ok(()) => Ok(new.into_container()),
        Err(error) => {
            let kind = error.kind();
            Err(new.roll_back(Error::new(kind, context).with_source(error)))
        }
    }
}

fn run(
    new: &mut NewContainer,
    criu: &Criu,
    source: Source,
    options: &RestoreOptions,
    io: ProcessIo,
    progress: &mut (dyn Progress + Send),
) -> Result<()> {
    let bundle = options.bundle.as_deref();
    // Its output is ours to make.
    let from_peer = matches!(source, Source::Peer { .. });
    let mut memory = None;
    let (bundle, images, imported) = match source {
        Source::Archive { bytes, .. } => {
            if options.lazy_pages {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "memory cannot be read on demand from a stream",
                )
                .with_hint("save the archive to a file first, or restore without --lazy-pages"));
            }
            let imported = import::unpack(new, bytes, options, progress)?;
            (imported.bundle(), imported.images(), Some(imported))
        }
        Source::File { file, directory, .. } => {
            let imported = import::unpack_file(new, file, directory, options, progress)?;
            (imported.bundle(), imported.images(), Some(imported))
        }
        Source::OnDemand { name, file } => {
            on_demand::require_kernel()?;
            let imported = import::unpack_without(new, &file, options, progress)?;
            memory = Some((name, Origin::Archive(file)));
            (imported.bundle(), imported.images(), Some(imported))
        }
        Source::Peer { name, bytes, memory: sent, store, rootfs } => {
            let came = import::Came { memory: &sent, rootfs: rootfs.as_deref() };
            let imported = import::unpack_of_peer(new, bytes, &came, options, progress)?;
            memory = Some((name, Origin::Peer(store.as_deref().map(import::open_dir).transpose()?)));
            (imported.bundle(), imported.images(), Some(imported))
        }
        Source::Images(path) => (
            bundle.unwrap_or(Path::new(".")).to_owned(),
            path.unwrap_or_else(|| PathBuf::from("checkpoint")),
            None,
        ),
    };
    let images = open_images(&images).map_err(|error| match imported {
        // It was unpacked.
        Some(_) => Error::new(ErrorKind::InvalidArchive, "the archive has no inventory.img among its images")
            .with_source(error),
        None => error,
    })?;
    // The index of an archive vouches for its images as they were written, whoever did.
    require_complete(images.as_fd())?;
    let recorded = fixups::RecordedMounts::read(images.as_fd())?;
    let network = fixups::RestoredNetwork::read(images.as_fd())?;
    let threads = SavedThreads::read(images.as_fd())?;
    network.give(new);
    new.configure_copy(&bundle)?;
    network.check(new)?;
    report_edits(new, images.as_fd(), imported.as_ref());
    fixups::share_images(new, images.as_fd())?;
    if options.held.is_some() {
        new.prepare_fence(&options.addresses)?;
    }
    let io = io.resolve(new.has_terminal())?;
    if from_peer {
        fixups::fit_output(images.as_fd(), io.stdio())?;
    }
    new.create_cgroup_for_restore()?;
    let cgroups = fixups::make_cgroups(new, images.as_fd(), options.cgroup_mode())?;
    new.create_intel_rdt()?;
    // The mounts that CRIU needs on the way stay in a mount namespace that ends with it, however this ends.
    let logs = Logs::choose(new, options, imported.is_some() || !is_writable(&images));
    // In the host's mount namespace, where it stays.
    let memory = match (&memory, logs.path()) {
        (Some((name, origin)), Some(work_dir)) if origin.comes_on_demand(new, images.as_fd())? => {
            Some(on_demand::Provider::start(new, origin, images.as_fd(), name, work_dir)?)
        }
        _ => None,
    };
    let files = Files {
        images: &images,
        memory: memory.as_ref(),
        work_path: logs.path(),
        config: criu_config(new, imported.is_some()),
        network,
        cgroups,
        threads,
        recorded,
    };
    let restored =
        in_private_mount_namespace(|mounts| restore_processes(new, criu, options, &files, io, mounts));
    restored
        .context(|| "make a private mount namespace for criu")
        .flatten()
        .inspect_err(|_| logs.discard_unused())?;
    let criu_root = new.dir().join(CRIU_ROOT);
    fs::remove_dir(&criu_root).context(|| format!("remove {}", criu_root.display()))?;
    fixups::remove_places(new)?;
    if let Some(imported) = imported {
        imported.finish(new)?;
    }
    logs.discard();
    Ok(())
}

/// Tells what of an edited configuration has no effect. A configuration that cannot be compared restores as well.
fn report_edits(new: &NewContainer, images: BorrowedFd<'_>, imported: Option<&import::Imported>) {
    let then = match imported {
        Some(imported) => imported.config().map(Some),
        None => image_files::read(images, image_files::CONFIG, image_files::CONFIG_LIMIT),
    };
    let compared = then.and_then(|then| match then {
        Some(then) => kept_fields(&then, &new.config().bytes),
        None => Ok(Vec::new()),
    });
    match compared {
        Ok(fields) if fields.is_empty() => {}
        Ok(fields) => tracing::warn!(
            fields = fields.join(" "),
            "the configuration differs from the one at the checkpoint: these fields stay as they were then"
        ),
        Err(error) => {
            tracing::warn!(error = error.chain(), "not compared with the configuration at the checkpoint");
        }
    }
}

/// Files that CRIU works with.
struct Files<'a> {
    images: &'a OwnedFd,
    memory: Option<&'a on_demand::Provider>,
    work_path: Option<&'a Path>,
    config: Option<PathBuf>,
    network: fixups::RestoredNetwork,
    cgroups: Option<CgroupTree>,
    threads: Option<SavedThreads>,
    recorded: fixups::RecordedMounts,
}

/// The file with further options for CRIU. An archive comes from others: it does not choose one here, for such a file
/// can name programs to run.
fn criu_config(new: &NewContainer, imported: bool) -> Option<PathBuf> {
    let annotations = new.config().spec.annotations().as_ref();
    let named = annotations.and_then(|a| a.get(CONFIG_ANNOTATION)).map(String::as_str);
    if imported && named.is_some() {
        tracing::warn!("annotation {CONFIG_ANNOTATION} of the archive is ignored");
        return config_file(None);
    }
    config_file(named)
}

/// Runs CRIU.
fn restore_processes(
    new: &mut NewContainer,
    criu: &Criu,
    options: &RestoreOptions,
    files: &Files<'_>,
    io: ResolvedIo,
    mounts: &PrivateMounts,
) -> Result<()> {
    let reopened = through_own_mount(files.images);
    let images = reopened.as_ref().unwrap_or(files.images);
    let names = descriptors::read(images.as_fd())?;
    let new_names = descriptors::names(io.stdio())?;
    fixups::require_terminals(&names, io.stdio(), &options.inherit)?;
    if let Some(user) = new.user_namespace() {
        io.give_to(user.root()?)?;
    }
    let ResolvedIo { stdio, console, .. } = io;
    prepare_mountpoints(new.rootfs_plan())?;
    let criu_root = bind_root(new)?;
    let given = options.given_mounts();
    fixups::place_sources(new, &files.recorded, &given, mounts)?;
    let external_mounts = fixups::external_mounts(new, &files.recorded, &given)?;
    // Such a file may name mounts as well.
    if files.config.is_none() {
        files.recorded.require(&external_mounts)?;
    }
    let namespaces = Namespaces::from_spec(&new.config().spec);
    let mut spawn = SpawnOptions::default().stdio(Stdio::Given(stdio)).cgroup(
        new.cgroup().clone_into_fd()?,
        new.cgroup().entry_fds()?.into_iter().map(|entry| entry.fd).collect(),
        // CRIU makes it where it manages cgroups: within one its own mounts would show no more than what is beneath.
        namespaces.creates(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            && options.cgroup_mode() == ManageCgroups::Ignore,
    );
    let around = namespaces.around_criu();
    let around = around.iter().map(|(kind, name, path)| Ok((open_namespace(name, path)?, *kind)));
    spawn = spawn.namespaces(around.collect::<Result<_>>()?);
    let mut external_namespaces = Vec::new();
    for (name, key, path) in namespaces.external() {
        external_namespaces.push((key, spawn.inherit(open_namespace(name, path)?.as_fd())?));
    }
    let mut inherited = Vec::new();
    for (key, fd) in &options.inherit {
        inherited.push(InheritFd { key: key.clone(), fd: spawn.inherit(fd.as_fd())? });
    }
    let work_dir = files.work_path.map(open_work_dir).transpose()?;
    if options.lazy_pages && files.memory.is_none() {
        options::require_lazy_pages(work_dir.as_ref().unwrap_or(images).as_fd())?;
    }
    let hold = options.held.as_ref().map(|_| Hold::prepare(new)).transpose()?;
    let client = CriuClient::spawn(criu, spawn)?;
    client.reuse_kernel_facts(mounts);
    let mut request = options::restore_request(
        options,
        &namespaces,
        images,
        work_dir.as_ref(),
        &criu_root,
        &names,
        &external_namespaces,
        client.pid(),
    )?;
    request.options.external_mounts = external_mounts;
    request.inherit_fds.extend(inherited);
    request.lazy_pages |= files.memory.is_some();
    request.options.config_file.clone_from(&files.config);
    files.network.ask(new, &namespaces, &mut request.options);
    let names = stdio_names(&names, new_names);
    let log_dir = fs::read_link(proc_path(work_dir.as_ref().unwrap_or(images).as_fd()));
    let mut steps = Steps {
        new,
        namespaces: &namespaces,
        network: &files.network,
        pid: None,
        names,
        terminal: fixups::Terminal::new(console),
        criu: client.pid(),
        log: log_dir.ok().map(|directory| directory.join(&request.options.log_file)),
        memory: files.memory,
        cgroups: files.cgroups.as_ref(),
        threads: files.threads.as_ref(),
        due: LimitsDue::None,
        hold,
    };
    let taken = TakenLock::take(steps.new, &namespaces, images.as_fd(), client.pid())?;
    let restored = client.restore(&request, &mut steps).inspect_err(|_| {
        taken.iter().for_each(TakenLock::give_up);
    });
    restored.map_err(|error| explained(error, || failure::context(steps.new, options, images)))?;
    steps.hold.take().map_or(Ok(()), Hold::end)?;
    TakenLock::is_gone(steps.new)?;
    steps.new.has_resumed()?;
    let due = steps.due;
    new.set_due_limits(due)
}

fn open_namespace(name: &str, path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).map_err(|e| {
        let message = format!("the container's {name} namespace {} cannot be opened", path.display());
        Error::new(ErrorKind::InvalidConfig, message).with_source(e)
    })
}

/// The container's descriptors after the restore: pipes are those it has now, anything else CRIU opened by the name
/// that it had.
fn stdio_names(dumped: &[String; 3], now: [String; 3]) -> [String; 3] {
    let mut names = now;
    for (name, dumped) in names.iter_mut().zip(dumped) {
        if !options::is_given_anew(dumped) {
            dumped.clone_into(name);
        }
    }
    names
}

/// CRIU wants its root to be a mount point: the root file system, bound in the container's directory. In this mount
/// namespace only.
fn bind_root(new: &NewContainer) -> Result<PathBuf> {
    let root = new.dir().join(CRIU_ROOT);
    match fs::create_dir(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).context(|| format!("make {}", root.display()));
        }
        _ => {}
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(new.rootfs()), &root, None::<&Path>, flags, None::<&Path>)
        .context(|| format!("bind {} on {}", new.rootfs().display(), root.display()))?;
    Ok(root)
}

/// What the engine does while CRIU restores.
struct Steps<'a> {
    new: &'a mut NewContainer,
    namespaces: &'a Namespaces,
    network: &'a fixups::RestoredNetwork,
    /// The first process.
    pid: Option<Pid>,
    names: [String; 3],
    terminal: fixups::Terminal,
    criu: i32,
    /// CRIU's log, where it can be named.
    log: Option<PathBuf>,
    memory: Option<&'a on_demand::Provider>,
    cgroups: Option<&'a CgroupTree>,
    threads: Option<&'a SavedThreads>,
    due: LimitsDue,
    hold: Option<Hold>,
}

impl Notify for Steps<'_> {
    fn setup_namespaces(&mut self, pid: i32) -> Result<()> {
        let pid = Pid::from_raw(pid);
        self.pid = Some(pid);
        self.network.prepare(self.new, self.namespaces, pid)?;
        self.new.run_restore_hooks(pid)
    }

    fn post_setup_namespaces(&mut self) -> Result<()> {
        let Some(pid) = self.pid else { return Ok(()) };
        self.network.complete(self.new, pid)?;
        // Before CRIU lets packets through: nobody may hear of a container that may not run.
        if self.hold.is_some() { self.new.raise_fence(pid) } else { Ok(()) }
    }

    fn orphan_pts_master(&mut self, master: OwnedFd) -> Result<()> {
        self.terminal.collect(master)
    }

    fn post_restore(&mut self, pid: i32) -> Result<()> {
        self.new.release_unit()?;
        self.terminal.hand_over()?;
        let pid = Pid::from_raw(pid);
        let mut types = self.namespaces.types();
        // CRIU puts every restored tree into a time namespace, which `exec` must join as well.
        let own = namespace_inode(Pid::this(), "time").ok();
        if namespace_inode(pid, "time").ok() != own {
            types.push("time");
        }
        self.new.join_intel_rdt()?;
        if let Some(tree) = self.cgroups {
            fixups::fill_cgroups(self.new, tree, self.criu)?;
        }
        // After the cgroups, which say what processors there are.
        if let Some(threads) = self.threads {
            threads.set(self.new.cgroup(), self.criu)?;
        }
        // Without it the processes would wait for ever, or find zeros.
        self.memory.map_or(Ok(()), on_demand::Provider::check)?;
        let criu = anonymous_memory(Pid::from_raw(self.criu)).context(|| "look at criu's memory")?;
        self.due = self.new.set_spared_limits(criu)?;
        let log = self.log.as_deref();
        let resuming = log.map(|log| Resuming::of(self.criu, log, RestoreStats::FILE)).transpose()?;
        self.new.set_resuming(resuming.flatten());
        // Written before any process runs: if we die now, CRIU undoes everything; later, the container is known.
        self.new.record(pid, self.names.clone(), &types)
    }

    fn before_release(&mut self, connection: BorrowedFd<'_>) -> Result<()> {
        self.hold.as_ref().map_or(Ok(()), |hold| hold.guard(connection))
    }

    fn pre_resume(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.begin(self.new.cgroup(), self.criu);
        }
    }
}

/// The same directory by way of a mount of this mount namespace: CRIU works in it and, when it manages cgroups, mounts
/// there, which the kernel does not let it do on a mount of another namespace. `None` where the path leads elsewhere.
fn through_own_mount(directory: &OwnedFd) -> Option<OwnedFd> {
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
    let reopened = File::open(path).ok()?;
    let original = File::from(directory.try_clone().ok()?);
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    (identity(&reopened)? == identity(&original)?).then(|| OwnedFd::from(reopened))
}

fn open_images(path: &Path) -> Result<OwnedFd> {
    let opened = File::open(path).and_then(|dir| {
        let inventory = path.join("inventory.img");
        inventory.symlink_metadata()?;
        Ok(dir)
    });
    opened.map(OwnedFd::from).map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::System };
        Error::new(kind, format!("open the image directory {}", path.display()))
            .with_source(e)
            .with_hint("pass the directory of the images with --image-path, or an archive with --import")
    })
}

/// Where CRIU's log goes. With an archive there is no directory of images that outlives a failure, and one that is on a
/// read-only file system takes no log: that of a restore which failed is then kept where logs are kept.
struct Logs {
    path: Option<PathBuf>,
    owned: bool,
}

impl Logs {
    fn choose(new: &NewContainer, options: &RestoreOptions, elsewhere: bool) -> Self {
        match &options.work_path {
            None if elsewhere => {
                let kept = Path::new(LOGS).join(format!("{}-restore", new.id()));
                let path = if fs::create_dir_all(&kept).is_ok() { kept } else { new.dir().join("criu") };
                Self { path: Some(path), owned: true }
            }
            path => Self { path: path.clone(), owned: false },
        }
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A directory to which CRIU has not written is of no use to anybody.
    fn discard_unused(&self) {
        if let (true, Some(path)) = (self.owned, &self.path) {
            // It fails when there is something in it, and then it must stay.
            drop(fs::remove_dir(path));
        }
    }

    fn discard(&self) {
        if let (true, Some(path)) = (self.owned, &self.path)
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::warn!(path = %path.display(), %error, "log of the restore not removed");
        }
    }
}

/// Whether files can be made in a directory. One that cannot be asked is taken for writable: CRIU will tell.
fn is_writable(directory: &OwnedFd) -> bool {
    use nix::unistd::{AccessFlags, faccessat};
    let asked = faccessat(directory, ".", AccessFlags::W_OK, AtFlags::empty());
    !matches!(asked, Err(Errno::EROFS | Errno::EACCES))
}

fn open_work_dir(path: &Path) -> Result<OwnedFd> {
    fs::create_dir_all(path)
        .and_then(|()| File::open(path))
        .map(OwnedFd::from)
        .context(|| format!("make the work directory {}", path.display()))
}
