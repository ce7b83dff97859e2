// SPDX-License-Identifier: Apache-2.0
//! Speaking with a manager of systemd's: the calls that a unit's life takes (org.freedesktop.systemd1(5)).
//!
//! The system's manager is asked through the system's bus or, where there is none, through its own socket; a user's
//! through the bus of the user's session. Must not know what a container is.

use std::path::{Path, PathBuf};

use super::bus::{Address, Connection, Failure, Message, Method, Value, parse_addresses};
use super::properties::Property;
use super::unit::Manager;
use crate::{Context, Error, ErrorKind, Result};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// What a job is called that has ended well.
const DONE: &str = "done";

/// A connection to a manager.
#[derive(Debug)]
pub(super) struct Systemd {
    connection: Connection,
    listening: bool,
}

impl Systemd {
    /// Connects to the manager.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when systemd does not run here; what was tried otherwise.
    pub(super) fn connect(manager: Manager) -> Result<Self> {
        if !is_running() {
            let message = "running systemd is needed for --systemd-cgroup: systemd not running on this host, \
                           cannot use systemd cgroups manager";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("leave --systemd-cgroup out: cgroups are then made without systemd"));
        }
        let (buses, own) = match manager {
            Manager::System => (system_buses(), Some(PathBuf::from("/run/systemd/private"))),
            Manager::User => (session_buses()?, runtime_directory().map(|dir| dir.join("systemd/private"))),
        };
        let buses = buses.into_iter().map(|address| (address, true));
        let own = own.into_iter().map(|path| (Address::Path(path), false));
        let mut failures = Vec::new();
        for (address, is_bus) in buses.chain(own) {
            let connected =
                if is_bus { Connection::to_bus(&address) } else { Connection::to_service(&address) };
            match connected {
                Ok(connection) => return Ok(Self::over(connection)),
                Err(error) => failures.push(error),
            }
        }
        let mut failures = failures.into_iter();
        let first = failures
            .next()
            .unwrap_or_else(|| Error::new(ErrorKind::NotFound, "no address of a D-Bus socket is usable"));
        let message = "running systemd is needed for --systemd-cgroup: it cannot be reached by D-Bus";
        Err(Error::new(first.kind(), message).with_source(first).with_cleanup(failures).with_hint(
            match manager {
                Manager::System => "is dbus installed and running? `systemctl status dbus.socket` tells",
                Manager::User => {
                    "DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR must lead to the bus of a session of yours"
                }
            },
        ))
    }

    /// Over a connection that is there.
    pub(super) fn over(connection: Connection) -> Self {
        Self { connection, listening: false }
    }

    /// Makes sure that a process has the same number here and there: processes go to units by their numbers, and a wrong
    /// one is another's process.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when it is otherwise.
    pub(super) fn require_same_pids(&self) -> Result<()> {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let is_same = match self.connection.peer()? {
            None => false,
            // Another user's process does not let itself be looked at.
            Some(peer) => {
                namespace(&peer.to_string()).is_none_or(|theirs| namespace("self").as_ref() == Some(&theirs))
            }
        };
        if is_same {
            return Ok(());
        }
        let message = "running systemd is needed for --systemd-cgroup: the one that answers is in another pid namespace";
        Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("run this where systemd runs, or leave --systemd-cgroup out"))
    }

    fn call(&mut self, member: &str, arguments: Vec<Value>) -> std::result::Result<Vec<Value>, Failure> {
        let method = Method { destination: SERVICE, path: OBJECT, interface: MANAGER, member };
        self.connection.call(method, arguments)
    }

    /// A property of the manager's that is text.
    fn property(&mut self, name: &str) -> Result<String> {
        let interface = "org.freedesktop.DBus.Properties";
        let method = Method { destination: SERVICE, path: OBJECT, interface, member: "Get" };
        let attempted = || format!("get systemd's property {name}");
        let got = self.connection.call(method, vec![Value::text(MANAGER), Value::text(name)]);
        let got = got.map_err(Error::from).context(attempted)?;
        let text = got.first().and_then(Value::as_text).map(str::to_owned);
        text.ok_or_else(|| Error::new(ErrorKind::System, "the answer is not text")).context(attempted)
    }

    /// The number of its version; 0, which is older than anything, if it cannot be made out.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) fn version(&mut self) -> Result<u32> {
        Ok(version_number(&self.property("Version")?))
    }

    /// The cgroup that all of its units are in.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) fn control_group(&mut self) -> Result<PathBuf> {
        let path = self.property("ControlGroup")?;
        Ok(PathBuf::from(path.trim_start_matches('/')))
    }

    /// Asks to be told of the ends of jobs.
    fn listen(&mut self) -> Result<()> {
        if self.listening {
            return Ok(());
        }
        let attempted = || "listen to systemd by D-Bus";
        let rule = format!(
            "type='signal',sender='{SERVICE}',path='{OBJECT}',interface='{MANAGER}',member='JobRemoved'"
        );
        self.connection.listen(&rule).map_err(Error::from).context(attempted)?;
        if self.connection.is_bus() {
            match self.call("Subscribe", Vec::new()) {
                Err(Failure::Refused { name, .. })
                    if name == "org.freedesktop.systemd1.AlreadySubscribed" => {}
                subscribed => drop(subscribed.map_err(Error::from).context(attempted)?),
            }
        }
        self.listening = true;
        Ok(())
    }

    /// How a job has ended.
    fn job_result(&mut self, job: &[Value]) -> Result<String> {
        let Some(Value::ObjectPath(job)) = job.first() else {
            return Err(Error::new(ErrorKind::System, "systemd has not answered with a job"));
        };
        self.connection
            .wait_for(|signal| result_of(signal, job))
            .context(|| format!("wait for the job {job}"))
    }

    /// Starts a unit that is not in any file, and waits until it runs. One that has failed before and has this name is
    /// forgotten first.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], or what systemd says.
    pub(super) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let attempted = || format!("unable to start unit {unit:?}");
        self.listen().context(attempted)?;
        let properties = Value::Array("(sv)".to_owned(), properties.iter().map(Property::to_value).collect());
        let none = Value::Array("(sa(sv))".to_owned(), Vec::new());
        let arguments = vec![Value::text(unit), Value::text("replace"), properties, none];
        let mut started = self.call("StartTransientUnit", arguments.clone());
        if is_refusal(&started, "org.freedesktop.systemd1.UnitExists") {
            self.forget(unit)?;
            started = self.call("StartTransientUnit", arguments);
        }
        let job = started.map_err(Error::from).context(attempted)?;
        let result = match self.job_result(&job) {
            Ok(result) if result == DONE => return Ok(()),
            Ok(result) => Err(Error::new(
                ErrorKind::System,
                format!("error creating systemd unit `{unit}`: got `{result}`"),
            )
            .with_hint(format!("`systemctl status {unit}` and `journalctl -u {unit}` may tell why"))),
            Err(error) => Err(error),
        };
        result.context(attempted).map_err(|error: Error| error.with_cleanup(self.forget(unit).err()))
    }

    /// Changes properties of a unit until the next boot.
    ///
    /// # Errors
    /// What systemd says; none is changed.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let properties = Value::Array("(sv)".to_owned(), properties.iter().map(Property::to_value).collect());
        let arguments = vec![Value::text(unit), Value::Bool(true), properties];
        let set = self.call("SetUnitProperties", arguments).map(drop);
        set.map_err(Error::from).context(|| format!("unable to set unit properties of {unit}"))
    }

    /// Stops a unit, and waits until that is done. That there is none is success.
    ///
    /// # Errors
    /// What systemd says.
    pub(super) fn stop(&mut self, unit: &str) -> Result<()> {
        let attempted = || format!("stop unit {unit}");
        self.listen().context(attempted)?;
        match self.call("StopUnit", vec![Value::text(unit), Value::text("replace")]) {
            Err(Failure::Refused { name, .. }) if name == "org.freedesktop.systemd1.NoSuchUnit" => {
                return Ok(());
            }
            stopped => {
                let job = stopped.map_err(Error::from).context(attempted)?;
                let result = self.job_result(&job).context(attempted)?;
                if result != DONE {
                    tracing::warn!(unit, result, "systemd has not stopped the unit");
                }
            }
        }
        self.forget(unit)
    }

    /// Lets systemd forget a unit that has failed; that there is none, or one that has not, does not matter.
    fn forget(&mut self, unit: &str) -> Result<()> {
        match self.call("ResetFailedUnit", vec![Value::text(unit)]) {
            Err(Failure::Broken(error)) => Err(error).context(|| format!("reset unit {unit}")),
            Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
        }
    }
}

