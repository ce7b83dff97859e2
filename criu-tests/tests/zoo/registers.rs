// SPDX-License-Identifier: Apache-2.0
//! What is in the processor when a thread is stopped.

exhibits![vector_registers, float_control, signal_handler_entered];
