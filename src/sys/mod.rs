// SPDX-License-Identifier: Apache-2.0
//! Module sys.

pub mod mount;
pub mod mountinfo;
