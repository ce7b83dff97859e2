// SPDX-License-Identifier: Apache-2.0
//! One CRIU process and one operation with it.
//!
//! CRIU is started as `criu swrk 3`, in a session of its own and without a parent-death signal, so that it ends its
//! work in order when we die: killed between the infection of the first task and the end of a dump, it would leave
//! tasks dead, TCP sockets in repair mode and firewall rules behind. For the same reason nothing here ever sends it
//! `SIGKILL`: a client that is given up closes its end of the connection, on which CRIU fails by itself, and waits.
//!
//! CRIU reaches the directories of a request as `/proc/<our pid>/fd/N`: they need not be inherited but must stay open
//! until it has answered, which the borrows in the requests see to.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::WaitStatus;
use protobuf::MessageField;
use rust_criu::rust_criu_protobuf::rpc::{Criu_features, Criu_opts, Criu_req, Criu_req_type, Criu_resp};

use super::failure::{End, Failure};
use super::find::search_path;
use super::image::DumpStats;
use super::kerndat;
use super::log::{self, Job};
use super::notify::{Notify, Silent};
use super::request::{InheritedFd, Options};
use super::rpc::{Connection, Init, Outcome, Reply};
use super::version::{self, Kernel, Version};
use super::{Criu, DumpRequest, RestoreRequest};
use crate::sys::fd::above_stdio;
use crate::sys::namespace::PrivateMounts;
use crate::sys::swrk::{self, Launch, Place, Worker};
use crate::sys::{pidfd, seqpacket};
use crate::{Context, Error, ErrorKind, Result};

pub use crate::sys::swrk::Session;

/// The variable with the directory of the programs that CRIU was given: [`SpawnOptions::programs`].
pub const PROGRAMS: &str = "MIGRATE_CRIU_PROGRAMS";

/// CRIU's standard streams. In a restore they are what inherited pipes and streams are made from.
#[derive(Debug, Default)]
pub enum Stdio {
    /// `/dev/null`; what CRIU prints to its standard error is kept for an error message.
    #[default]
    Null,
    /// Ours.
    Inherit,
    /// These: input, output, error.
    Given([OwnedFd; 3]),
}

/// How CRIU is started.
#[derive(Debug, Default)]
pub struct SpawnOptions {
    stdio: Stdio,
    session: Session,
    inherited: Vec<OwnedFd>,
    cgroup: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
    cgroup_namespace: bool,
    namespaces: Vec<(OwnedFd, CloneFlags)>,
    programs: Option<PathBuf>,
}

impl SpawnOptions {
    /// With a directory of programs that it finds before all others, such as a `tar`. They are told the directory in
    /// [`PROGRAMS`].
    #[must_use]
    pub fn programs(mut self, directory: Option<PathBuf>) -> Self {
        self.programs = directory;
        self
    }

    /// With these standard streams.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }

    /// In this session. Only a restore of a job of our own terminal needs another than CRIU's own.
    #[must_use]
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// In these cgroups: a v2 directory, and the `tasks` files of v1 directories. Restored tasks are in them too
    /// unless CRIU manages cgroups. With `namespace`, also in a cgroup namespace that is rooted there.
    #[must_use]
    pub fn cgroup(mut self, unified: Option<OwnedFd>, tasks: Vec<OwnedFd>, namespace: bool) -> Self {
        (self.cgroup, self.tasks, self.cgroup_namespace) = (unified, tasks, namespace);
        self
    }

    /// In these namespaces. Tasks that are in the same ones are dumped without them, and restored into them.
    #[must_use]
    pub fn namespaces(mut self, namespaces: Vec<(OwnedFd, CloneFlags)>) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// Gives CRIU a descriptor and tells its number there; our copy is closed once CRIU has it.
    ///
    /// # Errors
    /// When it cannot be duplicated.
    pub fn inherit(&mut self, fd: BorrowedFd<'_>) -> Result<InheritedFd> {
        let fd = above_stdio(fd).context(|| "duplicate a descriptor for criu")?;
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        Ok(InheritedFd(number))
    }
}

/// What the running kernel lets this CRIU do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Tracks changes of memory: pre-dumps work.
    pub memory_tracking: bool,
    /// Serves memory after the restore.
    pub lazy_pages: bool,
    /// Recognises a process whose id was used again between two pre-dumps.
    pub pidfd_store: bool,
}

