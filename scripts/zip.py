#!/usr/bin/env python3
"""zip.py ARCHIVE FOLDER: packs the files named on standard input, one a line, below FOLDER; the same files give the same archive."""
import os
import sys
import time
import zipfile

archive, folder = sys.argv[1:]
stamp = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
    for path in sorted(line.rstrip("\n") for line in sys.stdin):
        info = zipfile.ZipInfo(f"{folder}/{path}", stamp)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (os.stat(path).st_mode & 0o777) << 16
        with open(path, "rb") as f:
            z.writestr(info, f.read())
