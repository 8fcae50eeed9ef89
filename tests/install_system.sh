#!/bin/sh
# Installs Debian packages that tests need besides the Python environment:
#   install_system.sh chromium    the pages that reviewers open
#   install_system.sh slurm       a cluster of one node
#   install_system.sh accounting  its database of jobs
# Does nothing where the programs are there already.
# Status: 0 they are there now, 77 this user or system cannot install them, 1 it failed.
set -u
PATH=$PATH:/usr/sbin:/sbin

case ${1-} in
chromium)
    programs=chromium
    packages=chromium
    ;;
slurm)
    programs="slurmctld slurmd sbatch"
    packages="slurmctld slurmd slurm-client slurm-wlm-basic-plugins"
    ;;
accounting)
    programs="slurmdbd mariadbd"
    packages="slurmdbd mariadb-server"
    ;;
*)
    echo "usage: install_system.sh chromium|slurm|accounting"
    exit 1
    ;;
esac

missing=
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "not installed, and this user or system cannot install it:$missing"
    exit 77
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# Short waits: a machine without a network must learn so in seconds.
options="-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60"
for command in "update" "install --yes --no-install-recommends $packages"; do
    # shellcheck disable=SC2086
    if ! apt-get $options $command >"$log" 2>&1 </dev/null; then
        echo "$1 could not be installed: $(tail -n 1 "$log")"
        exit 1
    fi
done