/// What a dump left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dumped {
    /// What it cost; `None` if CRIU left no readable statistics, which fails no dump.
    pub stats: Option<DumpStats>,
    /// How long the tasks stood still; where CRIU does not tell, how long it worked, which is more.
    pub stood_still: Duration,
}

impl Dumped {
    fn of(stats: Option<DumpStats>, worked: Duration) -> Self {
        let told = stats.filter(|_| worked < DumpStats::LONGEST).map(|stats| stats.stood_still());
        // Of a dump that leaves memory where it is CRIU 4.2 was seen to tell most of an hour after two seconds.
        let stood_still = told.filter(|told| *told <= worked).unwrap_or(worked);
        Self { stats, stood_still }
    }
}

/// A restored process tree, running.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The first process's id here.
    pub pid: i32,
    /// The same, safe to signal and to wait for.
    pub pidfd: OwnedFd,
}

/// A started CRIU of a checked version that waits for one operation. Dropping it ends it and waits for that.
#[derive(Debug)]
pub struct CriuClient {
    /// `None` once closed.
    connection: Option<Connection>,
    worker: Worker,
    criu: Criu,
    version: Version,
    /// CRIU's standard error, if it is kept.
    complaints: Option<File>,
}

/// A CRIU that was started and need not be up yet: what its caller does meanwhile takes no time of its own. Nothing was asked of
/// it, so that it ends by itself when its caller dies. Dropping it ends it and waits for that.
#[derive(Debug)]
pub struct StartingCriu(CriuClient);

impl StartingCriu {
    /// Waits for it and asks its version.
    ///
    /// # Errors
    /// `CriuUnusable`: it does not speak the protocol, or is too old for us or for the running kernel.
    pub fn ready(self) -> Result<CriuClient> {
        let Self(mut client) = self;
        client.version = client.ask_version()?;
        version::check(client.version, Kernel::running())?;
        Ok(client)
    }
}

impl CriuClient {
    /// Starts CRIU and asks its version; no other process is needed for the operation that follows.
    ///
    /// # Errors
    /// As [`CriuClient::start`] and [`StartingCriu::ready`].
    pub fn spawn(criu: &Criu, options: SpawnOptions) -> Result<Self> {
        Self::start(criu, options)?.ready()
    }

    /// Starts CRIU, which takes it some time to be up.
    ///
    /// # Errors
    /// `CriuUnusable`: it cannot be started.
    pub fn start(criu: &Criu, options: SpawnOptions) -> Result<StartingCriu> {
        let (ours, theirs) = seqpacket::pair().context(|| "make a socket pair for criu")?;
        let (worker, complaints) = launch(criu, &options, theirs.as_fd())
            .context_kind(ErrorKind::CriuUnusable, || format!("start {}", criu.path().display()))?;
        // From here on only CRIU has its end, and the processes that it makes.
        drop((theirs, options));
        let pidfd = pidfd::open(worker.pid()).context(|| format!("pidfd_open({})", worker.pid()))?;
        Ok(StartingCriu(Self {
            connection: Some(Connection::new(ours, pidfd)),
            worker,
            criu: criu.clone(),
            version: Version::new(0, 0, 0),
            complaints,
        }))
    }

    /// CRIU's process id, by which it can be put into a cgroup.
    pub fn pid(&self) -> i32 {
        self.worker.pid().as_raw()
    }

    /// CRIU's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Spares CRIU its probing of the kernel (some 70 ms) where it cannot keep the result by itself, because `/run`
    /// is not a tmpfs. CRIU must have been started from the thread that has these mounts. Without effect if that
    /// fails: CRIU probes then.
    pub fn reuse_kernel_facts(&self, mounts: &PrivateMounts) {
        // Another CRIU: one whose probing failed would be of no use any more.
        let probe = || Self::spawn(&self.criu, SpawnOptions::default())?.features().map(drop);
        if let Err(error) = kerndat::reuse(&self.criu, self.version, mounts, probe) {
            tracing::debug!(error = %error.chain(), "criu probes the kernel anew");
        }
    }

