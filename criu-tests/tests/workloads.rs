// SPDX-License-Identifier: Apache-2.0
//! Every workload is checkpointed and restored in place, then moved through one archive file to a second host, and from
//! there, restored as it is, back again.

use std::fs;

use criu_tests::{Bundle, Container, Host, Need, Stage, Status};

fn in_place(host: &Host, container: &Container<'_>, bundle: &Bundle, before: &Status) -> Status {
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    assert!(host.container_ids().is_empty(), "a checkpoint without --leave-running removes the container");
    assert!(host.cgroups().is_empty(), "left cgroups: {:?}", host.cgroups());
    container.restore(&images, bundle);
    let after = container.goes_on(before);
    fs::remove_dir_all(images).expect("remove the images");
    after
}

fn restored_in_place(workload: &str, options: &[&str]) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, workload, options);
    let container = host.run_detached(&stage.id(workload), &bundle);
    let mut status = container.reports();
    for _ in 0..2 {
        status = in_place(&host, &container, &bundle, &status);
    }
    container.end();
    host.assert_no_trace();
}

/// Exports, removes every trace on `from`, restores on `to` under a new id.
fn moved<'h>(
    stage: &Stage,
    (from, container): (&Host, Container<'_>),
    (to, id): (&'h Host, &str),
    before: &Status,
) -> (Container<'h>, Status) {
    let archive = stage.path("moved.tar");
    container.checkpoint(&["--export", &archive]);
    from.remove_bundles();
    assert!(!fs::exists(container.rootfs()).expect("look"), "an imported bundle goes with its container");
    from.assert_no_trace();
    to.migrate_detached(&["restore", "-d", "--import", &archive, &stage.id(id)]);
    fs::remove_file(archive).expect("the archive stays after a restore");
    let container = to.imported(&stage.id(id));
    let after = container.goes_on(before);
    (container, after)
}

fn moved_twice(workload: &str, options: &[&str]) {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let (a, b) = (stage.host("a"), stage.host("b"));
    let bundle = Bundle::of_workload(&a, workload, options);
    let container = a.run_detached(&stage.id("first"), &bundle);
    let status = container.reports();
    let (container, status) = moved(&stage, (&a, container), (&b, "second"), &status);
    let (container, status) = moved(&stage, (&b, container), (&a, "third"), &status);
    if workload == "tree" {
        reaps_the_zombie(&container, &status);
    }
    container.end();
    a.assert_no_trace();
    b.assert_no_trace();
}

fn reaps_the_zombie(container: &Container<'_>, before: &Status) {
    assert!(before.has("zombie"), "not reaped yet: {before:?}");
    container.kill("USR1");
    let after = criu_tests::wait_until(criu_tests::PATIENCE, "the zombie is reaped", || {
        container.status().filter(|s| s.has("zombie_exit")).ok_or_else(|| container.status())
    });
    after.assert_ok();
    assert_eq!(after.field("zombie_exit"), "42");
}

macro_rules! workloads {
    ($($name:ident $options:expr),* $(,)?) => {
        mod restored_in_place {
            $( #[test] fn $name() { super::restored_in_place(stringify!($name), &$options); } )*
        }
        mod moved_twice {
            $( #[test] fn $name() { super::moved_twice(stringify!($name), &$options); } )*
        }
    };
}

workloads! {
    counter ["--memory", "8388608"],
    files [],
    pipes [],
    threads [],
    timers [],
    tree [],
}
