// SPDX-License-Identifier: Apache-2.0
//! Terminals: bundles exactly as `migrate spec` writes them, in the foreground, behind a console socket, and moved.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use criu_tests::{Bundle, Host, Need, Output, PATIENCE, Running, Stage, Terminal, wait_until};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

const WITHOUT_SOCKET: &str = "cannot allocate tty if migrate will detach without setting console socket";
const WITHOUT_USE: &str = "cannot use console socket if migrate will not detach or allocate tty";

/// A console socket on a host.
struct Console {
    path: String,
    listener: UnixListener,
}

impl Console {
    fn listen(host: &Host) -> Self {
        let path = host.path("console");
        Self { listener: UnixListener::bind(&path).expect("bind the console socket"), path }
    }

    /// Runs a command that sends a terminal here.
    #[track_caller]
    fn terminal_of(&self, host: &Host, args: &[&str]) -> Terminal {
        let (command, rest) = args.split_first().expect("a command");
        host.migrate_detached(&[&[*command, "--console-socket", &self.path], rest].concat());
        Terminal::receive(&self.listener)
    }
}

/// Starts a command on a terminal of its own; it has been taken over when this returns.
fn on_terminal(host: &Host, args: &[&str]) -> (Running, Terminal, OwnedFd) {
    let (terminal, inner) = Terminal::open();
    terminal.resize(30, 101);
    let copy = || inner.try_clone().expect("dup");
    let running = host.migrate_command(args).stdin(copy()).stdout(copy()).start();
    wait_until(PATIENCE, "the terminal becomes raw", || {
        if is_raw(&inner) { Ok(()) } else { Err(running.has_ended()) }
    });
    (running, terminal, inner)
}

fn is_raw(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal).expect("the terminal's modes");
    !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
}

fn stopped(host: &Host, id: &str) {
    wait_until(PATIENCE, "the container stops", || {
        let state = host.state(id);
        if state["status"] == json!("stopped") { Ok(()) } else { Err(state) }
    });
    host.migrate(&["delete", id]).succeeded();
}

#[test]
fn the_bundle_of_spec_runs_on_the_callers_terminal() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_shell(&host, "spec");
    let (running, mut terminal, inner) =
        on_terminal(&host, &["run", "-b", &bundle.path(), &stage.id("spec")]);

    assert_eq!(terminal.asks("tty"), "/dev/pts/0");
    assert_eq!(terminal.asks("stty size"), "30 101", "the caller's window");
    assert_eq!(terminal.asks("stty size < /dev/console"), "30 101");
    assert_eq!(terminal.asks("test -e /dev/tty && cat < /dev/null > /dev/tty && echo mine"), "mine");

    terminal.interrupts_a_program(&host);

    terminal.resize(31, 90);
    running.signal(Signal::SIGWINCH);
    wait_until(PATIENCE, "the new size arrives", || match terminal.asks("stty size") {
        size if size == "31 90" => Ok(()),
        other => Err(other),
    });

    terminal.types("exit 7\n");
    assert_eq!(running.wait().code, 7);
    assert!(!is_raw(&inner), "the caller's terminal is as it was");
    host.assert_no_trace();
}

#[test]
fn the_callers_terminal_is_restored_when_the_container_is_killed() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, id) = (Bundle::of_shell(&host, "spec"), stage.id("killed"));
    let (running, _terminal, inner) = on_terminal(&host, &["run", "-b", &bundle.path(), &id]);
    host.migrate(&["kill", &id, "KILL"]).succeeded();
    assert_eq!(running.wait().code, 128 + 9);
    assert!(!is_raw(&inner), "the caller's terminal is as it was");
    host.assert_no_trace();
}

#[test]
fn a_terminal_without_a_terminal_outside_works() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_shell(&host, "spec")
        .edit(|config| config["process"]["consoleSize"] = json!({"height": 40, "width": 132}));
    let mut input = tempfile::tempfile().expect("a file");
    write!(input, "tty\nstty size\nexit 3\n").expect("write");
    std::io::Seek::rewind(&mut input).expect("rewind");
    let output: Output =
        host.migrate_command(&["run", "-b", &bundle.path(), &stage.id("piped")]).stdin(input).run();
    assert_eq!(output.code, 3, "{output:?}");
    for shown in ["/dev/pts/0\n", "40 132\n"] {
        assert!(output.stdout.contains(shown), "{shown:?} in {output:?}");
    }
    assert!(!output.stdout.contains('\r'), "a newline is a newline: {output:?}");
    host.assert_no_trace();
}

#[test]
fn a_user_owns_its_terminal() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_shell(&host, "spec")
        .edit(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    let (running, mut terminal, _inner) =
        on_terminal(&host, &["run", "-b", &bundle.path(), &stage.id("user")]);
    assert_eq!(terminal.asks("test -O $(tty) && test -w $(tty) && echo mine"), "mine");
    terminal.types("exit\n");
    assert_eq!(running.wait().code, 0);
}

