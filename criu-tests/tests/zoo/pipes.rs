// SPDX-License-Identifier: Apache-2.0
//! Pipes in all states that a pipe can be in.

exhibits![
    pipe_with_data,
    pipe_that_is_full,
    pipe_of_another_size,
    pipe_without_writers,
    pipe_without_readers,
    pipe_between_processes,
];
