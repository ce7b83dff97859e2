// SPDX-License-Identifier: Apache-2.0
//! The caller's part while CRIU holds the processes: what is written then, and what is said when CRIU is silent. Must not know how the
//! dump was begun, nor what follows it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::export::Exporter;
use super::freezer::{self, Freezer};
use super::journal::{Journal, Phase};
use super::lazy::LazyWait;
use super::reclaim::note_memory;
use super::sessions::Sessions;
use super::straight::Receiving;
use super::{Dump, LeaveRunning, cgroups, rescue};
use crate::criu::{Notify, Version, lock_table};
use crate::engine::{NetworkSurvey, SavedThreads};
use crate::{Context, Error, ErrorKind, Result};

/// After so long it is told why processes that CRIU has killed have not ended.
const KILLING: Duration = Duration::from_secs(3);

/// What happens while CRIU holds the processes.
pub(super) struct Hold<'a, 'scope, 'p> {
    pub(super) dump: &'a Dump<'a>,
    pub(super) network: Option<NetworkSurvey>,
    pub(super) freezer: &'a Freezer,
    /// Whether CRIU is stopping the processes.
    pub(super) seizing: bool,
    /// Whether CRIU is killing the processes, and nobody has been told what keeps them.
    pub(super) killing: bool,
    /// Whoever takes the memory has the exporter.
    pub(super) receiving: Option<Receiving<'scope, 'p>>,
    pub(super) exporter: Option<Exporter<'p>>,
    pub(super) journal: &'a mut Journal,
    pub(super) version: Version,
    pub(super) lazy: LazyWait<'a>,
    /// When CRIU began to stop the processes.
    pub(super) stopped: Option<Instant>,
    /// Bytes of the archive that somebody has taken over, and how long the processes had stood still when that was over.
    pub(super) handed_over: Option<(u64, Duration)>,
}

impl<'scope, 'p: 'scope> Notify for Hold<'_, 'scope, 'p> {
    fn pre_dump(&mut self) -> Result<()> {
        self.seizing = true;
        self.stopped = Some(Instant::now());
        self.lazy.require_patience()
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
        let roused = (self.seizing && self.freezer.is_given()).then_some(freezer::PATIENCE);
        let killing = self.killing.then_some(KILLING);
        roused.or_else(|| self.lazy.patience()).or(killing)
    }

    fn silence(&mut self, _how_long: Duration) {
        if self.seizing {
            self.freezer.rouse();
        }
        self.lazy.look();
        if std::mem::take(&mut self.killing) {
            let init = self.dump.init;
            tracing::warn!(
                "the checkpoint is complete, but process {} has not ended {} s after criu killed it: {}",
                init.pid,
                KILLING.as_secs(),
                init.why_it_stays()
            );
        }
    }

    fn post_dump(&mut self) -> Result<()> {
        self.lazy.require_patience()?;
        if let Some(receiving) = self.receiving.take() {
            self.exporter = Some(receiving.end()?);
        }
        let Dump { container, config, images_fd, options, init, sessions, .. } = self.dump;
        let is_for_peer = self.exporter.as_ref().is_some_and(Exporter::is_for_peer);
        if self.exporter.as_ref().is_some_and(Exporter::is_taken_over) {
            if !is_for_peer {
                // No other host has it: after a kill here the next command lets it go on.
                self.journal.mending = true;
                self.journal.save(container)?;
            }
            // They are held by ptrace now, and by the freezer, whoever dies.
            container.cgroup()?.freeze()?;
        }
        if let Some(network) = self.network.take() {
            let network = container.survey_network_again(network, config, *init, lock_table::PREFIX)?;
            network.write(images_fd.as_fd())?;
        }
        if is_for_peer {
            // CRIU's own lock ends with CRIU.
            container.raise_fence(options.addresses_leave)?;
        }
        let late = Sessions::of(container, *init)?.since(sessions);
        late.announce(options.exec_sessions, options.leave_running)?;
        cgroups::write(container, config, options, images_fd.as_fd())?;
        SavedThreads::of(&container.cgroup()?)?.write(images_fd.as_fd())?;
        if let Some(exporter) = &mut self.exporter {
            let version = Some(self.version);
            let written = rescue::watching(container, self.journal, || {
                exporter.rest_of_memory(container, images_fd.as_fd())?;
                exporter.images_and_rootfs(container, images_fd.as_fd(), version)
            });
            written.unwrap_or_else(|| {
                let message =
                    "criu ended while it held the processes: the archive would not be of one moment";
                Err(Error::new(ErrorKind::CriuFailed, message))
            })?;
        }
        if let Some(decide) = self.exporter.as_mut().and_then(Exporter::take_decide) {
            let bytes = self.exporter.take().map(|exporter| exporter.finish(None)).transpose()?;
            let ended = self.dump.custody.end(container, decide);
            self.handed_over = bytes.zip(self.stopped.map(|stopped| stopped.elapsed()));
            return ended;
        }
        if options.leave_running == LeaveRunning::No {
            // From the answer on CRIU kills the processes: whoever comes after us must know what the images are.
            if let Some(exporter) = &mut self.exporter {
                note_memory(container, self.journal, exporter)?;
            }
            self.journal.phase = Phase::Dumped;
            self.journal.save(container)?;
            self.killing = !options.memory.lazy_pages;
        }
        if options.leave_running == LeaveRunning::Paused {
            // They are held by ptrace now, and by the freezer when CRIU lets go.
            container.cgroup()?.freeze()?;
        }
        Ok(())
    }

    fn status_ready(&mut self) -> Result<()> {
        self.lazy.begin();
        let Some(fd) = &self.dump.options.memory.status_fd else { return Ok(()) };
        nix::unistd::write(fd, &[0]).map(drop).context(|| "write to the descriptor of --status-fd")
    }
}
