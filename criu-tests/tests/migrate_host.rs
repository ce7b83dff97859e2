// SPDX-License-Identifier: Apache-2.0
//! `scripts/migrate-host` between two hosts, over a connection that fails as the test wants it to: exactly one of the
//! two containers runs at the end, and the exit code tells which.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use criu_tests::{Bundle, Host, Need, PATIENCE, Podman, Stage, Status, wait_until};

/// What the connection does.
enum Fault {
    /// All commands arrive, and their answers.
    None,
    /// The first copy ends after so many bytes.
    CopyCutAfter(u32),
    /// The restore arrives and begins, and then the connection is gone.
    RestoreWithoutAnswer,
    /// The restore does not arrive, until the test sends it.
    RestoreHeldBack,
    /// The restore arrives, and the caller is killed.
    CallerKilledAtRestore,
    /// The restore arrives, and everything there is killed before it has done anything.
    RestoreKilled,
    /// The restore arrives, and nothing after it does while the file `unreachable` is there.
    UnreachableAfterRestore,
}

/// Two hosts, a container on the first, and the program that plays `ssh`.
struct Move<'s> {
    a: Host,
    b: Host,
    stage: &'s Stage,
    bundle: Bundle,
    before: Status,
}

impl<'s> Move<'s> {
    fn prepare(stage: &'s Stage) -> Self {
        let (a, b) = (stage.host("a"), stage.host("b"));
        let (bundle, container) = a.run_small(&stage.id("here"));
        let before = container.reports();
        Self { a, b, stage, bundle, before }
    }

    /// The script that stands in for ssh: its arguments are the host and the command, its input that of the command.
    fn ssh(&self, fault: &Fault) -> String {
        let enter = self.b.entering().join(" ");
        let directory = self.b.path("");
        let run = format!("exec {enter} sh -c \"$*\"");
        let at_restore = |then: &str| {
            format!(
                "case $script in *'restore'*'--import'*) {then} ;; esac\nprintf '%s\\n' \"$script\" | {enter} sh -c \"$*\""
            )
        };
        let piped = format!("printf '%s\\n' \"$script\" | {enter} sh -c \"$*\"");
        let scripts = match fault {
            Fault::RestoreWithoutAnswer => at_restore(&format!(
                "({piped}) >/dev/null 2>&1 &
                n=0
                until [ $n -gt 1000 ] || ls {directory}moves/claims | grep -qv '[.]'; do sleep 0.01; n=$((n + 1)); done
                exit 255"
            )),
            Fault::RestoreHeldBack => {
                at_restore(&format!("printf '%s\\n' \"$script\" >{directory}/held; exit 255"))
            }
            Fault::CallerKilledAtRestore => at_restore(&format!("{piped}; kill -KILL \"$caller\"; exit 255")),
            Fault::RestoreKilled => at_restore(&format!(
                "printf '%s\\n' \"$script\" | sed 's/code=0$/kill -KILL 0/' | {enter} setsid sh -c \"$*\"; exit 255"
            )),
            Fault::UnreachableAfterRestore => format!(
                "[ ! -e {directory}/unreachable ] || exit 255\n{}",
                at_restore(&format!("{piped}; touch {directory}/unreachable; exit 255"))
            ),
            Fault::None | Fault::CopyCutAfter(_) => piped.clone(),
        };
        let copies = match fault {
            Fault::CopyCutAfter(bytes) => format!(
                "[ -e {directory}/cut ] || {{ touch {directory}/cut; head -c {bytes} | {enter} sh -c \"$*\"; exit 255; }}\n{run}"
            ),
            _ => run,
        };
        let text = format!(
            "#!/bin/sh\ncaller=$(cat {directory}/caller)\nshift\ncase $* in\n'sh -s') script=$(cat)\n{scripts} ;;\n*) {copies} ;;\nesac\n"
        );
        let path = self.b.path("ssh");
        script(&path, &text);
        path
    }

    fn here(&self) -> String {
        self.stage.id("here")
    }

    fn there(&self) -> String {
        self.stage.id("there")
    }