    /// Asks what CRIU can do here. It may probe the kernel for some 50 ms.
    ///
    /// # Errors
    /// `CriuFailed` if CRIU cannot tell.
    pub fn features(&mut self) -> Result<Features> {
        let mut wanted = Criu_features::new();
        wanted.set_mem_track(true);
        wanted.set_lazy_pages(true);
        wanted.set_pidfd_store(true);
        let mut request = Criu_req::new();
        request.set_type(Criu_req_type::FEATURE_CHECK);
        request.features = MessageField::some(wanted);
        request.set_keep_open(true);
        let reply = self.call(&request, &mut Silent);
        let response = self.successful(reply, None, || "ask criu for its features".to_owned())?;
        let found = response.features;
        Ok(Features {
            memory_tracking: found.mem_track(),
            lazy_pages: found.lazy_pages(),
            pidfd_store: found.pidfd_store(),
        })
    }

    /// Dumps a process tree. On `Err` the tasks run on, frozen only if their cgroup was frozen before; what state
    /// they are in after CRIU itself was killed ("criu was killed by …") nobody can promise.
    ///
    /// # Errors
    /// What a method of `notify` returned; `CriuFailed` with the reason from CRIU's log; `CriuUnusable` if the request
    /// needs a newer CRIU; `InvalidInput` for what cannot be asked.
    pub fn dump(mut self, request: &DumpRequest<'_>, notify: &mut dyn Notify) -> Result<Dumped> {
        let what = || format!("criu could not dump process {}", request.pid);
        let message = operation(Criu_req_type::DUMP, request.message()?);
        let began = Instant::now();
        self.operate(&message, &request.options, Job::Dump, notify, what)?;
        let worked = began.elapsed();
        let stats = DumpStats::read(request.options.log_dir())
            .inspect_err(|e| tracing::warn!(error = %e.chain(), "no statistics of the dump"));
        Ok(Dumped::of(stats.ok(), worked))
    }

    /// Writes the memory of a process tree that runs on.
    ///
    /// # Errors
    /// As [`CriuClient::dump`].
    pub fn pre_dump(mut self, request: &DumpRequest<'_>, notify: &mut dyn Notify) -> Result<Dumped> {
        let what = || format!("criu could not pre-dump process {}", request.pid);
        let message = operation(Criu_req_type::SINGLE_PRE_DUMP, request.message()?);
        let began = Instant::now();
        self.operate(&message, &request.options, Job::Dump, notify, what)?;
        Ok(Dumped::of(DumpStats::read(request.options.log_dir()).ok(), began.elapsed()))
    }

    /// Restores a process tree. A CRIU that dies once the processes run has done all of it. On `Err` nothing of it is left running
    /// but what CRIU had made when it was killed, all of which is in its cgroup.
    ///
    /// # Errors
    /// As [`CriuClient::dump`].
    pub fn restore(mut self, request: &RestoreRequest<'_>, notify: &mut dyn Notify) -> Result<Restored> {
        let what = || "criu could not restore the processes".to_owned();
        let message = operation(Criu_req_type::RESTORE, request.message()?);
        let init = self.operate(&message, &request.options, Job::Restore, notify, what)?;
        // Every version in use sends `post-restore`: without it no caller could have been told the pid in time.
        init.map(|Init { pid, pidfd }| Restored { pid, pidfd }).ok_or_else(|| {
            Error::new(ErrorKind::CriuFailed, "criu restored the processes without naming the first one")
        })
    }

