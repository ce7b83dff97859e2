// SPDX-License-Identifier: Apache-2.0
//! A host that systemd has started: a real systemd and a real bus, in namespaces of a host, with a tree of cgroups of its
//! own and next to no units.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::command::{Command, Output, Running};
use crate::host::Host;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

/// How the host has its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// The hierarchies of v1, and the unified one beside them.
    Hybrid,
    /// The unified hierarchy only, with what controllers v1 has left it.
    Unified,
}

impl Cgroups {
    /// Those that can be had here: a controller is in v1 or in v2, and that is decided for the whole machine.
    pub fn all() -> Vec<Self> {
        let v1 = Path::new("/sys/fs/cgroup/systemd").exists();
        if v1 { vec![Self::Hybrid, Self::Unified] } else { vec![Self::Unified] }
    }
}

/// What becomes systemd: it enters a cgroup of its own and shows itself nothing else.
const BOOT: &str = r#"
set -e
if [ "$1" = enter ]; then
    tag=$2 layout=$3 programs=$4
    for hierarchy in $(sed -nE 's/^([^ ]+ ){4}([^ ]+) .* - cgroup2? .*/\2/p' /proc/self/mountinfo); do
        mkdir "$hierarchy/$tag-systemd"
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$hierarchy/$file" ]; then cat "$hierarchy/$file" > "$hierarchy/$tag-systemd/$file"; fi
        done
        echo $$ > "$hierarchy/$tag-systemd/cgroup.procs"
        # Where there is no v1, its controllers may be here.
        if [ "$hierarchy" = /sys/fs/cgroup ]; then
            for controller in $(cat $hierarchy/cgroup.controllers); do
                echo "+$controller" > $hierarchy/cgroup.subtree_control || true
            done
        fi
        mkdir "$hierarchy/$tag-systemd/commands"
    done
    # Now, when this process is in that cgroup: the namespace's root is it. Its parent, which is in another, must not be
    # there, since a cgroup with processes in it gives no controllers to those beneath it.
    exec unshare --cgroup sh -c "$BOOT" boot start "$layout"
fi
layout=$2
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lab /run/none
cp /lib/systemd/system/dbus.socket /lib/systemd/system/dbus.service /run/lab
for target in basic sysinit sockets shutdown; do printf '[Unit]\nDescription=%s\n' $target > /run/lab/$target.target; done
printf '[Unit]\nWants=dbus.socket dbus.service\nAfter=dbus.service\n' > /run/lab/default.target
mount --bind /run/lab /lib/systemd/system
mount --bind /run/none /etc/systemd/system
if [ "$layout" = unified ]; then
    mount -t cgroup2 none /sys/fs/cgroup
else
    options=$(sed -nE 's/^([^ ]+ ){4}([^ ]+) .* - cgroup [^ ]+ (.*)/\2 \3/p' /proc/self/mountinfo)
    mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
    echo "$options" | while read -r path options; do
        mkdir "$path"
        options=$(echo "$options" | tr , '\n' | grep -vE '^(rw|ro|xattr|release_agent=.*)$' | paste -sd,)
        case "$options" in name=*) options="none,$options" ;; esac
        mount -t cgroup -o "$options" none "$path"
    done
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 none /sys/fs/cgroup/unified
fi
exec env -i container=lab PATH="$PATH" /lib/systemd/systemd --log-target=console --log-level=notice
"#;

/// The host.
#[derive(Debug)]
pub struct Systemd<'h> {
    host: &'h Host,
    /// systemd, as the host numbers it.
    pid: String,
    _unshare: Running,
}