    /// Calls the script. The stand-in for ssh finds the caller's pid in a file.
    fn call(&self, fault: &Fault, more: &[&str]) -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/migrate-host");
        let ours = [self.a.entering(), self.a.migrate_argv(&[])].concat().join(" ");
        let caller = self.b.path("caller");
        Command::new("sh")
            .args(["-c", &format!("echo $$ >{caller}; exec \"$@\""), "sh", script])
            .args(["--ssh", &self.ssh(fault), "--migrate", &ours])
            .args(["--remote-migrate", &self.b.migrate_argv(&[]).join(" ")])
            .args(["--directory", &self.b.path("moves"), "--name", &self.there()])
            .args(more)
            .args([&self.here(), "destination"])
            .env("MIGRATE_HOST_PATIENCE", "2")
            .output()
            .expect("start scripts/migrate-host")
    }

    /// The container goes on there, with its memory and its file; here is nothing any more.
    #[track_caller]
    fn assert_moved(&self) {
        let there = self.b.imported(&self.there());
        there.goes_on(&self.before);
        assert_eq!(self.a.container_ids(), Vec::<String>::new(), "the source is removed");
        assert_eq!(self.files_that_are_left(), Vec::<String>::new());
        there.end();
    }

    /// The container goes on here, and there is none.
    #[track_caller]
    fn assert_stayed(&self) {
        let here = self.a.container(&self.here(), &self.bundle.rootfs());
        here.goes_on(&self.before);
        assert_eq!(self.b.container_ids(), Vec::<String>::new(), "no second container");
        assert_eq!(self.files_that_are_left(), Vec::<String>::new());
        here.end();
    }

    /// Archives and records of moves.
    fn files_that_are_left(&self) -> Vec<String> {
        let list = |path: String| fs::read_dir(path).into_iter().flatten().flatten();
        let found =
            ["outgoing", "incoming"].iter().flat_map(|name| list(self.b.path(&format!("moves/{name}"))));
        let names = found.map(|entry| entry.file_name().into_string().expect("a plain name"));
        names.filter(|name| !name.starts_with(".lock-")).collect()
    }
}

/// Writes a program.
fn script(path: &str, text: &str) {
    fs::write(path, text).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
}

#[test]
fn a_container_moves_and_nothing_is_left_at_the_source() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::None, &["--dry-run"]);
    assert_code(&output, 0);
    moving.a.container(&moving.here(), &moving.bundle.rootfs()).goes_on(&moving.before);
    assert_eq!(moving.files_that_are_left(), Vec::<String>::new(), "--dry-run leaves nothing");
    let output = moving.call(&Fault::None, &[]);
    assert_code(&output, 0);
    assert!(
        text(&output).ends_with(&format!("{} runs on destination\n", moving.there())),
        "{}",
        text(&output)
    );
    moving.assert_moved();
}

#[test]
fn a_copy_that_breaks_off_goes_on_where_it_was() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::CopyCutAfter(65536), &[]);
    assert_code(&output, 0);
    assert!(text(&output).contains("the connection broke; trying again"), "{}", text(&output));
    moving.assert_moved();
}

#[test]
fn a_restore_whose_answer_is_lost_is_asked_for() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    assert_code(&moving.call(&Fault::RestoreWithoutAnswer, &[]), 0);
    moving.assert_moved();
}

/// Exactly one copy: the command that was on its way must not do anything any more.
#[test]
fn a_restore_that_arrives_after_the_source_has_gone_on_does_nothing() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::RestoreHeldBack, &[]);
    assert_code(&output, 1);
    assert!(text(&output).contains("runs here as before"), "{}", text(&output));
    let held = fs::File::open(moving.b.path("held")).expect("the held command");
    let enter = moving.b.entering();
    let late = Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-s"]).stdin(held).output().expect("sh");
    assert_code(&late, 1);
    assert!(text(&late).contains("not empty"), "{}", text(&late));
    moving.assert_stayed();
}

#[test]
fn a_caller_that_is_killed_is_called_again_and_finishes() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::CallerKilledAtRestore, &[]);
    assert_eq!(output.status.code(), None, "killed: {}", text(&output));
    assert_code(&moving.call(&Fault::None, &[]), 0);
    moving.assert_moved();
}

