#!/usr/bin/env bash
# fetch.sh PIP: puts what the emulated tests run on into build/arm: Debian's arm64 Python with headers and C libraries
# (sysroot/) and wheels of what the tests import (packages/). The system is left as it is: apt gets package lists, a
# cache and a record of what is installed (nothing) of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
pip=$1
root=$PWD/build/arm/sysroot
apt=$PWD/build/arm/apt
rm -rf "$root" build/arm/packages
mkdir -p "$root" "$apt/lists/partial" "$apt/archives/partial"
: >"$apt/status"
options=(-qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User= -o Acquire::Languages=none
  -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt")
apt-get "${options[@]}" update
apt-get "${options[@]}" install --download-only --yes --no-install-recommends \
  python3-minimal libpython3-dev libstdc++6 libgomp1
for package in "$apt"/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
rm -rf "$apt"

version=$(tools/arm/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$pip" install --quiet --disable-pip-version-check --root-user-action ignore --target build/arm/packages \
  --python-version "$version" --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
  --only-binary :all: -r requirements/test-kernels.txt
