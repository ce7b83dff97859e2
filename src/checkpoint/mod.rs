// SPDX-License-Identifier: Apache-2.0
//! The source half: from a running container to CRIU's images, and on into one file.
//!
//! ```text
//!  preflight ─▶ criu dump ─▶ [held in post-dump: archive written] ─▶ killed or running ─▶ statistics, index, rename
//!                       └─ memory, straight into an archive that is a file
//! ```
//!
//! CRIU holds the processes still until `post-dump` is answered. An export writes everything that can fail in that
//! hold: a full disk or a reader that went away then lets the container run on. It does not know how a restore
//! works, nor is it used by it.

mod ahead;
mod base;
mod cgroups;
mod export;
mod externals;
mod failure;
mod freezer;
mod hand_over;
mod hold;
mod images;
mod journal;
mod lazy;
mod memory;
mod namespaces;
mod network_status;
mod options;
mod passed;
mod pre_dump;
mod preflight;
mod programs;
mod reclaim;
mod rescue;
mod sessions;
mod stdio;
mod straight;
mod volumes;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use ahead::can_leave_memory;
pub use base::written_to;
pub use hand_over::{Decide, HandOver, MemoryTaker, TakeRest, TakeRootfs, Verdict};
pub use journal::settle;
pub use lazy::signals_to_give_up;
pub use memory::MemoryOptions;
pub use options::{
    ArchiveLayout, ArchiveOptions, ArchivedRootfs, CheckpointOptions, ExecSessions, Export, LeaveRunning,
};
pub use passed::{Passed, Take};
pub use pre_dump::pre_dump;
pub use preflight::dumpable;

use crate::archive::Progress;
use crate::criu::{
    Criu, CriuClient, DumpStats, Kernel, PageServer, SpawnOptions, StartingCriu, lock_table, require_root,
};
use crate::diagnose::explained;
use crate::engine::{Container, InitProcess, NetworkSurvey, Status, TakenDevices, descriptors, image_files};
use crate::spec::Config;
use crate::sys::namespace::{PrivateMounts, in_private_mount_namespace};
use crate::{Context, Error, ErrorKind, Result, sys};
use ahead::Unasked;
use export::Exporter;
use freezer::Freezer;
use hand_over::{Custody, Fate};
use hold::Hold;
use images::{ImagesDir, open_dir, open_work_dir};
use journal::Journal;
use lazy::LazyWait;
use reclaim::reclaim;
use sessions::Sessions;
use stdio::Stdio;
use straight::{Receiving, Socket};

/// What a checkpoint came to.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// Bytes of CRIU's images.
    pub images_bytes: u64,
    /// Bytes of the archive, when there is one.
    pub archive_bytes: Option<u64>,
    /// What CRIU measured; `None` when its statistics cannot be read.
    pub stats: Option<DumpStats>,
    /// How long this kept the processes from running: from the first that CRIU stopped until they went on or were killed, so with the
    /// writing of an archive. Of a paused container it is not all of the pause. `None` only for an archive that completes an earlier
    /// attempt whose statistics cannot be read.
    pub stood_still: Option<Duration>,
}

impl CheckpointReport {
    /// Tells how long the processes stood still.
    fn tell(&self, container: &Container) {
        let told = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        let time = self.stood_still.map_or_else(|| "an unknown time".to_owned(), told);
        tracing::info!("the processes of container {} stood still for {time}", container.id());
    }
}

/// Checkpoints a container. Unless it is left running, it is gone afterwards: its processes, its cgroup and its
/// record. With `export` everything that a restore needs goes into one file or stream as well.
///
/// # Errors
/// [`ErrorKind::WrongStatus`] unless the container runs or is paused; [`ErrorKind::CriuUnusable`];
/// [`ErrorKind::Undumpable`] for what CRIU cannot carry, before anything is stopped;
/// [`ErrorKind::CriuFailed`] with CRIU's reason; [`ErrorKind::Storage`]. On every error before CRIU has killed the
/// processes the container runs on as before, and what was written is removed. After that point, which is named in
/// the error, the images are complete and stay.
pub fn checkpoint(
    container: &mut Container,
    options: &CheckpointOptions,
    export: Option<Export>,
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    let _lock = container.lock()?;
    container.require_owned()?;
    let context = format!("checkpoint container {}", container.id());
    let finished = run(container, options, export, progress);
    finished.inspect(|report| report.tell(container)).context(|| context)
}

