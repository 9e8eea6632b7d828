"""How much memory and time reading a stranger's files may take. ``SECURITY.md`` explains them.

One budget for memory, :data:`READING_MEMORY`, and one for time, :data:`READING_SECONDS`; what stands below divides the
first or follows from the second.
"""

from __future__ import annotations

READING_MEMORY = 2**30  # bytes that reading takes beyond what it returns and beyond the size of the file itself
READING_SECONDS = 10.0  # processor time that one file, or the list of a set's files, may take

# Pictures. Files in flight and pictures in flight share the memory, however many threads read.
FILES_IN_FLIGHT = READING_MEMORY // 4
PICTURES_IN_FLIGHT = READING_MEMORY - FILES_IN_FLIGHT
MAX_FILE_BYTES = FILES_IN_FLIGHT  # of one picture, in a folder or inflated from a zip
MAX_PIXELS = 64_000_000  # a picture that claims more is a mistake or an attack
MAX_SCAN_PIXELS = 2_000_000_000  # pixels times scans of a progressive JPEG: each scan passes over all pixels
MAX_SLOW_BYTES = 16 * 2**20  # of files that Pillow decodes in Python: run-length BMP, PPM in text
MAX_SLOW_PIXELS = 16_000_000  # of JPEG 2000, whose decoder is slow and takes much memory

# Lists of files.
MAX_PATH_PARTS = 32
MAX_NAME_CHARACTERS = 255  # of one part of a path, as on most file systems
MAX_SWOLLEN_BYTES = 4 * 2**30  # inflated, over a whole zip, from entries that shrink more than pictures do
MAX_UNPACKED_BYTES = 2**30  # of a compressed tar, beside MAX_UNPACKED_RATIO times its own size
MAX_UNPACKED_RATIO = 20
MAX_TAR_HEADER_BYTES = 2**20  # of a long name or a pax header

# Text that is parsed.
MAX_YAML_BYTES = 64 * 2**10
MAX_YAML_DEPTH = 20
MAX_JSON_BYTES = 16 * 2**20
MAX_TABLE_BYTES = 64 * 2**20

# Pickles and PyTorch files.
MAX_DEPTH = 64  # of containers in containers
