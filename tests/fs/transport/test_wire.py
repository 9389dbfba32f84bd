"""The FUSE protocol's tables, against the kernel's own header and against what a kernel sends."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfs.fs.attributes import Attributes
from ckptfs.fs.transport import wire

HEADER = Path("/usr/include/linux/fuse.h")

# our table, the kernel's structure, and bytes of the kernel's that our table leaves to others
SIZES = [
    ("IN_HEADER", "fuse_in_header", 0),
    ("OUT_HEADER", "fuse_out_header", 0),
    ("ATTR", "fuse_attr", 0),
    ("ENTRY_OUT", "fuse_entry_out", 88),
    ("ATTR_OUT", "fuse_attr_out", 88),
    ("INIT_OUT", "fuse_init_out", 0),
    ("FORGET_IN", "fuse_forget_in", 0),
    ("BATCH_FORGET_IN", "fuse_batch_forget_in", 0),
    ("FORGET_ONE", "fuse_forget_one", 0),
    ("GETATTR_IN", "fuse_getattr_in", 0),
    ("SETATTR_IN", "fuse_setattr_in", 0),
    ("MKNOD_IN", "fuse_mknod_in", 0),
    ("MKDIR_IN", "fuse_mkdir_in", 0),
    ("RENAME_IN", "fuse_rename_in", 0),
    ("RENAME2_IN", "fuse_rename2_in", 0),
    ("LINK_IN", "fuse_link_in", 0),
    ("OPEN_IN", "fuse_open_in", 0),
    ("CREATE_IN", "fuse_create_in", 0),
    ("OPEN_OUT", "fuse_open_out", 0),
    ("RELEASE_IN", "fuse_release_in", 0),
    ("FLUSH_IN", "fuse_flush_in", 0),
    ("READ_IN", "fuse_read_in", 0),
    ("WRITE_IN", "fuse_write_in", 0),
    ("WRITE_OUT", "fuse_write_out", 0),
    ("STATFS_OUT", "fuse_statfs_out", 0),
    ("FSYNC_IN", "fuse_fsync_in", 0),
    ("GETXATTR_IN", "fuse_getxattr_in", 0),
    ("GETXATTR_OUT", "fuse_getxattr_out", 0),
    ("FALLOCATE_IN", "fuse_fallocate_in", 0),
    ("LSEEK_IN", "fuse_lseek_in", 0),
    ("LSEEK_OUT", "fuse_lseek_out", 0),
    ("COPY_FILE_RANGE_IN", "fuse_copy_file_range_in", 0),
    ("DIRENT", "fuse_dirent", 0),
    ("INVAL_INODE_OUT", "fuse_notify_inval_inode_out", 0),
    ("INVAL_ENTRY_OUT", "fuse_notify_inval_entry_out", 0),
]


def test_every_table_is_as_long_as_the_kernels_structure(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None, "a C compiler and linux-libc-dev are needed"
    assert HEADER.exists(), "linux-libc-dev is needed"
    lines = "".join(f'printf("%zu\\n", sizeof(struct {name}));' for _, name, _ in SIZES)
    source = tmp_path / "sizes.c"
    source.write_text(f"#include <linux/fuse.h>\n#include <stdio.h>\nint main(void) {{{lines} return 0; }}\n")
    program = tmp_path / "sizes"
    subprocess.run([compiler, str(source), "-o", str(program)], check=True, timeout=60)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=10).stdout.split()
    kernel = {name: int(size) - others for (_, name, others), size in zip(SIZES, printed, strict=True)}
    ours = {name: getattr(wire, table).size for table, name, _ in SIZES}
    assert ours == kernel


def test_opcodes_are_the_kernels() -> None:
    text = HEADER.read_text()
    for opcode in wire.Opcode:
        # TMPFILE came with headers of 6.1
        if f"FUSE_{opcode.name}" in text:
            assert re.search(rf"\bFUSE_{opcode.name}\s*= {opcode.value},", text)


def test_a_request_is_taken_apart() -> None:
    body = b"name\0"
    data = wire.IN_HEADER.pack(40 + len(body), wire.Opcode.LOOKUP, 7, 1, 1000, 100, 4321, 0, 0) + body
    request = wire.decode_request(memoryview(data))
    assert (request.opcode, request.unique, request.node, request.uid, request.gid, request.pid) == (
        1,
        7,
        1,
        1000,
        100,
        4321,
    )
    assert wire.names(request.body, 1) == [b"name"]


def test_extensions_that_nobody_asked_for_are_left_out() -> None:
    data = wire.IN_HEADER.pack(40 + 5 + 8, 1, 7, 1, 0, 0, 0, 1, 0) + b"name\0" + bytes(8)
    assert bytes(wire.decode_request(memoryview(data)).body) == b"name\0"


@pytest.mark.parametrize("data", [b"", b"x" * 39, struct.pack("=IIQQIIIHH", 41, 1, 1, 1, 0, 0, 0, 0, 0)])
def test_what_no_kernel_sends_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="request"):
        wire.decode_request(memoryview(data))


@given(st.integers(1, 2**64 - 1), st.integers(-(2**40), 2**60), st.integers(0, 2**63 - 1))
def test_attributes_keep_their_times_and_sizes(ino: int, time_ns: int, size_bytes: int) -> None:
    attributes = Attributes(ino, 0o100644, 1, 0, 0, size_bytes, 8, 0, time_ns, time_ns, time_ns)
    fields = wire.ATTR.unpack(wire.encode_attributes(5, attributes))
    assert fields[:2] == (ino, size_bytes)
    seconds = fields[4] if fields[4] < 1 << 63 else fields[4] - (1 << 64)
    assert seconds * 10**9 + fields[7] == time_ns


@given(st.binary(min_size=1, max_size=255))
def test_directory_entries_are_padded_to_eight_bytes(name: bytes) -> None:
    row = wire.encode_directory_entry(3, 1, 8, name)
    assert len(row) % 8 == 0
    assert row[24 : 24 + len(name)] == name
