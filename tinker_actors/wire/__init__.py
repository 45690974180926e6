"""Bytes and sockets: codecs, calls, one HTTP seam. Knows no actor."""