fn run(
    container: &Container,
    options: &CheckpointOptions,
    export: Option<Export>,
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    if let Some(journal) = journal::recover(container)? {
        // The processes are in the images of an attempt that was killed before its archive was complete.
        let Some(export) = export else {
            return Err(wrong_status(Status::Stopped).with_hint(journal.remedy(container)));
        };
        return finish_export(container, journal, &options.archive, export, progress);
    }
    require_complete(options, export.as_ref())?;
    let ready = ready(container, options)?;
    let status = ready.status;
    let handed_over = matches!(export, Some(Export::Peer(_) | Export::Passed(_)));
    if handed_over && status == Status::Paused {
        return Err(wrong_status(status).with_hint("let it go on first: `migrate resume`"));
    }
    let custody = Custody::default();
    namespaces::require_restorable(&ready.config)?;
    let init = living_init(container)?;
    // CRIU's own temporary mounts stay in a mount namespace that nobody else sees.
    let attempted = in_private_mount_namespace(|mounts| {
        // What is in the way of a checkpoint is looked for while CRIU starts.
        let criu = start_criu(container, options, &ready, init, export.as_ref())?;
        if !options.no_check {
            preflight::require_dumpable(container, &ready.config, options)?;
        }
        let images = ImagesDir::choose(container, options, export.as_ref())?;
        options.memory.check(&images.path)?;
        let devices = container.taken_devices(&ready.config, init)?;
        let from = (status, &custody);
        let dumped = attempt(container, options, (criu, mounts), &images, export, from, progress);
        Ok(Attempted { images, devices, dumped })
    });
    let Attempted { images, devices, dumped } =
        attempted.context(|| "make a private mount namespace for criu").flatten()?;
    let paused = match (status, options.leave_running) {
        (Status::Paused, _) if dumped.is_err() => freezer::pause_again(container),
        (Status::Paused, LeaveRunning::Yes) | (_, LeaveRunning::Paused) if dumped.is_ok() => {
            freezer::pause_again(container)
        }
        _ => Ok(()),
    };
    match dumped {
        Ok(report) => {
            if options.leave_running == LeaveRunning::No {
                give_back(devices);
            }
            conclude(container, options, &images)?;
            paused.map(|()| report)
        }
        Err(error) if custody.fate() == Fate::Stays => {
            Err(error.with_cleanup(journal::clear_up(container).err()))
        }
        Err(error) => Err(match journal::clear_up(container) {
            Ok(None) if handed_over => {
                explain_end(container, error).with_cleanup(hand_over::release(container).err())
            }
            Ok(None) => explain_end(container, error).with_cleanup(paused.err()),
            // CRIU has killed the processes: the images are all there is of them.
            Ok(Some(mut journal)) => {
                give_back(devices);
                let reclaimed = reclaim(container, &mut journal);
                let hint = match &reclaimed {
                    Ok(()) => format!(
                        "the processes were checkpointed and have ended; the images are complete in {}: export again, or \
                         restore with --image-path",
                        journal.images.display()
                    ),
                    Err(_) => {
                        format!(
                            "the processes were checkpointed and have ended; {}",
                            journal.remedy(container)
                        )
                    }
                };
                error.with_hint(hint).with_cleanup(reclaimed.err())
            }
            // Better too much is kept than too little.
            Err(failed) => error.with_cleanup([failed]),
        }),
    }
}

/// What a dump came to, and what is left to be done after it.
struct Attempted {
    images: ImagesDir,
    devices: Option<TakenDevices>,
    dumped: Result<CheckpointReport>,
}

