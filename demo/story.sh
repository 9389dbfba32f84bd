#!/bin/sh
# demo/story.sh STORE DIRECTORY: the main job from a shell, with files and nothing else.
#
# Writes files into a mount, touches .save, mounts elsewhere with an empty cache, and compares byte by byte; then goes back
# to the first version. Exit code 0 if everything was equal.
set -eu
store=$1
work=$2
here=$work/here/ckpt
there=$work/there/ckpt
mkdir -p "$here" "$there" "$work/copies"

run() {
    echo "\$ $*"
    "$@"
}
# names, kinds, sizes, modes, times to the nanosecond, link counts and targets of a tree
list() { (cd "$1" && find . -printf '%P %y %m %T@ %n %l\n' | sort); }
same() {
    diff -r --no-dereference "$1" "$2"
    list "$1" >"$work/list-1"
    list "$2" >"$work/list-2"
    diff "$work/list-1" "$work/list-2"
    echo "equal: $1 and $2"
}

run ckptfs mount "$store" "$here" --cache-dir "$work/here/cache"
echo "# 24 MB of weights, a log, a link, an executable, an empty directory, a sparse file"
head -c 24000000 /dev/urandom >"$here/weights.bin"
mkdir -p "$here/logs/empty"
echo "epoch 1" >"$here/logs/train.log"
ln -s logs/train.log "$here/last.log"
ln "$here/weights.bin" "$here/best.bin"
printf '#!/bin/sh\necho resumed\n' >"$here/resume.sh"
chmod 750 "$here/resume.sh"
truncate -s 64M "$here/sparse.bin"
run touch "$here/.save"
cp -a "$here" "$work/copies/1"

echo "# one block of the weights in place, one more line in the log"
head -c 4096 /dev/urandom | dd of="$here/weights.bin" bs=4096 seek=1000 conv=notrunc status=none
echo "epoch 2" >>"$here/logs/train.log"
rm "$here/resume.sh"
echo "\$ echo epoch=2 >$here/.save; sync $here/.save   # returns when it is durable"
echo epoch=2 >"$here/.save"
sync "$here/.save"
run cat "$here/.save"
cp -a "$here" "$work/copies/2"
run ckptfs umount "$here"

echo "# another machine: another mount point, an empty cache"
run ckptfs mount "$store" "$there" --cache-dir "$work/there/cache"
run ckptfs log "$store"
same "$work/copies/2" "$there"
same "$work/copies/1" "$there/.versions/1"
run ckptfs diff "$store" 1 2

echo "# back to the first version"
echo "\$ echo 1 >$there/.restore"
echo 1 >"$there/.restore"
same "$work/copies/1" "$there"
run "$there/resume.sh"
run ckptfs umount "$there"
