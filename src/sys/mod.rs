// SPDX-License-Identifier: Apache-2.0
//! Module sys.

pub mod seqpacket;
pub mod swrk;
