// SPDX-License-Identifier: Apache-2.0
//! Signals that wait, masks, handlers, stopped and ended processes.

exhibits![
    blocked_signals,
    signal_masks_of_threads,
    pending_signal,
    queued_signals,
    queued_signals_of_a_thread,
    signal_handlers,
    ignored_signals,
    alternate_stack,
    alternate_stacks_of_threads,
    ended_process_that_nobody_has_waited_for,
];