#[test]
fn a_long_console_socket_path_is_no_obstacle_and_exec_has_terminals_too() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, id) = (Bundle::of_shell(&host, "spec"), stage.id("exec"));
    let console = Console::listen(&host);
    let deep = host.path(&"d".repeat(120));
    symlink(host.path(""), &deep).expect("symlink");
    host.migrate_detached(&[
        "run",
        "-d",
        "--console-socket",
        &format!("{deep}/console"),
        "-b",
        &bundle.path(),
        &id,
    ]);
    let mut terminal = Terminal::receive(&console.listener);
    assert_eq!(terminal.asks("tty"), "/dev/pts/0");

    let mut second = console.terminal_of(&host, &["exec", "-d", "-t", &id, "sh"]);
    assert_eq!(second.asks("tty"), "/dev/pts/1");
    let (running, mut third, inner) = on_terminal(&host, &["exec", "-t", &id, "sh"]);
    assert_eq!(third.asks("tty; stty size"), "/dev/pts/2\r\n30 101");
    third.types("exit 5\n");
    assert_eq!(running.wait().code, 5);
    assert!(!is_raw(&inner));
    let plain = host.migrate(&["exec", &id, "tty"]);
    assert_eq!((plain.code, plain.stdout.trim()), (1, "not a tty"));

    second.types("exit\n");
    second.ends();
    terminal.types("exit\n");
    terminal.ends();
    stopped(&host, &id);
    host.assert_no_trace();
}

#[test]
fn a_terminal_moves_with_its_container() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    move_with_terminal(&stage, &host, &Bundle::of_shell(&host, "spec"));
}

#[test]
fn a_terminal_moves_with_its_user_namespace() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    move_with_terminal(&stage, &host, &Bundle::of_shell(&host, "spec").in_user_namespace(100_000, 65_536));
}

fn move_with_terminal(stage: &Stage, host: &Host, bundle: &Bundle) {
    let id = stage.id("moved");
    let (console, images, archive) = (Console::listen(host), host.path("images"), host.path("archive"));
    let mut terminal = console.terminal_of(host, &["run", "-d", "-b", &bundle.path(), &id]);
    assert_eq!(terminal.asks("cd /tmp; X=kept; stty rows 50; tty"), "/dev/pts/0");
    // A session beside it, whose terminal nobody holds afterwards.
    let mut session = console.terminal_of(host, &["exec", "-d", "-t", &id, "sh"]);
    assert_eq!(session.asks("tty"), "/dev/pts/1");

    host.migrate(&["checkpoint", "--image-path", &images, &id]).succeeded();
    terminal.ends();
    host.migrate(&["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id])
        .failed(1, &[WITHOUT_SOCKET]);
    host.assert_no_trace();
    let mut terminal =
        console.terminal_of(host, &["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id]);
    assert_eq!(terminal.asks("echo $X; tty; stty size"), "kept\r\n/dev/pts/0\r\n50 0");
    assert_eq!(terminal.asks("stty size < /dev/console"), "50 0");
    terminal.interrupts_a_program(host);

    // A second time, through a file, and into the foreground.
    host.migrate(&["checkpoint", "--export", &archive, &id]).succeeded();
    let (running, mut terminal, inner) = on_terminal(host, &["restore", "--import", &archive, &id]);
    assert_eq!(terminal.asks("echo $X; stty size"), "kept\r\n30 101");
    let mut exec = console.terminal_of(host, &["exec", "-d", "-t", &id, "sh"]);
    exec.asks("tty");
    exec.types("exit\n");
    exec.ends();
    terminal.types("exit 6\n");
    assert_eq!(running.wait().code, 6);
    assert!(!is_raw(&inner));
    host.assert_no_trace();
}

#[test]
fn a_console_socket_and_a_terminal_need_each_other() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let (bundle, id) = (Bundle::of_shell(&host, "spec").path(), stage.id("wrong"));
    let console = Console::listen(&host);
    for args in [&["create"][..], &["run", "-d"]] {
        host.migrate(&[args, &["-b", &bundle, &id]].concat()).failed(1, &[WITHOUT_SOCKET]);
        host.migrate(&[args, &["--console-socket", &host.path("nobody"), "-b", &bundle, &id]].concat())
            .failed(1, &["connect to the console socket", "no such file or directory"]);
    }
    host.migrate(&["run", "--console-socket", &console.path, "-b", &bundle, &id]).failed(1, &[WITHOUT_USE]);
    let plain = Bundle::new(&host, "plain", &["exit"]).path();
    host.migrate(&["create", "--console-socket", &console.path, "-b", &plain, &id]).failed(1, &[WITHOUT_USE]);
    host.assert_no_trace();

    let (_bundle, container) = host.run_small(&id);
    host.migrate(&["exec", "-d", "-t", &id, "/workload", "exit"]).failed(255, &[WITHOUT_SOCKET]);
    host.migrate(&["exec", "-t", "--console-socket", &console.path, &id, "/workload", "exit"])
        .failed(255, &[WITHOUT_USE]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_root_filesystem_cannot_redirect_the_console() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_shell(&host, "evil").edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| m["destination"] != json!("/dev"));
    });
    let console = format!("{}/dev/console", bundle.rootfs());
    symlink("/etc/passwd", &console).expect("symlink");
    let run = || host.migrate(&["run", "-b", &bundle.path(), &stage.id("evil")]);
    run().failed(1, &["/dev/console", "symbolic link"]);
    host.assert_no_trace();

    fs::remove_file(&console).expect("remove the link");
    let without = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().expect("a list");
        mounts.retain(|m| m["destination"] != json!("/dev/pts"));
    });
    let said = host.migrate(&["run", "-b", &without.path(), &stage.id("evil")]).failed(1, &["/dev/pts/ptmx"]);
    assert!(said.contains("hint: process.terminal needs a mount of type devpts"), "{said}");
    host.assert_no_trace();
}
