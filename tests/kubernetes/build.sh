#!/bin/sh
# Kubernetes 1.20.2 from Debian's source package, which holds all of it although only kubectl is packaged there:
# build.sh FOLDER. About 8 CPU-minutes and 3 GB, once for a machine; the binaries are FOLDER/bin.
set -eu
folder=$1
mkdir -p "$folder/bin" "$folder/lists/partial" "$folder/source"
for name in kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy; do
    [ -x "$folder/bin/$name" ] || missing=1
done
[ "${missing:-}" ] || exit 0

suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# From where this machine has its packages; sources come from the same place.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    sed -n "s, $suite\$,,p" | head -n 1)
[ "$mirror" ] || { echo "apt knows no packages of Debian $suite: run apt-get update first" >&2; exit 1; }
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$folder/sources.list"
# Of its own: this machine's lists stay as they are.
apt="-o Dir::Etc::sourcelist=$folder/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$folder/lists"
export GOPATH="$folder/go" GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0 GOCACHE="$folder/cache"
tree="$GOPATH/src/k8s.io/kubernetes"
if [ ! -d "$tree" ]; then
    # shellcheck disable=SC2086 # several words
    apt-get update -qq $apt
    # shellcheck disable=SC2086
    (cd "$folder/source" && apt-get source -qq --download-only $apt kubernetes)
    rm -rf "$folder/source/tree"
    dpkg-source --no-check -x "$folder"/source/*.dsc "$folder/source/tree"
    mkdir -p "$GOPATH/src/k8s.io"
    mv "$folder/source/tree" "$tree"
fi
cd "$tree"
# The one generated package that the source lacks.
if [ ! -f pkg/generated/openapi/zz_generated.openapi.go ]; then
    go build -o "$folder/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg staging/src/k8s.io |
        grep -v -e code-generator -e sample-apiserver -e examples -e _test.go -e /test/ -e /testdata/ |
        xargs -n1 dirname | sort -u |
        sed -e 's,^staging/src/,k8s.io/kubernetes/vendor/,' -e 's,^pkg/,k8s.io/kubernetes/pkg/,' | paste -sd,)
    "$folder/bin/openapi-gen" -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
        -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$folder/report.txt"
fi
# The package is vendored: that is its name for the linker.
version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
for name in kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy; do
    [ -x "$folder/bin/$name" ] || go build -p 2 -o "$folder/bin/$name" \
        -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" "./cmd/$name"
done
rm -rf "$GOCACHE"
