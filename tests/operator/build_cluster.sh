#!/bin/sh
# kube-apiserver and kube-controller-manager from Debian's source package, with Debian's Go: once, about five minutes of
# two cores, into ~/.cache/fastproxy-k8s/bin. As root: it installs the compiler and etcd.
set -eu
home="$HOME/.cache/fastproxy-k8s"
[ -x "$home/bin/kube-apiserver" ] && [ -x "$home/bin/kube-controller-manager" ] && command -v etcd >/dev/null && exit 0
mkdir -p "$home/apt/lists/partial" "$home/source" "$home/bin"
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --no-install-recommends golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev \
    etcd-server rsync jq make dpkg-dev

# Source packages by an apt configuration of our own: the machine's stays as it is.
sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > "$home/apt/debian.sources"
set -- -o Dir::Etc::SourceList="$home/apt/debian.sources" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$home/apt/lists" -o Dir::Cache="$home/apt"
apt-get "$@" update
cd "$home/source"
[ -n "$(find . -name '*.dsc')" ] || apt-get "$@" source --download-only kubernetes
rm -rf tree
dpkg-source --no-check --extract ./*.dsc tree

# The vendored reflect2 crashes under this Go at the first custom resource that is written.
cd tree
rm -rf vendor/github.com/modern-go/reflect2
cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
PATH="/usr/lib/go-1.19/bin:$PATH" CGO_ENABLED=0 nice -n 19 make WHAT="cmd/kube-apiserver cmd/kube-controller-manager"
cp _output/local/bin/linux/*/kube-apiserver _output/local/bin/linux/*/kube-controller-manager "$home/bin/"
cd "$home" && rm -rf source
