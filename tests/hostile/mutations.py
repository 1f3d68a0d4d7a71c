"""Files made from valid ones by changes that break them: bytes, text, and the structure of JSON. All from a given `Random`."""

import json
import struct
import zlib
from random import Random

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 10**6, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
DEEP = "\u2193deep\u2193"  # stands for brackets within brackets, more of them than a parser goes into
VALUES = (
    *(
        None,
        True,
        False,
        "",
        "\0",
        "..",
        "../" * 20 + "etc/passwd",
        "/etc/passwd",
        "\ud800",
        "\u732b",
        "x" * 300,
        "x" * 70_000,
    ),
    *(0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), 2**64, -(2**63), 10**400, [], {}, [[]], [{}], [None], DEEP),
    *([0] * 5_000, {str(key): key for key in range(500)}, [1, 2, 3], [[0, 0, 1]], {"size": [2, 2], "counts": "11"}),
)
WORDS = (
    *(b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"'", b",,,,", b";", b"\t", b"=", b"../" * 9),
    *(
        b"nan",
        b"-1",
        b"1e9",
        b"1e400",
        b"9" * 5_000,
        b"x" * 300,
        b"y" * 140_000,
        b"[" * 3_000,
        b"{" * 3_000,
        b"\xed\xa0\x80",
    ),
)


LONGEST = 2**26  # bytes of a file that changes make: a longer one tries the disk, and no reader


def mutated(content: bytes, others: list[bytes], random: Random) -> bytes:
    """Content with one to four changes; others: whole files that parts may be taken of."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        tree = _parsed(content) if random.random() < 0.7 else None
        changed = random.choice(_OF_BYTES)(content, others, random) if tree is None else _in_tree(tree, random)
        content = changed if len(changed) <= LONGEST else content
    return content


def _parsed(content: bytes):
    """The JSON object or list in it, or None."""
    try:
        tree = json.loads(content)
    except (RecursionError, ValueError):
        return None
    return tree if isinstance(tree, (dict, list)) and tree else None


# --------------------------------------------------------------------------------------------- bytes


def _flipped(content, others, random):
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8, 32)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content, others, random):
    return content[: random.randrange(len(content) + 1)]


def _without(content, others, random):
    start, length = random.randrange(len(content) + 1), random.choice((1, 1, 4, 16, 256))
    return content[:start] + content[start + length :]


def _inserted(content, others, random):
    place = random.randrange(len(content) + 1)
    word = random.choice(WORDS) if random.random() < 0.7 else random.randbytes(random.choice((1, 2, 4, 64)))
    return content[:place] + word + content[place:]


def _overwritten(content, others, random):
    word = random.choice(WORDS[:-6])
    place = random.randrange(len(content) + 1)
    return content[:place] + word + content[place + len(word) :]


def _spliced(content, others, random):
    other = random.choice(others)
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def _grafted(content, others, random):
    other = random.choice(others)
    start, length = random.randrange(len(other) + 1), random.choice((4, 16, 64, 1024))
    place = random.randrange(len(content) + 1)
    return content[:place] + other[start : start + length] + content[place + random.choice((0, length)) :]


def _doubled(content, others, random):
    start, length = random.randrange(len(content) + 1), random.choice((1, 8, 64, 512))
    times = random.choice((1, 2, 2, 50))
    return content[:start] + content[start : start + length] * times + content[start:]


def _numbered(content, others, random):
    """A number of 1 to 8 bytes in place of what is there, where files have their lengths."""
    width, order = random.choice((1, 2, 4, 4, 8)), random.choice("<>")
    number = random.choice(NUMBERS) % 2 ** (8 * width)
    place = random.randrange(max(1, len(content) - width))
    return (
        content[:place]
        + struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], number)
        + content[place + width :]
    )


def _lines(content, others, random):
    """Lines in another order, doubled, or cells of them exchanged for numbers."""
    lines = content.split(b"\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    how = random.randrange(4)
    if how == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif how == 1:
        lines.insert(one, lines[other])
    elif how == 2:
        cells = lines[one].split(b",")
        cells[random.randrange(len(cells))] = str(random.choice(NUMBERS)).encode()
        lines[one] = b",".join(cells)
    else:
        lines[one] = b",".join([lines[one]] * random.choice((2, 3, 300)))
    return b"\n".join(lines)


_OF_BYTES = (
    _flipped,
    _flipped,
    _cut,
    _without,
    _inserted,
    _overwritten,
    _spliced,
    _grafted,
    _doubled,
    _numbered,
    _numbered,
    _lines,
)


# --------------------------------------------------------------------------------------------- JSON


def _in_tree(tree, random: Random) -> bytes:
    """JSON with one of its values exchanged, taken out, doubled, moved or given another name."""
    places = list(_places(tree))
    holder, key = random.choice(places)
    how = random.random()
    if how < 0.5:
        holder[key] = random.choice(VALUES) if random.random() < 0.7 else random.choice(NUMBERS)
    elif how < 0.65:
        del holder[key]
    elif how < 0.8:
        other, of = random.choice(places)
        holder[key] = (
            json.loads(json.dumps(other[of]))
            if of in (other if isinstance(other, dict) else range(len(other)))
            else None
        )
    elif how < 0.9:
        holder[key] = random.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 3, str(holder[key])[:1000]))
    elif isinstance(holder, dict):
        holder[random.choice(["", "x" * 300, "\0", "id", str(random.choice(NUMBERS))])] = holder.pop(key)
    else:
        holder.insert(key, holder[key])
    text = json.dumps(tree)
    deep = random.choice((("[", "]"), ('{"a":', "}")))
    text = text.replace(json.dumps(DEEP), deep[0] * 3_000 + "1" + deep[1] * 3_000)
    return text.encode()


def _places(tree):
    """Every place in it that holds a value: the dict or list, and the key or number."""
    below = [tree]
    while below:
        holder = below.pop()
        for key, value in list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder)):
            yield holder, key
            if isinstance(value, (dict, list)):
                below.append(value)


# --------------------------------------------------------------------------------------------- sums that hold again


def with_png_sums(content: bytes) -> bytes:
    """A PNG whose parts have the checksum of what they hold, as far as their lengths go."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    mended, place = content[:8], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4])
        part = content[place + 4 : place + 8 + length]
        mended += content[place : place + 4] + part + struct.pack(">I", zlib.crc32(part))
        place += 12 + length
    return mended + content[place:]


def with_tar_sums(content: bytes) -> bytes:
    """A tar all of whose blocks that look like a header have a header's checksum."""
    mended = bytearray(content)
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            mended[start + 148 : start + 156] = b" " * 8
            mended[start + 148 : start + 156] = b"%06o\0 " % sum(mended[start : start + 512])
    return bytes(mended)


def with_header_length(content: bytes) -> bytes:
    """The head of a safetensors file whose first eight bytes are the length of the rest."""
    return struct.pack("<Q", max(0, len(content) - 8)) + content[8:]
