// SPDX-License-Identifier: Apache-2.0
//! What CRIU carries, but not all of it, and without a word. `docs/criu-limits.md` is for people.

losses![
    event_counter_beyond_32_bits "counter is 5",
    event_semaphore "one is 3, must be 1",
    inotify_once "IN_IGNORED",
    shared_segment_that_is_removed "key and mode is (0, 0), must be (0, 512)",
];
