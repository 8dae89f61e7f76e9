#!/bin/sh
# Says on the console what runs, does what a test left for it, and turns the machine off.
{
    echo "boot-proof: deployment $(ostree admin status | sed -n 's/^\* [^ ]* \([0-9a-f]*\.[0-9]*\).*/\1/p')"
    echo "boot-proof: version $(sed -n "s/^OSTREE_VERSION='\(.*\)'/\1/p" /usr/lib/os-release)"
    echo "boot-proof: target $(systemctl is-active multi-user.target)"
    echo "boot-proof: health $(systemctl is-active jigdo-composer-health.service)"
    echo "boot-proof: usr $(touch /usr/.written 2>/dev/null && echo writable || echo read-only)"
    echo "boot-proof: etc $(cat /etc/boot-proof 2>/dev/null || echo untouched)"
    echo "boot-proof: failed $(systemctl list-units --failed --plain --no-legend | sed 's/ .*//' | tr '\n' ' ')"
    if [ -e /var/boot-proof ]; then
        sh -eu /var/boot-proof && echo 'boot-proof: done' || echo 'boot-proof: not done'
        rm -f /var/boot-proof
    fi
    echo 'boot-proof: end'
} >/dev/console 2>&1
# After a failed health check the machine restarts by itself.
[ "$(systemctl is-active jigdo-composer-health.service)" = failed ] || systemctl --no-block poweroff
