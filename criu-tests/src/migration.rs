// SPDX-License-Identifier: Apache-2.0
//! A migration as a test sees it: who receives, and what each host has written down.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::command::Running;
use crate::host::Host;
use crate::wait::{PATIENCE, wait_until};

/// A receiver that listens on a host.
#[derive(Debug)]
pub struct Receiver<'h> {
    host: &'h Host,
    /// What runs, until somebody takes it.
    pub running: Option<Running>,
    /// Where it listens, as a destination of `migrate to`.
    pub at: String,
}

impl<'h> Receiver<'h> {
    /// Starts it with these further arguments, and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn on(host: &'h Host, args: &[&str]) -> Self {
        let path = host.path("receive.sock");
        let _ = fs::remove_file(&path);
        let at = format!("unix:{path}");
        let running =
            host.migrate_command(&[&["receive", "--listen", &at], args].concat()).without_stdio().start();
        wait_until(PATIENCE, "somebody listens", || match UnixStream::connect(&path) {
            Ok(_) => Ok(()),
            Err(e) if running.has_ended() => panic!("the receiver has ended: {e}"),
            Err(e) => Err(e.to_string()),
        });
        Self { host, running: Some(running), at }
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGKILL);
            running.wait();
            self.host.signal_served(Signal::SIGKILL);
        }
    }
}

/// A host that welcomes every container, takes all that comes, and says nothing more than it is told to.
#[derive(Debug)]
pub struct Silent {
    /// Where it listens, as a destination of `migrate to`.
    pub at: String,
    /// It ends with the connection.
    pub thread: JoinHandle<()>,
}

impl Silent {
    /// It answers FINAL with READY if it is `willing`.
    ///
    /// # Panics
    /// When it cannot listen at this path.
    #[track_caller]
    pub fn at(path: &str, willing: bool) -> Self {
        let listener = UnixListener::bind(path).expect("listen");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            drop(listener);
            let mut more = None;
            while let Some((kind, bytes)) = frame(&mut stream) {
                let Ok(said) = serde_json::from_slice::<Value>(&bytes) else { continue };
                if let Some(offer) = said.get("offer") {
                    more =
                        Some(more.map_or_else(|| offer["more"].as_u64().unwrap_or(0), |left: u64| left - 1));
                }
                let answer = match () {
                    () if kind != 1 => continue,
                    () if said.get("hello").is_some() => said,
                    () if said.get("offer").is_some() && more == Some(0) => {
                        json!({"answer": {"blockers": [], "criu": "4.2", "kernel": "6.1", "free": 1}})
                    }
                    () if willing && said["handoff"]["kind"] == "FINAL" => {
                        json!({"handoff": {"tag": said["handoff"]["tag"], "kind": "READY"}})
                    }
                    () => continue,
                };
                say(&mut stream, &answer);
            }
        });
        Self { at: format!("unix:{path}"), thread }
    }
}

/// The only migration that a host's state root has, if it has one.
///
/// # Panics
/// When it has several.
#[track_caller]
pub fn migration(host: &Host) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(host.outside(&host.path("state/.migrations")))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("hexadecimal digits"))
        .collect();
    assert!(names.len() < 2, "{names:?}");
    names.pop()
}

/// Waits until a host has written this down of its migration.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn recorded(host: &Host, what: &str) {
    wait_until(PATIENCE, what, || {
        let text = journal(host);
        if text.contains(&format!("\"{what}\"")) { Ok(()) } else { Err(text) }
    });
}

/// What a host has written down of its migration: nothing without one.
pub fn journal(host: &Host) -> String {
    let path = migration(host).map(|id| host.outside(&host.path(&format!("state/.migrations/{id}/journal"))));
    let bytes = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The next frame of the protocol, its kind and content, of whoever speaks to a host that a test plays; `None` at the end.
pub fn frame(stream: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).ok()?;
    Some((head[0], bytes))
}

/// Says this to whoever speaks to a host that a test plays, who may be gone.
///
/// # Panics
/// When it is longer than a frame can be.
pub fn say(stream: &mut UnixStream, said: &Value) {
    let bytes = said.to_string().into_bytes();
    let length = u32::try_from(bytes.len()).expect("short").to_le_bytes();
    let _ = stream.write_all(&[&[1], &length[..], &bytes].concat());
}
