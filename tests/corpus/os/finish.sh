#!/usr/bin/bash
set -eu
# Runs last: sees what add-files and postprocess did.
cat /etc/motd /etc/issue.net > /usr/share/corpus/finished
