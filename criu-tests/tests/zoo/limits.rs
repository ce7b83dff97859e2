// SPDX-License-Identifier: Apache-2.0
//! What CRIU does not carry, each with the line of CRIU's log that says so. `docs/criu-limits.md` is for people.

limits![
    io_uring "send_fds failed (-22)",
    pipe_of_packets "The packetized mode for pipes is not supported yet",
];

#[test]
fn each_is_documented() {
    let text = include_str!("../../../docs/criu-limits.md");
    for (name, said) in SAID {
        let row = text.lines().find(|line| line.contains(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/criu-limits.md has no row of {name}"));
        assert!(row.contains(said), "{said:?} is not in the row of {name}: {row}");
    }
    for (name, _) in crate::losses::FOUND {
        assert!(text.contains(&format!("| `{name}` |")), "docs/criu-limits.md has no row of {name}");
    }
}
