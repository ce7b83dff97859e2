// SPDX-License-Identifier: Apache-2.0
//! The source half: from a running container to CRIU's images, and on into one file.
//!
//! ```text
//!  preflight ─▶ criu dump ─▶ [held in post-dump: archive written] ─▶ killed or running ─▶ statistics, index, rename
//! ```
//!
//! CRIU holds the processes still until `post-dump` is answered. An export writes everything that can fail in that
//! hold: a full disk or a reader that went away then lets the container run on. It does not know how a restore
//! works, nor is it used by it.

mod cgroups;
mod export;
mod externals;
mod failure;
mod freezer;
mod images;
mod journal;
mod memory;
mod namespaces;
mod options;
mod pre_dump;
mod preflight;
mod programs;
mod rescue;
mod sessions;
mod stdio;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use journal::settle;
pub use memory::MemoryOptions;
pub use options::{CheckpointOptions, ExecSessions, Export, LeaveRunning};
pub use pre_dump::pre_dump;

use crate::archive::Progress;
use crate::criu::{
    Criu, CriuClient, DumpStats, Kernel, Notify, SpawnOptions, Version, check_inet_sockets, lock_table,
    require_root,
};
use crate::diagnose::explained;
use crate::engine::{
    Container, InitProcess, SavedNetwork, SavedThreads, Status, TakenDevices, descriptors, image_files,
};
use crate::spec::Config;
use crate::sys::namespace::in_private_mount_namespace;
use crate::{Context, Error, ErrorKind, Result, sys};
use export::Exporter;
use freezer::Freezer;
use images::{ImagesDir, open_dir, open_work_dir};
use journal::{Journal, Phase};
use sessions::Sessions;
use stdio::Stdio;

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
        return finish_export(container, &journal, export, progress);
    }
    require_complete(options, export.as_ref())?;
    let Ready { status, config, criu } = ready(container, options)?;
    namespaces::require_restorable(&config)?;
    if !options.no_check {
        preflight::require_dumpable(container, &config, options)?;
    }
    let images = ImagesDir::choose(container, options, export.as_ref())?;
    options.memory.check(&images.path)?;
    let devices = container.init().map(|init| container.taken_devices(&config, init)).transpose()?.flatten();
    let dumped = attempt(container, options, &criu, &images, export, status, progress);
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
        Err(error) => Err(match journal::clear_up(container) {
            Ok(None) => explain_end(container, error).with_cleanup(paused.err()),
            // CRIU has killed the processes: the images are all there is of them.
            Ok(Some(journal)) => {
                give_back(devices);
                error.with_hint(format!(
                    "the processes were checkpointed and have ended; the images are complete in {}: export again, or \
                     restore with --image-path",
                    journal.images.display()
                ))
            }
            // Better too much is kept than too little.
            Err(failed) => error.with_cleanup([failed]),
        }),
    }
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
    criu: &Criu,
    images: &ImagesDir,
    export: Option<Export>,
    status: Status,
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    let config = &container.config()?;
    let mut journal = Journal::new(images);
    journal.save(container)?;
    let exporter = export
        .map(|export| {
            Exporter::begin(export, container, config, |partial| journal.set_partial(partial, container))
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
    let dump = Dump { container, config, options, images_fd, work_dir, status, init, sessions, stdio };
    let (report, exporter) = dump.run(criu, exporter, &mut journal, progress)?;
    let archive_bytes = exporter.map(|exporter| exporter.finish(dump.log_dir())).transpose()?;
    Ok(CheckpointReport { images_bytes: images.size()?, archive_bytes, ..report })
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
    init: InitProcess,
    sessions: Sessions,
    stdio: Stdio,
}

impl Dump<'_> {
    /// Runs CRIU, and writes the archive while it holds the processes.
    fn run(
        &self,
        criu: &Criu,
        exporter: Option<Exporter>,
        journal: &mut Journal,
        progress: &mut (dyn Progress + Send),
    ) -> Result<(CheckpointReport, Option<Exporter>)> {
        // CRIU's own temporary mounts stay in a mount namespace that nobody else sees.
        in_private_mount_namespace(move |mounts| {
            let (mut client, mut network) = self.begin(criu)?;
            journal.criu = Some(InitProcess::of(nix::unistd::Pid::from_raw(client.pid()))?);
            journal.save(self.container)?;
            client.reuse_kernel_facts(mounts);
            if sys::proc::has_inet_sockets(self.init.pid()).context(|| "read the container's sockets")? {
                check_inet_sockets(client.version(), Kernel::running())?;
            }
            let memory = &self.options.memory;
            memory.check_kernel(&mut client, memory.parent_path.is_some())?;
            let freezer = Freezer::prepare(self.container, self.status)?;
            let request = options::dump_request(self, network.as_ref(), &freezer, client.version())?;
            rescue::note_lock(self, journal, request.options.network_lock)?;
            let mut hold = Hold {
                dump: self,
                network: network.as_mut(),
                freezer: &freezer,
                seizing: false,
                exporter,
                journal,
                progress,
                version: client.version(),
            };
            let dumped = client.dump(&request, &mut hold);
            let dumped = dumped.map_err(|error| {
                explained(error, || {
                    failure::context(self.container, self.config, self.options, self.images_fd.as_fd())
                })
            })?;
            let report = CheckpointReport {
                stats: dumped.stats,
                stood_still: Some(dumped.stood_still),
                ..CheckpointReport::default()
            };
            Ok((report, hold.exporter))
        })
        .context(|| "make a private mount namespace for criu")?
    }

    /// Starts CRIU, and looks at the container's network in the time that this takes.
    fn begin(&self, criu: &Criu) -> Result<(CriuClient, Option<SavedNetwork>)> {
        let programs = self.options.tar.as_deref().map(|tar| programs::with_tar(self.container, tar));
        let spawn = SpawnOptions::default()
            .programs(programs.transpose()?)
            .namespaces(namespaces::around_criu(self.config, self.init)?);
        std::thread::scope(|scope| {
            let survey =
                scope.spawn(|| self.container.survey_network(self.config, self.init, lock_table::PREFIX));
            // From this thread, which has the mounts that CRIU is to see.
            let client = CriuClient::spawn(criu, spawn);
            let network = survey.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((client?, network?))
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
    journal: &Journal,
    export: Export,
    progress: &mut (dyn Progress + Send),
) -> Result<CheckpointReport> {
    let images = ImagesDir::of(journal);
    let images_fd = open_dir(&images.path)?;
    let logs = open_work_dir(&log_dir(container))?;
    let mut journal = journal.clone();
    let mut exporter = Exporter::begin(export, container, container.config()?.as_ref(), |partial| {
        journal.set_partial(partial, container)
    })?;
    exporter.images_and_rootfs(container, images_fd.as_fd(), None, progress)?;
    let archive_bytes = Some(exporter.finish(logs.as_fd())?);
    let stats = DumpStats::read(logs.as_fd()).ok();
    let stood_still = stats.map(|stats| stats.stood_still());
    let report = CheckpointReport { images_bytes: images.size()?, archive_bytes, stats, stood_still };
    images.discard()?;
    destroy(container)?;
    Ok(report)
}

/// What happens while CRIU holds the processes.
struct Hold<'a> {
    dump: &'a Dump<'a>,
    network: Option<&'a mut SavedNetwork>,
    freezer: &'a Freezer,
    /// Whether CRIU is stopping the processes.
    seizing: bool,
    exporter: Option<Exporter>,
    journal: &'a mut Journal,
    progress: &'a mut (dyn Progress + Send),
    version: Version,
}

impl Notify for Hold<'_> {
    fn pre_dump(&mut self) -> Result<()> {
        self.seizing = true;
        Ok(())
    }

    fn network_lock(&mut self) -> Result<()> {
        self.seizing = false;
        Ok(())
    }

    fn query_external(&mut self) -> Result<Vec<String>> {
        self.seizing = false;
        Ok(Vec::new())
    }

    fn patience(&self) -> Option<Duration> {
        (self.seizing && self.freezer.is_given()).then_some(freezer::PATIENCE)
    }

    fn silence(&mut self, _how_long: Duration) {
        self.freezer.rouse();
    }

    fn post_dump(&mut self) -> Result<()> {
        let Dump { container, config, images_fd, options, init, sessions, .. } = self.dump;
        if let Some(network) = &mut self.network {
            container.survey_network_again(network, config, *init, lock_table::PREFIX)?;
            network.write(images_fd.as_fd())?;
        }
        let late = Sessions::of(container, *init)?.since(sessions);
        late.announce(options.exec_sessions, options.leave_running)?;
        cgroups::write(container, config, options, images_fd.as_fd())?;
        SavedThreads::of(&container.cgroup()?)?.write(images_fd.as_fd())?;
        if let Some(exporter) = &mut self.exporter {
            let (version, progress) = (Some(self.version), &mut *self.progress);
            let written = rescue::watching(container, self.journal, || {
                exporter.images_and_rootfs(container, images_fd.as_fd(), version, progress)
            });
            written.unwrap_or_else(|| {
                let message =
                    "criu ended while it held the processes: the archive would not be of one moment";
                Err(Error::new(ErrorKind::CriuFailed, message))
            })?;
        }
        if options.leave_running == LeaveRunning::No {
            // From the answer on CRIU kills the processes: whoever comes after us must know what the images are.
            self.journal.phase = Phase::Dumped;
            self.journal.save(container)?;
        }
        if options.leave_running == LeaveRunning::Paused {
            // They are held by ptrace now, and by the freezer when CRIU lets go.
            container.cgroup()?.freeze()?;
        }
        Ok(())
    }

    fn status_ready(&mut self) -> Result<()> {
        let Some(fd) = &self.dump.options.memory.status_fd else { return Ok(()) };
        nix::unistd::write(fd, &[0]).map(drop).context(|| "write to the descriptor of --status-fd")
    }
}
