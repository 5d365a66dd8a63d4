#!/bin/sh
# tar-stream writes another owner than it was given when the id has more than 18 bits.
#
# The guess: a tar writer that uses GNU's binary numbers for sizes above 8 GiB does so for user and group ids too, or uses a pax record, or throws.
# What really happens: `pack().entry()` puts at most six octal digits into the header. An id above 262143 (0777777) becomes 262143, without an error
#   and without a pax record; every such owner becomes the same one. A time after 2038-01-19 becomes another (GNU tar reads 2242 for 2040).
# Why it matters: ids of user-namespaced pods begin at 65536 and reach into the millions; an image or checkpoint that is archived with this library
#   gives files of different owners to one.
# Source: tar-stream 3.2.2 (npm), headers.js: encodeOct(); tar(5), "POSIX ustar Archives" and "Numeric Extensions".
# Needs npm, Node and GNU tar. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund tar-stream@3.2.2
cat >write.mjs <<'JS'
import { pack } from 'tar-stream';
const archive = pack();
for (const id of [65_536, 262_143, 262_144, 3_000_000]) archive.entry({ name: `id-${id}`, uid: id, gid: id, mtime: new Date(0) }, '');
archive.entry({ name: 'in-2040', mtime: new Date('2040-01-01T00:00:00Z') }, '');
archive.finalize();
archive.pipe(process.stdout);
JS
node write.mjs >out.tar
seen=$(TZ=UTC tar --list --verbose --numeric-owner --full-time --file out.tar | sed 's/  */ /g')
echo "$seen"
expected='-rw-r--r-- 65536/65536 0 1970-01-01 00:00:00 id-65536
-rw-r--r-- 262143/262143 0 1970-01-01 00:00:00 id-262143
-rw-r--r-- 262143/262143 0 1970-01-01 00:00:00 id-262144
-rw-r--r-- 262143/262143 0 1970-01-01 00:00:00 id-3000000'
if [ "$(echo "$seen" | head -n 4)" != "$expected" ] || echo "$seen" | tail -n 1 | grep -q 2040-01-01; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
