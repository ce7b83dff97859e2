// SPDX-License-Identifier: Apache-2.0
//! One of the hosts of a test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Program, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::command::{Command, Output};
use crate::container::Container;
use crate::programs;

/// A mount, network and pid namespace, a directory and a state root of its own, and commands that run there.
#[derive(Debug)]
pub struct Host {
    directory: String,
    tag: String,
    socket: String,
    /// The first process, seen from outside.
    init: i32,
    unshare: Child,
    /// The host lives as long as this stays open.
    lifeline: Option<ChildStdin>,
    /// Cgroups of Podman's that are somebody else's.
    others: Vec<PathBuf>,
    /// Where everything is logged, if that is wanted.
    trace: Option<String>,
}

impl Host {
    pub(crate) fn new(directory: String, tag: &str) -> Self {
        for name in ["state", "bundles"] {
            fs::create_dir_all(format!("{directory}/{name}")).expect("make the host's directories");
        }
        let socket = format!("{directory}/control");
        let mut unshare = Program::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args([&programs::workload(), "host-init", "--socket", &socket])
            // It adds to what commands print; a test that wants it says so.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare(1)");
        let mut ready = String::new();
        let said = BufReader::new(unshare.stdout.take().expect("stdout is a pipe")).read_line(&mut ready);
        assert!(said.is_ok() && ready == "ready\n", "the host does not come up: {said:?} {ready:?}");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let children = fs::read_to_string(children).expect("read unshare's children");
        let init = children.trim().parse().expect("unshare has one child");
        let lifeline = unshare.stdin.take();
        let others = crate::trace::default_parents();
        Self { directory, tag: tag.to_owned(), socket, init, unshare, lifeline, others, trace: None }
    }

    /// A path in the host's own directory.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// The state root that `migrate` is given on this host.
    pub fn state_root(&self) -> String {
        self.path("state")
    }

    /// A command on this host, in the host's directory.
    pub fn command(&self, argv: &[&str]) -> Command {
        Command::new(&self.socket, &self.directory, argv.iter().map(|a| (*a).to_owned()).collect())
    }

    /// Words before a command that is to run on this host, started by whoever is outside.
    pub fn entering(&self) -> Vec<String> {
        let pid = self.init.to_string();
        ["nsenter", "--target", &pid, "--mount", "--net", "--pid", "--"].map(str::to_owned).into()
    }

    /// The binary under test with the host's state root and log, as words.
    pub fn migrate_argv(&self, args: &[&str]) -> Vec<String> {
        let (program, root, log) = (programs::migrate(), self.state_root(), self.log());
        let start = [program, "--root".to_owned(), root, "--log".to_owned(), log];
        let traced: &[&str] = if self.trace.is_some() { &["--debug", "--log-format", "json"] } else { &[] };
        start
            .into_iter()
            .chain(traced.iter().map(|arg| (*arg).to_owned()))
            .chain(args.iter().map(|arg| (*arg).to_owned()))
            .collect()
    }

    /// The binary under test with the host's state root and log, to be started.
    pub fn migrate_command(&self, args: &[&str]) -> Command {
        Command::new(&self.socket, &self.directory, self.migrate_argv(args))
    }

    /// Runs the binary under test, with captured output.
    pub fn migrate(&self, args: &[&str]) -> Output {
        self.migrate_command(args).run()
    }

    /// Runs a command of `migrate` that leaves a container behind, which gets `/dev/null` for its stdio.
    ///
    /// # Panics
    /// When it fails; the host's log is quoted.
    #[track_caller]
    pub fn migrate_detached(&self, args: &[&str]) {
        let output = self.migrate_command(args).without_stdio().run();
        let log = || fs::read_to_string(self.log()).unwrap_or_default();
        assert!(output.code == 0, "{args:?} failed with {}:\n{}", output.code, log());
    }

    fn log(&self) -> String {
        self.trace.clone().unwrap_or_else(|| self.path("migrate.log"))
    }

    /// Has everything that `migrate` does on this host from now on logged to this file, as JSON. Other hosts may do the same.
    pub fn trace_to(&mut self, path: &str) {
        self.trace = Some(path.to_owned());
    }

