// SPDX-License-Identifier: Apache-2.0
//! A row of the zoo's tables: how an exhibit is run and with which flags it is moved; and the four stories that a row
//! may tell: [`carried`], [`refused`], [`lost`] and [`dead_end`].

use std::fs;

use criu_tests::{Bundle, Container, Host, HugePages, Need, PATIENCE, Stage, in_full, wait_until};
use serde_json::{Value, json};

/// How an exhibit is shown. The default is right for most.
#[derive(Debug, Default)]
pub(crate) struct Row {
    needs: Vec<Need>,
    flags: Vec<&'static str>,
    checkpoint: Vec<&'static str>,
    capabilities: Vec<&'static str>,
    bundle: Vec<fn(&Host, Bundle) -> Bundle>,
    config: Vec<fn(&mut Value)>,
}

impl Row {
    /// With these flags of checkpoint and of restore.
    pub(crate) fn flags(mut self, flags: &[&'static str]) -> Self {
        self.flags.extend(flags);
        self
    }

    /// With these flags of checkpoint alone.
    pub(crate) fn checkpoint(mut self, flags: &[&'static str]) -> Self {
        self.checkpoint.extend(flags);
        self
    }

    /// Only where this is there.
    pub(crate) fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    /// In a bundle that was changed; the host is the first one.
    pub(crate) fn bundle(mut self, change: fn(&Host, Bundle) -> Bundle) -> Self {
        self.bundle.push(change);
        self
    }

    /// With these capabilities besides those of `migrate spec`.
    pub(crate) fn capabilities(mut self, names: &[&'static str]) -> Self {
        self.capabilities.extend(names);
        self
    }

    /// With a tmpfs at `/scratch`, which goes along.
    pub(crate) fn scratch(self) -> Self {
        self.config(|config| {
            let mount = json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]});
            config["mounts"].as_array_mut().expect("a list").push(mount);
        })
    }

    /// With a directory of the first host's at `/bound`. The hosts of a test see the same files.
    pub(crate) fn bound(self) -> Self {
        self.bundle(|host, bundle| {
            let source = host.path("bound");
            fs::create_dir(&source).expect("make the source of a bind");
            bundle.edit(|config| {
                let mount = json!({"destination": "/bound", "type": "bind", "source": source, "options": ["rbind", "rw"]});
                config["mounts"].as_array_mut().expect("a list").push(mount);
            })
        })
    }

    /// With another configuration.
    pub(crate) fn config(mut self, change: fn(&mut Value)) -> Self {
        self.config.push(change);
        self
    }
}

/// A table of exhibits that CRIU carries: `name` or `name => |row| row.flags(..)`.
macro_rules! exhibits {
    ($($name:ident $(=> $change:expr)?),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                let row = $crate::row::Row::default();
                $( let change: fn($crate::row::Row) -> $crate::row::Row = $change; let row = change(row); )?
                $crate::row::carried(stringify!($name), &row, NAMES);
            }
        )*
    };
}

/// A table of exhibits that CRIU does not carry, each with what its log says.
macro_rules! limits {
    ($($name:ident $said:literal $(=> $change:expr)?),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        pub(crate) const SAID: &[(&str, &str)] = &[$((stringify!($name), $said)),*];
        $(
            #[test]
            fn $name() {
                let row = $crate::row::Row::default();
                $( let change: fn($crate::row::Row) -> $crate::row::Row = $change; let row = change(row); )?
                $crate::row::refused(stringify!($name), &row, $said);
            }
        )*
    };
}

/// A table of exhibits that CRIU carries, but not all of it and without a word: each with what it finds changed.
macro_rules! losses {
    ($($name:ident $found:literal $(=> $change:expr)?),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        pub(crate) const FOUND: &[(&str, &str)] = &[$((stringify!($name), $found)),*];
        $(
            #[test]
            fn $name() {
                let row = $crate::row::Row::default();
                $( let change: fn($crate::row::Row) -> $crate::row::Row = $change; let row = change(row); )?
                $crate::row::lost(stringify!($name), &row, $found);
            }
        )*
    };
}

