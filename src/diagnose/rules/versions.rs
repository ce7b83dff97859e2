// SPDX-License-Identifier: Apache-2.0
//! Versions: of CRIU and the kernel, of CRIU there and here, of processors.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "criu-too-old-for-the-kernel",
        seen: &[
            "vdso: Unexpected rt vDSO area bounds",
            "vdso: Can't find vDSO/VVAR bounds",
            "vdso: Failed to fill self vdso symtable",
        ],
        cause: "this criu is too old for the running kernel: Linux 6.13 and newer need criu 4.1",
        remedy: "run scripts/setup, or pass --criu",
        ..Rule::ANY
    },
    Rule {
        name: "criu-too-old-for-sockets",
        seen: &["sockets: Can't get 1:34 opt"],
        cause: "this criu is too old for network sockets on the running kernel: Linux 6.18 and newer need criu 4.2",
        remedy: "run scripts/setup, or pass --criu",
        ..Rule::DUMP
    },
    Rule {
        name: "images-of-a-newer-criu",
        seen: &["Not supported images version {version}"],
        cause: "the images are of another version ({version}) than this criu reads",
        remedy: "restore with a criu that is as new as the one that made them: run scripts/setup, or pass --criu",
        ..Rule::RESTORE
    },
    Rule {
        name: "images-of-an-old-criu",
        seen: &[
            "Too old image, no longer supported",
            "Images corrupted or too old criu was used for dump",
            "Image from old CRIU?",
        ],
        cause: "the images were made by a criu that is too old for this one",
        remedy: "restore with the criu that made them, or checkpoint again with a newer one",
        ..Rule::RESTORE
    },
    Rule {
        name: "processor-lacks-features",
        seen: &[
            "cpu: CPU capabilities do not match run time",
            "cpu: CPU instruction capabilities do not match run time",
            "cpu: FPU feature required by image is not supported on host",
            "cpu: CPU xfeatures has unsupported bits",
            "cpu: CPU xsave size mismatch",
            "cpu: CPU xsave max size mismatch",
            "x86: FPU xsave area present, but host cpu doesn't support it",
        ],
        cause: "this processor lacks features that the programs may have found on the one of the checkpoint",
        remedy: "restore on a processor with at least its features (compare the flags in /proc/cpuinfo)",
        ..Rule::RESTORE
    },
    Rule {
        name: "other-architecture",
        seen: &["Core march mismatch"],
        cause: "the images are of another processor architecture",
        remedy: "restore on the architecture of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "no-vdso",
        seen: &[
            "vdso: vDSO isn't provided by kernel, but exists in images",
            "vdso: Failed to proxify dumpee contents",
        ],
        cause: "this kernel does not give programs the shared code (vDSO) that they had at the checkpoint",
        remedy: "restore on a kernel that was started without vdso=0",
        ..Rule::RESTORE
    },
    Rule {
        name: "plugin-missing",
        seen: &["Missing required plugin"],
        cause: "the checkpoint was made with a plugin of criu's that is missing here (GPUs)",
        remedy: "install the same criu plugins as on the source",
        ..Rule::RESTORE
    },
    Rule {
        name: "kernel-without-checkpointing",
        seen: &[
            "System call kcmp is not supported",
            "prctl: PR_SET_MM_MAP_SIZE is not supported",
            "/proc/<pid>/map_files is inaccessible",
            "sys/kernel/ns_last_pid on procfs: No such file",
            "prctl: PR_GET_TID_ADDRESS is not supported",
        ],
        cause: "this kernel is built without what criu needs (CONFIG_CHECKPOINT_RESTORE)",
        remedy: "use a kernel for which `criu check` says \"Looks good\"",
        ..Rule::ANY
    },
    Rule {
        name: "kernel-not-probed",
        seen: &["{what} failed when initializing kerndat"],
        last_resort: true,
        cause: "criu could not find out what this kernel can do ({what})",
        remedy: "`criu check` tells what is missing; a newer criu may know this kernel: run scripts/setup, or pass --criu",
        ..Rule::ANY
    },
];
