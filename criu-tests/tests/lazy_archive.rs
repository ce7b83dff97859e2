// SPDX-License-Identifier: Apache-2.0
//! `restore --import --lazy-pages`: a container runs before its memory is there. Whatever happens to the processes that bring it, to
//! the archive or to the container, nobody ever sees memory that is not the container's, and nothing waits for ever.

use std::fs;

use criu_tests::{Bundle, Container, Host, Need, PATIENCE, Stage, wait_until};
use serde_json::Value;

const GENERAL: i32 = 1;
const BAD_ARCHIVE: i32 = 3;

/// More than can be brought between two looks.
const LARGE: &str = "100663296";

fn restore<'h>(host: &'h Host, archive: &str, id: &str) -> Container<'h> {
    host.migrate_detached(&["restore", "-d", "--import", archive, "--lazy-pages", id]);
    host.imported(id)
}

/// A checkpoint of a container with much memory that it looks at all the time.
fn large(stage: &Stage, host: &Host) -> (String, criu_tests::Status) {
    let bundle = Bundle::of_workload(host, "counter", &["--memory", LARGE]);
    let container = host.run_detached(&stage.id("here"), &bundle);
    let status = container.reports();
    let archive = stage.path("archive");
    container.checkpoint(&["--export", &archive]);
    (archive, status)
}

/// What is written down of memory that is not there: the processes that bring it.
fn providers(host: &Host, id: &str) -> Option<[i64; 2]> {
    let record = fs::read(format!("{}/{id}/memory.json", host.state_root())).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    Some([record["providers"][0]["pid"].as_i64()?, record["providers"][1]["pid"].as_i64()?])
}

fn signal(host: &Host, name: &str, pid: i64) {
    host.command(&["sh", "-c", &format!("kill -{name} {pid}")]).run().succeeded();
}

/// Restores a container, and stops the process that brings its memory before all of it is there.
fn held<'h>(stage: &Stage, host: &'h Host, archive: &str) -> (Container<'h>, [i64; 2]) {
    for attempt in 0..10 {
        let id = stage.id(&format!("there{attempt}"));
        let args = ["restore", "-d", "--import", archive, "--lazy-pages", &id];
        let restoring = host.migrate_command(&args).without_stdio().start();
        let state = format!("{}/{id}/state.json", host.state_root());
        wait_until(PATIENCE, "the container is written down", || {
            let text = fs::read_to_string(&state).unwrap_or_default();
            if text.contains("\"init_process_pid\"") { Ok(()) } else { Err(text) }
        });
        let Some([provider, keeper]) = providers(host, &id) else { continue };
        host.command(&["sh", "-c", &format!("kill -STOP {provider}")]).run();
        restoring.wait().succeeded();
        let container = host.imported(&id);
        if providers(host, &id).is_some() {
            return (container, [provider, keeper]);
        }
        // It was faster.
        container.end();
    }
    panic!("all memory was there before the process that brings it could be stopped");
}

fn is_whole(host: &Host, container: &Container<'_>) {
    wait_until(PATIENCE, "all memory is there", || providers(host, container.id()).map_or(Ok(()), Err));
}

#[test]
fn all_memory_comes_although_the_archive_is_gone() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (archive, status) = large(&stage, &host);
    let restored = restore(&host, &archive, &stage.id("there"));
    fs::remove_file(&archive).expect("remove the archive");
    restored.goes_on(&status);
    is_whole(&host, &restored);
    let status = restored.reports();
    // It is a container as any other.
    restored.checkpoint(&["--export", &archive]);
    let again = restore(&host, &archive, &stage.id("again"));
    again.goes_on(&status);
    again.end();
    host.assert_no_trace();
}

#[test]
fn processes_that_share_fork_and_move_memory_find_what_was_there() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let exhibits = [
        "mapping_that_changes_all_the_time",
        "private_of_parent_and_child",
        "private_with_holes",
        "shared_anonymous_of_grandchildren",
        "private_file_with_changes",
        "huge_empty_mapping",
    ];
    let exhibits = exhibits.map(|name| ("zoo", vec!["--exhibit", name, "--tick-ms", "3"]));
    let workloads = exhibits.into_iter().chain([("tree", vec![]), ("threads", vec![])]);
    for (n, (workload, options)) in workloads.enumerate() {
        let bundle = Bundle::of_workload(&host, workload, &options);
        let container = host.run_detached(&stage.id(&format!("{n}")), &bundle);
        let status = container.reports();
        let archive = stage.path(&format!("archive{n}"));
        container.checkpoint(&["--export", &archive]);
        bundle.remove();
        let restored = restore(&host, &archive, &stage.id(&format!("restored{n}")));
        let status = restored.goes_on(&status);
        is_whole(&host, &restored);
        restored.goes_on(&status);
        restored.end();
    }
    host.assert_no_trace();
}

