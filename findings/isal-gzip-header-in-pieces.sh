#!/bin/sh
# ISA-L's streaming inflate does not read every gzip header that zlib and Go's compress/gzip read.
#
# The guess: isal_inflate() with crc_flag = ISAL_GZIP is a streaming decoder, as zlib's inflate() is: a member may come in pieces of any size, and
#   every header of RFC 1952 is read.
# What really happens: a header that is split between two calls is not read on. Its flags are kept in a local variable of each call: the second call
#   ends the field that it is in, and then takes the next fields (name after extra field, comment after name) for compressed data. libisal 2.30
#   does not even initialise that variable, so it works or fails by what the stack holds. A checksum of the header (FHCRC) that spans two calls never
#   matches. In one piece both are read. With the header read by the caller and crc_flag = ISAL_GZIP_NO_HDR_VER all is well, and the checksum of the
#   content is still verified.
# Why it matters: a registry's response arrives in chunks that a runtime does not choose, so a layer with such a header is refused as damaged in some
#   pulls and not in others.
# Source: libisal2 and libisal-dev 2.30.0-5 (Debian 12), 2.31 (Debian 13); igzip_inflate.c, isal_read_gzip_header(); RFC 1952, 2.3.
# Needs apt-get, a C compiler, gzip and python3. Prints, and fails if it changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get -qq -o APT::Sandbox::User=root download libisal2 libisal-dev
for package in *.deb; do dpkg-deb -x "$package" tree; done
library=$(dirname "$(find tree -name 'libisal.so.2' | head -n 1)")

cat >try.c <<'C'
#include <isa-l/igzip_lib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Leaves other values on the stack than the last call did, as any program's own work does. */
static void __attribute__((noinline)) use_stack(void) {
	volatile unsigned char other[8192];
	for (size_t i = 0; i < sizeof other; i++)
		other[i] = 0;
}

int main(int argc, char **argv) {
	static struct inflate_state state;
	static unsigned char input[4096], output[4096];
	FILE *file = fopen(argv[1], "rb");
	size_t length = fread(input, 1, sizeof input, file), piece = strtoul(argv[2], NULL, 10), skip = strtoul(argv[3], NULL, 10);

	(void)argc;
	isal_inflate_init(&state);
	state.crc_flag = skip ? ISAL_GZIP_NO_HDR_VER : ISAL_GZIP;
	state.next_out = output;
	state.avail_out = sizeof output;
	for (size_t at = skip; at < length; at += piece) {
		state.next_in = input + at;
		state.avail_in = length - at < piece ? length - at : piece;
		use_stack();
		int code = isal_inflate(&state);
		if (code != ISAL_DECOMP_OK) {
			printf("error %d\n", code);
			return 0;
		}
	}
	printf("%.*s\n", (int)(sizeof output - state.avail_out), output);
	return 0;
}
C
cc -O1 -Itree/usr/include -o try try.c "$library/libisal.so.2"

printf content >content
python3 - <<'PYTHON'
import struct, zlib
raw = zlib.compressobj(9, zlib.DEFLATED, -15)
body = raw.compress(b'content') + raw.flush() + struct.pack('<II', zlib.crc32(b'content'), 7)
head = lambda flags: bytes([0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3])
fields = head(4 | 8) + struct.pack('<H', 4) + b'AB\0\0' + b'layer.tar\0'
checked = head(2) + struct.pack('<H', zlib.crc32(head(2)) & 0xffff)
for name, header in ('fields', fields), ('checked', checked):
    open(name + '.gz', 'wb').write(header + body)
    open(name + '.length', 'w').write(str(len(header)))
PYTHON
LD_LIBRARY_PATH=$library
export LD_LIBRARY_PATH

gzip -dc fields.gz | cmp - content
gzip -dc checked.gz | cmp - content
result() { ./try "$1.gz" "$2" "$3"; }
seen=$(
	echo "gzip reads both files; isal_inflate():"
	echo "extra field and name, one piece:    $(result fields 4096 0)"
	echo "extra field and name, pieces of 11: $(result fields 11 0)"
	echo "checksum of the header, one piece:  $(result checked 4096 0)"
	echo "checksum of the header, pieces of 11: $(result checked 11 0)"
	echo "header left out, pieces of 11:      $(result fields 11 "$(cat fields.length)"), $(result checked 11 "$(cat checked.length)")"
)
echo "$seen"
expected='gzip reads both files; isal_inflate():
extra field and name, one piece:    content
extra field and name, pieces of 11: error -1
checksum of the header, one piece:  content
checksum of the header, pieces of 11: error -6
header left out, pieces of 11:      content, content'
if [ "$seen" != "$expected" ]; then
	echo 'this is not what was seen before' >&2
	exit 1
fi
