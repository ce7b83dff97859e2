// SPDX-License-Identifier: Apache-2.0
//! Failures of CRIU, provoked for real: what the message says is the cause and what it says helps, word for word. CRIU's
//! own words, ids and paths are not compared. Each test is named after the rule that it shows (`src/diagnose`), so that
//! `docs/diagnoses.md` can tell which rules are shown and which are only read from recorded lines.

mod checkpoints;
mod restores;

use std::fs;

use criu_tests::{Bundle, Container, Host, Need, Stage};
use serde_json::{Value, json};

/// The documented exit code of what CRIU could not do.
const CRIU_FAILED: i32 = 5;

/// What an error tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    cause: String,
    remedy: String,
}

/// The cause and the remedy in what a command printed. The log that it names must be there.
#[track_caller]
fn told(said: &str, id: &str) -> Told {
    let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
    let error = line("error: ").unwrap_or_else(|| panic!("no error in\n{said}"));
    let (_, error) = error.split_once(&format!("container {id}: ")).unwrap_or_else(|| panic!("{error}"));
    let quoted = [": criu: ", ": criu was killed by ", ": criu ended without"];
    let end = quoted.iter().filter_map(|words| error.find(words)).min();
    let cause = &error[..end.unwrap_or_else(|| panic!("CRIU is not quoted in {error}"))];
    let hint = line("hint: ").unwrap_or_else(|| panic!("no hint in\n{said}"));
    let (remedy, log) =
        hint.split_once(" (criu's log: ").unwrap_or_else(|| panic!("no log in the hint {hint}"));
    let log = log.strip_suffix(')').expect("the bracket is closed");
    assert!(fs::read(log).is_ok_and(|log| !log.is_empty()), "the log {log} is not there");
    Told { cause: cause.to_owned(), remedy: remedy.to_owned() }
}

#[track_caller]
fn assert_told(said: &str, id: &str, cause: &str, remedy: &str) {
    assert_eq!(told(said, id), Told { cause: cause.to_owned(), remedy: remedy.to_owned() }, "{said}");
}

/// What is in the way, and how.
#[derive(Default)]
struct Obstacle {
    kind: &'static str,
    arguments: Vec<&'static str>,
    edits: Vec<fn(&mut Value)>,
    /// Flags of the checkpoint.
    flags: Vec<&'static str>,
}

impl Obstacle {
    fn of(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    fn at(mut self, at: &'static str) -> Self {
        self.arguments.extend(["--at", at]);
        self
    }

    fn edit(mut self, edit: fn(&mut Value)) -> Self {
        self.edits.push(edit);
        self
    }

    fn flags(mut self, flags: &[&'static str]) -> Self {
        self.flags.extend(flags);
        self
    }

    fn bundle(&self, host: &Host) -> Bundle {
        let options = [&["--kind", self.kind][..], &self.arguments].concat();
        let bundle = Bundle::of_workload(host, "obstacle", &options);
        self.edits.iter().fold(bundle, Bundle::edit)
    }

    /// The checkpoint fails for this reason, and the container runs on.
    #[track_caller]
    fn stops_the_checkpoint(&self, cause: &str, remedy: &str) {
        let Some(stage) = Stage::set(&[Need::Criu]) else { return };
        let host = stage.host("a");
        let bundle = self.bundle(&host);
        let container = host.run_detached(&stage.id("x"), &bundle);
        self.assert_refused(&host, &container, cause, remedy);
        container.end();
        host.assert_no_trace();
    }

    #[track_caller]
    fn assert_refused(&self, host: &Host, container: &Container<'_>, cause: &str, remedy: &str) {
        let images = host.path("images");
        let arguments =
            [&["checkpoint", "--no-check", "--image-path", &images][..], &self.flags, &[container.id()]]
                .concat();
        let said = container.runs_on_beside(&arguments, CRIU_FAILED, &[]);
        assert_told(&said, container.id(), cause, &remedy.replace("IMAGES", &images));
    }

    /// The checkpoint works; after `change` (of the bundle and of the images) the restore fails for this reason. It
    /// leaves nothing behind.
    #[track_caller]
    fn stops_the_restore(&self, change: impl FnOnce(&Place<'_>), cause: &str, remedy: &str) {
        let Some(stage) = Stage::set(&[Need::Criu]) else { return };
        let host = stage.host("a");
        let bundle = self.bundle(&host);
        let container = host.run_detached(&stage.id("x"), &bundle);
        let images = host.path("images");
        container.checkpoint(&[&["--image-path", &images][..], &self.flags].concat());
        change(&Place { bundle: &bundle, images: &images });
        let arguments = ["restore", "-d", "--image-path", &images, "-b", &bundle.path()];
        let arguments = [&arguments[..], &[container.id()]].concat();
        let output = host.migrate_command(&arguments).run();
        let said = output.failed(CRIU_FAILED, &[]);
        assert_told(&said, container.id(), cause, &remedy.replace("IMAGES", &images));
        host.assert_no_trace();
    }
}

/// Where something is changed between a checkpoint and a restore.
struct Place<'a> {
    bundle: &'a Bundle,
    images: &'a str,
}

impl Place<'_> {
    fn in_rootfs(&self, path: &str) -> String {
        format!("{}{path}", self.bundle.rootfs())
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.images)
    }

    /// Changes the bytes of an image.
    fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.image(name);
        let mut bytes = fs::read(&path).expect("read an image");
        change(&mut bytes);
        fs::write(&path, bytes).expect("write an image");
    }

    /// Changes `config.json`.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle.config();
        let mut config = serde_json::from_slice(&fs::read(&path).expect("read config.json")).expect("JSON");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("write config.json");
    }
}

/// Gives the process all that it needs for what needs rights, and no filter of system calls.
fn with_rights(config: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        let set = config["process"]["capabilities"][set].as_array_mut().expect("a set");
        set.extend(["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_NET_RAW"].map(|c| json!(c)));
    }
}

/// Takes away a namespace.
fn without_namespace(config: &mut Value, kind: &str) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != json!(kind));
}

/// A CRIU that starts with this line of shell.
fn criu_after(host: &Host, line: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = host.path("wrapped-criu");
    let criu = criu_tests::criu();
    fs::write(&path, format!("#!/bin/sh\n{line}\nexec {criu} \"$@\"\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}