#[test]
fn what_cannot_be_read_in_parts_is_refused() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (_bundle, container) = host.run_small(&stage.id("here"));
    let status = container.reports();
    let (sealed, good) = (stage.path("sealed"), stage.path("good"));
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let export = ["--leave-running", "--export"];
    container.checkpoint(&[&export[..], &[&sealed, "--encrypt-to", recipient]].concat());
    container.checkpoint(&[&export[..], &[&good]].concat());
    container.goes_on(&status);
    let id = stage.id("there");
    let args = |archive| ["restore", "-d", "--lazy-pages", "--import", archive, &id].map(str::to_owned);
    let said = host.migrate(&args(&sealed).each_ref().map(String::as_str));
    let said = said.failed(GENERAL, &[&sealed, "it is encrypted"]);
    assert!(said.contains("hint: "), "{said}");
    let piped =
        format!("cat {good} | {}", host.migrate_argv(&args("-").each_ref().map(String::as_str)).join(" "));
    let output = host.command(&["sh", "-c", &piped]).run();
    output.failed(GENERAL, &["memory cannot be read on demand from a stream"]);
    // What is not memory is verified before anything runs.
    let mut bytes = fs::read(&good).expect("read the archive");
    bytes[100] ^= 1;
    fs::write(&good, &bytes).expect("write a damaged archive");
    host.migrate(&["restore", "-d", "--lazy-pages", "--import", &good, &id])
        .failed(BAD_ARCHIVE, &["damaged"]);
    assert_eq!(host.container_ids(), [container.id()]);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_container_without_all_its_memory_is_not_checkpointed() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (archive, status) = large(&stage, &host);
    let (restored, [provider, keeper]) = held(&stage, &host, &archive);
    let said = "its memory is still being read from archive";
    let images = host.path("images");
    for kind in
        [&["--export", &images][..], &["--image-path", &images], &["--pre-dump", "--image-path", &images]]
    {
        host.migrate(&[&["checkpoint"], kind, &[restored.id()]].concat()).failed(GENERAL, &[said]);
    }
    // The other process is replaced, and the first one goes on.
    signal(&host, "KILL", keeper);
    signal(&host, "CONT", provider);
    restored.goes_on(&status);
    is_whole(&host, &restored);
    restored.checkpoint(&["--image-path", &images]);
    host.assert_no_trace();
}

#[test]
fn a_container_whose_memory_cannot_come_is_ended_and_says_so() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (archive, _) = large(&stage, &host);
    // What it warns of goes to the log.
    let state = |container: &Container<'_>| {
        let log = host.path("migrate.log");
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        host.migrate(&["state", container.id()]).succeeded();
        fs::read_to_string(&log).unwrap_or_default().split_off(before)
    };

    // Who brings it is killed.
    let (restored, [provider, _]) = held(&stage, &host, &archive);
    signal(&host, "KILL", provider);
    restored.stops();
    let said = state(&restored);
    assert!(said.contains("the process that brings it was killed"), "{said}");
    host.migrate(&["delete", restored.id()]).succeeded();

    // The container is removed meanwhile.
    let (restored, [provider, _]) = held(&stage, &host, &archive);
    host.migrate(&["delete", "--force", restored.id()]).succeeded();
    signal(&host, "CONT", provider);
    host.assert_no_trace();

    // Nobody is left who could end it.
    let (restored, [provider, keeper]) = held(&stage, &host, &archive);
    signal(&host, "KILL", keeper);
    signal(&host, "KILL", provider);
    wait_until(PATIENCE, "both have ended", || {
        let left = host.processes().into_iter().find(|(_, line)| line == "migrate");
        left.map_or(Ok(()), Err)
    });
    // Zeros where its code or data was may have ended it already.
    let images = host.path("images");
    host.migrate(&["checkpoint", "--image-path", &images, restored.id()]).failed(GENERAL, &[]);
    assert!(state(&restored).contains("was killed"));
    host.migrate(&["delete", "--force", restored.id()]).succeeded();

    // The archive is damaged where nobody has looked before.
    let mut bytes = fs::read(&archive).expect("read the archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, &bytes).expect("write a damaged archive");
    let id = stage.id("damaged");
    let args = ["restore", "-d", "--import", &archive, "--lazy-pages", &id];
    match host.migrate_command(&args).without_stdio().run().code {
        0 => {
            let restored = host.imported(&id);
            restored.stops();
            let said = state(&restored);
            assert!(said.contains("damaged") && said.contains("pages-1.img"), "{said}");
            host.migrate(&["delete", restored.id()]).succeeded();
        }
        // Whoever brings it was there before the container ran.
        code => {
            let log = fs::read_to_string(host.path("migrate.log")).expect("read the log");
            assert!(
                code == BAD_ARCHIVE && log.contains("archive is damaged: checkpoint/pages-1.img"),
                "{code}: {log}"
            );
        }
    }
    host.assert_no_trace();
}
