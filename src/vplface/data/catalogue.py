"""Catalogue of face data sets: downloadable ones, and pages of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vplface.data.download import File

_OFFICIAL = "http://vis-www.cs.umass.edu/lfw"
_MIRROR = "https://ndownloader.figshare.com/files"
_LFW_PAGE = "http://vis-www.cs.umass.edu/lfw/"
_LFW_TERMS = (
    "Photographs of 5,749 real people, gathered from news pages; its makers ask to be cited, state no licence for the "
    "pictures, and warn against conclusions from the set about commercial use. For research."
)


@dataclass(frozen=True)
class DownloadableSet:
    """Data set that can be downloaded.

    Attributes:
        title: short description.
        page: home page.
        terms: known terms of use.
        files: files of the set.
    """

    title: str
    page: str
    terms: str
    files: Sequence[File]


@dataclass(frozen=True)
class ExternalSet:
    """Data set that must be obtained by hand, on request or from a web page.

    Attributes:
        title: short description.
        page: home page.
        bring: format that vplface reads.
    """

    title: str
    page: str
    bring: str


def _list(name: str, digest: str, mirror: str | None = None) -> File:
    mirrors = [] if mirror is None else [f"{_MIRROR}/{mirror}"]
    return File(name, [*mirrors, f"{_OFFICIAL}/{name}"], "sha256", digest, max_bytes=2**24)


_LFW_LISTS = (
    _list("pairs.txt", "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592", "5976006"),
    _list("pairsDevTrain.txt", "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa", "5976012"),
    _list("pairsDevTest.txt", "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c", "5976009"),
)

SETS = {
    "lfw": DownloadableSet(
        "Labeled Faces in the Wild, as photographed: 13,233 pictures of 250 x 250, and its lists of pairs",
        _LFW_PAGE,
        _LFW_TERMS,
        (
            *_LFW_LISTS,
            File(
                "lfw",
                [f"{_MIRROR}/5976018", f"{_OFFICIAL}/lfw.tgz"],
                "sha256",
                "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0",
                archive=True,
            ),
        ),
    ),
    "lfw-funneled": DownloadableSet(
        "Labeled Faces in the Wild, aligned by funneling, and its lists of pairs",
        _LFW_PAGE,
        _LFW_TERMS,
        (
            *_LFW_LISTS,
            File(
                "lfw_funneled",
                [f"{_MIRROR}/5976015", f"{_OFFICIAL}/lfw-funneled.tgz"],
                "sha256",
                "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
                archive=True,
            ),
        ),
    ),
    "lfw-deepfunneled": DownloadableSet(
        "Labeled Faces in the Wild, aligned by deep funneling, and its lists of pairs",
        _LFW_PAGE,
        _LFW_TERMS,
        (
            *_LFW_LISTS,
            File(
                "lfw-deepfunneled",
                [f"{_OFFICIAL}/lfw-deepfunneled.tgz"],
                "md5",
                "68331da3eb755a505a502b5aacb3c201",
                archive=True,
            ),
        ),
    ),
}

_INSIGHTFACE = "https://github.com/deepinsight/insightface/tree/master/recognition/_datasets_"

ELSEWHERE = {
    "ms1mv3": ExternalSet("MS1M-RetinaFace, 93 k people", _INSIGHTFACE, "the folder with train.rec and train.idx"),
    "ms1mv2": ExternalSet("MS1M-ArcFace, 85 k people", _INSIGHTFACE, "the folder with train.rec and train.idx"),
    "glint360k": ExternalSet("Glint360K, 360 k people", _INSIGHTFACE, "the folder with train.rec and train.idx"),
    "casia-webface": ExternalSet(
        "CASIA-WebFace, 10.5 k people", _INSIGHTFACE, "the folder with train.rec and train.idx"
    ),
    "webface260m": ExternalSet(
        "WebFace260M and its cleaned parts", "https://www.face-benchmark.org", "RecordIO, after an agreement is signed"
    ),
    "vggface2": ExternalSet(
        "VGGFace2, 9 k people", "https://github.com/ox-vgg/vgg_face2", "RecordIO or a folder, aligned"
    ),
    "celeba": ExternalSet(
        "CelebA, 10 k people", "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "a folder IDENTITY/PICTURE, aligned"
    ),
    "digiface1m": ExternalSet(
        "DigiFace-1M, 110 k rendered people", "https://github.com/microsoft/DigiFace1M", "a folder, aligned"
    ),
    "cfp-fp": ExternalSet("CFP, frontal against profile", "http://www.cfpw.io", "cfp_fp.bin of InsightFace's sets"),
    "agedb-30": ExternalSet(
        "AgeDB, 30 years apart", "https://ibug.doc.ic.ac.uk/resources/agedb/", "agedb_30.bin of InsightFace's sets"
    ),
    "calfw": ExternalSet("Cross-age LFW", "http://whdeng.cn/CALFW/index.html", "calfw.bin of InsightFace's sets"),
    "cplfw": ExternalSet("Cross-pose LFW", "http://www.whdeng.cn/CPLFW/index.html", "cplfw.bin of InsightFace's sets"),
    "ijb-c": ExternalSet(
        "IJB-B and IJB-C, templates", "https://www.nist.gov/programs-projects/face-challenges", "after asking NIST"
    ),
}
