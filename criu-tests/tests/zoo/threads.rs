// SPDX-License-Identifier: Apache-2.0
//! Threads and what each has of its own; threads that wait for each other.

exhibits![many_threads, thread_end, thread_names];
