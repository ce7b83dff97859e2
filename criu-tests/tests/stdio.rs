// SPDX-License-Identifier: Apache-2.0
//! Standard input and output that lead out of the container, on both sides of a restore.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use criu_tests::{Bundle, Container, Host, Need, Stage, Terminal};
use nix::sched::{CloneFlags, setns};
use serde_json::json;

/// A shell that answers each line, and knows how many there were.
const ANSWERS: &str = "while read line; do n=$((n+1)); echo \"answer $n to $line\"; done";

fn bundle(host: &Host, name: &str) -> Bundle {
    Bundle::of_shell(host, name).edit(|config| {
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", ANSWERS]);
    })
}

/// Runs or restores it with this stdin, stdout and stderr.
fn with_stdio<'h>(
    host: &'h Host,
    args: &[&str],
    bundle: &Bundle,
    id: &str,
    stdio: &OwnedFd,
) -> Container<'h> {
    let clone = || stdio.try_clone().expect("dup");
    let command = host.migrate_command(&[args, &["-d", "-b", &bundle.path(), id]].concat());
    command.stdin(clone()).stdout(clone()).stderr(clone()).run().succeeded();
    host.container(id, &bundle.rootfs())
}

#[test]
fn a_terminal_of_the_host_on_stdio_is_another_one_afterwards() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, "answers");
    let (mut before, stdio) = Terminal::open();
    let container = with_stdio(&host, &["run"], &bundle, &stage.id("first"), &stdio);
    before.types("one\n");
    before.shows("answer 1 to one");
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);

    // What is no terminal cannot take its place.
    let id = stage.id("second");
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), &id];
    let message = "descriptor 0 of the container was a terminal of the host at the checkpoint";
    let said = host.migrate(&restore).failed(1, &[message]);
    assert!(said.contains("hint: run restore --detach with a terminal"), "{said}");
    assert!(host.container_ids().is_empty());

    let (mut after, stdio) = Terminal::open();
    let container = with_stdio(&host, &["restore", "--image-path", &images], &bundle, &id, &stdio);
    after.types("two\n");
    after.shows("answer 2 to two");
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

/// A pair of connected sockets that was made in the host's network namespace.
fn pair_on(host: &Host) -> (UnixStream, UnixStream) {
    let namespace = File::open(host.outside("/proc/1/ns/net")).expect("open the host's network namespace");
    let make = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        UnixStream::pair().expect("socketpair")
    };
    std::thread::spawn(make).join().expect("the thread ends well")
}

fn talk(socket: &UnixStream, line: &str) -> String {
    let mut writer = socket;
    writeln!(writer, "{line}").expect("write");
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).expect("read");
    answer.trim_end().to_owned()
}

#[test]
fn a_socket_on_stdio_is_another_one_afterwards() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, "answers").edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != json!("network"));
        // Only root of a network namespace may mount its sysfs.
        config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["type"] != json!("sysfs"));
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let (ours, theirs) = pair_on(&host);
    let container = with_stdio(&host, &["run"], &bundle, &stage.id("first"), &theirs.into());
    assert_eq!(talk(&ours, "one"), "answer 1 to one");
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);

    let (ours, theirs) = pair_on(&host);
    let id = stage.id("second");
    let container = with_stdio(&host, &["restore", "--image-path", &images], &bundle, &id, &theirs.into());
    assert_eq!(talk(&ours, "two"), "answer 2 to two");
    // As often as one likes.
    container.checkpoint(&["--leave-running", "--image-path", &host.path("again")]);
    assert_eq!(talk(&ours, "three"), "answer 3 to three");
    container.kill("KILL");
    container.stops();
    host.migrate(&["delete", &id]).succeeded();
    host.assert_no_trace();
}

#[test]
fn a_socket_of_another_network_namespace_is_refused_before_anything_stands_still() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host, "answers");
    let (ours, theirs) = pair_on(&host);
    let id = stage.id("first");
    with_stdio(&host, &["run"], &bundle, &id, &theirs.into());
    assert_eq!(talk(&ours, "one"), "answer 1 to one");
    let message =
        "descriptor 0 of the container is a socket that was not made in the container's network namespace";
    let said = host.migrate(&["checkpoint", "--image-path", &host.path("images"), &id]).failed(1, &[message]);
    assert!(said.contains("hint: start the container with pipes, files or /dev/null"), "{said}");
    assert_eq!(talk(&ours, "two"), "answer 2 to two");
    host.migrate(&["delete", "--force", &id]).succeeded();
    host.assert_no_trace();
}
