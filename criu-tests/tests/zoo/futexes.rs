// SPDX-License-Identifier: Apache-2.0
//! Processes that wait for each other in memory that they share.

exhibits![robust_mutex, futex_waiters, inheriting_mutex, restartable_sequence];
