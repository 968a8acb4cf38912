"""Names of blobs against another implementation."""

from __future__ import annotations

import hashlib

import pytest
from blob_kit import MIB, pattern
from hypothesis import given, settings
from hypothesis import strategies as st

from node import unixfs
from node.unixfs import LEAF_BYTES, Layout

# From ipfs-unixfs-importer 17.1.1 (npm) over the bytes of blob_kit.pattern, with cidVersion 1, rawLeaves,
# reduceSingleLeafToSelf, fixedSize({chunkSize: 262144}) and balanced({maxChildrenPerNode: 174}).
FOREIGN = {
    0: "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    1: "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
    LEAF_BYTES - 1: "bafkreifdvtaw3r22wcpxqwl6hqc23mjy6uznm4quylmlzhfaidv7ao74pq",
    LEAF_BYTES: "bafkreigfzujldfc3kac4khdwhsdftadvbpqf7r4rcz45tsy5v5mmuxsjce",
    LEAF_BYTES + 1: "bafybeig6znqiybwijw5celqbrnzrcmtx7vjz35f6q7fas2xpgbuduy4vim",
    MIB: "bafybeibytfvvqep43tfrclscgrp34iygz4kuty7angviuuzz5nlywlsmme",
    10 * MIB: "bafybeidmkfkm37z2w3x6qntdg4fucdjs3n2l27k7l2lumjibevpk2fqk3a",
    174 * LEAF_BYTES: "bafybeigqxmeweruxc5h6sycnyeliy4dpwovxeixj65tcpg4ibzauryjidi",  # one full node
    174 * LEAF_BYTES + 5: "bafybeigbemlvlzjo6l2xa5cvc3i2vzogz26u32z3e36ykuvrsyjetznkwa",  # a lone leaf is wrapped
    348 * LEAF_BYTES + 1: "bafybeiee5tvwa3cfnmq5pzcf2dsclsw2r5g4nso3etdxufndjb3huqldne",
}


@pytest.mark.parametrize("size", FOREIGN)
def test_blobs_have_the_names_that_ipfs_tools_give_them(size: int) -> None:
    digest = unixfs.digest_of(pattern(size))
    assert unixfs.cid(digest, size) == FOREIGN[size]
    assert unixfs.parse_cid(FOREIGN[size]) == digest


@given(st.binary(max_size=1000))
@settings(max_examples=30)
def test_a_small_blob_is_named_by_its_plain_hash(data: bytes) -> None:
    assert unixfs.digest_of(data) == hashlib.sha256(data).digest()


def test_the_leaves_and_the_size_give_the_digest() -> None:
    data = pattern(3 * LEAF_BYTES + 7)
    layout = unixfs.layout(data)
    assert (layout.size, len(layout.leaves), layout.leaf_size(3)) == (len(data), 4, 7)
    assert layout.digest == unixfs.digest_of(data)
    assert Layout(len(data) - 1, layout.leaves).digest != layout.digest
    assert unixfs.leaves_count(len(data)) == 4
    assert unixfs.leaves_count(0) == unixfs.leaves_count(1) == 1


@pytest.mark.parametrize(
    "text",
    ["", "b", "bafy", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", FOREIGN[1][:-1], FOREIGN[1] + "a", "b!!!",
     "z" + FOREIGN[1][1:]],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a CIDv1"):
        unixfs.parse_cid(text)
