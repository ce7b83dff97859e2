// SPDX-License-Identifier: Apache-2.0
//! On a real kernel: binds, propagation and filesystems with their options.

use super::*;

#[test]
fn binds_of_files_and_directories_nest_and_take_their_flags() {
    let mut bundle = Bundle::with_mounts(json!([]));
    bundle.mkdir("data/sub");
    bundle.write("data/file", "in data");
    bundle.write("resolv.conf", "nameserver ::1");
    bundle.mkdir("other");
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "nosuid", "noatime"]},
        {"destination": "/data/nested", "type": "bind", "source": "other", "options": ["bind", "ro", "nodev"]},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv.conf", "options": ["bind", "ro"]},
    ]);
    bundle.inside(|| {
        assert_eq!(fs::read_to_string("/data/file").expect("readable"), "in data");
        assert_eq!(fs::read_to_string("/etc/resolv.conf").expect("readable"), "nameserver ::1");
        assert_eq!(mounted("/data").options, "rw,nosuid,noatime");
        assert!(mounted("/data/nested").options.starts_with("ro,nodev"));
        assert!(mounted("/etc/resolv.conf").has_option("ro"));
        for path in ["/data/nested/x", "/etc/resolv.conf"] {
            let error = fs::write(path, "").expect_err("read-only");
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}");
        }
        fs::write("/data/new", "").expect("writable");
    });
    assert!(bundle.host("data/new").exists() && bundle.host("data/nested").is_dir());
    assert!(bundle.rootfs("etc/resolv.conf").is_file());
}

#[test]
fn a_bind_without_flags_keeps_those_of_its_source_and_with_flags_replaces_them() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/plain", "type": "bind", "source": "source", "options": ["rbind", "rprivate"]},
        {"destination": "/flags", "type": "bind", "source": "source", "options": ["rbind", "nodev"]},
        {"destination": "/recursive", "type": "bind", "source": "source", "options": ["rbind", "rro", "rnosuid"]},
    ]));
    let source = bundle.mkdir("source");
    let plan = bundle.plan();
    in_namespace(|| {
        let tmpfs = |path: &Path| {
            mount(Some("t"), path, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).expect("mount");
        };
        tmpfs(&source);
        fs::create_dir(source.join("sub")).expect("mkdir");
        tmpfs(&source.join("sub"));
        let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
        built.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(mounted("/plain").options, "rw,noexec,relatime");
        assert_eq!(mounted("/flags").options, "rw,nodev,relatime");
        assert_eq!(mounted("/flags/sub").options, "rw,noexec,relatime");
        assert_eq!(mounted("/recursive").options, "ro,nosuid,noexec,relatime");
        assert_eq!(mounted("/recursive/sub").options, "ro,nosuid,noexec,relatime");
    });
}

#[test]
fn propagation_is_applied_to_mounts_and_to_the_root() {
    for (word, marks) in [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable")] {
        let mut bundle = Bundle::with_mounts(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/peer", "type": "tmpfs", "source": "t", "options": ["shared"]},
            {"destination": "/slave", "type": "bind", "source": "source", "options": ["bind", "shared", "slave"]},
        ]));
        bundle.mkdir("source");
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        bundle.inside(|| {
            let root = mounted("/").propagation;
            assert!(root.iter().any(|mark| mark.starts_with(marks)), "{word}: {root:?}");
            assert!(mounted("/peer").propagation.iter().any(|mark| mark.starts_with("shared:")), "{word}");
        });
    }
    Bundle::new().inside(|| {
        for mount in mountinfo::read().expect("mountinfo is readable") {
            assert!(!mount.propagation.iter().any(|mark| mark.starts_with("shared:")), "{mount:?}");
        }
    });
}

#[test]
fn a_tmpfs_takes_the_mode_beneath_it_and_becomes_read_only_last() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/existing", "type": "tmpfs", "source": "t", "options": ["ro"]},
        {"destination": "/existing/made", "type": "tmpfs", "source": "t"},
        {"destination": "/given", "type": "tmpfs", "source": "t", "options": ["mode=0711", "size=64k,nr_inodes=8"]},
    ]));
    for path in ["rootfs/existing", "rootfs/given"] {
        let path = bundle.mkdir(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o1750)).expect("chmod");
    }
    bundle.inside(|| {
        let mode = |path| fs::metadata(path).expect("stat").mode() & 0o7777;
        assert_eq!((mode("/existing"), mode("/given"), mode("/existing/made")), (0o1750, 0o711, 0o1777));
        assert!(mounted("/existing").has_option("ro") && mounted("/existing/made").has_option("rw"));
        assert!(mounted("/given").super_options.contains("size=64k,nr_inodes=8"));
    });
}

#[test]
fn options_that_only_mount2_takes_work_too() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["silent", "nosuid", "size=64k", "shared"]},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["remount", "nosuid", "size=128k"]},
    ]));
    bundle.inside(|| {
        let mount = mounted("/t");
        assert_eq!(mount.options, "rw,nosuid,relatime");
        assert!(mount.super_options.contains("size=128k"), "{mount:?}");
        assert_eq!(mount.propagation.len(), 1);
    });
}

#[test]
fn a_missing_working_directory_is_made_before_the_root_becomes_read_only() {
    let mut bundle = Bundle::new();
    bundle.config["process"]["cwd"] = json!("/srv/app");
    bundle.inside(|| assert!(Path::new("/srv/app").is_dir()));
}