/// A table of exhibits that CRIU dumps and does not restore, each with what its log says.
macro_rules! dead_ends {
    ($($name:ident $said:literal $(=> $change:expr)?),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        pub(crate) const SAID: &[(&str, &str)] = &[$((stringify!($name), $said)),*];
        $(
            #[test]
            fn $name() {
                let row = $crate::row::Row::default();
                $( let change: fn($crate::row::Row) -> $crate::row::Row = $change; let row = change(row); )?
                $crate::row::dead_end(stringify!($name), &row, $said);
            }
        )*
    };
}

/// The exit code of what CRIU could not do.
const CRIU_FAILED: i32 = 5;
/// That of a `check` that finds no checkpoint possible.
const NOT_POSSIBLE: i32 = 11;
/// What `check` cannot see from outside, or what is over in a moment.
const UNFORESEEN: [&str; 4] = [
    "waiting_for_vfork",
    "shared_file_system_information",
    "unix_connection_that_waits_with_data",
    "address_that_nobody_has",
];

fn bundle(host: &Host, exhibit: &str, row: &Row) -> Bundle {
    let options = ["--exhibit", exhibit, "--tick-ms", "3"];
    let bundle = Bundle::of_workload(host, "zoo", &options);
    let bundle = bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            let set = config["process"]["capabilities"][set].as_array_mut().expect("a list");
            set.extend(row.capabilities.iter().map(|name| json!(name)));
        }
    });
    let bundle = row.config.iter().fold(bundle, Bundle::edit);
    row.bundle.iter().fold(bundle, |bundle, change| change(host, bundle))
}

/// Shows that the exhibit goes on after it was checkpointed and restored in place, and again on another host after it went
/// there in an archive. Unless everything is asked for, it goes one of these ways: its place in the table says which, so
/// that each table shows both.
#[track_caller]
pub(crate) fn carried(exhibit: &str, row: &Row, table: &[&str]) {
    let Some(stage) = Stage::set(&[&[Need::Criu], row.needs.as_slice()].concat()) else { return };
    // Given back when the hosts, and with them all who use them, are gone.
    let _pages = row.needs.contains(&Need::HugePages).then(|| HugePages::reserve(8));
    let place = table.iter().position(|name| *name == exhibit).expect("the exhibit is in its table");
    let both = in_full() || table.len() == 1;
    let (stays, moves) = (both || place.is_multiple_of(2), both || !place.is_multiple_of(2));
    let a = stage.host("a");
    let bundle = bundle(&a, exhibit, row);
    let container = a.run_detached(&stage.id("first"), &bundle);
    let mut before = container.reports();

    if stays {
        let images = a.path("images");
        container.checkpoint(&[&row.checkpoint, &row.flags, ["--image-path", &images].as_slice()].concat());
        restore(&a, row, &["--image-path", &images, "-b", &bundle.path()], container.id());
        before = container.goes_on(&before);
    }
    if !moves {
        container.end();
        a.assert_no_trace();
        return;
    }
    let b = stage.host("b");
    let archive = stage.path("moved.tar");
    container.checkpoint(&[&row.checkpoint, &row.flags, ["--export", &archive].as_slice()].concat());
    a.assert_no_trace();
    a.remove_bundles();
    restore(&b, row, &["--allow", "all", "--import", &archive], &stage.id("second"));
    let container = b.imported(&stage.id("second"));
    container.goes_on(&before);
    container.end();
    b.assert_no_trace();
}

fn restore(host: &Host, row: &Row, args: &[&str], id: &str) {
    host.migrate_detached(&[&["restore", "-d"], row.flags.as_slice(), args, &[id]].concat());
}

