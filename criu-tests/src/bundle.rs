// SPDX-License-Identifier: Apache-2.0
//! Bundles: a root filesystem with the workloads in it, and a `config.json` as `migrate spec` writes it.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::host::Host;
use crate::programs;

/// A bundle on a host.
#[derive(Debug)]
pub struct Bundle {
    directory: String,
}

impl Bundle {
    /// A bundle whose process is `/workload` with these arguments, without a terminal and with a writable root.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(host: &Host, name: &str, args: &[&str]) -> Self {
        let new = Self { directory: host.path(&format!("bundles/{name}")) };
        new.fill_rootfs();
        host.migrate(&["spec", "-b", &new.directory]).succeeded();
        new.edit(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!([&["/workload"], args].concat());
            config["root"]["readonly"] = json!(false);
        })
    }

    /// A bundle that runs a workload, which reports to [`Bundle::STATUS`].
    pub fn of_workload(host: &Host, workload: &str, options: &[&str]) -> Self {
        Self::new(host, workload, &[&[workload, "--status", Self::STATUS], options].concat())
    }

    /// A bundle exactly as `migrate spec` writes it: a shell on a terminal, with `tty`, `stty`, `cat` and `sleep`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn of_shell(host: &Host, name: &str) -> Self {
        let new = Self { directory: host.path(&format!("bundles/{name}")) };
        new.fill_rootfs();
        for program in ["sh", "tty", "stty", "cat", "sleep"] {
            let (from, to) = (format!("/usr/bin/{program}"), format!("{}/bin/{program}", new.rootfs()));
            copy(&from, &to);
            libraries(&from).iter().for_each(|library| copy(library, &format!("{}{library}", new.rootfs())));
        }
        host.migrate(&["spec", "-b", &new.directory]).succeeded();
        new
    }

    /// Where a workload reports to, inside its container.
    pub const STATUS: &str = "/state/status";

    /// Changes `config.json`.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    #[must_use]
    pub fn edit(self, change: impl FnOnce(&mut Value)) -> Self {
        let text = fs::read(self.config()).expect("read config.json");
        let mut config = serde_json::from_slice(&text).expect("config.json is JSON");
        change(&mut config);
        fs::write(self.config(), config.to_string()).expect("write config.json");
        self
    }

    /// Gives the container a user namespace, whose ids are those of the host from `first` on, and its root filesystem
    /// to its root.
    ///
    /// # Panics
    /// When `config.json` cannot be changed or a file not given away.
    #[must_use]
    pub fn in_user_namespace(self, first: u32, size: u32) -> Self {
        let new = self.edit(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
            let map = json!([{ "containerID": 0, "hostID": first, "size": size }]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
        });
        new.give_to(first)
    }

    /// Gives the container a cgroup namespace, and the cgroups in it to write to.
    ///
    /// # Panics
    /// When `config.json` cannot be changed.
    #[must_use]
    pub fn with_writable_cgroups(self) -> Self {
        self.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != json!("cgroup"));
            namespaces.push(json!({"type": "cgroup"}));
            let mounts = config["mounts"].as_array_mut().expect("a list");
            mounts.retain(|mount| mount["type"] != json!("cgroup"));
            mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                               "options": ["nosuid", "noexec", "nodev", "rw"]}));
        })
    }

    /// Gives the root filesystem to a user and group of the host.
    ///
    /// # Panics
    /// When a file cannot be given away.
    #[must_use]
    pub fn give_to(self, id: u32) -> Self {
        give_away(Path::new(&self.rootfs()), id);
        self
    }

    /// The bundle's directory.
    pub fn path(&self) -> String {
        self.directory.clone()
    }

    /// Its `config.json`.
    pub fn config(&self) -> String {
        format!("{}/config.json", self.directory)
    }

    /// Its root filesystem.
    pub fn rootfs(&self) -> String {
        format!("{}/rootfs", self.directory)
    }

    /// Removes it from the host.
    ///
    /// # Panics
    /// When something in it is still mounted or otherwise stays.
    pub fn remove(self) {
        fs::remove_dir_all(&self.directory).expect("remove the bundle");
    }

    fn fill_rootfs(&self) {
        let rootfs = self.rootfs();
        for name in ["proc", "sys", "dev", "tmp", "run", "etc", "root", "state"] {
            fs::create_dir_all(format!("{rootfs}/{name}")).expect("make the root filesystem");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n";
        fs::write(format!("{rootfs}/etc/passwd"), passwd).expect("write etc/passwd");
        fs::write(format!("{rootfs}/etc/group"), "root:x:0:\nguest:x:1000:\n").expect("write etc/group");
        let workload = programs::workload();
        copy(&workload, &format!("{rootfs}/workload"));
        for library in libraries(&workload) {
            copy(&library, &format!("{rootfs}{library}"));
        }
    }
}

fn give_away(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("list the root filesystem") {
            give_away(&entry.expect("list the root filesystem").path(), id);
        }
    }
}

fn copy(from: &str, to: &str) {
    let (parent, _) = to.rsplit_once('/').expect("an absolute path");
    fs::create_dir_all(parent)
        .and_then(|()| fs::copy(from, to))
        .unwrap_or_else(|e| panic!("{from} -> {to}: {e}"));
}

/// The loader and the shared libraries that a program needs, by absolute path.
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("run ldd");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}