impl<'h> Systemd<'h> {
    /// Starts it, and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(host: &'h Host, cgroups: Cgroups) -> Self {
        let layout = if cgroups == Cgroups::Hybrid { "hybrid" } else { "unified" };
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = [("BOOT", BOOT), ("PATH", path.as_str())];
        let unshare =
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--mount-proc"];
        let boot = ["sh", "-c", BOOT, "boot", "enter", host.tag(), layout];
        let unshare = host.command(&[&unshare[..], &boot].concat()).environment(&environment).start();
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let pid = wait_until(PATIENCE, "systemd is started", || {
            let children = fs::read_to_string(host.outside(&children)).unwrap_or_default();
            let pid = children.trim().to_owned();
            let name = fs::read_to_string(host.outside(&format!("/proc/{pid}/comm"))).unwrap_or_default();
            if name == "systemd\n" { Ok(pid) } else { Err((pid, name)) }
        });
        let systemd = Self { host, pid, _unshare: unshare };
        wait_until(PATIENCE, "systemd is up", || {
            let output = systemd.command(&["systemctl", "is-system-running"]).run();
            if output.stdout.trim() == "running" { Ok(()) } else { Err((output.stdout, output.stderr)) }
        });
        systemd
    }

    /// A command on it.
    pub fn command(&self, argv: &[&str]) -> Command {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let unified = unified.iter().find(|path| Path::new(path).exists()).expect("there are cgroups");
        let cgroup = format!("{unified}/{}-systemd/commands/cgroup.procs", self.host.tag());
        // Where a tree of v2 is delegated by namespace (`nsdelegate`), nobody inside moves who is outside.
        let come = ["sh", "-c", r#"echo $$ > "$0" && exec "$@""#, &cgroup];
        let enter = ["nsenter", "-t", &self.pid, "-m", "-p", "-C", "-i", "-u", "--"];
        self.host.command(&[&come[..], &enter, argv].concat())
    }

    fn migrate_command(&self, args: &[&str]) -> Command {
        let (program, root) = (programs::migrate(), self.host.path("systemd-state"));
        self.command(&[&[program.as_str(), "--root", &root], args].concat())
    }

    /// The binary under test, with captured output.
    pub fn migrate(&self, args: &[&str]) -> Output {
        self.migrate_command(args).run()
    }

    /// A command of it that leaves a container behind.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn migrate_detached(&self, args: &[&str]) {
        let log = self.host.path("systemd.log");
        let output = self.migrate_command(&[&["--log", &log], args].concat()).without_stdio().run();
        assert!(output.code == 0, "{args:?}: {}", fs::read_to_string(log).unwrap_or_default());
    }

    /// Starts a container with its cgroups made by systemd.
    #[track_caller]
    pub fn run_detached(&self, id: &str, bundle: &Bundle) {
        self.migrate_detached(&["--systemd-cgroup", "run", "-d", "-b", &bundle.path(), id]);
    }

    /// A manager for a user, as a session of his has it; his runtime directory.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_user_manager(&self, uid: u32) -> String {
        let runtime = format!("/run/user/{uid}");
        let (user, directory) = (uid.to_string(), format!("XDG_RUNTIME_DIR={runtime}"));
        self.command(&["install", "-d", "-m", "700", "-o", &user, "-g", &user, &runtime]).run().succeeded();
        let run =
            ["systemd-run", "--unit=user-manager", "--uid", &user, "-p", "Delegate=yes", "-E", &directory];
        let manager = ["-E", "HOME=/", "/lib/systemd/systemd", "--user"];
        self.command(&[&run[..], &manager].concat()).run().succeeded();
        wait_until(PATIENCE, "the user's manager is up", || {
            let output = self.as_user(uid, &["systemctl", "--user", "is-system-running"]).run();
            let up = ["running", "degraded"].contains(&output.stdout.trim());
            if up { Ok(()) } else { Err((output.stdout, output.stderr)) }
        });
        runtime
    }

    /// A command of a user's, which is in no session.
    pub fn as_user(&self, uid: u32, argv: &[&str]) -> Command {
        let (user, runtime) = (uid.to_string(), format!("/run/user/{uid}"));
        let change = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
        let path = std::env::var("PATH").unwrap_or_default();
        self.command(&[&change, argv].concat()).environment(&[
            ("XDG_RUNTIME_DIR", &runtime),
            ("PATH", &path),
            ("HOME", "/"),
        ])
    }

    /// What `state` says.
    ///
    /// # Panics
    /// When the command fails or does not print JSON.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.migrate(&["state", id]).succeeded()).expect("JSON")
    }

    /// What systemd says of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self.command(&["systemctl", "show", "--value", "-p", name, unit]).run().succeeded();
        said.trim_end().to_owned()
    }

    /// Whether the unified hierarchy has a controller.
    pub fn has_unified(&self, controller: &str) -> bool {
        let found = self.command(&["cat", "/sys/fs/cgroup/cgroup.controllers"]).run();
        found.stdout.split_whitespace().any(|name| name == controller)
    }

    /// A file of a container's cgroup; `controller` counts on a hybrid only.
    #[track_caller]
    pub fn cgroup_file(&self, controller: &str, cgroup: &str, file: &str) -> String {
        let path = self.cgroup_path(controller, cgroup);
        self.command(&["cat", &format!("{path}/{file}")]).run().succeeded().trim_end().to_owned()
    }

    /// The directory of a cgroup.
    pub fn cgroup_path(&self, controller: &str, cgroup: &str) -> String {
        let hierarchy = format!("/sys/fs/cgroup/{controller}");
        let is_v1 = self.command(&["test", "-d", &hierarchy]).run().code == 0;
        if is_v1 { format!("{hierarchy}{cgroup}") } else { format!("/sys/fs/cgroup{cgroup}") }
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // It takes everything with it.
        self.host.command(&["kill", "-KILL", &self.pid]).run_if_possible();
    }
}
