// SPDX-License-Identifier: Apache-2.0
//! Archives with only what differs from a base: the lower layers of an overlay, or a directory.

use std::fs;

use criu_tests::{Bundle, Host, Need, Stage};

/// A file is changed, one is gone, a directory is another one of the same name, and there is a new link.
const CHANGES: &str =
    "set -e; cd $0; rm gone; echo changed >changed; rm -r d; mkdir d; echo new >d/new; ln d/new link";

/// A bundle whose process counts, with some files more.
fn bundle(host: &Host) -> Bundle {
    let bundle = Bundle::of_workload(host, "counter", &[]);
    let script = "set -e; cd $0; for f in gone changed kept; do echo base >$f; done; mkdir d; echo base >d/f; chmod 711 d";
    host.command(&["sh", "-c", script, &bundle.rootfs()]).run().succeeded();
    bundle
}

/// Restores the archive over `base`, sees that all is as it was, and ends it.
fn goes_on_over(host: &Host, id: &str, archive: &str, base: &str, before: &criu_tests::Status) {
    host.migrate_detached(&["restore", "-d", "--import", archive, "--base-rootfs", base, id]);
    let container = host.imported(id);
    container.goes_on(before);
    let script = "set -e; cd $0; cat changed kept d/new link; test ! -e gone; test ! -e d/f; test d/new -ef link; stat -c %a d";
    let seen = host.command(&["sh", "-c", script, container.rootfs()]).run().succeeded();
    assert_eq!(seen, "changed\nbase\nnew\nnew\n755\n");
    container.end();
}

#[test]
fn what_differs_from_a_directory() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host);
    let (base, rootfs) = (host.path("base"), bundle.rootfs());
    host.command(&["cp", "-a", &rootfs, &base]).run().succeeded();
    host.command(&["sh", "-c", CHANGES, &rootfs]).run().succeeded();
    let id = stage.id("c");
    let container = host.run_detached(&id, &bundle);
    let archive = stage.path("c.tar.zst");
    let export = ["checkpoint", "--export", &archive, "--rootfs", "diff", &id];
    let said = container.runs_on_beside(&export, 1, &["is no mounted overlay"]);
    assert!(said.contains("--rootfs-base"), "{said}");
    let full = ["checkpoint", "--export", &archive, "--rootfs", "full", "--rootfs-base", &base, &id];
    container.runs_on_beside(&full, 1, &["a base is only for a difference"]);
    let before = container.reports();
    container.checkpoint(&["--export", &archive, "--rootfs-base", &base]);
    bundle.remove();

    let names = host.command(&["tar", "--zstd", "-tf", &archive]).run().succeeded();
    for name in ["rootfs-diff.tar", "deleted.files", "migrate.base"] {
        assert!(names.lines().any(|line| line == name), "{name}: {names}");
    }
    let workload = fs::metadata(format!("{base}/workload")).expect("stat").len();
    let listed = ["sh", "-c", "tar --zstd -xOf $0 rootfs-diff.tar | tar -t", &archive];
    let listed = host.command(&listed).run().succeeded();
    assert!(!listed.lines().any(|line| line == "workload" || line == "kept"), "{listed} ({workload} bytes)");

    let restore = ["restore", "-d", "--import", &archive, &id];
    let said = host.migrate(&restore).failed(1, &["only how the root filesystem differs from its base"]);
    assert!(said.contains("--base-rootfs"), "{said}");
    // The mode of an open file is one of the things that CRIU would complain of.
    host.command(&["chmod", "700", &format!("{base}/workload")]).run().succeeded();
    let restore = ["restore", "-d", "--import", &archive, "--base-rootfs", &base, &id];
    host.migrate(&restore).failed(1, &["/workload is the first file that is another"]);
    assert_eq!(host.container_ids(), Vec::<String>::new());
    host.command(&["chmod", "755", &format!("{base}/workload")]).run().succeeded();
    goes_on_over(&host, &id, &archive, &base, &before);
    host.assert_no_trace();
}

