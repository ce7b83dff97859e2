// SPDX-License-Identifier: Apache-2.0
//! On a real kernel: destinations: where they lead, what stands in for them, and that nothing leads out.

use super::*;

#[test]
fn proc_and_sys_must_be_real_directories() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        bundle.mkdir("rootfs/etc");
        symlink("/etc", bundle.rootfs(name)).expect("symlink");
        let error = bundle.refused();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.chain().contains("symbolic link"), "{}", error.chain());
    }
}

#[test]
fn nothing_leads_out_of_the_root() {
    let mut bundle = Bundle::with_mounts(json!([]));
    let source = bundle.mkdir("source");
    let outside = bundle.mkdir("outside");
    symlink(&outside, bundle.rootfs("absolute")).expect("symlink");
    symlink("../../../../../../../../etc", bundle.rootfs("relative")).expect("symlink");
    symlink("dangling/far", bundle.rootfs("dangling-link")).expect("symlink");
    let bind = |destination: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        bind("/absolute/x"), bind("/relative/y"), bind("/../../z"), bind("/dangling-link")
    ]);
    let landed = bundle.inside(|| {
        let mut points: Vec<PathBuf> = mountinfo::read()
            .expect("mountinfo is readable")
            .into_iter()
            .map(|mount| mount.mount_point)
            .filter(|point| !point.starts_with("/proc") && point != Path::new("/"))
            .collect();
        points.sort();
        points
    });
    let mut expected =
        vec![outside.join("x"), PathBuf::from("/etc/y"), PathBuf::from("/z"), PathBuf::from("/dangling/far")];
    expected.sort();
    assert_eq!(landed, expected);
    assert_eq!(fs::read_dir(&outside).expect("readable").count(), 0, "the host's directory is untouched");
    assert!(!Path::new("/etc/y").exists());
}

#[test]
fn loops_and_mounts_on_the_root_or_in_proc_are_refused() {
    let procfs = json!({"destination": "/proc", "type": "proc", "source": "proc"});
    let tmpfs = |path: &str| json!({"destination": path, "type": "tmpfs", "source": "tmpfs"});
    let table = [
        (json!([tmpfs("/loop")]), "mounts[0]"),
        (json!([tmpfs("/to-root")]), "mounts[0].destination"),
        (json!([procfs, tmpfs("/proc/sys")]), "mounts[1].destination"),
        (json!([procfs, tmpfs("/to-proc/irq")]), "mounts[1].destination"),
        (json!([tmpfs("/proc")]), "mounts[0].destination"),
        (
            json!([{"destination": "/proc", "type": "bind", "source": "/etc", "options": ["bind"]}]),
            "mounts[0]",
        ),
    ];
    for (mounts, field) in table {
        let bundle = Bundle::with_mounts(mounts);
        symlink("loop", bundle.rootfs("loop")).expect("symlink");
        symlink("/", bundle.rootfs("to-root")).expect("symlink");
        symlink("/proc", bundle.rootfs("to-proc")).expect("symlink");
        let error = bundle.refused();
        assert!(error.chain().contains(field), "{} does not name {field}", error.chain());
    }
}

#[test]
fn files_that_stand_in_for_procfs_files_are_mounted() {
    let mut bundle = Bundle::with_mounts(json!([]));
    let source = bundle.write("cpuinfo", "one processor");
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]},
        {"destination": "/proc/cpuinfo", "type": "bind", "source": source, "options": ["bind", "ro"]},
    ]);
    bundle.inside(|| {
        assert_eq!(fs::read_to_string("/proc/cpuinfo").expect("readable"), "one processor");
    });
}

#[test]
fn a_path_that_is_swapped_all_the_time_never_leads_out() {
    let bundle = Bundle::with_mounts(json!([]));
    let outside = bundle.mkdir("outside");
    bundle.mkdir("rootfs/a");
    symlink(&outside, bundle.rootfs("b")).expect("symlink");
    let (a, b) = (bundle.rootfs("a"), bundle.rootfs("b"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).expect("exchange");
            }
        });
        let root = Root::open_host(&bundle.host("rootfs")).expect("open");
        for round in 0..3000 {
            let path = PathBuf::from(format!("/a/deep/{round}"));
            // Losing a race may be an error; it must not be an escape.
            if let Ok(found) = root.open_or_create(&path, Mountpoint::Directory, Links::Follow) {
                root.container_path(found.fd.as_fd()).expect("inside the root filesystem");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).expect("readable").count(), 0);
}

