// SPDX-License-Identifier: Apache-2.0
//! A restore whose CRIU, whose command, or both are killed with SIGKILL at each of CRIU's notifications: the moments in
//! between are drawn in `criu_killed.rs` and `killed.rs`. Nothing is left behind, or the container runs; the images stay as
//! they were, and the next restore works.

use std::cmp::Ordering;
use std::fs;

use criu_tests::{
    Bundle, Container, Host, Moment, Need, PATIENCE, Stage, Status, contents, in_full, put_back, wait_until,
};

const CRIU_FAILED: i32 = 5;

/// In the order in which they come. Until the answer to `post-restore` no process of the container has run.
const SCRIPTS: [&str; 7] = [
    "pre-restore",
    "setup-namespaces",
    "post-setup-namespaces",
    "post-restore",
    "network-unlock",
    "pre-resume",
    "post-resume",
];

/// Before and after the answer; of each notification one of them, unless everything is asked for. After the last answer CRIU has
/// nothing left to do, and may be gone.
fn moments() -> impl Iterator<Item = Moment> {
    let both =
        SCRIPTS.into_iter().flat_map(|script| [false, true].map(|answered| Moment { script, answered }));
    both.enumerate()
        .filter(|(n, moment)| in_full() || matches!(n % 4, 1 | 2) || moment.script == "post-restore")
        .map(|(_, moment)| Moment { answered: moment.answered && moment.script != "post-resume", ..moment })
}

struct Restore<'h> {
    host: &'h Host,
    bundle: Bundle,
    container: Container<'h>,
    images: String,
    whole: Vec<(String, Vec<u8>)>,
    /// The files that go with the images.
    files: Vec<(String, Vec<u8>)>,
    before: Status,
}

impl<'h> Restore<'h> {
    fn of(stage: &Stage, host: &'h Host) -> Self {
        let bundle = Bundle::of_workload(host, "tree", &[]);
        let container = host.run_detached(&stage.id("killed"), &bundle);
        let (images, before) = (host.path("images"), container.reports());
        container.checkpoint(&["--image-path", &images]);
        let (whole, files) = (contents(&images), contents(&state_of(&container)));
        Self { host, bundle, container, images, whole, files, before }
    }

    fn args(&self) -> [String; 9] {
        let work = self.host.path("work");
        let (images, id) = (self.images.clone(), self.container.id().to_owned());
        ["restore", "-d", "--work-path", &work, "--image-path", &images, "-b", &self.bundle.path(), &id]
            .map(str::to_owned)
    }

    fn hold(&self, moment: Moment) -> criu_tests::HeldCriu {
        let args = self.args();
        self.host.hold_criu(&args.each_ref().map(String::as_str), moment)
    }

    /// The container runs, whatever was killed: it is checkpointed anew.
    fn goes_on(&mut self) {
        self.before = self.container.goes_on(&self.before);
        self.container.checkpoint(&["--image-path", &self.images]);
        (self.whole, self.files) = (contents(&self.images), contents(&state_of(&self.container)));
    }

    fn nothing_is_left(&self, moment: Moment) {
        self.host.assert_no_trace();
        assert!(contents(&self.images) == self.whole, "the images are not what they were: {moment:?}");
        put_back(&state_of(&self.container), &self.files);
    }

    /// Its processes hang: who wants it to do something is told so, and what helps. A first process that has not survived CRIU's
    /// death, or does not for long, needs no explanation.
    fn is_told_as_half(&self, moment: Moment) {
        let (host, id) = (self.host, self.container.id());
        let stopped = || self.container.state_status() == "stopped";
        let remedy = format!("migrate delete --force {id}");
        let tells =
            |said: &str| said.contains("was killed before its processes ran") && said.contains(&remedy);
        // What it warns of goes to the log.
        let log = host.path("migrate.log");
        fs::remove_file(&log).expect("remove the log");
        if stopped() {
            return;
        }
        let said = fs::read_to_string(log).unwrap_or_default();
        assert!(tells(&said), "{moment:?}: {said}");
        let images = host.path("other-images");
        let args = self.args();
        for args in [&["checkpoint", "--image-path", &images, id][..], &args.each_ref().map(String::as_str)] {
            let refused = host.migrate(args).failed(1, &[]);
            assert!(tells(&refused) || stopped(), "{moment:?}: {refused}");
        }
    }

    fn works(self) {
        self.container.restore(&self.images, &self.bundle);
        self.container.goes_on(&self.before);
        self.container.end();
        self.host.assert_no_trace();
    }
}

/// Where its report is, and what that is made from: a dump may meet it half written.
fn state_of(container: &Container<'_>) -> String {
    format!("{}/state", container.rootfs())
}

#[test]
fn criu_is_killed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let mut restore = Restore::of(&stage, &host);
    for moment in moments() {
        let output = restore.hold(moment).kill(&host).wait();
        if moment.script == "post-resume" {
            // It has nothing left to do.
            output.succeeded();
            restore.goes_on();
        } else {
            assert_eq!(output.code, CRIU_FAILED, "{moment:?}: {output:?}");
        }
        restore.nothing_is_left(moment);
    }
    restore.works();
}

#[test]
fn the_command_is_killed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let mut restore = Restore::of(&stage, &host);
    for moment in moments() {
        restore.hold(moment).kill_command(&host);
        // CRIU gives up as long as it asks whether it may go on; then it comes to its end.
        let status = restore.container.state_status();
        match restored(moment) {
            Some(true) => assert_eq!(status, "running", "{moment:?}"),
            Some(false) => assert_eq!(status, "stopped", "{moment:?}"),
            None => assert!(["running", "stopped"].contains(&&status[..]), "{status}"),
        }
        if status == "running" {
            restore.goes_on();
        } else {
            host.migrate(&["delete", restore.container.id()]).succeeded();
        }
        restore.nothing_is_left(moment);
    }
    restore.works();
}

/// Whether CRIU goes on without its caller; `None` where that one may have answered before it was killed.
fn restored(moment: Moment) -> Option<bool> {
    let place = |script| SCRIPTS.iter().position(|other| *other == script);
    match place(moment.script).cmp(&place("post-restore")) {
        Ordering::Equal if !moment.answered => None,
        Ordering::Less => Some(false),
        Ordering::Equal | Ordering::Greater => Some(true),
    }
}

#[test]
fn both_are_killed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let restore = Restore::of(&stage, &host);
    for moment in moments() {
        restore.hold(moment).kill_both(&host);
        let id = restore.container.id();
        wait_until(PATIENCE, "its state is told", || {
            let state = host.migrate(&["state", id]);
            if state.code == 0 { Ok(()) } else { Err(state) }
        });
        // Before that CRIU has not told of a first process.
        if moment.script == "post-restore" && moment.answered
            || ["network-unlock", "pre-resume"].contains(&moment.script)
        {
            restore.is_told_as_half(moment);
        }
        if moment.script == "post-resume" {
            let images = host.path("other-images");
            host.migrate(&["checkpoint", "--leave-running", "--image-path", &images, id]).succeeded();
        }
        host.migrate(&["delete", "--force", id]).succeeded();
        restore.nothing_is_left(moment);
    }
    restore.works();
}
