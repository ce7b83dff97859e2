// SPDX-License-Identifier: Apache-2.0
//! containerd on a host, with the binary under test as the runtime of its shims: root, state and image are that host's
//! alone, on filesystems that go with it (`/run` is one). The cgroup tree is shared: containers are in the cgroup of their
//! namespace, which has the test's name.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::command::{Command, Output, Running};
use crate::host::{Host, list};
use crate::image::MAKE_ROOT;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

/// What docs/containerd.md has it for is in the CRI plugin, which needs more of a machine than the others.
const CONFIG: &str = r#"
version = 2
root = "ROOT"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "/run/containerd/containerd.sock"
"#;

/// The image as `docker save` writes it.
const PACK: &str = r#"
mkdir save
tar -C image -cf save/layer.tar .
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=amd64 ;; esac
sum=$(sha256sum save/layer.tar) sum=${sum%% *}
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    $arch $sum >save/config.json
printf '[{"Config":"config.json","RepoTags":["localhost/small:latest"],"Layers":["layer.tar"]}]' >save/manifest.json
tar -C save -cf image.tar manifest.json config.json layer.tar
ctr images import --snapshotter overlayfs image.tar
"#;

/// containerd on a host.
#[derive(Debug)]
pub struct Containerd<'h> {
    host: &'h Host,
    daemon: Option<Running>,
}

impl<'h> Containerd<'h> {
    /// The image that there is.
    pub const IMAGE: &'static str = "localhost/small:latest";