/// A CRIU on its way, with a socket for memory that is to go straight into an archive, or one for memory that is to stay where it is.
struct Started {
    criu: StartingCriu,
    socket: Option<Socket>,
    unasked: Option<Unasked>,
}

/// Starts CRIU from this thread, which has the mounts that it is to see.
fn start_criu(
    container: &Container,
    options: &CheckpointOptions,
    ready: &Ready,
    init: InitProcess,
    export: Option<&Export>,
) -> Result<Started> {
    let programs = options.tar.as_deref().map(|tar| programs::with_tar(container, tar));
    let around =
        namespaces::around_criu(&ready.config, init).map_err(|error| explain_end(container, error))?;
    let mut spawn = SpawnOptions::default().programs(programs.transpose()?).namespaces(around);
    let socket = straight::suits(options, export).then(|| Socket::make(&mut spawn)).transpose()?;
    let unasked = ahead::suits(export).then(|| Unasked::make(&mut spawn, &ready.config)).transpose()?;
    Ok(Started { criu: CriuClient::start(&ready.criu, spawn)?, socket, unasked })
}

fn wrong_status(status: Status) -> Error {
    Error::new(ErrorKind::WrongStatus, format!("container cannot be checkpointed in {status} state"))
}

/// A container that CRIU can be let loose on.
struct Ready {
    status: Status,
    config: Arc<Config>,
    criu: Criu,
}

fn ready(container: &Container, options: &CheckpointOptions) -> Result<Ready> {
    let status = container.status()?;
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(wrong_status(status));
    }
    if !container.has_started()? {
        return Err(wrong_status(Status::Created));
    }
    container.require_whole()?;
    require_root()?;
    let config = container.config()?;
    Ok(Ready { status, config, criu: Criu::find(options.criu.as_deref())? })
}

/// An archive holds everything, and memory that is on demand can only be of processes that are held.
fn require_complete(options: &CheckpointOptions, export: Option<&Export>) -> Result<()> {
    let refuse = |message: &'static str| Err(Error::new(ErrorKind::InvalidInput, message));
    if export.is_some() && !options.memory.are_complete() {
        return refuse(
            "an archive holds all memory: --export goes with none of --parent-path, --page-server and --lazy-pages",
        );
    }
    if options.memory.lazy_pages && options.leave_running != LeaveRunning::No {
        return refuse("--lazy-pages hands the memory over: the container cannot be left running or stopped");
    }
    Ok(())
}

/// The host's interfaces are its own again: the container has ended. That one stays away changes nothing about that.
fn give_back(devices: Option<TakenDevices>) {
    for error in devices.into_iter().flat_map(TakenDevices::give_back) {
        tracing::warn!(error = error.chain(), "interface of the host lost with the container");
    }
}

/// What fails because the processes have ended is about what was not found any more.
fn explain_end(container: &Container, error: Error) -> Error {
    if container.init().is_some() || matches!(error.kind(), ErrorKind::WrongStatus | ErrorKind::Storage) {
        return error;
    }
    Error::new(ErrorKind::WrongStatus, "the container ended by itself meanwhile").with_source(error)
}