fn is_refusal(answer: &std::result::Result<Vec<Value>, Failure>, wanted: &str) -> bool {
    matches!(answer, Err(Failure::Refused { name, .. }) if name == wanted)
}

/// The result in `JobRemoved(id, job, unit, result)`.
fn result_of(signal: &Message, wanted: &str) -> Option<String> {
    match (signal.member.as_deref(), signal.body.as_slice()) {
        (Some("JobRemoved"), [_, Value::ObjectPath(job), _, Value::Text(result)]) if job == wanted => {
            Some(result.clone())
        }
        _ => None,
    }
}

/// Whether this machine, or container, was started by systemd: sd_booted(3).
fn is_running() -> bool {
    Path::new("/run/systemd/system").symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn system_buses() -> Vec<Address> {
    match std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
        Ok(list) if !list.is_empty() => parse_addresses(&list),
        _ => vec![Address::Path(PathBuf::from("/run/dbus/system_bus_socket"))],
    }
}

fn runtime_directory() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

fn session_buses() -> Result<Vec<Address>> {
    match std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        Ok(list) if !list.is_empty() => return Ok(parse_addresses(&list)),
        _ => {}
    }
    let of_session = runtime_directory().map(|dir| Address::Path(dir.join("bus")));
    of_session.map(|address| vec![address]).ok_or_else(|| {
        let message = "running systemd is needed for --systemd-cgroup: could not detect \
                       DBUS_SESSION_BUS_ADDRESS from the environment";
        Error::new(ErrorKind::NotFound, message).with_hint(
            "log in with a session of your own (not with su), or set XDG_RUNTIME_DIR=/run/user/$UID",
        )
    })
}

/// Whether a user's manager can be looked for.
pub(super) fn has_session() -> bool {
    std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some_and(|list| !list.is_empty())
        || runtime_directory().is_some_and(|dir| dir.join("bus").exists())
}

/// `249 (249.11-0ubuntu3)`, `v245.4-1.fc32`, with or without quotes.
fn version_number(text: &str) -> u32 {
    let digits = text.trim_start_matches(['"', 'v']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, number) in [
            ("249 (249.11-0ubuntu3)", 249),
            ("v245.4-1.fc32", 245),
            ("\"v245-1.fc32\"", 245),
            ("252", 252),
            ("257~rc1", 257),
            ("", 0),
            ("x", 0),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
