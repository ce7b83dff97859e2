// SPDX-License-Identifier: Apache-2.0
//! System calls that are being waited in.

exhibits![in_select, in_epoll_wait, in_a_read_of_a_pipe];
