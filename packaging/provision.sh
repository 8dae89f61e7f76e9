#!/usr/bin/env bash
# Make a fresh machine ready: packaging/provision.sh [compose|mirror|client]
#
# What the Vagrantfile runs in each of its machines, and .ci/provision in a fresh Debian.
# It needs root, apt or dnf, and this checkout.  Running it again changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

role=${1:-client}
case $role in
compose | mirror | client) ;;
*)
    echo "error: unknown role $role" >&2
    exit 2
    ;;
esac

# The one thing that `make setup` cannot install.
if ! command -v make >/dev/null; then
    if command -v apt-get >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends make
    else
        dnf install --assumeyes --setopt=install_weak_deps=False make
    fi
fi
make setup

ln -sf "$PWD/.venv/bin/jigdo-composer" /usr/local/bin/jigdo-composer
case $role in
compose | mirror)
    mkdir -p /srv/mirror # what is published, and served
    ;;
client)
    # What a client would boot from, were it not for Fedora's own system.
    mkdir -p /srv/sysroot
    [ -e /srv/sysroot/ostree/deploy/example ] || jigdo-composer os-init example --sysroot /srv/sysroot
    ;;
esac
jigdo-composer --version
