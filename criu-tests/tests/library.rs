// SPDX-License-Identifier: Apache-2.0
//! The library as another program uses it: its example, and this very test, which has threads and is no container's init.

use std::fs;
use std::io::{Read as _, pipe};
use std::os::unix::fs::symlink;
use std::path::Path;

use criu_tests::{Bundle, Stage, example, workload};
use migrate::ErrorKind;
use migrate::engine::{Container, ContainerBuilder, ExecOptions, Process, ProcessIo, StateRoot, Status};
use migrate::spec::Config;

#[test]
fn the_example_does_what_it_says() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "rootfs", &["exit"]);
    let at = |name: &str| format!("{}/{name}", bundle.rootfs());
    for directory in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
        fs::create_dir_all(at(directory)).expect("mkdir");
    }
    fs::copy("/usr/bin/busybox", at("bin/busybox")).expect("busybox is installed");
    for name in ["sh", "sleep", "id", "echo", "ip"] {
        symlink("busybox", at(&format!("bin/{name}"))).expect("symlink");
    }
    fs::write(at("etc/passwd"), "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n").expect("write");
    let bundle = bundle.give_to(100_000);
    let program = example("container");
    let argv = [program.as_str(), &host.state_root(), &stage.id("example"), &bundle.rootfs()];
    let output = host.command(&argv).run().succeeded();
    let lines: Vec<(&str, &str)> = output.lines().filter_map(|line| line.split_once(": ")).collect();
    let value = |name: &str| lines.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).unwrap_or_default();
    let statuses: Vec<&str> = lines.iter().filter(|(n, _)| *n == "status").map(|(_, v)| *v).collect();
    assert_eq!(statuses, ["created", "running", "paused", "running"], "{output}");
    assert_eq!(value("output"), "daemon in /tmp says hello", "{output}");
    assert_eq!(value("exit code"), "3", "{output}");
    assert_eq!(value("namespaces"), "cgroup ipc mnt net pid user uts", "{output}");
    assert_eq!(value("address"), "10.88.0.2/24", "{output}");
    assert!(value("network").starts_with("veth") && value("network").ends_with(" sent"), "{output}");
    assert_eq!(value("processes"), "3", "its shell, that one's sleep and ours: {output}");
    let number = |name: &str| value(name).split(' ').next().and_then(|n| n.parse::<u64>().ok());
    assert!(number("cpu").is_some_and(|n| n > 0) && number("memory").is_some_and(|n| n > 0), "{output}");
    assert_eq!(value("pids"), "3 of 32", "{output}");
    assert!(value("memory").ends_with(&format!("of {} bytes", 64 << 20)), "{output}");
    assert!(output.contains("sleeper ended with 143\nfirst process ended with 7\n"), "{output}");
    assert_eq!(value("deleted"), "it was stopped", "{output}");
    host.assert_no_trace();
}

/// One container from begin to end, in this process.
fn one_life(root: &StateRoot, id: &str, bundle: &str) -> migrate::Result<()> {
    let rootfs = Path::new(bundle).join("rootfs");
    let spec = Config::load(Path::new(bundle))?.spec;
    let builder = ContainerBuilder::from_spec(id.parse()?, spec, &rootfs).io(ProcessIo::null()?);
    let mut container = builder.create(root)?;
    container.start()?;
    let (mut reader, writer) = pipe().expect("pipe");
    let inspect = Process::new(["/workload", "inspect"]).env("SECRET", id).stdout(writer);
    let running = container.exec(inspect, &ExecOptions::default())?;
    assert!(running.pid() > 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(running.wait()?, 0);
    assert!(text.contains(&format!("\"SECRET\":\"{id}\"")), "{text}");
    // What another program finds of it under the same root.
    let again = root.load(&id.parse()?)?;
    assert_eq!(again.init_pid(), container.init_pid());
    assert_eq!(again.config()?.spec.root().as_ref().map(|r| r.path().clone()), Some(rootfs));
    let error = again.delete(false).expect_err("it runs");
    assert_eq!(error.kind(), ErrorKind::WrongStatus);
    container.signal(9)?;
    assert_eq!(container.wait()?, 137);
    assert_eq!(container.wait().expect_err("it was waited for").kind(), ErrorKind::WrongStatus);
    assert_eq!(container.status()?, Status::Stopped);
    container.delete(false)
}

#[test]
fn threads_of_a_test_make_containers_at_once() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let root = StateRoot::builder(stage.path("state")).init_command(criu_tests::migrate()).open();
    let root = root.unwrap_or_else(|error| panic!("{}", error.chain()));
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (root, id, path) = (root.clone(), stage.id(&format!("t{i}")), bundle.path());
            scope.spawn(move || {
                one_life(&root, &id, &path).unwrap_or_else(|error| panic!("{}", error.chain()));
            });
        }
    });
    assert_eq!(root.ids().expect("list"), []);
    host.assert_no_trace();
}

#[test]
fn a_container_that_nobody_waited_for_leaves_no_zombie() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let root =
        StateRoot::builder(stage.path("state")).init_command(criu_tests::migrate()).open().expect("open");
    let bundle = Bundle::of_workload(&host, "counter", &[]);
    let create = |name: &str| -> Container {
        ContainerBuilder::from_bundle(stage.id(name).parse().expect("an id"), bundle.path().as_ref())
            .io(ProcessIo::null().expect("open /dev/null"))
            .create(&root)
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    };
    let mut container = create("zombie");
    container.start().expect("start");
    let pid = container.init_pid().expect("it runs");
    container.delete(true).expect("delete");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is a zombie");
    host.assert_no_trace();
}

#[test]
fn a_program_that_does_not_become_init_is_told() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::new(&host, "bundle", &["exit"]);
    let create = |program: &str| {
        let root = StateRoot::builder(stage.path("state")).init_command(program).open()?;
        let id = stage.id("no-init").parse()?;
        ContainerBuilder::from_bundle(id, bundle.path().as_ref()).io(ProcessIo::null()?).create(&root)
    };
    let error = create("/no/such/program").expect_err("there is no such program");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    // A program that takes no notice, as one without `init_if_requested`.
    let error = create(&workload()).expect_err("it is no init");
    assert!(error.chain().contains("init died while it was set up"), "{}", error.chain());
    assert!(error.backtrace().is_some() == std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0"));
    host.assert_no_trace();
}
