// SPDX-License-Identifier: Apache-2.0
//! What is outside of a container and not in its configuration: mounts that a hook made, files, terminals and sockets of
//! the host. The caller names them, as CRIU spells it.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Stage, Terminal, wait_until};
use serde_json::{Value, json};

/// What is in these files, seen from inside.
fn read(host: &Host, id: &str, paths: &[&str]) -> Vec<Value> {
    let probes = paths.iter().flat_map(|path| ["--read", path]);
    let args: Vec<&str> = ["exec", id, "/workload", "inspect"].into_iter().chain(probes).collect();
    let seen: Value = serde_json::from_str(&host.migrate(&args).succeeded()).expect("JSON");
    paths.iter().map(|path| seen["read"][path]["ok"].clone()).collect()
}

/// What the hook mounts: a directory, a file, and a tmpfs of the host as a whole.
const HOOKED: [&str; 3] = ["/data/file", "/single", "/memory/file"];

/// The sources of what a hook mounts, whose files hold `text`.
fn sources(host: &Host, name: &str, text: &str) -> String {
    let at = host.path(name);
    for directory in ["data", "memory"] {
        fs::create_dir_all(format!("{at}/{directory}")).expect("make the sources");
    }
    let tmpfs = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", &format!("{at}/memory")];
    host.command(&tmpfs).run().succeeded();
    let write = format!("cd {at}; for file in data/file single memory/file; do printf {text} >$file; done");
    host.command(&["sh", "-c", &write]).run().succeeded();
    at
}

fn remove_sources(host: &Host, at: &str) {
    host.command(&["umount", &format!("{at}/memory")]).run().succeeded();
}

/// A counting container into which a hook has mounted these sources.
fn hooked<'h>(
    host: &'h Host,
    id: &str,
    at: &str,
    edit: impl FnOnce(Bundle) -> Bundle,
) -> (Bundle, Container<'h>) {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]);
    let root = bundle.rootfs();
    for directory in ["data", "memory"] {
        fs::create_dir(format!("{root}/{directory}")).expect("make the mount points");
    }
    fs::write(format!("{root}/single"), "").expect("make the mount points");
    let script = format!(
        "cd {at} && for name in data single memory; do mount --bind $name {root}/$name || exit; done"
    );
    let hook =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin:/sbin"] }]);
    let bundle = edit(bundle.edit(|config| config["hooks"]["createContainer"] = hook));
    let container = host.run_detached(id, &bundle);
    (bundle, container)
}

/// The flags for the sources of [`hooked`].
fn flags(at: &str) -> Vec<String> {
    let flags = ["data", "memory", "single"]
        .map(|name| ["--external".to_owned(), format!("mnt[/{name}]:{at}/{name}")]);
    flags.concat()
}

fn of_a_hook(edit: impl FnOnce(Bundle) -> Bundle) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (here, elsewhere) = (sources(&host, "here", "first"), sources(&host, "elsewhere", "second"));
    let (bundle, container) = hooked(&host, &stage.id("first"), &here, edit);
    let status = container.reports();
    assert_eq!(read(&host, container.id(), &HOOKED), ["first"; 3]);
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);

    let path = bundle.path();
    let restore = ["restore", "-d", "--image-path", &images, "-b", &path];
    let said = host.migrate(&[&restore[..], &[container.id()]].concat()).failed(
        1,
        &["at the checkpoint something of the host was mounted on /data, and config.json mounts nothing there"],
    );
    let wanted = flags(&here).iter().map(|word| word.replace("mnt[", "'mnt[")).collect::<Vec<_>>().join(" ");
    let wanted = wanted.replace(" --external", "' --external") + "'";
    assert!(said.contains(&wanted), "{wanted}\n{said}");

    let restored = |images: &str, at: &str| {
        let flags = flags(at);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let restore = ["restore", "-d", "--image-path", images, "-b", &path];
        host.migrate_detached(&[&restore[..], &flags, &[container.id()]].concat());
    };
    restored(&images, &here);
    let status = container.goes_on(&status);
    assert_eq!(read(&host, container.id(), &HOOKED), ["first"; 3]);
    let images = host.path("again");
    container.checkpoint(&["--image-path", &images]);
    restored(&images, &elsewhere);
    container.goes_on(&status);
    assert_eq!(read(&host, container.id(), &HOOKED), ["second"; 3]);
    container.end();
    remove_sources(&host, &here);
    remove_sources(&host, &elsewhere);
    host.assert_no_trace();
}

#[test]
fn mounts_of_a_hook_are_named_at_the_restore() {
    of_a_hook(|bundle| bundle);
}

#[test]
fn mounts_of_a_hook_are_named_at_the_restore_into_a_user_namespace() {
    of_a_hook(|bundle| bundle.in_user_namespace(100_000, 65_536));
}

#[test]
fn mounts_of_a_hook_come_through_an_archive_under_names_of_the_callers() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let (here, there) = (sources(&a, "here", "first"), sources(&b, "there", "second"));
    let (_bundle, container) = hooked(&a, &stage.id("moves"), &here, |bundle| bundle);
    let status = container.reports();
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--external", "mnt[/data]:the-data", "--export", &archive]);
    let restore = ["restore", "-d", "--allow", "hooks", "--import", &archive];
    let said = b.migrate(&[&restore[..], &[container.id()]].concat()).failed(1, &["on /memory"]);
    assert!(said.contains(&format!("--external 'mnt[the-data]:{here}/data'")), "{said}");
    let mut flags = flags(&there);
    flags[1] = format!("mnt[the-data]:{there}/data");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    b.migrate_detached(&[&restore[..], &flags, &[container.id()]].concat());
    let moved = b.imported(container.id());
    moved.goes_on(&status);
    assert_eq!(read(&b, moved.id(), &HOOKED), ["second"; 3]);
    moved.end();
    remove_sources(&a, &here);
    remove_sources(&b, &there);
    a.assert_no_trace();
    b.assert_no_trace();
}

