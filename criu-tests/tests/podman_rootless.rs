// SPDX-License-Identifier: Apache-2.0
//! Podman of a user who is not root, with the binary under test as its runtime.

use criu_tests::{Need, Podman, Stage};

const NEEDS: &[Need] = &[Need::Podman, Need::Uidmap];

#[test]
fn the_life_of_a_container() {
    let Some(stage) = Stage::set(NEEDS) else { return };
    let host = stage.host("a");
    let podman = Podman::without_root(&host);
    let map = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(map(podman.says(&[], "id -u; cat /proc/self/uid_map")), "0 0 54321 1 1 300000 65536");
    let script = "trap 'echo bye; exit 5' TERM; touch /mine; echo ready; while :; do sleep 0.05; done";
    podman.background("c", &["-v", "data:/data"], script);
    podman.logs("c", "ready");
    let pid = podman.inspect("c", "{{.State.Pid}}");
    let status = host.command(&["cat", &format!("/proc/{pid}/status")]).run().succeeded();
    assert!(status.contains("Uid:\t54321\t54321"), "{status}");
    assert_eq!(podman.executes("c", "stat -c %u /mine; echo kept > /data/f"), "0");
    assert_eq!(podman.podman(&["exec", "--user=guest", "c", "id", "-u"]).succeeded(), "1000\n");
    let top = podman.podman(&["top", "c", "pid", "user"]).succeeded();
    assert!(top.lines().nth(1).is_some_and(|line| line.starts_with("1 ")), "{top}");
    podman.podman(&["stop", "c"]).succeeded();
    assert_eq!(podman.inspect("c", "{{.State.ExitCode}}"), "5");
    assert_eq!(podman.says(&["-v", "data:/data"], "cat /data/f"), "kept");
    assert_eq!(podman.run(&[], &["nosuch"]).code, 127);
    assert_eq!(podman.run(&[], &["/etc/passwd"]).code, 126);
    podman.end();
}

#[test]
fn ids_are_kept_and_settings_hold() {
    let Some(stage) = Stage::set(NEEDS) else { return };
    let host = stage.host("a");
    let podman = Podman::without_root(&host);
    assert_eq!(podman.says(&["--userns=keep-id"], "id -u; id -g"), "54321\n54321");
    let options = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--ulimit=nofile=50"];
    let seen = podman.says(
        &options,
        "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2; ulimit -n; touch /x || echo refused",
    );
    assert_eq!(seen, "0000000000000000\n1\n2\n50\nrefused");
    let own = host.command(&["readlink", "/proc/self/ns/net"]).run().succeeded();
    assert_eq!(podman.says(&["--network=host"], "readlink /proc/self/ns/net"), own.trim());
    assert_eq!(podman.says(&[], "ls /sys/class/net"), "lo");
    podman.end();
}

#[test]
fn a_pod() {
    let Some(stage) = Stage::set(NEEDS) else { return };
    let host = stage.host("a");
    let podman = Podman::without_root(&host);
    podman.pod("pod", &["--hostname=together", "--network=none"]);
    let serves = "echo page > /tmp/index.html; exec httpd -f -p 8000 -h /tmp";
    podman.podman(&["run", "-d", "--pod=pod", Podman::IMAGE, "sh", "-c", serves]).succeeded();
    let asks = "hostname; until wget -q -O - http://127.0.0.1:8000/; do :; done";
    let seen = podman.podman(&["run", "--rm", "--pod=pod", Podman::IMAGE, "sh", "-c", asks]).succeeded();
    assert_eq!(seen, "together\npage\n");
    podman.end();
}
