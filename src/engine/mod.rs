// SPDX-License-Identifier: Apache-2.0
//! Module engine.

pub mod rootfs;
