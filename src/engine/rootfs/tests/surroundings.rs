// SPDX-License-Identifier: Apache-2.0
//! On a real kernel: cgroups, the way into the root, and that the host sees nothing of it.

use super::*;

#[test]
fn version_1_cgroups_are_bound_and_linked() {
    let mut bundle = Bundle::new();
    let own = bundle.mkdir("cgroup/cpu,cpuacct/own");
    fs::write(own.join("tasks"), "").expect("write");
    bundle.context.cgroups = CgroupLayout::V1(vec![CgroupBind {
        name: "cpu,cpuacct".to_owned(),
        host_path: own,
        fs_data: "cpu,cpuacct".to_owned(),
        symlinks: vec!["cpu".to_owned(), "cpuacct".to_owned()],
    }]);
    bundle.inside(|| {
        assert!(Path::new("/sys/fs/cgroup/cpu/tasks").exists());
        assert_eq!(fs::read_link("/sys/fs/cgroup/cpuacct").expect("a link"), Path::new("cpu,cpuacct"));
        assert_eq!(mounted("/sys/fs/cgroup/cpu,cpuacct").options, "ro,nosuid,nodev,noexec,relatime");
        assert!(mounted("/sys/fs/cgroup").has_option("ro"));
    });
}

#[test]
fn without_a_cgroup_namespace_version_2_is_a_private_copy_of_the_hosts_mount() {
    let mut bundle = Bundle::new();
    let host_mount = bundle.mkdir("unified");
    let host_path = bundle.mkdir("unified/own");
    bundle.context.cgroups = CgroupLayout::V2 { host_mount, host_path };
    bundle.inside(|| {
        assert!(Path::new("/sys/fs/cgroup/own").is_dir());
        let mount = mounted("/sys/fs/cgroup");
        assert_eq!(mount.options, "ro,nosuid,nodev,noexec,relatime");
        assert!(mount.propagation.is_empty());
    });
}

#[test]
fn with_a_cgroup_namespace_the_hierarchies_are_mounted_anew() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    bundle.context.cgroups =
        CgroupLayout::V2 { host_mount: bundle.mkdir("unused"), host_path: bundle.mkdir("unused/own") };
    let hierarchies = mountinfo::read().expect("mountinfo is readable");
    let hierarchies: Vec<CgroupBind> = hierarchies
        .into_iter()
        .filter(|mount| mount.fstype == "cgroup" && mount.super_options.contains("pids"))
        .map(|mount| CgroupBind {
            name: "pids".to_owned(),
            host_path: mount.mount_point,
            fs_data: "pids".to_owned(),
            symlinks: Vec::new(),
        })
        .take(1)
        .collect();
    let v2 = bundle.plan();
    bundle.context.cgroups = CgroupLayout::V1(hierarchies.clone());
    let v1 = bundle.plan();
    let check = |plan: &RootfsPlan, path: &str, fstype: &str| {
        in_namespace(|| {
            unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare the cgroup namespace");
            let built = prepare(plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
            built.unwrap_or_else(|error| panic!("{}", error.chain()));
            let mount = mounted(path);
            assert_eq!((mount.fstype.as_str(), mount.root.as_path()), (fstype, Path::new("/")));
            assert!(mount.has_option("ro"));
        });
    };
    check(&v2, "/sys/fs/cgroup", "cgroup2");
    if !hierarchies.is_empty() {
        check(&v1, "/sys/fs/cgroup/pids", "cgroup");
    }
}

#[test]
fn without_pivot_root_the_hosts_proc_is_out_of_reach() {
    let mut bundle = Bundle::new();
    bundle.context.no_pivot = true;
    bundle.inside(|| {
        assert_eq!(mounted("/proc").fstype, "proc");
        assert!(Path::new("/dev/null").exists() && !Path::new("/etc").exists());
        let kernel = mountinfo::read().expect("mountinfo is readable");
        assert_eq!(
            kernel.iter().filter(|mount| mount.fstype == "proc" && mount.root == Path::new("/")).count(),
            1,
            "only the container's own"
        );
    });
}

