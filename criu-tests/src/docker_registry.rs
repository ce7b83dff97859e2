// SPDX-License-Identifier: Apache-2.0
//! Debian's registry on a host, for that host alone: its files are in the host's directory, its port is the host's.

use std::fs;

use nix::sys::signal::Signal;

use crate::command::Running;
use crate::host::Host;
use crate::programs;
use crate::wait::{PATIENCE, wait_until};

const CONFIG: &str = "version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: DIRECTORY/registry } }
http: { addr: 127.0.0.1:5000, secret: any }
";

/// The same, for those who know the password and trust the authority.
const CLOSED: &str = "version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: DIRECTORY/registry } }
http: { addr: 127.0.0.1:5000, secret: any, tls: { certificate: DIRECTORY/registry.pem, key: DIRECTORY/registry.key } }
auth: { htpasswd: { realm: test, path: DIRECTORY/htpasswd } }
";

/// `user` with the password `secret`.
const PASSWORDS: &str = "user:$2b$04$1sxqtsGVtbSLc/2u9798z.pYuXqS3YRGYYxxtLov3zkqmeSOK27pG\n";

/// An authority, and the registry's certificate.
const CERTIFICATES: &str = "
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout registry.key -out registry.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' >names
openssl x509 -req -days 2 -in registry.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out registry.pem
mkdir authority
cp ca.crt authority/
";

/// A registry that runs.
#[derive(Debug)]
pub struct DockerRegistry(Running);

impl DockerRegistry {
    /// Its name.
    pub const NAME: &'static str = "127.0.0.1:5000";

    /// Starts one that anybody may use, without encryption.
    #[track_caller]
    pub fn open(host: &Host) -> Self {
        Self::start(host, CONFIG)
    }

    /// Starts one with a certificate of `ca.crt` in the host's directory, which is in `authority/` too, and with the credentials
    /// `user:secret`.
    ///
    /// # Panics
    /// When the certificate cannot be made.
    #[track_caller]
    pub fn closed(host: &Host) -> Self {
        host.command(&["sh", "-c", CERTIFICATES]).run().succeeded();
        fs::write(host.path("htpasswd"), PASSWORDS).expect("write the passwords");
        Self::start(host, CLOSED)
    }

    #[track_caller]
    fn start(host: &Host, config: &str) -> Self {
        let path = host.path("registry.yml");
        fs::write(&path, config.replace("DIRECTORY", &host.path("."))).expect("write the configuration");
        let running = host.command(&[&programs::docker_registry(), "serve", &path]).start();
        // Its port in the host's table of sockets that listen.
        let listens = format!("/proc/{}/net/tcp", running.pid());
        let table = host.outside(&listens);
        wait_until(PATIENCE, "the registry listens", || {
            assert!(!running.has_ended(), "the registry does not start");
            let sockets = fs::read_to_string(&table).unwrap_or_default();
            if sockets.contains("0100007F:1388 00000000:0000 0A") { Ok(()) } else { Err(sockets) }
        });
        Self(running)
    }

    /// Ends it.
    pub fn end(self) {
        self.0.signal(Signal::SIGTERM);
        self.0.wait();
    }
}
