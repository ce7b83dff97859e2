# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced after environment.sh. Takes packages from a Debian suite that need not be the machine's own, and unpacks them beside the
# system, which stays as it is. The mirror and its key are those of the machine's own Debian entry: no host is named here.

updated=
log=

# logged COMMAND...: its output is shown only if it fails.
logged() {
    log=$(mktemp)
    if LC_ALL=C "$@" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return
    fi
    sed 's/^/  /' "$log" >&2
    rm -f "$log"
    return 1
}

apt_update() {
    [ -z "$updated" ] || return 0
    command -v apt-get >/dev/null || fail "no apt-get here: this script knows Debian and Ubuntu only; docs/setup.md lists what to install by hand"
    # One broken source of many need not be the one that is needed.
    logged apt-get -o DPkg::Lock::Timeout=300 -q update || echo "apt-get update had errors, see above; going on with what it got" >&2
    updated=yes
}

# The machine's own entry for Debian's main archive, as apt sees it: "FILE:NUMBER URI", where NUMBER is a stanza of a .sources file
# or a line of a .list file. Snapshots of /etc/apt differ; apt itself reads both forms.
debian_entry() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # the fields are apt's, not the shell's
    LC_ALL=C apt-get indextargets --format '$(SOURCESENTRY) $(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk -v codename="$codename" '
            $2 !~ /^cdrom:/ && $4 == "main" && $5 == "Debian" && $3 !~ /(-security|-updates|-backports|-proposed-updates|\/updates)$/ {
                if ($3 == codename) { print $1, $2; found = 1; exit }
                if (other == "") other = $1 " " $2
            }
            END { if (!found && other != "") print other }'
}

# keyring_of FILE:NUMBER: what that entry is signed by (one key file or more, or a key in line), or nothing if apt's default keys.
keyring_of() {
    local file=${1%:*} number=${1##*:}
    case $file in
        *.sources)
            grep -v '^#' "$file" | awk -v RS= -v number="$number" 'NR == number' |
                awk 'tolower($0) ~ /^signed-by:/ { sub(/^[^:]*: */, ""); print; on = 1; next } /^[ \t]/ { if (on) print; next } { on = 0 }'
            ;;
        *) sed -n "${number}{s/.*[[ ]signed-by=\([^] ]*\).*/\1/p}" "$file" ;;
    esac
}

# private_apt DIRECTORY SUITE: sets the array `apt` to an apt-get with a configuration and lists of its own in DIRECTORY, which sees
# SUITE of the machine's mirror and no installed package. Its lists are read.
private_apt() {
    local work=$1 suite=$2 entry uri keyring
    apt_update
    entry=$(debian_entry)
    [ -n "$entry" ] || fail "found no enabled apt source of Debian's main archive, from which to take packages of suite $suite"
    uri=${entry#* }
    keyring=$(keyring_of "${entry%% *}")
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial}
    : >"$work/status"
    {
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: $suite"
        echo "Components: main"
        echo "Architectures: $(dpkg --print-architecture)"
        echo "Targets: Packages"
        [ -z "$keyring" ] || echo "Signed-By: $keyring"
    } >"$work/private.sources"
    apt=(apt-get -q -y
        -o Dir::Etc::sourcelist="$work/private.sources" -o Dir::Etc::sourceparts=-
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts=- -o APT::Default-Release=
        -o Dir::State="$work/state" -o Dir::State::lists="$work/state/lists" -o Dir::State::status="$work/status"
        -o Dir::Cache="$work/cache" -o Dir::Cache::archives="$work/cache/archives"
        -o APT::Sandbox::User=root -o Acquire::Languages=none)
    if ! LC_ALL=C "${apt[@]}" update >"$work/log" 2>&1 </dev/null; then
        # An archive that is kept as it was at some day has a Release file past its date; nothing else may be waived.
        if grep -qE 'Release file for .* is expired' "$work/log"; then
            apt+=(-o Acquire::Check-Valid-Until=false)
            logged "${apt[@]}" update || fail "cannot read the package lists of Debian suite $suite: see above"
        else
            sed 's/^/  /' "$work/log" >&2
            fail "cannot read the package lists of Debian suite $suite: see above"
        fi
    fi
}

# private_unpack DIRECTORY ROOT PACKAGE...: the packages, with all that they depend on, unpacked into ROOT. After private_apt DIRECTORY.
private_unpack() {
    local work=$1 root=$2 package
    shift 2
    logged "${apt[@]}" --no-install-recommends --download-only install "$@" ||
        fail "cannot download $* from the Debian suite of $work/private.sources: see above"
    mkdir -p "$root"
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    chmod 755 "$root"
}

# The dynamic loader below a root: the file itself, since the link that programs name may be absolute.
loader_in() {
    local root=$1 triplet=$2 candidate
    for candidate in "$root"/{usr/,}lib/"$triplet"/ld-linux-*.so.?; do
        if [ -f "$candidate" ]; then
            echo "${candidate#"$root"/}"
            return
        fi
    done
    return 1
}

# private_wrapper AT FOR PROGRAM [WORD...]: writes AT/NAME, which runs PROGRAM (whose last component is NAME) of the files that are, or
# will be, in FOR, with their own loader and libraries, and with these words before its arguments.
private_wrapper() {
    local at=$1 for=$2 program=$3 loader triplet words
    shift 3
    triplet=$(uname -m)-linux-gnu
    loader=$(loader_in "$at" "$triplet") || fail "there is no dynamic loader for $triplet in $at"
    words=$(printf '"%s" ' "$@")
    [ $# -gt 0 ] || words=
    cat >"$at/${program##*/}" <<TEXT
#!/bin/sh
exec "$for/$loader" --library-path "$for/usr/lib/$triplet:$for/lib/$triplet" "$for/$program" $words"\$@"
TEXT
    chmod 755 "$at/${program##*/}"
}

# private_elf AT FOR PROGRAM: like private_wrapper, but the loader and the libraries' place are written into PROGRAM itself, and AT/NAME
# is a link to it.
private_elf() {
    local at=$1 for=$2 program=$3 loader triplet
    triplet=$(uname -m)-linux-gnu
    loader=$(loader_in "$at" "$triplet") || fail "there is no dynamic loader for $triplet in $at"
    patchelf --set-interpreter "$for/$loader" --set-rpath "$for/usr/lib/$triplet:$for/lib/$triplet" "$at/$program" ||
        fail "patchelf cannot change $at/$program"
    ln -sf "$program" "$at/${program##*/}"
}
