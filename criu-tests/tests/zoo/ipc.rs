// SPDX-License-Identifier: Apache-2.0
//! Pipes, message queues, semaphores, shared memory segments.

exhibits![pipe_with_data];
