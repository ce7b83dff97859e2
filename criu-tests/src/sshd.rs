// SPDX-License-Identifier: Apache-2.0
//! A real sshd on a host, and the command with which another host that it is connected with gets there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::command::Running;
use crate::host::Host;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

/// The user without whom sshd does not start, and the directory; both are this host's alone. Nobody but root has a name there.
const PREPARE: &str = "set -e
echo 'root:x:0:0:root:/root:/bin/sh
sshd:x:100:65534::/run/sshd:/bin/false' >passwd
mount --bind passwd /etc/passwd
mount -t tmpfs run /run
mkdir -m 755 /run/sshd
for name in host user; do ssh-keygen -q -t ed25519 -N '' -f key-$name; done
cp key-user.pub authorized";

/// An sshd that runs.
#[derive(Debug)]
pub struct Sshd<'h> {
    host: &'h Host,
    running: Option<Running>,
    /// What stands for `ssh` on the other host.
    pub ssh: String,
}

impl<'h> Sshd<'h> {
    /// Starts it at this address of the host's, for root with a key.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn on(host: &'h Host, address: &str) -> Self {
        host.command(&["sh", "-c", PREPARE]).run().succeeded();
        let config = host.path("sshd_config");
        let directory = host.path(".");
        let text = format!(
            "ListenAddress {address}\nHostKey {directory}/key-host\nAuthorizedKeysFile {directory}/authorized\nPermitRootLogin yes\n\
             StrictModes no\nUsePAM no\nPidFile none\n"
        );
        fs::write(&config, text).expect("write sshd's configuration");
        let (program, libraries) = programs::sshd();
        let command = host.command(&[&program, "-D", "-e", "-f", &config]);
        let running = command.environment(&[("LD_LIBRARY_PATH", &libraries)]).start();
        let table = host.outside(&format!("/proc/{}/net/tcp", running.pid()));
        wait_until(PATIENCE, "sshd listens", || {
            let table = fs::read_to_string(&table).map_err(|e| e.to_string())?;
            assert!(!running.has_ended(), "sshd has ended");
            // 22, in the state that listens.
            let listens = table.lines().any(|line| line.contains(":0016 ") && line.contains(" 0A "));
            if listens { Ok(()) } else { Err(table) }
        });
        let ssh = host.path("ssh");
        let text = format!(
            "#!/bin/sh\nexec ssh -F /dev/null -i {directory}/key-user -o StrictHostKeyChecking=no -o UserKnownHostsFile={directory}/known \
             -o LogLevel=ERROR \"$@\"\n"
        );
        fs::write(&ssh, text).expect("write a script");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { host, running: Some(running), ssh }
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        self.host.processes().iter().filter(|(_, line)| line.starts_with("sshd: root")).count()
    }
}

impl Drop for Sshd<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGTERM);
            running.wait();
            self.host.command(&["umount", "/etc/passwd", "/run"]).run();
        }
    }
}
