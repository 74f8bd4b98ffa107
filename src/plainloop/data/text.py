"""Files of text that people, their editors and other programs wrote: lists, tables, annotations."""

from __future__ import annotations

from pathlib import Path

from plainloop.errors import BadData


def lines_of(path: Path) -> list[str]:
    """Without the spaces at their ends. Raises BadData."""
    return [line.strip() for line in text_of(path).splitlines()]


def text_of(path: Path, where: str = "") -> str:
    """`where` is the file's name for messages. Raises BadData for a file that is not there, or in another encoding."""
    return decoded(content_of(path, where), where or str(path))


def content_of(path: Path, where: str = "") -> bytes:
    """In UTF-8 where the file is in UTF-16. Raises BadData."""
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "copy it again, or take it out; or give yourself the right to read it"
        raise BadData(f"{where or path} cannot be read ({error.strerror})", hint=hint) from error
    return decoded(content, where or str(path)).encode() if encoding_of(content) != "utf-8-sig" else content


def decoded(content: bytes | bytearray, where: str) -> str:
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadData(
            f"{where} is expected in {encoding.removesuffix('-sig').upper()}, and its line {line} has other characters "
            f"({error.reason})",
            hint="save it as UTF-8 in an editor, or by `iconv -f CP1252 -t UTF-8 <file> > <new file>`; "
            "CP1252 is western Windows, GBK Chinese",
        ) from error


def encoding_of(content: bytes | bytearray) -> str:
    """UTF-16 by how it begins, which PowerShell and editors of Windows write; else UTF-8.

    >>> encoding_of("{}".encode("utf-16")), encoding_of("{}".encode("utf-16-be")), encoding_of("é".encode())
    ('utf-16', 'utf-16-be', 'utf-8-sig')
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return {b"\0": "utf-16-be"}.get(bytes(content[:1])) or {b"\0": "utf-16-le"}.get(bytes(content[1:2]), "utf-8-sig")
