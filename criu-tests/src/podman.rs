// SPDX-License-Identifier: Apache-2.0
//! Podman on a host, with the binary under test as its runtime: an image, a store and a network of that host alone.
//!
//! Everything that Podman writes lies on filesystems that are mounted on the host only (`/run` is one already) and goes with
//! it. The one thing that hosts share is the cgroup tree: every container gets the test's own cgroup as its parent.

use std::fs;

use crate::command::{Command, Output};
use crate::host::{Host, list};
use crate::image::MAKE_ROOT;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

/// Podman's configuration, as docs/podman.md has it, for a machine without systemd.
const CONTAINERS_CONF: &str = r#"
[engine]
runtime = "migrate"
runtime_supports_json = ["migrate", "runc"]
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.runtimes]
migrate = ["RUNTIME"]
[network]
network_backend = "netavark"
[containers]
log_driver = "k8s-file"
"#;

const STORAGE_CONF: &str = r#"
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"#;

const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Hides what the machine has of Podman, and makes the image.
const PREPARE: &str = r#"
set -e
for at in /etc/containers /var/lib; do mount -t tmpfs -o mode=755 podman $at; done
mount -t tmpfs -o mode=1777 podman /dev/shm
cp containers.conf storage.conf policy.json /etc/containers/
echo containers:100000:65536 >subids
for at in /etc/subuid /etc/subgid; do mount --bind subids $at; done
mkdir -p /var/lib/containers
# Podman takes every directory here for a controller, and makes one for each of its own; what others left here by mistake
# cannot be removed as a cgroup is. The host sees what is mounted and nothing else.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = tmpfs ]; then
    mkdir cgroup
    mount -t tmpfs -o mode=755 cgroup cgroup
    for at in /sys/fs/cgroup/*; do
        if ! mountpoint -q "$at"; then continue; fi
        mkdir "cgroup/${at##*/}"
        mount --bind "$at" "cgroup/${at##*/}"
    done
    umount --recursive --lazy /sys/fs/cgroup
    mount --move cgroup /sys/fs/cgroup
fi
MAKE_ROOT
tar -C image -cf image.tar .
podman import --quiet image.tar localhost/small
"#;

/// Adds a user with ids to give away, a home, a runtime directory and a runtime that lies where that user can go.
const PREPARE_USER: &str = r#"
set -e
for file in passwd group; do cp /etc/$file .; mount --bind $file /etc/$file; done
echo caller:x:54321:54321::/var/lib/caller:/bin/sh >>passwd
echo caller:x:54321: >>group
echo caller:300000:65536 >>subids
mkdir -p /var/lib/caller /run/user/54321
chown 54321:54321 /var/lib/caller /run/user/54321
chmod 700 /run/user/54321
rm /etc/containers/storage.conf
cp containers.conf /etc/containers/
"#;

/// Podman on a host.
#[derive(Debug)]
pub struct Podman<'h> {
    host: &'h Host,
    /// `--cgroup-parent=` of the test's cgroup; absent for a user who can make no cgroups.
    parent: Option<String>,
}

impl<'h> Podman<'h> {
    /// The image that there is.
    pub const IMAGE: &'static str = "localhost/small";

