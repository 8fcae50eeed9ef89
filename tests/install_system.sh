#!/bin/sh
# Installs the Debian packages that tests need besides the Python environment: chromium, for the
# pages that reviewers open. Does nothing where it is there already.
# Status: 0 it is there now, 77 this user or system cannot install it, 1 the installation failed.
set -u

command -v chromium >/dev/null 2>&1 && exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "chromium is not installed and this user cannot install it"
    exit 77
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# Short waits: a machine without a network must learn so in seconds.
options="-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60"
for command in "update" "install --yes --no-install-recommends chromium"; do
    # shellcheck disable=SC2086
    if ! apt-get $options $command >"$log" 2>&1 </dev/null; then
        echo "chromium could not be installed: $(tail -n 1 "$log")"
        exit 1
    fi
done
