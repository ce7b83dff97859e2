// SPDX-License-Identifier: Apache-2.0
//! Trees of processes, groups, sessions, orphans, the dead and the stopped.

exhibits![
    deep_tree,
    wide_tree,
    orphan,
    orphan_of_a_subreaper,
    daemon,
    session_without_leader,
    group_without_leader,
    groups_and_sessions,
    zombies,
    stopped_child,
    pids_far_apart,
    death_signal,
];