    /// Makes Podman usable on a host.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn on(host: &'h Host) -> Self {
        let write = |name: &str, text: &str| fs::write(host.path(name), text).expect("configure Podman");
        write("containers.conf", &CONTAINERS_CONF.replace("RUNTIME", &programs::migrate()));
        write("storage.conf", STORAGE_CONF);
        write("policy.json", POLICY);
        let new = Self { host, parent: Some(format!("--cgroup-parent=/{}", host.tag())) };
        new.in_environment(&["sh", "-c", &PREPARE.replace("MAKE_ROOT", MAKE_ROOT)]).run().succeeded();
        new
    }

    /// Makes Podman usable on a host for a user who is not root.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn without_root(host: &'h Host) -> Self {
        Self::on(host);
        let runtime = host.path("migrate");
        fs::copy(programs::migrate(), &runtime).expect("copy the program");
        let conf = CONTAINERS_CONF.replace("RUNTIME", &runtime);
        fs::write(host.path("containers.conf"), conf).expect("configure Podman");
        host.command(&["sh", "-c", PREPARE_USER]).run().succeeded();
        let new = Self { host, parent: None };
        new.podman(&["import", "--quiet", "image.tar", Self::IMAGE]).succeeded();
        new
    }

    /// A command with the environment of the one who calls Podman, and as that user.
    fn in_environment(&self, argv: &[&str]) -> Command {
        let path = self.path_variable();
        if self.parent.is_some() {
            return self.host.command(argv).environment(&[("PATH", &path), ("HOME", "/root")]);
        }
        let change = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
        let runtime_directory = ("XDG_RUNTIME_DIR", "/run/user/54321");
        let environment = [("PATH", path.as_str()), ("HOME", "/var/lib/caller"), runtime_directory];
        self.host.command(&[&change, argv].concat()).environment(&environment)
    }

    /// `PATH` of the one who calls Podman, which asks the `criu` that it finds there for its version.
    pub fn path_variable(&self) -> String {
        let criu = std::env::var("MIGRATE_CRIU_PREFIX").unwrap_or_else(|_| "/opt/migrate-criu".into());
        format!("{criu}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// A command of Podman, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        self.in_environment(&[&["podman"], args].concat())
    }

    /// Runs a command of Podman.
    #[track_caller]
    pub fn podman(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// `run` of a command in a container of the image, to be started; without a network unless an option says otherwise.
    pub fn run_command(&self, options: &[&str], argv: &[&str]) -> Command {
        let parent: Vec<&str> = self.parent.as_deref().into_iter().collect();
        let told = options.iter().any(|o| o.starts_with("--network"));
        let network: &[&str] = if told { &[] } else { &["--network=none"] };
        self.command(&[&["run"], &parent[..], network, options, &[Self::IMAGE], argv].concat())
    }

    /// Runs a command in a container of the image, and removes it.
    #[track_caller]
    pub fn run(&self, options: &[&str], argv: &[&str]) -> Output {
        self.run_command(&[&["--rm"], options].concat(), argv).run()
    }

    /// What a shell in such a container prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn says(&self, options: &[&str], script: &str) -> String {
        self.run(options, &["sh", "-c", script]).succeeded().trim_end().to_owned()
    }

    /// Starts a container that goes on in the background.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn background(&self, name: &str, options: &[&str], script: &str) {
        let options = [&["-d", "--name", name], options].concat();
        self.run_command(&options, &["sh", "-c", script]).run().succeeded();
    }

    /// Makes a pod.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn pod(&self, name: &str, options: &[&str]) {
        let parent: Vec<&str> = self.parent.as_deref().into_iter().collect();
        self.podman(&[&["pod", "create", "--name", name], &parent[..], options].concat()).succeeded();
    }

    /// What a command prints that is executed in a container.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn executes(&self, name: &str, script: &str) -> String {
        self.podman(&["exec", name, "sh", "-c", script]).succeeded().trim_end().to_owned()
    }

    /// What `inspect` says of a container.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.podman(&["inspect", "-f", format, name]).succeeded().trim_end().to_owned()
    }

    /// Waits until `inspect` says it.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn becomes(&self, name: &str, format: &str, wanted: &str) {
        wait_until(PATIENCE, &format!("{format} of {name} is {wanted}"), || {
            match self.inspect(name, format) {
                seen if seen == wanted => Ok(()),
                other => Err(other),
            }
        });
    }

    /// Waits until the log of a container holds a text; gives the log.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn logs(&self, name: &str, text: &str) -> String {
        wait_until(PATIENCE, &format!("{name} logs {text:?}"), || {
            let log = self.podman(&["logs", name]).succeeded();
            if log.contains(text) { Ok(log) } else { Err(log) }
        })
    }

    /// Removes every container and pod, and asserts that nothing of them is left on the host: no process (conmon's among
    /// them), no state of the runtime, no mount of a container, no cgroup of one.
    ///
    /// # Panics
    /// When something is left.
    #[track_caller]
    pub fn end(self) {
        // `stop` and `rm -f` of what runs would clean up at the same time as conmon's helper does.
        self.podman(&["kill", "-a"]).succeeded();
        wait_until(PATIENCE, "conmon and its helpers are gone", || {
            let mut left = self.host.processes();
            left.retain(|(_, line)| line.contains("conmon") || line.contains("podman"));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        // After a container with ids of its own, conmon's helper cleans up in a mount namespace that Podman made for conmon: here
        // its shared memory stays mounted, and two threads of `rm` get into each other's way over it (whatever the runtime is).
        let unmount = "awk '$5 ~ \"/userdata/shm$\" { print $5 }' /proc/self/mountinfo | xargs -r umount";
        self.host.command(&["sh", "-c", unmount]).run().succeeded();
        for what in [&["pod", "rm", "-fa"][..], &["rm", "-fa"]] {
            self.podman(what).succeeded();
        }
        if self.parent.is_none() {
            // Ends the process that keeps the user namespace of that user's Podman.
            self.podman(&["system", "migrate"]).succeeded();
        }
        wait_until(PATIENCE, "no process is left", || match self.host.processes() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
        let of_root = list(&self.host.outside("/run/migrate"));
        let known = [of_root, list(&self.host.outside("/run/user/54321/migrate"))].concat();
        assert!(known.iter().all(|name| name.starts_with('.')), "left in the state root: {known:?}");
        let table = self.host.mountinfo();
        let of_containers = ["/merged", "/userdata/shm", "/userdata/rootfs"];
        let mounts: Vec<&str> =
            table.lines().filter(|l| of_containers.iter().any(|end| l.contains(end))).collect();
        assert!(mounts.is_empty(), "left mounted: {mounts:#?}");
        let cgroups: Vec<_> = self.host.cgroups();
        let cgroups: Vec<_> = cgroups.iter().filter(|c| c.to_string_lossy().contains("libpod-")).collect();
        assert!(cgroups.is_empty(), "left cgroups: {cgroups:#?}");
    }
}
