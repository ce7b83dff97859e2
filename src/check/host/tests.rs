// SPDX-License-Identifier: Apache-2.0
//! Each fact of a host as it should be, and as it should not.

use super::*;
use crate::check::{Report, Verdict};

fn good() -> HostFacts {
    HostFacts {
        root: true,
        release: "6.18.1".to_owned(),
        kernel: Kernel::parse("6.18.1"),
        criu: Found::Answers {
            path: "/usr/sbin/criu".into(),
            version: Version::new(4, 2, 1),
            features: Ok(features(true)),
            nftables: Some(true),
            bpf: Some(false),
        },
        userfaultfd: Ok(true),
        pagemap_scan: true,
        pipe_max_size: Some(1 << 20),
        capabilities: u64::MAX,
        run_is_tmpfs: true,
        programs: PROGRAMS.map(|(name, _)| (name, true)).to_vec(),
        lsm: Vec::new(),
        cgroups: Some(Layout::Unified),
        freezer: true,
    }
}

fn features(all: bool) -> Features {
    Features { memory_tracking: all, lazy_pages: all, pidfd_store: all }
}

fn with_version(version: Version) -> Found {
    let Found::Answers { path, features, nftables, bpf, .. } = good().criu else {
        unreachable!("it answers")
    };
    Found::Answers { path, version, features, nftables, bpf }
}

#[test]
fn a_good_host_is_ready() {
    let report = Report::new(judge(&good()), Vec::new());
    assert_eq!(report.verdict, Verdict::Ready);
    assert!(report.host.iter().all(|row| row.standing == Standing::Ok), "{}", report.text());
}

#[test]
fn what_a_host_lacks_is_told() {
    type Change = fn(&mut HostFacts);
    let table: [(&str, Standing, Change); 15] = [
        ("user", Standing::Blocker, |f| f.root = false),
        ("criu", Standing::Blocker, |f| f.criu = Found::Unusable("no criu".to_owned(), None)),
        ("criu", Standing::Blocker, |f| f.criu = with_version(Version::new(3, 17, 1))),
        ("criu", Standing::Note, |f| f.criu = with_version(Version::new(4, 1, 1))),
        ("userfaultfd", Standing::Note, |f| f.userfaultfd = Err(Errno::EPERM)),
        ("pipe_max_size", Standing::Note, |f| {
            f.pipe_max_size = Some(4096);
            f.capabilities = !(1 << SYS_RESOURCE);
        }),
        ("capabilities", Standing::Blocker, |f| f.capabilities = !(1 << SYS_ADMIN)),
        ("capabilities", Standing::Note, |f| f.capabilities = !(1 << SYS_RESOURCE)),
        ("run", Standing::Note, |f| f.run_is_tmpfs = false),
        ("programs", Standing::Blocker, |f| f.programs[0].1 = false),
        ("programs", Standing::Note, |f| f.programs[3].1 = false),
        ("cgroups", Standing::Note, |f| f.cgroups = None),
        ("cgroups", Standing::Note, |f| f.freezer = false),
        ("memory_tracking", Standing::Note, |f| {
            if let Found::Answers { features: found, .. } = &mut f.criu {
                *found = Ok(features(false));
            }
        }),
        ("nftables", Standing::Note, |f| {
            if let Found::Answers { nftables, .. } = &mut f.criu {
                *nftables = Some(false);
            }
        }),
    ];
    for (name, standing, change) in table {
        let mut facts = good();
        change(&mut facts);
        let rows = judge(&facts);
        let row = rows.iter().find(|row| row.name == name).expect("the row is there");
        assert_eq!(row.standing, standing, "{row:?}");
        assert!(!row.cause.is_empty(), "{row:?}");
        let verdict = Report::new(rows, Vec::new()).verdict;
        assert_eq!(verdict == Verdict::NotPossible, standing == Standing::Blocker, "{name}");
    }
}

#[test]
fn an_old_criu_is_in_the_way_of_network_sockets_only() {
    let mut facts = good();
    facts.criu = with_version(Version::new(4, 1, 1));
    assert_eq!(judge_sockets(&facts, false), None);
    let finding = judge_sockets(&facts, true).expect("it is too old");
    assert_eq!((finding.severity, finding.rule), (Severity::Blocker, "criu_version"));
    assert_eq!(judge_sockets(&good(), true), None);
}

#[test]
fn the_report_reads_as_text_and_as_json() {
    let mut facts = good();
    facts.run_is_tmpfs = false;
    let rows: Vec<HostRow> =
        judge(&facts).into_iter().filter(|row| ["criu", "run"].contains(&row.name)).collect();
    let lock = Finding::new(Severity::NeedsFlag, "file_lock", "descriptor 9 on /data")
        .needs(crate::check::Flag::FileLocks)
        .because("it holds a lock on this file", "pass --file-locks, to restore too")
        .of(7, "web");
    let report = Report::new(rows, vec![lock]);
    assert_eq!(report.verdict, Verdict::ReadyWithFlags);
    assert_eq!(
        report.text(),
        "\
ok          criu                4.2.1, /usr/sbin/criu
note        run                 /run is no tmpfs
                                CRIU does not keep there what it has found out about the kernel; migrate keeps it instead
                                mount a tmpfs on /run
needs flag  file_lock           process 7 (web), descriptor 9 on /data
                                it holds a lock on this file
                                pass --file-locks, to restore too
RESULT      checkpoint          ready with --file-locks
"
    );
    let json = serde_json::to_value(&report).expect("it can be written");
    assert_eq!(
        json,
        serde_json::json!({
            "schema": 1,
            "verdict": "ready_with_flags",
            "flags": ["--file-locks"],
            "host": [
                {"name": "criu", "standing": "ok", "value": "4.2.1, /usr/sbin/criu", "cause": "", "remedy": ""},
                {
                    "name": "run",
                    "standing": "note",
                    "value": "/run is no tmpfs",
                    "cause": "CRIU does not keep there what it has found out about the kernel; migrate keeps it instead",
                    "remedy": "mount a tmpfs on /run"
                }
            ],
            "findings": [{
                "severity": "needs_flag",
                "rule": "file_lock",
                "flag": "--file-locks",
                "pid": 7,
                "command": "web",
                "evidence": "descriptor 9 on /data",
                "count": 1,
                "cause": "it holds a lock on this file",
                "remedy": "pass --file-locks, to restore too"
            }]
        })
    );
}
