#!/usr/bin/env bash
# Install what the checkout needs: packaging/setup.sh [run|test|bench]
#
# System packages through apt or dnf (only those that are missing), then .venv
# from the distribution's own Python, then the pinned packages of
# requirements.lock, then this checkout.  When nothing is to do it says so
# within a second, without network.
set -euo pipefail
cd "$(dirname "$0")/.."

scope=${1:-run}
python=/usr/bin/python3 # dnf, rpm and gi are bound to the distribution's own Python
venv=.venv
stamp=$venv/setup-stamp
table=packaging/system-packages.txt

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# The names in column $1 of the table, for what is wanted in $scope.
wanted() {
    awk -v column="$1" -v scope="$scope" '
        !/^#/ && NF && ($2 == "run" || scope == "bench" || $2 == scope) && $column != "-" {
            gsub(",", "\n", $column); print $column
        }
    ' "$table"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "system packages are missing, and this is neither root nor is there sudo" \
            "as root: packaging/setup.sh $scope"
    fi
}

missing_debian() {
    comm -23 <(wanted 3 | sort -u) <(
        # shellcheck disable=SC2016,SC2046
        dpkg-query -W -f='${db:Status-Status} ${Package}\n' $(wanted 3) 2>/dev/null |
            sed -n 's/^installed //p' | sort -u
    )
}

# By what packages provide: dnf is dnf5's since Fedora 41.
missing_fedora() {
    local name
    for name in $(wanted 4); do
        case $name in *'?') continue ;; esac
        rpm -q --quiet --whatprovides "$name" || printf '%s\n' "$name"
    done
}

# Debian starts and enables a server when its package is installed; nobody who
# runs our tests asked for one on port 80.
install_debian() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    local policy=/usr/sbin/policy-rc.d status=0 own_policy=no
    as_root "${apt[@]}" update || say "apt-get update failed; trying with the lists that are here"
    if [ ! -e "$policy" ]; then
        own_policy=yes
        # shellcheck disable=SC2064
        trap "as_root rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    fi
    as_root "${apt[@]}" install --yes --no-install-recommends "$@" || status=$?
    if [ "$own_policy" = yes ]; then
        as_root rm -f "$policy"
        trap - EXIT
    fi
    [ "$status" -eq 0 ] || fail "apt-get could not install: $*" "see apt's messages above"
    case " $* " in *" nginx-light "*) as_root update-rc.d nginx disable ;; esac
}

install_fedora() {
    local dnf=(dnf install --assumeyes --setopt=install_weak_deps=False) name
    as_root "${dnf[@]}" "$@" || fail "dnf could not install: $*" "see dnf's messages above"
    # Tried once, together with what has to be there.
    for name in $(wanted 4 | sed -n 's/?$//p'); do
        rpm -q --quiet --whatprovides "$name" || as_root "${dnf[@]}" "$name" ||
            say "going on without $name, which this Fedora lacks"
    done
}

system_packages() {
    local family missing
    if command -v apt-get >/dev/null; then
        family=debian
    elif command -v dnf >/dev/null; then
        family=fedora
    else
        fail "neither apt-get nor dnf is here" "install by hand what $table lists"
    fi
    missing=$("missing_$family")
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086
    say "system packages:" $missing
    # shellcheck disable=SC2086
    "install_$family" $missing
}

# All that decides what .venv holds; the path is in its scripts.
stamp_key() {
    pwd -P
    "$python" --version
    sha256sum requirements.lock pyproject.toml "$table"
}

python_packages() {
    local key
    key=$(stamp_key)
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
        return 0
    fi
    if [ "$(head -n 2 "$stamp" 2>/dev/null)" != "$(head -n 2 <<<"$key")" ]; then
        say "$venv from $("$python" --version)"
        "$python" -m venv --clear --system-site-packages "$venv"
    fi
    rm -f "$stamp"
    say "Python packages of requirements.lock"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
    "${pip[@]}" --require-hashes --only-binary :all: -r requirements.lock ||
        fail "the pinned Python packages could not be installed" "see pip's messages above"
    say "this checkout, editable"
    # The lock has setuptools: no isolated build environment, nothing to download.
    "${pip[@]}" --quiet --no-index --no-deps --no-build-isolation -e .
    printf '%s\n' "$key" >"$stamp"
}

case $scope in
run | test | bench) ;;
*) fail "unknown scope: $scope" "packaging/setup.sh [run|test|bench]" ;;
esac
# Making it anew would clear the environment that another checkout uses.
[ ! -L "$venv" ] || fail "$venv is a symlink" "remove the link (not what it leads to) and run this again"
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # two makes in one checkout take turns
system_packages
python_packages
say "set up ($scope): $venv is ready"