#[test]
fn what_differs_from_the_layers_of_an_overlay() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host);
    let (rootfs, layers) = (bundle.rootfs(), host.path("layers"));
    // The upper layer must be on another filesystem than one that is an overlay itself.
    let script = "set -e; mkdir $0; mount -t tmpfs layers $0; cd $0; mkdir high upper work base; cp -a $1 low
        touch low/hidden high/higher; mknod high/hidden c 0 0
        mount -t overlay overlay -o lowerdir=$0/high:$0/low,upperdir=$0/upper,workdir=$0/work $1
        mount -t overlay overlay -o lowerdir=$0/high:$0/low $0/base";
    host.command(&["sh", "-c", script, &layers, &rootfs]).run().succeeded();
    host.command(&["sh", "-c", CHANGES, &rootfs]).run().succeeded();
    let id = stage.id("c");
    host.migrate_detached(&["run", "-d", "-b", &bundle.path(), &id]);
    let container = host.container(&id, &host.outside(&rootfs));
    let before = container.reports();
    let archive = stage.path("c.tar.zst");
    container.checkpoint(&["--export", &archive, "--rootfs", "diff"]);
    let low = format!("{layers}/low");
    let restore = ["restore", "-d", "--import", &archive, "--base-rootfs", &low, &id];
    host.migrate(&restore).failed(1, &["is the first file that is another"]);
    goes_on_over(&host, &id, &archive, &format!("{layers}/base"), &before);
    let script = "umount $1 $0/base && umount $0";
    host.command(&["sh", "-c", script, &layers, &rootfs]).run().succeeded();
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn what_differs_from_an_image() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = bundle(&host);
    let (rootfs, layout) = (bundle.rootfs(), host.path("layout"));
    // Two layers, of which the second takes away what the first has too much.
    let script = "set -e; mkdir -p $0/blobs/sha256; cd $0; cp -a $1 ../low; touch ../low/hidden; mkdir ../high; touch ../high/.wh.hidden
        blob() { set -- $1 $(sha256sum <$1) $(stat -c %s $1); mv $1 blobs/sha256/$2; digest=$2 size=$4; }
        tar -C ../low -czf low . && blob low; l=$digest ls=$size
        tar -C ../high -cf high .wh.hidden && blob high; h=$digest hs=$size
        echo '{}' >config && blob config
        t=application/vnd.oci.image
        d() { printf '{\"mediaType\":\"%s\",\"digest\":\"sha256:%s\",\"size\":%s' $t.$1 $2 $3; }
        printf '{\"schemaVersion\":2,\"config\":%s},\"layers\":[%s},%s}]}' \"$(d config.v1+json $digest $size)\" \\
            \"$(d layer.v1.tar+gzip $l $ls)\" \"$(d layer.v1.tar $h $hs)\" >manifest && blob manifest
        printf '{\"schemaVersion\":2,\"manifests\":[%s,\"annotations\":{\"org.opencontainers.image.ref.name\":\"1\"}}]}' \\
            \"$(d manifest.v1+json $digest $size)\" >index.json
        echo '{\"imageLayoutVersion\":\"1.0.0\"}' >oci-layout";
    host.command(&["sh", "-c", script, &layout, &rootfs]).run().succeeded();
    host.command(&["sh", "-c", CHANGES, &rootfs]).run().succeeded();
    let id = stage.id("c");
    let container = host.run_detached(&id, &bundle);
    let before = container.reports();
    let (archive, image) = (stage.path("c.tar.zst"), format!("oci:{layout}:1"));
    container.checkpoint(&["--export", &archive, "--rootfs-base", &image]);
    bundle.remove();
    let none = format!("oci:{layout}:2");
    let restore = ["restore", "-d", "--import", &archive, "--base-rootfs", &none, &id];
    host.migrate(&restore).failed(1, &["no image with the tag 2"]);
    goes_on_over(&host, &id, &archive, &image, &before);
    host.assert_no_trace();
}