/// Shows that CRIU does not dump the exhibit, that its log says `said`, and that the container runs on.
#[track_caller]
pub(crate) fn refused(exhibit: &str, row: &Row, said: &str) {
    let Some(stage) = Stage::set(&[&[Need::Criu], row.needs.as_slice()].concat()) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, exhibit, row);
    let container: Container<'_> = host.run_detached(&stage.id("first"), &bundle);
    let (images, work) = (host.path("images"), host.path("work"));
    is_foreseen(exhibit, &host, row, &container);
    let places = ["checkpoint", "--no-check", "--image-path", &images, "--work-path", &work];
    let arguments = [&places, row.checkpoint.as_slice(), &row.flags, &[container.id()]].concat();
    container.runs_on_beside(&arguments, CRIU_FAILED, &["criu"]);
    expect_in_log(&format!("{work}/dump.log"), said);
    container.end();
    host.assert_no_trace();
}

/// Shows that the exhibit is checkpointed and restored without an error, and that it then finds `found` at fault.
#[track_caller]
pub(crate) fn lost(exhibit: &str, row: &Row, found: &str) {
    let Some(stage) = Stage::set(&[&[Need::Criu], row.needs.as_slice()].concat()) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, exhibit, row);
    let container = host.run_detached(&stage.id("first"), &bundle);
    container.reports();
    let images = host.path("images");
    container.checkpoint(&[&row.checkpoint, &row.flags, ["--image-path", &images].as_slice()].concat());
    restore(&host, row, &["--image-path", &images, "-b", &bundle.path()], container.id());
    let fault = wait_until(PATIENCE, "the workload finds a fault", || {
        let status = container.status();
        status.clone().filter(|status| status.field("ok") != "yes").ok_or(status)
    });
    assert!(fault.field("ok").contains(found), "{found:?} is not what the workload finds: {fault:?}");
    container.end();
    host.assert_no_trace();
}

/// Shows that the exhibit is checkpointed, and that CRIU does not restore it: its log says `said`, and nothing is left.
#[track_caller]
pub(crate) fn dead_end(exhibit: &str, row: &Row, said: &str) {
    let Some(stage) = Stage::set(&[&[Need::Criu], row.needs.as_slice()].concat()) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, exhibit, row);
    let container = host.run_detached(&stage.id("first"), &bundle);
    is_foreseen(exhibit, &host, row, &container);
    let (images, work) = (host.path("images"), host.path("work"));
    let places = ["--no-check", "--image-path", &images];
    container.checkpoint(&[&row.checkpoint, &row.flags, places.as_slice()].concat());
    let places = ["restore", "-d", "--image-path", &images, "--work-path", &work, "-b", &bundle.path()];
    let arguments = [&places, row.flags.as_slice(), &[container.id()]].concat();
    host.migrate(&arguments).failed(CRIU_FAILED, &["criu"]);
    expect_in_log(&format!("{work}/restore.log"), said);
    host.assert_no_trace();
}

/// Shows that `check` and `checkpoint` know it before anything is stopped, where they can.
#[track_caller]
fn is_foreseen(exhibit: &str, host: &Host, row: &Row, container: &Container<'_>) {
    if UNFORESEEN.contains(&exhibit) {
        return;
    }
    let told = host.migrate(&["check", container.id()]);
    assert_eq!(told.code, NOT_POSSIBLE, "{}{}", told.stdout, told.stderr);
    let images = host.path("images");
    let places = ["checkpoint", "--image-path", &images];
    let arguments = [&places, row.checkpoint.as_slice(), &row.flags, &[container.id()]].concat();
    container.runs_on_beside(&arguments, CRIU_FAILED, &[]);
    assert!(!fs::exists(&images).expect("look"), "nothing is made before the refusal");
}

/// Asserts that one of CRIU's errors in this log holds `said`.
#[track_caller]
fn expect_in_log(log: &str, said: &str) {
    let text = fs::read_to_string(log).expect("the log of what failed is kept");
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("Error")).collect();
    assert!(errors.iter().any(|line| line.contains(said)), "{said:?} is not in CRIU's errors: {errors:#?}");
}