/// Opens the target of the archive and makes the directories, then dumps. What it makes is written down before.
fn attempt(
    container: &Container,
    options: &CheckpointOptions,
    (started, mounts): (Started, &PrivateMounts),
    images: &ImagesDir,
    export: Option<Export>,
    (status, custody): (Status, &Custody),
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    let config = &container.config()?;
    let mut journal = Journal::new(images);
    journal.save(container)?;
    let exporter = export
        .map(|export| {
            Exporter::begin(export, &options.archive, container, config, progress, |partial| {
                journal.set_partial(partial, container)
            })
        })
        .transpose()?;
    let images_fd = images.create()?;
    let work_path = options.work_path.clone().or_else(|| images.owned.then(|| log_dir(container)));
    let work_dir = work_path.as_deref().map(open_work_dir).transpose()?;
    let init = living_init(container)?;
    let sessions = Sessions::of(container, init)?;
    sessions.announce(options.exec_sessions, options.leave_running)?;
    cgroups::check_mode(options, init)?;
    let stdio = stdio::inspect(init, &container.state().external_descriptors, options.shell_job)?;
    descriptors::write(images_fd.as_fd(), &stdio.names)?;
    if exporter.is_none() {
        image_files::write(images_fd.as_fd(), image_files::CONFIG, &config.bytes)?;
    }
    let dump =
        Dump { container, config, options, images_fd, work_dir, status, custody, init, sessions, stdio };
    let (report, exporter) = dump.run((started, mounts), exporter, &mut journal)?;
    let memory = exporter.as_ref().and_then(|exporter| exporter.memory).unwrap_or(0);
    let finished = exporter.map(|exporter| exporter.finish(Some(dump.log_dir()))).transpose()?;
    let archive_bytes = finished.or(report.archive_bytes);
    Ok(CheckpointReport { images_bytes: images.size()?.saturating_add(memory), archive_bytes, ..report })
}

/// Its first process, which must not be on its way out.
fn living_init(container: &Container) -> Result<InitProcess> {
    let ended = || Error::new(ErrorKind::WrongStatus, "the container has ended");
    let init = container.init().ok_or_else(ended)?;
    let stat = sys::proc::Stat::of(init.pid()).map_err(|e| ended().with_source(e))?;
    if stat.exiting() {
        let message = format!("the container is ending: its first process {} is on its way out", init.pid);
        return Err(Error::new(ErrorKind::WrongStatus, message));
    }
    Ok(init)
}

/// What a dump is made from.
struct Dump<'a> {
    container: &'a Container,
    config: &'a Config,
    options: &'a CheckpointOptions,
    images_fd: OwnedFd,
    work_dir: Option<OwnedFd>,
    status: Status,
    custody: &'a Custody,
    init: InitProcess,
    sessions: Sessions,
    stdio: Stdio,
}

impl Dump<'_> {
    /// Runs CRIU, and writes the archive while it holds the processes; the memory while it dumps it, if there is a socket for it.
    fn run<'p>(
        &self,
        (started, mounts): (Started, &PrivateMounts),
        exporter: Option<Exporter<'p>>,
        journal: &mut Journal,
    ) -> Result<(CheckpointReport, Option<Exporter<'p>>)> {
        let Started { criu, socket, mut unasked } = started;
        // Both while CRIU starts.
        let network = self.container.survey_network(self.config, self.init, lock_table::PREFIX)?;
        let external_mounts = externals::mounts(
            self.container,
            self.config,
            self.init,
            &self.options.external,
            self.images_fd.as_fd(),
        )?;
        let mut client = criu.ready()?;
        journal.criu = Some(InitProcess::of(nix::unistd::Pid::from_raw(client.pid()))?);
        journal.lazy_port = self.options.memory.lazy_port();
        journal.save(self.container)?;
        client.reuse_kernel_facts(mounts);
        preflight::require_sockets_dumpable(client.version(), Kernel::running(), || {
            sys::proc::has_inet_sockets(self.init.pid())
        })?;
        let memory = &self.options.memory;
        memory.check_kernel(&mut client, memory.parent_path.is_some())?;
        let freezer = Freezer::prepare(self.container, self.status)?;
        let version = client.version();
        let saved = network.as_ref().map(NetworkSurvey::saved);
        let mut request = options::dump_request(self, external_mounts, saved, &freezer, version)?;
        rescue::note_lock(self, journal, request.options.network_lock)?;
        if let Some(unasked) = &mut unasked {
            request.lazy_pages = true;
            request.options.config_file = Some(unasked.say(version)?);
        }
        let socket = socket.and_then(|socket| socket.suits(version));
        if let Some(socket) = &socket {
            request.page_server = Some(PageServer::Socket(socket.criu));
        }
        std::thread::scope(|scope| {
            let (receiving, exporter) = match (socket, exporter) {
                (Some(socket), Some(exporter)) => {
                    let images = self.images_fd.as_fd();
                    (Some(Receiving::begin(scope, socket, exporter, images, version)?), None)
                }
                (_, exporter) => (None, exporter),
            };
            let mut hold = Hold {
                dump: self,
                network,
                freezer: &freezer,
                seizing: false,
                killing: false,
                receiving,
                exporter,
                journal,
                version,
                lazy: LazyWait::new(memory, self.options.timeout),
                stopped: None,
                handed_over: None,
            };
            let dumped = client.dump(&request, &mut hold);
            let gave_up = hold.lazy.gave_up();
            let Hold { receiving, exporter, handed_over, .. } = hold;
            if self.custody.fate() == Fate::Ended {
                if self.container.is_fenced() {
                    // It runs elsewhere: no restore on this host will remove CRIU's lock.
                    rescue::unlock(self.container, journal)?;
                }
                // Whatever CRIU makes of it.
                let stats =
                    dumped.inspect_err(|e| tracing::debug!(error = e.chain(), "after the hand-over")).ok();
                let (archive_bytes, stood_still) = handed_over.unzip();
                let report = CheckpointReport {
                    stats: stats.as_ref().and_then(|dumped| dumped.stats),
                    stood_still,
                    archive_bytes,
                    ..CheckpointReport::default()
                };
                return Ok((report, None));
            }
            let dumped = dumped.map_err(|error| {
                if let Some(reason) = gave_up {
                    return reason;
                }
                let error = match receiving {
                    Some(receiving) => receiving.reason(error),
                    None => error,
                };
                explained(error, || {
                    failure::context(self.container, self.config, self.options, self.images_fd.as_fd())
                })
            })?;
            let report = CheckpointReport {
                stats: dumped.stats,
                stood_still: Some(dumped.stood_still),
                ..CheckpointReport::default()
            };
            Ok((report, exporter))
        })
    }

    /// Where CRIU's log and statistics are.
    fn log_dir(&self) -> BorrowedFd<'_> {
        self.work_dir.as_ref().unwrap_or(&self.images_fd).as_fd()
    }
}