#[test]
fn destinations_resolve_as_the_container_sees_them() {
    let bundle = Bundle::new();
    bundle.mkdir("rootfs/usr/lib");
    bundle.mkdir("rootfs/run");
    for (link, target) in [
        ("lib", "usr/lib"),
        ("abs", "/usr"),
        ("up", "../../../../usr"),
        ("chain", "abs"),
        ("broken", "/nowhere/at/all"),
        ("usr/self", "."),
        ("twist", "usr/../run/./x/.."),
    ] {
        symlink(target, bundle.rootfs(link)).expect("symlink");
    }
    for (given, expected) in [
        ("/", "/"),
        ("/lib", "/usr/lib"),
        ("/lib/modules", "/usr/lib/modules"),
        ("/abs/lib/x", "/usr/lib/x"),
        ("/up/lib", "/usr/lib"),
        ("/chain/lib", "/usr/lib"),
        ("/broken/deeper", "/nowhere/at/all/deeper"),
        ("/missing/../lib", "/usr/lib"),
        ("/usr/self/self/lib", "/usr/lib"),
        ("/twist", "/run"),
        ("relative/path", "/relative/path"),
        ("/../../run", "/run"),
    ] {
        let resolved = resolve_destination(&bundle.host("rootfs"), Path::new(given)).expect("resolvable");
        assert_eq!(resolved, Path::new(expected), "{given}");
    }
    symlink("round", bundle.rootfs("round")).expect("symlink");
    let error = resolve_destination(&bundle.host("rootfs"), Path::new("/round/x")).expect_err("a loop");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::InvalidConfig, Some(libc::ELOOP)));
    let error = resolve_destination(&bundle.host("none"), Path::new("/x")).expect_err("no root filesystem");
    assert!(error.is_errno(libc::ENOENT));
}

#[test]
fn mount_points_are_prepared_as_create_makes_them() {
    let mut bundle = Bundle::new();
    bundle.mkdir("data");
    bundle.write("file", "");
    bundle.mkdir("rootfs/real");
    symlink("/real", bundle.rootfs("alias")).expect("symlink");
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.extend([
        bind("/data", "data"),
        bind("/data/inner/file", "file"),
        bind("/alias/dir", "data"),
        bind("/etc/hosts", "file"),
        bind("/dev/in-tmpfs", "file"),
        json!({"destination": "/data/tmp", "type": "tmpfs", "source": "t"}),
        bind("/data/tmp/x", "data"),
    ]);
    let plan = bundle.plan();
    prepare_mountpoints(&plan).unwrap_or_else(|error| panic!("{}", error.chain()));
    for directory in ["proc", "dev", "sys", "data", "real/dir"] {
        assert!(bundle.rootfs(directory).is_dir(), "{directory}");
        assert_eq!(fs::metadata(bundle.rootfs(directory)).expect("stat").mode() & 0o777, 0o755);
    }
    assert!(bundle.rootfs("etc/hosts").is_file());
    // Below the bind: in its source, not beneath it.
    assert!(bundle.host("data/inner/file").is_file() && bundle.host("data/tmp").is_dir());
    assert_eq!(fs::read_dir(bundle.rootfs("data")).expect("readable").count(), 0);
    // Below a filesystem that CRIU mounts: nothing.
    assert_eq!(fs::read_dir(bundle.rootfs("dev")).expect("readable").count(), 0);
    assert_eq!(fs::read_dir(bundle.rootfs("sys")).expect("readable").count(), 0);
    assert!(!bundle.host("data/tmp/x").exists());
    for mount in mountinfo::read().expect("mountinfo is readable") {
        assert!(!mount.mount_point.starts_with(bundle.directory.path()), "{mount:?} was left behind");
    }
    prepare_mountpoints(&plan).expect("a second time it is all there");
}

#[test]
fn a_mount_point_that_cannot_be_made_is_named() {
    let bundle = Bundle::with_mounts(json!([{"destination": "/file/x", "type": "tmpfs", "source": "t"}]));
    bundle.write("rootfs/file", "");
    let error = prepare_mountpoints(&bundle.plan()).expect_err("a file is in the way");
    assert!(error.to_string().contains("/file/x (mounts[0])"), "{}", error.chain());
    assert!(error.is_errno(libc::ENOTDIR), "{}", error.chain());
}