    fn operate(
        &mut self,
        message: &Criu_req,
        options: &Options<'_>,
        job: Job,
        notify: &mut dyn Notify,
        what: impl Fn() -> String,
    ) -> Result<Option<Init>> {
        if let Some((needed, purpose)) = options.needs().filter(|(needed, _)| self.version < *needed) {
            let message = format!("criu {} is too old {purpose}: that needs {needed} or newer", self.version);
            return Err(Error::new(ErrorKind::CriuUnusable, message));
        }
        // An older log of the same name must not be quoted if CRIU fails before it opens its own.
        match nix::unistd::unlinkat(
            options.log_dir(),
            options.log_file.as_str(),
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).context(|| format!("remove the old {}", options.log_file)),
        }
        let mut reply = self.call(message, notify);
        let init = reply.init.take();
        if reply.is_of_the_dead() {
            let error = self.died("criu ended after its last word".to_owned(), None);
            tracing::warn!(error = error.chain(), "the restored processes run all the same");
            return Ok(init);
        }
        self.successful(reply, Some((options, job)), what)?;
        self.finish();
        Ok(init)
    }

    fn ask_version(&mut self) -> Result<Version> {
        let criu = self.criu.clone();
        let mut request = Criu_req::new();
        request.set_type(Criu_req_type::VERSION);
        request.set_keep_open(true);
        let reply = self.call(&request, &mut Silent);
        let response = self
            .successful(reply, None, || format!("ask {} for its version", criu.path().display()))
            .map_err(|e| unusable(&criu, e))?;
        let found = response.version;
        Ok(Version::from_answer(
            found.major_number(),
            found.minor_number(),
            found.sublevel,
            found.gitid.as_deref(),
        ))
    }

    fn call(&mut self, request: &Criu_req, notify: &mut dyn Notify) -> Reply {
        match &mut self.connection {
            Some(connection) => connection.call(request, notify),
            None => Reply { outcome: Outcome::Closed, objection: None, init: None, resumed: false },
        }
    }

    /// The response if it says success, else the error that tells most.
    fn successful(
        &mut self,
        reply: Reply,
        operation: Option<(&Options<'_>, Job)>,
        what: impl Fn() -> String,
    ) -> Result<Criu_resp> {
        let refused = reply.objection.is_some();
        let failure = match reply.outcome {
            Outcome::Answered(response) if response.success() && !refused => return Ok(*response),
            Outcome::Answered(response) => {
                self.finish();
                // CRIU said no because we did: what it logs about that and about undoing its work is an echo.
                (!refused).then(|| {
                    let errno = response.cr_errno.filter(|errno| *errno != 0);
                    let said = response.cr_errmsg.clone().filter(|said| !said.is_empty());
                    failure(what(), End::Refused, said, errno, operation)
                })
            }
            Outcome::Closed => Some(self.died(what(), operation)),
            Outcome::Broken(error) => {
                self.finish();
                Some(Error::new(ErrorKind::CriuFailed, what()).with_source(error))
            }
        };
        Err(match (reply.objection, failure) {
            (Some(objection), failure) => objection.with_cleanup(failure),
            (None, Some(failure)) => failure,
            (None, None) => Error::new(ErrorKind::CriuFailed, what()),
        })
    }

    /// CRIU went away without an answer.
    fn died(&mut self, what: String, operation: Option<(&Options<'_>, Job)>) -> Error {
        let end = match self.finish() {
            Some(WaitStatus::Exited(_, code)) => End::Exited(code),
            Some(WaitStatus::Signaled(_, signal, _)) => End::Killed(signal),
            Some(_) | None => End::Gone,
        };
        failure(what, end, self.said(), None, operation)
    }

    /// The last thing that CRIU, or the loader of its libraries, printed.
    fn said(&mut self) -> Option<String> {
        let file = self.complaints.as_mut()?;
        let mut bytes = Vec::new();
        file.rewind().ok()?;
        file.take(4096).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(|line| line.escape_debug().to_string())
    }

    /// Ends the connection and reaps CRIU.
    fn finish(&mut self) -> Option<WaitStatus> {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        match self.worker.wait() {
            Ok(ended) => {
                // The answer decides about success: tasks are killed or run already when CRIU ends.
                tracing::debug!(?ended, "criu ended");
                Some(ended)
            }
            Err(e) => {
                tracing::warn!(error = %e, pid = self.pid(), "criu cannot be waited for");
                None
            }
        }
    }
}

impl Drop for CriuClient {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What to say of a program that does not answer as CRIU does: an old CRIU is called old, if it at least prints its
/// version.
fn unusable(criu: &Criu, error: Error) -> Error {
    let old = criu.ask_version().ok().and_then(|v| version::check(v, Kernel::running()).err());
    old.unwrap_or_else(|| {
        let message = format!("{} is not a criu that migrate can use", criu.path().display());
        Error::new(ErrorKind::CriuUnusable, message)
            .with_source(error)
            .with_hint("run scripts/setup, or pass --criu")
    })
}

impl Criu {
    /// The version that it prints when it is asked on its command line, which needs no rights.
    ///
    /// # Errors
    /// [`ErrorKind::CriuUnusable`] when it prints none; when it does not start.
    pub fn ask_version(&self) -> Result<Version> {
        let context = || format!("ask {} for its version", self.path().display());
        let mut command = process::Command::new(self.path());
        command.arg("--version").envs(environment(None)).stdin(process::Stdio::null());
        let output = command.output().context(context)?;
        Version::from_text(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| Error::new(ErrorKind::CriuUnusable, context()))
    }
}

fn launch(criu: &Criu, options: &SpawnOptions, socket: BorrowedFd<'_>) -> Result<(Worker, Option<File>)> {
    let null = File::options().read(true).write(true).open("/dev/null").context(|| "open /dev/null")?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let complaints = match &options.stdio {
        Stdio::Null => {
            let file =
                memfd_create(c"criu-stderr", MFdFlags::MFD_CLOEXEC).context(|| "make a memory file")?;
            Some(File::from(file))
        }
        Stdio::Inherit | Stdio::Given(_) => None,
    };
    let stdio = match &options.stdio {
        Stdio::Null => [null.as_fd(), null.as_fd(), complaints.as_ref().map_or(null.as_fd(), AsFd::as_fd)],
        Stdio::Inherit => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        Stdio::Given([input, output, error]) => [input.as_fd(), output.as_fd(), error.as_fd()],
    };
    let above = |fd: &BorrowedFd<'_>| above_stdio(*fd).context(|| "duplicate a descriptor for criu");
    let stdio = stdio.iter().map(above).collect::<Result<Vec<OwnedFd>>>()?;
    let fds: Vec<BorrowedFd<'_>> = options.inherited.iter().map(AsFd::as_fd).collect();
    let place = Place {
        cgroup: options.cgroup.as_ref().map(AsFd::as_fd),
        tasks: options.tasks.iter().map(AsFd::as_fd).collect(),
        join: options.namespaces.iter().map(|(fd, kind)| (fd.as_fd(), *kind)).collect(),
        namespaces: if options.cgroup_namespace { CloneFlags::CLONE_NEWCGROUP } else { CloneFlags::empty() },
    };
    let launch = Launch {
        program: criu.path(),
        args: &["swrk", "3"],
        env: environment(options.programs.as_deref()),
        session: options.session,
        stdio: [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()],
        third: Some(socket),
        fds: &fds,
        place,
    };
    let worker = swrk::spawn(&launch)?;
    Ok((worker, complaints))
}

/// Our environment with a complete `PATH`: CRIU starts `tar` and `iptables-restore` by name, and a container engine
/// that calls us may have set none.
fn environment(programs: Option<&Path>) -> Vec<(OsString, OsString)> {
    let mut path = programs.map(|programs| programs.as_os_str().to_owned()).unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(search_path());
    let mut env: Vec<_> =
        std::env::vars_os().filter(|(name, _)| name != "PATH" && name != PROGRAMS).collect();
    env.extend(programs.map(|programs| (PROGRAMS.into(), programs.into())));
    env.push(("PATH".into(), path));
    env
}

fn operation(kind: Criu_req_type, opts: Criu_opts) -> Criu_req {
    let mut request = Criu_req::new();
    request.set_type(kind);
    request.opts = MessageField::some(opts);
    request
}

/// The error of a CRIU that said no or went away: its log's first true error, else what its answer quotes, else its
/// error number.
fn failure(
    what: String,
    end: End,
    said: Option<String>,
    errno: Option<i32>,
    operation: Option<(&Options<'_>, Job)>,
) -> Error {
    let (log, log_path) = operation.map(|(options, _)| logged(options)).unwrap_or_default();
    let job = operation.map_or(Job::Dump, |(_, job)| job);
    let failure = Failure { job, end, log, log_path, said, errno };
    let kind = if failure.error().is_some_and(|error| error.is_about_storage()) {
        ErrorKind::Storage
    } else {
        ErrorKind::CriuFailed
    };
    let log_path = failure.log_path.clone();
    let error = Error::new(kind, what).with_source(failure);
    match log_path {
        Some(path) => error.with_hint(format!("criu's log is {}", path.display())),
        None => error,
    }
}

/// CRIU's log and where it is, if there is one.
fn logged(options: &Options<'_>) -> (Vec<u8>, Option<PathBuf>) {
    let log = log::read(options.log_dir(), &options.log_file)
        .inspect_err(|e| tracing::warn!(error = %e, "criu's log cannot be read"))
        .unwrap_or_default();
    let dir = std::fs::read_link(format!("/proc/self/fd/{}", options.log_dir().as_raw_fd()));
    let path = dir.ok().map(|dir| dir.join(&options.log_file)).filter(|path| path.exists());
    (log, path)
}