#[test]
fn a_destination_that_falls_silent_leaves_the_source_paused_until_it_is_asked_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::UnreachableAfterRestore, &[]);
    assert_code(&output, 3);
    assert!(text(&output).contains("call this command again"), "{}", text(&output));
    assert_eq!(moving.a.state(&moving.here())["status"], "paused");
    fs::remove_file(moving.b.path("unreachable")).expect("the way is free again");
    assert_code(&moving.call(&Fault::UnreachableAfterRestore, &[]), 0);
    moving.assert_moved();
}

#[test]
fn a_restore_that_is_killed_is_known_to_have_failed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let output = moving.call(&Fault::RestoreKilled, &[]);
    assert_code(&output, 1);
    assert!(text(&output).contains("the restore was killed"), "{}", text(&output));
    moving.assert_stayed();
}

#[test]
fn what_the_destination_cannot_restore_goes_on_at_the_source() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    // A bundle directory with files in it, but no configuration.
    let bundle = moving.b.path("occupied");
    fs::create_dir_all(format!("{bundle}/something")).expect("mkdir");
    let output = moving.call(&Fault::None, &["--bundle", &bundle]);
    assert_code(&output, 1);
    assert!(text(&output).contains("has files but no config.json"), "{}", text(&output));
    moving.assert_stayed();
}

#[test]
fn what_stands_in_the_way_is_told_before_anything_is_touched() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let moving = Move::prepare(&stage);
    let taken = moving.there();
    let (_bundle, other) = moving.b.run_small(&taken);
    let output = moving.call(&Fault::None, &[]);
    assert_code(&output, 1);
    assert!(
        text(&output).contains(&format!("destination has a container {taken} already")),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("Nothing was touched"), "{}", text(&output));
    other.end();
    wait_until(PATIENCE, "the other container is gone", || {
        let ids = moving.b.container_ids();
        if ids.is_empty() { Ok(()) } else { Err(ids) }
    });
    moving.assert_stayed();
}

#[test]
fn a_container_of_podman_moves_with_its_image_and_its_volume() {
    let Some(stage) = Stage::set(&[Need::Podman, Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (here, there) = (Podman::on(&a), Podman::on(&b));
    there.podman(&["rmi", Podman::IMAGE]).succeeded();
    // What it counts goes into the volume, and from there into no second copy.
    let counts = "i=0; while :; do i=$((i+1)); echo $i >>/kept/count; echo $i; sleep 0.1; done";
    let options = ["-d", "--name", "counting", "--volume", "kept:/kept"];
    here.run_command(&options, &["sh", "-c", counts]).run().succeeded();
    here.logs("counting", "\n5");
    let bin = a.path("bin");
    fs::create_dir_all(&bin).expect("mkdir");
    let path = here.path_variable();
    let call = |host: &Host, command: &str| {
        format!("exec {} env PATH={path} HOME=/root {command}", host.entering().join(" "))
    };
    script(&format!("{bin}/podman"), &format!("#!/bin/sh\n{}\n", call(&a, "podman \"$@\"")));
    script(&a.path("ssh"), &format!("#!/bin/sh\nshift\n{}\n", call(&b, "sh -c \"$*\"")));
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/migrate-host"))
        .args(["--engine", "podman", "--ssh", &a.path("ssh"), "--directory", &b.path("moves")])
        .args(["counting", "destination"])
        .env("PATH", format!("{bin}:{path}"))
        .output()
        .expect("start scripts/migrate-host");
    assert_code(&output, 0);
    let kept = there.podman(&["volume", "inspect", "-f", "{{.Mountpoint}}", "kept"]).succeeded();
    let counted = || fs::read_to_string(b.outside(&format!("{}/count", kept.trim()))).unwrap_or_default();
    let before = counted().lines().count();
    let numbers = wait_until(PATIENCE, "it counts on there", || {
        let text = counted();
        if text.lines().count() > before + 2 { Ok(text) } else { Err(text) }
    });
    assert!(numbers.lines().enumerate().all(|(i, line)| line == (i + 1).to_string()), "{numbers}");
    assert_eq!(here.podman(&["ps", "--all", "--quiet"]).succeeded(), "", "the source is removed");
    there.podman(&["rm", "--force", "--time", "0", "counting"]).succeeded();
}