    /// Starts a container that goes on in the background, and waits until it reports.
    #[track_caller]
    pub fn run_detached(&self, id: &str, bundle: &Bundle) -> Container<'_> {
        self.migrate_detached(&["run", "-d", "-b", &bundle.path(), id]);
        let container = self.container(id, &bundle.rootfs());
        container.reports();
        container
    }

    /// Starts a `counter` that holds a megabyte, for tests that want any container.
    #[track_caller]
    pub fn run_small(&self, id: &str) -> (Bundle, Container<'_>) {
        let bundle = Bundle::of_workload(self, "counter", &["--memory", "1048576"]);
        let container = self.run_detached(id, &bundle);
        (bundle, container)
    }

    /// A container of this host whose root filesystem is at `rootfs`.
    pub fn container(&self, id: &str, rootfs: &str) -> Container<'_> {
        Container::new(self, id, rootfs)
    }

    /// A container whose bundle was made by `restore --import`.
    pub fn imported(&self, id: &str) -> Container<'_> {
        self.container(id, &format!("{}/{id}/bundle/rootfs", self.state_root()))
    }

    /// Removes every bundle that the test has made here.
    ///
    /// # Panics
    /// When something in one is still mounted or otherwise stays.
    pub fn remove_bundles(&self) {
        let bundles = self.path("bundles");
        fs::remove_dir_all(&bundles).and_then(|()| fs::create_dir(&bundles)).expect("remove the bundles");
    }

    /// What `migrate state` says.
    ///
    /// # Panics
    /// When the command fails or does not print JSON.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        let text = self.migrate(&["state", id]).succeeded();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("state is not JSON: {e}\n{text}"))
    }

    /// The ids of all containers of the host's state root, as their directories show them.
    pub fn container_ids(&self) -> Vec<String> {
        list(&self.outside(&self.state_root())).into_iter().filter(|name| !name.starts_with('.')).collect()
    }

    /// The processes of the host but its first: pid (on the host) and command line.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let proc = format!("/proc/{}/root/proc", self.init);
        let pids = list(&proc).into_iter().filter_map(|name| name.parse().ok()).filter(|pid| *pid != 1);
        pids.filter_map(|pid: i32| {
            let line = fs::read(format!("{proc}/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned()))
        })
        .collect()
    }

    /// Sends a signal to each process that serves a connection to a listening `migrate`, which goes on when that one ends.
    pub fn signal_served(&self, signal: Signal) {
        let served = self.processes().into_iter().filter(|(_, line)| line.ends_with(" --served"));
        for (pid, _) in served {
            // It may have ended meanwhile.
            self.command(&["sh", "-c", &format!("kill -{} {pid}", signal as i32)]).run();
        }
    }

    /// Connects this host with another: both get an address.
    ///
    /// # Panics
    /// When the kernel does not make it.
    pub fn connect(&self, other: &Self, addresses: [&str; 2]) {
        let (own, others) = (self.init.to_string(), other.init.to_string());
        let pair = ["link", "add", "between", "netns", &own, "type", "veth", "peer", "name", "between"];
        let made = Program::new("ip").args(pair).args(["netns", &others]).output().expect("start ip(8)");
        assert!(made.status.success(), "{made:?}");
        for (host, address) in [self, other].into_iter().zip(addresses) {
            host.command(&["ip", "address", "add", address, "dev", "between"]).run().succeeded();
            host.command(&["ip", "link", "set", "between", "up"]).run().succeeded();
        }
    }

    /// Whether a CRIU works on the host.
    pub fn criu_runs(&self) -> bool {
        self.criu().is_some()
    }

    /// The pid of a CRIU that works on the host. It calls itself by what it does as soon as it has its request.
    pub fn criu(&self) -> Option<i32> {
        let is_criu = |line: &str| line.contains(" swrk") || line.contains("--rpc");
        self.processes().into_iter().find(|(_, line)| is_criu(line)).map(|(pid, _)| pid)
    }

    /// The host's mount table.
    pub fn mountinfo(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).expect("read the host's mountinfo")
    }

    /// The file at this path of the host's own mount namespace, seen from outside.
    pub fn outside(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", self.init)
    }

    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}

/// The names in a directory; none when there is no such directory.
pub(crate) fn list(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(directory)).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

impl Drop for Host {
    fn drop(&mut self) {
        // What a failed test has not deleted; what it killed or broke may be beyond that.
        for id in self.container_ids() {
            self.migrate_command(&["delete", "--force", &id]).run_if_possible();
        }
        drop(self.lifeline.take());
        crate::trace::thaw_cgroups(&self.tag);
        // Everything on the host dies with its first process; unshare(1) ends after it.
        let _ = self.unshare.wait();
        crate::trace::remove_cgroups(&self.tag);
        crate::trace::remove_default_parents(&self.others);
    }
}
