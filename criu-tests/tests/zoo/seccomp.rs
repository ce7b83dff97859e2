// SPDX-License-Identifier: Apache-2.0
//! System calls that a process has given up.

exhibits![
    seccomp_strict,
    seccomp_filter,
    seccomp_filters_stacked,
    seccomp_inherited,
    seccomp_of_one_thread,
    seccomp_of_all_threads,
];
