// SPDX-License-Identifier: Apache-2.0
//! Iterative checkpoints. They need a kernel that tracks changes of memory, which the virtual machine's does.

use criu_tests::{Bundle, Need, Stage};

#[test]
fn a_chain_of_pre_dumps_ends_in_a_checkpoint() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::MemoryTracking]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "33554432"]);
    let container = host.run_detached(&stage.id("first"), &bundle);
    let mut status = container.reports();
    for (name, parent) in [("one", None), ("two", Some("../one"))] {
        let images = host.path(&format!("images/{name}"));
        let mut args = vec!["checkpoint", "--pre-dump", "--image-path", &images];
        args.extend(parent.into_iter().flat_map(|parent| ["--parent-path", parent]));
        host.migrate(&[&args[..], &[container.id()]].concat()).succeeded();
        status = container.goes_on(&status);
    }
    let images = host.path("images/last");
    let printed = host.migrate(&[
        "checkpoint",
        "--print-stats",
        "--parent-path",
        "../two",
        "--image-path",
        &images,
        container.id(),
    ]);
    let stats: serde_json::Value = serde_json::from_str(&printed.succeeded()).expect("JSON");
    let number = |name: &str| stats[name].as_u64().expect("a number");
    assert!(
        number("pages_written") < number("pages_scanned") / 2,
        "most of the memory is in the parents: {stats}"
    );
    container.restore(&images, &bundle);
    container.goes_on(&status);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_pre_dump_that_fails_tells_its_cause() {
    let Some(stage) = Stage::set(&[Need::Criu, Need::MemoryTracking]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "obstacle", &["--kind", "traced"]);
    let container = host.run_detached(&stage.id("traced"), &bundle);
    let images = host.path("images");
    let arguments = ["checkpoint", "--pre-dump", "--image-path", &images, container.id()];
    let said =
        container.runs_on_beside(&arguments, 5, &["pre-dump container", "is traced by another program"]);
    assert!(said.contains("hint: "), "{said}");
    container.end();
    host.assert_no_trace();
}
