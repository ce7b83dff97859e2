// SPDX-License-Identifier: Apache-2.0
//! What is written down of a container: facts that cannot be derived from the running system. The status is not
//! among them.
//!
//! One directory a container, `<state root>/<id>`:
//!
//! | file | content |
//! | --- | --- |
//! | `state.json` | [`State`], replaced by rename |
//! | `config.json` | the configuration as it was at create, byte for byte, until `update` puts other limits into it |
//! | `exec.fifo` | only while the container is created and not started |
//! | `bundle/` | only when the container owns its bundle (a restore from an archive) |
//!
//! The files are not fsynced: the state root is on a file system that does not outlive the boot, and neither do the
//! processes that the files speak of.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::intel_rdt::RdtGroups;
use super::network::NetworkState;
use super::ownership::Ownership;
use super::resuming::Resuming;
use super::rootfs::host::HostMount;
use crate::cgroup::{CgroupState, Unit};
use crate::sys::proc::Stat;
use crate::{Context, Error, ErrorKind, Result, sys};

/// The version of `state.json` that this program writes for a container of this host's.
const SCHEMA: u32 = 1;

/// The version for one that is handed over: what programs do that know nothing of it must not be done.
const SCHEMA_OF_OTHERS: u32 = 2;

/// The file of the record.
pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";

/// One process for ever: the pid, and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProcess {
    /// The pid on the host.
    #[serde(rename = "init_process_pid")]
    pub pid: i32,
    /// The start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    #[serde(rename = "init_process_start")]
    pub start_time: u64,
}

impl InitProcess {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: Pid) -> Result<Self> {
        let stat = Stat::of(pid).context(|| format!("read /proc/{pid}/stat"))?;
        Ok(Self { pid: pid.as_raw(), start_time: stat.start_time })
    }

    /// The pid, for calls that take one.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Whether this very process still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid()).is_ok_and(|stat| stat.start_time == self.start_time && !stat.ended())
    }
}

impl InitProcess {
    /// Waits for its end; whether it came in time.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait_ended(&self, time: Duration) -> Result<bool> {
        let pidfd = match sys::pidfd::open(self.pid()) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
            opened => opened.context(|| format!("pidfd_open({})", self.pid))?,
        };
        if !self.is_alive() {
            return Ok(true);
        }
        sys::pidfd::wait_ended(&pidfd, time).context(|| format!("wait for process {}", self.pid))
    }
}

/// The record of one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct State {
    /// The version of this record.
    pub schema: u32,
    /// The container's id.
    pub id: String,
    /// Its first process, once there is one.
    #[serde(flatten)]
    pub init: Option<InitProcess>,
    /// The command that makes it; when that has died without an init, the container never came to be.
    pub creator: Creator,
    /// When it was created or restored, RFC 3339 in UTC.
    pub created: String,
    /// The directory of its `config.json`.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// Whether the bundle goes with the container when it is deleted.
    pub owns_bundle: bool,
    /// What it has made outside of its directory and is not complete: it goes if the container does not come to be.
    pub unfinished: Vec<PathBuf>,
    /// For a container without a mount namespace: what is mounted at its root file system, to go with it.
    #[serde(default)]
    pub host_mount: Option<HostMount>,
    /// Networks that it was given, and the host's ends of their interfaces.
    #[serde(default)]
    pub network: NetworkState,
    /// Its cgroups.
    pub cgroup: CgroupState,
    /// The unit of systemd's that they belong to, if systemd has made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_unit: Option<Unit>,
    /// Its groups of `linux.intelRdt`.
    #[serde(default)]
    pub intel_rdt: RdtGroups,
    /// Where its namespaces are, by type, as long as init lives.
    pub namespace_paths: BTreeMap<String, PathBuf>,
    /// What its descriptors 0 to 2 were given as, which a restore must know (checkpoint's `descriptors.json`).
    pub external_descriptors: [String; 3],
    /// Whether the configuration's hooks may have run, so that those for its end must.
    #[serde(default)]
    pub poststop_due: bool,
    /// A restore that has not let its processes go yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resuming: Option<Resuming>,
    /// Whether its processes keep the session keyring of whoever starts them.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Who has the right to it.
    #[serde(default, skip_serializing_if = "Ownership::is_here")]
    pub ownership: Ownership,
    /// Annotations of the configuration.
    pub annotations: BTreeMap<String, String>,
}