/// A shell without standard streams that does this with descriptor 3.
fn of_script(host: &Host, script: &str) -> Bundle {
    Bundle::of_shell(host, "third").edit(|config| {
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

/// Runs a command of `migrate` whose descriptor 3 this is.
fn with_third(host: &Host, args: &[&str], third: OwnedFd) {
    let argv = host.migrate_argv(args);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let command = ["sh", "-c", "exec 3<&0 </dev/null >/dev/null 2>&1; exec \"$@\"", "sh"];
    host.command(&[&command[..], &argv].concat()).stdin(third).run().succeeded();
}

/// Where descriptor 3 of the container leads, by what CRIU knows it: `file` or `tty`.
fn key(host: &Host, id: &str, kind: &str) -> String {
    let pid = host.state(id)["pid"].to_string();
    let status = fs::metadata(host.outside(&format!("/proc/{pid}/fd/3"))).expect("stat descriptor 3");
    if kind == "tty" {
        return format!("tty[{:x}:{:x}]", status.rdev(), status.dev());
    }
    let info = fs::read_to_string(host.outside(&format!("/proc/{pid}/fdinfo/3"))).expect("read its fdinfo");
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).expect("it tells the mount");
    let mount: u64 = mount.trim().parse().expect("a number");
    format!("file[{mount:x}:{:x}]", status.ino())
}

/// Runs it, checkpoints it when `before` has seen it work, and restores it with another descriptor 3.
fn given_another(
    host: &Host,
    bundle: &Bundle,
    id: &str,
    kind: &str,
    first: OwnedFd,
    before: impl FnOnce(),
    second: OwnedFd,
) {
    let path = bundle.path();
    with_third(host, &["run", "-d", "--preserve-fds", "1", "-b", &path, id], first);
    before();
    let (images, key) = (host.path("images"), key(host, id, kind));
    host.migrate(&["checkpoint", "--external", &key, "--image-path", &images, id]).succeeded();
    let inherit = format!("fd[3]:{key}");
    let restore = ["restore", "-d", "--inherit-fd", &inherit, "--image-path", &images, "-b", &path, id];
    with_third(host, &restore, second);
}

fn ended(host: &Host, id: &str) {
    host.migrate(&["delete", "--force", id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_file_of_the_host_is_another_one_afterwards() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = of_script(&host, "while :; do n=$((n+1)); echo $n >&3; sleep 0.01; done");
    let (paths, id) = ([host.path("first"), host.path("second")], stage.id("file"));
    let [first, second] = paths.each_ref().map(|path| {
        let file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open");
        OwnedFd::from(file)
    });
    let numbers = |path: &str| {
        wait_until(PATIENCE, "there are lines", || {
            let text = fs::read_to_string(path).expect("read");
            let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if numbers.len() > 3 { Ok(numbers) } else { Err(text) }
        })
    };
    given_another(&host, &bundle, &id, "file", first, || drop(numbers(&paths[0])), second);
    let (before, after) = (numbers(&paths[0]), numbers(&paths[1]));
    assert_eq!(after[0], before.last().expect("there are lines") + 1, "nothing is lost or said twice");
    ended(&host, &id);
}

#[test]
fn a_terminal_of_the_host_is_another_one_afterwards() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let answers = "while read line <&3; do n=$((n+1)); echo \"answer $n to $line\" >&3; done";
    let (bundle, id) = (of_script(&host, answers), stage.id("terminal"));
    let ((mut one, first), (mut two, second)) = (Terminal::open(), Terminal::open());
    let before = || {
        one.types("one\n");
        one.shows("answer 1 to one");
    };
    given_another(&host, &bundle, &id, "tty", first, before, second);
    two.types("two\n");
    two.shows("answer 2 to two");
    ended(&host, &id);
}

/// A pipe needs no `--external`: it is known by its name.
#[test]
fn a_pipe_is_another_one_afterwards() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, id) =
        (of_script(&host, "while read line <&3; do echo $line >>/state/lines; done"), stage.id("pipe"));
    let lines = |wanted: &str| {
        wait_until(PATIENCE, wanted, || {
            let text = fs::read_to_string(format!("{}/state/lines", bundle.rootfs())).unwrap_or_default();
            (text == wanted).then_some(()).ok_or(text)
        });
    };
    let path = bundle.path();
    let (read, mut write) = std::io::pipe().expect("pipe");
    with_third(&host, &["run", "-d", "--preserve-fds", "1", "-b", &path, &id], read.into());
    writeln!(write, "one").expect("write");
    lines("one\n");
    let pid = host.state(&id)["pid"].to_string();
    let key = host.command(&["readlink", &format!("/proc/{pid}/fd/3")]).run().succeeded();
    let images = host.path("images");
    host.migrate(&["checkpoint", "--image-path", &images, &id]).succeeded();

    let (read, mut write) = std::io::pipe().expect("pipe");
    let inherit = format!("fd[3]:{}", key.trim());
    let args = ["restore", "-d", "--inherit-fd", &inherit, "--image-path", &images, "-b", &path, &id];
    with_third(&host, &args, read.into());
    writeln!(write, "two").expect("write");
    lines("one\ntwo\n");
    ended(&host, &id);
}
