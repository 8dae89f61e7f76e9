#!/bin/sh
# The check that a good generation passes.
test -e /run/ostree-booted && systemctl is-active --quiet multi-user.target