/// Where CRIU's log and statistics go when the images are only for the way: they outlive a failure.
fn log_dir(container: &Container) -> PathBuf {
    container.dir().join("criu")
}

/// After success: the container is gone or goes on, and what was only needed on the way is removed.
fn conclude(container: &Container, options: &CheckpointOptions, images: &ImagesDir) -> Result<()> {
    images.discard()?;
    match options.leave_running {
        LeaveRunning::Yes | LeaveRunning::Paused => Journal::remove(container),
        LeaveRunning::No => destroy(container),
    }
}

/// Removes a container that is in its images now. That one of its hooks fails after that changes nothing.
fn destroy(container: &Container) -> Result<()> {
    match container.destroy() {
        Err(error) if error.kind() == ErrorKind::HookFailed => {
            tracing::warn!(id = %container.id(), error = error.chain(), "hook after the container's end");
            Ok(())
        }
        other => other,
    }
}

/// Completes the archive of a checkpoint whose images are complete.
fn finish_export(
    container: &Container,
    mut journal: Journal,
    options: &ArchiveOptions,
    export: Export,
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    reclaim(container, &mut journal)?;
    let images = ImagesDir::of(&journal);
    let images_fd = open_dir(&images.path)?;
    let logs = open_work_dir(&log_dir(container))?;
    let config = container.config()?;
    let mut exporter = Exporter::begin(export, options, container, &config, progress, |partial| {
        journal.set_partial(partial, container)
    })?;
    exporter.images_and_rootfs(container, images_fd.as_fd(), None)?;
    let archive_bytes = Some(exporter.finish(Some(logs.as_fd()))?);
    let stats = DumpStats::read(logs.as_fd()).ok();
    let stood_still = stats.map(|stats| stats.stood_still());
    let report = CheckpointReport { images_bytes: images.size()?, archive_bytes, stats, stood_still };
    images.discard()?;
    destroy(container)?;
    Ok(report)
}