/// The command that makes a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// Its pid on the host.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_time: u64,
}

impl Creator {
    /// This process.
    pub(crate) fn this() -> Result<Self> {
        let InitProcess { pid, start_time } = InitProcess::of(Pid::this())?;
        Ok(Self { pid, start_time })
    }

    /// Whether the command is still at work.
    pub fn is_alive(self) -> bool {
        InitProcess { pid: self.pid, start_time: self.start_time }.is_alive()
    }
}

impl State {
    /// The version that is written into new records.
    pub(crate) const fn schema() -> u32 {
        SCHEMA
    }

    /// Reads the record in a container's directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a record; an error that names the field for a damaged one.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, format!("{} is missing", path.display())));
            }
            Err(e) => return Err(e).context(|| format!("read {}", path.display())),
        };
        // What knows the field that is wrong is large: it is for those that are.
        let field_by_field =
            || serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&bytes));
        let state: Self = serde_json::from_slice(&bytes).or_else(|_| field_by_field()).map_err(|e| {
            let message = format!("{} is damaged at `{}`", path.display(), e.path());
            Error::new(ErrorKind::System, message).with_source(e.into_inner())
        })?;
        if !(SCHEMA..=SCHEMA_OF_OTHERS).contains(&state.schema) {
            let message = format!(
                "{} has schema {}, this program knows {SCHEMA} to {SCHEMA_OF_OTHERS}",
                path.display(),
                state.schema
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(state)
    }

    /// Whether two records are of one container: an id can be used again.
    pub(super) fn is_of_the_same(&self, earlier: &Self) -> bool {
        self.creator == earlier.creator && (earlier.init.is_none() || self.init == earlier.init)
    }

    /// Writes the record: a reader sees the old one or the new one, never half of one.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let schema = if self.ownership.is_here() { SCHEMA } else { SCHEMA_OF_OTHERS };
        let bytes = serde_json::to_vec(&Self { schema, ..self.clone() })
            .context(|| "serialise the container's state")?;
        replace_file(&dir.join(STATE), &bytes)
    }
}

/// Keeps the configuration as it was at create.
pub(crate) fn save_config(dir: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(&dir.join(CONFIG), bytes)
}

/// The configuration as it was at create.
pub(crate) fn load_config(dir: &Path) -> Result<crate::spec::Config> {
    crate::spec::Config::load(dir)
}

/// Writes a small file under a temporary name beside it and renames it into place.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    write().context(|| format!("write {}", path.display()))
}

/// A file of JSON that may not be there.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.context(|| format!("read {}", path.display()))?,
    };
    serde_json::from_slice(&bytes).map(Some).context(|| format!("understand {}", path.display()))
}

/// Removes a file that may not be there.
pub(crate) fn remove_record(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(creator: i32, init: Option<i32>) -> State {
        State {
            resuming: None,
            schema: SCHEMA,
            id: "web".to_owned(),
            init: init.map(|pid| InitProcess { pid, start_time: 1 }),
            creator: Creator { pid: creator, start_time: 1 },
            created: String::new(),
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            owns_bundle: false,
            unfinished: Vec::new(),
            host_mount: None,
            network: NetworkState::default(),
            cgroup: CgroupState::default(),
            cgroup_unit: None,
            intel_rdt: RdtGroups::default(),
            namespace_paths: BTreeMap::new(),
            external_descriptors: Default::default(),
            poststop_due: false,
            no_new_keyring: false,
            ownership: Ownership::Here,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_tells_its_container_from_a_later_one_of_the_same_id() {
        assert!(record(7, None).is_of_the_same(&record(7, None)));
        assert!(record(7, Some(8)).is_of_the_same(&record(7, None)), "it came to be meanwhile");
        assert!(!record(9, None).is_of_the_same(&record(7, None)));
        assert!(!record(9, Some(8)).is_of_the_same(&record(7, Some(8))));
        assert!(!record(7, Some(9)).is_of_the_same(&record(7, Some(8))), "one program made both");
    }
}