    /// Starts containerd on a host and gives it its image.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn on(host: &'h Host) -> Self {
        fs::write(host.path("config.toml"), CONFIG.replace("ROOT", &host.path("containerd")))
            .expect("write containerd's configuration");
        let mount = "mkdir containerd && mount -t tmpfs -o mode=711 containerd containerd";
        host.command(&["sh", "-c", mount]).run().succeeded();
        let mut new = Self { host, daemon: None };
        new.start();
        let import = format!("set -e\n{MAKE_ROOT}{PACK}");
        new.in_environment(host.command(&["sh", "-c", &import])).run().succeeded();
        new
    }

    /// Starts the daemon.
    ///
    /// # Panics
    /// When it does not answer in time.
    #[track_caller]
    pub fn start(&mut self) {
        let log =
            File::options().create(true).append(true).open(self.host.path("containerd.log")).expect("open");
        let argv = ["containerd", "--config", &self.host.path("config.toml")];
        let command = self.host.command(&argv).stdout(log.try_clone().expect("dup")).stderr(log);
        self.daemon = Some(self.in_environment(command).start());
        wait_until(PATIENCE, "containerd answers", || match self.ctr(&["version"]) {
            output if output.code == 0 => Ok(()),
            output => Err(output),
        });
    }

    /// Ends the daemon; containers go on, their shims are on their own.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) {
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(signal);
            daemon.wait();
        }
    }

    /// The namespace of containerd's that the test uses, which is the name of the containers' cgroup, too.
    pub fn namespace(&self) -> &str {
        self.host.tag()
    }

    /// A command of containerd's client, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        self.in_environment(self.host.command(&[&["ctr"], args].concat()))
    }

    /// Runs a command of containerd's client.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// `run` of a command in a container of the image, to be started.
    pub fn run_command(&self, options: &[&str], id: &str, argv: &[&str]) -> Command {
        let binary = programs::migrate();
        let common = ["run", "--snapshotter", "overlayfs", "--runtime", "io.containerd.runc.v2"];
        let common = [&common[..], &["--runc-binary", &binary]].concat();
        self.command(&[&common, options, &[Self::IMAGE, id], argv].concat())
    }

    /// What a shell in a container writes, which is removed then. By way of a file: what a container prints that ends at
    /// once, `ctr` sometimes loses, whatever the runtime.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn says(&self, options: &[&str], script: &str) -> String {
        let output = self.host.path("said");
        fs::create_dir(&output).expect("mkdir");
        // For containers whose root is no user of the host's, too.
        fs::set_permissions(&output, fs::Permissions::from_mode(0o777)).expect("chmod");
        let mount = format!("type=bind,src={output},dst=/said,options=rbind:rw");
        let script = format!("{{ {script}\n}} >/said/text 2>&1");
        let options = [&["--rm", "--mount", &mount], options].concat();
        self.run_command(&options, "says", &["sh", "-c", &script]).run().succeeded();
        let said = fs::read_to_string(format!("{output}/text")).expect("the container has written it");
        fs::remove_dir_all(&output).expect("remove what was said");
        said.trim_end().to_owned()
    }

    /// Starts a container that goes on in the background.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn background(&self, id: &str, options: &[&str], script: &str) {
        let options = [&["--detach", "--null-io"], options].concat();
        self.run_command(&options, id, &["sh", "-c", script]).run().succeeded();
    }

    /// Runs a command in a container that runs.
    #[track_caller]
    pub fn exec(&self, id: &str, argv: &[&str]) -> Output {
        self.ctr(&[&["tasks", "exec", "--exec-id", "exec", id], argv].concat())
    }

    /// The pid on the host and the status of a task, as the list has them.
    ///
    /// # Panics
    /// When it is not in the list.
    #[track_caller]
    pub fn task(&self, id: &str) -> (String, String) {
        let table = self.ctr(&["tasks", "ls"]).succeeded();
        let row: Vec<&str> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .find(|row: &Vec<_>| row[0] == id)
            .unwrap_or_else(|| panic!("{id} is not in\n{table}"));
        (row[1].to_owned(), row[2].to_owned())
    }

    /// Waits until the status of a task is this one.
    ///
    /// # Panics
    /// When it does not get there in time.
    #[track_caller]
    pub fn becomes(&self, id: &str, wanted: &str) {
        wait_until(PATIENCE, &format!("{id} is {wanted}"), || match self.task(id).1 {
            seen if seen == wanted => Ok(()),
            other => Err(other),
        });
    }

    /// The state root that the shims give to the runtime.
    pub fn state_root(&self) -> String {
        format!("/run/containerd/runc/{}", self.namespace())
    }

    /// Kills and removes every container, ends the daemon and asserts that nothing is left on the host: no process (shims
    /// among them), no state of the runtime, no mount of a container, no cgroup of one.
    ///
    /// # Panics
    /// When something is left.
    #[track_caller]
    pub fn end(mut self) {
        for id in self.ctr(&["containers", "ls", "-q"]).succeeded().lines() {
            self.ctr(&["tasks", "rm", "--force", id]);
            self.ctr(&["containers", "rm", id]).succeeded();
        }
        let known = list(&self.host.outside(&self.state_root()));
        assert!(known.iter().all(|name| name.starts_with('.')), "left in the state root: {known:?}");
        self.stop(Signal::SIGTERM);
        wait_until(PATIENCE, "no process is left", || match self.host.processes() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
        let table = self.host.mountinfo();
        let mounts: Vec<&str> = table.lines().filter(|line| line.contains("/rootfs")).collect();
        assert!(mounts.is_empty(), "left mounted: {mounts:#?}");
        let cgroups = self.host.cgroups();
        // That of the namespace is containerd's own idea.
        let cgroups: Vec<_> = cgroups.iter().filter(|group| !group.ends_with(self.namespace())).collect();
        assert!(cgroups.is_empty(), "left cgroups: {cgroups:#?}");
    }

    fn in_environment(&self, command: Command) -> Command {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        // It does not remove all that it makes in a temporary directory.
        let temporary = self.host.path("containerd");
        command.environment(&[
            ("PATH", path),
            ("HOME", "/root"),
            ("TMPDIR", &temporary),
            ("CONTAINERD_NAMESPACE", self.namespace()),
        ])
    }
}