#[test]
fn without_a_mount_namespace_the_mounts_are_the_hosts_until_the_end() {
    let mut bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
    ]));
    bundle.config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    bundle.config["root"]["readonly"] = json!(true);
    bundle.write("rootfs/here", "");
    let (plan, rootfs) = (bundle.plan(), bundle.host("rootfs"));
    in_namespace(|| {
        let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).expect("make / shared");
        // As a user has mounted it, with a peer elsewhere.
        let bind = |to: &Path| {
            mount(Some(&rootfs), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        };
        bind(&rootfs);
        bind(&bundle.mkdir("peer"));
        let table = || mountinfo::read().expect("mountinfo is readable");
        let before = table();
        let known = host::HostMount::before(&rootfs).expect("a mount");
        known.unbind(&rootfs).expect("nothing to do");
        assert_eq!(table(), before);
        let own = Some(host::bind(&rootfs).expect("bind"));
        thread::scope(|scope| {
            let inside = || {
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
                built.unwrap_or_else(|error| panic!("{}", error.chain()));
                assert!(Path::new("/here").exists() && Path::new("/dev/null").exists());
                let error = fs::write("/x", "").expect_err("/ is read-only");
                assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| resume_unwind(panic));
        });
        let is_new = |m: &MountInfo| !before.iter().any(|old| old.id == m.id);
        let points: Vec<PathBuf> = table().into_iter().filter(is_new).map(|m| m.mount_point).collect();
        // The bind itself shows at each peer, what is mounted in it does not.
        let inside: Vec<&PathBuf> =
            points.iter().filter(|p| **p != rootfs && **p != bundle.host("peer")).collect();
        assert_eq!(inside, [&rootfs.join("proc"), &rootfs.join("dev")], "{points:?}");
        assert!(points.contains(&rootfs));
        // As when the command was killed before it could write down what it had bound.
        known.unbind(&rootfs).expect("unmount");
        assert_eq!(table(), before, "the user's mounts stay as they were");
        let known = host::HostMount { own, ..known };
        known.unbind(&bundle.host("gone")).expect("nothing there");
        bind(&rootfs);
        let another = table();
        known.unbind(&rootfs).expect("it is another's");
        assert_eq!(table(), another);
    });
}

#[test]
fn nothing_of_a_container_shows_on_the_host() {
    let bundle = Bundle::new();
    let seen_by_host = bundle.inside(|| {
        // The test runner's main thread is still in the host's namespace.
        fs::read(format!("/proc/{}/mountinfo", std::process::id())).expect("readable")
    });
    let directory = bundle.directory.path();
    for mount in mountinfo::parse(&seen_by_host).expect("well formed") {
        assert!(!mount.mount_point.starts_with(directory), "{mount:?}");
    }
    assert!(fs::read_dir(bundle.rootfs("dev")).expect("readable").next().is_none());
}

/// A host whose mounts are shared, as systemd leaves them.
#[test]
fn nothing_propagates_to_a_host_with_shared_mounts() {
    let words = ["", "rslave", "slave", "rprivate", "private", "shared", "rshared", "unbindable"];
    for (word, no_pivot) in words.into_iter().flat_map(|word| [(word, false), (word, true)]) {
        let mut bundle = Bundle::new();
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        bundle.context.no_pivot = no_pivot;
        let plan = bundle.plan();
        in_namespace(|| {
            let none = None::<&str>;
            let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
            mount(none, "/", none, shared, none).expect("make / shared");
            // Some engines mount the root filesystem themselves.
            if no_pivot {
                let rootfs = bundle.host("rootfs");
                mount(Some(&rootfs), &rootfs, none, MsFlags::MS_BIND, none).expect("bind");
            }
            let before = mountinfo::read().expect("mountinfo is readable");
            let build = || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("unshare");
                let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
                built.unwrap_or_else(|error| panic!("{word}: {}", error.chain()));
                mounted("/").propagation
            };
            let propagation =
                thread::scope(|scope| scope.spawn(build).join().unwrap_or_else(|panic| resume_unwind(panic)));
            let is = |kind: &str| propagation.iter().any(|mark| mark.starts_with(kind));
            assert_eq!(is("shared:"), word.ends_with("shared"), "{word}: {propagation:?}");
            // What the host mounts in the root filesystem still arrives.
            // `slave` alone does not reach a root filesystem that is a mount of its own.
            let receives = matches!(word, "" | "rslave") || (word == "slave" && !no_pivot);
            assert_eq!(is("master:"), receives, "{word}: {propagation:?}");
            assert_eq!(mountinfo::read().expect("mountinfo is readable"), before, "{word}");
        });
    }
}
